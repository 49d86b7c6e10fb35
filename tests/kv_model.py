"""The replicated key-value store said again, slowly and in other words than ``consensus.machine``.

Plain dictionaries, copied before each attempt, everything counted anew each time. It shares the
commands, their decoding and the limits with the code under test, and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from consensus import limits
from consensus.commands import (
    Barrier,
    Command,
    Compare,
    Delete,
    Grant,
    KeepAlive,
    Put,
    Range,
    Revoke,
    Txn,
)

Row = tuple[bytes, int, int, int, int]  # value, created at, changed at, writes, lease
Outcome = tuple[int, bool, bool, int, str, Any]
"""revision, existed (or held), stale, deleted, refusal, responses"""


class _Refused(Exception):
    """The command does nothing, for this reason."""


@dataclass
class Model:
    """The state after some blocks."""

    revision: int = 0
    now_ms: int = 0
    rows: dict[bytes, Row] = field(default_factory=dict)
    leases: dict[int, tuple[int, int]] = field(default_factory=dict)  # time to live, end
    clients: dict[bytes, tuple[int, Outcome]] = field(default_factory=dict)  # silent longest first
    forgotten: set[bytes] = field(default_factory=set)  # a repeated command of these may run again
    log: list[tuple[int, bytes, Row | None]] = field(default_factory=list)

    def block(self, time_ms: int, commands: list[Command]) -> list[Outcome]:
        """Applies a block; what each command did."""
        self.begin(time_ms)
        outcomes = [self.run(command)[0] for command in commands]
        self.end()
        return outcomes

    def begin(self, time_ms: int) -> None:
        """Before the commands of a block: what its time ends."""
        self.now_ms = max(self.now_ms, time_ms)
        self._end_leases()

    def end(self) -> None:
        """After them: who is forgotten."""
        while len(self.clients) > limits.SESSIONS_MAX:
            client = next(iter(self.clients))
            del self.clients[client]
            self.forgotten.add(client)

    def _end_leases(self) -> None:
        over = sorted((end, n) for n, (_, end) in self.leases.items() if end <= self.now_ms)
        gone = 0
        for _, number in over[: limits.EXPIRIES_MAX]:
            if gone >= limits.EXPIRIES_MAX:
                break
            gone += self._end_lease(number)

    def _end_lease(self, number: int) -> int:
        keys = sorted(key for key, row in self.rows.items() if row[4] == number)
        for key in keys:
            self._write(key, None, self.revision + 1)
        self.revision += bool(keys)
        del self.leases[number]
        return len(keys)

    def _write(self, key: bytes, row: Row | None, revision: int) -> None:
        self.rows = {k: r for k, r in self.rows.items() if k != key}
        if row is not None:
            self.rows[key] = row
        self.log.append((revision, key, row))

    def run(self, command: Command) -> tuple[Outcome, bool]:
        """What a command does, and whether it ran: a repeated one does not."""
        if isinstance(command.action, Barrier):
            return (self.revision, False, False, 0, "NONE", None), False
        if command.client in self.clients:
            number, (revision, existed, _, deleted, refusal, _) = self.clients[command.client]
            if command.sequence <= number:
                stale = command.sequence < number
                return (revision, existed, stale, deleted, refusal, None), False
        outcome = self._first_time(command)
        self.clients.pop(command.client, None)
        self.clients[command.client] = (command.sequence, outcome)
        return outcome, True

    def _first_time(self, command: Command) -> Outcome:
        match command.action:
            case Put() | Delete() as op:
                existed, deleted, refusal, responses = self._all_or_nothing((op,))
                if refusal == "NONE":
                    existed = responses[0] is True or deleted > 0
                return (self.revision, existed, False, deleted, refusal, None)
            case Txn(compare, then, otherwise):
                held = all(map(self._holds, compare))
                branch = then if held else otherwise
                _, deleted, refusal, responses = self._all_or_nothing(branch)
                return (self.revision, held, False, deleted, refusal, responses)
            case Grant(number, ttl_ms):
                if number in self.leases:
                    return (self.revision, False, False, 0, "LEASE_EXISTS", None)
                if len(self.leases) == limits.LEASES_MAX:
                    return (self.revision, False, False, 0, "TOO_MANY_LEASES", None)
                self.leases[number] = (ttl_ms, self.now_ms + ttl_ms)
            case KeepAlive(number):
                if not self._lives(number):
                    return (self.revision, False, False, 0, "NO_LEASE", None)
                ttl_ms = self.leases[number][0]
                self.leases[number] = (ttl_ms, self.now_ms + ttl_ms)
            case Revoke(number):
                if not self._lives(number):
                    return (self.revision, False, False, 0, "NO_LEASE", None)
                deleted = self._end_lease(number)
                return (self.revision, deleted > 0, False, deleted, "NONE", None)
        return (self.revision, False, False, 0, "NONE", None)

    def _lives(self, number: int) -> bool:
        return number in self.leases and self.leases[number][1] > self.now_ms

    def _holds(self, c: Compare) -> bool:
        if c.target.name == "VALUE":
            if c.key not in self.rows:
                return False
            left: Any = self.rows[c.key][0]
        else:
            place = {"CREATE": 1, "MOD": 2, "VERSION": 3, "LEASE": 4}[c.target.name]
            left = self.rows.get(c.key, (b"", 0, 0, 0, 0))[place]
        return {
            "EQUAL": left == c.operand,
            "NOT_EQUAL": left != c.operand,
            "LESS": left < c.operand,
            "GREATER": left > c.operand,
        }[c.relation.name]

    def within(self, key: bytes, end: bytes) -> list[bytes]:
        """The keys of a range, in order."""
        if end == b"":
            return [k for k in self.rows if k == key]
        return sorted(k for k in self.rows if k >= key and (end == b"\0" or k < end))

    def _all_or_nothing(self, branch: tuple[Any, ...]) -> tuple[bool, int, str, Any]:
        attempt = replace(self, log=[])
        try:
            attempt._check(branch)
        except _Refused as refused:
            return (False, 0, str(refused), None)
        budget = [limits.RANGE_KEYS_MAX, limits.RANGE_BYTES_MAX]
        responses = [attempt._do(op, self.revision + 1, budget) for op in branch]
        deleted = sum(r for r, op in zip(responses, branch, strict=True) if type(op) is Delete)
        self.revision += bool(attempt.log)
        self.rows = attempt.rows
        self.log += attempt.log
        return (False, deleted, "NONE", tuple(responses))

    def _check(self, branch: tuple[Any, ...]) -> None:
        puts = [op for op in branch if isinstance(op, Put)]
        if any(op.lease and not self._lives(op.lease) for op in puts):
            raise _Refused("NO_LEASE")
        doomed = [len(self.within(op.key, op.end)) for op in branch if isinstance(op, Delete)]
        if sum(doomed) > limits.RANGE_KEYS_MAX:
            raise _Refused("RANGE_TOO_LARGE")
        for number in {op.lease for op in puts if op.lease}:
            held = {key for key, row in self.rows.items() if row[4] == number}
            if len(held | {op.key for op in puts if op.lease == number}) > limits.RANGE_KEYS_MAX:
                if {op.key for op in puts if op.lease == number} <= held:
                    continue
                raise _Refused("LEASE_IS_FULL")
        before = self.size()
        after = dict(self.rows) | {op.key: (op.value,) for op in puts}
        size = sum(limits.ENTRY_BYTES + len(key) + len(row[0]) for key, row in after.items())
        if size > before and size > limits.STATE_BYTES_MAX:
            raise _Refused("STATE_IS_FULL")

    def size(self) -> int:
        """What the state counts."""
        rows = self.rows.items()
        return sum(limits.ENTRY_BYTES + len(key) + len(row[0]) for key, row in rows)

    def _do(self, op: Any, revision: int, budget: list[int]) -> Any:
        if isinstance(op, Put):
            old = self.rows.get(op.key)
            created, writes = (old[1], old[3]) if old else (revision, 0)
            self._write(op.key, (op.value, created, revision, writes + 1, op.lease), revision)
            return old is not None
        keys = self.within(op.key, op.end)
        if isinstance(op, Delete):
            for key in keys:
                self._write(key, None, revision)
            return len(keys)
        assert isinstance(op, Range)
        shown: list[tuple[bytes, Row]] = []
        for key in keys[: op.limit or None]:
            size = len(key) + len(self.rows[key][0])
            if budget[0] == 0 or budget[1] < size:
                break
            budget[0] -= 1
            budget[1] -= size
            shown.append((key, self.rows[key]))
        return (tuple(shown), len(keys), len(shown) < len(keys))
