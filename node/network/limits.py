"""Every bound of the mesh in one table."""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * 1024

PROTOCOL_VERSION = 2
PROTOCOL_ID = "/dstack-cluster/mesh/1"


@dataclass(frozen=True, slots=True)
class NetworkLimits:
    """Bounds and periods; the defaults suit 4 to 100 members over wide-area links.

    Memory a single member can make us hold is at most about
    ``frame_bytes_max + inbox_bytes_max + window_bytes`` inbound and the three queue bounds
    outbound.
    """

    # frames and flow control
    frame_bytes_max: int = 1 * MIB  # one payload
    window_bytes: int = 1 * MIB  # Yamux receive window we grant
    write_batch_bytes: int = 32 * KIB  # frames joined into one write

    # outbound queues, per link
    queue_consensus_bytes: int = 8 * MIB
    queue_forward_bytes: int = 4 * MIB
    queue_bulk_bytes: int = 4 * MIB

    # inbound
    inbox_messages_max: int = 1024  # per peer
    inbox_bytes_max: int = 4 * MIB
    messages_per_s: float = 50_000.0  # per peer; beyond it reading slows down to this rate
    message_burst: float = 100_000.0
    bytes_per_s: float = 64.0 * MIB
    byte_burst: float = 128.0 * MIB
    strikes_max: int = 30  # seconds of throttling, less one per clean 10 s, before the link is cut
    penalty_s: float = 2.0  # a peer that broke the rules waits this long, doubled each time
    penalty_max_s: float = 60.0

    # connections that are not links yet
    half_open_max: int = 64
    # Per address: an IPv4 address or an IPv6 /64; times the number of members announced there.
    half_open_per_ip_max: int = 8
    handshakes_per_s_per_ip: float = 20.0
    handshake_burst_per_ip: float = 40.0
    handshakes_per_s_strangers: float = 100.0  # all addresses that no member announced, together
    handshake_burst_strangers: float = 200.0
    handshake_timeout_s: float = 3.0
    handshake_bytes_max: int = 64 * KIB

    # evidence of what the peer runs, first and renewed
    evidence_bytes_max: int = 160 * KIB  # with all around it, less than the first Yamux window
    proof_timeout_s: float = 15.0  # a quote takes up to seconds on a loaded host
    # Of one member, and apart for those that we dialled, that come from the host of its endpoint,
    # and from elsewhere (``peer.Origin``): connections that are not proven yet,
    proofs_at_once_max: int = 2
    # and how often it may ask for our evidence, which costs a quote, and begin to show its own,
    # which costs a verdict.
    proofs_per_s: float = 0.2
    proof_burst: float = 16.0
    denied_linger_s: float = 1.0  # how long a refused peer has to read why
    denied_backoff_s: float = 1.0  # a peer that refuses us is left alone for so long, then doubled
    denied_backoff_max_s: float = 20.0

    # liveness and dialling
    heartbeat_s: float = 1.0
    dead_after_s: float = 3.0
    write_stall_s: float = 15.0  # a peer that takes nothing for so long loses its link
    dial_timeout_s: float = 3.0
    # How long the higher seat waits for the lower one to dial. Short: the lower one may sit out a
    # backoff when the higher one comes back, and a link that is missing can be what a quorum lacks.
    dial_grace_s: float = 0.25
    backoff_min_s: float = 0.2
    backoff_max_s: float = 5.0
    good_link_s: float = 5.0  # a link that lived this long resets the backoff

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_s < self.dead_after_s:
            raise ValueError("expected 0 < heartbeat_s < dead_after_s")
        if not 0 < self.evidence_bytes_max <= 192 * KIB:
            raise ValueError("expected evidence_bytes_max between 1 and 192 KiB")
        if not 0 < self.frame_bytes_max <= 64 * MIB:
            raise ValueError("expected frame_bytes_max between 1 and 64 MiB")
        if min(self.queue_consensus_bytes, self.queue_forward_bytes) < self.frame_bytes_max + 4:
            raise ValueError("a queue must hold at least one frame")
