"""Break-glass as stories (R21): a lost quorum, the chain's vote, and where it leads."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.epochs import Origin, due, era_of
from consensus.interface import (
    Alarm,
    MembershipSeen,
    Received,
    RecoverySeen,
    Send,
    Timer,
    VoteRecord,
)
from consensus.limits import EPOCHS_PER_ERA as ERA
from consensus.limits import ERAS_MAX
from consensus.types import Certificate, Recovery, View, VoteKind
from consensus.validators import Validator
from consensus.wire import EpochReply, SyncReply, SyncRequest
from tests.unit.consensus.towns import Town, chain_view


def _stuck() -> Town:
    """Four of seven are gone for good."""
    town = Town(7, 7)
    town.commit()
    town.crash(4, 5, 6, 7)
    town.settle()
    return town


def _recovery(town: Town, *seats: int, era: int = 1) -> Recovery:
    """The chain opens an era with these members on what is final at the first of them."""
    first = town.engines[seats[0]]
    tip, epoch = first.ledger.tip, era * ERA + era_of(first.validators.epoch)
    new = tuple(map(town.member, seats))
    return Recovery(epoch, tip.height, tip.hash, new, bytes(32), town.number)


def members(town: Town, count: int) -> list[Validator]:
    return [town.member(seat) for seat in range(1, count + 1)]


def test_a_recovery_vote_on_the_chain_opens_an_epoch_of_those_who_are_left() -> None:
    town = _stuck()
    recovery = _recovery(town, 1, 2, 3)
    for seat in (1, 2, 3):
        output = town.step(seat, RecoverySeen((recovery,)))
        assert [n for n in output.notices if isinstance(n, Alarm)], "it must be loud"
    town.pass_time()
    assert town.members(1) == {1: 1, 2: 1, 3: 1}
    town.commit()
    town.crash(1, 2, 3)
    town.start(1, 2, 3)
    for seat in (1, 2, 3):  # the chain tells it again at every start
        town.step(seat, RecoverySeen((recovery,)))
    assert set(town.epochs().values()) == {ERA}
    town.settle()
    town.commit()


def test_a_member_behind_the_recovery_fetches_first() -> None:
    town = Town(7, 7)
    town.crash(3)
    town.commit()
    town.crash(4, 5, 6, 7)
    recovery = _recovery(town, 1, 2, 3)
    for seat in (1, 2):
        town.step(seat, RecoverySeen((recovery,)))
    town.start(3)
    town.step(3, RecoverySeen((recovery,)))
    assert town.epochs()[3] == 0
    town.pass_time()
    assert set(town.epochs().values()) == {ERA}
    town.commit()


def test_after_a_recovery_no_older_view_leads_back_to_the_lost_members() -> None:
    town = Town(7, 7)
    old = town.change(*members(town, 7))
    town.commit()
    town.crash(5, 6, 7)
    town.change(*members(town, 4))
    recovery = _recovery(town, 1, 2, 3, 4)
    for seat in (1, 2, 3, 4):
        town.step(seat, RecoverySeen((recovery,)))
    town.pass_time()
    assert town.members(1) == {1: 1, 2: 1, 3: 1, 4: 1}
    # One step back is within the limits, and a leader that lies would propose it.
    liar = town.engines[1]
    back = due(liar.validators, Origin(), old)
    assert back is not None and 5 in {member.seat for member in back.validators}
    for seat, engine in town.engines.items():
        town.step(seat, MembershipSeen(old, frozenset()))
        assert not engine._accepts(back, 1)
    town.pass_time()
    assert set(town.epochs().values()) == {ERA}
    # What the registry shows later is followed as ever.
    town.change(town.heavier(1, 2), *members(town, 4)[1:])
    town.pass_time()
    assert set(town.epochs().values()) == {ERA + 1}


@pytest.mark.parametrize("saw", ["nothing", "nothing, and was started again", "a new order"])
def test_a_view_of_before_the_recovery_that_comes_after_it_leads_nowhere(saw: str) -> None:
    """The chain that a member asks may lag; one step to the lost set would be within limits."""
    town = _stuck()
    old = chain_view(town.number, *members(town, 4))
    town.number += 1
    recovery = _recovery(town, 1, 2, 3)
    for seat in (1, 2, 3):
        town.step(seat, RecoverySeen((recovery,)))
    town.pass_time()
    if saw == "a new order":
        for _ in range(3):
            town.fire(Timer.LEADER, 1, 2, 3)
            town.settle()
        town.pass_time()
    expected = ERA + (saw == "a new order")
    assert set(town.epochs().values()) == {expected}
    if saw != "nothing":
        town.crash(1, 2, 3)
        town.start(1, 2, 3)
        town.settle()
    for seat in (1, 2, 3):
        town.step(seat, MembershipSeen(old, frozenset()))
    town.pass_time()
    assert set(town.epochs().values()) == {expected}
    assert town.members(1).keys() == {1, 2, 3}


@pytest.mark.parametrize("what", ["beyond", "another block"])
def test_a_recovery_that_does_not_fit_stops_the_member(what: str) -> None:
    town = _stuck()
    recovery = _recovery(town, 1, 2, 3)
    if what == "beyond":
        recovery = replace(recovery, height=recovery.height - 1)
    else:
        recovery = replace(recovery, block_hash=bytes(32))
    output = town.step(1, RecoverySeen((recovery,)))
    assert output.halt is not None
    assert "recovery" in output.halt.reason


@pytest.mark.parametrize(
    ("epoch", "good"),
    [
        (1, ERA),
        (ERA + 1, 2 * ERA),
        (2 * ERA + 1, 3 * ERA),  # there is no era 1 to go on from
        (2 * ERA + 7, 3 * ERA),
        ((ERAS_MAX + 1) * ERA, (ERAS_MAX + 2) * ERA),  # none of them is left
    ],
)
def test_a_recovery_under_a_number_of_none_opens_nothing_and_is_told_aloud(
    epoch: int, good: int
) -> None:
    town = _stuck()
    recovery = _recovery(town, 1, 2, 3)
    output = town.step(1, RecoverySeen((replace(recovery, epoch=epoch),)))
    assert output.halt is None and town.epochs()[1] == 0
    (alarm,) = (n for n in output.notices if isinstance(n, Alarm))
    assert f"it would be {good}" in alarm.what, "the registry takes rising numbers only"
    town.step(1, RecoverySeen((replace(recovery, epoch=good),)))
    assert town.epochs()[1] == (good if good <= ERAS_MAX * ERA else 0)


@pytest.mark.parametrize("at_once", [False, True])
def test_of_two_recoveries_in_one_era_the_first_counts_on_all_members(at_once: bool) -> None:
    """The registry takes both, as the number rises; each would go on from another history."""
    town = _stuck()
    first = _recovery(town, 1, 2, 3)
    for seat in (1, 2, 3):
        town.step(seat, RecoverySeen((first,)))
    town.pass_time()
    town.commit()
    tip = town.engines[1].ledger.tip
    second = replace(first, epoch=2 * ERA)  # who went on from the first stops
    third = replace(second, epoch=2 * ERA + 1, height=tip.height, block_hash=tip.hash)
    for again in range(8):  # sets have no order
        town.crash(1)
        town.start(1)
        seen = replace(third, seed=bytes([again]) * 32)
        shown = ((first, second, seen),) if at_once else ((first, second), (seen,))
        for recoveries in shown:
            town.step(1, RecoverySeen(recoveries))
        assert town.engines[1].halted is not None and town.epochs()[1] == ERA
    town.crash(2)
    town.stores[2] = town.new_store(2)
    town.start(2)
    output = town.step(2, RecoverySeen((first, second, third)))
    assert any(f"{3 * ERA}" in n.what for n in output.notices if isinstance(n, Alarm))
    assert town.engines[2]._awaited == [second]


@pytest.mark.parametrize("named", ["the same block", "the first block of the new history"])
def test_a_second_recovery_goes_on_from_the_first(named: str) -> None:
    town = _stuck()
    first = _recovery(town, 1, 2, 3)
    for seat in (1, 2, 3):
        town.step(seat, RecoverySeen((first,)))
    if named != "the same block":
        town.pass_time()
        town.crash(3)
    second = _recovery(town, 1, 2, era=3)
    assert second.epoch == 3 * ERA + 1
    for seat in tuple(town.engines):
        town.step(seat, RecoverySeen((second,)))
    town.pass_time()
    assert set(town.epochs().values()) == {3 * ERA + 1} and town.members(1) == {1: 1, 2: 1}
    town.commit(1, 2)
    if named != "the same block":
        town.start(3)
        town.step(3, RecoverySeen((first, second)))
        town.pass_time(12)
        assert town.epochs()[3] == 3 * ERA + 1


def test_who_saw_a_recovery_signs_nothing_any_more_in_the_epoch_that_it_ended() -> None:
    """What the old set made final with its help would be lost."""
    town = Town(4, 4)
    town.crash(3)
    town.commit()
    recovery = _recovery(town, 1, 2, 3)
    town.cut = {(a, b) for a in (1, 2, 4) for b in (3,)}
    town.start(3)
    town.step(3, RecoverySeen((recovery,)))
    town.outputs.clear()
    assert town.engines[3].status().state == "syncing" and not town.engines[3].serves
    town.fire(Timer.LEADER, 3)
    town.fire(Timer.STALL, 3)
    records = [record for _, output in town.outputs for record in output.persist]
    assert not [r for r in records if isinstance(r, VoteRecord) and r.vote.seat == 3]


def test_each_member_that_tells_of_the_recovery_is_asked_for_its_block_and_nobody_else() -> None:
    """All tell at each retry: were all asked each time, few words would become very many."""
    town = Town(7, 7)
    town.crash(3)
    town.commit()
    recovery = _recovery(town, 1, 2, 3)
    town.start(3)
    town.step(3, RecoverySeen((recovery,)))
    output = town.step(3, Received(2, EpochReply((recovery,))))
    tip = town.engines[3].ledger.tip
    assert output.send == [Send(2, SyncRequest(tip.height + 1, 1))]


def test_a_member_behind_goes_to_the_block_of_the_recovery_and_no_further() -> None:
    """Others do not see the chain yet, and show it what will be lost."""
    town = Town(7, 7)
    town.crash(3)
    town.commit()
    recovery = _recovery(town, 1, 2, 3)
    town.commit()
    assert town.engines[1].ledger.tip.height > recovery.height
    town.start(3)
    town.step(3, RecoverySeen((recovery,)))
    town.pass_time()
    assert town.engines[3].halted is None
    assert town.epochs()[3] == ERA and town.engines[3].ledger.tip.height == recovery.height
    output = town.step(1, RecoverySeen((recovery,)))
    assert output.halt is not None, "it is beyond, and must not go back in silence"


def test_a_member_that_is_shown_another_block_in_the_place_of_the_recovery_stops() -> None:
    town = Town(7, 7)
    town.crash(3)
    town.commit()
    recovery = replace(_recovery(town, 1, 2, 3), block_hash=bytes(32))
    town.start(3)
    town.step(3, RecoverySeen((recovery,)))
    town.settle()
    town.pass_time(4)
    engine = town.engines[3]
    assert engine.halted is not None and engine.ledger.tip.height < recovery.height


@pytest.mark.parametrize("named", ["lost now", "of nobody", "a lower one than all came to"])
@pytest.mark.parametrize("started_again", [False, True])
def test_a_later_recovery_from_the_same_history_takes_the_place_of_the_first(
    named: str, started_again: bool
) -> None:
    town = Town(7, 7)
    town.crash(1, 2)
    town.commit()
    first = _recovery(town, 3, 1, 2)
    if named == "a lower one than all came to":
        town.start(1, 2)
        town.settle()
        town.commit()
    town.crash(3, 4, 5, 6, 7)
    if 1 not in town.engines:
        town.start(1, 2)
    town.settle()
    if named == "of nobody":
        first = replace(first, height=town.engines[1].ledger.tip.height, block_hash=bytes(32))
    second = _recovery(town, 1, 2, era=2)
    for seat in (1, 2):
        halted = town.step(seat, RecoverySeen((first,))).halt
        assert bool(halted) is (named != "lost now")
        if started_again or halted:
            town.crash(seat)
            town.start(seat)
            output = town.step(seat, RecoverySeen((first, second)))
        else:
            output = town.step(seat, RecoverySeen((second,)))
        assert output.halt is None
    town.pass_time(12)
    assert set(town.epochs().values()) == {2 * ERA}
    town.commit()
    town.start(3)  # it is beyond the second one, or was wiped
    output = town.step(3, RecoverySeen((first, second)))
    town.pass_time()
    assert (town.engines[3].halted is not None) is (named != "a lower one than all came to")


def test_who_opened_a_recovery_that_was_replaced_from_further_on_stops() -> None:
    town = Town(7, 7)
    town.crash(3)
    town.commit()
    first = replace(_recovery(town, 1, 2, 3))
    town.commit()
    town.crash(4, 5, 6, 7)
    second = _recovery(town, 1, 2, 3, era=2)
    town.start(3)
    town.step(3, RecoverySeen((first,)))
    town.settle(1)
    town.pass_time(4)
    assert town.epochs()[3] == ERA
    for seat in (1, 2):
        assert town.step(seat, RecoverySeen((first, second))).halt is None
    assert town.step(3, RecoverySeen((second,))).halt is not None


def test_members_whose_disks_are_gone_vote_in_the_era_that_a_recovery_begins() -> None:
    """The others saw what they voted before, and cannot come two terms further without them."""
    town = _stuck()
    recovery = _recovery(town, 1, 2, 3)
    town.crash(2, 3)
    for seat in (2, 3):
        town.stores[seat] = town.new_store(seat)
    town.start(2, 3)
    for seat in (1, 2, 3):
        town.step(seat, RecoverySeen((recovery,)))
    town.pass_time(24)
    assert set(town.epochs().values()) == {ERA}
    assert all(engine.can_vote for engine in town.engines.values())
    town.commit()


def test_blocks_up_to_a_recovery_are_served_by_those_whose_proof_was_above_it() -> None:
    """They took them over with others that are dropped; whoever had the proof is lost."""
    town = Town(7, 7)
    town.crash(2, 3)
    town.commit()
    recovery = _recovery(town, 1, 2, 3)
    town.commit()
    town.start(2)
    town.step(2, RecoverySeen((recovery,)))
    town.pass_time()
    assert town.epochs()[2] == ERA
    town.stores[2].chain = [(block, None) for block, _ in town.stores[2].chain]
    town.crash(1, 4, 5, 6, 7)
    town.start(3)
    town.step(3, RecoverySeen((recovery,)))
    town.pass_time()
    assert town.epochs()[3] == ERA


@pytest.mark.parametrize("behind", [False, True])
def test_blocks_that_lead_to_a_recovery_of_another_height_are_not_taken(behind: bool) -> None:
    """Owners were wrong about the height, so that nobody opens it; then a liar shows the block."""
    town = Town(7, 7)
    if behind:
        town.crash(3)
    town.commit()
    town.crash(4, 5, 6, 7)
    tip = town.engines[1].ledger.tip
    recovery = replace(_recovery(town, 1, 2, 3), height=tip.height + 5)
    if behind:
        town.start(3)
    before = town.engines[3].ledger.tip
    town.step(3, RecoverySeen((recovery,)))
    town.stores[1].sync()
    blocks = tuple(block for block, _ in town.stores[1].chain)
    assert blocks[-1].hash == tip.hash and (before.hash != tip.hash) == behind
    proof = Certificate(VoteKind.FINALIZE, 0, View(1, 0), tip.hash, ())
    output = town.step(3, Received(2, SyncReply(blocks, (), proof)))
    assert town.engines[3].ledger.tip == before and not output.applied
