"""Engines with one rule broken each. The simulator must notice every one of them.

Each entry says under which settings the bug shows and within how many seeds it must be found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from consensus import installing, voting
from consensus.engine import Engine
from consensus.interface import (
    AcknowledgedRecord,
    BlockRecord,
    Checkpoints,
    Output,
    Restored,
    Timer,
    VoteRecord,
)
from consensus.proposals import Verdict
from consensus.snapshots import Offer
from consensus.types import (
    Block,
    Certificate,
    Manifest,
    Proposal,
    Reason,
    Vote,
    VoteKind,
)
from consensus.validators import ValidatorSet
from consensus.wire import Commands, Message, Reminder, SyncRequest

from .planted_epochs import (
    CommandsAfterTheBoundary,
    EpochOpenedAtNotarization,
    LastBoundaryOpens,
    RecordUnchecked,
    ThirdMayChangeAtOnce,
)
from .planted_recoveries import RECOVERIES
from .scenario import Settings


class GateRemoved(Engine):
    """Finalizes in a term that it voted to end."""

    def _gate_is_closed(self, term: int) -> bool:
        return False


class GateOpensWithTheNextView(Engine):
    """Takes the gate for a matter of one view ("healing")."""

    def _gate_is_closed(self, term: int) -> bool:
        return self._nullified == self.view


class GateForgottenAtRestart(Engine):
    """Reads its votes back, but not that it complained."""

    def _restore(self, restored: Restored) -> None:
        super()._restore(restored)
        self._nullified = None


class VotesForgottenAtRestart(Engine):
    """Does not read its votes back."""

    def _restore(self, restored: Restored) -> None:
        super()._restore(replace(restored, votes=()))


class QuorumOfTwoThirds(Engine):
    """Takes exactly two thirds for a quorum."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        _weaken(self, "is_quorum", _two_thirds)


def _weaken(engine: Engine, name: str, threshold: Callable[[ValidatorSet, int], bool]) -> None:
    """Gives an engine a validator set with another threshold."""
    weights = range(engine.validators.total + 1)
    least = next(weight for weight in weights if threshold(engine.validators, weight))
    weak = {name: threshold, name.replace("is_", "") + "_weight": least}
    clone = object.__new__(type("Weak", (ValidatorSet,), weak))
    clone.__dict__.update(vars(engine.validators))
    engine.validators = engine.book._validators = engine.boot._validators = clone


def _two_thirds(self: ValidatorSet, weight: int) -> bool:
    return 3 * weight >= 2 * self.total


def _a_third(self: ValidatorSet, weight: int) -> bool:
    return 3 * weight >= self.total


class VoteNotPersisted(Engine):
    """Sends its finalize votes without writing them down."""

    def step(self, event: object, now_ms: int) -> Output:
        output = super().step(event, now_ms)  # type: ignore[arg-type]
        output.persist = [
            r
            for r in output.persist
            if not (isinstance(r, VoteRecord) and r.vote.kind is VoteKind.FINALIZE)
        ]
        return output


class VotePersistedLater(Engine):
    """Writes a vote down one step after it was sent."""

    _late: tuple[VoteRecord, ...] = ()

    def step(self, event: object, now_ms: int) -> Output:
        output = super().step(event, now_ms)  # type: ignore[arg-type]
        votes = tuple(r for r in output.persist if isinstance(r, VoteRecord))
        others = [r for r in output.persist if not isinstance(r, VoteRecord)]
        output.persist = [*self._late, *others]
        self._late = votes
        return output


class BootCertificateIgnored(Engine):
    """Votes at once, without the right to."""

    @property
    def can_vote(self) -> bool:
        return self.halted is None


class NotarizesTwice(Engine):
    """Votes for any valid proposal of its view, not for the first only."""

    def _on_proposal(self, sender: int, incarnation: int, proposal: Proposal) -> None:
        view = proposal.block.header.view
        other = self._proposals.get(view)
        if other is not None and other.block.hash != proposal.block.hash:
            self._mine.pop((view, VoteKind.NOTARIZE), None)
            ballot = self.book._ballots.get((view, VoteKind.NOTARIZE))
            if ballot is not None and sender in ballot.votes:
                forgotten = ballot.votes.pop(sender).block
                ballot.weights[forgotten] -= self.validators.weights[sender]
            del self._proposals[view]
        super()._on_proposal(sender, incarnation, proposal)


