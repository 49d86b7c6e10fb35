"""One seat's process: engine, disk, timers, clock; and how it carries out the engine's duties."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.engine import Engine
from consensus.interface import (
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
from consensus.wire import Message

from .store import SimStore

if TYPE_CHECKING:
    from .world import World


SYNC_DELAY_MS = 250.0  # finalized blocks wait that long for other records, as in the daemon


class Member:
    """A process that runs the engine as the daemon does: persist, then send, then the rest."""

    correct = True

    def __init__(self, world: World, seat: int, engine_class: type[Engine] = Engine) -> None:
        self.world = world
        self.seat = seat
        self.engine_class = engine_class
        self.store: SimStore = world.new_store(seat)
        self.engine: Engine | None = None
        self.life = 0  # counts starts: what belongs to an earlier one is dropped
        self.offset_ms = 0.0
        self._pause: int | None = None  # number of the pause that this process is in
        self._held: list[Event] = []  # what happened in that pause
        self.late = False  # more of it waits while a step is taken
        self.crash_after: int | None = None  # duties to carry out before the planned crash
        self.halted: str | None = None
        self._timers: dict[Timer, int] = {}
        self._pending: Output | None = None
        self._flush_planned = False

    @property
    def up(self) -> bool:
        return self.engine is not None

    def start(self) -> None:
        """Boots from what is on disk."""
        assert self.engine is None
        self.life += 1
        self.engine = self.engine_class(
            cluster_id=self.world.cluster_id,
            validators=self.world.validators,
            seat=self.seat,
            signer=self.world.signers[self.seat],
            verifier=self.world.verifier,
            restored=self.store.restored(),
            boot_id=self.boot_id(),
            durations=self.world.durations,
            checkpoints=self.world.scenario.checkpoints,
        )
        self.world.chain.starting(self)
        self.handle(Started())
        self.world.chain.started(self)

    def boot_id(self) -> bytes:
        return self.world.rng.randbytes(32)

    def crash(self) -> None:
        """The process dies: everything that is not in the store is gone."""
        self.engine = None
        self._timers.clear()
        self._pending = None
        self._flush_planned = False
        self.crash_after = None
        self._pause = None
        self._held.clear()
        self.world.network.process_died(self.seat)

    def pause(self, lasts_ms: float) -> None:
        """Stops the process for a while; a later pause takes the place of this one."""
        self._pause = self.world.next_number()
        self.world.after(lasts_ms, self._end_pause, self._pause)

    def _end_pause(self, number: int) -> None:
        if self._pause == number:
            self.resume()

    def resume(self) -> None:
        """Ends a pause: what happened in it is handled now, in the order in which it happened."""
        life, held = self.life, self._held
        self._pause, self._held = None, []
        for number, event in enumerate(held, 1):
            if self.life == life:
                self.late = number < len(held)
                self.handle(event)
        self.late = False

    # --- events in ---

    def handle(self, event: Event) -> None:
        if self.engine is None or self.halted:
            return
        if self._pause is not None:
            self._held.append(event)
            return
        if self.correct:
            self.world.oracle.duties.hears(self, event)
        output = self.engine.step(event, int(self.world.now_ms + self.offset_ms))
        self.observe(output)
        if self._pending is None:
            self._pending = output
        else:
            self._pending.merge(output)
        wait = self.world.scenario.group_commit_ms
        if wait == 0.0 or output.installed:
            self._flush(self.life)
        elif not self._flush_planned:
            self._flush_planned = True
            self.world.after(self.world.rng.uniform(0.0, wait), self._flush, self.life)

    def receive(self, sender: int, message: Message) -> None:
        self.handle(Received(sender, message))

    def connected(self, peer: int) -> None:
        self.handle(PeerConnected(peer))

    def lost(self, peer: int) -> None:
        self.handle(PeerLost(peer))

    def submit(self, raw: bytes) -> None:
        self.handle(Submitted((raw,)))

    def _timer(self, timer: Timer, number: int, life: int) -> None:
        if self.life == life and self._timers.get(timer) == number:
            del self._timers[timer]
            self.handle(TimerFired(timer))

    # --- duties out ---

    def _flush(self, life: int) -> None:
        if life != self.life or self.engine is None:
            return
        self._flush_planned = False
        output, self._pending = self._pending, None
        if output is None:
            return
        if self._dies():
            return
        self.store.commit(output.persist)
        if self.store.waiting:
            self.world.after(SYNC_DELAY_MS, self._sync, self.life)
        self.persisted(output)
        if self._dies():
            return
        for send in output.send:
            self.transmit(send.to, send.message)
            if self._dies():
                return
        for applied in output.applied:
            for tell in self.world.on_applied:
                tell(self, applied)
        for timer, delay_ms in output.timers.items():
            self._timers.pop(timer, None)
            if delay_ms is not None:
                number = self.world.next_number()
                self._timers[timer] = number
                self.world.after(float(delay_ms), self._timer, timer, number, self.life)
        for serve in output.serve:
            reply = self.store.answer(serve)
            if reply is not None:
                self.transmit(serve.to, reply)
        if output.halt is not None:
            self.halted = output.halt.reason
            self.stopped()

    def _sync(self, life: int) -> None:
        if life == self.life and self.engine is not None:
            self.store.sync()

    def _dies(self) -> bool:
        if self.crash_after is None:
            return False
        if self.crash_after == 0:
            self.crash()
            return True
        self.crash_after -= 1
        return False

    # --- what adversaries change ---

    def transmit(self, to: int | None, message: Message) -> None:
        self.world.oracle.sends(self, message)
        self.world.network.send(self.seat, to, message)

    def observe(self, output: Output) -> None:
        self.world.oracle.stepped(self, output)

    def persisted(self, output: Output) -> None:
        self.world.oracle.persisted(self, output)

    def stopped(self) -> None:
        self.world.oracle.halted(self)
