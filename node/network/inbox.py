"""Inbound events of one peer on their way to the shared channel.

Normally an event goes straight in. While the shared channel is full it waits here, in order; when
this is full too, the peer's link stops reading its socket. So a slow consumer slows every peer by
itself and no peer blocks another.
"""

from __future__ import annotations

from collections import deque

import trio

from node.network.events import MessageFrom, NetworkEvent
from node.network.limits import NetworkLimits


class Inbox:
    """Bounded by messages and bytes; up and down notices are always taken (the mesh refuses new
    links while this is full, which bounds them as well)."""

    def __init__(
        self, limits: NetworkLimits, channel: trio.MemorySendChannel[NetworkEvent]
    ) -> None:
        self._limits = limits
        self._channel = channel
        self._waiting: deque[NetworkEvent] = deque()
        self._waiting_bytes = 0
        self._filled = trio.Event()
        self._drained = trio.Event()
        self._emptied = trio.Event()
        self.closed = False  # the consumer has gone

    @property
    def full(self) -> bool:
        """The link must stop reading."""
        return (
            len(self._waiting) >= self._limits.inbox_messages_max
            or self._waiting_bytes >= self._limits.inbox_bytes_max
        )

    def put(self, event: NetworkEvent) -> None:
        """Deliver or keep, in order."""
        if not self._waiting:
            try:
                self._channel.send_nowait(event)
                return
            except trio.WouldBlock:
                self._filled.set()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.closed = True
                return
        self._waiting.append(event)
        if isinstance(event, MessageFrom):
            self._waiting_bytes += len(event.payload)

    async def wait_for_room(self) -> None:
        """Return when the inbox is no longer full."""
        while self.full and not self.closed:
            await self._drained.wait()

    async def wait_until_empty(self) -> None:
        """Return when nothing waits here."""
        while self._waiting:
            await self._emptied.wait()

    async def deliver(self) -> None:
        """Move waiting events into the channel until cancelled."""
        while True:
            if not self._waiting:
                await self._filled.wait()
            self._filled = trio.Event()
            while self._waiting:
                # Sent before it is removed, so that ``put`` cannot overtake it meanwhile.
                try:
                    await self._channel.send(self._waiting[0])
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self.closed = True
                    self._waiting.clear()
                    self._waiting_bytes = 0
                    self._wake()
                    break
                event = self._waiting.popleft()
                if isinstance(event, MessageFrom):
                    self._waiting_bytes -= len(event.payload)
                if not self.full:
                    self._wake()
            self._emptied.set()
            self._emptied = trio.Event()

    def _wake(self) -> None:
        self._drained.set()
        self._drained = trio.Event()