class JumpsWithoutCertificate(Engine):
    """Believes any certificate that it is shown."""

    def _is_genuine(self, c: Certificate) -> bool:
        return True


class CoversNothing(Engine):
    """As a voter, asks for no nullifications at a term's start; as a leader, shows none."""

    def _vote_for_proposal(self) -> None:
        judge = voting.judge

        def lenient(proposal: Proposal, *rest: object) -> Verdict | str:
            verdict = judge(proposal, *rest)  # type: ignore[arg-type]
            return Verdict.VALID if isinstance(verdict, str) else verdict

        voting.judge = lenient  # type: ignore[assignment]
        try:
            super()._vote_for_proposal()
        finally:
            voting.judge = judge


class AnythingCovers(Engine):
    """Takes a notarization for the nullification of a view that is skipped (R1)."""

    def _takes_nullifications(self, sender: int, block: Block) -> bool:
        return all(self._take_certificate(c, sender=sender) for c in block.nullifications)

    def _vote_for_proposal(self) -> None:
        judge = voting.judge

        def lenient(proposal: Proposal, *rest: object) -> Verdict | str:
            shown = proposal.block.nullifications
            relabelled = tuple(replace(c, kind=VoteKind.NULLIFY) for c in shown)
            block = replace(proposal.block, nullifications=relabelled)
            return judge(replace(proposal, block=block), *rest)  # type: ignore[arg-type]

        voting.judge = lenient  # type: ignore[assignment]
        try:
            super()._vote_for_proposal()
        finally:
            voting.judge = judge


class JoinsAtAThird(Engine):
    """Joins complaints of exactly a third of the weight."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        _weaken(self, "is_join", _a_third)


class NeverRepeats(Engine):
    """Sends everything once (R7 removed)."""

    def _resend(self, to: int | None) -> None:
        pass


class NeverImpatient(Engine):
    """Has neither a leader timer nor a stall timer (R4 and R9; each alone covers the other)."""

    def _set_timer(self, timer: Timer, delay_ms: int | None) -> None:
        if timer not in (Timer.STALL, Timer.LEADER):
            super()._set_timer(timer, delay_ms)


class CommandsKeptToOneself(Engine):
    """Does not pass its clients' commands on."""

    def _send(self, to: int | None, message: Message) -> None:
        if not isinstance(message, Commands | Reminder):
            super()._send(to, message)


class AppliesTwice(Engine):
    """Forgets who asked for what, so that a repeated command runs again."""

    def _commit(self, target: Certificate, sender: int | None) -> None:
        self.machine.sessions.clear()
        super()._commit(target, sender)


class StaleIncarnationAccepted(Engine):
    """Acknowledges every boot and counts every incarnation (R10 removed)."""

    def _counts(self, seat: int, incarnation: int) -> bool:
        return True

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.boot.accept = lambda request: True  # type: ignore[method-assign]


class ViewForgottenAtRestart(Engine):
    """Starts again where its votes are, and forgets that a finalize vote ended its view."""

    def _restore(self, restored: Restored) -> None:
        super()._restore(restored)
        finalized = [v.view for v in restored.votes if v.kind is VoteKind.FINALIZE]
        if finalized and self.view == max(finalized).next():
            self.view = max(finalized)


class ParentFromAnyView(Engine):
    """As a leader, begins its term on the final tip instead of the highest notarized block."""

    def _build(self) -> tuple[Block, Certificate | None] | None:
        kept = self.ledger.notarizations
        if self.view.index == 0:
            self.ledger.notarizations = {}
        try:
            return super()._build()
        finally:
            self.ledger.notarizations = kept


