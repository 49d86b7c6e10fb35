"""R7 and catch-up: what was lost is sent again, and what is missing is fetched."""

from __future__ import annotations

from dataclasses import replace

from clusters import CLUSTER_ID, Cluster, block, command, proposal, sent

from consensus.catchup import CatchUp, is_consistent
from consensus.interface import Received, Send, Submitted, Timer, TimerFired
from consensus.types import Block, View, VoteKind
from consensus.wire import (
    BlockReply,
    BlockRequest,
    Certificates,
    Commands,
    ProposalMessage,
    SyncReply,
    SyncRequest,
    VoteMessage,
)


def _chain(length: int) -> list[Block]:
    blocks = [block(View(1, 0))]
    for index in range(1, length):
        blocks.append(block(View(1, index), blocks[-1]))
    return blocks


def test_a_waiting_command_is_sent_to_the_leader_again() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    engine, _ = cluster.booted(1 if leader != 1 else 2)
    raw = command(7, 1)
    assert Commands((raw,)) in sent(engine.step(Submitted((raw,)), 10))
    outputs = [engine.step(TimerFired(Timer.RETRY), 500 * n) for n in range(1, 4)]
    repeated = [s for o in outputs for s in o.send if s == Send(leader, Commands((raw,)))]
    assert repeated, "lost on its way to the leader, it would wait for ever"
    assert len(repeated) <= 2


def test_a_member_that_cannot_vote_keeps_the_blocks_that_it_saw_notarized() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    seat = 1 if leader != 1 else 2
    engine, _ = cluster.booted(seat)
    engine._abstain_until = (0, 9)
    first, second, *_ = _chain(3)
    engine.step(Received(leader, ProposalMessage(1, proposal(cluster, first, None))), 5)
    shown = cluster.certificate(VoteKind.NOTARIZE, View(1, 0), first.hash)
    engine.step(Received(leader, ProposalMessage(1, proposal(cluster, second, shown))), 6)
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 0), first.hash)
    output = engine.step(Received(leader, Certificates((final,))), 7)
    assert [a.block.hash for a in output.applied] == [first.hash]


def test_a_final_block_that_is_missing_is_asked_for_at_one_member_and_then_at_others() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    blocks = _chain(5)
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 4), blocks[-1].hash)
    output = engine.step(Received(3, Certificates((final,))), 5)
    asked = [s for s in output.send if isinstance(s.message, SyncRequest)]
    assert [(s.to, s.message.from_height) for s in asked] == [(3, 1)]  # type: ignore[union-attr]
    peers = {
        s.to
        for _ in range(6)
        for s in engine.step(TimerFired(Timer.RETRY), 6).send
        if isinstance(s.message, SyncRequest)
    }
    assert peers == {2, 3, 4}


def test_a_stretch_with_links_is_joined_by_the_rest() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    blocks = _chain(6)
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 5), blocks[-1].hash)
    engine.step(Received(2, Certificates((final,))), 5)
    links = tuple(b.header for b in blocks[2:])
    output = engine.step(Received(2, SyncReply(tuple(blocks[:2]), links, final)), 6)
    assert any(isinstance(m, SyncRequest) and m.from_height == 3 for m in sent(output))
    output = engine.step(Received(2, SyncReply(tuple(blocks[2:]), (), final)), 7)
    assert [a.block.hash for a in output.applied] == [b.hash for b in blocks]
    assert engine.catchup.target is None


def test_blocks_that_a_finalization_does_not_cover_are_not_applied() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    blocks = _chain(4)
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 3), blocks[-1].hash)
    weak = cluster.certificate(VoteKind.FINALIZE, View(1, 3), blocks[-1].hash, (2, 3))
    engine.step(Received(2, Certificates((final,))), 5)
    for hostile in (
        SyncReply(tuple(blocks[:3]), (), final),
        SyncReply(tuple(blocks[1:]), (), replace(final, block=bytes(32))),
        SyncReply(tuple(blocks), (), weak),
        SyncReply((blocks[0], blocks[2]), (blocks[3].header,), final),
        SyncReply((), (), final),
    ):
        output = engine.step(Received(2, hostile), 6)
        assert not output.applied
        assert output.halt is None
    assert engine.step(Received(2, SyncReply(tuple(blocks), (), final)), 7).applied


