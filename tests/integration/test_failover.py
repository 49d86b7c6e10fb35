"""Members die, hang and come back under a stream of writes (real processes, real chain)."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio

from deploy.testnet.survey import Survey
from tests.integration.testnet import Testnet
from tests.integration.writers import writing


@pytest.fixture
def testnet(shared_testnet: Testnet) -> Testnet:
    """One cluster for all: each test brings back whom it killed."""
    return shared_testnet


def _place(seen: Survey) -> tuple[int, int]:
    """Epoch and term, as most nodes tell it; after a full round of leaders an epoch ends."""
    return max((n.epoch or 0, n.term or 0) for n in seen.nodes if n.leader == seen.leader)


async def test_writes_survive_the_death_of_the_leader(testnet: Testnet) -> None:
    before = await testnet.wait_leader()
    assert before.leader is not None and before.term is not None
    async with writing(testnet, 4) as writers:
        await testnet.kill(before.leader)
        await writers.wait_more(20)
        after = await testnet.wait_leader(other_than=before.leader)
        assert _place(after) > _place(before)
        await testnet.start(before.leader)


async def test_a_dead_follower_changes_nothing_and_catches_up(testnet: Testnet) -> None:
    before = await testnet.wait_leader()
    follower = next(seat for seat in testnet.seats if seat != before.leader)
    async with writing(testnet, 4) as writers:
        await testnet.kill(follower)
        await writers.wait_more(20)
        during = await testnet.survey()
        assert (during.leader, during.term) == (before.leader, before.term)
        await testnet.start(follower)


async def test_a_leader_that_hangs_is_replaced_and_rejoins_when_it_wakes(testnet: Testnet) -> None:
    before = await testnet.wait_leader()
    assert before.leader is not None and before.term is not None
    async with writing(testnet, 4) as writers:
        await testnet.pause(before.leader)
        after = await testnet.wait_leader(other_than=before.leader)
        assert _place(after) > _place(before)
        # It sleeps for ten seconds of the cluster's own time while writes go on.
        woken_at = trio.current_time() + 10
        while trio.current_time() < woken_at:
            await writers.wait_more(1)
        await testnet.resume(before.leader)


async def test_all_members_die_at_once_and_nothing_is_lost(testnet: Testnet) -> None:
    async with writing(testnet, 4):
        await testnet.kill_all()
        for seat in testnet.seats:
            await testnet.start(seat)
        await testnet.wait_leader()


async def test_a_mixture_of_deaths_and_pauses_loses_nothing_and_doubles_nothing(
    testnet: Testnet,
) -> None:
    chance = random.Random(20261122)
    async with writing(testnet, 4) as writers:
        for _ in range(8):
            seat, other = chance.sample(testnet.seats, 2)
            match chance.choice(("die", "stop", "pause", "two die", "all die")):
                case "die":
                    await testnet.kill(seat)
                    await writers.wait_more(5)
                    await testnet.start(seat)
                case "stop":
                    await testnet.kill(seat, "TERM")
                    await testnet.start(seat)
                case "pause":
                    await testnet.pause(seat)
                    await writers.wait_more(5)
                    await testnet.resume(seat)
                case "two die":
                    await testnet.kill(seat)
                    await testnet.kill(other)
                    await testnet.start(other)
                    await testnet.start(seat)
                case "all die":
                    await testnet.kill_all()
                    for each in testnet.seats:
                        await testnet.start(each)
            await writers.wait_more(5)


async def test_a_restart_needs_no_transaction_and_takes_a_new_incarnation(
    testnet: Testnet,
) -> None:
    seat = testnet.seats[0]
    before = await _status(testnet, seat)
    await testnet.kill(seat, "TERM")
    await testnet.start(seat)
    await testnet.wait_for(
        lambda seen: next(n for n in seen.nodes if n.seat == seat).state == "active",
        f"seat {seat} active again",
    )
    after = await _status(testnet, seat)
    # By one, or into the numbers of the next epoch: enough deposed leaders open one.
    assert after["incarnation"] > before["incarnation"]
    assert after["chain"]["registry_writes"] == 0
    assert after["chain"]["version"] == before["chain"]["version"]


async def test_a_leader_that_is_told_to_stop_hands_over_first(testnet: Testnet) -> None:
    before = await testnet.wait_leader()
    assert before.leader is not None
    await testnet.kill(before.leader, "TERM")
    await testnet.wait_leader(other_than=before.leader)
    survivor = next(seat for seat in testnet.seats if seat != before.leader)
    assert "step_down" in testnet.log(survivor)
    await testnet.start(before.leader)


async def _status(testnet: Testnet, seat: int) -> dict[str, Any]:
    async with testnet.client(seat) as client:
        return await client.status()
