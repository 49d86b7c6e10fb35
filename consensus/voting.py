"""The rules R1-R9: one member's part of stable-leader Simplex with weights.

Theory of operation
-------------------
Time is cut into terms; a term has one leader and views with index 0, 1, 2, ... In a view the
leader proposes one block on the block of the view before. Members send ``Notarize`` for it; a
quorum of those is a *notarization*: one block per view, everybody goes to the next view and sends
``Finalize`` for the one just left; a quorum of those makes the block and its ancestors final.
Whoever finds the leader wanting sends ``Nullify``; a quorum of those ends the term and the next
leader begins, on the highest notarized block, showing nullifications for every view it skips.

One rule carries safety, the **gate** (R4): who sent ``Nullify`` in a term never again sends
``Finalize`` in it. A nullification of view u and a finalization of v >= u in one term would share
an honest member that sent both, and the gate forbids it in either order.

Rules of this room
------------------
1. No I/O, clock, thread or randomness. ``Engine.step`` is a function of the state and the event.
2. Every vote is made in ``_sign``, which asserts that no rule forbids it and puts it in
   ``persist`` before it is put in ``send``.
3. Votes move forward only: never for a view below the current one, at most one per kind and view.

The rules are numbered in ``docs/protocol.md``. ``Turning`` comes before this class in the chain,
because a final block may end the epoch. Those after it add who may vote at all (R10, ``booting``),
and what safety does not rest on: catch-up, links, timers, commands.
"""

from __future__ import annotations

from . import limits
from .certificates import verify_certificate
from .digests import vote_digest
from .interface import (
    BlockRecord,
    CertificateRecord,
    FinalizedRecord,
    LeaderChanged,
    Send,
    Timer,
    VoteRecord,
)
from .ledger import Tip, opened_tip, tip_at
from .proposals import Verdict, judge, shows_terms_before
from .turning import Turning
from .types import (
    ZERO_HASH,
    Block,
    Boundary,
    Certificate,
    Header,
    Proposal,
    Reason,
    View,
    Vote,
    VoteKind,
    raw_command_id,
)
from .wire import BootRefused, VoteMessage

# Complaints that rest on our own timers only; if the leader was well, they were too short (R13).
_BY_OWN_TIMERS = (Reason.NO_PROPOSAL, Reason.UNRESPONSIVE, Reason.STALL, Reason.SLOW)
_TERMS_KEPT = 8  # votes of older terms are forgotten even when nothing is finalized


