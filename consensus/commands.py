"""What clients ask of the replicated state, and its bytes.

A command is ``(client, sequence, action)``; the pair makes it exactly-once (see ``machine``). The
layout is fixed and big-endian, because there are many: client 16, sequence u64, tag u8, then the
action's fields, lengths first. Each command has one encoding. Keys, ranges and transactions mean
what they mean in etcd v3 (``etcdserverpb.KV``), so that its API can stand on them.

A range is ``key`` and ``end``: one key when ``end`` is empty, all keys from ``key`` on when it is
one zero byte, else ``key <= k < end``.
"""

from __future__ import annotations

import itertools
import struct
from bisect import bisect_left
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from . import limits
from .errors import WireError

FROM_KEY = b"\0"  # as ``end``: no upper bound


class Tag(IntEnum):
    """The actions on the wire."""

    PUT = 1
    DELETE = 2
    BARRIER = 3
    TXN = 4
    GRANT = 5
    KEEP_ALIVE = 6
    REVOKE = 7
    RANGE = 8  # inside a transaction only: elsewhere a read needs no block


class Target(IntEnum):
    """What a comparison looks at; of a key that does not exist all but the value are 0."""

    VERSION = 0
    CREATE = 1
    MOD = 2
    VALUE = 3  # of a key that does not exist: no relation holds
    LEASE = 4


class Relation(IntEnum):
    """How the key's property must relate to the operand."""

    EQUAL = 0
    GREATER = 1
    LESS = 2
    NOT_EQUAL = 3


class Put(NamedTuple):
    """Write a key; with a ``lease`` (not 0) it goes when that ends."""

    key: bytes
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove a key, or a range of at most ``limits.RANGE_KEYS_MAX`` keys."""

    key: bytes
    end: bytes = b""


@dataclass(frozen=True, slots=True)
class Range:
    """Read a key or a range inside a transaction; ``limit`` 0 is ``limits.RANGE_KEYS_MAX``."""

    key: bytes
    end: bytes = b""
    limit: int = 0


@dataclass(frozen=True, slots=True)
class Compare:
    """``target`` of ``key`` relates to ``operand``: bytes for a value, else an integer."""

    key: bytes
    target: Target
    relation: Relation
    operand: int | bytes


TxnOp = Put | Delete | Range


@dataclass(frozen=True, slots=True)
class Txn:
    """If all comparisons hold ``then``, else ``otherwise``: in order, in one revision.

    No key is written twice in a branch.
    """

    compare: tuple[Compare, ...]
    then: tuple[TxnOp, ...]
    otherwise: tuple[TxnOp, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """Begin a lease: it ends when no ``KeepAlive`` comes for ``ttl_ms`` of block time."""

    lease: int
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Let a lease run for its whole time again."""

    lease: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """End a lease and remove its keys."""

    lease: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """Changes nothing: a read that waits for it is linearizable."""


Action = Put | Delete | Barrier | Txn | Grant | KeepAlive | Revoke


class Command(NamedTuple):
    """One request of a client (16 bytes)."""

    client: bytes
    sequence: int
    action: Action

    @property
    def id(self) -> bytes:
        """24 bytes: client and big-endian sequence; those that its encoding begins with."""
        return self.client + self.sequence.to_bytes(8, "big")


def contains(key: bytes, end: bytes, candidate: bytes) -> bool:
    """True when a key lies in a range."""
    if not end:
        return candidate == key
    return candidate >= key and (end == FROM_KEY or candidate < end)


