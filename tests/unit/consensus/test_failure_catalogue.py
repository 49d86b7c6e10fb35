"""How other engines failed, and that this one does not. Numbers and sources are those of the list.

1 Besu #7642, tendermint #1464: timers that double to hours. 2 Besu #8307, polygon-edge #187:
members in different rounds never meet. 3 autonity #177: nothing is sent again. 4 GoQuorum
HasBadProposal: one message where a quorum is needed. 5 omni #1812, cometbft #3102: a dead proposer
costs a timeout in every rotation. 6 CVE-2025-24371: heights that peers report. 7 Malachite ADR-007:
a lock forgotten over a restart. 8 certificates split between halves. 9 reputation read from
histories of different length. 10 bad blocks that are signed. 11 the chain below an epoch change
(``test_epochs``). 12 all members killed, disk full, disk rolled back (``test_boot``, the storage
tests, ``tests/integration``).
"""

from __future__ import annotations

from itertools import pairwise

import pytest

from consensus.interface import Durations, Received, Timer
from consensus.types import Reason, View, Vote, VoteKind
from consensus.wire import Certificates, Commands, Message, ProposalMessage, VoteMessage
from tests.unit.consensus.clusters import block, command, proposal
from tests.unit.consensus.net import Net


def running(*weights: int) -> Net:
    """Members that have committed a first block."""
    net = Net(*weights)
    net.start()
    net.deliver()
    assert len(net.chain()) == 1
    return net


def depose(net: Net) -> None:
    """Everybody's leader timer fires, and the term ends."""
    before = max(net.terms())
    net.fire(Timer.LEADER)
    net.deliver()
    assert net.terms() == {before + 1}


def no_finality(_: int, __: int, message: Message) -> bool:
    """A network in which no block becomes final."""
    return not (isinstance(message, VoteMessage) and message.vote.kind is VoteKind.FINALIZE)


# --- 1 ---


def test_01_timers_grow_linearly_to_a_cap_and_are_reset_by_finality() -> None:
    net = running()
    for _ in range(40):
        net.fire(Timer.LEADER)
        net.deliver(no_finality)
    d = Durations()
    seat = net.seats[0]
    delays = [ms for ms in net.delays(Timer.LEADER, seat) if ms > d.link_grace_ms]
    cap = d.heartbeat_ms + d.leader_ms * d.growth_max
    assert max(delays) == cap and delays[-1] == cap
    steps = {b - a for a, b in pairwise(delays) if b > a}
    assert max(steps) <= d.leader_ms // 2, "it grew by more than half a base"
    net.settle()
    net.submit(seat, command(1, 1))
    net.settle()
    assert net.engines[seat].machine.revision == 1
    assert net.delays(Timer.LEADER, seat)[-1] == d.heartbeat_ms + d.leader_ms


# --- 2 ---


def test_02_members_in_different_terms_meet_again_by_one_certificate() -> None:
    net = running()
    late = next(s for s in net.seats if s != net.leader)
    net.cut = {(other, late) for other in net.seats}
    for _ in range(3):
        depose_without(net, late)
    net.cut.clear()
    assert len(net.terms()) == 2
    net.settle()
    assert len(net.terms()) == 1
    net.submit(late, command(1, 1))
    net.settle()
    assert {e.machine.revision for e in net.engines.values()} == {1}


def depose_without(net: Net, late: int) -> None:
    before = max(net.terms())
    net.fire(Timer.LEADER, *(s for s in net.seats if s != late))
    net.deliver()
    assert max(net.terms()) == before + 1


def test_02_every_member_alone_in_its_own_view_comes_together() -> None:
    """No two complaints in one view: the lower ones are shown the way, and join."""
    net = running(1, 1, 1, 1, 1, 1, 1)
    for number, seat in enumerate(net.seats):
        net.submit(net.leader, command(9, number + 1))
        net.deliver(lambda _, to, __, away=seat: to != away)
        net.cut |= {(other, seat) for other in net.seats}
        if len(net.cut) >= 2 * len(net.seats):
            break
    net.cut.clear()
    net.fire(Timer.LEADER)
    net.settle()
    assert len(net.terms()) == 1


# --- 3 ---


@pytest.mark.parametrize("lost", [ProposalMessage, VoteMessage, Commands, Certificates])
def test_03_what_is_lost_once_is_sent_again(lost: type) -> None:
    net = running()
    follower = next(s for s in net.seats if s != net.leader)
    net.submit(follower, command(1, 1))
    net.deliver(lambda _, __, message: not isinstance(message, lost))
    net.fire(Timer.SPREAD, follower)
    net.settle()
    assert {e.machine.revision for e in net.engines.values()} == {1}
    assert net.terms() == {1}, "it took a leader change"


# --- 4 ---


def test_04_one_bad_proposal_does_not_keep_the_next_leader_from_working() -> None:
    net = running()
    liar = net.leader
    view = net.engines[liar].view
    bad = block(view, net.chain()[-1], state_hash=bytes(32), proposer=liar)
    made = proposal(net.cluster, bad, net.engines[liar].ledger.tip.finalization)
    for seat in net.seats:
        if seat != liar:
            net.step(
                seat, Received(liar, ProposalMessage(net.engines[liar].boot.incarnation, made))
            )
    net.deliver()
    assert not any(v.block == bad.hash for s in net.seats if s != liar for v in net.votes(s))
    depose(net)
    net.submit(net.leader, command(1, 1))
    net.settle()
    assert {e.machine.revision for e in net.engines.values()} == {1}