class CheckpointsPassedOver(Engine):
    """Commits to the newest state whatever checkpoint lies between."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.checkpoints = Checkpoints()


class SnapshotsBelieved(Engine):
    """Takes a state over without asking for its hash."""

    def _on_snapshot_offer(self, sender: int, manifest: Manifest) -> None:
        super()._on_snapshot_offer(sender, manifest)
        if self.fetch is not None:
            self.fetch._state_hash = None  # type: ignore[assignment]


class ManifestsBelieved(Engine):
    """Takes any finalization in a manifest for one."""

    def _take_offer(self, offer: Offer) -> None:
        checked = installing.verify_certificate
        installing.verify_certificate = lambda *certificate: True  # type: ignore[assignment]
        try:
            super()._take_offer(offer)
        finally:
            installing.verify_certificate = checked  # type: ignore[assignment]


class NeverJoins(Engine):
    """Leaves complaints to those who have their own (the second half of R4)."""

    def _join(self) -> None:
        pass


class NoStallTimer(Engine):
    """Bears a term without finality as long as proposals flow (R9 removed)."""

    def _set_timer(self, timer: Timer, delay_ms: int | None) -> None:
        if timer is not Timer.STALL:
            super()._set_timer(timer, delay_ms)


class LeaderTimerForgotten(Engine):
    """Does not watch its leader (the first half of R4); the stall timer covers it, later."""

    def _set_timer(self, timer: Timer, delay_ms: int | None) -> None:
        if timer is not Timer.LEADER:
            super()._set_timer(timer, delay_ms)


class RollbackNotNoticed(Engine):
    """Does not listen to what others saw it sign (R10)."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.boot.told = lambda: (None, 0)  # type: ignore[method-assign]


class AbstainsOneTermOnly(Engine):
    """After a rollback, votes again in the term after the highest that it was told of."""

    @property
    def is_abstaining(self) -> bool:
        epoch, term = self._abstain_until
        return (self.validators.epoch, self.view.term) < (epoch, term - 1)


class EvidenceForgotten(Engine):
    """Finds liars out and says nothing (R14 removed)."""

    def _convict(self, found: object) -> None:
        pass


