"""What applying a block gives: results for clients, changes for the store, events for watchers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from .commands import Command
from .items import KeyValue, Lease, Refusal, Session
from .types import Block


@dataclass(frozen=True, slots=True)
class Written:
    """A put in a transaction; whether the key was there before."""

    existed: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """A deletion in a transaction; how many keys went."""

    deleted: int


@dataclass(frozen=True, slots=True)
class Found:
    """A range read in a transaction; ``count`` is that of the whole range, ``more`` if cut."""

    entries: tuple[tuple[bytes, KeyValue], ...]
    count: int
    more: bool


Response = Written | Removed | Found


class Result(NamedTuple):
    """What a command did, and the revision after it.

    ``existed``: a key was there before; of a transaction: the comparisons held. ``stale`` is True
    for a sequence below the client's last one: it was answered before, and the answer is no longer
    known. ``responses`` are a transaction's, None where nobody asked for them or when the command
    is a repeated one: what it read is not kept.
    """

    revision: int
    existed: bool = False
    stale: bool = False
    deleted: int = 0
    refusal: Refusal = Refusal.NONE
    responses: tuple[Response, ...] | None = None


class Event(NamedTuple):
    """One key's change at one revision; None stands for no entry."""

    revision: int
    key: bytes
    entry: KeyValue | None
    previous: KeyValue | None


@dataclass(slots=True)
class Changes:
    """What one block changed, for the store; None means removed.

    ``sessions`` are by ``Session.used``, which only rises: a store appends, and removes what is
    oldest, where the random ids of clients would scatter its writes. ``events`` are all changes of
    entries in order, where ``entries`` has the last of each key.
    """

    entries: dict[bytes, KeyValue | None] = field(default_factory=dict)
    sessions: dict[int, tuple[bytes, Session] | None] = field(default_factory=dict)
    leases: dict[int, Lease | None] = field(default_factory=dict)
    facts: dict[bytes, bytes | None] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Applied:
    """Outcome of one block: a result per command, in order."""

    block: Block
    results: tuple[tuple[Command, Result], ...]
    changes: Changes
    revision: int
    state_hash: bytes
