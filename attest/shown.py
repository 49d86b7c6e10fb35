"""Evidence as people come by it: a file of any kind that agents, certificates and tools give.

Told apart by their first bytes: our container, dstack's attestation container, an RA-TLS
certificate, the guest agent's JSON answer, a bare quote; each of the binary ones also as hex.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .bounded_json import parse_json
from .errors import AgentProtocolError, EvidenceError
from .evidence import ATTESTATION_BYTES_MAX, Evidence, decode_attestation
from .quotes import QUOTE_BYTES_MAX
from .ratls import decode_certificate
from .strict_json import hex_bytes

SHOWN_BYTES_MAX = 2 * ATTESTATION_BYTES_MAX

_HEX = re.compile(rb"\s*(?:0x)?((?:[0-9a-fA-F]{2})+)\s*")
_QUOTE_BEGINS = (b"\x04\x00", b"\x05\x00")


@dataclass(frozen=True, slots=True)
class Shown:
    """Evidence, the ``kind`` of file it came in, and the report data which that kind demands.

    ``report_data`` is 64 bytes for a certificate (they commit to its key), else None.
    """

    evidence: Evidence
    kind: str
    report_data: bytes | None = None


def read_shown(raw: bytes) -> Shown:
    """The evidence in a file of at most 1 MiB. Raises EvidenceError."""
    if not raw:
        raise EvidenceError("an empty file")
    if len(raw) > SHOWN_BYTES_MAX:
        raise EvidenceError(f"at most {SHOWN_BYTES_MAX} bytes are read")
    text = _HEX.fullmatch(raw)
    if text is not None:
        return _binary(bytes.fromhex(text.group(1).decode()))
    if raw.lstrip().startswith(b"{"):
        return _answer(raw)
    return _binary(raw)


def _binary(raw: bytes) -> Shown:
    if raw.startswith(_QUOTE_BEGINS):
        if len(raw) > QUOTE_BYTES_MAX:
            raise EvidenceError(f"a quote has at most {QUOTE_BYTES_MAX} bytes")
        return Shown(Evidence(raw, b""), "bare quote")
    if raw[:1] == b"\x30" or raw.lstrip().startswith(b"-----BEGIN"):
        found = decode_certificate(raw)
        return Shown(found.evidence, "RA-TLS certificate", found.report_data)
    if raw[:1] == b"\x95":
        return Shown(Evidence.decode(raw), "evidence container")
    if raw[:1] == b"\x00" or raw[0] & 0xF0 == 0x80:
        return Shown(decode_attestation(raw), "dstack attestation container")
    raise EvidenceError("neither quote, container, certificate nor an agent's answer")


def _answer(raw: bytes) -> Shown:
    try:
        value = parse_json(raw)
    except ValueError:
        raise EvidenceError("begins like JSON but is none") from None
    if "quote" in value:
        return Shown(_from_json(value), "agent's answer (v0)")
    if "attestation" in value:
        raw_container = _hex_field(value, "attestation", ATTESTATION_BYTES_MAX)
        return Shown(decode_attestation(raw_container), "agent's answer (v1)")
    raise EvidenceError("a JSON object with neither quote nor attestation")


def _from_json(value: Mapping[str, Any]) -> Evidence:
    event_log = value.get("event_log", "")
    if not isinstance(event_log, str):
        raise EvidenceError("field event_log: expected the agent's JSON text")
    try:
        return Evidence(_hex_field(value, "quote", QUOTE_BYTES_MAX), event_log.encode())
    except UnicodeEncodeError:
        raise EvidenceError("field event_log: half a surrogate pair") from None


def _hex_field(value: Mapping[str, Any], name: str, bytes_max: int) -> bytes:
    text = value.get(name)
    if not isinstance(text, str) or len(text) > 2 * bytes_max + 2:
        raise EvidenceError(f"field {name}: expected hex of at most {bytes_max} bytes")
    text = text.removeprefix("0x")
    try:
        return hex_bytes(text, f"field {name}", len(text) // 2)
    except AgentProtocolError as error:
        raise EvidenceError(str(error)) from None
