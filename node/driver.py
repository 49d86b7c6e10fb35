"""Runs the consensus core: feeds it events, and carries out its effects in the order it demands.

One task steps the core. It takes all events that wait, steps through them, makes the merged
votes durable at once (so they share an fsync under load), and only then sends. Records of
finalized blocks may wait, and share a transaction with those of the next moment.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterable

import structlog
import trio

from consensus import wire
from consensus.commands import Command, encode_command
from consensus.engine import Engine
from consensus.interface import (
    Event,
    FinalizedRecord,
    LeaderChanged,
    Misbehaved,
    Output,
    PeerConnected,
    PeerLost,
    Received,
    Send,
    ServeBlocks,
    Started,
    StepDown,
    Submitted,
    Timer,
    TimerFired,
)
from consensus.machine import Applied, Result
from consensus.types import Reason
from node.facade import Busy, OutcomeUnknown
from node.network import (
    Mesh,
    MessageFrom,
    NetworkEvent,
    PayloadTooLarge,
    PeerDown,
    PeerUp,
    Priority,
)
from node.storage import Store

EVENTS_PER_BATCH = 512
INBOX_MAX = 4096
COMMANDS_WAITING_MAX = 4096
SYNC_DELAY_S = 0.05  # how long records of finalized blocks wait for others to share a transaction
SYNC_INLINE_S = 0.002  # a disk that is slower, on average, is waited for in a thread

_PRIORITIES: dict[type, Priority] = {
    wire.Commands: Priority.FORWARD,
    wire.SyncRequest: Priority.FORWARD,
    wire.SyncReply: Priority.BULK,
    wire.BlockReply: Priority.BULK,
}


class SafetyStop(Exception):
    """The core halted: going on could break safety. The daemon stops and must not be restarted."""


class Driver:
    """The trio side of one engine.

    Args:
        engine, store, mesh: this node's; the driver is the only one that steps the engine.
        cluster_id: 32 bytes, for decoding.
        on_applied: called for every finalized block, when the votes that made it final are durable.
        on_links: called when a link opened or closed.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        mesh: Mesh,
        *,
        cluster_id: bytes,
        on_applied: Callable[[Applied], None] = lambda _: None,
        on_links: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine = engine
        self.leader_changes = 0
        self.bad_messages = 0
        self._store = store
        self._mesh = mesh
        self._cluster_id = cluster_id
        self._on_applied = on_applied
        self._on_links = on_links
        self._inbox: deque[Event] = deque()
        self._wake = trio.Event()
        self._room = trio.Event()
        self._deadlines: dict[Timer, float] = {}
        self._waiting: dict[bytes, list[_Waiter]] = {}
        self._serving: set[int] = set()
        self._sync_at = math.inf  # when records that wait must be on disk
        self._sync_s = 0.0  # what a sync takes, smoothed
        self._log = structlog.get_logger("node.consensus")

    # --- for the node ---

    async def execute(self, command: Command, timeout_s: float) -> Result:
        """Has a command committed and returns what it did.

        Raises Busy when it was not accepted, OutcomeUnknown when it was, but no commit was seen
        in time: it may still happen.
        """
        known = self.engine.machine.answer(command.id)
        if known is not None:
            return known
        if len(self._waiting) >= COMMANDS_WAITING_MAX:
            raise Busy(f"{COMMANDS_WAITING_MAX} commands wait already")
        waiter = _Waiter()
        self._waiting.setdefault(command.id, []).append(waiter)
        try:
            self._put(Submitted((encode_command(command),)))
            with trio.move_on_after(timeout_s):
                await waiter.done.wait()
        finally:
            waiters = self._waiting.get(command.id)
            if waiters is not None:
                waiters.remove(waiter)
                if not waiters:
                    del self._waiting[command.id]
        if waiter.rejected:
            raise Busy(waiter.rejected)
        if waiter.result is None:
            raise OutcomeUnknown(f"no commit was seen within {timeout_s:g} s")
        return waiter.result

    def tell(self, event: Event) -> None:
        """Gives the core an event that comes from neither the network nor a client."""
        self._put(event)

    def step_down(self) -> None:
        """Gives up leadership, if this node has it."""
        self._put(StepDown())

    # --- the loop ---

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Drives the engine until cancelled. Raises SafetyStop, StorageError."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._put(Started())
            nursery.start_soon(self._pump)
            task_status.started()
            while True:
                events = await self._next_events()
                output = Output()
                now_ms = time.time_ns() // 1_000_000
                for event in events:
                    output.merge(self.engine.step(event, now_ms))
                await self._carry_out(output)

    def _put(self, event: Event) -> None:
        self._inbox.append(event)
        self._wake.set()

    async def _pump(self) -> None:
        """Network events to the inbox, decoded; stops taking when the core is behind."""
        events = self._mesh.events
        while True:
            self._take(await events.receive())
            # What else is there comes along without a turn of the scheduler for each.
            with contextlib.suppress(trio.WouldBlock):
                while len(self._inbox) < INBOX_MAX:
                    self._take(events.receive_nowait())
            while len(self._inbox) >= INBOX_MAX:
                self._room = trio.Event()
                await self._room.wait()

    def _take(self, event: NetworkEvent) -> None:
        match event:
            case MessageFrom(seat, payload):
                try:
                    message = wire.decode(payload, seat, self._cluster_id)
                except wire.WireError as error:
                    self.bad_messages += 1
                    self._log.warning("bad_message", peer=seat, error=str(error))
                    return
                self._put(Received(seat, message))
            case PeerUp(seat):
                self._put(PeerConnected(seat))
                self._on_links()
            case PeerDown(seat):
                self._put(PeerLost(seat))
                self._on_links()

    async def _next_events(self) -> list[Event]:
        """Waits for an event or a timer; returns what is there, timers first."""
        while True:
            now = trio.current_time()
            due = [timer for timer, at in self._deadlines.items() if at <= now]
            if due or self._inbox or now >= self._sync_at:
                break
            self._wake = trio.Event()
            deadline = min(self._sync_at, *self._deadlines.values(), now + 3600)
            with trio.move_on_at(deadline):
                await self._wake.wait()
        for timer in due:
            del self._deadlines[timer]
        events: list[Event] = [TimerFired(timer) for timer in due]
        commands: list[bytes] = []
        while self._inbox and len(events) < EVENTS_PER_BATCH:
            event = self._inbox.popleft()
            if isinstance(event, Submitted):
                commands += event.commands
            else:
                events.append(event)
        if commands:
            events.append(Submitted(tuple(commands)))
        self._room.set()
        return events

    async def _carry_out(self, output: Output) -> None:
        """The duties of ``consensus.interface.Output``, in its order."""
        if output.persist:
            self._store.write(output.persist)
            final = sum(isinstance(record, FinalizedRecord) for record in output.persist)
            if final < len(output.persist):
                await self._sync(self._store.sync_votes)
            if final:
                self._sync_at = min(self._sync_at, trio.current_time() + SYNC_DELAY_S)
        # Blocks are served from the database: what another member waits for must be there.
        if trio.current_time() >= self._sync_at or (output.serve and self._sync_at < math.inf):
            self._sync_at = math.inf
            await self._sync(self._store.sync)
        await trio.lowlevel.checkpoint()
        self._send_all(output.send)
        now = trio.current_time()
        for timer, delay_ms in output.timers.items():
            if delay_ms is None:
                self._deadlines.pop(timer, None)
            else:
                self._deadlines[timer] = now + delay_ms / 1000
        for applied in output.applied:
            self._answer(applied)
            self._on_applied(applied)
        for rejected in output.rejected:
            for waiter in self._waiting.get(rejected.command_id, ()):
                waiter.rejected = rejected.reason
                waiter.done.set()
        for request in output.serve:
            if request.to not in self._serving:
                self._serving.add(request.to)
                self._nursery.start_soon(self._serve, request)
        for notice in output.notices:
            match notice:
                case LeaderChanged(epoch, term, leader, reasons):
                    self.leader_changes += 1
                    why = {str(seat): Reason(code).name.lower() for seat, code in reasons.items()}
                    self._log.info(
                        "leader_changed", epoch=epoch, term=term, leader=leader, complaints=why
                    )
                case Misbehaved(seat, what):
                    self._log.warning("misbehaved", peer=seat, what=what)
        if output.halt is not None:
            raise SafetyStop(output.halt.reason)

    async def _sync(self, sync: Callable[[], None]) -> None:
        """Waits for the disk: in place while it is fast, which costs less than a thread's turn."""
        started = time.perf_counter()
        if self._sync_s < SYNC_INLINE_S:
            sync()
        else:
            await trio.to_thread.run_sync(sync)
        self._sync_s += (time.perf_counter() - started - self._sync_s) / 8

    def _send_all(self, sends: Iterable[Send]) -> None:
        for send in sends:
            payload = wire.encode(send.message)
            priority = _PRIORITIES.get(type(send.message), Priority.CONSENSUS)
            try:
                if send.to is None:
                    self._mesh.broadcast(payload, priority)
                else:
                    self._mesh.send(send.to, payload, priority)
            except PayloadTooLarge as error:
                kind = type(send.message).__name__
                self._log.error("message_too_large", kind=kind, reason=str(error))

    def _answer(self, applied: Applied) -> None:
        for command, result in applied.results:
            for waiter in self._waiting.get(command.id, ()):
                waiter.result = result
                waiter.done.set()

    async def _serve(self, request: ServeBlocks) -> None:
        """Blocks for a member that is behind; one answer at a time to each."""
        try:
            reply = await trio.to_thread.run_sync(
                self._store.blocks_from, request.from_height, request.count
            )
            if reply is not None:
                self._send_all([Send(request.to, reply)])
        finally:
            self._serving.discard(request.to)


class _Waiter:
    """A client that waits for its command."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: Result | None = None
        self.rejected = ""
