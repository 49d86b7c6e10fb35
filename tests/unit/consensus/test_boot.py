"""R10: who may vote after a start, and who must stop."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clusters import CLUSTER_ID, GENESIS, Cluster, block, sent

from consensus.boot import NUMBERS_PER_EPOCH
from consensus.digests import boot_digest, digest_of
from consensus.engine import Engine
from consensus.interface import (
    AbstainRecord,
    AcknowledgedRecord,
    CertificateRecord,
    IncarnationRecord,
    PeerConnected,
    Received,
    RecoverySeen,
    Restored,
    Started,
    Timer,
    TimerFired,
    VoteRecord,
)
from consensus.ledger import Tip, genesis_tip
from consensus.limits import EPOCHS_PER_ERA as ERA
from consensus.machine import Machine
from consensus.types import (
    BootAck,
    BootCertificate,
    BootRequest,
    Boundary,
    Certificate,
    NextEpoch,
    Recovery,
    View,
    Vote,
    VoteKind,
)
from consensus.validators import Validator
from consensus.wire import BootRefused, Certificates, EpochReply, VoteMessage
from tests.unit.consensus.towns import Town


def _request(cluster: Cluster, seat: int, incarnation: int, boot_id: bytes) -> BootRequest:
    digest = boot_digest(CLUSTER_ID, seat, incarnation, boot_id)
    return BootRequest(seat, incarnation, boot_id, cluster.signers[seat].sign(digest))


def _started(cluster: Cluster, seat: int, restored: Restored | None = None) -> Engine:
    engine = cluster.engine(seat, restored)
    engine.step(Started(), 1)
    for peer in cluster.validators.seats:
        if peer != seat:
            engine.step(PeerConnected(peer), 1)
    return engine


def _ack(
    cluster: Cluster,
    engine: Engine,
    peer: int,
    last_vote: Vote | None = None,
    tip: Certificate | None = None,
) -> BootAck:
    """What ``peer`` answers to the engine's request."""
    other = cluster.engine(peer)
    return other.boot.acknowledge(engine.boot.progress.request, last_vote, tip)


def test_a_request_is_on_disk_before_anybody_hears_of_it() -> None:
    cluster = Cluster()
    output = cluster.engine(1).step(Started(), 1)
    records = [r for r in output.persist if isinstance(r, IncarnationRecord)]
    asked = [m for m in sent(output) if isinstance(m, BootRequest)]
    assert [(r.incarnation, r.boot_id) for r in records] == [
        (m.incarnation, m.boot_id) for m in asked
    ]


def test_two_thirds_of_the_weight_are_no_boot_certificate() -> None:
    cluster = Cluster((1, 1, 1))
    engine = _started(cluster, 1)
    engine.step(Received(2, _ack(cluster, engine, 2)), 1)
    assert not engine.boot.done
    output = engine.step(Received(3, _ack(cluster, engine, 3)), 1)
    assert engine.boot.done
    assert any(isinstance(m, BootCertificate) for m in sent(output))


def test_nobody_votes_before_the_boot_certificate() -> None:
    cluster = Cluster()
    engine = _started(cluster, 1)
    for timer in (Timer.LEADER, Timer.STALL, Timer.HEARTBEAT, Timer.RETRY):
        output = engine.step(TimerFired(timer), 5000)
        assert not any(isinstance(m, VoteMessage) for m in sent(output))


def test_an_acknowledgement_is_persisted_and_repeated_only_for_the_same_boot() -> None:
    cluster = Cluster()
    engine = _started(cluster, 1)
    first = _request(cluster, 2, 5, b"a" * 32)
    output = engine.step(Received(2, first), 1)
    assert AcknowledgedRecord(first) in output.persist
    assert any(isinstance(m, BootAck) for m in sent(output))
    again = engine.step(Received(2, first), 1)
    assert any(isinstance(m, BootAck) for m in sent(again))
    assert not again.persist
    for rival in (_request(cluster, 2, 5, b"b" * 32), _request(cluster, 2, 4, b"c" * 32)):
        output = engine.step(Received(2, rival), 1)
        assert [m for m in sent(output) if isinstance(m, (BootAck, BootRefused))] == [
            BootRefused(first)
        ]