def prefix_end(prefix: bytes) -> bytes:
    """The ``end`` that makes ``prefix`` the range of all keys that begin with it."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else FROM_KEY


# --- encoding ---

_HEAD = struct.Struct(">16sQB")
_PUT = struct.Struct(">16sQBQH")  # head, lease, key length; the value is the rest
_PUT_REST = struct.Struct(">QH")  # the same without the head
_PUT_TAG = int(Tag.PUT)
_DELETE = struct.Struct(">16sQBH")  # head, key length; the end is the rest
_DELETE_REST = struct.Struct(">H")
_COUNTS = struct.Struct(">BBB")
_COMPARE = struct.Struct(">BBHI")  # target, relation, key length, operand length
_TXN_PUT = struct.Struct(">QHI")
_TXN_DELETE = struct.Struct(">HH")
_TXN_RANGE = struct.Struct(">HHI")
_U8 = struct.Struct(">B")
_U64 = struct.Struct(">Q")
_GRANT = struct.Struct(">QQ")


def encode_command(command: Command) -> bytes:
    """The bytes of a command; its identity is the first 24."""
    client, sequence, action = command.client, command.sequence, command.action
    match action:
        case Put(key, value, lease):
            return _PUT.pack(client, sequence, Tag.PUT, lease, len(key)) + key + value
        case Delete(key, end):
            return _DELETE.pack(client, sequence, Tag.DELETE, len(key)) + key + end
        case Barrier():
            return _HEAD.pack(client, sequence, Tag.BARRIER)
        case Txn():
            return _HEAD.pack(client, sequence, Tag.TXN) + _encode_txn(action)
        case Grant(lease, ttl_ms):
            return _HEAD.pack(client, sequence, Tag.GRANT) + _GRANT.pack(lease, ttl_ms)
        case KeepAlive(lease):
            return _HEAD.pack(client, sequence, Tag.KEEP_ALIVE) + _U64.pack(lease)
        case Revoke(lease):
            return _HEAD.pack(client, sequence, Tag.REVOKE) + _U64.pack(lease)


def _encode_txn(txn: Txn) -> bytes:
    parts = [_COUNTS.pack(len(txn.compare), len(txn.then), len(txn.otherwise))]
    for c in txn.compare:
        operand = _U64.pack(c.operand) if isinstance(c.operand, int) else c.operand
        parts += [_COMPARE.pack(c.target, c.relation, len(c.key), len(operand)), c.key, operand]
    for op in (*txn.then, *txn.otherwise):
        match op:
            case Put(key, value, lease):
                head = _U8.pack(Tag.PUT) + _TXN_PUT.pack(lease, len(key), len(value))
                parts += [head, key, value]
            case Delete(key, end):
                parts += [_U8.pack(Tag.DELETE) + _TXN_DELETE.pack(len(key), len(end)), key, end]
            case Range(key, end, limit):
                head = _U8.pack(Tag.RANGE) + _TXN_RANGE.pack(len(key), len(end), limit)
                parts += [head, key, end]
    return b"".join(parts)


# --- decoding ---


def decode_command(raw: bytes) -> Command:
    """Inverse of ``encode_command``; raises WireError for what is not exactly one command."""
    if not _HEAD.size <= len(raw) <= limits.COMMAND_BYTES_MAX:
        raise WireError(f"a command of {len(raw)} bytes")
    client, sequence, tag = _HEAD.unpack_from(raw)
    if sequence > limits.I64_MAX:
        raise WireError(f"a sequence of {sequence}")
    if tag == _PUT_TAG and len(raw) >= _PUT.size:  # nearly all of them: without the reader
        lease, size = _PUT_REST.unpack_from(raw, _HEAD.size)
        end = _PUT.size + size
        if end > len(raw):
            raise WireError("a command that ends too early")
        key = _key(raw[_PUT.size : end])
        return Command(client, sequence, Put(key, _value(raw[end:]), _lease(lease, least=0)))
    rest = _Reader(raw, _HEAD.size)
    action: Action
    match tag:
        case Tag.DELETE:
            (size,) = rest.unpack(_DELETE_REST)
            action = Delete(_key(rest.take(size)), _end(rest.rest()))
        case Tag.BARRIER:
            action = Barrier()
        case Tag.TXN:
            action = _decode_txn(rest)
        case Tag.GRANT:
            lease, ttl_ms = rest.unpack(_GRANT)
            if not limits.LEASE_TTL_MS_MIN <= ttl_ms <= limits.LEASE_TTL_MS_MAX:
                raise WireError(f"a lease of {ttl_ms} ms")
            action = Grant(_lease(lease), ttl_ms)
        case Tag.KEEP_ALIVE:
            action = KeepAlive(_lease(*rest.unpack(_U64)))
        case Tag.REVOKE:
            action = Revoke(_lease(*rest.unpack(_U64)))
        case _:
            raise WireError(f"an action with tag {tag}")
    if rest.rest():
        raise WireError(f"bytes after an action with tag {tag}")
    return Command(client, sequence, action)


class _Reader:
    """Takes fields off a command's bytes, never past its end."""

    def __init__(self, raw: bytes, at: int) -> None:
        self._raw = raw
        self._at = at

    def take(self, size: int) -> bytes:
        found = self._raw[self._at : self._at + size]
        if len(found) != size:
            raise WireError("a command that ends too early")
        self._at += size
        return found

    def unpack(self, layout: struct.Struct) -> tuple[int, ...]:
        return layout.unpack(self.take(layout.size))

    def rest(self) -> bytes:
        found = self._raw[self._at :]
        self._at = len(self._raw)
        return found


