"""The key-value store's values as JSON, for both ends of the API.

Bytes are a text under their name when they are UTF-8, else base64 under ``<name>_base64``; both are
read.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from consensus.commands import Compare, Delete, Put, Range, Relation, Target, Txn, TxnOp
from consensus.limits import I64_MAX
from node.facade import BadRequest, Change, Entry, Found

RELATIONS = {
    "=": Relation.EQUAL,
    ">": Relation.GREATER,
    "<": Relation.LESS,
    "!=": Relation.NOT_EQUAL,
}
TARGETS = {
    "value": Target.VALUE,
    "version": Target.VERSION,
    "create_revision": Target.CREATE,
    "mod_revision": Target.MOD,
    "lease": Target.LEASE,
}
_RELATION_NAMES = {relation: name for name, relation in RELATIONS.items()}
_TARGET_NAMES = {target: name for name, target in TARGETS.items()}


def read_bytes(row: Mapping[str, Any], name: str, default: bytes | None = None) -> bytes:
    """The bytes under ``name`` or ``<name>_base64``. Raises BadRequest."""
    text, coded = row.get(name), row.get(name + "_base64")
    if text is None and coded is None and default is not None:
        return default
    if isinstance(text, str) and coded is None:
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError:  # half a surrogate pair
            pass
    elif isinstance(coded, str) and text is None:
        try:
            return base64.b64decode(coded, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise BadRequest(f"expected {name} as text, or {name}_base64")


def read_number(row: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """The non-negative integer under ``name``. Raises BadRequest."""
    value = row.get(name, default)
    if type(value) is not int or not 0 <= value <= I64_MAX:
        raise BadRequest(f"{name}: expected an integer 0..{I64_MAX}")
    return value


def show_bytes(name: str, raw: bytes) -> dict[str, str]:
    """Inverse of ``read_bytes``. Raises TypeError: an application gave something else."""
    if not isinstance(raw, bytes):
        raise TypeError(f"{name}: expected bytes; came {type(raw).__name__}")
    try:
        return {name: raw.decode("utf-8")}
    except UnicodeDecodeError:
        return {name + "_base64": base64.b64encode(raw).decode()}


def show_entry(key: bytes, entry: Entry) -> dict[str, Any]:
    """A key with its value and revisions."""
    return {
        **show_bytes("key", key),
        **show_bytes("value", entry.value),
        "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision,
        "version": entry.version,
        "lease": entry.lease,
    }


def read_entry(row: Mapping[str, Any]) -> tuple[bytes, Entry]:
    """Inverse of ``show_entry``; without a value it is empty. Raises BadRequest."""
    return read_bytes(row, "key"), Entry(
        read_bytes(row, "value", b""),
        read_number(row, "create_revision"),
        read_number(row, "mod_revision"),
        read_number(row, "version"),
        read_number(row, "lease", 0),
    )


def show_found(found: Found, *, keys_only: bool = False) -> dict[str, Any]:
    """A range."""
    rows = [show_entry(key, entry) for key, entry in found.entries]
    if keys_only:
        rows = [{k: v for k, v in row.items() if not k.startswith("value")} for row in rows]
    return {
        "revision": found.revision,
        "count": found.count,
        "more": found.more,
        "entries": rows,
    }


def read_found(row: Mapping[str, Any]) -> Found:
    """Inverse of ``show_found``. Raises BadRequest."""
    rows = row.get("entries")
    if not isinstance(rows, list) or not all(isinstance(item, dict) for item in rows):
        raise BadRequest("expected a list of entries")
    return Found(
        read_number(row, "revision"),
        tuple(map(read_entry, rows)),
        read_number(row, "count"),
        row.get("more") is True,
    )


def show_change(change: Change) -> dict[str, Any]:
    """An event of a watch."""
    if change.entry is None:
        key = show_bytes("key", change.key)
        return {"type": "delete", **key, "mod_revision": change.revision}
    return {"type": "put", **show_entry(change.key, change.entry)}


def read_change(row: Mapping[str, Any]) -> Change:
    """Inverse of ``show_change``. Raises BadRequest."""
    if row.get("type") == "delete":
        return Change(read_number(row, "mod_revision"), read_bytes(row, "key"), None)
    key, entry = read_entry(row)
    return Change(entry.mod_revision, key, entry)


def show_txn(txn: Txn) -> dict[str, Any]:
    """A transaction as ``/v1/txn`` takes it."""
    return {
        "compare": [_show_compare(c) for c in txn.compare],
        "then": [_show_operation(op) for op in txn.then],
        "else": [_show_operation(op) for op in txn.otherwise],
    }


def _show_compare(c: Compare) -> dict[str, Any]:
    row: dict[str, Any] = {
        **show_bytes("key", c.key),
        "target": _TARGET_NAMES[c.target],
        "relation": _RELATION_NAMES[c.relation],
    }
    return row | (
        {"number": c.operand} if isinstance(c.operand, int) else show_bytes("value", c.operand)
    )


def _show_operation(op: TxnOp) -> dict[str, Any]:
    match op:
        case Put(key, value, lease):
            put = {**show_bytes("key", key), **show_bytes("value", value), "lease": lease}
            return {"put": put}
        case Delete(key, end):
            return {"delete": {**show_bytes("key", key), **show_bytes("end", end)}}
        case Range(key, end, limit):
            span = {**show_bytes("key", key), **show_bytes("end", end)}
            return {"range": {**span, "limit": limit}}
