"""Commands that wait for a block: bounded, and fair between members and between clients (R12).

A command's *source* is the member that gave it to us; sources take turns in a block, the clients
of a source take turns within its share, and one client's commands keep their order. A client that
had its turn goes to the end of its source's row. So nobody's flood delays somebody else's commands
by more than one round, and whoever is first in its row and still left out block after block is
being censored (``health``).

A member that reminds us of a command, whoever gave it to us, has it served in its next turn, before
what else waits in its own row: only so may it count against us that we leave the command out.

A command that several members gave waits in the row of each, for whose turn comes first: one that
holds it behind a flood of its own cannot delay it, nor hide that it is due in another row.

Room is counted in bytes, with a least cost for each command. When it is used up, the source that
holds the most loses its newest command to one that holds less: the origin of a command keeps it
and sends it again (R7), so nothing is lost by that. Our own clients' commands are never dropped;
they are refused at once when they would take more than half of the room.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from itertools import chain
from typing import NamedTuple

from . import limits
from .types import raw_command_id

REMINDERS_MAX = 64  # of one member, that wait


class Waiting(NamedTuple):
    """A command, who gave it to us first, and when, or when its client last had a turn (ticks)."""

    raw: bytes
    source: int
    since: int


class Front(NamedTuple):
    """The command whose turn is next in a source's row, and since when it is that (ticks)."""

    source: int
    command_id: bytes
    since: int


class _Row:
    """The commands of one source.

    ``heads`` has the first command of each client in the order of turns, ``behind`` what its
    clients have after that; few have anything. ``turn`` is when the first head came to its turn,
    ``since`` when each command came, or its client last had a turn.
    """

    __slots__ = ("behind", "cost", "heads", "since", "turn")

    def __init__(self) -> None:
        self.heads: dict[bytes, bytes] = {}
        self.behind: dict[bytes, dict[bytes, None]] = {}
        self.since: dict[bytes, int] = {}
        self.cost = 0
        self.turn = 0

    def turns(self, without: Set[bytes]) -> Iterator[bytes]:
        """Commands in the order of turns, but for those in ``without``, whose turns count.

        Else clients at the head would be served twice while their first command is on its way.
        """
        for command_id in self.heads.values():
            if command_id not in without:
                yield command_id
        rows = [iter(self.behind[client]) for client in self.heads if client in self.behind]
        while rows:
            row, rows = rows, []
            for commands in row:
                following = next(commands, None)
                if following is not None:
                    rows.append(commands)
                    if following not in without:
                        yield following


