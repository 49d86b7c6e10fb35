"""What goes into the core and what comes out.

Events are values; time is one of them. ``Output`` lists the caller's duties **in the order in
which it must do them**: first make ``persist`` durable (fsync), all of it; then send; then the
rest. A vote that leaves before it is on disk could be contradicted after a crash, so the outputs
of several steps may be merged, but no send may overtake the persist of its own step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from . import limits
from .health import PeerHealth
from .ledger import Tip
from .machine import Machine
from .outcomes import Applied
from .types import (
    Block,
    BootRequest,
    Certificate,
    ChainView,
    Evidence,
    Manifest,
    Opening,
    Recovery,
    View,
    Vote,
)
from .validators import ValidatorSet
from .wire import Message


class Timer(Enum):
    """Timers, named by what they wait for; setting one replaces it."""

    __hash__ = object.__hash__  # that of Enum is Python code, and timers are set in every view

    LEADER = "leader"  # a proposal in this view (R1, R4)
    HEARTBEAT = "heartbeat"  # time for an idle leader to show that it lives
    STALL = "stall"  # finality (R9)
    RETRY = "retry"  # send again what may be lost (R7)
    BOOT = "boot"  # acknowledgements of our boot (R10)
    EPOCH = "epoch"  # a due epoch (R15)
    SPREAD = "spread"  # commands that the leader did not get committed at once (R7)
    HEALTH = "health"  # a look at the leader; its ticks are the only clock of R12
    GATHER = "gather"  # commands for the leader's next block (R1)


# --- events ---


@dataclass(frozen=True, slots=True)
class Started:
    """The first event: the store is read, the network is up."""


@dataclass(frozen=True, slots=True)
class Received:
    """A decoded message from an authenticated member."""

    sender: int
    message: Message


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer ran out."""

    timer: Timer


@dataclass(frozen=True, slots=True)
class Submitted:
    """Encoded commands of this node's own clients."""

    commands: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A link to a member opened."""

    seat: int


@dataclass(frozen=True, slots=True)
class PeerLost:
    """A link to a member closed."""

    seat: int


@dataclass(frozen=True, slots=True)
class StepDown:
    """The operator, or a clean stop, asks this node to give up leadership."""


@dataclass(frozen=True, slots=True)
class Complain:
    """The operator of this node wants another leader: one complaint, no more (R4)."""


@dataclass(frozen=True, slots=True)
class MembershipSeen:
    """Our finalized view of the registry; seats that it revoked lose their say at once."""

    view: ChainView
    revoked: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ChainHead:
    """The newest finalized chain block that we know, with its time in Unix milliseconds."""

    number: int
    time_ms: int


@dataclass(frozen=True, slots=True)
class RecoverySeen:
    """Finalized on-chain votes to go on with another set (R21), all that one look showed.

    Which of several count, ``epochs.way_to_newest`` says.
    """

    recoveries: tuple[Recovery, ...]


Event = (
    Started
    | Received
    | TimerFired
    | Submitted
    | PeerConnected
    | PeerLost
    | StepDown
    | Complain
    | MembershipSeen
    | ChainHead
    | RecoverySeen
)


# --- records: what must be on disk before anything is sent ---


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """A vote of ours. At most one per view and kind."""

    vote: Vote


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """A block that we vote for: whoever voted for it can serve it."""

    block: Block


@dataclass(frozen=True, slots=True)
class CertificateRecord:
    """A certificate that brought us to a view."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class FinalizedRecord:
    """A block is final and applied; ``finalization`` is None when a later block's covers it.

    The one record that may wait, even behind votes that come after it: a quorum has its finalize
    votes and its block on disk, and a store forgets them only for a finalization that *is* on
    disk, so after any crash it forms again from votes sent again (R7). The records of one step
    are kept or lost together, and finalized blocks in order.
    """

    applied: Applied
    finalization: Certificate | None


