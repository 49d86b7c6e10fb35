"""Members with disks and a network that does what the test says, one event at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import pairwise

from consensus.engine import Engine
from consensus.interface import (
    Checkpoints,
    Durations,
    Event,
    Output,
    PeerConnected,
    PeerLost,
    Received,
    Started,
    Submitted,
    Timer,
    TimerFired,
)
from consensus.types import Block, Vote
from consensus.wire import Message, decode, encode
from tests.simulation.store import SimStore
from tests.unit.consensus.clusters import CLUSTER_ID, GENESIS, Cluster

Filter = Callable[[int, int, Message], bool]


class Net:
    """``weights`` of the members; all are linked and have nothing to say before ``start``."""

    def __init__(
        self,
        *weights: int,
        durations: Durations = Durations(),  # noqa: B008
        checkpoints: Checkpoints = Checkpoints(),  # noqa: B008
        engine_class: type[Engine] = Engine,
    ) -> None:
        self.engine_class = engine_class
        self.checkpoints = checkpoints
        self.cluster = Cluster(weights or (1, 1, 1, 1))
        self.seats = self.cluster.validators.seats
        self.durations = durations
        self.stores = {s: self.new_store(s) for s in self.seats}
        self.engines: dict[int, Engine] = {}
        self.queue: deque[tuple[int, int, bytes]] = deque()
        self.cut: set[tuple[int, int]] = set()  # directed: messages vanish
        self.outputs: list[tuple[int, Output]] = []
        self.now_ms = 1_000
        self.boots = 0

    def new_store(self, seat: int) -> SimStore:
        return SimStore(CLUSTER_ID, seat, GENESIS, 64, self.checkpoints.every)

    # --- what the test does ---

    def start(self, *seats: int) -> None:
        """Starts members (all by default) from their disks, linked to all that run."""
        for seat in seats or self.seats:
            self.boots += 1
            self.engines[seat] = self.engine_class(
                cluster_id=CLUSTER_ID,
                validators=self.cluster.validators,
                seat=seat,
                signer=self.cluster.signers[seat],
                verifier=self.cluster.verifier,
                restored=self.stores[seat].restored(),
                boot_id=self.boots.to_bytes(32, "big"),
                durations=self.durations,
                checkpoints=self.checkpoints,
            )
            self.step(seat, Started())
            for other in list(self.engines):
                if other != seat:
                    self.step(other, PeerConnected(seat))
                    self.step(seat, PeerConnected(other))

    def crash(self, *seats: int) -> None:
        """Members die: what is not on their disks is gone, and so is what is on its way."""
        for seat in seats:
            del self.engines[seat]
            self.queue = deque(m for m in self.queue if seat not in m[:2])
        for seat in seats:
            for other in list(self.engines):
                self.step(other, PeerLost(seat))

    def step(self, seat: int, event: Event) -> Output:
        output = self.engines[seat].step(event, self.now_ms)
        self.outputs.append((seat, output))
        self.stores[seat].commit(output.persist)
        self.stores[seat].sync()
        for send in output.send:
            data = encode(send.message)
            for to in self.seats if send.to is None else [send.to]:
                if to != seat and to in self.engines and (seat, to) not in self.cut:
                    self.queue.append((seat, to, data))
        for serve in output.serve:
            reply = self.stores[seat].answer(serve)
            if reply is None or (seat, serve.to) in self.cut:
                continue
            if serve.to in self.engines:
                self.queue.append((seat, serve.to, encode(reply)))
        return output

    def deliver(self, keep: Filter = lambda *_: True, most: int = 20_000) -> None:
        """All messages arrive, and those that they cause; those that ``keep`` denies are lost."""
        while self.queue:
            most -= 1
            assert most, "the members never stop talking"
            self.deliver_one(keep)

    def deliver_one(self, keep: Filter = lambda *_: True) -> None:
        """The oldest message arrives, or is lost."""
        sender, seat, data = self.queue.popleft()
        message = decode(data, sender, CLUSTER_ID)
        if seat in self.engines and keep(sender, seat, message):
            self.step(seat, Received(sender, message))

    def fire(self, timer: Timer, *seats: int) -> None:
        """A timer runs out at members that are up (all by default)."""
        for seat in seats or tuple(self.engines):
            self.step(seat, TimerFired(timer))

    def submit(self, seat: int, raw: bytes) -> None:
        self.step(seat, Submitted((raw,)))

    def settle(self, rounds: int = 6) -> None:
        """Rounds of delivery and retries, as time passes without timeouts."""
        for _ in range(rounds):
            self.now_ms += 500
            self.deliver()
            self.fire(Timer.RETRY)
            self.fire(Timer.BOOT)
        self.deliver()

    # --- what the test asks ---

    @property
    def leader(self) -> int:
        """Of the highest term that anybody is in."""
        best = max(self.engines.values(), key=lambda e: e.view)
        return best.leader(best.view.term)

    def terms(self) -> set[int]:
        return {engine.view.term for engine in self.engines.values()}

    def delays(self, timer: Timer, seat: int) -> list[int]:
        """All delays that a member set a timer to, in order."""
        outputs = [o.timers.get(timer) for s, o in self.outputs if s == seat]
        return [delay for delay in outputs if delay is not None]

    def chain(self) -> list[Block]:
        """The longest finalized chain; asserts that all others are beginnings of it."""
        chains = sorted(([b for b, _ in s.chain] for s in self.stores.values()), key=len)
        for shorter, longer in pairwise(chains):
            hashes = [b.hash for b in shorter]
            assert hashes == [b.hash for b in longer[: len(shorter)]], "two finalized chains"
        return chains[-1]

    def votes(self, seat: int) -> set[Vote]:
        """Every vote that a member ever wrote to its disk."""
        return self.stores[seat].votes_ever
