"""Evidence: a quote and its event log, and perhaps collateral, as one bounded container.

Ours is a MessagePack list ``[tag, version, quote, event log, collateral or nil]``. dstack's own
``attestation`` container is read too, in its forms V0 (SCALE) and V1 (MessagePack), as guest
agents since 0.5.6 and RA-TLS certificates carry it. Formats: ``dstack-attest`` of
Dstack-TEE/dstack.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import msgpack

from .collateral import COLLATERAL_BYTES_MAX
from .errors import EventLogError, EvidenceError
from .event_log import (
    EVENT_LOG_BYTES_MAX,
    EVENTS_MAX,
    PAYLOAD_BYTES_MAX,
    Event,
    EventLog,
    encode_event_log,
    make_event,
)
from .quotes import QUOTE_BYTES_MAX

EVIDENCE_TAG = "dstack-cluster-evidence"
EVIDENCE_VERSION = 1
EVIDENCE_BYTES_MAX = QUOTE_BYTES_MAX + EVENT_LOG_BYTES_MAX + COLLATERAL_BYTES_MAX + 256
ATTESTATION_BYTES_MAX = 512 * 1024
_V0 = 0
_V0_TDX = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a machine shows of itself: nothing in it is proven before ``verify_evidence``.

    ``quote`` at most 16 KiB, ``event_log`` the agent's JSON text (at most 128 KiB), ``collateral``
    the JSON text that ``parse_collateral`` reads (at most 128 KiB) or None.
    """

    quote: bytes = field(repr=False)
    event_log: bytes = field(repr=False)
    collateral: bytes | None = field(repr=False, default=None)

    def encode(self) -> bytes:
        """The container's bytes. Raises EvidenceError when a part is too large."""
        _check_sizes(self.quote, self.event_log, self.collateral)
        packed: bytes = msgpack.packb(
            [EVIDENCE_TAG, EVIDENCE_VERSION, self.quote, self.event_log, self.collateral]
        )
        return packed

    @classmethod
    def decode(cls, raw: bytes) -> Evidence:
        """The evidence in our own container. Raises EvidenceError."""
        value = _unpack(raw, EVIDENCE_BYTES_MAX, array_max=5, map_max=0)
        if not isinstance(value, list) or len(value) != 5 or value[0] != EVIDENCE_TAG:
            raise EvidenceError("not an evidence container")
        if type(value[1]) is not int or value[1] != EVIDENCE_VERSION:
            raise EvidenceError(f"evidence version: expected {EVIDENCE_VERSION}")
        quote, event_log, collateral = value[2:]
        if not isinstance(quote, bytes) or not isinstance(event_log, bytes):
            raise EvidenceError("quote and event log are byte strings")
        if collateral is not None and not isinstance(collateral, bytes):
            raise EvidenceError("collateral is a byte string or nil")
        _check_sizes(quote, event_log, collateral)
        return cls(quote, event_log, collateral)


def decode_attestation(raw: bytes) -> Evidence:
    """The quote and event log in dstack's ``attestation`` container, V0 or V1.

    Its event log may be stripped to register 3. A report data field beside the quote is not read:
    the quote's own counts.

    Raises:
        EvidenceError: malformed, larger than 512 KiB, or of another platform than TDX.
    """
    if not raw:
        raise EvidenceError("an empty attestation")
    if len(raw) > ATTESTATION_BYTES_MAX:
        raise EvidenceError(f"an attestation has at most {ATTESTATION_BYTES_MAX} bytes")
    try:
        quote, events = _decode_v0(raw) if raw[0] == _V0 else _decode_v1(raw)
    except EventLogError as error:
        raise EvidenceError(f"event log: {error}") from None
    event_log = encode_event_log(EventLog(tuple(events)))
    _check_sizes(quote, event_log, None)
    return Evidence(quote, event_log)


def _check_sizes(quote: bytes, event_log: bytes, collateral: bytes | None) -> None:
    for name, part, limit in (
        ("quote", quote, QUOTE_BYTES_MAX),
        ("event log", event_log, EVENT_LOG_BYTES_MAX),
        ("collateral", collateral or b"", COLLATERAL_BYTES_MAX),
    ):
        if len(part) > limit:
            raise EvidenceError(f"{name}: at most {limit} bytes, got {len(part)}")


def _unpack(raw: bytes, limit: int, *, array_max: int, map_max: int) -> Any:
    if len(raw) > limit:
        raise EvidenceError(f"at most {limit} bytes, got {len(raw)}")
    try:
        return msgpack.unpackb(
            raw,
            raw=False,
            strict_map_key=True,
            use_list=True,
            max_bin_len=limit,
            max_str_len=limit,
            max_array_len=array_max,
            max_map_len=map_max,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError):
        raise EvidenceError("not MessagePack within its bounds") from None


