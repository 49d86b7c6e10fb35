"""Runs the consensus core: feeds it events, and carries out its effects in the order it demands.

One task steps the core. It takes all events that wait, steps through them, makes the merged
votes durable at once (so they share an fsync under load), and only then sends. Records of
finalized blocks may wait, and share a transaction with those of the next moment.

While that task has nothing to do and the disks are quick, what a link brings is dealt with in the
link's own task: the same turn, without the scheduler's way from one task to the other.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import structlog
import trio

from consensus import wire
from consensus.buckets import TokenBuckets
from consensus.commands import Command, decode_command, encode_command
from consensus.engine import Engine
from consensus.errors import WireError
from consensus.interface import (
    Alarm,
    Complain,
    EpochOpened,
    EpochRecord,
    Event,
    FinalizedRecord,
    InstallRecord,
    LeaderChanged,
    Misbehaved,
    Output,
    PeerConnected,
    PeerLost,
    Received,
    Record,
    Send,
    ServeBlocks,
    ServeEpochs,
    ServeSnapshot,
    Started,
    StepDown,
    Submitted,
    Timer,
    TimerFired,
)
from consensus.outcomes import Applied, Result
from consensus.types import Reason, raw_command_id
from node.archivist import Archivist
from node.deadlines import Deadlines
from node.facade import BadRequest, Busy, OutcomeUnknown
from node.history import History
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

LINES_BURST, LINES_REFILL_MS = 8, 1000  # of the log about one member
EVENTS_PER_BATCH = 512
TURN_S = 0.05  # of what members sent, until timers have their turn: late ones accuse nobody (R12)
COMMANDS_WAITING_MAX = 4096
SYNC_DELAY_S = 0.25  # how long records of finalized blocks wait for others to share a transaction
SYNC_INLINE_S = 0.005  # a disk that is never faster is waited for in a thread
SYNC_STALL_S = 0.25  # after one wait as long as this the next one is in a thread
SYNCS_KEPT = 16
SERVED_AT_ONCE_MAX = 4  # of what members ask from disk: the votes' sync needs a thread at once

_PRIORITIES: dict[type, Priority] = {
    wire.Commands: Priority.FORWARD,
    wire.SyncRequest: Priority.FORWARD,
    wire.SyncReply: Priority.BULK,
    wire.BlockReply: Priority.BULK,
    wire.EpochRequest: Priority.FORWARD,
    wire.EpochReply: Priority.BULK,
    wire.SnapshotRequest: Priority.FORWARD,
    wire.SnapshotOffer: Priority.BULK,
    wire.SnapshotChunk: Priority.BULK,
}


class SafetyStop(Exception):
    """The core halted: going on could break safety. The daemon stops and must not be restarted."""


class Driver:
    """The trio side of one engine.

    Args:
        engine, store, mesh: this node's; the driver is the only one that steps the engine.
        cluster_id: 32 bytes, for decoding.
        archivist: makes and serves snapshots; without one there are none.
        on_applied: called for every finalized block, when the votes that made it final are durable.
        on_links: called when a link opened or closed.
        on_epoch: called when another epoch began; the store has it.
    """

    def __init__(
        self,
        engine: Engine,
        store: Store,
        mesh: Mesh,
        *,
        cluster_id: bytes,
        archivist: Archivist | None = None,
        on_applied: Callable[[Applied], None] = lambda _: None,
        on_links: Callable[[], None] = lambda: None,
        on_epoch: Callable[[EpochOpened], None] = lambda _: None,
    ) -> None:
        self.engine = engine
        self.history = History(engine.machine, store.history.rows())
        self.leader_changes = 0
        self.bad_messages = 0
        self._lines = TokenBuckets(LINES_BURST, LINES_REFILL_MS)
        self._suppressed: dict[int, int] = {}  # lines about a seat that were not written
        self._store = store
        self._mesh = mesh
        self._cluster_id = cluster_id
        self._archivist = archivist
        self._on_applied = on_applied
        self._on_links = on_links
        self._on_epoch = on_epoch
        self._inbox: deque[Event] = deque()  # of this node
        self._fired: deque[Timer] = deque()
        self._woken = trio.Event()  # not set while the task waits
        self._in_turn = False  # of a link's task
        self._failure: Exception | None = None  # of such a turn
        # None: the sync of what is final. A cancel scope for each waiter would cost far more.
        self._deadlines: Deadlines[Timer | _Waiter | None] = Deadlines()
        self._ended = False
        self._waiting: dict[bytes, list[_Waiter]] = {}
        self._serving: set[tuple[int, type]] = set()
        self._readers = trio.CapacityLimiter(SERVED_AT_ONCE_MAX)
        self._unsynced = False  # finalized blocks wait for a sync
        self._sync_due = False
        self._votes_disk = _Disk(store.sync_votes)
        self._final_disk = _Disk(store.sync)
        self._log = structlog.get_logger("node.consensus")

    # --- for the node ---

    async def execute(self, command: Command, timeout_s: float) -> Result:
        """Has a command committed and returns what it did.

        Raises BadRequest for what is no command to other members, Busy when it was not accepted,
        OutcomeUnknown when it was, but no commit was seen in time: it may still happen.
        """
        raw = _encoded(command)
        known = self.engine.machine.answer(command.id)
        if known is not None:
            with trio.move_on_after(timeout_s):
                await self.history.settle()
                return known
            raise OutcomeUnknown(f"it was not on this node's disk within {timeout_s:g} s")
        if len(self._waiting) >= COMMANDS_WAITING_MAX:
            raise Busy(f"{COMMANDS_WAITING_MAX} commands wait already")
        if self._ended:
            raise Busy("the node stops")
        waiter, command_id = _Waiter(), command.id
        waiters = self._waiting.setdefault(command_id, [])
        waiters.append(waiter)
        self._deadlines.set(waiter, trio.current_time() + timeout_s)
        try:
            self._put(Submitted((raw,)))
            await waiter.done.wait()
        finally:
            self._deadlines.cancel(waiter)
            waiters.remove(waiter)
            if not waiters:
                self._waiting.pop(command_id, None)
        if waiter.result is not None:  # the core refuses what others had committed just before
            return waiter.result
        if waiter.rejected:
            raise Busy(waiter.rejected)
        if self._ended:
            raise OutcomeUnknown("the node stopped before a commit was seen")
        raise OutcomeUnknown(f"no commit was seen within {timeout_s:g} s")

    def tell(self, event: Event) -> None:
        """Gives the core an event that comes from neither the network nor a client."""
        self._put(event)

    def step_down(self) -> None:
        """Gives up leadership, if this node has it."""
        self._put(StepDown())

    def complain(self) -> None:
        """Complains about the leader, on the operator's word."""
        self._put(Complain())

    # --- the loop ---

    async def run(
        self,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined, unused-ignore]
    ) -> None:
        """Drives the engine until cancelled. Raises SafetyStop, StorageError."""
        self._mesh.events.on_arrival = self._arrived
        self._mesh.events.on_notice = self._wake
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._deadlines.run, self._due)
                self._keep_snapshot()
                self._put(Started())
                task_status.started()
                while True:
                    await self._wait()
                    if self._failure is not None:
                        raise self._failure
                    for disk in self._turn(self._next_events()):
                        await disk.sync()
        finally:
            self._mesh.events.on_arrival = self._wake  # links may outlive us
            self._ended = True
            for waiters in self._waiting.values():
                for waiter in waiters:
                    waiter.done.set()

    def _turn(self, events: Iterable[Event]) -> Iterator[_Disk]:
        """Steps through events and carries out what follows; yields disks to be waited for."""
        output = Output()
        now_ms = time.time_ns() // 1_000_000
        for event in events:
            output.merge(self.engine.step(event, now_ms))
            if output.installed:  # to disk before the state changes again
                yield from self._duties(output)
                output = Output()
        # What came in may have moved a timer that ran out meanwhile: then it did not.
        while self._fired:
            timer = self._fired.popleft()
            if timer not in output.timers:
                output.merge(self.engine.step(TimerFired(timer), now_ms))
        yield from self._duties(output)

    def _arrived(self) -> None:
        """A link brought something: a turn now, when the task is idle and nothing can hold it up.

        An error is the task's, and ends it as if it had come there.
        """
        idle = not (self._woken.is_set() or self._in_turn or self._failure)
        if not (idle and self._votes_disk.is_quick and self._final_disk.is_quick):
            self._wake()
            return
        self._in_turn = True
        try:
            for disk in self._turn(self._from_network()):
                disk.sync_here()
        except Exception as error:
            self._failure = error
        finally:
            self._in_turn = False
        if self._failure is not None or self._mesh.events:
            self._wake()

    def _put(self, event: Event) -> None:
        self._inbox.append(event)
        self._wake()

    def _wake(self) -> None:
        self._woken.set()

    def _due(self, what: Timer | _Waiter | None) -> None:
        if isinstance(what, _Waiter):
            what.done.set()
            return
        if what is None:
            self._sync_due = True
        else:
            self._fired.append(what)
        self._wake()

    async def _wait(self) -> None:
        """Until there is something to do; other tasks have their turn in any case."""
        if self._inbox or self._mesh.events or self._fired or self._sync_due:
            await trio.lowlevel.checkpoint()
            return
        self._woken = trio.Event()
        await self._woken.wait()

    def _next_events(self) -> Iterator[Event]:
        """What waits: first of the network, at most a batch, then everything of this node."""
        yield from self._from_network()
        commands: list[bytes] = []
        while self._inbox:
            event = self._inbox.popleft()
            if isinstance(event, Submitted):
                commands += event.commands
            else:
                yield event
        if commands:
            yield Submitted(tuple(commands))

    def _from_network(self) -> Iterator[Event]:
        events = self._mesh.events
        until = time.perf_counter() + TURN_S
        for _ in range(EVENTS_PER_BATCH):
            if not events:
                break
            event = self._decoded(events.receive_nowait())
            if event is not None:
                yield event
            if time.perf_counter() >= until:
                break

    def _decoded(self, event: NetworkEvent) -> Event | None:
        match event:
            case MessageFrom(seat, payload):
                try:
                    return Received(seat, wire.decode(payload, seat, self._cluster_id))
                except WireError as error:
                    self.bad_messages += 1
                    self._warn("bad_message", seat, error=str(error))
                    return None
            case PeerUp(seat):
                self._on_links()
                return PeerConnected(seat)
            case PeerDown(seat):
                self._on_links()
                return PeerLost(seat)

    def _duties(self, output: Output) -> Iterator[_Disk]:
        """Carries out ``consensus.interface.Output``, in its order; yields as ``_turn``."""
        for applied in output.applied:
            self.history.note(self.engine.machine, applied)
        urgent, final = _parted(output.persist)
        if urgent:
            self._store.write(urgent)
            yield self._votes_disk
        if output.send:
            with self._mesh.burst():
                self._send_all(output.send)
        if output.timers:
            self._set_timers(output.timers)
        if output.installed:
            self._keep_snapshot()
            self._answer_from_snapshot()
        for applied in output.applied:
            self.history.publish(applied.revision)
            self._answer(applied)
            self._on_applied(applied)
        for rejected in output.rejected:
            for waiter in self._waiting.get(rejected.command_id, ()):
                waiter.rejected = rejected.reason
                waiter.done.set()
        # What is final may wait: others need not wait for it.
        if final:
            self._store.write(final)
            if not self._unsynced:
                self._unsynced = True
                self._deadlines.set(None, trio.current_time() + SYNC_DELAY_S)
            if self._archivist is not None and (pinned := self._store.take_pinned()) is not None:
                self._nursery.start_soon(self._archivist.make, pinned)
        # Blocks are served from the database: what another member waits for must be there. Whoever
        # asks again before it has its answer is not heard, and makes nobody sync.
        serve = [r for r in output.serve if (r.to, type(r)) not in self._serving]
        if self._sync_due or (serve and self._unsynced):
            self._unsynced = self._sync_due = False
            self._deadlines.cancel(None)
            yield self._final_disk
        for request in serve:
            if isinstance(request, ServeEpochs):
                self._nursery.start_soon(self._serve_epochs, request)
            elif (request.to, type(request)) not in self._serving:
                self._serving.add((request.to, type(request)))
                self._nursery.start_soon(self._serve, request)
        for notice in output.notices:
            self._note(notice)
        if output.halt is not None:
            raise SafetyStop(output.halt.reason)

    def _set_timers(self, timers: dict[Timer, int | None]) -> None:
        now = trio.current_time()
        # What ran out while its new time waited for the disk ran out under the old one.
        self._fired = deque(timer for timer in self._fired if timer not in timers)
        for timer, delay_ms in timers.items():
            if delay_ms is None:
                self._deadlines.cancel(timer)
            else:
                self._deadlines.set(timer, now + delay_ms / 1000)

    def _warn(self, event: str, seat: int, **what: str) -> None:
        """A line about a member: lines cost too, so a flood of offences makes few of them."""
        if self._lines.take(seat, round(trio.current_time() * 1000)):
            suppressed = self._suppressed.pop(seat, 0)
            self._log.warning(event, peer=seat, suppressed=suppressed, **what)
        else:
            self._suppressed[seat] = self._suppressed.get(seat, 0) + 1

    def _note(self, notice: LeaderChanged | Misbehaved | EpochOpened | Alarm) -> None:
        match notice:
            case LeaderChanged(epoch, term, leader, reasons):
                self.leader_changes += 1
                why = {str(seat): Reason(code).name.lower() for seat, code in reasons.items()}
                self._log.info(
                    "leader_changed", epoch=epoch, term=term, leader=leader, complaints=why
                )
            case Misbehaved(seat, what):
                self._warn("misbehaved", seat, what=what)
            case EpochOpened():
                self._on_epoch(notice)
            case Alarm(what):
                self._log.critical("alarm", reason=what)

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
        if not self._waiting:
            return
        for raw, (_, result) in zip(applied.block.commands, applied.results, strict=True):
            for waiter in self._waiting.get(raw_command_id(raw), ()):
                waiter.result = result
                waiter.done.set()

    async def _serve_epochs(self, request: ServeEpochs) -> None:
        """How the epoch of a member that is behind ended; the core bounds how often."""
        reply = await trio.to_thread.run_sync(
            self._store.openings_from, request.epoch, limiter=self._readers
        )
        if reply is not None:
            self._send_all([Send(request.to, reply)])

    def _keep_snapshot(self) -> None:
        """A snapshot that was taken over becomes a file; at the start, if we were killed before."""
        archivist = self._archivist
        manifest = self._store.taken_over() if archivist is not None else None
        if archivist and manifest and manifest.header.height not in archivist.heights:
            pinned = self._store.pin(manifest.header.height, self.engine.machine.revision)
            self._nursery.start_soon(archivist.keep, pinned, manifest)

    def _answer_from_snapshot(self) -> None:
        """Readers see the new state; so do commands of blocks that we never saw."""
        self.history.replaced(self.engine.machine)
        self._log.info("snapshot_installed", height=self.engine.ledger.tip.height)
        for command_id, waiters in self._waiting.items():
            result = self.engine.machine.answer(command_id)
            for waiter in waiters if result is not None else ():
                waiter.result = result
                waiter.done.set()

    async def _serve(self, request: ServeBlocks | ServeSnapshot) -> None:
        """Something big for a member that is behind; one answer at a time to each."""
        try:
            reply = await trio.to_thread.run_sync(
                self._answer_from_disk, request, limiter=self._readers
            )
            if reply is not None:
                self._send_all([Send(request.to, reply)])
        finally:
            self._serving.discard((request.to, type(request)))

    def _answer_from_disk(self, request: ServeBlocks | ServeSnapshot) -> wire.Message | None:
        archivist = self._archivist
        if isinstance(request, ServeBlocks):
            blocks = self._store.blocks_from(request.from_height, request.count)
            return archivist.offer() if blocks is None and archivist else blocks
        if archivist is None:
            return None
        if request.height == 0:
            return archivist.offer()
        return archivist.chunk(request.height, request.chunk)


