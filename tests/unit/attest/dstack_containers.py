"""dstack's own containers of evidence, built from the parts of ``evidence_world``."""

from __future__ import annotations

from typing import Any

import msgpack
from evidence_world import ENTRIES, QUOTE


def compact(number: int) -> bytes:
    if number < 1 << 6:
        return bytes([number << 2])
    if number < 1 << 14:
        return (number << 2 | 1).to_bytes(2, "little")
    return (number << 2 | 2).to_bytes(4, "little")


def sized(raw: bytes) -> bytes:
    return compact(len(raw)) + raw


def scale(variant: int = 0, **changed: Any) -> bytes:
    """The mock's evidence in dstack's container V0."""
    events = b"".join(
        item["imr"].to_bytes(4, "little")
        + item["event_type"].to_bytes(4, "little")
        + sized(bytes.fromhex(item["digest"]))
        + sized(item["event"].encode())
        + sized(bytes.fromhex(item["event_payload"]))
        for item in changed.get("entries", ENTRIES)
    )
    runtime = sized(b"app-id") + sized(b"\x01" * 20)
    return (
        bytes([0, variant])
        + sized(QUOTE)
        + compact(changed.get("count", len(ENTRIES)))
        + events
        + compact(1)
        + runtime
        + bytes(64)
        + sized(b"{}")
    )


def serde(as_list: bool = False, **changed: Any) -> bytes:
    """The mock's evidence in dstack's container V1, byte strings as such or as lists."""

    def raw(value: bytes) -> Any:
        return list(value) if as_list else value

    events = [
        {
            "imr": item["imr"],
            "event_type": item["event_type"],
            "digest": raw(b""),
            "event": item["event"],
            "event_payload": raw(bytes.fromhex(item["event_payload"])),
        }
        for item in ENTRIES
    ]
    document: dict[str, Any] = {
        "version": 1,
        "platform": {"kind": "tdx", "data": {"quote": raw(QUOTE), "event_log": events}},
        "stack": {"kind": "dstack", "data": {"report_data": raw(bytes(64)), "config": "{}"}},
        **changed,
    }
    packed: bytes = msgpack.packb(document)
    return packed
