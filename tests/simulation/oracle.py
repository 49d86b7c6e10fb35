"""What must hold, said again in other words than the engine's.

The oracle sees what correct members persist, send and apply, and what liars send. It shares the
value types, the digests and nothing else with the code under test: thresholds, rules, certificates
are restated here, the final chain in ``histories``, the state machine in ``tests.kv_model``.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from typing import TYPE_CHECKING

from consensus.codec import decode_boot_request
from consensus.digests import block_hash, vote_digest
from consensus.interface import (
    AcknowledgedRecord,
    EpochRecord,
    EvidenceRecord,
    FinalizedRecord,
    InstallRecord,
    Output,
    VoteRecord,
)
from consensus.outcomes import Applied
from consensus.types import (
    BootRequest,
    Certificate,
    Evidence,
    Opening,
    Reason,
    Recovery,
    View,
    Vote,
    VoteKind,
)
from consensus.validators import Validator
from consensus.wire import Message, ProposalMessage, VoteMessage

from .duties import Duties
from .histories import ERA, History, era_of
from .spoken import certificates_in, vote_in

if TYPE_CHECKING:
    from .members import Member
    from .world import World

NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE


EPOCH = 2**40  # terms between two epochs when all are put on one line


def spot(epoch: int, view: View) -> View:
    """A view among those of all epochs."""
    return View(epoch * EPOCH + view.term, view.index)


class Violation(AssertionError):
    """Something that must never happen happened."""


class Oracle:
    """Everything that is checked after every step of a run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.duties = Duties(world, self)
        self.finished = False
        founders = {v.seat: v for v in world.validators.validators}
        self.sets: dict[int, dict[int, Validator]] = {0: founders}  # by epoch
        self.histories = {0: History(world, self)}  # by era: a recovery begins another one
        self._opened: dict[int, bytes] = {}  # epoch -> the block that it stands on
        self._orders: dict[int, tuple[int, ...]] = {}  # of leaders, by epoch
        self._terms: dict[int, int] = defaultdict(int)  # highest term seen, by epoch
        self.forked = ""  # only above a third: what went wrong, before conviction
        self._height: dict[int, int] = defaultdict(int)  # applied by each life of each seat
        self._lives: dict[int, int] = {}
        self._done: dict[int, set[bytes]] = defaultdict(set)
        self._asked: dict[int, bytes] = {}  # in the calm: seat -> command id
        # votes by signer; everything that anybody ever sent
        self._votes: dict[int, dict[tuple[View, VoteKind], set[tuple[bytes, int]]]] = defaultdict(
            lambda: defaultdict(set)
        )
        self._highest: dict[int, tuple[View, VoteKind]] = {}
        self._disk_lost: set[int] = set()
        self._emptied: set[int] = set()  # or given back an old disk
        self._promised: dict[tuple[int, int], BootRequest] = {}
        self._entitled: set[tuple[int, int]] = set()
        # certificates that exist: the lemmas of the safety argument, checked one by one
        self._checked: dict[int, Certificate] = {}
        self._certified: dict[View, bytes] = {}
        self._final: dict[int, int] = {}  # term -> highest finalized index
        self._null: dict[int, int] = {}  # term -> lowest nullified index
        self._calm_since_ms = 0.0
        self._calm_term = 0
        self.installs = 0
        self.recovery_ms = 0.0
        self.terms = 0

    # --- verdicts ---

    def fail(self, what: str) -> None:
        raise Violation(f"at {self._world.now_ms:.3f} ms: {what}")

    def fork(self, what: str) -> None:
        """Two truths. A failure below a third; above it, somebody must be to blame."""
        if not self._world.scenario.settings.above_third:
            self.fail(what)
        self.forked = what
        self.finished = True

    def weight(self, seats: set[int], epoch: int | None = None) -> int:
        members = self.sets[max(self.sets) if epoch is None else epoch]
        return sum(members[s].weight for s in seats if s in members)

    def total(self, epoch: int | None = None) -> int:
        return sum(v.weight for v in self.sets[max(self.sets) if epoch is None else epoch].values())

    @property
    def newest(self) -> History:
        """The history that all are to be in at the end."""
        return self.histories[max(self.histories)]

    def was_executed(self, command_id: bytes) -> bool:
        """True when some member may have answered its client."""
        return any(command_id in history.executed for history in self.histories.values())

    # --- what correct members do ---

    def stepped(self, member: Member, output: Output) -> None:
        """Right after a step, before any duty is done."""
        self.duties.stepped(member, output)
        finals = [r.applied for r in output.persist if isinstance(r, FinalizedRecord)]
        if finals != output.applied:
            self.fail(f"seat {member.seat} applies something else than it persists")
        engine = member.engine
        if engine is not None:
            epoch, term = engine.validators.epoch, engine.view.term
            self._terms[epoch] = max(self._terms[epoch], term)
            if self._orders.get(epoch) != engine.order:
                # Before it is on a disk an epoch may be forgotten, and begin on another block.
                if epoch in self._orders and epoch in self.sets:
                    self.fail(f"seat {member.seat} has another order of leaders in epoch {epoch}")
                self._orders[epoch] = engine.order
        persisted = {r.vote for r in output.persist if isinstance(r, VoteRecord)}
        for send in output.send:
            vote = vote_in(send.message)
            if vote is not None and vote.signature and vote not in persisted:
                if vote.seat != member.seat:
                    self.fail(f"seat {member.seat} sends a vote of seat {vote.seat}")
                pending = member._pending.persist if member._pending else []
                if vote not in member.store.votes_ever and not any(
                    isinstance(r, VoteRecord) and r.vote == vote for r in pending
                ):
                    assert engine is not None
                    self.fail(f"seat {member.seat} sends a vote that it never persisted: {vote}")

    def persisted(self, member: Member, output: Output) -> None:
        for record in output.persist:
            if isinstance(record, VoteRecord):
                self._own_vote(member.seat, record.vote)
            elif isinstance(record, AcknowledgedRecord):
                self._acknowledged(member.seat, record.request)
            elif isinstance(record, InstallRecord):
                self._installed(member, record)
            elif isinstance(record, FinalizedRecord):
                final = record.finalization
                if final is not None:
                    self._finalization(final, member.seat)
                    if final.block != record.applied.block.hash:
                        self.fail("a finalization of another block")
                self._applied(member, record.applied)
            elif isinstance(record, EpochRecord):
                self._epoch(member, record.opening)
            elif isinstance(record, EvidenceRecord):
                self._told(record.evidence)

    def _told(self, evidence: Evidence) -> None:
        """A liar's vote that nobody was sent may lie in a certificate that it made."""
        for vote in (evidence.first, evidence.second):
            if not self.signed(vote):
                self.fail("evidence with a forged vote")
            at = spot(vote.epoch, vote.view)
            self._votes[vote.seat][at, vote.kind].add((vote.block, vote.reason))

    def _finalization(self, c: Certificate, seat: int) -> None:
        self.certificate(c, seat)
        if c.kind is not FINALIZE:
            self.fail(f"seat {seat} takes a block for final that is not: {c.kind.name} (R6)")

    def _epoch(self, member: Member, opening: Opening) -> None:
        """An epoch stands on the first block of the final chain that carries its record."""
        if isinstance(opening, Recovery):
            self._recovered(member, opening)
            return
        block, final = opening.block, opening.finalization
        self.certificate(final, member.seat)
        height, epoch = block.header.height, block.header.epoch + 1
        if not self.histories[era_of(epoch)].has(height, block.hash):
            self.fork(f"seat {member.seat} opens epoch {epoch} on a block that is not final")
        if self._opened.setdefault(epoch, block.hash) != block.hash:
            self.fork(f"two blocks on which epoch {epoch} stands")
        at = block.hash
        for header in opening.links:
            if header.parent != at:
                self.fail("links that do not lead to the finalization")
            at = block_hash(self._world.cluster_id, header)
        if at != final.block or final.kind is not FINALIZE or final.epoch != epoch - 1:
            self.fail(f"seat {member.seat} opens epoch {epoch} without a finalization")

    def _recovered(self, member: Member, recovery: Recovery) -> None:
        """An epoch that the chain opened, on the block that it names, and nowhere else (R21)."""
        r, seat = recovery, member.seat
        if self._lives.get(seat) == member.life and self._height[seat] not in (0, r.height):
            self.fail(f"seat {seat} opens epoch {r.epoch} on height {self._height[seat]}")
        began = [h for era, h in self.histories.items() if h.has(r.height, r.block_hash)]
        if not began:
            self.fail(f"epoch {r.epoch} stands on a block that never was final")
        if era_of(r.epoch) not in self.histories:
            self.sets[r.epoch] = {v.seat: v for v in r.validators}
            self.histories[era_of(r.epoch)] = began[-1].branch(r)
        self._done[seat] = self._known_at(self.histories[era_of(r.epoch)], r.height)

    def _known_at(self, history: History, height: int) -> set[bytes]:
        """What of that which is waited for was applied up to a height."""
        found = history.executed
        return {raw for raw in self._asked.values() if found.get(raw, height + 1) <= height}

    def sends(self, member: Member, message: Message) -> None:
        vote = vote_in(message, member.seat)
        if vote is not None:
            if vote not in member.store.votes_ever:
                self.fail(f"seat {member.seat} sends a vote that is not on its disk: {vote}")
            self._own_vote(member.seat, vote)
            self._may_vote(member, message)
        for certificate in certificates_in(message):
            self.certificate(certificate, member.seat)

    def _acknowledged(self, seat: int, request: BootRequest) -> None:
        """One boot for each number, and numbers rise."""
        last = self._promised.get((seat, request.seat))
        if last is not None and seat not in self._disk_lost:
            rises = request.incarnation > last.incarnation
            if not rises and request != last:
                self.fail(f"seat {seat} acknowledges {request} after {last}")
        self._promised[seat, request.seat] = request

    def _may_vote(self, member: Member, message: Message) -> None:
        """A vote goes out under a number that two thirds have on their disks (or forgot)."""
        assert isinstance(message, (VoteMessage, ProposalMessage))
        claim = (member.seat, message.incarnation)
        if claim in self._entitled:
            return
        forgot = self._disk_lost | self._emptied | self._world.losses.outdated
        witnesses = {member.seat, *forgot, *self._world.scenario.byzantine}
        for other in self._world.correct:
            raw = other.store.acknowledged.get(member.seat)
            if raw is not None and decode_boot_request(raw).incarnation >= claim[1]:
                witnesses.add(other.seat)
        vote = vote_in(message, member.seat)
        assert vote is not None
        before = (vote.epoch - 1,)
        if vote.epoch % ERA == 0:  # whichever epoch of the era before it comes from
            before = tuple(e for e in self.sets if e < vote.epoch)
        epochs = [e for e in (*before, vote.epoch) if e in self.sets]
        if not any(3 * self.weight(witnesses, e) > 2 * self.total(e) for e in epochs):
            self.fail(f"seat {member.seat} votes as incarnation {claim[1]} without the right to")
        self._entitled.add(claim)

    def heard(self, seat: int, message: Message) -> None:
        """A liar sends: remembered for convictions."""
        vote = vote_in(message, seat)
        if vote is not None and self.signed(vote):
            at = spot(vote.epoch, vote.view)
            self._votes[seat][at, vote.kind].add((vote.block, vote.reason))

    def disk_lost(self, seat: int) -> None:
        """From now on this seat counts as faulty: it may have forgotten votes."""
        self._disk_lost.add(seat)

    def rolled_back(self, seat: int) -> None:
        """It has an old disk, and comes back to no epoch in which it voted since (R21)."""
        self._emptied.add(seat)

    def emptied(self, seat: int) -> None:
        """It begins anew as the operator's page says: it forgot what it knew, and is not faulty.

        It does not come back to an epoch in which it voted (R21).
        """
        self.rolled_back(seat)
        self._done[seat] = set()

    def _own_vote(self, seat: int, vote: Vote) -> None:
        """One voice per view and kind; views rise; a complaint closes the gate of its term."""
        mine, at = self._votes[seat], spot(vote.epoch, vote.view)
        told = (vote.block, vote.reason)
        if told in mine[at, vote.kind]:
            return
        if seat not in self._disk_lost:
            if mine[at, vote.kind]:
                self.fail(f"seat {seat} votes twice: {vote.kind.name} in {at}")
            last = self._highest.get(seat)
            if last is not None and (at < last[0] or (at == last[0] and last[1] is FINALIZE)):
                self.fail(f"seat {seat} votes {vote.kind.name} {at} after {last}")
            if vote.kind is NULLIFY and vote.reason == Reason.JOINED:
                self._joins(seat, vote.epoch, at.term)
            if vote.kind is NOTARIZE and mine.get((at, NULLIFY)):
                self.fail(f"seat {seat} notarizes {at} after it nullified it")
            for (view, kind), said in list(mine.items()):
                if not said or view.term != at.term:
                    continue
                gate = kind is NULLIFY and vote.kind is FINALIZE and view.index <= at.index
                back = kind is FINALIZE and vote.kind is NULLIFY and at.index <= view.index
                if gate or back:
                    self.fail(f"seat {seat} both nullified and finalized: {view} and {vote}")
            if vote.kind is FINALIZE and self._certified.get(at, vote.block) != vote.block:
                self.fork(f"seat {seat} finalizes another block than was notarized: {vote}")
        mine[at, vote.kind].add(told)
        position = (at, vote.kind)
        self._highest[seat] = max(self._highest.get(seat, position), position)

    def _joins(self, seat: int, epoch: int, term: int) -> None:
        """To join, others of more than a third must have complained, or the leader itself."""
        complained = {
            other
            for other, votes in self._votes.items()
            if other != seat
            and any(v.term == term and k is NULLIFY and said for (v, k), said in votes.items())
        } | self._disk_lost
        complained |= self._own(seat, term)
        order = self._orders[epoch]
        resigned = order[(term - epoch * EPOCH - 1) % len(order)] in complained
        if not resigned and not 3 * self.weight(complained, epoch) > self.total(epoch):
            self.fail(f"seat {seat} joins complaints of {sorted(complained)} in term {term}")

    def _own(self, seat: int, term: int) -> set[int]:
        """The seat itself, when it complained in this term before."""
        said = self._votes[seat].items()
        return {seat for (v, k), what in said if v.term == term and k is NULLIFY and what}

    def _applied(self, member: Member, applied: Applied) -> None:
        header, seat = applied.block.header, member.seat
        height = header.height
        if self._lives.get(seat) != member.life:
            self._lives[seat] = member.life
            self._height[seat] = 0
        if self._height[seat] not in (0, height - 1):
            self.fail(f"seat {seat} applies height {height} after {self._height[seat]}")
        self._height[seat] = height
        if not self.histories[era_of(header.epoch)].applied(seat, applied):
            return
        if self._asked:
            self._done[seat].update(raw[:24] for raw in applied.block.commands)
            self._all_done()

    def _installed(self, member: Member, record: InstallRecord) -> None:
        """A snapshot is the state that everybody had at that height, and brings one further."""
        seat, height = member.seat, record.tip.height
        self._finalization(record.manifest.finalization, seat)
        for opening in record.openings:
            if isinstance(opening, Recovery) and not self.duties.showed(member, opening):
                self.fail(f"seat {seat} goes over a recovery that its chain did not show")
        history = self.histories.get(era_of(record.manifest.finalization.epoch))
        if history is None or height > len(history.blocks) or record.machine.height != height:
            self.fail(f"seat {seat} installs a snapshot at {height}, which nobody has")
            return
        if history.blocks[height - 1].hash != record.tip.hash:
            self.fork(f"seat {seat} installs a snapshot of another block at {height}")
            return
        if history.states[height - 1] != record.machine.state_hash:
            self.fail(f"seat {seat} installs another state at height {height}")
        if self._lives.get(seat) == member.life and self._height[seat] >= height:
            self.fail(f"seat {seat} goes back to height {height}")
        self.installs += 1
        self._lives[seat], self._height[seat] = member.life, height
        self._done[seat] |= self._known_at(history, height)
        self._all_done()

    def _running(self) -> list[Member]:
        down = self._world.losses.down
        return [m for m in self._world.correct if not m.halted and m.seat not in down]

    def halted(self, member: Member) -> None:
        """Only a member with an old disk may stop: it takes a number that it had before."""
        assert member.halted is not None
        if self.duties.must_stop(member):
            self._world.losses.stopped(member)
        elif member.seat in self._disk_lost and member.halted.startswith("superseded"):
            self._all_done()
        elif self._world.scenario.settings.above_third:
            self.fork(f"seat {member.seat} stopped: {member.halted}")
        else:
            self.fail(f"seat {member.seat} stopped: {member.halted}")

    # --- certificates ---

    def signed(self, vote: Vote) -> bool:
        digest = vote_digest(
            self._world.cluster_id,
            vote.kind,
            vote.epoch,
            vote.view.term,
            vote.view.index,
            vote.block,
            vote.reason,
        )
        voter = self.sets.get(vote.epoch, {}).get(vote.seat)
        if voter is None:
            return False
        key = voter.node_key
        return self._world.verifier.verify(key, digest, vote.signature)

    def certificate(self, c: Certificate, holder: int) -> None:
        """A correct member relies on ``c``: real signatures of more than two thirds."""
        if id(c) in self._checked:
            return
        self._checked[id(c)] = c
        signers = set()
        for part in c.parts:
            vote = Vote(c.kind, c.epoch, c.view, part.seat, c.block, part.reason, part.signature)
            if not self.signed(vote):
                self.fail(f"seat {holder} relies on a forged {c.kind.name} for {c.view}")
            signers.add(part.seat)
            self._votes[part.seat][spot(c.epoch, c.view), c.kind].add((c.block, part.reason))
        if not 3 * self.weight(signers, c.epoch) > 2 * self.total(c.epoch):
            self.fail(f"seat {holder} relies on {c.kind.name} {c.view} without a quorum")
        self._lemmas(c)

    def _lemmas(self, c: Certificate) -> None:
        term, index = spot(c.epoch, c.view)
        if c.kind is NULLIFY:
            self._null[term] = min(index, self._null.get(term, index))
        else:
            if self._certified.setdefault(spot(c.epoch, c.view), c.block) != c.block:
                self.fork(f"two blocks are certified in view {c.view}")
                return
            if c.kind is FINALIZE:
                self._final[term] = max(index, self._final.get(term, index))
        if term in self._final and term in self._null and self._null[term] <= self._final[term]:
            self.fork(f"term {term}: {self._null[term]} nullified, {self._final[term]} final")

    # --- liveness ---

    def expects(self, seat: int, raw: bytes) -> None:
        self._asked[seat] = raw[:24]

    @property
    def _expected(self) -> set[bytes]:
        """What was asked of members that still run."""
        return {self._asked[m.seat] for m in self._running() if m.seat in self._asked}

    def _term(self) -> int:
        era = max(self.histories)
        return sum(term for epoch, term in self._terms.items() if era_of(epoch) == era)

    def calm_begins(self) -> None:
        self._calm_since_ms = self._world.now_ms
        self._calm_term = self._term()

    def _all_done(self) -> None:
        if not self._expected:
            return
        era, running = max(self.histories), self._running()
        if any(m.engine is None or era_of(m.engine.validators.epoch) != era for m in running):
            return
        if all(self._expected <= self._done[m.seat] for m in running):
            self.finished = True
            self.recovery_ms = self._world.now_ms - self._calm_since_ms
            self.terms = self._term() - self._calm_term
            settings = self._world.scenario.settings
            if self.terms > settings.terms_max and not settings.above_third:
                self.fail(f"it took {self.terms} terms of calm to commit")

    def calm_is_over(self) -> None:
        if self._world.scenario.settings.above_third:
            self.finished = True
            return
        lines = []
        for m in self._running():
            status = m.engine.status() if m.engine else None
            missing = len(self._expected - self._done[m.seat])
            lines.append(f"seat {m.seat} lacks {missing}: {status}")
        self.fail("not live in the calm:\n  " + "\n  ".join(lines))

    # --- accountability ---

    def convicted(self) -> set[int]:
        """Seats of which a pair of votes exists that no correct member signs both."""
        guilty = set()
        for seat, votes in self._votes.items():
            for (_, kind), said in votes.items():
                if kind is not NULLIFY and len({block for block, _ in said}) > 1:
                    guilty.add(seat)
            spoken = [key for key, said in votes.items() if said]
            for one, two in combinations(spoken, 2):
                for (u, a), (v, b) in ((one, two), (two, one)):
                    if a is NULLIFY and b is FINALIZE and u.term == v.term and u.index <= v.index:
                        guilty.add(seat)
        return guilty

    def settle_blame(self) -> None:
        """After a fork: liars of more than a third are convicted, and nobody else ever."""
        guilty = self.convicted()
        honest = {m.seat for m in self._world.correct} - self._disk_lost
        if guilty & honest:
            self.fail(f"honest seats {sorted(guilty & honest)} are convicted")
        if self.forked and not 3 * self.weight(guilty) > self.total():
            self.fail(f"a fork ({self.forked}) convicts only {sorted(guilty)}")
        for member in self._world.members.values():
            for evidence in member.store.evidence if member.correct else ():
                seat = evidence.first.seat
                if seat in honest or seat not in guilty:
                    self.fail(f"evidence against seat {seat}, which did nothing wrong")
