"""R14 in one member: evidence is kept, told to everybody, and put into blocks."""

from __future__ import annotations

from collections.abc import Iterable

from . import limits
from .epochs import era_of
from .evidence import is_genuine, judge_committed, pairs_between
from .interface import EvidenceRecord
from .state import State
from .types import Block, Certificate, Evidence
from .validators import ValidatorSet
from .wire import EvidenceMessage


class Convicting(State):
    """What is done with evidence; ``evidence`` keeps and judges it."""

    @property
    def evidence_sets(self) -> tuple[ValidatorSet, ...]:
        """The sets whose members can be convicted: this epoch's, which is first, and the last.

        Not over a recovery (R21): members may have come to its block by different epochs.
        """
        before, now = self.previous, self.validators
        if before is None or era_of(before.epoch) != era_of(now.epoch):
            return (now,)
        return (now, before)

    def _convict(self, found: Iterable[Evidence]) -> None:
        """Evidence that we found ourselves goes to everybody, once."""
        new = [evidence for evidence in found if self._keep_evidence(evidence)]
        for at in range(0, len(new), limits.EVIDENCE_PER_BLOCK_MAX):
            self._send(None, EvidenceMessage(tuple(new[at : at + limits.EVIDENCE_PER_BLOCK_MAX])))

    def _on_evidence(self, sender: int, pairs: tuple[Evidence, ...]) -> None:
        """Evidence that another member found: kept when it is genuine."""
        epochs = [s.epoch for s in self.evidence_sets]
        for evidence in pairs:
            if evidence.first.epoch not in epochs or not self.evidence.wants(evidence):
                continue
            if not is_genuine(evidence, self.evidence_sets, self.cluster_id, self._verifier):
                self._accuse(sender, f"evidence that does not convict {evidence.first.seat}")
                return
            self._keep_evidence(evidence)

    def _tell_evidence(self, seat: int) -> None:
        """To a member that connects: what is not committed yet."""
        convicted = self.machine.standing.convicted
        pairs = self.evidence.one_of_each(self.evidence_sets, without=convicted)
        if pairs:
            self._send(seat, EvidenceMessage(pairs))

    def _stop_between(self, one: Certificate, other: Certificate, what: str) -> None:
        """Two certificates that cannot both be: what stops us leaves proof of who lied."""
        self._convict(pairs_between(one, other))
        self._stop(f"{what}: more than a third is faulty")

    def _keep_evidence(self, evidence: Evidence) -> bool:
        """Takes genuine evidence; False when nothing is new about it."""
        if not self.evidence.add(evidence):
            return False
        self._out.persist.append(EvidenceRecord(evidence))
        first, second = evidence.first, evidence.second
        what = f"{first.kind.name}/{second.kind.name}"
        self._accuse(first.seat, f"conflicting votes {what} in {first.view}")
        return True

    def _evidence_for(self, branch: Iterable[Block]) -> tuple[Evidence, ...]:
        """What a block on this branch should convict: whom none of it convicts yet."""
        if not len(self.evidence):
            return ()
        known = set(self.machine.standing.convicted)
        known.update(e.first.seat for block in branch for e in block.evidence)
        return self.evidence.one_of_each(self.evidence_sets, without=known)

    def _judge_evidence(self, block: Block) -> str | None:
        """What is wrong with the evidence in a block, None when it convicts."""
        if not block.evidence:
            return None
        return judge_committed(block.evidence, self.evidence_sets, self.cluster_id, self._verifier)