def _encoded(command: Command) -> bytes:
    """The bytes of a command that every member can read.

    Nobody could vote for a block with another one, and its maker not even read it from its own
    disk after a restart. Raises BadRequest.
    """
    try:
        raw = encode_command(command)
        decode_command(raw)
    except (WireError, struct.error) as error:
        raise BadRequest(f"no member could read this: {error}") from None
    return raw


def _parted(records: list[Record]) -> tuple[list[Record], list[Record]]:
    """What must be on disk before anything is sent, and finalized blocks, which may wait; but an
    epoch and a snapshot stand on what was before, so there all of it comes first, in order."""
    if any(isinstance(record, EpochRecord | InstallRecord) for record in records):
        return records, []
    final: list[Record] = [record for record in records if isinstance(record, FinalizedRecord)]
    if not final:
        return records, []
    return [record for record in records if not isinstance(record, FinalizedRecord)], final


class _Disk:
    """Waits for the disk: in place while it is fast, which costs less than a thread's turn.

    How fast it is, the quickest of the last few waits tells: on busy cores the others tell how
    long this process waited for a core, and a thread would wait for that too. But a wait that was
    very long may be the first of many, and in place all links and clients would share each.
    """

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._took_s = deque((0.0,), maxlen=SYNCS_KEPT)

    @property
    def is_quick(self) -> bool:
        return min(self._took_s) < SYNC_INLINE_S and self._took_s[-1] < SYNC_STALL_S

    def sync_here(self) -> None:
        started = time.perf_counter()
        self._sync()
        self._took_s.append(time.perf_counter() - started)

    async def sync(self) -> None:
        if self.is_quick:
            self.sync_here()
            return
        started = time.perf_counter()
        await trio.to_thread.run_sync(self._sync)
        self._took_s.append(time.perf_counter() - started)


class _Waiter:
    """A client that waits for its command."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: Result | None = None
        self.rejected = ""