class Mempool:
    """Every member keeps all waiting commands, so that a new leader loses none.

    ``own`` is our own seat: the source of our clients' commands.
    """

    def __init__(self, own: int) -> None:
        self._own = own
        self._commands: dict[bytes, tuple[bytes, list[int]]] = {}  # with those who gave it
        self._rows: dict[int, _Row] = {}
        self._reminders: dict[int, dict[bytes, None]] = {}  # by member, in the order of turns
        self._cost = 0
        self._next = 0  # the source whose turn is first in the next block

    def __len__(self) -> int:
        return len(self._commands)

    def ids(self) -> list[bytes]:
        """All that wait, in no order that matters."""
        return list(self._commands)

    def get(self, command_id: bytes) -> Waiting | None:
        """A waiting command."""
        known = self._commands.get(command_id)
        if known is None:
            return None
        raw, (first, *_) = known
        return Waiting(raw, first, self._rows[first].since[command_id])

    def given(self, command_id: bytes) -> list[tuple[int, int]]:
        """Who gave us a command that waits, each with its tick, as in ``Waiting``."""
        _, sources = self._commands.get(command_id, (b"", ()))
        return [(source, self._rows[source].since[command_id]) for source in sources]

    def add(self, raw: bytes, source: int, now: int) -> str | None:
        """Takes an encoded command of ``source`` at tick ``now``; why not, when it is not taken."""
        command_id = raw_command_id(raw)
        row = self._rows.get(source)
        if row is None:
            row = _Row()
        if command_id in row.since:
            return None
        client = command_id[:16]
        if client in row.behind and len(row.behind[client]) >= limits.CLIENT_COMMANDS_MAX - 1:
            return f"{limits.CLIENT_COMMANDS_MAX} commands of this client wait already"
        cost = max(len(raw), limits.MEMPOOL_COST_MIN)
        if source == self._own and row.cost + cost > limits.MEMPOOL_BYTES_MAX // 2:
            return "this member's clients use all of its share of the command pool"
        if self._cost + cost > limits.MEMPOOL_BYTES_MAX and not self._make_room(source, cost, now):
            return "the command pool is full"
        self._insert(command_id, raw, source, now)
        return None

    def remind(self, raw: bytes, source: int, now: int) -> None:
        """A member says that this command is due: it is served in that member's next turn.

        One that we do not have is taken in any case: the biggest row, the member's own if that is
        it, makes room.
        """
        command_id = raw_command_id(raw)
        if len(self._reminders.get(source, ())) >= REMINDERS_MAX:
            return  # a correct member reminds us of one at a tick
        if command_id not in self._commands:
            cost = max(len(raw), limits.MEMPOOL_COST_MIN)
            while self._cost + cost > limits.MEMPOOL_BYTES_MAX:
                self._drop_newest(self._biggest()[1], now)
            self._insert(command_id, raw, source, now)
        self._reminders.setdefault(source, {})[command_id] = None

    def _make_room(self, source: int, cost: int, now: int) -> bool:
        """Drops the newest commands of the biggest row, unless that is the asker's or our own."""
        row = self._rows.get(source)
        held = row.cost if row is not None else 0
        while self._cost + cost > limits.MEMPOOL_BYTES_MAX:
            most, biggest = self._biggest()
            if biggest == source or most <= held + cost:
                return False
            self._drop_newest(biggest, now)
        return True

    def _biggest(self) -> tuple[int, int]:
        """The cost and the source of the biggest row that is not our own."""
        others = [(r.cost, s) for s, r in self._rows.items() if s != self._own]
        return max(others, default=(0, 0))

    def _drop_newest(self, source: int, now: int) -> None:
        """The newest of a row, but nothing that we are reminded of: that would be to refuse it."""
        heads, behind = self._rows[source].heads, self._rows[source].behind
        last_ones = (
            next(reversed(behind[client])) if client in behind else heads[client]
            for client in reversed(heads)
        )
        newest = next(last_ones)
        reminded = self._reminders.values()
        dropped = newest
        while any(dropped in row for row in reminded):
            dropped = next(last_ones, b"")
        self._drop(dropped or newest, source, now)

    def _forget_reminders(self, command_id: bytes) -> None:
        for source in [s for s, reminders in self._reminders.items() if command_id in reminders]:
            del self._reminders[source][command_id]
            if not self._reminders[source]:
                del self._reminders[source]

    def _insert(self, command_id: bytes, raw: bytes, source: int, now: int) -> None:
        row = self._rows.get(source)
        if row is None:
            row = self._rows[source] = _Row()
        client = command_id[:16]
        if not row.heads:
            row.turn = now
        if client not in row.heads:
            row.heads[client] = command_id
        else:
            row.behind.setdefault(client, {})[command_id] = None
        row.since[command_id] = now
        known = self._commands.get(command_id)
        if known is None:
            self._commands[command_id] = (raw, [source])
        else:
            known[1].append(source)
        cost = max(len(raw), limits.MEMPOOL_COST_MIN)
        row.cost += cost
        self._cost += cost

    def _drop(self, command_id: bytes, source: int, now: int) -> bytes | None:
        """Takes a command out of a row. The client's next one, when that was its first."""
        raw, sources = self._commands[command_id]
        sources.remove(source)
        if not sources:
            del self._commands[command_id]
            self._forget_reminders(command_id)
        row = self._rows[source]
        cost = max(len(raw), limits.MEMPOOL_COST_MIN)
        row.cost -= cost
        self._cost -= cost
        del row.since[command_id]
        client = command_id[:16]
        if next(iter(row.heads.values())) == command_id:
            row.turn = now  # of whoever is next
        behind = row.behind.get(client)
        if row.heads[client] != command_id:
            assert behind is not None
            del behind[command_id]
        elif behind is None:
            del row.heads[client]
            if not row.heads:
                del self._rows[source]
        else:
            following = row.heads[client] = next(iter(behind))
            del behind[following]
        if behind is not None and not behind:
            del row.behind[client]
        return row.heads.get(client)

    def remove(self, command_id: bytes, now: int) -> None:
        """Forgets a command that was applied; its client's next turn is the last of its row."""
        _, sources = self._commands.get(command_id, (b"", ()))
        for source in tuple(sources):
            following = self._drop(command_id, source, now)
            if following is not None:
                row = self._rows[source]
                del row.heads[following[:16]]
                row.heads[following[:16]] = following
                row.since[following] = now

    def batch(self, without: Set[bytes]) -> tuple[bytes, ...]:
        """Commands for one block, leaving out those already on the branch."""
        if self._commands.keys() <= without:
            return ()
        chosen: list[bytes] = []
        size = 0
        seats = sorted(self._rows.keys() | self._reminders.keys())
        seats = [s for s in seats if s >= self._next] + [s for s in seats if s < self._next]
        rows = [(seat, self._turns(seat, without)) for seat in seats]
        taken: set[bytes] = set()  # it may wait in a row and be due in another member's turn
        while rows:
            turn, rows = rows, []
            for seat, row in turn:
                command_id = next(row, None)
                while command_id in taken:
                    command_id = next(row, None)
                if command_id is None:
                    continue
                raw = self._commands[command_id][0]
                size += len(raw)
                if len(chosen) == limits.BLOCK_COMMANDS_MAX or size > limits.BLOCK_BYTES_MAX:
                    self._next = seat  # what did not fit comes first in the next block
                    return tuple(chosen)
                chosen.append(raw)
                taken.add(command_id)
                rows.append((seat, row))
        return tuple(chosen)

    def _turns(self, seat: int, without: Set[bytes]) -> Iterator[bytes]:
        """What a source has its turns for, in order."""
        row, reminders = self._rows.get(seat), self._reminders.get(seat)
        turns = iter(()) if row is None else row.turns(without)
        if reminders is None:
            return turns
        return chain([c for c in reminders if c not in without], turns)

    def fronts(self) -> list[Front]:
        """The next command of each source."""
        found = []
        for source, row in self._rows.items():
            command_id = next(iter(row.heads.values()))
            found.append(Front(source, command_id, row.turn))
        return found
