"""What the replicated state consists of, as canonical bytes, and the hash over it.

The state is a set of *items*: facts, leases, sessions, entries, and one head. Each has one
encoding: kind u8, then its fields, big-endian. The same bytes are hashed, exported into snapshots
and imported again.

The state hash is incremental: the sum, modulo 2**4096, of a 4096-bit hash of every item
(AdHash: Bellare and Micciancio, EUROCRYPT 1997, with a modulus large enough against Wagner's
generalised birthday attack, CRYPTO 2002). It depends on the content only, so a snapshot can be
checked against it.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from . import limits
from .errors import WireError
from .keccak import keccak256

STATE_TAG = b"dstack-cluster/state/v2"
ITEM_TAG = b"dstack-cluster/item/v2"
_SUM_BYTES = 512
SUM_MASK = (1 << (8 * _SUM_BYTES)) - 1


class Kind(IntEnum):
    """The kinds of items, in the order in which they are exported."""

    HEAD = 0
    FACT = 1
    LEASE = 2
    SESSION = 3
    ENTRY = 4


class Refusal(IntEnum):
    """Why a command did nothing."""

    NONE = 0
    NO_LEASE = 1  # it does not exist, or its time is over
    LEASE_EXISTS = 2
    TOO_MANY_LEASES = 3
    LEASE_IS_FULL = 4  # ``limits.RANGE_KEYS_MAX`` keys hang on it
    STATE_IS_FULL = 5
    RANGE_TOO_LARGE = 6  # more than ``limits.RANGE_KEYS_MAX`` keys would go at once


@dataclass(frozen=True, slots=True)
class Head:
    """What is not in any other item: the revision counts changes."""

    revision: int


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that the cluster knows of itself; only blocks change it."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Lease:
    """A time to live, and the block time at which it is over."""

    ttl_ms: int
    expires_ms: int


class Session(NamedTuple):
    """The last request of a client and what it did (see ``outcomes.Result``).

    ``used`` numbers executed requests: sessions are forgotten in its order, so it is part of the
    state and a snapshot cannot make a member forget other clients than the rest.
    """

    sequence: int
    revision: int
    existed: bool
    used: int
    deleted: int = 0
    refusal: Refusal = Refusal.NONE


class KeyValue(NamedTuple):
    """A key's value with its revisions; ``version`` counts writes since the key was created."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


Item = (
    tuple[bytes, Head]
    | tuple[bytes, Fact]
    | tuple[int, Lease]
    | tuple[bytes, Session]
    | tuple[bytes, KeyValue]
)

_HEAD = struct.Struct(">BQ")
_FACT = struct.Struct(">BH")
_LEASE = struct.Struct(">BQQQ")
_SESSION = struct.Struct(">BQ16sQQ?IB")
_ENTRY = struct.Struct(">BHQQQQ")


def head_item(head: Head) -> bytes:
    """kind, revision u64."""
    return _HEAD.pack(Kind.HEAD, head.revision)


def fact_item(name: bytes, fact: Fact) -> bytes:
    """kind, name length u16, name, value."""
    return _FACT.pack(Kind.FACT, len(name)) + name + fact.value


def lease_item(lease_id: int, lease: Lease) -> bytes:
    """kind, id u64, time to live u64, end u64."""
    return _LEASE.pack(Kind.LEASE, lease_id, lease.ttl_ms, lease.expires_ms)


def session_item(client: bytes, s: Session) -> bytes:
    """kind, used u64, client 16, sequence u64, revision u64, existed, deleted u32, refusal u8."""
    return _SESSION.pack(
        Kind.SESSION, s.used, client, s.sequence, s.revision, s.existed, s.deleted, s.refusal
    )


def entry_item(key: bytes, entry: KeyValue) -> bytes:
    """kind, key length u16, create, mod, version, lease u64, key, value."""
    head = _ENTRY.pack(
        Kind.ENTRY,
        len(key),
        entry.create_revision,
        entry.mod_revision,
        entry.version,
        entry.lease,
    )
    return head + key + entry.value


def order_of(item: bytes) -> bytes:
    """The place of an item in an export, as bytes that compare: kind, then its own order."""
    match item[0]:
        case Kind.FACT:
            size = int.from_bytes(item[1:3], "big")
            return item[:1] + item[3 : 3 + size]
        case Kind.ENTRY:
            size = int.from_bytes(item[1:3], "big")
            return item[:1] + item[_ENTRY.size : _ENTRY.size + size]
    return item[:9]


def read_item(item: bytes) -> Item:
    """The key and value in an item; raises WireError for what no member could have written."""
    try:
        found = _read(item)
    except (struct.error, ValueError, IndexError) as error:  # WireError is a ValueError
        raise WireError(f"not an item of the state: {error}") from None
    if item_of(*found) != item:
        raise WireError("an item of the state with another encoding than its own")
    return found


def _read(item: bytes) -> Item:
    match item[0]:
        case Kind.HEAD:
            _, revision = _HEAD.unpack(item)
            return b"", Head(_number(revision))
        case Kind.FACT:
            _, size = _FACT.unpack_from(item)
            name, value = item[3 : 3 + size], item[3 + size :]
            if not 1 <= len(name) <= limits.KEY_BYTES_MAX or len(value) > limits.VALUE_BYTES_MAX:
                raise WireError("a fact out of bounds")
            return name, Fact(value)
        case Kind.LEASE:
            _, lease_id, ttl_ms, expires_ms = _LEASE.unpack(item)
            if not limits.LEASE_TTL_MS_MIN <= ttl_ms <= limits.LEASE_TTL_MS_MAX or not lease_id:
                raise WireError("a lease out of bounds")
            return _number(lease_id), Lease(ttl_ms, _number(expires_ms))
        case Kind.SESSION:
            _, used, client, sequence, revision, existed, deleted, refusal = _SESSION.unpack(item)
            return client, Session(
                _number(sequence),
                _number(revision),
                existed,
                _number(used),
                deleted,
                Refusal(refusal),
            )
        case Kind.ENTRY:
            _, size, create, mod, version, lease = _ENTRY.unpack_from(item)
            body = item[_ENTRY.size :]
            key, value = body[:size], body[size:]
            if not 1 <= len(key) <= limits.KEY_BYTES_MAX or len(value) > limits.VALUE_BYTES_MAX:
                raise WireError("an entry out of bounds")
            if not 1 <= create <= mod or not 1 <= version <= mod - create + 1:
                raise WireError("an entry with impossible revisions")
            return key, KeyValue(value, create, _number(mod), version, _number(lease))
    raise WireError(f"an item of kind {item[0]}")


def _number(value: int) -> int:
    if value > limits.I64_MAX:
        raise WireError(f"the number {value}")
    return value


def item_of(key: bytes | int, value: Head | Fact | Lease | Session | KeyValue) -> bytes:
    """The encoding of any item."""
    if isinstance(value, Lease):
        assert isinstance(key, int)
        return lease_item(key, value)
    assert isinstance(key, bytes)
    match value:
        case Head():
            return head_item(value)
        case Fact():
            return fact_item(key, value)
        case Session():
            return session_item(key, value)
        case KeyValue():
            return entry_item(key, value)


def element(item: bytes) -> int:
    """What an item adds to the sum."""
    return int.from_bytes(hashlib.shake_128(ITEM_TAG + item).digest(_SUM_BYTES), "big")


def state_hash(head: Head, total: int) -> bytes:
    """The hash of a state from its head and the sum of the elements of all other items."""
    return keccak256(STATE_TAG + head_item(head) + total.to_bytes(_SUM_BYTES, "big"))
