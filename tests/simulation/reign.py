"""A cluster that one seat leads from the start: how long does it stay, and who is served?"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial

from consensus.commands import Command, Put, encode_command
from consensus.engine import Engine
from consensus.interface import ChainHead, Durations, LeaderChanged, Output
from consensus.order import leader_order
from consensus.outcomes import Applied

from .bad_leaders import BAD_FROM_MS, VICTIM
from .members import Member
from .scenario import Scenario, Settings
from .world import World

READY_MS = 500.0  # the members are booted and linked
CHAIN_MS = 2000.0  # between two heads of the chain
DEFAULTS = Durations()


class Writer:
    """A client of one member: one command after another, each until it is applied."""

    def __init__(
        self, reign: Reign, seat: int, name: bytes, pause_ms: float, size: int = 100
    ) -> None:
        self._reign = reign
        self._seat = seat
        self._client = name.ljust(16, b".")
        self._pause_ms = pause_ms
        self._size = size
        self._sequence = 0
        self._since_ms = 0.0
        self.done = 0
        self.slowest_ms = 0.0
        reign.writers[self._client] = self
        reign.after(max(0.0, READY_MS - reign.now_ms), self.write)

    @property
    def waits_ms(self) -> float:
        """How long the present command has waited."""
        return self._reign.now_ms - self._since_ms

    def write(self) -> None:
        self._sequence += 1
        self._since_ms = self._reign.now_ms
        value = self._reign.rng.randbytes(4).ljust(self._size, b"v")
        command = Command(self._client, self._sequence, Put(b"key %d" % self._seat, value))
        self._reign.members[self._seat].submit(encode_command(command))

    def applied(self) -> None:
        self.done += 1
        self.slowest_ms = max(self.slowest_ms, self.waits_ms)
        self._reign.after(self._pause_ms, self.write)


class Reign(World):
    """Members boot, link and stay; the first leader may be of a kind of ``bad_leaders``.

    ``others`` gives the kinds of other seats, by their place in the order of leaders.
    """

    def __init__(
        self,
        bad: str | None = None,
        *,
        nodes: int = 4,
        seed: int = 1,
        durations: Durations = DEFAULTS,
        delay_ms: tuple[float, float] = (0.5, 5.0),
        others: dict[int, str] | None = None,
        engine_class: type[Engine] = Engine,
    ) -> None:
        settings = Settings(nodes=nodes, faults=(), clients=0)
        weights = dict.fromkeys(range(1, nodes + 1), 1)
        plain = World(Scenario(seed, settings, weights, {}, ()))
        self.order = leader_order(plain.validators)
        kinds = {} if bad is None else {self.order[0]: bad}
        kinds |= {self.order[place]: kind for place, kind in (others or {}).items()}
        scenario = Scenario(seed, settings, weights, kinds, (), delay_ms=delay_ms)
        super().__init__(scenario, engine_class)
        self.durations = durations
        self.writers: dict[bytes, Writer] = {}
        self.on_applied.append(self._applied)
        seats = sorted(self.members)
        for seat in seats:
            self.after(self.rng.uniform(0.0, 50.0), self.boot, seat)
        for i, a in enumerate(seats):
            for b in seats[i + 1 :]:
                self.after(60.0, self.network.try_connect, a, b)
        self._reigns: dict[int, set[tuple[int, int]]] = {seat: set() for seat in seats}
        for member in self.correct:
            member.observe = partial(self._observe, member, member.observe)  # type: ignore[method-assign]
        self._head = 0
        self.after(100.0, self._next_head)

    def _next_head(self) -> None:
        self._head += 1
        for member in self.members.values():
            member.handle(ChainHead(self._head, int(self.now_ms)))
        self.after(CHAIN_MS, self._next_head)

    def _observe(self, member: Member, tell: Callable[[Output], None], output: Output) -> None:
        tell(output)
        changes = [n for n in output.notices if isinstance(n, LeaderChanged)]
        self._reigns[member.seat].update((n.epoch, n.term) for n in changes)

    def _applied(self, member: Member, applied: Applied) -> None:
        for command, _ in applied.results:
            writer = self.writers.get(command.client)
            if writer is not None and member.seat == writer._seat and member.correct:
                writer.applied()

    # --- what tests ask ---

    @property
    def changes(self) -> int:
        """How often the leader changed, as all correct members that run saw it."""
        return min(len(self._reigns[m.seat]) for m in self.correct if m.up)

    @property
    def victim(self) -> int:
        """The correct member of the highest number."""
        return max(m.seat for m in self.correct)

    def run_until(self, done: Callable[[], object], limit_ms: float) -> float | None:
        """Simulated milliseconds until ``done``, None when it takes longer than ``limit_ms``."""
        began = self.now_ms
        while self._heap and self.now_ms - began <= limit_ms:
            if done():
                return self.now_ms - began
            self.now_ms, _, call, arguments = heapq.heappop(self._heap)
            self.events += 1
            call(*arguments)
        return None

    def run_for(self, duration_ms: float) -> None:
        """Lets simulated time pass."""
        self.run_until(lambda: False, duration_ms)


def replaced_after(
    kind: str,
    durations: Durations,
    *,
    busy: bool = False,
    seed: int = 1,
    engine_class: type[Engine] = Engine,
    limit_ms: float = 6000.0,
) -> float | None:
    """Milliseconds until another leader is there and has served the one who was left out."""
    reign = Reign(kind, seed=seed, durations=durations, engine_class=engine_class)
    if busy:
        for place in (1, 2):
            Writer(reign, reign.order[place], b"writer %d" % place, 30.0)
    reign.run_for(BAD_FROM_MS)
    victim = Writer(reign, reign.victim, VICTIM, 100.0)
    return reign.run_until(lambda: reign.changes and victim.done > 0, limit_ms)
