"""What the mesh tells the daemon."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


@dataclass(frozen=True, slots=True)
class MessageFrom:
    """A payload from an authenticated member."""

    seat: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class PeerUp:
    """The link to this seat is usable from now on."""

    seat: int


@dataclass(frozen=True, slots=True)
class PeerDown:
    """The link to this seat ended; ``reason`` is a fixed word."""

    seat: int
    reason: str


NetworkEvent = MessageFrom | PeerUp | PeerDown


class Priority(IntEnum):
    """Lower goes first. A full consensus queue drops its oldest frame, other full queues refuse."""

    CONSENSUS = 0
    FORWARD = 1
    BULK = 2


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One row per other member, connected or not; counters count since the mesh was created."""

    seat: int
    peer_id: str
    endpoint: str  # as given by the registry
    remote: str  # socket address in use, "" when not connected
    connected: bool
    rtt_ms: float | None
    last_seen_ms_ago: int | None  # None: never seen
    queued_bytes: int
    since: float | None  # unix time of the last change between up and down; None: never up
    down_reason: str  # why it is down, or was last: the link's end or the last failed attempt
    sent_messages: int
    sent_bytes: int
    received_messages: int
    received_bytes: int
    dropped_messages: int  # refused or pushed out of full outbound queues