@pytest.mark.parametrize("seat", [2, 9])  # a member, and somebody who only observes
def test_a_flood_of_requests_is_answered_a_bounded_number_of_times(seat: int) -> None:
    cluster = Cluster()
    engine = _started(cluster, 1)
    request = replace(_request(cluster, 2, 5, b"a" * 32), seat=seat)
    answers = [m for _ in range(100) for m in sent(engine.step(Received(seat, request), 1))]
    assert 1 <= len(answers) <= 8
    assert sent(engine.step(Received(seat, request), 10_000))


def test_a_request_in_the_name_of_another_is_not_acknowledged() -> None:
    cluster = Cluster()
    engine = _started(cluster, 1)
    stolen = _request(cluster, 3, 9, b"x" * 32)
    output = engine.step(Received(2, stolen), 1)
    assert not any(isinstance(m, BootAck) for m in sent(output))
    assert engine.boot.current(3) == 0


def test_a_refused_booter_takes_the_next_higher_number() -> None:
    cluster = Cluster()
    engine = _started(cluster, 1)
    newer = _request(cluster, 1, 7, b"o" * 32)
    output = engine.step(Received(2, BootRefused(newer)), 1)
    assert IncarnationRecord(8, engine.boot.progress.request.boot_id) in output.persist
    assert engine.boot.incarnation == 8


def test_a_superseded_copy_stops() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    output = engine.step(Received(2, BootRefused(_request(cluster, 1, 2, b"o" * 32))), 1)
    assert output.halt is not None
    assert not engine.can_vote


def test_a_copy_that_lost_the_race_for_the_same_number_stops_nobody() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    rival = _request(cluster, 1, engine.boot.incarnation, b"o" * 32)
    assert engine.step(Received(2, BootRefused(rival)), 1).halt is None
    assert engine.can_vote


def test_a_forged_refusal_changes_nothing() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    forged = BootRequest(1, 9, b"o" * 32, b"\1" * 65)
    assert engine.step(Received(2, BootRefused(forged)), 1).halt is None


def test_votes_of_an_older_incarnation_are_not_counted_and_are_told_so() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    newer = _request(cluster, 2, 2, b"n" * 32)
    engine.step(Received(2, newer), 1)
    vote = cluster.vote(2, VoteKind.NULLIFY, engine.view)
    output = engine.step(Received(2, VoteMessage(1, vote)), 1)
    assert sent(output) == [BootRefused(newer)]
    assert engine.book.get(engine.view, VoteKind.NULLIFY, 2) is None


def test_a_member_that_missed_a_boot_certificate_asks_for_it() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    peer, _ = cluster.booted(2)
    vote = cluster.vote(2, VoteKind.NULLIFY, View(1, 0))
    engine.boot.known.clear()
    output = engine.step(Received(2, VoteMessage(1, vote)), 1)
    asked = sent(output)
    assert asked, "it neither counts the vote nor asks why"
    for message in asked:
        for answer in sent(peer.step(Received(1, message), 1)):
            engine.step(Received(2, answer), 1)
    engine.step(Received(2, VoteMessage(1, vote)), 1)
    assert engine.book.get(View(1, 0), VoteKind.NULLIFY, 2) == vote
    engine.boot._certified.clear()
    again = [engine.step(Received(2, VoteMessage(1, vote)), 1) for _ in range(50)]
    assert sum(len(sent(output)) for output in again) <= 1