def _key(key: bytes) -> bytes:
    if not 1 <= len(key) <= limits.KEY_BYTES_MAX:
        raise WireError(f"a key of {len(key)} bytes")
    return key


def _end(end: bytes) -> bytes:
    if len(end) > limits.KEY_BYTES_MAX:
        raise WireError(f"an end of a range of {len(end)} bytes")
    return end


def _value(value: bytes) -> bytes:
    if len(value) > limits.VALUE_BYTES_MAX:
        raise WireError(f"a value of {len(value)} bytes")
    return value


def _lease(lease: int, least: int = 1) -> int:
    if not least <= lease <= limits.I64_MAX:
        raise WireError(f"a lease numbered {lease}")
    return lease


def _decode_txn(rest: _Reader) -> Txn:
    compares, thens, otherwises = rest.unpack(_COUNTS)
    if compares > limits.TXN_COMPARES_MAX or max(thens, otherwises) > limits.TXN_OPS_MAX:
        raise WireError(f"a transaction of {compares}, {thens}, {otherwises} parts")
    compare = tuple(_decode_compare(rest) for _ in range(compares))
    then = tuple(_decode_op(rest) for _ in range(thens))
    otherwise = tuple(_decode_op(rest) for _ in range(otherwises))
    for branch in (then, otherwise):
        _check_writes(branch)
    return Txn(compare, then, otherwise)


def _decode_compare(rest: _Reader) -> Compare:
    target, relation, key_size, operand_size = rest.unpack(_COMPARE)
    if target > max(Target) or relation > max(Relation):
        raise WireError(f"a comparison of {target} by {relation}")
    key, raw = _key(rest.take(key_size)), rest.take(operand_size)
    operand: int | bytes = raw
    if target == Target.VALUE:
        _value(raw)
    elif operand_size != 8:
        raise WireError(f"an operand of {operand_size} bytes")
    else:
        (operand,) = _U64.unpack(raw)
    return Compare(key, Target(target), Relation(relation), operand)


def _decode_op(rest: _Reader) -> TxnOp:
    (tag,) = rest.unpack(_U8)
    match tag:
        case Tag.PUT:
            lease, key_size, value_size = rest.unpack(_TXN_PUT)
            key = _key(rest.take(key_size))
            return Put(key, _value(rest.take(value_size)), _lease(lease, least=0))
        case Tag.DELETE:
            key_size, end_size = rest.unpack(_TXN_DELETE)
            return Delete(_key(rest.take(key_size)), _end(rest.take(end_size)))
        case Tag.RANGE:
            key_size, end_size, limit = rest.unpack(_TXN_RANGE)
            if limit > limits.RANGE_KEYS_MAX:
                raise WireError(f"a range with a limit of {limit}")
            return Range(_key(rest.take(key_size)), _end(rest.take(end_size)), limit)
    raise WireError(f"a transaction with an operation of tag {tag}")


def _check_writes(branch: tuple[TxnOp, ...]) -> None:
    """A key that changed twice in one revision would have two values at it."""
    written = sorted(op.key for op in branch if isinstance(op, Put))
    if any(a == b for a, b in itertools.pairwise(written)):
        raise WireError("a transaction that writes a key twice")
    for op in branch:
        if isinstance(op, Delete):
            at = bisect_left(written, op.key)  # of those in the range the first, if there is one
            if at < len(written) and contains(op.key, op.end, written[at]):
                raise WireError("a transaction that writes a key and deletes it")