@dataclass(frozen=True, slots=True)
class EpochRecord:
    """Another epoch began; it follows the record of the block that it stands on.

    What the store holds of votes, certificates and candidates is of epochs that are over. The
    opening itself is kept for ever: it proves the set to whoever knows the one before.
    """

    opening: Opening


@dataclass(frozen=True, slots=True)
class InstallRecord:
    """A certified snapshot (R17) takes the place of the state and of all final blocks.

    ``machine`` has the state at ``tip``, the block of the manifest's header; the finalization is
    that of a later block, and stays with the certificates: the tip has none of its own.
    ``openings`` are those of the epochs since ours, as in ``EpochRecord``. One transaction, before
    the next step. Who keeps state and manifest can pass them on.
    """

    tip: Tip
    manifest: Manifest
    machine: Machine
    openings: tuple[Opening, ...]


@dataclass(frozen=True, slots=True)
class IncarnationRecord:
    """The incarnation and boot id that we ask for, on disk before anyone hears of it."""

    incarnation: int
    boot_id: bytes


@dataclass(frozen=True, slots=True)
class AcknowledgedRecord:
    """A boot of another member that we acknowledge."""

    request: BootRequest


@dataclass(frozen=True, slots=True)
class AbstainRecord:
    """Our store was rolled back: no vote before this term of this epoch."""

    epoch: int
    term: int


@dataclass(frozen=True, slots=True)
class EvidenceRecord:
    """Proof that a member broke the rules."""

    evidence: Evidence


Record = (
    VoteRecord
    | BlockRecord
    | CertificateRecord
    | FinalizedRecord
    | EpochRecord
    | InstallRecord
    | IncarnationRecord
    | AcknowledgedRecord
    | AbstainRecord
    | EvidenceRecord
)


# --- duties after that ---


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a member, or to all other members when ``to`` is None."""

    to: int | None
    message: Message


@dataclass(frozen=True, slots=True)
class ServeBlocks:
    """Read finalized blocks from the store and send them to a member as a ``SyncReply``.

    When they are pruned: the newest snapshot's manifest as a ``SnapshotOffer``.
    """

    to: int
    from_height: int
    count: int


@dataclass(frozen=True, slots=True)
class ServeEpochs:
    """Read from the store how this epoch and later ones ended, and send it as an ``EpochReply``."""

    to: int
    epoch: int


@dataclass(frozen=True, slots=True)
class ServeSnapshot:
    """Send a member a chunk of the snapshot at a height, or, for 0, the manifest of the newest."""

    to: int
    height: int
    chunk: int


@dataclass(frozen=True, slots=True)
class LeaderChanged:
    """Another term began. ``reasons`` (seat to ``Reason``) are the complaints that ended the last.

    They may be fewer than a quorum when a certificate brought us here.
    """

    epoch: int
    term: int
    leader: int
    reasons: dict[int, int]


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """A member sent something that no correct member sends; for the log."""

    seat: int
    what: str


@dataclass(frozen=True, slots=True)
class EpochOpened:
    """Another epoch began on the block of ``height``; ``member`` when we vote in it."""

    validators: ValidatorSet
    height: int
    opening: Opening
    member: bool


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that an operator must look at; the member goes on."""

    what: str


@dataclass(frozen=True, slots=True)
class Halt:
    """Safety is at stake: the node must stop, loudly, and not restart by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A command of our own clients that was not accepted, and why; it will not be committed."""

    command_id: bytes
    reason: str


@dataclass(slots=True)
class Output:
    """The duties of one or several steps, in order. See the module."""

    persist: list[Record] = field(default_factory=list)
    send: list[Send] = field(default_factory=list)
    applied: list[Applied] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    timers: dict[Timer, int | None] = field(default_factory=dict)  # delay in ms, None cancels
    serve: list[ServeBlocks | ServeEpochs | ServeSnapshot] = field(default_factory=list)
    notices: list[LeaderChanged | Misbehaved | EpochOpened | Alarm] = field(default_factory=list)
    installed: bool = False  # an ``InstallRecord`` is in ``persist``: write it before the next step
    halt: Halt | None = None

    def merge(self, later: Output) -> None:
        """Appends the duties of a later step."""
        self.persist += later.persist
        self.send += later.send
        self.applied += later.applied
        self.rejected += later.rejected
        self.timers.update(later.timers)
        self.serve += later.serve
        self.notices += later.notices
        self.installed = self.installed or later.installed
        self.halt = self.halt or later.halt


