"""From epoch to epoch (R11, R15, R18-R21): what one member proposes, accepts and opens.

Safety rests on two things here: nothing but the same record follows a boundary block (``_fits``),
and an epoch is opened on the first boundary block of the finalized chain only
(``Voting._apply``).
"""

from __future__ import annotations

from .catchup import CatchUp
from .certificates import VoteBook
from .convicting import Convicting
from .epochs import (
    ChainViews,
    Origin,
    counted,
    due,
    ends_epoch,
    ends_era,
    era_of,
    left_era,
    opened_set,
    order_only,
    origin_of,
    recovery_epoch,
    way_to_newest,
)
from .interface import (
    Alarm,
    EpochOpened,
    EpochRecord,
    LeaderChanged,
    Restored,
    ServeEpochs,
    Timer,
)
from .ledger import Ledger, Tip, begun_tip
from .order import leader_order
from .proposals import Verdict
from .types import (
    GENESIS,
    Block,
    BootAck,
    Boundary,
    ChainView,
    NextEpoch,
    Opening,
    Recovery,
    View,
)
from .validators import ValidatorSet
from .wire import (
    Certificates,
    EpochReply,
    EpochRequest,
    Message,
    ProbeReply,
    ProposalMessage,
    SyncReply,
    SyncRequest,
    VoteMessage,
)


