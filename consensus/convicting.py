"""R14: evidence that we find is kept, told to everybody, and put into blocks."""

from __future__ import annotations

from collections.abc import Iterable

from .evidence import judge_committed
from .interface import EvidenceRecord
from .state import State
from .types import Block, Evidence
from .validators import ValidatorSet
from .wire import EvidenceMessage


class Convicting(State):
    """What is done with evidence; ``evidence`` keeps and judges it."""

    def _sets(self) -> tuple[ValidatorSet, ...]:
        """The validator sets whose members' votes we can check."""
        return (self.validators,)

    def _convict(self, evidence: Evidence) -> None:
        """Evidence that we found ourselves goes to everybody, once."""
        if self._keep_evidence(evidence):
            self._send(None, EvidenceMessage((evidence,)))

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
        return self.evidence.one_of_each(self._sets(), without=known)

    def _judge_evidence(self, block: Block) -> str | None:
        """What is wrong with the evidence in a block, None when it convicts."""
        if not block.evidence:
            return None
        return judge_committed(block.evidence, self._sets(), self.cluster_id, self._verifier)
