"""The recent past of the key-value store on this node: for watches, and reads at old revisions.

The replicated machine holds the present only. Here lie the events that led to it, each with what
it replaced, so that any revision since the *floor* can be shown again: a key at revision R is what
its first event after R replaced, or what it is now. The window is bounded in revisions and bytes,
is a matter of this node alone, and is stored with the state (``HistoryTable``).

Events are noted when their block is final, and *published* when the votes under it are durable:
nobody is shown what a crash of this node could take back. What is read from the machine itself
(leases, outcomes) is told after ``settle``.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge

import msgpack
import trio
from sortedcontainers import SortedList

from consensus.commands import FROM_KEY, contains
from consensus.items import KeyValue
from consensus.machine import Machine
from consensus.outcomes import Applied, Event
from node.facade import Compacted, FutureRevision

REVISIONS_MAX = 65_536
BYTES_MAX = 64 * 1024 * 1024
EVENT_BYTES = 300  # what an event costs beside its key and values

SCHEMA = """
CREATE TABLE history (revision INTEGER PRIMARY KEY, first INTEGER NOT NULL, data BLOB NOT NULL);
"""

Row = tuple[int, int, bytes]  # last and first revision of a block, its packed events


class History:
    """The window over the events of one node's machine."""

    def __init__(self, machine: Machine, rows: Sequence[Row] = ()) -> None:
        """``rows`` are ``HistoryTable.rows``; those that do not lead to ``machine`` are left."""
        self.changed = trio.Event()  # set, and replaced, at each publication
        self._settled = trio.Event()  # not set while the machine is ahead of what is published
        self._settled.set()
        self._machine = machine
        self._begin(machine)
        self._load(rows)
        self.published = machine.revision

    def _begin(self, machine: Machine) -> None:
        self._machine = machine
        self.floor = self._last = machine.revision
        # From floor + 1 on, behind as many empty places as ``_dropped`` says: to close the gap with
        # each block would move all that is kept.
        self._revisions: list[tuple[Event, ...]] = []
        self._dropped = 0
        self._touched: dict[bytes, list[int]] = {}  # key: its revisions above the floor
        self._keys = SortedList()  # of _touched
        self._bytes = 0

    @property
    def machine(self) -> Machine:
        """The machine that the window leads to; it may be ahead of what is published."""
        return self._machine

    # --- growing ---

    def note(self, machine: Machine, applied: Applied) -> None:
        """Takes the events of a finalized block, in order, before anything else happens.

        ``machine`` is the one that it was applied to; another one than before (a snapshot was
        installed) begins a new window.
        """
        if self._settled.is_set():
            self._settled = trio.Event()
        events = applied.changes.events
        first = events[0].revision if events else applied.revision + 1
        if machine is not self._machine or first != self._last + 1:
            if machine is self._machine and first <= self._last:
                return  # from before this window: a new one was begun above it
            self._begin(machine)
            return
        self._add(events)
        self._trim()

    def replaced(self, machine: Machine) -> None:
        """A snapshot took the place of the state: nothing before it can be shown."""
        self._begin(machine)
        self.publish(machine.revision)

    def _add(self, events: Iterable[Event]) -> None:
        for event in events:
            if event.revision > self._last:
                self._last = event.revision
                self._revisions.append((event,))
            else:
                self._revisions[-1] += (event,)
            if event.key not in self._touched:
                self._touched[event.key] = []
                self._keys.add(event.key)
            self._touched[event.key].append(event.revision)
            self._bytes += _size(event)

    def _place(self, revision: int) -> int:
        """Where a revision above the floor lies in ``_revisions``."""
        return revision - self.floor - 1 + self._dropped

    def publish(self, revision: int) -> None:
        """Everything up to a revision may be shown."""
        self.published = max(self.published, revision)  # a snapshot may have come between
        self._settled.set()
        self.changed.set()
        self.changed = trio.Event()

    async def settle(self) -> None:
        """Returns when all that the machine held at the call is published."""
        if not self._settled.is_set():
            await self._settled.wait()

    def _trim(self) -> None:
        """Drops the oldest revisions.

        With each block about as many as it adds: to drop many at once would hold up the node, and
        all other nodes at the same block.
        """
        kept, gone = self._revisions, set()
        while len(kept) - self._dropped > REVISIONS_MAX or (
            self._bytes > BYTES_MAX and len(kept) > self._dropped
        ):
            for event in kept[self._dropped]:
                self._bytes -= _size(event)
                gone.add(event.key)
            kept[self._dropped] = ()
            self._dropped += 1
            self.floor += 1
        if self._dropped > REVISIONS_MAX // 8:
            del kept[: self._dropped]
            self._dropped = 0
        for key in gone:
            revisions = self._touched[key]
            del revisions[: bisect_right(revisions, self.floor)]
            if not revisions:
                del self._touched[key]
                self._keys.remove(key)

    def _load(self, rows: Sequence[Row]) -> None:
        """The window as it was stored: rows hold what was replaced, the rest follows from it."""
        connected: list[Row] = []
        expected = self._last
        for row in reversed(rows):
            if row[0] != expected:
                break
            connected.append(row)
            expected = row[1] - 1
        after: dict[bytes, KeyValue | None] = {}
        events: list[Event] = []
        for _, _, data in connected:
            for revision, key, previous in reversed(unpack_events(data)):
                entry = after[key] if key in after else self._machine.entries.get(key)
                events.append(Event(revision, key, entry, previous))
                after[key] = previous
        self.floor = self._last = expected
        self._add(reversed(events))
        self._trim()

    # --- reading ---

    def _check(self, revision: int | None) -> int:
        if revision is None:
            return self.published
        if revision > self.published:
            raise FutureRevision(f"revision {revision} is above the newest, {self.published}")
        if revision < self.floor:
            raise Compacted(f"revision {revision} is below the oldest here, {self.floor}")
        return revision

    def get(self, key: bytes, revision: int | None = None) -> KeyValue | None:
        """A key at a revision, the newest by default. Raises Compacted, FutureRevision."""
        return self._at(key, self._check(revision))

    def _at(self, key: bytes, revision: int) -> KeyValue | None:
        revisions = self._touched.get(key)
        if revisions and revisions[-1] > revision:
            next_ = revisions[bisect_right(revisions, revision)]
            events = self._revisions[self._place(next_)]
            return next(event.previous for event in events if event.key == key)
        return self._machine.entries.get(key)

    def range(
        self, key: bytes, end: bytes, revision: int | None = None
    ) -> Iterator[tuple[bytes, KeyValue]]:
        """The entries of a range (see ``consensus.commands``) at a revision, by key.

        To be read to its end, or left, before the machine changes. Raises as ``get``.
        """
        at = self._check(revision)
        return self._range(key, end, at)

    def _range(self, key: bytes, end: bytes, at: int) -> Iterator[tuple[bytes, KeyValue]]:
        found: Iterable[bytes] = self._machine.keys(key, end)
        if at != self._last:
            found = merge(found, self._touched_keys(key, end))
        last = b""
        for candidate in found:
            if candidate != last:
                last = candidate
                entry = self._at(candidate, at)
                if entry is not None:
                    yield candidate, entry

    def _touched_keys(self, key: bytes, end: bytes) -> Iterator[bytes]:
        if not end:
            return iter((key,) if key in self._touched else ())
        found: Iterator[bytes] = self._keys.irange(
            key, None if end == FROM_KEY else end, inclusive=(True, False)
        )
        return found

    def count(self, key: bytes, end: bytes, revision: int | None = None) -> int:
        """How many entries a range has at a revision. Raises as ``get``."""
        at = self._check(revision)
        count = self._machine.count(key, end)
        if at != self._last:
            for touched in self._touched_keys(key, end):
                there, then = touched in self._machine.entries, self._at(touched, at)
                count += (then is not None) - there
        return count

    def events(
        self, after: int, key: bytes, end: bytes, revisions_max: int
    ) -> tuple[list[Event], int]:
        """Published events of a range above a revision, and the revision that they reach to.

        At most ``revisions_max`` revisions are looked at, whole ones. Raises Compacted when some
        of them are no longer known.
        """
        if after < self.floor:
            raise Compacted(f"revision {after + 1} is not known any more; {self.floor} is")
        upto = min(self.published, after + revisions_max)
        found = [
            event
            for events in self._revisions[self._place(after + 1) : self._place(upto + 1)]
            for event in events
            if contains(key, end, event.key)
        ]
        return found, max(after, upto)