def test_a_boot_known_by_its_certificate_only_is_acknowledged_and_no_other_of_that_number() -> None:
    """The set of the next epoch is asked about it, and who was away meanwhile is in that set."""
    town = Town(4, 4)
    town.crash(1, 2)
    town.start(1)
    town.settle(2)
    town.start(2)
    town.settle(2)
    number = town.engines[1].boot.incarnation
    assert town.engines[2].boot.known[1].incarnation < number == town.engines[2].boot.current(1)
    rival = _request(town.cluster, 1, number, b"b" * 32)
    town.step(2, Received(1, rival))
    town.change(town.heavier(3, 2), *map(town.member, (1, 2, 4)))
    town.pass_time(4)
    assert set(town.epochs().values()) == {1}
    town.crash(4)
    assert town.engines[1].boot.is_current
    assert town.engines[2].boot.known[1].boot_id == town.engines[1].boot.boot_id


@pytest.mark.parametrize(
    ("kind", "until"),
    [
        (VoteKind.NOTARIZE, 6),
        (VoteKind.NULLIFY, 7),  # its bearer is in term 5
    ],
)
def test_a_rolled_back_log_abstains_until_two_terms_after_the_highest_told(
    kind: VoteKind, until: int
) -> None:
    cluster = Cluster()
    engine = _started(cluster, 1)
    forgotten = cluster.vote(1, VoteKind.NULLIFY, View(3, 2))
    ahead = cluster.certificate(kind, View(4, 0))
    engine.step(Received(2, _ack(cluster, engine, 2, forgotten)), 1)
    output = engine.step(Received(3, _ack(cluster, engine, 3, None, ahead)), 1)
    assert engine.boot.done
    assert AbstainRecord(0, until) in output.persist
    assert not engine.can_vote


def test_a_rolled_back_log_is_told_again_by_the_set_of_the_next_epoch() -> None:
    """Else a vote in that epoch which the old set never saw would be forgotten with the log."""
    cluster = Cluster()
    engine = _started(cluster, 1)
    forgotten = cluster.vote(1, VoteKind.NULLIFY, View(3, 2))
    for seat in (2, 3):
        engine.step(Received(seat, _ack(cluster, engine, seat, forgotten)), 1)
    recovery = Recovery(ERA, 0, GENESIS, cluster.validators.validators, bytes(32), 0)
    engine.step(RecoverySeen((recovery,)), 1)
    assert engine.validators.epoch == ERA
    assert not engine.can_vote
    unsigned = Vote(VoteKind.NULLIFY, ERA, View(5, 0), 1, bytes(32), 0, b"")
    signature = cluster.signers[1].sign(digest_of(CLUSTER_ID, unsigned))
    engine.step(Received(2, _ack(cluster, engine, 2, unsigned._replace(signature=signature))), 1)
    output = engine.step(Received(3, _ack(cluster, engine, 3)), 1)
    assert AbstainRecord(ERA, 7) in output.persist


@pytest.mark.parametrize("index", [0, 3])
def test_who_left_a_term_tells_so_though_it_saw_later_views_of_it_notarized(index: int) -> None:
    """Else a booting member abstains a term too short."""
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    ended = cluster.certificate(VoteKind.NULLIFY, View(1, 0))
    certified = cluster.certificate(VoteKind.NOTARIZE, View(1, index), b"b" * 32)
    engine.step(Received(2, Certificates((certified, ended))), 1)
    assert engine.view == View(2, 0)
    said = sent(engine.step(Received(2, _request(cluster, 2, 2, b"n" * 32)), 1))
    assert [m.tip for m in said if isinstance(m, BootAck)] == [ended]


def test_a_log_that_holds_all_that_was_told_votes_at_once() -> None:
    cluster = Cluster()
    mine = cluster.vote(1, VoteKind.NULLIFY, View(1, 0))
    restored = Restored(genesis_tip(GENESIS), Machine(), votes=[mine], incarnation=1)
    engine = _started(cluster, 1, restored)
    for peer in (2, 3):
        engine.step(Received(peer, _ack(cluster, engine, peer, mine)), 1)
    assert engine.boot.done
    assert engine.can_vote


