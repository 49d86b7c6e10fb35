"""R12, R13 among members: challenges, and complaints about a bad leader.

``health`` keeps the books; here they are filled, and turned into ``Nullify`` votes. Nothing in
this file touches safety: a complaint closes our own gate and is one vote among many (R4).
"""

from __future__ import annotations

from . import limits
from .booting import Booting
from .digests import probe_answer_digest
from .health import Sample
from .interface import Timer
from .ledger import Tip
from .proposals import unfinalized
from .types import Block, Opening, Reason, View, VoteKind
from .wire import Probe, ProbeReply, Reminder

MISSED_MAX = 3  # challenges in a row that a leader may leave unanswered
BEHIND_MAX = 2  # answers in a row from behind the chain, or under an old incarnation
SKIPS_MAX = 3  # blocks in a row that leave out a command whose turn it is
BLOCKS_MIN = 3  # that a leader makes in ``Durations.slow_ms``
SILENCE_TICKS = 2  # without an answer: who is linked and needed for a quorum is held up


class Watching(Booting):
    """Watches the members, the leader above all."""

    def _watch(self) -> None:
        """One tick of the health timer."""
        d = self.durations
        self._set_timer(Timer.HEALTH, d.health_ms)
        if self._slept():
            self._woke_ms = self._now_ms
            self._arm()
            self._arm_stall()
        self.tick += 1
        self._tick_ms = self._now_ms
        height = self.ledger.tip.height
        self.patience.tick(progress=height > self._tick_height)
        self._tick_height = height
        if self.tick % d.ticks(d.probe_ms) == 0:
            self._send(None, Probe(self.prober.challenge(self.connected, self._clock_ms)))
        if self._is_excused(SILENCE_TICKS):
            self._excused_tick = self.tick
            self.pace.forget()
        leader = self.leader(self.view.term)
        if leader != self.seat:
            cause = self._cause(leader)
            if cause is not None:
                self._nullify(cause)
        self._tick_view = self.view

    def _cause(self, leader: int) -> Reason | None:
        """R12: why this leader should go, None when nothing is wrong with it."""
        if leader not in self.connected:
            # The leader timer takes care. What we saw of it counts on: links that go and come
            # excuse nobody.
            return None
        d = self.durations
        answers = self.prober.peers.get(leader)
        if answers is not None:
            if answers.missed >= self._longer(MISSED_MAX) and not self._is_excused(1):
                return Reason.UNRESPONSIVE
            if answers.superseded >= BEHIND_MAX:
                return Reason.SUPERSEDED
            if answers.behind >= BEHIND_MAX:
                return Reason.BEHIND_CHAIN
        if self.catchup.target is not None or self._is_ending():
            # What it does now we see only later; or there is no room for commands any more.
            self.fairness.forget()
            self.pace.forget()
            return None
        self._mind_commands(leader)
        skipped = self.fairness.skipped(SKIPS_MAX)
        if skipped is not None and self.tick - skipped.since >= d.ticks(self._longer(d.censor_ms)):
            return Reason.CENSORSHIP
        window = d.ticks(self._longer(d.slow_ms))
        slow = self.pace.is_slow(window, BLOCKS_MIN)
        if not (slow or self.pace.is_stalling(window)) or self._is_excused(1):
            return None
        return Reason.SLOW if slow else Reason.STALL

    def _may_accuse(self) -> bool:
        """R12: False when a timer that ran out says nothing about the leader.

        This process stood still, or needed members did, until a moment ago.
        """
        excused = self._is_excused(SILENCE_TICKS) or self.tick <= self._excused_tick + 1
        return not (self._slept() or excused)

    def _slept(self) -> bool:
        """True when our own health timer is late, or was a moment ago.

        What we missed meanwhile is nobody's fault, nor are timers that ran out meanwhile and come
        after that one.
        """
        if self._tick_ms > 0 and self._now_ms - self._tick_ms > 3 * self.durations.health_ms:
            return True
        return self._woke_ms > 0 and self._now_ms - self._woke_ms < self.durations.health_ms

    def _is_excused(self, ticks: int) -> bool:
        """R12: True while members that are linked, and without whom no quorum is left, answer
        nothing: not for the time between two challenges, and so many ticks.

        Under another leader nothing would become final without them either, and a complaint would
        depose a good one as soon as they go on. It ends by itself: who stays silent loses its link.
        """
        since = self.tick - self.durations.ticks(self.durations.probe_ms) - ticks
        v, there = self.validators, self.connected | {self.seat}
        heard = there - self.prober.silent(self.connected, since)
        return v.is_quorum(v.weight(there)) and not v.is_quorum(v.weight(heard))

    def _mind_commands(self, leader: int) -> None:
        """R12: reminds the leader of a command whose turn has come, and samples its pace."""
        waiting = False
        for front in self.mempool.fronts():
            if self.machine.done(front.command_id):
                # A later command of its client came first: it can change nothing any more.
                self._forget_stale(front.command_id)
            elif front.since < self.tick and not self._is_proposed(front.command_id):
                waiting = True
        reminder = self.fairness.remind(self.mempool, self.tick, self._settle_ticks)
        if reminder is not None:
            self._send(leader, Reminder(reminder))
        proposed = self.view in self._proposals or (self.view, VoteKind.NOTARIZE) in self._mine
        ahead = unfinalized(self.view, self.ledger.tip.view)
        held_up = ahead >= limits.UNFINALIZED_BLOCKS_MAX // 2 - 1
        self.pace.sample(
            Sample(
                self.view.index,
                due=waiting and not proposed and not held_up,
                held_up=len(self.mempool) > 0 and held_up,
                withholds=len(self.mempool) > 0 and self._withholds(leader),
            )
        )

    @property
    def _settle_ticks(self) -> int:
        """R12: how long a command is on its way to all members at most, half a second."""
        return self.durations.ticks(self.durations.censor_ms // 4)

    def _withholds(self, leader: int) -> bool:
        """R12: True when it did not finalize a view of its own that was notarized a tick ago.

        A correct leader enters the next view with its ``Finalize`` for the last (R3). Where
        finality did not need it, the view is final by now.
        """
        return any(
            view.term == self.view.term
            and view < self._tick_view
            and self.book.get(view, VoteKind.FINALIZE, leader) is None
            for view in self.ledger.notarizations
        )

    def _forget_stale(self, command_id: bytes) -> None:
        """A command that can change nothing any more."""
        self.mempool.remove(command_id, self.tick)

    def _is_proposed(self, command_id: bytes) -> bool:
        return any(command_id in block.command_ids for block in self.ledger.blocks.values())

    def _saw_proposal(self, block: Block) -> None:
        """R12: we vote for a block of the leader; does it leave somebody out?"""
        if not self.fairness.suspicions or block.next_epoch is not None:
            return
        settle = self._settle_ticks
        self.fairness.saw_block(block, self.mempool, self.tick, settle, self._is_proposed)

    def _enter(self, view: View) -> None:
        if view.term != self.view.term:
            self.fairness.forget()
            self.pace.forget()
        super()._enter(view)

    def _open_epoch(self, opening: Opening, tip: Tip) -> None:
        self.fairness.forget()
        self.pace.forget()
        super()._open_epoch(opening, tip)
        self._tick_view = self.view
        seats = self.connected | self.validators.weights.keys()
        for books in (self.prober, self._answers, self._boots, self._introductions):
            books.keep(seats)
        before = self.previous.weights if self.previous is not None else {}
        for seat in self.connected & (self.validators.weights.keys() - before.keys()):
            self.prober.connected(seat, self.tick)  # while it observed nobody read its answers

    # --- challenges ---

    def _on_probe(self, sender: int, probe: Probe) -> None:
        """R12: answers a challenge: this process, with this key, is here and so far."""
        if not self._answers.take(sender, self._now_ms):
            return
        incarnation, epoch = self.boot.incarnation, self.validators.epoch
        height, chain = self.ledger.tip.height, self.chain
        digest = probe_answer_digest(
            self.cluster_id,
            self.seat,
            probe.nonce,
            incarnation=incarnation,
            epoch=epoch,
            view=self.view,
            height=height,
            chain_block=chain.block,
            chain_time_ms=chain.time_ms,
        )
        signature = self._signer.sign(digest)
        where = (incarnation, epoch, self.view, height, chain.block, chain.time_ms)
        self._send(sender, ProbeReply(probe.nonce, *where, signature))

    def _on_probe_reply(self, sender: int, reply: ProbeReply) -> None:
        """R12: an answer to our challenge, and what it says against its sender."""
        key = self.validators.keys.get(sender)
        if key is None or not self.prober.expects(sender, reply.nonce):
            return  # too late, or told twice
        digest = probe_answer_digest(
            self.cluster_id,
            sender,
            reply.nonce,
            incarnation=reply.incarnation,
            epoch=reply.epoch,
            view=reply.view,
            height=reply.height,
            chain_block=reply.chain_block,
            chain_time_ms=reply.chain_time_ms,
        )
        if not self._verifier.verify(key, digest, reply.signature):
            if reply.epoch == self.validators.epoch:  # in another its key may be another one
                self._accuse(sender, "an answer to a challenge that it did not sign")
            return
        peer = self.prober.answered(sender, reply, self._clock_ms, self.tick)
        d = self.durations
        due = self.chain.known_since(self.tick, d.ticks(d.behind_chain_ms))
        peer.behind = peer.behind + 1 if reply.chain_block < due else 0
        superseded = reply.incarnation < self.boot.current(sender)
        peer.superseded = peer.superseded + 1 if superseded else 0
        if reply.epoch == self.validators.epoch and reply.view < self.view:
            self._help(sender)  # a leader may leave it out, so that it never sees a quorum