def test_a_stretch_is_consistent_only_as_one_unbroken_chain() -> None:
    cluster = Cluster()
    blocks = _chain(5)
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 4), blocks[-1].hash)
    headers = tuple(b.header for b in blocks)
    good = SyncReply(tuple(blocks[:3]), headers[3:], final)
    assert is_consistent(good, CLUSTER_ID)
    for bad in (
        replace(good, links=headers[4:]),
        replace(good, links=(*headers[3:], headers[4])),
        replace(good, blocks=()),
        replace(good, blocks=(blocks[0], blocks[2])),
        replace(good, finalization=replace(final, kind=VoteKind.NOTARIZE)),
        replace(good, finalization=replace(final, block=blocks[3].hash)),
    ):
        assert not is_consistent(bad, CLUSTER_ID)


def test_an_unknown_block_is_answered_with_the_way_to_finality() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    blocks = _chain(2)
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 1), blocks[-1].hash)
    engine.step(Received(2, Certificates((final,))), 5)
    engine.step(Received(2, SyncReply(tuple(blocks), (), final)), 6)
    output = engine.step(Received(3, BlockRequest(blocks[0].hash)), 7)
    assert sent(output) == [Certificates((final,))]
    assert not engine.step(Received(3, SyncRequest(99)), 8).serve
    assert engine.step(Received(3, SyncRequest(1)), 8).serve


def test_a_complaint_about_a_view_that_we_left_is_answered_with_the_way_out() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    ended = cluster.certificate(VoteKind.NULLIFY, View(1, 0))
    engine.step(Received(2, Certificates((ended,))), 5)
    vote = cluster.vote(3, VoteKind.NULLIFY, View(1, 0))
    output = engine.step(Received(3, VoteMessage(1, vote)), 6)
    assert Send(3, Certificates((ended,))) in output.send


def test_a_view_that_does_not_move_repeats_our_votes_and_certificates() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    ended = cluster.certificate(VoteKind.NULLIFY, View(1, 0))
    engine.step(Received(2, Certificates((ended,))), 5)
    engine.step(TimerFired(Timer.STALL), 3000)
    outputs = [engine.step(TimerFired(Timer.RETRY), 4000) for _ in range(2)]
    repeated = sent(outputs[-1])
    assert Certificates((ended,)) in repeated
    mine = cluster.vote(1, VoteKind.NULLIFY, View(2, 0), reason=2)
    assert VoteMessage(1, mine) in repeated


def test_every_start_and_every_retry_arms_the_timers_that_somebody_must_act_on() -> None:
    cluster = Cluster()
    engine, output = cluster.booted(1)
    assert {Timer.RETRY, Timer.STALL, Timer.LEADER} <= {
        t for t, delay in output.timers.items() if delay is not None
    }
    for timer in (Timer.RETRY, Timer.STALL, Timer.LEADER):
        assert engine.step(TimerFired(timer), 9000).timers[timer] is not None


def test_wanted_blocks_are_bounded_and_asked_for_again() -> None:
    catchup = CatchUp(0)
    for number in range(500):
        catchup.want_block(number.to_bytes(32, "big"), [2, 3], None)
    assert len(catchup.wanted) <= 64
    assert len(catchup.retry(0, [2, 3])) == len(catchup.wanted)
    assert catchup.retry(0, []) == []


def test_a_block_that_was_asked_for_is_taken_from_anybody() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    (only,) = _chain(1)
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 0), only.hash)
    engine.step(Received(3, Certificates((final,))), 5)
    assert engine.step(Received(4, BlockReply(only)), 6).applied


def test_every_missing_thing_is_asked_of_every_member_in_turn() -> None:
    cluster = Cluster()
    target = cluster.certificate(VoteKind.FINALIZE, View(1, 9), bytes(32))
    for wanted in range(5):
        catchup = CatchUp(0)
        first = catchup.follow(target, [2, 3, 4], 2)
        for number in range(wanted):
            catchup.want_block(number.to_bytes(32, "big"), [2, 3, 4], 2)
        rounds = [first, *(catchup.retry(0, [2, 3, 4]) for _ in range(3))]
        for message in {send.message for sends in rounds for send in sends}:
            asked = {s.to for sends in rounds for s in sends if s.message == message}
            assert asked == {2, 3, 4}, f"{wanted} wanted: only {asked} are asked for {message}"
