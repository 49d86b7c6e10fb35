"""A present member: its address, its link if there is one, its penalties and counters."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Any

import trio

from node.network.addresses import BadEndpoint, PeerAddress, TcpAddress, parse_endpoint
from node.network.buckets import TokenBucket
from node.network.events import LinkStatus
from node.network.identity import peer_id_from_key
from node.network.inbox import EventQueue, Inbox
from node.network.limits import NetworkLimits
from node.network.link import Counters, Link


class Origin(StrEnum):
    """Where a connection of a member comes from, before it is proven.

    A node key is not secret from other machines of the same app, so whoever comes under it from
    elsewhere may be another. What such a one uses up, and is refused for, is not held against the
    member itself: that is dialled at, or comes from, the address that the registry shows.
    """

    DIALLED = "dialled"
    HOME = "home"  # from the host of its endpoint, if that is an IP address
    ELSEWHERE = "elsewhere"


class Peer:
    """One per seat and node key; a changed key is another peer.

    Raises:
        BadNodeKey: the registry's key is no point.
    """

    def __init__(
        self,
        address: PeerAddress,
        limits: NetworkLimits,
        events: EventQueue,
    ) -> None:
        self.address = address
        self.seat = address.seat
        self.id: Any = peer_id_from_key(address.node_key)
        self.peer_id: str = self.id.to_base58()
        self.tcp: TcpAddress | None = None
        self.inbox = Inbox(limits, events)
        self.counters = Counters()
        self.link: Link | None = None
        self.changed = trio.Event()  # replaced by a fresh one at every change of link or address
        self.removed = trio.Event()
        self.refused_until = 0.0
        self.penalty_s = 0.0
        self.proving: Counter[Origin] = Counter()  # connections between hello and first payload
        self.left_alone_until = 0.0  # it refused us: we do not dial it before
        self.denied_backoff_s = 0.0
        self._asked: dict[Origin, TokenBucket] = {}
        self._begun: dict[Origin, TokenBucket] = {}
        self.since: float | None = None
        self.last_data: float | None = None
        self.down_reason = ""
        self._limits = limits

    def pulse(self) -> None:
        """Wake whoever waits for a change."""
        self.changed.set()
        self.changed = trio.Event()

    def set_address(self, address: PeerAddress) -> None:
        """Take the registry's endpoint.

        Raises:
            BadEndpoint: it cannot be dialled; the peer is then one that must dial us.
        """
        self.address = address
        self.tcp = None
        try:
            if address.endpoint:
                tcp = parse_endpoint(address.endpoint)
                if tcp.peer_id and tcp.peer_id != self.peer_id:
                    raise BadEndpoint("the endpoint names another peer id than the node key")
                self.tcp = tcp
        finally:
            self.pulse()

    def note_failure(self, reason: str) -> None:
        """Remember for the status why there is no link."""
        if self.link is None:
            self.down_reason = reason

    def punish(self) -> None:
        """Let the peer wait, twice as long as the last time."""
        limits = self._limits
        self.penalty_s = min(max(self.penalty_s * 2, limits.penalty_s), limits.penalty_max_s)
        self.refused_until = trio.current_time() + self.penalty_s

    def leave_alone(self) -> None:
        """It does not accept what we show: dial it later, twice as long as the last time."""
        limits = self._limits
        self.denied_backoff_s = min(
            max(self.denied_backoff_s * 2, limits.denied_backoff_s), limits.denied_backoff_max_s
        )
        self.left_alone_until = trio.current_time() + self.denied_backoff_s

    def forgive(self) -> None:
        """What one of us held against the other may be over: start afresh."""
        self.refused_until = self.left_alone_until = 0.0
        self.penalty_s = self.denied_backoff_s = 0.0
        self.pulse()

    def origin(self, dialled: bool, remote: str) -> Origin:
        """Of a connection with ``remote``, a text of host and port."""
        if dialled:
            return Origin.DIALLED
        host = remote.rpartition(":")[0]
        at_home = self.tcp is not None and self.tcp.literal and self.tcp.host == host
        return Origin.HOME if at_home else Origin.ELSEWHERE

    @property
    def proving_itself(self) -> bool:
        """Whether the member, and nobody else under its key, is about to be linked."""
        return self.proving[Origin.DIALLED] + self.proving[Origin.HOME] > 0

    def asked(self, origin: Origin) -> TokenBucket:
        """How often it may ask for our evidence, over all its connections. Within trio only."""
        return self._bucket(self._asked, origin)

    def begun(self, origin: Origin) -> TokenBucket:
        """How often it may begin to prove itself, which costs us a verdict. Within trio only."""
        return self._bucket(self._begun, origin)

    def _bucket(self, buckets: dict[Origin, TokenBucket], origin: Origin) -> TokenBucket:
        if origin not in buckets:
            buckets[origin] = TokenBucket(self._limits.proofs_per_s, self._limits.proof_burst)
        return buckets[origin]

    def status(self, now: float) -> LinkStatus:
        """The row for ``Mesh.links``."""
        link, counters = self.link, self.counters
        last = link.last_data if link else self.last_data
        return LinkStatus(
            seat=self.seat,
            peer_id=self.peer_id,
            endpoint=self.address.endpoint,
            remote=link.remote if link else "",
            connected=link is not None,
            rtt_ms=link.rtt_ms if link else None,
            last_seen_ms_ago=None if last is None else max(0, int((now - last) * 1000)),
            queued_bytes=link.queued_bytes if link else 0,
            since=self.since,
            down_reason=self.down_reason,
            sent_messages=counters.sent_messages,
            sent_bytes=counters.sent_bytes,
            received_messages=counters.received_messages,
            received_bytes=counters.received_bytes,
            dropped_messages=counters.dropped_messages,
        )
