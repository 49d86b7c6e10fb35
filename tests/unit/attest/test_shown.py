"""Evidence in every kind of file that people come by, RA-TLS certificates among them."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from dstack_containers import scale, serde
from evidence_world import ENTRIES, EVENT_LOG, EVIDENCE, QUOTE
from hypothesis import given
from hypothesis import strategies as st

from attest import Evidence, EvidenceError, decode_attestation, parse_event_log
from attest.binding import tagged_report_data
from attest.ratls import UNPACKED_LOG_BYTES_MAX, decode_certificate
from attest.shown import SHOWN_BYTES_MAX, read_shown

ARC = "1.3.6.1.4.1.62397.1"
KEY = ec.derive_private_key(7, ec.SECP256R1())
SPKI = KEY.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
V0 = json.dumps({"quote": QUOTE.hex(), "event_log": EVENT_LOG.decode()}).encode()
V1 = json.dumps({"attestation": "0x" + scale().hex()}).encode()


def octets(content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return b"\x04" + bytes([size]) + content
    return b"\x04\x83" + size.to_bytes(3, "big") + content


def certificate(**payloads: bytes) -> x509.Certificate:
    """A self-signed certificate with payloads under dstack's arc: ``e8=…`` for ``.8``."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a machine")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2036, 1, 1, tzinfo=UTC))
    )
    for number, payload in payloads.items():
        oid = x509.ObjectIdentifier(f"{ARC}.{number[1:]}")
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, payload), critical=False)
    return builder.sign(KEY, hashes.SHA256())


LEGACY = certificate(e1=octets(QUOTE), e2=octets(EVENT_LOG))
CURRENT = certificate(e8=octets(scale()))


@pytest.mark.parametrize(
    ("raw", "kind"),
    [
        (EVIDENCE.encode(), "evidence container"),
        (EVIDENCE.encode().hex().encode(), "evidence container"),
        (scale(), "dstack attestation container"),
        (serde(), "dstack attestation container"),
        (V0, "agent's answer (v0)"),
        (V1, "agent's answer (v1)"),
        (LEGACY.public_bytes(Encoding.DER), "RA-TLS certificate"),
        (CURRENT.public_bytes(Encoding.PEM), "RA-TLS certificate"),
    ],
)
def test_evidence_is_found_in_every_kind_of_file(raw: bytes, kind: str) -> None:
    shown = read_shown(raw)
    assert shown.kind == kind
    assert shown.evidence.quote == QUOTE
    assert parse_event_log(shown.evidence.event_log) == parse_event_log(EVENT_LOG)


@pytest.mark.parametrize("raw", [QUOTE, QUOTE.hex().encode(), b"0x" + QUOTE.hex().encode() + b"\n"])
def test_a_bare_quote_comes_without_a_log(raw: bytes) -> None:
    assert read_shown(raw).evidence == Evidence(QUOTE, b"")


def test_a_certificate_demands_report_data_over_its_key() -> None:
    expected = tagged_report_data("ratls-cert", SPKI)
    for found in (LEGACY, CURRENT):
        assert read_shown(found.public_bytes(Encoding.DER)).report_data == expected
    assert read_shown(V0).report_data is None


def test_a_packed_log_is_unpacked_within_its_bound() -> None:
    packed = b"ELGZv1" + gzip.compress(EVENT_LOG)
    found = decode_certificate(
        certificate(e1=octets(QUOTE), e2=octets(packed)).public_bytes(Encoding.DER)
    )
    assert found.evidence.event_log == EVENT_LOG
    bomb = b"ELGZv1" + gzip.compress(b" " * (UNPACKED_LOG_BYTES_MAX + 1))
    for payload, reason in ((bomb, "at most"), (b"ELGZv1zip", "unpack"), (packed[:-9], "at most")):
        spoiled = certificate(e1=octets(QUOTE), e2=octets(payload))
        with pytest.raises(EvidenceError, match=reason):
            decode_certificate(spoiled.public_bytes(Encoding.DER))


@pytest.mark.parametrize(
    "raw",
    [
        certificate().public_bytes(Encoding.DER),
        certificate(e2=octets(EVENT_LOG)).public_bytes(Encoding.DER),
        certificate(e8=octets(b"")).public_bytes(Encoding.DER),
        certificate(e8=octets(scale()) + b"\0").public_bytes(Encoding.DER),
        certificate(e8=b"\x04\x84\xff").public_bytes(Encoding.DER),
        LEGACY.public_bytes(Encoding.DER)[:-1],
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        b"-----BEGIN",
        b"\x30",
        b"\x30" * 600_000,
    ],
)
def test_certificates_without_readable_evidence_are_refused(raw: bytes) -> None:
    with pytest.raises(EvidenceError):
        decode_certificate(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\n",
        b"hello",
        b"{",
        b"{}",
        b"[]",
        b'{"quote": 1}',
        b'{"quote": "0"}',
        b'{"quote": "00", "event_log": []}',
        b'{"quote": "00", "event_log": "\\ud800"}',
        b'{"attestation": null}',
        b'{"attestation": "zz"}',
        b'{"quote": "' + b"00" * 20_000 + b'"}',
        b"\x04\x00" + bytes(20_000),
        b"\x00" * (SHOWN_BYTES_MAX + 1),
        b"\xff\xff",
    ],
)
def test_other_files_are_refused(raw: bytes) -> None:
    with pytest.raises(EvidenceError):
        read_shown(raw)


@given(st.binary(max_size=120))
def test_any_bytes_give_evidence_or_the_one_error(raw: bytes) -> None:
    try:
        read_shown(raw)
    except EvidenceError:
        return


def test_a_log_of_another_shape_is_left_to_the_verdict() -> None:
    # Decoding tells what is there; whether the events fit the quote is for the verdict.
    half = json.dumps({"quote": QUOTE.hex(), "event_log": json.dumps(ENTRIES[:3])}).encode()
    assert len(parse_event_log(read_shown(half).evidence.event_log).events) == 3
    assert decode_attestation(scale()) == read_shown(scale()).evidence