def _size(event: Event) -> int:
    value = 0 if event.entry is None else len(event.entry.value)
    return EVENT_BYTES + len(event.key) + value


class HistoryTable:
    """The window on disk: a row for each block that changed entries."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._sizes = deque(db.execute("SELECT revision, LENGTH(data) FROM history ORDER BY 1"))
        self._bytes = sum(size for _, size in self._sizes)

    def write(self, events: Sequence[Event]) -> None:
        """Adds a block's events, and drops rows beyond the bounds, in the open transaction."""
        if not events:
            return
        data = pack_events(events)
        revision = events[-1].revision
        row = (revision, events[0].revision, data)
        self._db.execute("INSERT INTO history VALUES (?, ?, ?)", row)
        self._sizes.append((revision, len(data)))
        self._bytes += len(data)
        gone = 0
        while self._sizes[0][0] <= revision - REVISIONS_MAX or (
            self._bytes > BYTES_MAX and len(self._sizes) > 1
        ):
            gone, size = self._sizes.popleft()
            self._bytes -= size
        if gone:
            self._db.execute("DELETE FROM history WHERE revision <= ?", (gone,))

    def rows(self) -> list[Row]:
        """All rows, ascending."""
        return self._db.execute("SELECT revision, first, data FROM history ORDER BY 1").fetchall()


def pack_events(events: Sequence[Event]) -> bytes:
    """Revision, key, and what was there before: what came after is known from elsewhere."""
    packed: bytes = msgpack.packb(
        [
            (
                event.revision,
                event.key,
                None
                if (p := event.previous) is None
                else (p.value, p.create_revision, p.mod_revision, p.version, p.lease),
            )
            for event in events
        ]
    )
    return packed


def unpack_events(data: bytes) -> list[tuple[int, bytes, KeyValue | None]]:
    """Inverse of ``pack_events``, of this node's own disk."""
    return [
        (revision, key, None if previous is None else KeyValue(*previous))
        for revision, key, previous in msgpack.unpackb(data, use_list=False)
    ]
