"""Inbound events on their way to the one consumer: a bounded queue per peer, served in turn.

A peer's events keep their order. Peers are served one event each in turn, so that a flood of one
delays no other by more than its own share. When a peer's queue is full its link stops reading the
socket: a slow consumer slows every peer by itself.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import trio

from node.network.events import MessageFrom, NetworkEvent
from node.network.limits import NetworkLimits


class EventQueue:
    """What the mesh tells. One consumer, which either awaits ``receive`` or sets the two calls.

    ``on_arrival`` is called when messages came, within the task of their link, and may deal with
    them at once. ``on_notice`` is called when a link opened or closed, in the midst of the mesh's
    own work, which must not be entered again: it may only wake somebody. Neither may raise.
    """

    def __init__(self) -> None:
        self.on_arrival: Callable[[], None] = self._wake
        self.on_notice: Callable[[], None] = self._wake
        self._ready: deque[Inbox] = deque()  # those with events, each once
        self._arrived = trio.Event()

    def __bool__(self) -> bool:
        return bool(self._ready)

    def receive_nowait(self) -> NetworkEvent:
        """The next event; raises trio.WouldBlock when there is none."""
        if not self._ready:
            raise trio.WouldBlock
        inbox = self._ready.popleft()
        event = inbox.take()
        if inbox:
            self._ready.append(inbox)
        return event

    async def receive(self) -> NetworkEvent:
        """Waits for the next event."""
        while not self._ready:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self.receive_nowait()

    def _wake(self) -> None:
        self._arrived.set()

    def add(self, inbox: Inbox, *, notice: bool = False) -> None:
        """An inbox has its first event."""
        self._ready.append(inbox)
        if notice:
            self.on_notice()
        else:
            self.on_arrival()


class Inbox:
    """One peer's events, bounded by messages and bytes; up and down notices are always taken (the
    mesh refuses new links while this is full, which bounds them as well)."""

    def __init__(self, limits: NetworkLimits, queue: EventQueue) -> None:
        self._limits = limits
        self._queue = queue
        self._waiting: deque[NetworkEvent] = deque()
        self._waiting_bytes = 0
        self._drained = trio.Event()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def full(self) -> bool:
        """The link must stop reading."""
        return (
            len(self._waiting) >= self._limits.inbox_messages_max
            or self._waiting_bytes >= self._limits.inbox_bytes_max
        )

    def put(self, event: NetworkEvent) -> None:
        """Keep an event until the consumer takes it."""
        self._waiting.append(event)
        if isinstance(event, MessageFrom):
            self._waiting_bytes += len(event.payload)
        if len(self._waiting) == 1:
            self._queue.add(self, notice=not isinstance(event, MessageFrom))

    def put_messages(self, seat: int, payloads: Sequence[bytes]) -> None:
        """Keep what one read of the socket brought; the consumer hears of it once."""
        first = not self._waiting
        for payload in payloads:
            self._waiting.append(MessageFrom(seat, payload))
            self._waiting_bytes += len(payload)
        if first and payloads:
            self._queue.add(self)

    def take(self) -> NetworkEvent:
        """The oldest event, for the queue only."""
        event = self._waiting.popleft()
        if isinstance(event, MessageFrom):
            self._waiting_bytes -= len(event.payload)
        self._drained.set()
        return event

    async def wait_for_room(self) -> None:
        """Return when the inbox is no longer full."""
        while self.full:
            self._drained = trio.Event()
            await self._drained.wait()