class Turning(Convicting):
    """What the registry shows, and the way into the next epoch."""

    def _init_epochs(self, restored: Restored, founders: ValidatorSet) -> None:
        """Called once by ``Engine``, after ``State`` is set up."""
        self.revoked: frozenset[int] = frozenset()  # whose single votes count no more (R19)
        self._chain_views = ChainViews()
        self._revoked_on_chain: frozenset[int] = frozenset()
        self._due: NextEpoch | None = None  # what our newest view of the registry asks for
        self._seen_ms = 0  # when it came
        self._origin = Origin()
        self._ahead: Boundary | None = None  # proof that our epoch is over, its blocks on the way
        self._recoveries = [o for o in restored.openings if isinstance(o, Recovery)]
        self._on_chain = set(self._recoveries)  # what our chain showed, or had when we opened it
        for recovery in self._recoveries:
            self._chain_views.begin_at(recovery.chain_block)
        self._later: list[tuple[int, Opening]] = []  # from whom: what followed, checked in its turn
        self._asked_for_epoch: set[int] = set()  # since the last retry
        self._told_epoch: set[int] = set()  # since the last retry
        if restored.openings:
            self._origin = origin_of(restored.openings[-1])
            before = restored.openings[-2:-1]
            self.previous = opened_set(before[0]) if before else founders

    # --- what is due (R15) ---

    def _on_membership(self, view: ChainView, revoked: frozenset[int]) -> None:
        """R15, R19: what the registry shows now."""
        if self._chain_views.add(view) and self._chain_views.newest == view:
            self._seen_ms = self._now_ms
        self._revoked_on_chain = revoked
        self._apply_revocations()
        self._note_due()

    def _apply_revocations(self) -> None:
        """R19: revoked seats lose their say at once, unless no quorum would be left."""
        revoked = self._revoked_on_chain.intersection(self.validators.weights)
        left = self.validators.total - self.validators.weight(revoked)
        if not self.validators.is_quorum(left):
            what = f"seats {sorted(revoked)} are revoked, but without them there is no quorum"
            self._out.notices.append(Alarm(what))
            revoked = frozenset()
        self.revoked = revoked

    def _note_due(self) -> None:
        """Looks again at what is due; the grace of a leader starts when something becomes due."""
        before = self._is_due
        newest = self._chain_views.newest
        self._due = due(self.validators, self._origin, newest) if newest else None
        if self._is_due and not before:
            self._set_timer(Timer.EPOCH, self.durations.epoch_grace_ms)

    @property
    def _is_due(self) -> bool:
        """True for another set, or the same one in a new order."""
        return self._due is not None or self._is_worn_out(self.view.term)

    def _is_worn_out(self, term: int) -> bool:
        """True in a term before which every member had one and was deposed."""
        return term > len(self.order) and not ends_era(self.validators.epoch)

    def _record_to_propose(self) -> NextEpoch | None:
        """R15: what we as the leader would end the epoch with."""
        due = self._due
        if due is not None and self._is_settled(due.chain_block) and not self._is_too_early():
            return due
        if self._is_worn_out(self.view.term):
            return order_only(self.validators, self._origin)
        return None

    def _is_settled(self, chain_block: int) -> bool:
        """True when a quorum says that it sees the chain that far, or had the time to."""
        if self._now_ms - self._seen_ms >= self.durations.epoch_settle_ms:
            return True
        seen = [s for s, peer in self.prober.peers.items() if peer.chain_block >= chain_block]
        return self.validators.is_quorum(self.validators.weight([*seen, self.seat]))

    def _is_too_early(self) -> bool:
        """R15: True while so many say that they do not see the change that no quorum is left.

        To propose it, or to complain that nobody does, would then only cost leaders. Who did not
        say anything may see it.
        """
        if self._due is None:
            return False
        blind = [
            seat
            for seat, peer in self.prober.peers.items()
            if seat in self.connected and 0 < peer.chain_block < self._due.chain_block
        ]
        left = self.validators.total - self.validators.weight(blind)
        return not self.validators.is_quorum(left)

    def _accepts(self, record: NextEpoch, term: int) -> bool:
        """R15: is it what we compute ourselves from a view of the registry that we saw?"""
        if self._is_worn_out(term) and record == order_only(self.validators, self._origin):
            return True
        view = self._chain_views.at(record.chain_block)
        return view is not None and due(self.validators, self._origin, view) == record

    def _fits(self, block: Block) -> Verdict | str:
        """R11, R15: may a block with this record (or none) stand on its parent, a candidate?"""
        parent = self.ledger.blocks.get(block.header.parent)
        record = block.next_epoch
        if record is not None and (block.commands or block.evidence):
            return "a boundary block that carries more than the record"
        if parent is not None and parent.next_epoch is not None:
            if record != parent.next_epoch:
                return "it ends no epoch, on a block that does"
            return Verdict.VALID
        if record is None or self._accepts(record, block.header.view.term):
            return Verdict.VALID
        return Verdict.WAIT  # our view of the registry may lag

    def _is_ending(self) -> bool:
        """True when the block to build on ends the epoch already."""
        tip = self.ledger.notarized_block(self.ledger.highest_notarized())
        block = self.ledger.blocks.get(tip) if tip is not None else None
        return block is not None and block.next_epoch is not None

    # --- the next epoch ---

    def _open_epoch(self, opening: Opening, tip: Tip) -> None:
        """R11: the epoch begins, on a final and applied block, with the views from the start."""
        validators = opened_set(opening)
        if isinstance(opening, Recovery):
            assert era_of(validators.epoch) > era_of(self.validators.epoch)
        else:
            assert validators.epoch == self.validators.epoch + 1
        assert tip.view == GENESIS
        if not self._out.installed:  # else it is in the record of the snapshot
            self._out.persist.append(EpochRecord(opening))
        self.previous, self.validators = self.validators, validators
        self.order = leader_order(validators, self.machine.standing.opening)
        self.ledger = Ledger(tip)
        self.book = VoteBook(validators, self.cluster_id, self._verifier)
        self.catchup = CatchUp(tip.height)
        self.view = View(1, 0)
        self._mine.clear()
        self._nullified = None
        self._proposals.clear()
        self._refused.clear()
        self._unsaved.clear()
        self._helped.clear()
        self._left.clear()
        self._work.clear()
        self._failed_terms = 0
        self._heartbeat_due = False
        self._origin = origin_of(opening)
        self._ahead = None
        self._told_epoch.clear()
        self._asked_for_epoch.clear()
        if isinstance(opening, Recovery):
            self._chain_views.begin_at(opening.chain_block)
            self._recoveries.append(opening)
            self._await_recoveries()
            what = f"epoch {validators.epoch} is opened by a recovery vote on the chain"
            self._out.notices.append(Alarm(what))
        self.boot.open_epoch(validators)
        self._out.notices += [
            EpochOpened(validators, tip.height, opening, self.boot.is_member),
            LeaderChanged(validators.epoch, 1, self.leader(1), {}),
        ]
        self._due = None
        self._note_links()
        self._set_timer(Timer.EPOCH, None)
        self._arm_stall()
        self._arm()
        self._apply_revocations()
        self._note_due()

    # --- others in other epochs ---

    def _compare_epochs(self, sender: int, message: Message) -> None:
        """R11: asks whoever speaks in a later epoch how ours ended; tells whoever is behind."""
        theirs = _epoch_of(message)
        if theirs is None or theirs == self.validators.epoch:
            return
        if theirs > self.validators.epoch:
            self._ask_for_epoch(sender)
        elif not isinstance(message, SyncReply):  # which may be a late answer to ourselves
            self._tell_epoch(sender, theirs)

    def _send_justification(self, to: int | None) -> None:
        """R7: while nothing is certified in our epoch yet, its number shows others the way."""
        super()._send_justification(to)
        if self.validators.epoch > 0 and not self.ledger.justification():
            self._send(to, EpochRequest(self.validators.epoch))

    def _ask_for_epoch(self, sender: int) -> None:
        if sender not in self._asked_for_epoch and self._ahead is None:
            self._asked_for_epoch.add(sender)
            self._send(sender, EpochRequest(self.validators.epoch))

    def _tell_epoch(self, sender: int, epoch: int) -> None:
        if epoch < self.validators.epoch and sender not in self._told_epoch:
            self._told_epoch.add(sender)
            self._out.serve.append(ServeEpochs(sender, epoch))

    def _on_epoch_reply(self, sender: int, reply: EpochReply) -> None:
        """How our epoch ended, and those after it."""
        if self._ahead is None:
            self._later = [(sender, opening) for opening in reply.openings]
            self._follow_later()

    def _follow_later(self) -> None:
        """R11: the next proof in turn; it is worth nothing before its epoch is ours."""
        while self._later and self._ahead is None and self.halted is None:
            sender, opening = self._later.pop(0)
            if isinstance(opening, Recovery):  # believed from the chain only, but it has the block
                self._later.clear()
                if self._lacks_recovered:
                    self._send(sender, SyncRequest(self.ledger.tip.height + 1, 1))
                return
            if opening.block.header.epoch != self.validators.epoch:
                continue
            if opening.block.header.height <= self.ledger.tip.height or not ends_epoch(
                opening, self.validators, self.cluster_id, self._verifier
            ):
                self._later.clear()
                self._accuse(sender, f"a false end of epoch {self.validators.epoch}")
                return
            self._follow_boundary(opening, sender)

    def _follow_boundary(self, boundary: Boundary, sender: int) -> None:
        raise NotImplementedError  # in ``syncing``

    # --- recoveries (R21) ---

    def _on_recoveries(self, recoveries: tuple[Recovery, ...]) -> None:
        """A finalized on-chain vote replaces a set that lost its quorum; never anything else."""
        self._on_chain.update(recoveries)
        good = counted(self._on_chain)
        for recovery in recoveries:
            if recovery in good:
                continue
            newest = max(r.epoch for r in self._on_chain)
            following = recovery_epoch(self.validators.epoch, newest)
            what = (
                f"the chain opens epoch {recovery.epoch} by a recovery vote: no member follows, as"
                f" that is no number of one; on our block it would be {following}"
            )
            self._out.notices.append(Alarm(what))
        self._await_recoveries()
        self._try_recovery()

    def _await_recoveries(self) -> None:
        """Notes what lies between us and the newest one: from then on we sign nothing here."""
        era = era_of(self.validators.epoch)
        self._awaited = [r for r in way_to_newest(self._on_chain) if era_of(r.epoch) > era]

    @property
    def _lacks_recovered(self) -> bool:
        """True while we have not come to the block that the next recovery stands on."""
        return bool(self._awaited) and self.ledger.tip.height < self._awaited[0].height

    def _passes_beside(self, r: Recovery, branch: list[Block]) -> bool:
        """True, and stops, when final blocks are others than the one that a recovery names."""
        for block in branch:
            if block.header.height == r.height and block.hash != r.block_hash:
                self._stop_beside(r, block.header.height, block.hash)
                return True
            if block.next_epoch is not None:
                break  # what stands on it is dropped, and has no height (R11)
        return False

    def _try_recovery(self) -> None:
        """Opens the epoch when we have exactly the block that it stands on; stops beyond it."""
        # An installed state is written as it is before an epoch opens on it.
        while self._awaited and not self.is_halted and not self._out.installed:
            r, tip = self._awaited[0], self.ledger.tip
            if (tip.height, tip.hash) == (r.height, r.block_hash):
                self._open_epoch(r, begun_tip(tip))
            elif self._lacks_recovered and left_era(r) == era_of(self.validators.epoch):
                self._send(None, SyncRequest(tip.height + 1, 1))
                return
            else:
                self._stop_beside(r, tip.height, tip.hash)

    def _stop_beside(self, r: Recovery, height: int, block_hash: bytes) -> None:
        """What is final here is not what the chain names; nobody goes back behind it."""
        self._stop(
            f"the chain opens epoch {r.epoch} by a recovery vote on block {r.height} "
            f"{r.block_hash.hex()}; this member is in epoch {self.validators.epoch} "
            f"at block {height} {block_hash.hex()}"
        )


def _epoch_of(message: Message) -> int | None:
    """The epoch in which a message speaks."""
    match message:
        case VoteMessage(_, vote):
            return vote.epoch
        case ProposalMessage(_, proposal):
            return proposal.block.header.epoch
        case Certificates(certificates) if certificates:
            return max(c.epoch for c in certificates)
        case SyncReply(_, _, finalization):
            return finalization.epoch
        case BootAck():
            return message.epoch
        case EpochRequest(epoch):
            return epoch
        case ProbeReply():
            return message.epoch
    return None