@pytest.mark.parametrize("whole", [False, True])
def test_blocks_that_came_after_a_rollback_do_not_hide_it(whole: bool) -> None:
    """It caught up and crashed again before it had the right to vote: its gate is forgotten."""
    cluster = Cluster()
    final = block(View(1, 3))
    proof = cluster.certificate(VoteKind.FINALIZE, View(1, 3), final.hash, (2, 3, 4))
    machine = Machine()
    machine.apply(final)
    tip = Tip(1, final.hash, View(1, 3), 0, 0, proof)
    old = cluster.vote(1, VoteKind.NULLIFY, View(1, 1))
    votes = (old,) if whole else ()
    engine = _started(cluster, 1, Restored(tip, machine, votes, incarnation=1))
    for peer in (2, 3):
        engine.step(Received(peer, _ack(cluster, engine, peer, old)), 1)
    assert engine.can_vote == whole
    shown = cluster.certificate(VoteKind.NOTARIZE, View(1, 4), bytes(32), (2, 3, 4))
    output = engine.step(Received(2, Certificates((shown,))), 2)
    assert engine.view == View(1, 5)
    assert not [m for m in sent(output) if isinstance(m, VoteMessage)]


def test_an_acknowledgement_with_a_vote_that_is_not_ours_does_not_count() -> None:
    cluster = Cluster((1, 1, 1))
    engine = _started(cluster, 1)
    foreign = cluster.vote(2, VoteKind.NULLIFY, View(9, 0))
    forged = Vote(VoteKind.NULLIFY, 0, View(9, 0), 1, bytes(32), 0, foreign.signature)
    engine.step(Received(2, _ack(cluster, engine, 2, forged)), 1)
    engine.step(Received(3, _ack(cluster, engine, 3)), 1)
    assert not engine.boot.done


def test_the_gate_of_the_final_term_survives_a_restart() -> None:
    cluster = Cluster()
    final = block(View(1, 3))
    proof = cluster.certificate(VoteKind.FINALIZE, View(1, 3), final.hash, (2, 3, 4))
    machine = Machine()
    machine.apply(final)
    complaint = cluster.vote(1, VoteKind.NULLIFY, View(1, 1))
    tip = Tip(1, final.hash, View(1, 3), 0, 0, proof)
    engine, _ = cluster.booted(1, Restored(tip, machine, votes=[complaint]))
    later = block(View(1, 4), final)
    shown = cluster.certificate(VoteKind.NOTARIZE, View(1, 4), later.hash)
    engine._take_certificate(shown)
    assert engine.view == View(1, 5)
    assert (View(1, 4), VoteKind.FINALIZE) not in engine._mine


def test_every_vote_that_was_seen_is_told_however_far_ahead_or_behind() -> None:
    cluster = Cluster()
    for view in (View(1, 500), View(40, 0), View(1, 2)):
        engine, _ = cluster.booted(1)
        final = block(View(1, 3))
        proof = cluster.certificate(VoteKind.FINALIZE, View(1, 3), final.hash, (1, 3, 4))
        engine.ledger.advance(Tip(1, final.hash, View(1, 3), 0, 0, proof))
        vote = cluster.vote(2, VoteKind.NULLIFY, view)
        engine.step(Received(2, VoteMessage(1, vote)), 2)
        output = engine.step(Received(2, _request(cluster, 2, 2, b"n" * 32)), 3)
        (ack,) = [m for m in sent(output) if isinstance(m, BootAck)]
        assert ack.last_vote == vote


def test_a_forged_vote_cannot_be_planted_to_spoil_what_is_told() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    final = block(View(1, 3))
    proof = cluster.certificate(VoteKind.FINALIZE, View(1, 3), final.hash, (1, 2, 3))
    engine.ledger.advance(Tip(1, final.hash, View(1, 3), 0, 0, proof))
    forged = cluster.vote(2, VoteKind.NULLIFY, View(40, 0))._replace(signature=bytes(65))
    engine.step(Received(2, VoteMessage(1, forged)), 2)
    output = engine.step(Received(2, _request(cluster, 2, 2, b"n" * 32)), 3)
    (ack,) = [m for m in sent(output) if isinstance(m, BootAck)]
    # Its vote in our certificate is told instead, which a restart of ours does not forget either.
    assert ack.last_vote is not None
    assert (ack.last_vote.kind, ack.last_vote.view) == (VoteKind.FINALIZE, View(1, 3))
    assert cluster.engine(2).boot.take(1, ack)


