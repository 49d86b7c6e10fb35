"""R1, the leader's part: when it proposes, on what, and what is in the block."""

from __future__ import annotations

from . import limits
from .codec import make_block
from .interface import BlockRecord, Send, Timer
from .proposals import state_height, unfinalized
from .types import Block, Certificate, Proposal, View, VoteKind
from .voting import Voting
from .wire import ProposalMessage


class Proposing(Voting):
    """The rules, with proposals of our own."""

    def _propose(self) -> None:
        """R1: as the leader, extend the chain when there is a reason to."""
        if self.leader(self.view.term) != self.seat:
            return
        if (self.view, VoteKind.NOTARIZE) in self._mine:
            return
        if self._gate_is_closed(self.view.term):
            return
        at_once = self._heartbeat_due or self.view.index == 0 or self._record_to_propose()
        if not at_once and (not len(self.mempool) or self._gathers()):
            return
        built = self._build()
        if built is None:
            return
        block, parent = built
        self._heartbeat_due = False
        self._proposed_ms = self._now_ms
        self.ledger.blocks[block.hash] = block
        self._out.persist.append(BlockRecord(block))
        vote = self._sign(VoteKind.NOTARIZE, self.view, block.hash, 0)
        proposal = Proposal(block, parent, vote.signature)
        self._out.send.append(Send(None, ProposalMessage(self.boot.incarnation, proposal)))

    def _gathers(self) -> bool:
        """R1: True while a larger block is worth a moment: our last one is not final yet.

        A block costs every member the same work whatever is in it. Where messages take longer than
        ``gather_ms``, nothing waits: the view before was notarized no sooner.
        """
        left_ms = self._proposed_ms + self.durations.gather_ms - self._now_ms
        if left_ms <= 0 or not unfinalized(self.view, self.ledger.tip.view):
            return False
        if not self._is_gathering:
            self._is_gathering = True
            self._set_timer(Timer.GATHER, left_ms)
        return True

    def _build(self) -> tuple[Block, Certificate | None] | None:
        """A block for the current view with its parent's proof.

        None when it cannot be made yet, or need not be: what waits is on the branch already.
        """
        ledger, view = self.ledger, self.view
        nullifications: tuple[Certificate, ...] | None = ()
        if view.index > 0:
            parent = View(view.term, view.index - 1)
        else:
            parent = ledger.highest_notarized()
            nullifications = ledger.covering(parent, view.term)
        parent_hash = ledger.notarized_block(parent)
        if parent_hash is None or nullifications is None:
            return None
        branch = self._branch(parent_hash)
        if branch is None:
            return None
        if isinstance(branch, bytes):
            self._out.send += self.catchup.want_block(branch, self.connected, None)
            return None
        if unfinalized(view, ledger.tip.view) >= limits.UNFINALIZED_BLOCKS_MAX // 2:
            return None
        commands: tuple[bytes, ...] = ()
        ending = branch[-1].next_epoch if branch else None
        record = ending or self._record_to_propose()
        if record is None:
            commands = self.mempool.batch(frozenset().union(*(b.command_ids for b in branch)))
        asked_for = commands or (record and not ending)
        if not (asked_for or self._heartbeat_due or view.index == 0):
            return None
        below = ledger.block_or_tip(parent_hash)
        assert below is not None  # the branch is whole
        checked = state_height(below.state_height, self.machine, self.checkpoints.every)
        state_hash = self.machine.hash_at(checked)
        if state_hash is None:  # behind what the parent already commits to
            return None
        block = make_block(
            self.cluster_id,
            epoch=self.validators.epoch,
            view=view,
            proposer=self.seat,
            height=below.height + 1,
            parent=parent_hash,
            time_ms=max(below.time_ms, self._clock_ms),
            state_height=checked,
            state_hash=state_hash,
            commands=commands,
            nullifications=nullifications[-limits.NULLIFICATIONS_PER_BLOCK_MAX :],
            evidence=() if record else self._evidence_for(branch),
            next_epoch=record,
        )
        return block, ledger.proof_of(parent)