class Voting(Turning):
    """The rules."""

    def _settle(self) -> None:
        """Draws all conclusions from what is known, until nothing changes any more."""
        while not self.is_halted:
            while self._work and not self.is_halted:
                kind, view = self._work.popleft()
                certificate = self.book.certificate(kind, view)
                if certificate is not None:
                    self._take_certificate(certificate, checked=True)
            if self.can_vote:
                if self.revoked and self.leader(self.view.term) in self.revoked:
                    self._nullify(Reason.STALE_EPOCH)  # R19
                self._join()
                self._vote_for_proposal()
                self._propose()
            if not self._work:
                break
        for vote in self.book.forged:
            self._accuse(vote.seat, f"forged signature under its vote for {vote.view}")
        self.book.forged.clear()

    # --- votes (R2-R4) ---

    def _sign(self, kind: VoteKind, view: View, block: bytes, reason: int) -> Vote:
        """Makes one of our votes, counts it, and has it persisted with what led to it."""
        assert self.can_vote
        assert (view, kind) not in self._mine, f"a second {kind.name} in {view}"
        assert view >= self.view, f"{kind.name} for {view} while in {self.view}"
        assert view > self.ledger.tip.view, f"{kind.name} for {view}, which is final already"
        if kind is VoteKind.FINALIZE:
            assert not self._gate_is_closed(view.term), f"the gate of term {view.term} is closed"
        epoch = self.validators.epoch
        digest = vote_digest(self.cluster_id, kind, epoch, *view, block, reason)
        vote = Vote(kind, epoch, view, self.seat, block, reason, self._signer.sign(digest))
        self._out.persist += map(CertificateRecord, self._unsaved)
        self._unsaved.clear()
        self._out.persist.append(VoteRecord(vote))
        self._remember_own(vote)
        self._work.append((kind, view))
        return vote

    def _remember_own(self, vote: Vote) -> None:
        self._mine[vote.view, vote.kind] = vote
        self._floor = max(self._floor, vote.moment())
        if vote.kind is VoteKind.NULLIFY:
            self._nullified = max(self._nullified or vote.view, vote.view)
        self.book.add(vote)
        self.book.trust(vote)

    def _broadcast_vote(self, vote: Vote) -> None:
        self._out.send.append(Send(None, VoteMessage(self.boot.incarnation, vote)))

    def _on_vote(self, sender: int, incarnation: int, vote: Vote) -> None:
        """R3-R6: counts a vote, but none of a revoked seat (R19); ``_settle`` concludes."""
        self._stirred = False  # most votes are neither the first nor the last of a quorum
        if vote.epoch < self.validators.epoch or sender not in self.validators.weights:
            return
        if sender in self.revoked or not self._counts(sender, incarnation):
            return
        self._note_seen(vote)
        if vote.epoch > self.validators.epoch:
            return
        if vote.view < self.view and vote.kind is VoteKind.NULLIFY:
            self._help(sender)
        if vote.kind is VoteKind.NOTARIZE and self._is_surplus(vote):
            return
        if vote.view > self.ledger.tip.view and self._is_near(vote.view):
            self._count(vote)

    def _is_surplus(self, vote: Vote) -> bool:
        """True for a Notarize that came after its quorum, agrees and contradicts nothing."""
        return (
            vote.view < self.view
            and self.ledger.notarized_block(vote.view) == vote.block
            and self.book.get(vote.view, vote.kind, vote.seat) is None
        )

    def _counts(self, seat: int, incarnation: int) -> bool:
        """True when a member speaks under the incarnation that we count (R10)."""
        current = self.boot.current(seat)
        if incarnation == current:
            return True
        if incarnation < current and seat in self.boot.known:
            self._send(seat, BootRefused(self.boot.known[seat]))
        if incarnation > current and seat not in self._asked_for_boot:
            # We missed its boot certificate: it sends it to whoever shows it a request.
            self._asked_for_boot.add(seat)
            self._send(seat, self.boot.progress.request)
        return False

    def _count(self, vote: Vote) -> None:
        """Takes a vote into the book, and notes where it may make a certificate (R14: a pair)."""
        evidence = self.book.add(vote)
        if evidence is not None:
            self._convict((evidence,))
        if self.book.has_quorum(vote):
            self._work.append((vote.kind, vote.view))
        elif vote.kind is not VoteKind.NULLIFY and evidence is None and not self.book.forged:
            return
        self._stirred = True

    def _note_seen(self, vote: Vote) -> None:
        """R10: what we tell its signer when it boots; also of views that matter to us no more."""
        seen = self._seen.get(vote.seat)
        if seen is None or (vote.epoch, vote.view, vote.kind) > (seen.epoch, seen.view, seen.kind):
            self._seen[vote.seat] = vote

    def _help(self, seat: int) -> None:
        """R7: a member complains about a view that we left: show it the way out, once a view."""
        if self._helped.get(seat) != self.view:
            self._helped[seat] = self.view
            self._send_justification(seat)

    def _is_near(self, view: View) -> bool:
        """True when votes for a view are kept: a bound in every direction."""
        ahead = view.term - self.view.term
        if ahead < 0:
            most = self._left.get(view.term, 0) + limits.VIEWS_AHEAD_MAX
            return ahead >= -_TERMS_KEPT and view.index <= most
        if ahead == 0:
            return view.index <= self.view.index + limits.VIEWS_AHEAD_MAX
        return ahead <= limits.TERMS_AHEAD_MAX and view.index <= limits.VIEWS_AHEAD_MAX

    def _nullify(self, reason: Reason) -> None:
        """R4: complain about the current view, once; from here the gate of the term is closed."""
        if not self.can_vote or (self.view, VoteKind.NULLIFY) in self._mine:
            return
        if not self._gate_is_closed(self.view.term) and reason in _BY_OWN_TIMERS:
            self._complaint = (self.validators.epoch, self.view, reason)
        vote = self._sign(VoteKind.NULLIFY, self.view, ZERO_HASH, reason)
        # What brought us here goes along: members in an earlier view can then join us in this one.
        self._send_justification(None)
        self._broadcast_vote(vote)

    def _is_well(self, view: View, *, final: bool = False) -> None:
        """R13: a view was proposed, notarized or final after all; had we complained about it?"""
        if self._complaint is None:
            return
        epoch, complained, reason = self._complaint
        if epoch != self.validators.epoch or view.term != complained.term or view < complained:
            return
        if final or reason is not Reason.STALL:
            self.patience.was_wrong(epoch, view.term)

    def _on_epoch_timer(self) -> None:
        """R15: a leader that leaves a due epoch unproposed is found wanting."""
        if self._is_due:
            self._set_timer(Timer.EPOCH, self.durations.epoch_grace_ms)
            if not (self._is_ending() or self._is_too_early()):
                self._nullify(Reason.STALE_EPOCH)

    def _join(self) -> None:
        """R4: join weight complained, so at least one correct member; or the leader resigned."""
        term = self.view.term
        if not self.book.has_complaints(term) or (self.view, VoteKind.NULLIFY) in self._mine:
            return
        if self.book.resigned(term, self.leader(term)) or self.book.joins(term):
            self._nullify(Reason.JOINED)

    def _finalize(self, view: View, block: bytes) -> None:
        """R3: vote to finalize a view that we saw notarized, unless the gate is closed."""
        if not self.can_vote or self._gate_is_closed(view.term):
            return
        if (view, VoteKind.FINALIZE) in self._mine:
            return
        self._broadcast_vote(self._sign(VoteKind.FINALIZE, view, block, 0))

    # --- certificates (R3, R5, R6, R8) ---

    def _take_certificate(
        self, c: Certificate, *, checked: bool = False, sender: int | None = None
    ) -> bool:
        """Draws the conclusions from a certificate; False when it was checked and is false."""
        if c.epoch != self.validators.epoch or self.halted is not None or self._is_old(c):
            return True
        self._stirred = True
        if not checked and not self._is_genuine(c):
            self._accuse(sender, f"a {c.kind.name} certificate for {c.view} that proves nothing")
            return False
        if not checked:
            self._convict(self.book.against(c))
        self._learn(c, sender)
        return True

    def _learn(self, c: Certificate, sender: int | None) -> None:
        if c.kind is VoteKind.NULLIFY:
            self._on_nullification(c)
            return
        known = self.ledger.notarizations.get(c.view)
        if known is not None and known.block != c.block:
            self._stop_between(known, c, f"two blocks are certified in view {c.view}")
            return
        ended = self.ledger.nullifications.get(c.view.term)
        if c.kind is VoteKind.FINALIZE and ended is not None and ended.view <= c.view:
            self._stop_between(ended, c, f"{c.view} is final, and {ended.view} nullified")
            return
        self._is_well(c.view, final=c.kind is VoteKind.FINALIZE)
        if self.ledger.add_notarization(c):
            self._unsaved.append(c)
        if c.view >= self.view:
            self._finalize(c.view, c.block)
            self._enter(c.view.next())
        if c.kind is VoteKind.FINALIZE:
            self.catchup.target = c  # until all blocks up to it are here and applied
            self._commit(c, sender)

    def _is_old(self, c: Certificate) -> bool:
        """True for a certificate that tells us nothing, whether it is genuine or not."""
        ledger, kind, view = self.ledger, c.kind, c.view
        if kind is VoteKind.NULLIFY:
            lowest = ledger.nullifications.get(view.term)
            return view.term < ledger.tip.view.term or (lowest is not None and lowest.view <= view)
        if view <= ledger.tip.view:
            return True
        if kind is VoteKind.FINALIZE:
            target = self.catchup.target
            return target is not None and view <= target.view
        known = ledger.notarizations.get(view)
        return known is not None and known.block == c.block

    def _is_genuine(self, c: Certificate) -> bool:
        return verify_certificate(c, self.validators, self.cluster_id, self._verifier)

    def _on_nullification(self, c: Certificate) -> None:
        """R5: the term is over."""
        # Only its own finalization contradicts it: the next leader may have built on a block whose
        # view it covers, and that is final then.
        final = self.ledger.tip.finalization
        if final is not None and final.view.term == c.view.term and c.view <= final.view:
            self._stop_between(final, c, f"{final.view} is final, and {c.view} nullified")
            return
        self.ledger.add_nullification(c)
        self._unsaved.append(c)
        if c.view.term >= self.view.term:
            self._send_justification(None)
            self._failed_terms += 1
            self._enter(View(c.view.term + 1, 0))

    def _enter(self, view: View) -> None:
        """R1, R8: go to a view. Views only rise."""
        assert view > self.view, (view, self.view)
        new_term = view.term != self.view.term
        reasons = self.book.complaints(self.view.term)
        if new_term:
            self._left[self.view.term] = self.view.index
            if len(self._left) > _TERMS_KEPT:
                del self._left[min(self._left)]
        self.view = view
        self._heartbeat_due = False
        self._refused = {v for v in self._refused if v >= view}
        for old in [v for v in self._proposals if v < view]:
            block = self._proposals.pop(old).block
            if self.ledger.notarized_block(old) == block.hash:
                self.ledger.blocks[block.hash] = block  # we did not vote for it, but need it
        if new_term:
            due_ms = self.durations.epoch_grace_ms if self._is_due else None
            self._set_timer(Timer.EPOCH, due_ms)
            self._out.notices.append(
                LeaderChanged(self.validators.epoch, view.term, self.leader(view.term), reasons)
            )
            self._arm_stall()
            self.book.prune(View(max(self.ledger.tip.view.term, view.term - _TERMS_KEPT), 0))
        self._arm()
        self._work += [(VoteKind.NOTARIZE, view), (VoteKind.NULLIFY, view)]

    def _commit(self, target: Certificate, sender: int | None) -> None:
        """R6: apply the finalized block and all its ancestors; fetch what is missing."""
        if self._out.installed:
            return  # an installed state is written as it is before it changes
        goal, ahead = target.block, self._ahead
        links: tuple[Header, ...] = ()
        if ahead is not None and ahead.finalization.view == target.view:
            goal, links = ahead.block.hash, ahead.links  # what stands on it is dropped
        branch = self._branch(goal)
        if isinstance(branch, bytes):
            self._out.send += self.catchup.want_block(branch, self.connected, sender)
            self._out.send += self.catchup.follow(target, self.connected, sender)
        elif branch is not None:
            self._apply(branch, target, links)

    def _branch(self, block_hash: bytes) -> list[Block] | bytes | None:
        """``Ledger.branch`` of a certified block; stops, with None, when it misses the tip."""
        try:
            return self.ledger.branch(block_hash)
        except ValueError as error:
            self._stop(f"{error}: more than a third is faulty")
            return None

    def _apply(self, branch: list[Block], target: Certificate, links: tuple[Header, ...]) -> None:
        """Applies final blocks in order, up to the first that ends the epoch (R11, R21).

        ``links`` lead from the last of them to the block of ``target``.
        """
        recovered = self._awaited[0] if self._awaited else None
        if recovered is not None and self._passes_beside(recovered, branch):
            return
        for number, block in enumerate(branch):
            header = block.header
            mine = self.machine.hash_at(header.state_height)
            if mine is not None and mine != header.state_hash:
                self._stop(
                    f"block {header.height} says that the state at height {header.state_height} "
                    f"is {header.state_hash.hex()}, ours is {mine.hex()}"
                )
                return
            applied = self.machine.apply(block, self._deposed(block), self._own_commands)
            final = target if block.hash == target.block else None
            self._out.persist.append(FinalizedRecord(applied, final))
            self._out.applied.append(applied)
            self._is_well(header.view, final=True)
            for evidence in block.evidence:
                self._keep_evidence(evidence)
            for raw in block.commands:
                self._forget_command(raw_command_id(raw))
            if block.next_epoch is not None:
                above = tuple(b.header for b in branch[number + 1 :])
                opening = Boundary(block, target, above + links)
                self._open_epoch(opening, opened_tip(header, block.hash))
                self._try_recovery()
                return
            if recovered is not None and recovered.height == header.height:
                self._advance(tip_at(header, block.hash, final))
                return
        self._advance(tip_at(branch[-1].header, target.block, target))
        self.catchup.reached(target, self.ledger.tip.height)

    def _advance(self, tip: Tip) -> None:
        """Moves the final tip, and forgets what that makes superfluous."""
        self.ledger.advance(tip)
        self._failed_terms = 0
        self._arm_stall()
        self.book.prune(tip.view.next())
        for key in [k for k in self._mine if k[0] < tip.view]:
            del self._mine[key]
        # That of the tip stays: its block's record may reach the disk after our next vote, and
        # what shows our term to a booting member must not be lost between them (R10).
        self._unsaved = [c for c in self._unsaved if c.view >= tip.view]
        if tip.view >= self.view:
            # R8: the proof of an epoch's end is followed (R16), and no view is entered by it.
            if tip.finalization is not None:
                self._unsaved.append(tip.finalization)
            self._enter(tip.view.next())
        self._try_recovery()

    def _deposed(self, block: Block) -> tuple[int, ...]:
        """To whom a block gives a demerit: leaders of ended terms that did not step down."""
        deposed = []
        for c in block.nullifications:
            leader = self.leader(c.view.term)
            if not any(p.seat == leader and p.reason == Reason.STEP_DOWN for p in c.parts):
                deposed.append(leader)
        return tuple(deposed)

    def _forget_command(self, command_id: bytes) -> None:
        """A command was applied."""
        self.mempool.remove(command_id, self.tick)

    # --- proposals (R1, R2) ---

    def _on_proposal(self, sender: int, incarnation: int, proposal: Proposal) -> None:
        """R2: learns from what a leader shows, and keeps its first proposal for each view."""
        view = proposal.block.header.view
        if proposal.block.header.epoch != self.validators.epoch:
            return
        if self.leader(view.term) != sender:
            self._accuse(sender, f"a proposal for {view}, which it does not lead")
            return
        if sender in self.revoked or not self._counts(sender, incarnation):
            return
        epoch, block_hash = proposal.block.header.epoch, proposal.block.hash
        vote = Vote(VoteKind.NOTARIZE, epoch, view, sender, block_hash, 0, proposal.signature)
        self._note_seen(vote)
        if proposal.parent is not None:
            self._take_certificate(proposal.parent, sender=sender)  # it may bring us near (R8)
        if epoch != self.validators.epoch or not self._is_near(view):
            return
        if view <= self.ledger.tip.view:
            return
        # Checked once a view: a leader could else make us check its dead terms again and again.
        is_new = view >= self.view and view not in self._proposals and view not in self._refused
        if is_new and not self._takes_nullifications(sender, proposal.block):
            self._refused.add(view)
            return
        self._is_well(view)
        self._count(vote)
        if self.ledger.notarized_block(view) == proposal.block.hash:
            self._take_block(proposal.block, sender)  # its votes overtook it
        if is_new and view >= self.view and epoch == self.validators.epoch:
            self._proposals[view] = proposal

    def _takes_nullifications(self, sender: int, block: Block) -> bool:
        """Learns from those in a proposal; False when they are not what a correct leader shows.

        In a block they become history: each must be genuine even where we need it no more.
        """
        if not shows_terms_before(block):
            what = "nullifications that R1 does not ask for"
            self._accuse(sender, f"{what} in its proposal for {block.header.view}")
            return False
        for certificate in block.nullifications:
            if certificate == self.ledger.nullifications.get(certificate.view.term):
                continue
            is_old = self._is_old(certificate)
            if is_old and not self._is_genuine(certificate):
                what = f"a forged nullification in its proposal for {block.header.view}"
                self._accuse(sender, what)
                return False
            if not is_old and not self._take_certificate(certificate, sender=sender):
                return False
        return True

    def _take_block(self, block: Block, sender: int | None) -> None:
        """A block that a certificate names: needed to commit, or as a parent."""
        self.catchup.wanted.pop(block.hash, None)
        self.ledger.blocks[block.hash] = block
        if self.catchup.target is not None:
            self._commit(self.catchup.target, sender)

    def _vote_for_proposal(self) -> None:
        """R2: notarize the first valid proposal of this view."""
        proposal = self._proposals.get(self.view)
        if proposal is None:
            return
        if (self.view, VoteKind.NOTARIZE) in self._mine or self._nullified == self.view:
            return
        leader = self.leader(self.view.term)
        block = proposal.block
        vote = self.book.get(self.view, VoteKind.NOTARIZE, leader)
        if vote is None or vote.block != block.hash or not self.book.is_valid(vote):
            del self._proposals[self.view]  # not signed by the leader, or one of two
            return
        verdict = judge(
            proposal, leader, self.ledger, self.machine, self._clock_ms, self.checkpoints.every
        )
        if verdict is Verdict.VALID:
            verdict = self._fits(block)
        if verdict is Verdict.WAIT:
            above = block.header.parent
            if self.ledger.header(above) is None and self.ledger.is_certified_candidate(above):
                self._out.send += self.catchup.want_block(above, self.connected, leader)
            return
        wrong = verdict if isinstance(verdict, str) else self._judge_evidence(block)
        if wrong is not None:
            self._accuse(leader, f"invalid proposal for {self.view}: {wrong}")
            del self._proposals[self.view]
            return
        self._saw_proposal(block)
        self.ledger.blocks[block.hash] = block
        self._note_signed(block.header, proposal.signature)
        self._out.persist.append(BlockRecord(block))
        self._broadcast_vote(self._sign(VoteKind.NOTARIZE, self.view, block.hash, 0))

    def _saw_proposal(self, block: Block) -> None:
        """The leader proposed a valid block, which we are about to vote for."""

    def _propose(self) -> None:
        raise NotImplementedError  # in ``proposing``