def test_a_forged_vote_of_who_had_the_seat_before_hides_no_vote_of_who_has_it_now() -> None:
    """Above all that the new holder will ever sign, it would hide a rollback of its disk."""
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    forged = cluster.vote(2, VoteKind.NULLIFY, View(1, 0))._replace(epoch=2**40)
    engine.step(Received(2, VoteMessage(1, forged)), 2)
    one, two, three, four = cluster.validators.validators
    heir = Validator(two.seat, two.weight, four.node_key)
    recovery = Recovery(ERA, 0, GENESIS, (one, heir, three), bytes(32), 0)
    engine.step(RecoverySeen((recovery,)), 3)
    assert engine.validators.epoch == ERA
    unsigned = Vote(VoteKind.NOTARIZE, ERA, View(1, 0), 2, b"b" * 32, 0, b"")
    digest = digest_of(CLUSTER_ID, unsigned)
    vote = unsigned._replace(signature=cluster.signers[4].sign(digest))
    number = ERA * NUMBERS_PER_EPOCH + 1
    request = boot_digest(CLUSTER_ID, 2, number, b"n" * 32)
    asks = BootRequest(2, number, b"n" * 32, cluster.signers[4].sign(request))
    engine.step(Received(2, asks), 4)
    engine.step(Received(2, VoteMessage(number, vote)), 5)
    (ack,) = [m for m in sent(engine.step(Received(2, asks), 6)) if isinstance(m, BootAck)]
    assert ack.last_vote == vote


def test_the_next_set_may_tell_who_kept_its_right_of_a_vote_that_it_forgot() -> None:
    """The set that gave it the right had seen none of its votes in the epoch after."""
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    members = cluster.validators.validators
    record = NextEpoch(1, 0, bytes(32), bytes(32), bytes(32), members)
    last = block(View(1, 0), next_epoch=record)
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 0), last.hash)
    engine.step(Received(2, EpochReply((Boundary(last, final, ()),))), 1)
    assert engine.validators.epoch == 1 and engine.can_vote
    unsigned = Vote(VoteKind.NULLIFY, 1, View(5, 0), 1, bytes(32), 0, b"")
    signature = cluster.signers[1].sign(digest_of(CLUSTER_ID, unsigned))
    engine.step(Received(2, _ack(cluster, engine, 2, unsigned._replace(signature=signature))), 1)
    output = engine.step(Received(3, _ack(cluster, engine, 3)), 1)
    assert AbstainRecord(1, 7) in output.persist
    assert not engine.can_vote


def test_in_an_era_all_boot_anew_under_its_numbers_and_older_ones_count_no_more() -> None:
    """Who was wiped forgot what it promised, and would acknowledge another boot of a number."""
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    asks = BootRequest(2, 7, b"n" * 32, bytes(65))
    digest = boot_digest(CLUSTER_ID, 2, 7, b"n" * 32)
    asks = replace(asks, signature=cluster.signers[2].sign(digest))
    assert [m for m in sent(engine.step(Received(2, asks), 1)) if isinstance(m, BootAck)]
    recovery = Recovery(ERA, 0, GENESIS, cluster.validators.validators, bytes(32), 0)
    output = engine.step(RecoverySeen((recovery,)), 2)
    (request,) = (m for m in sent(output) if isinstance(m, BootRequest))
    assert request.incarnation == ERA * NUMBERS_PER_EPOCH + 1
    assert not engine.can_vote and engine.boot.current(2) == 0
    assert not [m for m in sent(engine.step(Received(2, asks), 3)) if isinstance(m, BootAck)]
    engine.boot.remember(asks)
    assert engine.boot.current(2) == 0
    for seat in (2, 3):
        engine.step(Received(seat, _ack(cluster, engine, seat)), 4)
    assert engine.can_vote


