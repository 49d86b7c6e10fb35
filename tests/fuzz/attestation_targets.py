"""Targets for what attestation reads: quotes, logs, containers, certificates, collateral, policy.

Besides the promises of ``targets``: what nobody signed changes nothing. ``verdict`` edits genuine
evidence (under the vectors' mock authority) and no edit may be accepted that changes what the quote
says, what the log tells, or what the authority stated.
"""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack

from attest.collateral import Collateral, parse_collateral
from attest.collateral_store import encode_bundle, parse_bundle
from attest.errors import CollateralError, EventLogError, EvidenceError, PolicyError, QuoteError
from attest.event_log import encode_event_log, parse_event_log, replay, runtime_facts
from attest.evidence import Evidence, decode_attestation
from attest.pccs import revocation_list, signed_part
from attest.policy import parse_policy
from attest.policy_draft import draft_policy
from attest.quotes import parse_quote
from attest.qvl import Platform, platform_of
from attest.ratls import decode_certificate
from attest.shown import read_shown
from attest.verifying import verify_evidence

_FILE = Path(__file__).parents[1] / "vectors" / "attestation.json"
_MOCK: dict[str, Any] = json.loads(_FILE.read_text())["mock_tdx"]
_QUOTE = bytes.fromhex(_MOCK["quote_hex"])
_LOG = json.dumps(_MOCK["event_log"], separators=(",", ":")).encode()
_COLLATERAL = json.dumps(_MOCK["collateral"]).encode()
_ROOT = bytes.fromhex(_MOCK["root_ca_der_hex"])
_GENUINE = Evidence(_QUOTE, _LOG, _COLLATERAL)
_FACTS = runtime_facts(parse_event_log(_LOG))
_DRAFT = draft_policy([_GENUINE])
_POLICY = parse_policy(
    _DRAFT.replace(b'"collateral_age_s_max": 2592000', b'"collateral_age_s_max": 315360000')
)


def quote(data: bytes) -> None:
    """A TDX quote, by our reader and by the library's."""
    try:
        parsed = parse_quote(data)
    except QuoteError:
        parsed = None
    if parsed is not None:
        assert data.startswith(parsed.signed)
        assert len(parsed.report_data) == 64
        assert all(len(value) == 48 for value in parsed.rtmrs)
        assert parse_quote(data + bytes(8)) == parsed if len(data) < 16_000 else True
    try:
        platform_of(data)
    except QuoteError:
        return


def _quotes() -> Iterator[bytes]:
    yield _QUOTE
    yield b"\x05\0" + _QUOTE[2:48] + b"\2\0" + (584).to_bytes(4, "little") + _QUOTE[48:]
    more = bytes(64)
    yield (
        b"\x05\0"
        + _QUOTE[2:48]
        + b"\3\0"
        + (648).to_bytes(4, "little")
        + (_QUOTE[48:632] + more + _QUOTE[632:])
    )


def event_log(data: bytes) -> None:
    """An event log of the guest agent."""
    try:
        log = parse_event_log(data)
    except EventLogError:
        return
    assert len(replay(log)) == 4
    again = encode_event_log(log)
    if len(again) <= 128 * 1024:
        assert parse_event_log(again) == log
    try:
        facts = runtime_facts(log)
    except EventLogError:
        return
    assert (len(facts.app_id), len(facts.compose_hash)) == (20, 32)


def _event_logs() -> Iterator[bytes]:
    yield _LOG
    entries = _MOCK["event_log"]
    yield json.dumps([{**entry, "digest": ""} for entry in entries]).encode()
    yield json.dumps([{**entry, "digest": "", "version": 2} for entry in entries]).encode()
    firmware = {"imr": 0, "event_type": 10, "digest": "00" * 48, "event": "", "event_payload": ""}
    yield json.dumps([firmware, *entries]).encode()


def evidence(data: bytes) -> None:
    """Our container and dstack's."""
    try:
        decoded = Evidence.decode(data)
        assert Evidence.decode(decoded.encode()) == decoded
    except EvidenceError:
        pass
    try:
        decode_attestation(data)
    except EvidenceError:
        return


def _evidence() -> Iterator[bytes]:
    yield Evidence(b"\4\0", b"[]", b"{}").encode()
    yield _scale(_QUOTE[:40])
    yield _scale(_QUOTE)
    yield _serde(_QUOTE[:40])


def _scale(quote_bytes: bytes) -> bytes:
    def sized(raw: bytes) -> bytes:
        return (
            (len(raw) << 2 | 1).to_bytes(2, "little") + raw
            if len(raw) > 63
            else (bytes([len(raw) << 2]) + raw)
        )

    events = b"".join(
        item["imr"].to_bytes(4, "little")
        + item["event_type"].to_bytes(4, "little")
        + sized(b"")
        + sized(item["event"].encode())
        + sized(bytes.fromhex(item["event_payload"]))
        for item in _MOCK["event_log"]
    )
    count = bytes([len(_MOCK["event_log"]) << 2])
    return b"\0\0" + sized(quote_bytes) + count + events + b"\0" + bytes(64) + sized(b"{}")


def _serde(quote_bytes: bytes) -> bytes:
    events = [
        {
            "imr": item["imr"],
            "event_type": item["event_type"],
            "digest": b"",
            "event": item["event"],
            "event_payload": list(bytes.fromhex(item["event_payload"])),
        }
        for item in _MOCK["event_log"]
    ]
    platform = {"kind": "tdx", "data": {"quote": quote_bytes, "event_log": events}}
    packed: bytes = msgpack.packb({"version": 1, "platform": platform})
    return packed


