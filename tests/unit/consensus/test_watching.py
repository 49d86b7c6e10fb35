"""What a member does about a bad leader, and about liars: complaints, challenges, evidence."""

from __future__ import annotations

from clusters import CLUSTER_ID, Cluster, block, command, proposal, sent
from net import Net

from consensus.commands import Tag
from consensus.digests import boot_digest, probe_answer_digest
from consensus.interface import (
    AcknowledgedRecord,
    ChainHead,
    Complain,
    Event,
    EvidenceRecord,
    Misbehaved,
    Output,
    PeerConnected,
    PeerLost,
    Received,
    Started,
    Submitted,
    Timer,
    TimerFired,
)
from consensus.types import BootRequest, Evidence, Reason, View, Vote, VoteKind
from consensus.wire import (
    Commands,
    EvidenceMessage,
    Probe,
    ProbeReply,
    ProposalMessage,
    Reminder,
    VoteMessage,
)

A, B = b"a" * 32, b"b" * 32
TICK_MS = 250


class Member:
    """An engine of a cluster of four that does not lead, with a clock."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.leader = self.cluster.leader()
        self.seat, self.other, self.third = (s for s in (1, 2, 3, 4) if s != self.leader)
        self.engine, _ = self.cluster.booted(self.seat)
        self.now_ms = 1000

    def step(self, event: object) -> Output:
        return self.engine.step(event, self.now_ms)  # type: ignore[arg-type]

    def ticks(self, count: int) -> Output:
        """The health timer runs out so many times."""
        output = Output()
        for _ in range(count):
            self.now_ms += TICK_MS
            output.merge(self.step(TimerFired(Timer.HEALTH)))
        return output

    def answer(self, seat: int, probe: Probe, chain_block: int = 0, incarnation: int = 1) -> Output:
        """``seat`` answers a challenge."""
        numbers = {"incarnation": incarnation, "epoch": 0, "view": View(1, 0), "height": 0}
        chain = {"chain_block": chain_block, "chain_time_ms": 0}
        digest = probe_answer_digest(CLUSTER_ID, seat, probe.nonce, **numbers, **chain)
        reply = ProbeReply(
            probe.nonce, **numbers, **chain, signature=self.cluster.signers[seat].sign(digest)
        )
        return self.step(Received(seat, reply))

    def answering(
        self, ticks: int, *seats: int, chain_block: int = 0, incarnation: int = 1
    ) -> Output:
        """So many ticks in which these members answer every challenge."""
        output = Output()
        for _ in range(ticks):
            more = self.ticks(1)
            for message in sent(more):
                if isinstance(message, Probe):
                    for seat in seats:
                        more.merge(self.answer(seat, message, chain_block, incarnation))
            output.merge(more)
        return output

    def propose(self) -> Output:
        """The leader proposes the first block."""
        made = proposal(self.cluster, block(View(1, 0)), None)
        return self.step(Received(self.leader, ProposalMessage(1, made)))


def complaints(output: Output) -> list[int]:
    """Reasons of the complaints that go out."""
    return [
        m.vote.reason
        for m in sent(output)
        if isinstance(m, VoteMessage) and m.vote.kind is VoteKind.NULLIFY
    ]


def accused(output: Output) -> list[int]:
    return [n.seat for n in output.notices if isinstance(n, Misbehaved)]


# --- challenges ---


def test_a_challenge_is_answered_with_a_signed_picture_of_oneself() -> None:
    member = Member()
    member.step(ChainHead(77, 5000))
    (reply,) = sent(member.step(Received(member.other, Probe(bytes(16)))))
    assert isinstance(reply, ProbeReply)
    assert (reply.chain_block, reply.chain_time_ms, reply.view) == (77, 5000, View(1, 0))
    asker = Member()
    (probe,) = [m for m in sent(asker.ticks(4)) if isinstance(m, Probe)]
    asker.answer(asker.other, probe)
    assert asker.engine.status().peers[asker.other].incarnation == 1


def test_challenges_cost_a_bounded_number_of_answers() -> None:
    member = Member()
    challenge = Received(member.other, Probe(bytes(16)))
    assert sum(len(sent(member.step(challenge))) for _ in range(99)) < 10


def test_challenges_are_answered_by_a_member_whose_clock_was_put_back() -> None:
    engine, _ = Cluster().booted(1)
    answered = 0
    for second in range(60):
        now_ms = 10_000_000 + 1000 * second - (3_600_000 if second > 9 else 0)
        output = engine.step(Received(2, Probe(second.to_bytes(16, "big"))), now_ms)
        answered += any(isinstance(m, ProbeReply) for m in sent(output))
    assert answered == 60


def test_an_answer_that_is_forged_or_to_no_question_of_ours_proves_nothing() -> None:
    member = Member()
    (probe,) = [m for m in sent(member.ticks(4)) if isinstance(m, Probe)]
    forged = ProbeReply(probe.nonce, 1, 0, View(1, 0), 0, 0, 0, bytes(65))
    assert accused(member.step(Received(member.other, forged))) == [member.other]
    member.answer(member.other, Probe(b"another question"))
    assert member.engine.prober.peers[member.other].answered_ms == 0


def test_a_leader_that_answers_no_challenge_is_unresponsive() -> None:
    member = Member()
    assert complaints(member.answering(15, member.other, member.third)) == []
    assert complaints(member.answering(4, member.other, member.third)) == [Reason.UNRESPONSIVE]


def test_a_leader_that_answers_is_left_alone_whatever_others_do() -> None:
    member = Member()
    assert complaints(member.answering(200, member.leader)) == []


def test_a_leader_without_a_link_is_a_matter_of_the_leader_timer() -> None:
    member = Member()
    member.ticks(8)
    member.step(PeerLost(member.leader))
    assert complaints(member.ticks(40)) == []
    member.step(PeerConnected(member.leader))
    assert complaints(member.ticks(8)) == [], "what was missed without a link does not count"


# --- the chain, copies ---


def test_a_leader_that_does_not_see_what_we_saw_long_ago_is_behind_the_chain() -> None:
    member = Member()
    member.step(ChainHead(100, 0))
    lags = member.answering(60_000 // TICK_MS, member.leader, chain_block=99)
    assert complaints(lags) == [], "it may take a while"
    assert complaints(member.answering(9, member.leader, chain_block=99)) == [Reason.BEHIND_CHAIN]


def test_a_leader_that_sees_the_chain_a_moment_later_is_not_behind() -> None:
    member = Member()
    for number in range(100):
        member.step(ChainHead(100 + number, 0))
        assert complaints(member.answering(8, member.leader, chain_block=80 + number)) == []


def test_a_leader_that_answers_as_an_older_copy_is_superseded() -> None:
    member = Member()
    assert complaints(member.answering(8, member.leader, incarnation=1)) == []
    assert complaints(member.answering(9, member.leader, incarnation=0)) == [Reason.SUPERSEDED]


# --- commands ---


def test_a_leader_that_lets_a_command_wait_is_slow() -> None:
    member = Member()
    member.step(Submitted((command(1, 1),)))
    output = member.answering(8, member.leader, member.other, member.third)
    assert complaints(output) == [Reason.SLOW]
    reminders = [m for m in sent(output) if isinstance(m, Reminder)]
    assert [m.command for m in reminders] == [command(1, 1)]


def test_a_slow_leader_is_slow_though_its_link_goes_and_comes() -> None:
    member = Member()
    member.step(Submitted((command(1, 1),)))
    seen: list[int] = []
    for tick in range(20):
        if tick % 3 == 0:
            member.step(PeerLost(member.leader))
            seen += complaints(member.answering(1, member.other, member.third))
            member.step(PeerConnected(member.leader))
        seen += complaints(member.answering(1, member.leader, member.other, member.third))
    assert seen == [Reason.SLOW]


def test_a_reminder_that_went_with_its_link_is_sent_again_over_the_next() -> None:
    member = Member()
    member.step(Submitted((command(1, 1),)))
    member.ticks(3)
    member.step(PeerLost(member.leader))
    output = member.step(PeerConnected(member.leader))
    assert Reminder(command(1, 1)) in sent(output)


def test_an_idle_leader_is_not_slow() -> None:
    member = Member()
    assert complaints(member.answering(100, member.leader)) == []


def test_a_command_that_a_later_one_of_its_client_overtook_is_forgotten_and_refused() -> None:
    member = Member()
    member.step(Submitted((command(1, 1),)))
    member.engine.machine.apply(block(View(1, 0), commands=(command(1, 5),)))
    output = member.answering(40, member.leader)
    assert complaints(output) == []
    assert [r.reason for r in output.rejected] == [
        "a later command of its client was applied before it"
    ]


# --- patience ---


def test_a_member_that_slept_accuses_nobody() -> None:
    member = Member()
    member.ticks(2)
    member.now_ms += 10_000
    assert complaints(member.step(TimerFired(Timer.LEADER))) == []
    assert complaints(member.step(TimerFired(Timer.STALL))) == []
    member.answering(2, member.leader, member.other, member.third)
    assert complaints(member.step(TimerFired(Timer.LEADER))) == [Reason.NO_PROPOSAL]


def test_what_ran_out_while_a_member_stood_still_accuses_nobody_after_its_tick_either() -> None:
    """While a slow disk is waited for, timers run out in their order, the tick first."""
    member = Member()
    member.ticks(4)
    member.now_ms += 10_000
    woken = member.step(TimerFired(Timer.HEALTH))
    assert Timer.LEADER in woken.timers and Timer.STALL in woken.timers, "they start again"
    assert complaints(member.step(TimerFired(Timer.LEADER))) == []
    assert complaints(member.step(TimerFired(Timer.STALL))) == []


def test_timers_accuse_nobody_while_needed_members_are_linked_and_silent() -> None:
    """Of four, one is gone and one stands still: there is no quorum under any leader."""
    member = Member()
    member.step(PeerLost(member.third))
    member.answering(4, member.leader, member.other)
    member.answering(6, member.leader)
    assert complaints(member.step(TimerFired(Timer.STALL))) == []
    assert complaints(member.step(TimerFired(Timer.LEADER))) == []
    member.step(PeerLost(member.other))
    member.answering(2, member.leader)
    assert complaints(member.step(TimerFired(Timer.STALL))) == [Reason.STALL], "not for ever"


def test_the_time_of_finality_begins_anew_when_needed_members_go_on() -> None:
    member = Member()
    member.step(PeerLost(member.third))
    member.answering(4, member.leader, member.other)
    member.answering(6, member.leader)
    member.answering(2, member.leader, member.other)
    assert complaints(member.step(TimerFired(Timer.STALL))) == [], "a moment ago it was silent"
    member.answering(2, member.leader, member.other)
    assert complaints(member.step(TimerFired(Timer.STALL))) == [Reason.STALL]


def test_a_silent_leader_that_is_not_needed_for_a_quorum_is_unresponsive() -> None:
    member = Member()
    assert Reason.UNRESPONSIVE in complaints(member.answering(20, member.other, member.third))


def test_a_link_to_the_leader_that_is_still_to_be_made_has_the_leaders_whole_time() -> None:
    """What is lost is noticed at once; what comes last after a start is not lost."""
    cluster = Cluster()
    leader = cluster.leader()
    seat, *others = (s for s in (1, 2, 3, 4) if s != leader)
    engine = cluster.engine(seat)
    d = engine.durations

    def delay_ms(event: Event, now_ms: int) -> int | None:
        return engine.step(event, now_ms).timers[Timer.LEADER]

    assert delay_ms(Started(), 1000) == d.heartbeat_ms + d.leader_ms
    for other in others:
        engine.step(PeerConnected(other), 1000)
    assert delay_ms(TimerFired(Timer.LEADER), 9000) == d.heartbeat_ms + d.leader_ms
    late_ms = 1001 + d.links_ms
    assert delay_ms(TimerFired(Timer.LEADER), late_ms) == d.link_grace_ms
    engine.step(PeerConnected(leader), late_ms)
    assert delay_ms(PeerLost(leader), late_ms) == d.link_grace_ms
    for other in others:  # as after a pause: all are gone, and come back one by one
        engine.step(PeerLost(other), late_ms)
    for other in others:
        engine.step(PeerConnected(other), late_ms)
    assert delay_ms(TimerFired(Timer.LEADER), late_ms) == d.heartbeat_ms + d.leader_ms


def test_a_leader_that_dies_while_another_link_is_still_to_be_made_is_lost_all_the_same() -> None:
    """One member is back a moment ago, and one waits for it: neither has a quorum of links now."""
    cluster = Cluster()
    leader = cluster.leader()
    seat, linked, back = (s for s in (1, 2, 3, 4) if s != leader)
    engine = cluster.engine(seat)
    d = engine.durations
    engine.step(Started(), 1000)
    for other in (leader, linked):
        engine.step(PeerConnected(other), 1000)
    assert engine.step(PeerLost(leader), 2000).timers[Timer.LEADER] == d.link_grace_ms
    engine.step(PeerConnected(back), 2050)
    assert engine.step(TimerFired(Timer.LEADER), 2100).timers[Timer.LEADER] == d.link_grace_ms


def test_a_complaint_that_proved_false_makes_the_timers_longer_and_the_right_one_does_not() -> None:
    member = Member()
    normal = member.step(PeerConnected(member.leader)).timers[Timer.LEADER]
    member.step(TimerFired(Timer.LEADER))
    assert member.engine.status().patience == 0
    member.propose()
    assert member.engine.status().patience == 1
    member.propose()
    assert member.engine.status().patience == 1, "once a term"
    longer = member.step(PeerConnected(member.leader)).timers[Timer.LEADER]
    assert longer == normal + member.engine.durations.leader_ms // 2


def test_the_operator_complains_once_and_steps_down_only_as_the_leader() -> None:
    member = Member()
    assert complaints(member.step(Complain())) == [Reason.OPERATOR]
    assert complaints(member.step(Complain())) == []


# --- evidence ---


def _pair(member: Member, seat: int) -> tuple[Vote, Vote]:
    view = View(1, 0)
    vote = member.cluster.vote
    return vote(seat, VoteKind.FINALIZE, view, A), vote(seat, VoteKind.FINALIZE, view, B)


def test_evidence_is_passed_on_once_by_whoever_finds_it() -> None:
    member = Member()
    first, second = _pair(member, member.other)
    member.step(Received(member.other, VoteMessage(1, first)))
    output = member.step(Received(member.other, VoteMessage(1, second)))
    assert [m for m in sent(output) if isinstance(m, EvidenceMessage)] == [
        EvidenceMessage((Evidence(first, second),))
    ]
    again = member.step(Received(member.other, VoteMessage(1, second)))
    assert not [m for m in sent(again) if isinstance(m, EvidenceMessage)]


def test_evidence_of_others_is_checked_kept_and_shown_to_whoever_connects() -> None:
    member = Member()
    pair = Evidence(*_pair(member, member.other))
    framed = Evidence(*[v._replace(seat=member.seat) for v in _pair(member, member.other)])
    output = member.step(Received(member.third, EvidenceMessage((framed,))))
    assert accused(output) == [member.third] and not output.persist
    output = member.step(Received(member.third, EvidenceMessage((pair,))))
    assert output.persist == [EvidenceRecord(pair)]
    assert not member.step(Received(member.third, EvidenceMessage((pair,)))).persist
    assert EvidenceMessage((pair,)) in sent(member.step(PeerConnected(member.third)))


def test_evidence_of_an_epoch_that_we_have_not_reached_is_no_offence_of_who_sends_it() -> None:
    member = Member()
    later = Evidence(*[v._replace(epoch=1) for v in _pair(member, member.other)])
    output = member.step(Received(member.third, EvidenceMessage((later,))))
    assert not accused(output) and not output.persist


def test_the_leader_puts_evidence_into_its_block_and_voters_judge_it() -> None:
    cluster = Cluster()
    leader, _ = cluster.booted(cluster.leader())
    member = Member()
    pair = Evidence(*_pair(member, member.other))
    leader.step(Received(member.third, EvidenceMessage((pair,))), 1)
    leader.step(TimerFired(Timer.HEARTBEAT), 2)
    assert leader._evidence_for(()) == (pair,)
    good = block(View(1, 0), evidence=(pair,))
    message = ProposalMessage(1, proposal(member.cluster, good, None))
    voted = member.step(Received(member.leader, message))
    assert [m.vote.block for m in sent(voted) if isinstance(m, VoteMessage)] == [good.hash]

    victim = Member()
    framed = Evidence(*[v._replace(seat=victim.seat) for v in _pair(victim, victim.other)])
    bad = block(View(1, 0), evidence=(framed,))
    message = ProposalMessage(1, proposal(victim.cluster, bad, None))
    refused = victim.step(Received(victim.leader, message))
    assert accused(refused) == [victim.leader]
    assert not [m for m in sent(refused) if isinstance(m, VoteMessage)]


# --- boots ---


def test_a_flood_of_boots_costs_a_bounded_number_of_writes() -> None:
    member = Member()
    writes = 0
    for number in range(2, 500):
        output = member.step(Received(member.other, _request(member, member.other, number)))
        writes += sum(isinstance(r, AcknowledgedRecord) for r in output.persist)
    assert writes <= 10
    member.now_ms += 5000
    output = member.step(Received(member.other, _request(member, member.other, 1000)))
    assert [type(r) for r in output.persist] == [AcknowledgedRecord], "it is served in the end"


def _request(member: Member, seat: int, incarnation: int) -> BootRequest:
    boot_id = incarnation.to_bytes(32, "big")
    digest = boot_digest(CLUSTER_ID, seat, incarnation, boot_id)
    return BootRequest(seat, incarnation, boot_id, member.cluster.signers[seat].sign(digest))


def test_an_old_barrier_that_only_restarted_members_are_shown_deposes_nobody() -> None:
    """It is in no session, so what was committed before their restart they cannot know."""
    net = Net()
    net.start()
    net.settle(2)
    leader = net.leader
    liar, *restarted = (s for s in net.seats if s != leader)
    barrier = command(7, 1, Tag.BARRIER)
    net.submit(liar, barrier)
    net.deliver()
    assert any(barrier in b.commands for b in net.chain())
    net.crash(*restarted)
    net.start(*restarted)
    net.settle(2)
    for seat in restarted:
        net.step(seat, Received(liar, Commands((barrier,))))
    for _ in range(40):
        net.now_ms += TICK_MS
        net.fire(Timer.HEALTH)
        net.fire(Timer.HEARTBEAT, leader)
        net.deliver()
    assert net.terms() == {1}
