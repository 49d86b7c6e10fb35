"""Epochs as stories: members join, leave and change, and every crash finds its way back."""

from __future__ import annotations

import pytest

from consensus.epochs import opened_set
from consensus.interface import (
    Alarm,
    ChainHead,
    EpochOpened,
    EpochRecord,
    MembershipSeen,
    Received,
    Timer,
)
from consensus.types import Boundary, Evidence, Reason, View, VoteKind
from consensus.wire import Certificates, EpochReply, EvidenceMessage, Message, VoteMessage
from tests.unit.consensus.clusters import block, command
from tests.unit.consensus.towns import Town


def no_finality(_: int, __: int, message: Message) -> bool:
    return not (isinstance(message, VoteMessage) and message.vote.kind is VoteKind.FINALIZE)


def founders(town: Town, *more: int):
    return [town.member(s) for s in (1, 2, 3, 4, *more)]


def boundary_of(town: Town, seat: int, epoch: int) -> Boundary:
    opening = town.stores[seat].openings_now()[epoch]
    assert isinstance(opening, Boundary)
    return opening


# --- joining, leaving, changing ---


def test_a_member_joins_votes_and_is_counted() -> None:
    town = Town()
    assert town.engines[5].status().state == "observing"
    town.change(*founders(town, 5))
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    assert town.members(6) == {1: 1, 2: 1, 3: 1, 4: 1, 5: 1}
    assert town.engines[5].boot.done
    town.crash(next(s for s in (1, 2, 3, 4) if s != town.engines[1].leader(1)))
    town.commit()  # four of five are a quorum only with the new one
    assert any(v.seat == 5 and v.epoch == 1 for v in town.votes(5))


def test_a_newcomer_is_not_held_to_challenges_from_when_it_observed() -> None:
    """Nobody reads the answers of who is no member; it may lead the first term of its epoch."""
    town = Town(4, 5)
    for _ in range(20):
        town.now_ms += town.durations.health_ms
        town.fire(Timer.HEALTH)
        town.deliver()
    town.change(*founders(town, 5))
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    for seat in (1, 2, 3, 4):
        engine = town.engines[seat]
        newcomer = engine.prober.peers[5]
        assert newcomer.missed == 0
        assert 5 not in engine.prober.silent({5}, engine.tick - 1)
    assert town.terms() == {1}


def test_everybody_learns_of_whom_to_count_though_nobody_rebooted() -> None:
    town = Town()
    town.change(*founders(town, 5))
    town.pass_time()
    for engine in town.engines.values():
        if engine.boot.is_member:
            assert engine.boot.is_current
            assert len({e.boot.current(engine.seat) for e in town.engines.values()}) == 1


def test_who_leaves_observes_and_goes_on_serving() -> None:
    town = Town(5, 5)
    town.change(*founders(town))
    town.pass_time()
    assert town.engines[5].status().state == "observing"
    assert town.members(5) == {1: 1, 2: 1, 3: 1, 4: 1}
    town.commit(1, 5)  # it passes on what its clients ask
    assert town.engines[5].machine.revision == town.engines[1].machine.revision
    assert not any(v.epoch == 1 for v in town.votes(5))


def test_who_comes_back_votes_at_once_for_its_log_is_as_it_was() -> None:
    town = Town(5, 5)
    town.commit()
    town.change(*founders(town))
    town.pass_time()
    town.change(*founders(town, 5))
    town.pass_time()
    assert set(town.epochs().values()) == {2}
    assert town.engines[5].can_vote
    town.commit()


def test_large_changes_come_in_steps() -> None:
    town = Town(4, 6)
    town.change(*(town.member(s) for s in (3, 4, 5, 6)))
    town.pass_time(40)
    assert town.members(3) == {3: 1, 4: 1, 5: 1, 6: 1}
    assert town.epochs()[3] == 2
    town.commit()


def test_a_weight_changes() -> None:
    town = Town(4, 4)
    members = founders(town)[1:]
    town.change(town.heavier(1, 2), *members)
    town.pass_time()
    assert town.members(2) == {1: 2, 2: 1, 3: 1, 4: 1}
    town.commit()