def test_a_first_vote_after_the_boot_brings_the_proof_of_its_term_to_the_disk() -> None:
    """Of the final block's record nothing may be there yet when the member crashes."""
    cluster = Cluster()
    leader = cluster.leader(2)
    seat = next(s for s in cluster.validators.seats if s != leader)
    engine = _started(cluster, seat)
    ended = cluster.certificate(VoteKind.NULLIFY, View(1, 0))
    made = block(View(2, 0), nullifications=(ended,))
    engine.ledger.blocks[made.hash] = made
    final = cluster.certificate(VoteKind.FINALIZE, View(2, 0), made.hash)
    engine.step(Received(leader, Certificates((ended, final))), 2)
    assert engine.ledger.tip.height == 1 and not engine.boot.done
    for peer in (s for s in cluster.validators.seats if s != seat):
        engine.step(Received(peer, _ack(cluster, engine, peer)), 3)
    output = engine.step(TimerFired(Timer.STALL), 4)
    assert [r.vote.view for r in output.persist if isinstance(r, VoteRecord)] == [View(2, 1)]
    assert CertificateRecord(final) in output.persist


def test_who_boots_in_an_epoch_that_is_over_counts_no_answer_from_the_next() -> None:
    """Where that has just begun, those who started again have nothing to show of what they know."""
    town = Town(4, 4)
    leader = town.leader
    town.commit()
    signed = {(v.epoch, v.view, v.kind) for v in town.votes(leader)}
    town.change(town.heavier(leader, 2), *(town.member(s) for s in town.seats if s != leader))
    town.now_ms += 300
    town.fire(Timer.HEARTBEAT)
    town.deliver(lambda _, __, m: not (isinstance(m, VoteMessage) and m.vote.epoch == 1))
    assert set(town.epochs().values()) == {1}
    assert not any(engine.ledger.justification() for engine in town.engines.values())
    town.crash(*town.seats)
    town.stores[leader] = town.new_store(leader)
    town.start()
    for _ in range(4):
        town.deliver(lambda _, __, m: isinstance(m, BootRequest | BootAck | BootRefused))
        town.fire(Timer.BOOT)
        town.fire(Timer.HEARTBEAT, leader)
    engine = town.engines[leader]
    assert engine.validators.epoch == 0 and not engine.boot.done
    assert not signed & {(v.epoch, v.view, v.kind) for v in town.votes(leader)}
    town.pass_time()
    assert engine.validators.epoch == 1 and engine.boot.done
    town.commit()


def test_a_seat_that_comes_back_with_its_key_gets_no_number_twice() -> None:
    town = Town(5, 5)
    number = town.engines[5].boot.incarnation
    kept = [town.member(seat) for seat in (1, 2, 3, 4)]
    town.change(*kept)
    town.pass_time()
    town.crash(5)
    town.change(*kept, town.member(5))
    town.pass_time()
    assert set(town.epochs().values()) == {2}
    for restarted in (False, True):
        if restarted:
            town.crash(1)
            town.start(1)
        digest = boot_digest(CLUSTER_ID, 5, number, b"n" * 32)
        again = BootRequest(5, number, b"n" * 32, town.cluster.signers[5].sign(digest))
        town.now_ms += 60_000
        answers = sent(town.step(1, Received(5, again)))
        assert not [m for m in answers if isinstance(m, BootAck)]
        assert [m for m in answers if isinstance(m, BootRefused)]


def test_a_wiped_member_on_its_way_to_a_recovery_is_not_superseded_by_its_former_self() -> None:
    """That one had gone there; who came back late too gave the new one a number meanwhile."""
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    engine.step(RecoverySeen((Recovery(ERA, 3, b"b" * 32, (), bytes(32), 0),)), 1)
    number = ERA * NUMBERS_PER_EPOCH + 1
    digest = boot_digest(CLUSTER_ID, 1, number, b"n" * 32)
    former = BootRequest(1, number, b"n" * 32, cluster.signers[1].sign(digest))
    output = engine.step(Received(2, BootRefused(former)), 2)
    assert output.halt is None and not engine.can_vote
