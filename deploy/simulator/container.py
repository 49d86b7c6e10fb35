"""The attestation container of ``Attest``: quote, event log, report data and VM in one.

Two wire formats (``dstack-attest`` of Dstack-TEE/dstack): SCALE, which cannot tell the version of
an event and is what agents send while all events have version 1, and MessagePack with named fields
otherwise. Decoding is the verifier's affair; here they are only written.
"""

from __future__ import annotations

from typing import Any

import msgpack

from attest.event_log import RUNTIME_EVENT_TYPE, VERSION_1, Event

from .machine import Machine, entries_with_preimages

_SCALE_V0 = b"\x00"
_SCALE_TDX = b"\x00"
_MSGPACK_VERSION = 1


def attestation(machine: Machine, report_data: bytes) -> bytes:
    """The container with a fresh quote over 64 bytes of the caller's."""
    quote = machine.quote(report_data)
    if machine.event_version == VERSION_1:
        return scale(machine, quote, report_data)
    return message_pack(machine, quote, report_data)


def scale(machine: Machine, quote: bytes, report_data: bytes) -> bytes:
    """The container in SCALE: variants by one byte, lengths compact, numbers little-endian."""
    events = machine.event_log().events
    runtime = [event for event in events if event.event_type == RUNTIME_EVENT_TYPE]
    return b"".join(
        (
            _SCALE_V0,
            _SCALE_TDX,
            _scale_bytes(quote),
            _compact(len(events)),
            *(_scale_event(event) for event in events),
            _compact(len(runtime)),
            *(_scale_bytes(e.name.encode()) + _scale_bytes(e.payload) for e in runtime),
            report_data,
            _scale_bytes(machine.vm_config.encode()),
        )
    )


def message_pack(machine: Machine, quote: bytes, report_data: bytes) -> bytes:
    """The container in MessagePack, as Rust's serde writes it: plain byte vectors as arrays."""
    events = machine.event_log().events
    log = []
    for entry, event in zip(entries_with_preimages(machine.event_log()), events, strict=True):
        log.append(entry | {"digest": event.digest, "event_payload": event.payload})
    runtime: list[dict[str, Any]] = []
    for event in events:
        if event.event_type == RUNTIME_EVENT_TYPE:
            item: dict[str, Any] = {"event": event.name, "payload": event.payload}
            if event.version != VERSION_1:
                item["version"] = event.version
            runtime.append(item)
    document = {
        "version": _MSGPACK_VERSION,
        "platform": {"kind": "tdx", "data": {"quote": list(quote), "event_log": log}},
        "stack": {
            "kind": "dstack",
            "data": {
                "report_data": list(report_data),
                "runtime_events": runtime,
                "config": machine.vm_config,
            },
        },
    }
    packed = msgpack.packb(document)
    assert isinstance(packed, bytes)
    return packed


def _scale_event(event: Event) -> bytes:
    return b"".join(
        (
            event.register.to_bytes(4, "little"),
            event.event_type.to_bytes(4, "little"),
            _scale_bytes(event.digest),
            _scale_bytes(event.name.encode()),
            _scale_bytes(event.payload),
        )
    )


def _scale_bytes(content: bytes) -> bytes:
    return _compact(len(content)) + content


def _compact(value: int) -> bytes:
    """SCALE's compact integer; nothing here is longer than a gigabyte."""
    for mode, bits in ((0, 6), (1, 14), (2, 30)):
        if value < 1 << bits:
            return (value << 2 | mode).to_bytes(1 << mode, "little")
    raise ValueError("too long for a container")
