"""Engines with one rule broken each. The simulator must notice every one of them.

Each entry says under which settings the bug shows and within how many seeds it must be found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from consensus import voting
from consensus.engine import Engine
from consensus.interface import Checkpoints, Output, Restored, Timer, VoteRecord
from consensus.proposals import Verdict
from consensus.types import Certificate, Manifest, Proposal, VoteKind
from consensus.validators import ValidatorSet
from consensus.wire import Commands, Message

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
    clone = object.__new__(type("Weak", (ValidatorSet,), {name: threshold}))
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
        if not isinstance(message, Commands):
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

    def _build(self) -> Proposal | None:
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

    def _on_snapshot_offer(self, sender: int, manifest: Manifest) -> None:
        genuine = self._is_genuine
        self._is_genuine = lambda c: True  # type: ignore[method-assign]
        super()._on_snapshot_offer(sender, manifest)
        self._is_genuine = genuine  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class Planted:
    """A bug, where it shows, and how many seeds may pass before it is found."""

    engine: type[Engine]
    settings: Settings
    seeds: int


_LIARS = Settings(byzantine=1)
_CALM = Settings(faults=("delay", "reorder"))
_CRASHES = Settings(faults=("delay", "reorder", "crash", "crash_all", "partition"))
_FORGED = Settings(byzantine=1, adversaries=("snapshots",), absences=1, clients=6)

BUGS: tuple[Planted, ...] = (
    Planted(GateRemoved, _CRASHES, 20),
    Planted(GateOpensWithTheNextView, _LIARS, 40),
    Planted(GateForgottenAtRestart, _CRASHES, 60),
    Planted(VotesForgottenAtRestart, _CRASHES, 20),
    Planted(QuorumOfTwoThirds, Settings(nodes=3, weights=(1, 1, 1)), 20),
    Planted(VoteNotPersisted, _CALM, 1),
    Planted(VotePersistedLater, _CALM, 1),
    Planted(NotarizesTwice, Settings(byzantine=1, adversaries=("equivocator",)), 20),
    Planted(JumpsWithoutCertificate, Settings(byzantine=1, adversaries=("mutator",)), 20),
    Planted(CoversNothing, Settings(byzantine=1, adversaries=("forker",)), 40),
    Planted(JoinsAtAThird, Settings(nodes=3, weights=(1, 1, 1)), 20),
    Planted(NeverRepeats, Settings(), 40),
    Planted(NeverImpatient, Settings(byzantine=1, adversaries=("silent", "mute")), 40),
    Planted(BootCertificateIgnored, _CRASHES, 20),
    Planted(StaleIncarnationAccepted, Settings(), 40),
    Planted(CommandsKeptToOneself, _CALM, 10),
    Planted(AppliesTwice, Settings(), 20),
    Planted(ViewForgottenAtRestart, _CRASHES, 40),
    Planted(ParentFromAnyView, Settings(), 60),
    Planted(CheckpointsPassedOver, _CRASHES, 40),
    Planted(SnapshotsBelieved, _FORGED, 40),
    Planted(ManifestsBelieved, _FORGED, 40),
)
__all__ = ["BUGS", "Planted"]