class BootQuorumTooSmall(Engine):
    """Takes acknowledgements of more than a third for a boot certificate."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        clone = object.__new__(type("Weak", (ValidatorSet,), {"is_quorum": ValidatorSet.is_join}))
        clone.__dict__.update(vars(self.validators))
        self.boot._validators = clone


class OrderDependsOnArrival(Engine):
    """Puts the parts of a certificate in the order in which the votes came."""

    def _take_certificate(
        self, c: Certificate, *, checked: bool = False, sender: int | None = None
    ) -> bool:
        parts = tuple(sorted(c.parts, key=lambda p: p.seat != self.seat)) if checked else c.parts
        return super()._take_certificate(replace(c, parts=parts), checked=checked, sender=sender)


class OrderFromLinks(Engine):
    """Lets the members lead in the order in which it got to know them."""

    def leader(self, term: int) -> int:
        met = [*self.boot.known, *(s for s in self.order if s not in self.boot.known)]
        return met[(term - 1) % len(met)]


class TimersDouble(Engine):
    """Doubles its timers with each failed term, for ever."""

    def _longer(self, duration: int) -> int:
        return duration * 2 ** int(self._failed_terms)


class ComplainsOncePerTerm(Engine):
    """Having complained, is content in later views of the term (R4)."""

    def _nullify(self, reason: Reason) -> None:
        if not self._gate_is_closed(self.view.term):
            super()._nullify(reason)


class BlockNotPersisted(Engine):
    """Votes for a block that it does not write down."""

    def step(self, event: object, now_ms: int) -> Output:
        output = super().step(event, now_ms)  # type: ignore[arg-type]
        output.persist = [r for r in output.persist if not isinstance(r, BlockRecord)]
        return output


class PromiseNotPersisted(Engine):
    """Acknowledges boots without writing down what it promised (R10)."""

    def step(self, event: object, now_ms: int) -> Output:
        output = super().step(event, now_ms)  # type: ignore[arg-type]
        output.persist = [r for r in output.persist if not isinstance(r, AcknowledgedRecord)]
        return output


class FinalizesWhatIsNotNotarized(Engine):
    """Sends finalize with its notarize vote, before there is a notarization (R3)."""

    def _broadcast_vote(self, vote: Vote) -> None:
        super()._broadcast_vote(vote)
        early = vote.kind is VoteKind.NOTARIZE and not self._gate_is_closed(vote.view.term)
        if early and (vote.view, VoteKind.FINALIZE) not in self._mine:
            super()._broadcast_vote(self._sign(VoteKind.FINALIZE, vote.view, vote.block, 0))


class NotarizesWhatItNullified(Engine):
    """Votes for a proposal after it complained about the view (R2)."""

    def _vote_for_proposal(self) -> None:
        kept, self._nullified = self._nullified, None
        try:
            super()._vote_for_proposal()
        finally:
            self._nullified = max(kept, self._nullified) if self._nullified else kept  # type: ignore[type-var]


class NullificationEndsNothing(Engine):
    """Stays in its term whoever complained (R5 removed)."""

    def _on_nullification(self, c: Certificate) -> None:
        pass


class FinalAtNotarization(Engine):
    """Applies a block as soon as it is notarized (R6)."""

    def _take_certificate(
        self, c: Certificate, *, checked: bool = False, sender: int | None = None
    ) -> None:
        super()._take_certificate(c, checked=checked, sender=sender)
        ours = c.kind is VoteKind.NOTARIZE and c.epoch == self.validators.epoch
        if ours and c.view > self.ledger.tip.view:
            self._commit(c, sender)


class NeverJumps(Engine):
    """Takes certificates in their order only (R8 removed)."""

    def _take_certificate(
        self, c: Certificate, *, checked: bool = False, sender: int | None = None
    ) -> None:
        if c.view <= self.view:
            super()._take_certificate(c, checked=checked, sender=sender)


class NeverAsksForBlocks(Engine):
    """Waits until somebody brings it what it missed (R16 removed)."""

    def step(self, event: object, now_ms: int) -> Output:
        output = super().step(event, now_ms)  # type: ignore[arg-type]
        output.send = [s for s in output.send if not isinstance(s.message, SyncRequest)]
        return output


@dataclass(frozen=True, slots=True)
class Planted:
    """A bug, where it shows, and how many seeds may pass before it is found."""

    engine: type[Engine]
    rules: tuple[str, ...]  # of docs/protocol.md, which it breaks
    settings: Settings
    seeds: int


@dataclass(frozen=True, slots=True)
class Directed:
    """A bug that a story shows, where random runs would need too many seeds.

    ``story`` is True when all goes as the rules want it, as it must with ``Engine``.
    """

    engine: type[Engine]
    rules: tuple[str, ...]
    story: Callable[[type[Engine]], bool]


_DUTIES, _WORDS = ("Order of duties",), ("Words",)  # parts of the page without a number
_LIARS = Settings(byzantine=1)
_CALM = Settings(faults=("delay", "reorder"))
_QUIET = Settings(byzantine=1, clients=0, adversaries=("withholder", "last_moment", "nuller"))
_LAGGING = Settings(faults=("delay", "membership", "asymmetric", "pause"))
_DISKS = Settings(faults=("delay", "reorder", "rollback", "wipe", "crash"))
_EPOCHS = Settings(faults=("delay", "reorder", "membership", "partition", "crash"))
_CRASHES = Settings(faults=("delay", "reorder", "crash", "crash_all", "partition"))
_FORGED = Settings(byzantine=1, adversaries=("snapshots",), absences=1, clients=6)

BUGS: tuple[Planted, ...] = (
    Planted(GateRemoved, ("R4",), _CRASHES, 20),
    Planted(GateOpensWithTheNextView, ("R4",), _LIARS, 40),
    Planted(GateForgottenAtRestart, ("R4",), _CRASHES, 60),
    Planted(VotesForgottenAtRestart, _DUTIES, _CRASHES, 20),
    Planted(QuorumOfTwoThirds, ("R3", "R5", "R6"), Settings(nodes=3, weights=(1, 1, 1)), 20),
    Planted(VoteNotPersisted, _DUTIES, _CALM, 1),
    Planted(VotePersistedLater, _DUTIES, _CALM, 1),
    Planted(NotarizesTwice, ("R2",), Settings(byzantine=1, adversaries=("equivocator",)), 20),
    Planted(JumpsWithoutCertificate, ("R8",), Settings(byzantine=1, adversaries=("mutator",)), 20),
    Planted(CoversNothing, ("R1",), Settings(byzantine=1, adversaries=("forker",)), 40),
    Planted(JoinsAtAThird, ("R4",), Settings(nodes=3, weights=(1, 1, 1)), 20),
    Planted(AnythingCovers, ("R1",), Settings(byzantine=1, adversaries=("relabeller",)), 50),
    Planted(NeverRepeats, ("R7",), Settings(), 40),
    Planted(
        NeverImpatient, ("R4", "R9"), Settings(byzantine=1, adversaries=("silent", "mute")), 40
    ),
    Planted(BootCertificateIgnored, ("R10",), _CRASHES, 20),
    Planted(StaleIncarnationAccepted, ("R10",), Settings(), 40),
    Planted(CommandsKeptToOneself, ("R12",), _CALM, 10),
    Planted(AppliesTwice, ("R6",), Settings(), 20),
    Planted(ViewForgottenAtRestart, _DUTIES, _CRASHES, 40),
    Planted(ParentFromAnyView, ("R1",), Settings(), 60),
    Planted(CheckpointsPassedOver, ("R2",), _CRASHES, 40),
    Planted(SnapshotsBelieved, ("R17",), _FORGED, 60),
    Planted(ManifestsBelieved, ("R17",), replace(_FORGED, clients=10), 80),
    Planted(NeverJoins, ("R4",), Settings(), 20),
    Planted(
        LeaderTimerForgotten, ("R4",), Settings(byzantine=1, adversaries=("mute", "silent")), 20
    ),
    Planted(RollbackNotNoticed, ("R10",), _DISKS, 20),
    Planted(AbstainsOneTermOnly, ("R10",), _DISKS, 30),
    Planted(EvidenceForgotten, ("R14",), Settings(byzantine=1, adversaries=("equivocator",)), 30),
    Planted(BootQuorumTooSmall, ("R10",), _CRASHES, 10),
    Planted(OrderDependsOnArrival, _WORDS, _CALM, 5),
    Planted(OrderFromLinks, _WORDS, _CRASHES, 10),
    Planted(TimersDouble, ("R13",), Settings(chaos_ms=30_000), 60),
    Planted(ComplainsOncePerTerm, ("R4",), Settings(), 20),
    Planted(BlockNotPersisted, _DUTIES, _CRASHES, 10),
    Planted(PromiseNotPersisted, ("R10",), _CRASHES, 10),
    Planted(FinalizesWhatIsNotNotarized, ("R3",), _LIARS, 30),
    Planted(NotarizesWhatItNullified, ("R2",), Settings(), 30),
    Planted(EpochOpenedAtNotarization, ("R11",), _EPOCHS, 20),
    Planted(LastBoundaryOpens, ("R11",), _LAGGING, 80),
    Planted(RecordUnchecked, ("R15",), Settings(byzantine=1, adversaries=("false_registry",)), 30),
    Planted(ThirdMayChangeAtOnce, ("R18",), _EPOCHS, 30),
    Planted(NullificationEndsNothing, ("R5",), _LIARS, 10),
    Planted(FinalAtNotarization, ("R6",), _CRASHES, 5),
    Planted(NeverJumps, ("R8",), Settings(), 20),
    Planted(NeverAsksForBlocks, ("R16",), _CRASHES, 20),
    Planted(CommandsAfterTheBoundary, ("R11",), _LAGGING, 40),
    *(Planted(*bug) for bug in RECOVERIES),
)
__all__ = ["BUGS", "Directed", "Planted"]