def test_a_seat_with_a_new_key_is_another_member() -> None:
    town = Town(4, 4)
    old = town.engines[4].boot.incarnation
    town.rekey(4)
    town.change(*founders(town)[:3], town.member(4, rekeyed=True))
    town.pass_time()
    town.start(4)
    town.change(*founders(town)[:3], town.member(4, rekeyed=True), tell=(4,))
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    assert town.engines[4].boot.done
    assert town.engines[1].boot.current(4) > old
    town.crash(3)
    town.commit()


def test_the_old_holder_of_a_rekeyed_seat_only_observes() -> None:
    town = Town(4, 4)
    town.change(*founders(town)[:3], town.member(4, rekeyed=True))
    town.pass_time()
    assert town.engines[4].status().state == "observing"
    town.commit(1, 2, 3)


# --- what ends an epoch ---


def test_members_that_do_not_see_the_change_do_not_vote_for_it() -> None:
    town = Town()
    leader = town.engines[1].leader(town.engines[1].view.term)
    town.change(*founders(town, 5), tell=(leader,))
    town.pass_time()
    assert set(town.epochs().values()) == {0}


def test_a_leader_that_ignores_a_due_epoch_is_replaced() -> None:
    town = Town()
    first = town.engines[1].leader(town.engines[1].view.term)
    others = tuple(s for s in town.engines if s != first)
    town.change(*founders(town, 5), tell=others)
    town.pass_time(2)
    assert set(town.epochs().values()) == {0}
    town.fire(Timer.EPOCH, *(s for s in others if s <= 4))
    assert {v.reason for s in others for v in town.votes(s) if v.kind is VoteKind.NULLIFY} >= {
        Reason.STALE_EPOCH
    }
    town.pass_time()
    assert set(town.epochs().values()) == {1}


def test_a_leader_waits_until_a_quorum_can_see_the_change_too() -> None:
    """Else members whose endpoints are slower would find its proposal wanting."""
    town = Town(4, 5, settle_ms=60_000)
    leader = town.leader
    town.change(*founders(town, 5))
    town.pass_time(4)
    assert set(town.epochs().values()) == {0}
    peers = town.engines[leader].prober.peers
    for seat in (s for s in (1, 2, 3, 4) if s != leader):
        peers[seat].chain_block = town.number
    town.pass_time(4)
    assert set(town.epochs().values()) == {1}


def test_no_leader_is_lost_over_a_change_that_too_many_do_not_see_yet() -> None:
    """Endpoints of two members in four stand still: leaders would fail one after the other."""
    town = Town(4, 5)
    town.number += 1
    for seat in town.engines:
        town.step(seat, ChainHead(town.number + (seat in (1, 2)), 1))
    for _ in range(4):
        town.fire(Timer.HEALTH)
        town.deliver()
    town.change(*founders(town, 5), tell=(1, 2))
    town.pass_time(2)
    town.fire(Timer.EPOCH, 1, 2)
    town.commit(1, 2, 3, 4)
    assert town.terms() == {1} and set(town.epochs().values()) == {0}
    town.number -= 1
    for seat in (3, 4):
        town.step(seat, ChainHead(town.number + 1, 2))
    town.change(*founders(town, 5), tell=(3, 4))
    for _ in range(4):
        town.fire(Timer.HEALTH)
        town.deliver()
    town.pass_time()
    assert set(town.epochs().values()) == {1}


def test_an_older_view_of_the_registry_leads_nowhere() -> None:
    town = Town()
    old = town.change(*founders(town, 6), tell=(6,))
    town.change(*founders(town, 5))
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    for seat in town.engines:
        town.step(seat, MembershipSeen(old, frozenset()))
    town.pass_time()
    assert set(town.epochs().values()) == {1}


def test_nothing_but_the_record_follows_a_boundary_block() -> None:
    town = Town(4, 4)
    leader = town.leader
    voter = next(s for s in town.engines if s != leader)
    town.change(town.heavier(1, 2), *founders(town)[1:])
    town.submit(leader, command(9, 1))
    town.now_ms += 300
    town.fire(Timer.HEARTBEAT)
    for _ in range(5):  # notarized, not final: the leader goes on with the same record
        town.deliver(no_finality)
        town.now_ms += 300
        town.fire(Timer.HEARTBEAT)
    town.deliver(no_finality)
    engine = town.engines[voter]
    ending = [b for b in engine.ledger.blocks.values() if b.next_epoch is not None]
    assert len(ending) > 1
    assert len({b.next_epoch for b in ending}) == 1
    assert not any(b.commands for b in ending)
    assert set(town.epochs().values()) == {0}
    last = max(ending, key=lambda b: b.header.view)
    view = last.header.view.next()
    for made in (
        block(view, last, commands=(command(9, 2),), proposer=leader),
        block(view, last, commands=(command(9, 2),), proposer=leader, next_epoch=last.next_epoch),
    ):
        assert isinstance(engine._fits(made), str)


