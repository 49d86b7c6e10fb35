"""RA-TLS certificates: a TLS key with the evidence of the machine that holds it, in extensions.

dstack's arc is 1.3.6.1.4.1.62397.1: ``.8`` carries an attestation container, older certificates a
quote in ``.1`` and its event log in ``.2``. The quote's report data commit to the certificate's
public key. Who issued the certificate is not judged here: only the quote counts.
Format: ``ra-tls`` of Dstack-TEE/dstack.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .binding import tagged_report_data
from .errors import EvidenceError
from .evidence import Evidence, decode_attestation

CERTIFICATE_BYTES_MAX = 512 * 1024
UNPACKED_LOG_BYTES_MAX = 16 * 1024

_ARC = "1.3.6.1.4.1.62397.1"
_QUOTE, _EVENT_LOG, _ATTESTATION = (x509.ObjectIdentifier(f"{_ARC}.{n}") for n in (1, 2, 8))
_PACKED_LOG = b"ELGZv1"
_TAG = "ratls-cert"


@dataclass(frozen=True, slots=True)
class RaTlsEvidence:
    """What a certificate carries, and the 64 bytes that its quote must commit to."""

    evidence: Evidence
    report_data: bytes


def decode_certificate(raw: bytes) -> RaTlsEvidence:
    """The evidence in a certificate, DER or PEM (the first of a chain). Raises EvidenceError."""
    if len(raw) > CERTIFICATE_BYTES_MAX:
        raise EvidenceError(f"a certificate has at most {CERTIFICATE_BYTES_MAX} bytes")
    try:
        if raw.lstrip().startswith(b"-----BEGIN"):
            certificate = x509.load_pem_x509_certificate(raw)
        else:
            certificate = x509.load_der_x509_certificate(raw)
        spki = certificate.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )
        payloads = {
            extension.oid: _octets(extension.value.value)
            for extension in certificate.extensions
            if isinstance(extension.value, x509.UnrecognizedExtension)
        }
    except EvidenceError:
        raise
    except Exception as error:
        # The decoder's own errors have no common base: unsupported keys, bad DER, duplicates.
        raise EvidenceError(f"not a certificate: {type(error).__name__}") from None
    report_data = tagged_report_data(_TAG, spki)
    if _ATTESTATION in payloads:
        return RaTlsEvidence(decode_attestation(payloads[_ATTESTATION]), report_data)
    if _QUOTE in payloads:
        event_log = _unpacked(payloads.get(_EVENT_LOG, b""))
        return RaTlsEvidence(Evidence(payloads[_QUOTE], event_log), report_data)
    raise EvidenceError("a certificate without evidence")


def _octets(der: bytes) -> bytes:
    """The content of a DER OCTET STRING; anything else as it is, to be refused by its reader."""
    if der[:1] != b"\x04" or len(der) < 2:
        return der
    size, start = der[1], 2
    if size & 0x80:
        start = 2 + (size & 0x7F)
        size = int.from_bytes(der[2:start], "big")
    if start + size != len(der):
        raise EvidenceError("an extension is not one octet string")
    return der[start:]


def _unpacked(event_log: bytes) -> bytes:
    if not event_log.startswith(_PACKED_LOG):
        return event_log
    unpacking = zlib.decompressobj(wbits=31)
    try:
        found = unpacking.decompress(event_log[len(_PACKED_LOG) :], UNPACKED_LOG_BYTES_MAX)
    except zlib.error:
        raise EvidenceError("the event log does not unpack") from None
    if not unpacking.eof:
        raise EvidenceError(f"an event log unpacks to at most {UNPACKED_LOG_BYTES_MAX} bytes")
    return found