def test_04_one_complaint_deposes_nobody() -> None:
    net = running()
    grumbler = next(s for s in net.seats if s != net.leader)
    net.fire(Timer.LEADER, grumbler)
    net.settle()
    assert net.terms() == {1}
    net.submit(net.leader, command(1, 1))
    net.settle()
    assert net.engines[net.leader].machine.revision == 1


# --- 5 ---


def test_05_a_dead_member_costs_one_timeout_and_then_nothing() -> None:
    net = running()
    dead = net.leader
    net.crash(dead)
    net.fire(Timer.LEADER)
    net.deliver()
    term = net.terms()
    for number in range(50):
        net.submit(net.leader, command(1, number + 1))
        net.deliver()
    assert len(net.chain()) > 50
    assert net.terms() == term, "the dead member was waited for again"


# --- 7 ---


def test_07_a_restart_forgets_neither_the_gate_nor_a_vote() -> None:
    net = running()
    for seat in net.seats:
        net.submit(net.leader, command(seat, 1))
        net.deliver(lambda _, __, message: not isinstance(message, VoteMessage))
        net.queue.clear()
        net.fire(Timer.LEADER, seat)
        net.crash(seat)
        net.start(seat)
        net.settle()
    net.chain()
    for seat in net.seats:
        assert_votes_agree(net.votes(seat))


def assert_votes_agree(votes: set[Vote]) -> None:
    """No pair that no correct member signs, said without the code's own rules."""
    gates: dict[int, View] = {}
    blocks: dict[tuple[View, VoteKind], bytes] = {}
    for vote in votes:
        if vote.kind is VoteKind.NULLIFY:
            gates[vote.view.term] = min(vote.view, gates.get(vote.view.term, vote.view))
        else:
            assert blocks.setdefault((vote.view, vote.kind), vote.block) == vote.block
    for vote in votes:
        if vote.kind is VoteKind.FINALIZE and vote.view.term in gates:
            assert vote.view < gates[vote.view.term], f"{vote} behind a closed gate"


# --- 8 ---


def test_08_half_with_a_notarization_and_half_with_a_nullification_agree_again() -> None:
    net = running()
    leader = net.leader
    others = [s for s in net.seats if s != leader]
    # The block is notarized, but only the leader and one other see it ...
    net.submit(leader, command(1, 1))
    net.deliver(
        lambda sender, to, message: (
            not (
                isinstance(message, VoteMessage)
                and message.vote.kind is not VoteKind.NULLIFY
                and to in others[1:]
            )
        )
    )
    # ... and the rest complain about the view that those two have left.
    net.fire(Timer.LEADER, *others[1:])
    net.deliver(lambda sender, to, _: (sender in others[1:]) == (to in others[1:]))
    net.settle()
    net.fire(Timer.LEADER)
    net.settle()
    net.submit(net.leader, command(2, 1))
    net.settle()
    assert len(net.terms()) == 1
    assert {e.machine.revision for e in net.engines.values()} == {2}


# --- 9 ---


def test_09_members_at_different_heights_agree_who_leads_every_term() -> None:
    net = running()
    late = next(s for s in net.seats if s != net.leader)
    net.cut = {(other, late) for other in net.seats}
    for _ in range(3):
        depose_without(net, late)
        net.submit(net.leader, command(1, max(net.terms())))
        net.deliver()
    heights = {e.ledger.tip.height for e in net.engines.values()}
    assert len(heights) > 1
    orders = {tuple(e.leader(t) for t in range(1, 20)) for e in net.engines.values()}
    assert len(orders) == 1


# --- 10 ---


def test_10_a_leader_that_signs_two_blocks_is_convicted_by_all_who_see_them() -> None:
    net = running()
    liar = net.leader
    view, tip = net.engines[liar].view, net.engines[liar].ledger.tip
    incarnation = net.engines[liar].boot.incarnation
    made = [
        proposal(
            net.cluster,
            block(view, net.chain()[-1], commands=(command(n, 1),), proposer=liar, time_ms=1_000),
            tip.finalization,
        )
        for n in (1, 2)
    ]
    others = [s for s in net.seats if s != liar]
    net.cut = {(liar, other) for other in others}
    for seat in others:
        for one in made:
            net.step(seat, Received(liar, ProposalMessage(incarnation, one)))
    net.settle()
    for seat in others:
        assert [e.first.seat for e in net.engines[seat].evidence] == [liar]
        votes = {v.block for v in net.votes(seat) if v.view == view and v.kind is VoteKind.NOTARIZE}
        assert len(votes) == 1


def test_10_reasons_of_a_deposed_leader_are_in_the_chain() -> None:
    net = running()
    depose(net)
    net.settle()
    shown = [c for b in net.chain() for c in b.nullifications]
    assert [c.view.term for c in shown] == [1]
    assert {p.reason for p in shown[0].parts} & {Reason.NO_PROPOSAL, Reason.UNRESPONSIVE}