def test_whichever_block_became_final_the_epoch_stands_on_the_first() -> None:
    town = Town(4, 4)
    leader = town.leader
    late = next(s for s in town.engines if s != leader)
    town.change(town.heavier(1, 2), *founders(town)[1:])
    town.now_ms += 300
    town.fire(Timer.HEARTBEAT)
    town.deliver(no_finality)
    town.fire(Timer.HEARTBEAT)
    town.deliver(
        lambda _, to, m: (no_finality(_, to, m) or to == late) and not isinstance(m, EpochReply)
    )
    assert town.epochs()[late] == 1  # it saw finalize votes of both blocks, the others of none
    assert set(town.epochs().values()) == {0, 1}
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    assert len({boundary_of(town, s, 0).block.hash for s in town.engines}) == 1
    town.commit()


def test_when_all_leaders_failed_an_epoch_has_a_new_order() -> None:
    town = Town(4, 4)
    before = town.engines[1].order
    for _ in range(4):
        town.fire(Timer.LEADER)
        town.deliver()
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    engine = town.engines[1]
    assert sorted(engine.order) == sorted(before)
    assert dict(engine.machine.standing.opening) == dict.fromkeys((1, 2, 3, 4), 1)
    town.commit()


def test_a_deposed_leader_goes_to_the_back_of_the_next_order() -> None:
    town = Town(4, 5)
    first = town.engines[1].leader(1)
    town.fire(Timer.LEADER)
    town.deliver()
    town.pass_time(2)
    town.change(*founders(town, 5))
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    assert town.engines[1].order[-1] == first


# --- crashes ---


@pytest.mark.parametrize("blocks", [0, 3])
def test_everybody_restarts_in_a_later_epoch(blocks: int) -> None:
    town = Town()
    town.change(*founders(town, 5))
    town.pass_time(8 if blocks else 1)
    while min(town.epochs().values()) == 0:
        town.pass_time(1)
    town.crash(*tuple(town.engines))
    town.start()
    assert set(town.epochs().values()) == {1}
    town.settle()
    town.commit()


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_crash_of_all_at_the_edge_of_an_epoch_splits_nobody(kept: int) -> None:
    """``kept`` of them write down that the next epoch began; the others die just before."""
    town = Town(4, 4)
    town.change(town.heavier(1, 2), *founders(town)[1:])
    town.now_ms += 300
    town.fire(Timer.HEARTBEAT)
    opened = 0
    while (town.queue and opened < kept) or len(town.engines) > kept:
        seat, said = town.queue[0][1], len(town.queue)
        disk = town.stores[seat].copy()
        town.deliver_one()
        if seat not in town.engines or town.epochs()[seat] == 0:
            continue
        if town.stores[seat].openings == disk.openings:
            continue
        opened += 1
        if opened > kept:
            town.stores[seat] = disk
            while len(town.queue) >= said:
                town.queue.pop()
            del town.engines[seat]
    town.crash(*tuple(town.engines))
    town.queue.clear()
    town.start()
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    town.commit()
    assert len({boundary_of(town, s, 0).block.hash for s in town.engines}) == 1


def test_votes_that_were_written_before_the_epoch_was_are_not_given_twice() -> None:
    """The vote log may be on disk and the epoch's record not: a crash between two files."""
    town = Town(4, 4)
    town.change(town.heavier(1, 2), *founders(town)[1:])
    before = town.stores[2].copy()
    while town.epochs()[2] == 0:
        town.now_ms += 300
        town.fire(Timer.HEARTBEAT)
        town.deliver()
    town.commit(1)
    given = {(v.view, v.kind): v for v in town.votes(2) if v.epoch == 1}
    assert given
    store = town.stores[2]
    before.votes = {key: raw for key, raw in store.votes.items() if key[0] == 1} | before.votes
    town.crash(2)
    town.stores[2] = before
    town.start(2)
    town.pass_time()
    assert town.epochs()[2] == 1
    for vote in town.votes(2):
        if vote.epoch == 1 and (vote.view, vote.kind) in given:
            assert vote.block == given[vote.view, vote.kind].block


