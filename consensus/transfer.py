"""The replicated state in chunks of items (``items``): out of a machine, and checked into one.

What a snapshot consists of (R17). Items come in one canonical order: head, facts by name, leases by
number, sessions by last use, entries by key. A receiver believes none of it before the hash over
all of it is the certified one. The daemon reads the same items from its store; ``export`` is for
who has no store.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from . import limits
from .commands import FROM_KEY
from .errors import WireError
from .items import (
    Fact,
    Head,
    KeyValue,
    Kind,
    Lease,
    Session,
    entry_item,
    fact_item,
    head_item,
    lease_item,
    order_of,
    read_item,
    session_item,
)
from .machine import Machine


def items_of(machine: Machine, after: bytes = b"") -> Iterator[bytes]:
    """The items of a machine's state, of those whose ``order_of`` is above ``after``."""
    kind = after[0] if after else Kind.HEAD
    parts: list[Iterator[bytes]] = [iter((head_item(Head(machine.revision)),))]
    if kind <= Kind.FACT:
        parts.append(fact_item(n, Fact(machine.facts[n])) for n in sorted(machine.facts))
    if kind <= Kind.LEASE:
        parts.append(lease_item(n, machine.leases[n]) for n in sorted(machine.leases))
    if kind <= Kind.SESSION:
        parts.append(session_item(client, s) for client, s in machine.sessions.items())
    first = after[1:] if kind == Kind.ENTRY else b""
    parts.append(entry_item(k, machine.entries[k]) for k in machine.keys(first, FROM_KEY))
    return (item for item in chain(*parts) if order_of(item) > after)


def export(machine: Machine, after: bytes, max_bytes: int) -> tuple[list[bytes], bytes | None]:
    """One chunk: items above ``after`` (empty at the start), and where the next chunk goes on.

    At least one item, else at most ``max_bytes`` of them; None when nothing is left. The machine
    must not change between the chunks of one export.
    """
    found: list[bytes] = []
    size = 0
    for item in items_of(machine, after):
        size += len(item)
        if found and size > max_bytes:
            return found, order_of(found[-1])
        found.append(item)
    return found, None


class Importer:
    """Builds a machine from somebody else's items, in canonical order; bounded in memory."""

    def __init__(self) -> None:
        self._last = b""
        self._bytes = 0
        self._head: Head | None = None
        self._facts: dict[bytes, bytes] = {}
        self._leases: dict[int, Lease] = {}
        self._sessions: dict[bytes, Session] = {}
        self._entries: dict[bytes, KeyValue] = {}

    def add(self, items: Iterable[bytes]) -> None:
        """Takes the next items. Raises WireError: whoever sent them is no correct member."""
        for item in items:
            key, value = read_item(item)
            order = order_of(item)
            if order <= self._last:
                raise WireError("items of the state out of order")
            self._last = order
            match key, value:
                case bytes(), Head():
                    self._head = value
                case bytes(), Fact():
                    self._bytes += len(key) + len(value.value)
                    self._facts[key] = value.value
                case int(), Lease():
                    self._leases[key] = value
                case bytes(), Session():
                    if key in self._sessions:
                        raise WireError("two sessions of one client")
                    self._sessions[key] = value
                case bytes(), KeyValue():
                    self._bytes += limits.ENTRY_BYTES + len(key) + len(value.value)
                    self._entries[key] = value
            self._check_bounds()

    def _check_bounds(self) -> None:
        if self._head is None:
            raise WireError("a state that does not begin with its head")
        if (
            len(self._facts) > limits.FACTS_MAX
            or len(self._leases) > limits.LEASES_MAX
            or len(self._sessions) > limits.SESSIONS_MAX
            or self._bytes > limits.STATE_BYTES_MAX
        ):
            raise WireError("a state that is larger than any can be")

    def finish(self, height: int, time_ms: int, expected_hash: bytes) -> Machine:
        """The machine at ``height``, whose block has ``time_ms``.

        Raises WireError when the content is not that of ``expected_hash``.
        """
        if self._head is None:
            raise WireError("an empty state")
        try:
            return Machine.restore(
                height,
                self._head.revision,
                self._entries.items(),
                self._sessions.items(),
                ((height, expected_hash),),
                leases=self._leases.items(),
                facts=self._facts.items(),
                time_ms=time_ms,
            )
        except ValueError as error:
            raise WireError(str(error)) from None
