"""An established link: one reading task, one writing task, no task or timer per message.

Whoever sends also writes, as long as the socket takes it; the writing task waits for the socket
or the window when they are full.

``kill`` is the only way a link ends and never waits: it closes the socket and cancels both tasks.
That is safe here because a cancelled or half-done write is always followed by the closed socket.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio

from node.network.buckets import TokenBucket
from node.network.errors import LinkBroken
from node.network.events import Priority
from node.network.frames import encode_control
from node.network.handshake import Established
from node.network.inbox import Inbox
from node.network.limits import NetworkLimits
from node.network.queues import OutboundQueues

STRIKE_FORGIVEN_AFTER_S = 10.0
CONTROL_RETRY_S = 0.05


@dataclass(slots=True)
class Counters:
    """Of one seat, over all its links."""

    sent_messages: int = 0
    sent_bytes: int = 0
    received_messages: int = 0
    received_bytes: int = 0
    dropped_messages: int = 0


class Link:
    """Carries payloads both ways until it breaks.

    Args:
        established: the finished handshake.
        remote: socket address, for status.
        limits: rates and periods.
        inbox: where payloads go.
        counters: of this seat.
    """

    def __init__(
        self,
        established: Established,
        remote: str,
        limits: NetworkLimits,
        inbox: Inbox,
        counters: Counters,
    ) -> None:
        self.seat = established.seat
        self.boot_nonce = established.boot_nonce
        self.dialled = established.dialled
        self.remote = remote
        self.opened_at = trio.current_time()
        self.since = time.time()
        self.rtt_ms: float | None = None
        self.last_data = self.opened_at
        self.end_reason = ""
        self.penalty = False
        self.crash: Exception | None = None
        self._limits = limits
        self._inbox = inbox
        self._counters = counters
        self._channel = established.channel
        self._yamux = established.yamux
        self._frames = established.frames
        self._early = established.early_payloads
        self.attesting = established.attesting
        if self.attesting is not None:
            self.attesting.send = self._send_control
        self._queues = OutboundQueues(limits)
        self._wake = trio.Event()
        self._pending: bytes = b""  # joined frames, the part not written yet
        self._scope = trio.CancelScope()
        self._message_bucket = TokenBucket(limits.messages_per_s, limits.message_burst)
        self._byte_bucket = TokenBucket(limits.bytes_per_s, limits.byte_burst)
        self._strikes = 0
        self._last_strike = self.opened_at
        self._reading_paused = False
        self._writing_since = 0.0  # 0: the writer waits for nothing
        self._progress = False  # the write under way has data, not only control frames
        self._ping_value = 0
        self._ping_sent_at = 0.0
        self._ping_due = self.opened_at

    @property
    def queued_bytes(self) -> int:
        """Outbound bytes not yet given to the socket."""
        return self._queues.queued_bytes + len(self._pending) + len(self._channel.unsent)

    def send(self, frame: bytes, priority: Priority) -> bool:
        """Queue an encoded frame; never blocks. It leaves with the next ``flush``."""
        if self.end_reason:
            return False
        dropped_before = self._queues.dropped
        taken = self._queues.put(frame, priority)
        self._counters.dropped_messages += self._queues.dropped - dropped_before
        return taken

    def flush(self) -> None:
        """Write a batch of what is queued at once, without a turn of the writing task, as far as
        the socket takes it; that task goes on with the rest."""
        if self.end_reason:
            return
        try:
            if self._write_batch():
                self._wake.set()
        except LinkBroken as error:
            self.kill(error.reason, penalty=error.penalty)

    def kill(self, reason: str, *, penalty: bool = False) -> None:
        """End the link now; the first reason given stays."""
        if not self.end_reason:
            self.end_reason = reason
            self.penalty = penalty
        self._channel.close()
        self._scope.cancel()
        if self.attesting is not None:
            self.attesting.close()

    async def run(self) -> None:
        """Serve until the link ends; then ``end_reason`` is set. Only cancellation is raised."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._guarded, self._read)
                    nursery.start_soon(self._guarded, self._write)
                    if self.attesting is not None:
                        nursery.start_soon(self._guarded, self.attesting.serve)
        finally:
            self.kill("shut_down")

    async def _guarded(self, serve: Callable[[], Awaitable[None]]) -> None:
        try:
            await serve()
        except LinkBroken as error:
            self.kill(error.reason, penalty=error.penalty)
        except Exception as error:
            # A defect of ours or of the library costs this link, not the daemon.
            self.crash = error
            self.kill(f"crashed_{type(error).__name__}")

    async def _read(self) -> None:
        yamux, frames, channel = self._yamux, self._frames, self._channel
        self._take_controls()
        self._deliver_all(self._early)
        opened_before, muxed_before = channel.opened_messages, yamux.frames
        bytes_before = channel.sealed_bytes_received
        while True:
            data = await channel.receive()
            if not data:
                raise LinkBroken("closed_by_peer")
            now = self.last_data = trio.current_time()
            payloads = frames.feed(yamux.receive(data))
            taken = len(payloads) + len(frames.controls)
            if frames.controls:
                self._take_controls()
            self._deliver_all(payloads)
            if yamux.pong is not None:
                self._on_pong()
            if yamux.control:
                self._wake.set()
            if yamux.ended:
                raise LinkBroken(yamux.ended)
            # The window may have opened for a writer that waits for it.
            if self._pending:
                self._wake.set()
            opened, muxed = channel.opened_messages, yamux.frames
            received = channel.sealed_bytes_received
            # Noise messages and the muxer's frames cost work too, with or without payloads in them.
            units = max(taken, opened - opened_before, muxed - muxed_before)
            pause_s = max(
                self._message_bucket.charge(units, now),
                self._byte_bucket.charge(received - bytes_before, now),
            )
            opened_before, muxed_before, bytes_before = opened, muxed, received
            if pause_s > 0 or self._inbox.full:
                await self._pause(pause_s)

    def _take_controls(self) -> None:
        controls, self._frames.controls = self._frames.controls, []
        for control in controls:
            assert self.attesting is not None, "the reader takes none otherwise"
            self.attesting.receive(control)

    async def _send_control(self, payload: bytes) -> None:
        # Not with the votes: their queue drops its oldest when it is full.
        frame = encode_control(payload)
        with trio.move_on_after(self._limits.proof_timeout_s):
            while not self.send(frame, Priority.FORWARD):  # noqa: ASYNC110 - rare, and bounded
                await trio.sleep(CONTROL_RETRY_S)
            self.flush()
            return
        raise LinkBroken("queue_full")

    def _deliver_all(self, payloads: list[bytes]) -> None:
        counters = self._counters
        counters.received_messages += len(payloads)
        counters.received_bytes += sum(map(len, payloads))
        self._inbox.put_messages(self.seat, payloads)

    async def _pause(self, pause_s: float) -> None:
        """Stop reading: too fast, or nobody takes the messages. Silence is not held against the
        peer meanwhile, since it is we who do not listen."""
        self._reading_paused = True
        try:
            if pause_s > 0:
                self._strike(pause_s)
                await trio.sleep(pause_s)
            await self._inbox.wait_for_room()
        finally:
            self._reading_paused = False
            self.last_data = trio.current_time()

    def _strike(self, pause_s: float) -> None:
        now = trio.current_time()
        forgiven = int((now - self._last_strike) / STRIKE_FORGIVEN_AFTER_S)
        self._strikes = max(0, self._strikes - forgiven)
        if now - self._last_strike >= 1.0 or pause_s >= 1.0 or self._strikes == 0:
            self._strikes += 1
            self._last_strike = now
        if self._strikes > self._limits.strikes_max:
            raise LinkBroken("flooding", penalty=True)

    async def _write(self) -> None:
        while True:
            if self._channel.unsent:
                await self._channel.drain()
                self._written()
            elif self._write_batch():
                await trio.lowlevel.checkpoint()
            else:
                await self._wake.wait()
                self._wake = trio.Event()

    def _write_batch(self) -> bool:
        """One write at most; True when there is more to do now."""
        yamux, queues, channel = self._yamux, self._queues, self._channel
        if channel.unsent:
            return True
        if not self._pending and queues.queued_bytes:
            self._pending, messages = queues.take(self._limits.write_batch_bytes)
            self._counters.sent_messages += messages
            self._counters.sent_bytes += len(self._pending)
        wire = yamux.take_control() if yamux.control else b""
        size = 0
        if self._pending:
            size = min(len(self._pending), yamux.sendable())
            if size:
                wire += yamux.wrap(self._pending[:size])
                self._pending = self._pending[size:]
        if not wire:
            # The window is shut: the clock of the stall runs.
            if self._pending and not self._writing_since:
                self._writing_since = trio.current_time()
            return False
        self._progress = size > 0
        channel.send_now(wire)
        if channel.unsent:
            # A write counts as stalled from its start; control frames that pass while the window
            # is shut do not reset the clock of the data behind them.
            if not self._writing_since or not self._pending:
                self._writing_since = trio.current_time()
            return True
        self._written()
        return bool(self._pending or queues.queued_bytes)

    def _written(self) -> None:
        """The socket took a whole write."""
        if self._progress or not self._pending:
            self._writing_since = 0.0

    def excuse(self, now: float) -> None:
        """Start the clocks of silence and stall afresh: the pause was on our side."""
        self.last_data = now
        if self._writing_since:
            self._writing_since = now

    def tick(self, now: float) -> None:
        """Heartbeat and liveness; called a few times per heartbeat period."""
        limits = self._limits
        if not self._reading_paused and now - self.last_data > limits.dead_after_s:
            self.kill("silent")
            return
        if self._writing_since and now - self._writing_since > limits.write_stall_s:
            self.kill("not_reading")
            return
        if now >= self._ping_due and not self.end_reason:
            self._ping_due = now + limits.heartbeat_s
            self._ping_value = (self._ping_value + 1) & 0xFFFFFFFF
            self._ping_sent_at = now
            try:
                self._yamux.ping(self._ping_value)
            except LinkBroken as error:
                self.kill(error.reason)
                return
            self._wake.set()

    def _on_pong(self) -> None:
        value, self._yamux.pong = self._yamux.pong, None
        if value == self._ping_value and self._ping_sent_at:
            self.rtt_ms = round((trio.current_time() - self._ping_sent_at) * 1000, 3)
            self._ping_sent_at = 0.0
