"""What a correct member must do, and not only what it must not; again in other words.

The oracle hears what a member hears. Where a rule obliges it to act, it must have acted at the
end of the step, or when the longest time that the rule allows is over.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from consensus.engine import Engine
from consensus.interface import (
    AcknowledgedRecord,
    BlockRecord,
    EpochRecord,
    Event,
    InstallRecord,
    Output,
    PeerConnected,
    PeerLost,
    Received,
    RecoverySeen,
    Timer,
    TimerFired,
    VoteRecord,
)
from consensus.types import (
    Block,
    BootAck,
    NextEpoch,
    Opening,
    Recovery,
    View,
    Vote,
    VoteKind,
)
from consensus.wire import ProposalMessage, VoteMessage

from .histories import ERA, era_of

if TYPE_CHECKING:
    from .members import Member
    from .oracle import Oracle
    from .world import World

NEAR = 16  # views from ours within which a vote must be counted
SLACK_MS = 400.0
Position = tuple[int, View, int]


@dataclass(slots=True)
class Memory:
    """What one life of a member has heard and done."""

    floor: Position  # the highest vote or final view on its disk
    complaints: dict[tuple[int, int], set[int]] = field(default_factory=lambda: defaultdict(set))
    nullified: set[tuple[int, View]] = field(default_factory=set)
    proposed: dict[tuple[int, int, View], bytes | None] = field(default_factory=dict)
    caught: set[int] = field(default_factory=set)  # showed us two proposals in one view
    told: Position | None = None  # the highest of its own votes that it was shown at its boot
    silent_below: tuple[int, int] = (0, 0)  # epoch and term in which it may vote again
    had_the_right: bool = False
    last_step_ms: float = 0.0
    view: tuple[int, View] = (0, View(0, 0))
    view_since_ms: float = 0.0
    steps: int = 0  # the most by which its timers may have been longer since then
    steps_before: int = 0  # at the end of the last step
    term_since_ms: float = 0.0  # ... or since the last finality in it
    height: int = 0
    recoveries: list[Recovery] = field(default_factory=list)  # that its chain showed
    looks: list[int] = field(default_factory=list)  # how many it had shown by each look
    retries: int = 0
    there: int | None = None  # how many there were when it came to the block of one of them


class Duties:
    """Rules R4, R9, R10, R12, R14 and R21 from outside."""

    def __init__(self, world: World, oracle: Oracle) -> None:
        self._world = world
        self._oracle = oracle
        self._memories: dict[int, tuple[int, Memory]] = {}
        self._boundaries: dict[bytes, NextEpoch] = {}  # blocks that end an epoch: their records

    def _memory(self, member: Member) -> Memory:
        life, memory = self._memories.get(member.seat, (-1, None))
        if memory is None or life != member.life:
            store = member.store
            final = store.tip.finalization
            spots = [(epoch, view, int(kind)) for epoch, view, kind in store.votes]
            if final is not None:
                spots.append((final.epoch, final.view, int(VoteKind.FINALIZE)))
            memory = Memory(floor=max(spots, default=(0, View(0, 0), 0)))
            memory.nullified = {(e, v) for e, v, kind in store.votes if kind is VoteKind.NULLIFY}
            self._memories[member.seat] = (member.life, memory)
        return memory

    # --- what it hears ---

    def hears(self, member: Member, event: Event) -> None:
        """Before the step in which it handles an event."""
        memory = self._memory(member)
        match event:
            case Received(sender, VoteMessage(incarnation, vote)):
                if self._must_count(member, sender, incarnation, vote):
                    if vote.kind is VoteKind.NULLIFY:
                        if sender not in self._world.scenario.byzantine:
                            memory.complaints[vote.epoch, vote.view.term].add(sender)
                    elif vote.kind is VoteKind.NOTARIZE:
                        self._one_of_two(member, memory, vote)
                elif vote.kind is VoteKind.NOTARIZE and not self._oracle.signed(vote):
                    # It takes the place of a real one for the same block, until it is checked.
                    memory.proposed[vote.seat, vote.epoch, vote.view] = None
            case Received(sender, ProposalMessage(incarnation, p)) if not p.block.nullifications:
                h = p.block.header
                kind = VoteKind.NOTARIZE
                vote = Vote(kind, h.epoch, h.view, sender, p.block.hash, 0, p.signature)
                leads = member.engine is not None and member.engine.leader(h.view.term) == sender
                if leads and self._must_count(member, sender, incarnation, vote):
                    self._one_of_two(member, memory, vote)
            case Received(_, BootAck() as ack):
                self._shown(member, memory, ack)
            case RecoverySeen(recoveries):
                if member.engine is not None and member.engine.halted is None:
                    memory.recoveries += recoveries
                    memory.looks.append(len(memory.recoveries))
            case TimerFired(Timer.RETRY):
                memory.retries += 1
            case PeerConnected() | PeerLost():
                memory.view_since_ms = self._world.now_ms  # the leader's link has its own time

    def _must_count(self, member: Member, sender: int, incarnation: int, vote: Vote) -> bool:
        """True when no rule lets the member ignore the vote."""
        engine = member.engine
        assert engine is not None
        return (
            vote.epoch == engine.validators.epoch
            and sender in engine.validators.weights
            and sender not in engine.revoked
            and incarnation == engine.boot.current(sender)
            and vote.view.term == engine.view.term
            and vote.view >= engine.view
            and vote.view.index <= engine.view.index + NEAR
            and self._oracle.signed(vote)
        )

    def _one_of_two(self, member: Member, memory: Memory, vote: Vote) -> None:
        known = memory.proposed.setdefault((vote.seat, vote.epoch, vote.view), vote.block)
        if known is not None and known != vote.block:
            memory.caught.add(vote.seat)

    def _shown(self, member: Member, memory: Memory, ack: BootAck) -> None:
        """R10: it learns of a vote that it once made."""
        engine, vote = member.engine, ack.last_vote
        assert engine is not None
        request = engine.boot.progress.request
        if engine.boot.done or vote is None or vote.epoch != engine.validators.epoch:
            return
        if (ack.incarnation, ack.boot_id) != (request.incarnation, request.boot_id):
            return
        if vote.seat == member.seat and self._oracle.signed(vote):
            spot = (vote.epoch, vote.view, int(vote.kind))
            memory.told = max(memory.told or spot, spot)

    # --- what it has done ---

    def stepped(self, member: Member, output: Output) -> None:
        """After the step."""
        memory, engine = self._memory(member), member.engine
        assert engine is not None
        votes = [r.vote for r in output.persist if isinstance(r, VoteRecord)]
        self._time(member, memory, output)
        for vote in votes:
            if vote.kind is VoteKind.NULLIFY:
                memory.nullified.add((vote.epoch, vote.view))
            if (vote.epoch, vote.view.term) < memory.silent_below:
                self._fail(member, f"votes in {vote.view}, which it may have forgotten")
        for record in output.persist:
            if isinstance(record, BlockRecord):
                self._stands(member, record.block)
            elif isinstance(record, EpochRecord):
                self._opens(member, record.opening)
        self._timers(member, output)
        if memory.recoveries:
            self._recovers(member, output, votes)
        if engine.halted is not None:
            return
        if engine.view <= engine.ledger.tip.view:
            self._fail(member, f"stays in {engine.view}, with {engine.ledger.tip.view} final (R8)")
        if memory.caught - engine.evidence.seats:
            self._fail(member, f"has no evidence against {sorted(memory.caught)} (R14)")
        self._joins(member, memory)

    # --- recoveries (R21) ---

    def shown(self, member: Member) -> list[Recovery]:
        """Those that count of what its chain showed it since it started, oldest first.

        The last one does, and the one that made the history which it goes on from, and so on.
        """
        return _way(self._memory(member).recoveries)

    def showed(self, member: Member, recovery: Recovery) -> bool:
        """True when it counted at some time: what is on disk now may be of before the last look."""
        memory = self._memory(member)
        return any(recovery in _way(memory.recoveries[:count]) for count in memory.looks)

    def _opens(self, member: Member, opening: Opening) -> None:
        """Asked in the step itself: before it is on disk another recovery may take its place."""
        if isinstance(opening, Recovery) and opening not in self.shown(member):
            self._fail(member, f"opens epoch {opening.epoch}, which its chain did not show")

    def _next(self, member: Member) -> Recovery | None:
        assert member.engine is not None
        epoch = member.engine.validators.epoch
        return next((r for r in self.shown(member) if r.epoch > epoch), None)

    def _recovers(self, member: Member, output: Output, votes: list[Vote]) -> None:
        """What the chain has ended gets no help any more, and nobody runs past where it ended."""
        engine, ahead, memory = member.engine, self._next(member), self._memory(member)
        assert engine is not None
        if ahead is None:
            return
        if any(vote.epoch < ahead.epoch for vote in votes):
            self._fail(member, f"votes in an epoch that the chain ended by epoch {ahead.epoch}")
        if any(isinstance(r, AcknowledgedRecord) for r in output.persist):
            self._fail(member, f"acknowledges a boot on its way to epoch {ahead.epoch}")
        for applied in output.applied:
            if applied.block.header.height > ahead.height:
                self._fail(member, f"runs past height {ahead.height}, where a recovery stands")
        for record in output.persist:
            if isinstance(record, InstallRecord) and record.tip.height > ahead.height:
                self._fail(member, f"takes a state from above height {ahead.height}")
        if engine.halted is not None or output.installed:
            return
        if _is_beside(engine, ahead):
            self._fail(member, f"does not stop, though epoch {ahead.epoch} stands elsewhere")
        if engine.ledger.tip.height < ahead.height:
            memory.there = None
        elif memory.there is None:
            memory.there = memory.retries
        elif memory.retries > memory.there + 1:  # a state just installed waits for the next one
            self._fail(member, f"does not open epoch {ahead.epoch}, on whose block it is")

    def must_stop(self, member: Member) -> bool:
        """True when the chain goes on from another block than what is final here."""
        ahead, engine = self._next(member), member.engine
        assert engine is not None
        if ahead is None or _is_beside(engine, ahead):
            return ahead is not None
        history = self._oracle.histories[era_of(engine.validators.epoch)]
        known = len(history.blocks) >= ahead.height
        return known and not history.has(ahead.height, ahead.block_hash)

    def _stands(self, member: Member, block: Block) -> None:
        """R11: after the end of an epoch nothing is said but the end again."""
        ends = self._boundaries.get(block.header.parent)
        ends = ends if ends and ends.epoch == block.header.epoch + 1 else None
        if ends is not None and (block.next_epoch != ends or block.commands or block.evidence):
            self._fail(member, f"votes for {block.header.view} after the end of its epoch (R11)")
        if block.next_epoch is not None:
            self._boundaries[block.hash] = block.next_epoch

    def _joins(self, member: Member, memory: Memory) -> None:
        """R4: members of more than a third complained of this term, or its leader."""
        engine = member.engine
        assert engine is not None
        epoch, term = engine.validators.epoch, engine.view.term
        complained = memory.complaints.get((epoch, term))
        if not complained or not engine.can_vote or (epoch, engine.view) in memory.nullified:
            return
        members = engine.validators.weights
        weight = sum(members[s] for s in complained - engine.revoked if s in members)
        if engine.leader(term) in complained - engine.revoked or 3 * weight > sum(members.values()):
            self._fail(member, f"does not join {sorted(complained)} in {engine.view} (R4)")

    def _timers(self, member: Member, output: Output) -> None:
        """Timers grow linearly and not above a bound, or a bad term would take for ever."""
        d = self._world.durations
        most = {
            Timer.LEADER: d.heartbeat_ms + d.leader_ms * d.growth_max,
            Timer.STALL: d.stall_ms * d.growth_max,
        }
        for timer, bound in most.items():
            if (output.timers.get(timer) or 0) > bound:
                self._fail(member, f"waits {output.timers[timer]} ms for {timer.value}")

    def _time(self, member: Member, memory: Memory, output: Output) -> None:
        """R4, R9: it has complained when the longest time of its patience is over."""
        engine, now_ms, d = member.engine, self._world.now_ms, self._world.durations
        assert engine is not None
        slept = now_ms - memory.last_step_ms > 2 * d.health_ms
        memory.last_step_ms = now_ms
        if self._is_excused(member):
            memory.view_since_ms = memory.term_since_ms = now_ms
        if engine.boot.done and not memory.had_the_right:
            memory.had_the_right = slept = True
            final = (engine.validators.epoch, engine.ledger.tip.view, int(VoteKind.FINALIZE))
            if memory.told is not None and memory.told > max(memory.floor, final):
                memory.silent_below = (memory.told[0], memory.told[1].term + 2)
        here = (engine.validators.epoch, engine.view)
        before, memory.view = memory.view, here
        new_term = (before[0], before[1].term) != (here[0], here[1].term)
        if new_term or output.applied or output.installed or slept or not engine.can_vote:
            memory.term_since_ms = now_ms
        if before != here or slept or not engine.can_vote:
            memory.view_since_ms, memory.steps = now_ms, 0
        elif engine.catchup.target is not None:
            memory.view_since_ms = now_ms  # its timer is as long as it was when it came here
        steps = min(engine._failed_terms + engine.patience.level, 2 * (d.growth_max - 1))
        memory.steps = max(steps, memory.steps, memory.steps_before)
        memory.steps_before = steps
        steps = memory.steps
        if engine.halted is not None or not engine.can_vote or member.late:
            return  # or its timer is among what it has yet to hear of
        term = {v for e, v in memory.nullified if (e, v.term) == (here[0], here[1].term)}
        longest_ms = d.heartbeat_ms + d.leader_ms * (2 + steps) / 2 + SLACK_MS
        if now_ms - memory.view_since_ms > longest_ms and not term:
            self._fail(member, f"waits in {engine.view} and does not complain (R4)")
        longest_ms = d.stall_ms * (2 + steps) / 2 + 2 * SLACK_MS
        if now_ms - memory.term_since_ms > longest_ms and not term:
            self._fail(member, f"bears that nothing is final since {longest_ms} ms (R9)")

    def _is_excused(self, member: Member) -> bool:
        """R12: who is linked, and needed for a quorum, answers nothing."""
        engine = member.engine
        assert engine is not None
        weights, there = engine.validators.weights, {*engine.connected, member.seat}
        d = self._world.durations
        silent = engine.prober.silent(engine.connected, engine.tick - d.ticks(d.probe_ms) - 1)
        linked, heard = (sum(weights.get(s, 0) for s in w) for w in (there, there - silent))
        total = sum(weights.values())
        return 3 * heard <= 2 * total < 3 * linked

    def _fail(self, member: Member, what: str) -> None:
        self._oracle.fail(f"seat {member.seat} {what}")


def _way(recoveries: list[Recovery]) -> list[Recovery]:
    """The newest, the one that made the history which it goes on from, and so on; oldest first."""
    counts: list[Recovery] = []
    for r in sorted(recoveries, key=lambda r: r.epoch, reverse=True):
        if not counts or era_of(r.epoch) == counts[-1].epoch % ERA:
            counts.append(r)
    return counts[::-1]


def _is_beside(engine: Engine, ahead: Recovery) -> bool:
    """True when what is final here does not lead to the block of a recovery."""
    tip = engine.ledger.tip
    if (tip.height, tip.hash) == (ahead.height, ahead.block_hash):
        return False
    return era_of(engine.validators.epoch) != ahead.epoch % ERA or tip.height >= ahead.height
