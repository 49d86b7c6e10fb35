"""Clients that write down what they asked and what they were told, each request at any node.

An observer does one thing after another. What has no answer is asked again now and then under the
same request id, at another node: to the checker that is one operation, called when it was first
asked. ``written`` has the revision of every write that was acknowledged, to be held against what
watchers were shown.
"""

from __future__ import annotations

import itertools
import random
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import trio

from consensus.commands import Compare, Put, Range, Relation, Target, Txn, prefix_end
from node.client import ApiClient
from node.facade import Busy, Entry, Found, NodeError, NotDone
from tests.integration.testnet import Testnet
from tests.linearizability.checker import ABSENT, Operation, State

TIMEOUT_S = 3.0
PAUSE_S = 0.02
TRIES = 3
KEYS = (b"x", b"y")
GENERATION = 80  # answers, until other keys are used
KINDS = ("put", "put", "get", "get", "delete")
ALL_KINDS = (*KINDS, "swap", "swap", "range", "read in a transaction")


@dataclass
class Observers:
    """Concurrent clients; ``history`` is for the checker."""

    testnet: Testnet
    seed: int
    clients: int = 6
    kinds: tuple[str, ...] = KINDS
    retries: bool = False
    history: list[Operation] = field(default_factory=list)
    written: dict[int, tuple[bytes, bytes | None]] = field(default_factory=dict)
    stopping: bool = False
    dead: set[int] = field(default_factory=set)  # killed seats: asking them would say nothing
    pause_s: float = 0.0
    stem: bytes = field(default_factory=lambda: secrets.token_hex(4).encode())

    def _generation(self) -> bytes:
        """What the keys of now begin with: the checker's work grows fast with a key's history."""
        return b"%s/%d/" % (self.stem, len(self.history) // GENERATION)

    async def run(self) -> None:
        """Until ``stopping``."""
        async with trio.open_nursery() as nursery:
            for number in range(self.clients):
                nursery.start_soon(self._client, number)

    async def wait_more(self, answers: int, deadline_s: float = 60) -> None:
        """Returns when so many more requests have been answered."""
        goal = self.answered + answers
        with trio.fail_after(deadline_s):
            while self.answered < goal:
                await trio.sleep(PAUSE_S)

    @property
    def answered(self) -> int:
        """How many requests have been."""
        return sum(o.answer is not None for o in self.history)

    async def _client(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        count = 0
        while not self.stopping:
            count += 1
            stem = self._generation()
            kind, key = rng.choice(self.kinds), stem + rng.choice(KEYS)
            value = b"%d/%d" % (number, count)
            reads = kind in ("range", "read in a transaction")
            asked = Operation(
                str(number), "get" if reads else kind, key, trio.current_time(), value
            )
            if kind == "swap":
                asked = replace(asked, expected=self._guess(rng, key))
            tries = TRIES if self.retries and rng.random() < 0.7 else 1
            answers = await self._answers(rng, kind, asked, tries)
            if answers is None:
                self.history.append(asked)
            if not answers:
                await trio.sleep(PAUSE_S)
            for key, answer in answers or ():
                told = replace(asked, key=key, answer=answer, returned=trio.current_time())
                self.history.append(told)
            if self.pause_s:
                await trio.sleep(rng.expovariate(1 / self.pause_s))

    def _guess(self, rng: random.Random, key: bytes) -> bytes | None:
        """What the key may hold."""
        late = [o.value for o in self.history[-8:] if o.key == key and o.kind != "get"]
        return rng.choice([None, *late, *late])

    async def _answers(
        self, rng: random.Random, kind: str, asked: Operation, tries: int
    ) -> list[tuple[bytes, bool | State]] | None:
        """What came back, by key; empty when nothing was done, None when nobody knows."""
        name, refused = secrets.token_bytes(16).hex(), True
        for _ in range(tries):
            seats = [seat for seat in self.testnet.seats if seat not in self.dead]
            seat = rng.choice(seats or self.testnet.seats)
            try:
                async with self.testnet.client(seat, TIMEOUT_S) as client:
                    return await self._ask(client, kind, asked, name)
            except Busy:  # refused before it was taken, this time
                await trio.sleep(PAUSE_S)
            except NodeError as error:
                # Who could not even be reached did nothing: the less is unknown, the less the
                # checker has to try.
                refused = refused and "ConnectError" in str(error)
                await trio.sleep(PAUSE_S)
        return [] if refused else None

    async def _ask(
        self, client: ApiClient, kind: str, asked: Operation, name: str
    ) -> list[tuple[bytes, bool | State]]:
        key = asked.key
        stem = key.rpartition(b"/")[0] + b"/"
        match kind:
            case "put":
                write = await client.put(key, asked.value, request_id=name)
                self.written[write.revision] = (key, asked.value)
                return [(key, write.existed)]
            case "delete":
                write = await client.delete(key, request_id=name)
                if write.existed:
                    self.written[write.revision] = (key, None)
                return [(key, write.existed)]
            case "swap":
                outcome = await client.txn(_swap(asked), request_id=name)
                if outcome.succeeded:
                    self.written[outcome.revision] = (key, asked.value)
                return [(key, outcome.succeeded)]
            case "range":
                found = await client.range(stem, prefix_end(stem))
                return list(_states(stem, found))
            case "read in a transaction":
                whole = Range(stem, prefix_end(stem))
                outcome = await client.txn(Txn((), (whole,)), request_id=name)
                if outcome.responses is None:  # a repetition does not say what was read
                    return []
                (found,) = outcome.responses
                assert isinstance(found, Found)
                return list(_states(stem, found))
            case _:
                entry = await client.get(key)
                return [(key, _state(entry))]


def _states(stem: bytes, found: Found) -> Iterator[tuple[bytes, State]]:
    entries = dict(found.entries)
    for name in KEYS:
        yield stem + name, _state(entries.get(stem + name))


def _state(entry: Entry | None) -> State:
    return ABSENT if entry is None else (entry.value, entry.version)


def _swap(asked: Operation) -> Txn:
    if asked.expected is None:
        compare = Compare(asked.key, Target.VERSION, Relation.EQUAL, 0)
    else:
        compare = Compare(asked.key, Target.VALUE, Relation.EQUAL, asked.expected)
    return Txn((compare,), (Put(asked.key, asked.value),))


TTL_MS = 5_000
EARLY_S = 2.5  # a lease may end before its time by the difference of two clocks (2 s), and this
KEEP_EVERY_S = 1.0


@dataclass
class Lived:
    """One lease and its key; times on trio's clock."""

    lease: int
    key: bytes
    kept_called_s: float  # when the last keep-alive that was answered was asked for
    maybe_kept_s: float  # when the last one was asked for, answered or not
    over: bool = False


@dataclass
class Leaseholders:
    """Clients that keep a lease alive for a while and then let it go."""

    testnet: Testnet
    seed: int
    clients: int = 2
    stem: bytes = field(default_factory=lambda: b"lease/" + secrets.token_hex(4).encode())
    lived: list[Lived] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    stopping: bool = False

    async def run(self) -> None:
        """Until ``stopping``."""
        async with trio.open_nursery() as nursery:
            for number in range(self.clients):
                nursery.start_soon(self._holder, number)

    async def _holder(self, number: int) -> None:
        rng = random.Random(f"{self.seed} lease {number}")
        for count in itertools.count():
            if self.stopping:
                return
            row = await self._begin(rng, b"%s/%d/%d" % (self.stem, number, count))
            if row is None:
                await trio.sleep(PAUSE_S)
                continue
            self.lived.append(row)
            for _ in range(rng.randrange(8)):
                await trio.sleep(KEEP_EVERY_S)
                if self.stopping or not await self._keep(rng, row):
                    break
            await trio.sleep(rng.uniform(0, TTL_MS / 1000))

    async def _begin(self, rng: random.Random, key: bytes) -> Lived | None:
        called_s = trio.current_time()
        try:
            async with self.testnet.client(rng.choice(self.testnet.seats), TIMEOUT_S) as client:
                lease = (await client.grant(TTL_MS)).lease
            async with self.testnet.client(rng.choice(self.testnet.seats), TIMEOUT_S) as client:
                await client.put(key, b"held", lease=lease)
        except NotDone as error:
            if trio.current_time() < called_s + TTL_MS / 1000 - EARLY_S:
                self.violations.append(f"a lease of {key!r} ended at once: {error}")
            return None
        except NodeError:
            return None
        return Lived(lease, key, called_s, called_s)

    async def _keep(self, rng: random.Random, row: Lived) -> bool:
        called_s = row.maybe_kept_s = trio.current_time()
        try:
            async with self.testnet.client(rng.choice(self.testnet.seats), TIMEOUT_S) as client:
                await client.keep_alive(row.lease)
        except NotDone:
            if trio.current_time() < row.kept_called_s + TTL_MS / 1000 - EARLY_S:
                self.violations.append(f"the lease of {row.key!r} was over too early")
            return False
        except NodeError:
            return True
        row.kept_called_s = called_s
        return True

    def early(self, deleted_s: Callable[[bytes], float | None]) -> list[str]:
        """Leases that ended before their time, by when somebody first saw their keys go."""
        found = list(self.violations)
        for row in self.lived:
            seen_s = deleted_s(row.key)
            least_s = row.kept_called_s + TTL_MS / 1000 - EARLY_S
            if seen_s is not None and seen_s < least_s:
                found.append(f"{row.key!r} went {least_s - seen_s:.2f} s too early")
        return found