# --- what the caller gives at the start ---


@dataclass(frozen=True, slots=True)
class Durations:
    """Timer durations in milliseconds; data, so that tests and simulations choose theirs.

    The leader timer is ``leader_ms``, longer by half of it for each term in a row that ended
    without finality and for each step of patience (R13), at most ``growth_max`` times; it never
    doubles. Finality resets the first part. What R12 allows a leader grows in the same way.
    """

    leader_ms: int = 1000
    heartbeat_ms: int = 300
    gather_ms: int = 0  # between two blocks of a leader, while the first one is not final
    stall_ms: int = 2500
    retry_ms: int = 500
    boot_ms: int = 300
    spread_ms: int = 100
    link_grace_ms: int = 100  # how long a leader's lost link may take to come back
    links_ms: int = 20_000  # how long after a quorum of links others may still be made
    growth_max: int = 8
    health_ms: int = 250  # a tick; what follows is counted in ticks
    probe_ms: int = 1000  # a challenge to each member
    censor_ms: int = 2000  # how long a leader may leave a command out that is next
    slow_ms: int = 1500  # how long it may let commands wait, and make few blocks
    behind_chain_ms: int = 60_000  # how much later than we a leader may see a chain block
    patience_ms: int = 60_000  # time with finality until a step of patience is given back
    epoch_settle_ms: int = 3000  # how long a leader waits for others to see the change on chain
    epoch_grace_ms: int = 6000  # how long a leader may leave a due epoch unproposed

    def ticks(self, duration_ms: int) -> int:
        """A duration in ticks of the health timer, rounded up, at least one."""
        return max(1, -(-duration_ms // self.health_ms))


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """Heights at which snapshots are possible; data, so that tests choose shorter ways.

    ``every`` is part of the protocol: members with different ones refuse each other's proposals.
    A member further than ``gap`` heights behind looks for a snapshot before it fetches blocks.
    """

    every: int = limits.CHECKPOINT_HEIGHTS
    gap: int = limits.SNAPSHOT_GAP_HEIGHTS


@dataclass(frozen=True, slots=True)
class Restored:
    """What the store kept: everything that was ever in a record, minus what finality superseded.

    Superseded by a final view are votes, blocks and certificates of lower views, but not our
    nullify votes of the final view's own term: they keep the gate of that term closed (R4). Our
    highest vote is kept for ever, over epochs too: it shows whether the log is whole (R10).
    """

    tip: Tip
    machine: Machine
    votes: Sequence[Vote] = ()
    blocks: Sequence[Block] = ()
    certificates: Sequence[Certificate] = ()
    incarnation: int = 0
    acknowledged: Sequence[BootRequest] = ()
    abstain_until: tuple[int, int] = (0, 0)  # epoch and term
    openings: Sequence[Opening] = ()  # the last two, and all recoveries; ascending
    evidence: Sequence[Evidence] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """A picture of the core for the operator."""

    state: str  # active, waiting, observing, booting, syncing, abstaining, halted
    reason: str  # why it is not active
    epoch: int
    view: View
    leader: int
    height: int
    revision: int
    state_hash: bytes
    incarnation: int
    lag: int  # heights that are proved to be final and not applied here
    connected_weight: int  # ours included
    complaints: dict[int, int]  # seat to ``Reason``: who wants this term to end
    mempool: int  # commands that wait
    evidence: int  # pairs that we hold
    patience: int  # steps by which our timers are longer (R13)
    peers: dict[int, PeerHealth]  # what members answered to our challenges
