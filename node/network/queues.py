"""Outbound frames of one link, by priority, bounded in bytes."""

from __future__ import annotations

from collections import deque

from node.network.events import Priority
from node.network.limits import NetworkLimits


class OutboundQueues:
    """Three queues; ``take`` serves the lower priority number first."""

    __slots__ = ("_bytes", "_bytes_max", "_frames", "dropped")

    def __init__(self, limits: NetworkLimits) -> None:
        self._frames: tuple[deque[bytes], ...] = (deque(), deque(), deque())
        self._bytes = [0, 0, 0]
        self._bytes_max = (
            limits.queue_consensus_bytes,
            limits.queue_forward_bytes,
            limits.queue_bulk_bytes,
        )
        self.dropped = 0

    @property
    def queued_bytes(self) -> int:
        """Bytes waiting in all queues."""
        return sum(self._bytes)

    def put(self, frame: bytes, priority: Priority) -> bool:
        """Queue a frame; False when it was refused.

        A full consensus queue drops its oldest frames instead: newer votes outdate older ones.
        """
        size = len(frame)
        frames = self._frames[priority]
        if self._bytes[priority] + size > self._bytes_max[priority]:
            if priority is not Priority.CONSENSUS or size > self._bytes_max[priority]:
                self.dropped += 1
                return False
            while frames and self._bytes[priority] + size > self._bytes_max[priority]:
                self._bytes[priority] -= len(frames.popleft())
                self.dropped += 1
        frames.append(frame)
        self._bytes[priority] += size
        return True

    def take(self, bytes_max: int) -> tuple[bytes, int]:
        """Join frames up to ``bytes_max``, but at least one; gives bytes and number of frames."""
        taken: list[bytes] = []
        total = 0
        for priority, frames in enumerate(self._frames):
            before = total
            while frames and (not taken or total + len(frames[0]) <= bytes_max):
                frame = frames.popleft()
                taken.append(frame)
                total += len(frame)
            self._bytes[priority] -= total - before
            if frames:
                break
        return (taken[0] if len(taken) == 1 else b"".join(taken)), len(taken)
