"""What a member knows between two events, and the effects that it asks for.

The first of the chain of classes. What several of them use is set up here, grouped by concern.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from . import limits
from .boot import Boot
from .buckets import TokenBuckets
from .catchup import CatchUp
from .certificates import VoteBook
from .evidence import EvidenceBook
from .health import ChainWatch, Fairness, Pace, Patience, Prober
from .interface import Checkpoints, Durations, Halt, Misbehaved, Output, Send, Timer
from .keccak import keccak256
from .ledger import Ledger
from .machine import Machine
from .mempool import Mempool
from .order import leader_order
from .signatures import Signer, Verifier
from .snapshots import Fetch, Offer
from .types import (
    GENESIS,
    Certificate,
    Header,
    Proposal,
    Reason,
    Recovery,
    View,
    Vote,
    VoteKind,
)
from .validators import ValidatorSet
from .wire import Certificates, Message

# Under our own key, told to nobody: without it nobody can foresee our challenges.
PROBE_TAG = b"dstack-cluster/probe-secret/v1"
SIGNED_TERMS_KEPT = 8
ABSTAIN_TERMS = 2  # how far our own votes may be above the highest term told (R10)


T = TypeVar("T")


def portions(
    items: Iterable[T], size: Callable[[T], int], count_max: int, bytes_max: int
) -> Iterator[tuple[T, ...]]:
    """Items in messages: so many in each, and so many bytes, unless one alone has more."""
    found: list[T] = []
    left = bytes_max
    for item in items:
        left -= size(item)
        if found and (len(found) == count_max or left < 0):
            yield tuple(found)
            found, left = [], bytes_max - size(item)
        found.append(item)
    if found:
        yield tuple(found)


def _bytes_at_most(certificate: Certificate) -> int:
    """Of its encoding."""
    return 128 + 80 * len(certificate.parts)


class State:
    """What one member knows; effects go to ``_out``."""

    def __init__(
        self,
        *,
        cluster_id: bytes,
        validators: ValidatorSet,
        seat: int,
        signer: Signer,
        verifier: Verifier,
        boot: Boot,
        ledger: Ledger,
        machine: Machine,
        durations: Durations,
        checkpoints: Checkpoints,
        abstain_until: tuple[int, int],
    ) -> None:
        d = durations
        self.cluster_id = cluster_id
        self.seat = seat
        self.durations = durations
        self.checkpoints = checkpoints
        self._signer = signer
        self._verifier = verifier

        # The event at hand.
        self._now_ms = 0  # goes on when the clock is put back: for delays
        self._clock_ms = 0  # the caller's: for what has a time in it
        self._out = Output()
        self._stirred = True  # False when an event changed nothing that a conclusion rests on
        self.halted: Halt | None = None

        # The epoch.
        self.validators = validators
        self.previous: ValidatorSet | None = None  # the set of the epoch before this one
        self.order = leader_order(validators, machine.standing.opening)
        self._awaited: list[Recovery] = []  # seen on our chain, not come to yet; in order (R21)
        self.evidence = EvidenceBook()

        # The rules (R1-R9). What is certified and final is in ``ledger``, votes are in ``book``.
        self.view = View(1, 0)
        self.ledger = ledger
        self.machine = machine
        self.book = VoteBook(validators, cluster_id, verifier)
        self._work: deque[tuple[VoteKind, View]] = deque()  # votes may make a certificate here
        self._proposals: dict[View, Proposal] = {}  # the first of each view from ours on
        self._refused: set[View] = set()  # of those, where the leader showed forged certificates
        self._unsaved: list[Certificate] = []  # certificates to persist with our next vote
        self._mine: dict[tuple[View, VoteKind], Vote] = {}  # our votes from the final view on
        self._nullified: View | None = None  # our newest nullify vote: the gate of its term
        self._left: dict[int, int] = {}  # highest index that we were in, of terms that we left
        self._failed_terms = 0  # in a row, since something became final (R13)
        self._heartbeat_due = False
        self._proposed_ms = 0  # when we proposed last
        self._is_gathering = False  # True while the timer for it is set
        self._helped: dict[int, View] = {}  # our view when a seat was last shown the way to it
        # By epoch and term: the newest block that we took from its leader, as the leader signed it.
        self.signed: dict[tuple[int, int], tuple[Header, bytes]] = {}

        # Who may vote (R10, R20).
        self.boot = boot
        self._floor: tuple[int, View, int] = (0, GENESIS, 0)  # our highest known vote
        self._abstain_until = abstain_until  # epoch and term
        self._seen: dict[int, Vote] = {}  # each seat's highest vote, told when it boots
        self._asked_for_boot: set[int] = set()  # since the last retry
        self._boots = TokenBuckets(burst=8, refill_ms=1000)  # promises, which are written
        self._introductions = TokenBuckets(burst=8, refill_ms=max(1, d.boot_ms // 2))

        # Catch-up and snapshots (R16, R17).
        self.catchup = CatchUp(ledger.tip.height)
        self.fetch: Fetch | None = None  # the snapshot that we are taking over
        self._offer: Offer | None = None  # it waits for the proof of the epochs up to it
        self._offer_asked_of: int | None = None
        self._gave_snapshot: set[int] = set()  # to us, since we were up to date

        # Links and commands.
        self.connected: set[int] = set()
        self._linked_ms: int | None = None  # since when the links make a quorum; None: they do not
        self._lost: set[int] = set()  # whose link ended while others stayed, and did not come back
        self.mempool = Mempool(seat)
        self._own_commands: dict[bytes, bytes] = {}  # waiting commands of our own clients, by id

        # What the leader is measured by (R12, R13). Ticks are those of the health timer.
        self.tick = 0
        self._tick_ms = 0  # when the last tick was
        self._tick_height = ledger.tip.height
        self._tick_view = self.view
        self._woke_ms = 0  # when we last found that our own ticks had stopped; 0: never
        self._excused_tick = -2  # at which a quorum was linked and not heard
        self.prober = Prober(keccak256(signer.sign(keccak256(PROBE_TAG + boot.boot_id))))
        self.fairness = Fairness()
        self.pace = Pace()
        self.chain = ChainWatch()
        self.patience = Patience(most=2 * (d.growth_max - 1), decay=d.ticks(d.patience_ms))
        # Our last complaint by our own timers: epoch, view and reason.
        self._complaint: tuple[int, View, Reason] | None = None
        self._answers = TokenBuckets(burst=8, refill_ms=max(1, d.probe_ms // 4))

    def leader(self, term: int) -> int:
        """The seat that leads a term."""
        return self.order[(term - 1) % len(self.order)]

    @property
    def is_halted(self) -> bool:
        """True when ``halted`` says why; a type checker takes the field for unchanged."""
        return self.halted is not None

    @property
    def can_vote(self) -> bool:
        """True when we have the right to vote: booted, and not abstaining after a rollback.

        Nor in an epoch that the chain has ended by a recovery (R21): what became final with our
        help there would be lost.
        """
        if self.halted is not None or self._awaited:
            return False
        return self.boot.done and not self.is_abstaining

    @property
    def is_abstaining(self) -> bool:
        """R10: True where a rolled-back store may have forgotten a vote of ours."""
        return (self.validators.epoch, self.view.term) < self.forgets_until

    @property
    def forgets_until(self) -> tuple[int, int]:
        """R10: the epoch and term from which on the vote log is whole for sure.

        In the epoch that follows the one of the rule, two terms may have passed unseen by those
        who told us: the one in which they stood, not having anything to show of it, and the next.
        """
        epoch, term = self._abstain_until
        if term > 0 and self.validators.epoch == epoch + 1:
            return epoch + 1, ABSTAIN_TERMS + 1
        return epoch, term

    def _gate_is_closed(self, term: int) -> bool:
        """R4: True when we sent a nullify vote in this term."""
        return self._nullified is not None and self._nullified.term == term

    def _note_signed(self, header: Header, signature: bytes) -> None:
        """For ``signed``: it shows to somebody who lacks the order who leads a term."""
        self.signed[header.epoch, header.view.term] = (header, signature)
        if len(self.signed) > SIGNED_TERMS_KEPT:
            del self.signed[min(self.signed)]

    # --- effects ---

    def _send(self, to: int | None, message: Message) -> None:
        self._out.send.append(Send(to, message))

    def _send_justification(self, to: int | None) -> None:
        """What leads to our view, in as many messages as their bounds ask for."""
        most = limits.NULLIFICATIONS_MAX, limits.MESSAGE_BYTES_MAX
        for some in portions(self.ledger.justification(), _bytes_at_most, *most):
            self._send(to, Certificates(some))

    def _set_timer(self, timer: Timer, delay_ms: int | None) -> None:
        self._out.timers[timer] = delay_ms

    def _accuse(self, seat: int | None, what: str) -> None:
        if seat is not None:
            self._out.notices.append(Misbehaved(seat, what))

    def _stop(self, reason: str) -> None:
        """Safety is at stake: vote no more, and say so."""
        self.halted = Halt(reason)
        self._out.halt = self.halted

    def _longer(self, duration: int) -> int:
        """A duration as it is after failed terms and false complaints of ours (R13).

        Half of its base for each, so that it grows linearly, and at most ``growth_max`` times.
        """
        steps = self._failed_terms + self.patience.level
        return duration * (2 + min(steps, 2 * (self.durations.growth_max - 1))) // 2

    def _arm(self) -> None:
        """R1: the leader timer of this view; a short grace when its link is lost (R12, R13)."""
        d = self.durations
        leader = self.leader(self.view.term)
        delay_ms = d.heartbeat_ms + self._longer(d.leader_ms)
        if leader != self.seat and leader not in self.connected and self._is_lost(leader):
            grace_ms = d.link_grace_ms + d.leader_ms * self.patience.level // 2
            delay_ms = min(delay_ms, grace_ms)
        self._set_timer(Timer.LEADER, delay_ms)
        self._set_timer(Timer.HEARTBEAT, d.heartbeat_ms if leader == self.seat else None)

    def _note_links(self, lost: int | None = None) -> None:
        """After a change of links, or of who counts: which missing ones are lost (R12)?"""
        weight = self.validators.weight([*self.connected, self.seat])
        self._lost -= self.connected
        if lost is not None:
            self._lost.add(lost)
        if self.connected.isdisjoint(self.validators.weights):
            self._lost.clear()  # all of them: that was a pause of ours
        if not self.validators.is_quorum(weight):
            self._linked_ms = None
        elif self._linked_ms is None:
            self._linked_ms = self._now_ms

    def _is_lost(self, seat: int) -> bool:
        """R12: True when a link that is not there is lost, and not only still to be made.

        After a start, or a pause that ended all links, they come one by one. Whoever complained
        about the leader because its link is not the first could finalize nothing in this term any
        more (R4), and would be missed when another member goes.
        """
        if seat in self._lost:
            return True
        since_ms = self._linked_ms
        return since_ms is not None and self._now_ms - since_ms > self.durations.links_ms

    def _arm_stall(self) -> None:
        """R9: the time in which something must become final."""
        self._set_timer(Timer.STALL, self._longer(self.durations.stall_ms))