# --- V1: MessagePack, as Rust's serde writes it ---------------------------------------------------


def _decode_v1(raw: bytes) -> tuple[bytes, list[Event]]:
    # Byte strings may come as lists of numbers, so lists may be as long as those.
    whole = _unpack(raw, ATTESTATION_BYTES_MAX, array_max=PAYLOAD_BYTES_MAX, map_max=16)
    value = _map(whole, "attestation")
    if value.get("version") != 1:
        raise EvidenceError("attestation version: expected 1")
    platform = _map(value.get("platform"), "platform")
    if platform.get("kind") != "tdx":
        raise EvidenceError(f"platform: expected tdx, got {str(platform.get('kind'))[:40]!r}")
    data = _map(platform.get("data"), "platform data")
    entries = data.get("event_log")
    if not isinstance(entries, list) or len(entries) > EVENTS_MAX:
        raise EvidenceError(f"event log: expected a list of at most {EVENTS_MAX} events")
    events = []
    for index, item in enumerate(entries):
        entry = _map(item, f"event {index}")
        name = entry.get("event")
        if not isinstance(name, str):
            raise EvidenceError(f"event {index}: the name is a text")
        events.append(
            make_event(
                _number(entry.get("imr"), 3, f"event {index} register"),
                _number(entry.get("event_type"), 0xFFFFFFFF, f"event {index} type"),
                _bytes(entry.get("digest"), f"event {index} digest"),
                name,
                _bytes(entry.get("event_payload"), f"event {index} payload"),
                _version(entry, f"event {index} version"),
                what=f"event {index}",
            )
        )
    return _bytes(data.get("quote"), "quote"), events


def _map(value: object, what: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise EvidenceError(f"{what}: expected a map")
    return value


def _bytes(value: object, what: str) -> bytes:
    """Bytes, which serde writes either as a byte string or as a list of numbers."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        try:
            return bytes(value)
        except (ValueError, TypeError):
            pass
    raise EvidenceError(f"{what}: expected bytes")


def _version(entry: Mapping[str, Any], what: str) -> int | None:
    return _number(entry["version"], 2, what) if "version" in entry else None


def _number(value: object, highest: int, what: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= highest:
        return value
    raise EvidenceError(f"{what}: expected a number from 0 to {highest}")


# --- V0: SCALE -----------------------------------------------------------------------------------


def _decode_v0(raw: bytes) -> tuple[bytes, list[Event]]:
    reader = _Scale(raw)
    if reader.number(1) != _V0:
        raise EvidenceError("attestation version: expected 0")
    if reader.number(1) != _V0_TDX:
        raise EvidenceError("attestation: expected a TDX quote")
    quote = reader.bytes(QUOTE_BYTES_MAX)
    events = []
    for index in range(reader.count(EVENTS_MAX)):
        register, event_type = reader.number(4), reader.number(4)
        digest = reader.bytes(64)
        name, payload = reader.text(), reader.bytes(PAYLOAD_BYTES_MAX)
        if register > 3:
            raise EvidenceError(f"event {index}: register {register}")
        events.append(
            make_event(register, event_type, digest, name, payload, what=f"event {index}")
        )
    for _ in range(reader.count(EVENTS_MAX)):  # runtime events again, by name and payload
        reader.text()
        reader.bytes(PAYLOAD_BYTES_MAX)
    reader.take(64)  # report data; the quote's own counts
    reader.bytes(ATTESTATION_BYTES_MAX)  # configuration text
    reader.end()
    return quote, events


class _Scale:
    """Parity's SCALE codec, as far as the container uses it."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    def take(self, size: int) -> bytes:
        piece = self._raw[self._at : self._at + size]
        if len(piece) != size:
            self._fail("ends too early")
        self._at += size
        return piece

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def count(self, highest: int) -> int:
        """A compact number: the two low bits of the first byte tell its size."""
        first = self.number(1)
        mode = first & 3
        if mode == 3:
            self._fail("a count above 2**30")
        self._at -= 1
        count = self.number(1 << mode) >> 2
        if mode and count < (1 << 6 if mode == 1 else 1 << 14):
            self._fail("a count that is not in its shortest form")
        if count > highest:
            self._fail(f"a count of {count}, at most {highest} are read")
        return count

    def bytes(self, highest: int) -> bytes:
        return self.take(self.count(highest))

    def text(self) -> str:
        try:
            return self.bytes(1024).decode()
        except UnicodeDecodeError:
            self._fail("a text that is not UTF-8")

    def end(self) -> None:
        if self._at != len(self._raw):
            self._fail(f"{len(self._raw) - self._at} bytes too many")

    def _fail(self, what: str) -> NoReturn:
        raise EvidenceError(f"attestation V0: {what} (at byte {self._at})")