def policy(data: bytes) -> None:
    """A policy document."""
    try:
        parsed = parse_policy(data)
    except PolicyError:
        return
    assert parsed.compose_hashes
    assert "Revoked" not in parsed.tcb_statuses
    assert parsed.renewal_s < parsed.quote_age_s_max


def _policies() -> Iterator[bytes]:
    yield _DRAFT
    yield json.dumps(json.loads(_DRAFT), separators=(",", ":")).encode()


def collateral(data: bytes) -> None:
    """Collateral, a bundle of it, and what a PCCS answers."""
    try:
        parsed = parse_collateral(data)
        assert parse_collateral(parsed.to_json()) == parsed
    except CollateralError:
        pass
    try:
        entries = parse_bundle(data)
        assert parse_bundle(encode_bundle(entries)) == entries
    except CollateralError:
        pass
    try:
        text, _ = signed_part(data, "tcbInfo")
        assert text.encode() in data
    except CollateralError:
        pass
    try:
        revocation_list(data)
    except CollateralError:
        return


def _collaterals() -> Iterator[bytes]:
    yield _COLLATERAL
    whole = parse_collateral(_COLLATERAL)
    yield encode_bundle([(Platform(whole.fmspc, "platform"), whole)])
    yield b'{"tcbInfo":{"a":[1,"b"]},"signature":"' + b"01" * 64 + b'"}'
    yield whole.pck_crl
    yield whole.pck_crl.hex().encode()
    yield b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n"


def certificate(data: bytes) -> None:
    """An RA-TLS certificate, and any file that evidence is read from."""
    with contextlib.suppress(EvidenceError):
        decode_certificate(data)
    try:
        read_shown(data)
    except EvidenceError:
        return


def _certificates() -> Iterator[bytes]:
    from datetime import UTC, datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    key = ec.derive_private_key(7, ec.SECP256R1())
    day = datetime(2026, 1, 1, tzinfo=UTC)
    name = x509.Name([])
    for payloads in (
        {1: b"\4\0", 2: b"ELGZv1" + gzip.compress(b"[]", mtime=0)},
        {1: _QUOTE[:64], 2: b"[]"},
        {8: _scale(_QUOTE[:40])},
    ):
        builder = x509.CertificateBuilder(name, name, key.public_key(), 1, day, day)
        for number, payload in payloads.items():
            oid = x509.ObjectIdentifier(f"1.3.6.1.4.1.62397.1.{number}")
            content = b"\x04\x82" + len(payload).to_bytes(2, "big") + payload
            builder = builder.add_extension(x509.UnrecognizedExtension(oid, content), False)
        made = builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
        yield made.public_bytes(Encoding.DER)
        yield made.public_bytes(Encoding.PEM)
    yield json.dumps({"quote": "0400", "event_log": "[]"}).encode()
    yield json.dumps({"attestation": _scale(_QUOTE[:40]).hex()}).encode()


_EDIT_BYTES = 5


def edited(data: bytes) -> Evidence:
    """The genuine evidence after edits of five bytes each: part, place (3), what to XOR."""
    parts = [bytearray(_QUOTE), bytearray(_LOG), bytearray(_COLLATERAL)]
    for at in range(0, len(data) - _EDIT_BYTES + 1, _EDIT_BYTES):
        part = parts[data[at] % 3]
        part[int.from_bytes(data[at + 1 : at + 4], "big") % len(part)] ^= data[at + 4]
    return Evidence(*(bytes(part) for part in parts))


def verdict(data: bytes) -> None:
    """No edit of genuine evidence is accepted that changes anything it says."""
    shown = edited(data)
    found = verify_evidence(
        shown,
        report_data=None,
        app_id=None,
        instance_id=None,
        policy=_POLICY,
        collateral=None,
        now_s=_MOCK["now"],
        root_ca_der=_ROOT,
    )
    assert len(found.checks) == 19
    if not found.accepted:
        return
    assert found.facts.quote is not None
    assert found.facts.quote.signed == _QUOTE[:632]
    assert found.facts.runtime is not None
    assert found.facts.runtime == _FACTS
    used: Collateral | None = found.facts.collateral
    assert used is not None
    stated = _MOCK["collateral"]
    assert (used.tcb_info, used.qe_identity) == (stated["tcb_info"], stated["qe_identity"])
    assert used.pck_crl.hex() == stated["pck_crl"]
    assert used.root_ca_crl.hex() == stated["root_ca_crl"]


def _edits() -> Iterator[bytes]:
    yield b""
    yield b"\0" + (600).to_bytes(3, "big") + b"\1"
    yield b"\0" + (48 + 120).to_bytes(3, "big") + b"\1"
    yield b"\1" + (20).to_bytes(3, "big") + b"\2"
    yield b"\2" + (900).to_bytes(3, "big") + b"\2" + b"\2" + (901).to_bytes(3, "big") + b"\1"


ATTESTATION_TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]] = {
    "quote": (quote, _quotes),
    "event-log": (event_log, _event_logs),
    "evidence": (evidence, _evidence),
    "policy": (policy, _policies),
    "collateral": (collateral, _collaterals),
    "certificate": (certificate, _certificates),
    "verdict": (verdict, _edits),
}