def test_a_member_that_slept_through_several_epochs_comes_back() -> None:
    town = Town(5, 6)
    town.crash(5)
    for weight in (2, 3, 1):
        town.change(town.heavier(1, weight), *(town.member(s) for s in (2, 3, 4, 5)))
        town.pass_time()
        town.commit(1, 2)
    assert town.epochs()[1] >= 3
    town.start(5)
    town.pass_time(12)
    assert town.epochs()[5] == town.epochs()[1]
    town.commit()


def test_a_proof_of_an_epochs_end_that_proves_nothing_is_an_offence() -> None:
    town = Town(4, 5)
    town.crash(4)
    town.change(*founders(town, 5))
    town.pass_time()
    good = boundary_of(town, 1, 0)
    town.queue.clear()
    town.start(4)
    town.queue.clear()
    engine = town.engines[4]
    for bad in (
        Boundary(good.block, good.finalization, (good.block.header,)),
        Boundary(
            good.block,
            type(good.finalization)(
                VoteKind.NOTARIZE,
                0,
                good.finalization.view,
                good.finalization.block,
                good.finalization.parts,
            ),
            good.links,
        ),
        Boundary(block(View(1, 9), next_epoch=good.block.next_epoch), good.finalization, ()),
    ):
        output = engine.step(Received(1, EpochReply((bad,))), town.now_ms)
        assert output.notices
        assert engine.validators.epoch == 0
    town.step(4, Received(1, EpochReply((good,))))
    town.pass_time()
    assert engine.validators.epoch == 1


def test_a_leader_on_its_way_to_the_end_of_an_epoch_does_not_lead_the_term_that_it_missed() -> None:
    """The end's proof shows no view; with some of the blocks the old one is over all the same."""
    town = Town(4, 4)
    leader = town.leader
    others = [seat for seat in town.engines if seat != leader]
    town.commit()
    town.cut = {pair for seat in others for pair in ((seat, leader), (leader, seat))}
    town.now_ms += 300
    town.fire(Timer.HEARTBEAT, leader)  # it signs a block that nobody sees
    town.fire(Timer.LEADER, *others)
    town.deliver()
    town.pass_time(3)
    town.change(town.heavier(leader, 2), *map(town.member, others))
    town.pass_time()
    assert {town.epochs()[seat] for seat in others} == {1}
    for store in town.stores.values():
        store._serve_blocks = 1  # in an answer
    town.cut.clear()
    engine, on_the_way = town.engines[leader], 0
    while engine.validators.epoch == 0:
        if not town.queue:
            town.fire(Timer.RETRY)
        town.deliver_one(lambda _, __, m: not isinstance(m, Certificates))
        tip, signed = engine.ledger.tip, [(v.epoch, v.view, v.kind) for v in town.votes(leader)]
        on_the_way += engine.validators.epoch == 0 and tip.view.term == 2
        assert engine.validators.epoch or engine.view > tip.view
        assert len(signed) == len(set(signed))
    assert on_the_way


def test_a_member_rolled_back_over_an_epochs_edge_abstains() -> None:
    town = Town(4, 4)
    old = town.stores[3].copy()
    town.commit()
    town.change(town.heavier(1, 2), *founders(town)[1:])
    town.pass_time()
    town.commit()
    town.crash(3)
    town.stores[3] = old
    town.start(3)
    town.pass_time()
    engine = town.engines[3]
    assert engine.validators.epoch == 1
    assert engine.status().state == "abstaining"
    assert not any(v.epoch == 1 for v in old.votes_ever)


def test_a_rollback_shows_though_all_that_was_forgotten_lies_in_the_epoch_before() -> None:
    """Nobody can tell a vote of the new epoch, and yet there may be one."""
    town = Town(4, 4)
    old = town.stores[3].copy()
    town.commit()
    town.change(town.heavier(1, 2), *founders(town)[1:])
    while set(town.epochs().values()) != {1}:
        town.now_ms += 300
        town.fire(Timer.HEARTBEAT)
        town.deliver()
    town.crash(3)
    for engine in town.engines.values():
        engine._seen[3] = max((v for v in town.votes(3) if v.epoch == 0), key=lambda v: v.moment())
    town.stores[3] = old
    town.start(3)
    town.settle(2)
    engine = town.engines[3]
    assert engine.validators.epoch == 1
    assert engine.boot.done
    assert engine.is_abstaining
    engine._abstain_until = (0, 7)  # of what it was told in the epoch before
    assert "no vote before term 3 of epoch 1" in engine.status().reason


# --- revocation ---


def test_a_revoked_leader_is_replaced_at_once_and_its_votes_count_no_more() -> None:
    town = Town(4, 4)
    first = town.leader
    rest = [town.member(s) for s in (1, 2, 3, 4) if s != first]
    town.change(*rest, revoked=(first,), tell=tuple(s for s in town.engines if s != first))
    town.deliver()
    assert all(e.view.term > 1 or e.validators.epoch for e in town.engines.values())
    town.pass_time()
    assert first not in town.members(rest[0].seat)
    town.commit(*(v.seat for v in rest))


def test_a_revocation_that_would_leave_no_quorum_is_an_alarm_only() -> None:
    town = Town(4, 4)
    town.change(town.member(1), town.member(2), revoked=(3, 4), tell=(1,))
    alarms = [n for s, o in town.outputs for n in o.notices if isinstance(n, Alarm)]
    assert alarms
    assert not town.engines[1].revoked


def test_the_single_votes_of_a_revoked_seat_are_not_counted() -> None:
    town = Town(4, 4)
    follower = next(s for s in town.engines if s != town.leader)
    gone = next(s for s in town.engines if s not in (town.leader, follower))
    town.step(
        follower,
        MembershipSeen(town.change(*founders(town), tell=(follower,)), frozenset({gone})),
    )
    engine = town.engines[follower]
    view = engine.view
    vote = town.cluster.vote(gone, VoteKind.NULLIFY, view, reason=Reason.SLOW)
    engine.step(Received(gone, VoteMessage(engine.boot.current(gone), vote)), town.now_ms)
    assert engine.book.get(view, VoteKind.NULLIFY, gone) is None


# --- evidence ---


@pytest.mark.parametrize("restarted", [False, True])
def test_evidence_of_the_epoch_before_still_convicts(restarted: bool) -> None:
    town = Town(4, 5)
    town.change(*founders(town, 5))
    town.pass_time()
    if restarted:
        town.crash(1, 2, 3, 4, 5)
        town.start()
        town.settle()
    one = town.cluster.vote(4, VoteKind.NOTARIZE, View(1, 90), bytes(32))
    other = town.cluster.vote(4, VoteKind.NOTARIZE, View(1, 90), b"\1" * 32)
    for seat in town.engines:
        if seat != 4:
            town.step(seat, Received(4, EvidenceMessage((Evidence(one, other),))))
    town.pass_time()
    assert 4 in dict(town.engines[1].machine.standing.now)


# --- what the caller sees ---


def test_an_opening_is_recorded_told_and_proves_the_set() -> None:
    town = Town()
    town.change(*founders(town, 5))
    town.pass_time()
    opened = [n for s, o in town.outputs for n in o.notices if isinstance(n, EpochOpened)]
    assert {n.validators.epoch for n in opened} == {1}
    assert {n.member for n in opened} == {True, False}
    records = [r for _, o in town.outputs for r in o.persist if isinstance(r, EpochRecord)]
    assert len(records) == len(opened) == 6
    assert opened_set(records[0].opening).weights == town.members(1)


def test_a_proposal_of_a_later_epoch_makes_a_member_ask() -> None:
    town = Town(4, 4)
    late = next(s for s in town.engines if s != town.leader)
    other = next(s for s in town.engines if s != late)
    town.cut = {(s, late) for s in town.engines}
    town.change(town.heavier(1, 2), *founders(town)[1:])
    town.pass_time(4)
    assert town.epochs()[late] == 0 and town.epochs()[other] == 1
    town.cut.clear()
    seen: list[type] = []

    def note(_: int, to: int, message: Message) -> bool:
        if to == late:
            seen.append(type(message))
        return True

    town.fire(Timer.RETRY)
    town.deliver(note)
    assert EpochReply in seen
    town.pass_time()
    assert town.epochs()[late] == 1
