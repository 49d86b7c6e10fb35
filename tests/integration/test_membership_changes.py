"""The registry changes who votes, and the cluster follows without a pause (real processes)."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest
import trio

from consensus.limits import EPOCHS_PER_ERA
from deploy import calls
from deploy.testnet import processes
from tests.integration.conftest import MakeTestnet
from tests.integration.testnet import Testnet
from tests.integration.writers import writing

pytestmark = pytest.mark.timeout(300)


async def status(testnet: Testnet, seat: int) -> dict[str, Any]:
    async with testnet.client(seat) as client:
        return await client.status()


def events(testnet: Testnet, seat: int, name: str) -> list[dict[str, Any]]:
    """Lines of a daemon's log with this event."""
    lines = [json.loads(line) for line in testnet.log(seat).splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == name]


async def test_members_come_change_and_go_under_writes(testnet: Testnet) -> None:
    await testnet.wait_leader()
    async with writing(testnet, voters_only=True) as writers:
        # A fifth joins, and its vote counts: without it, four of five would be no quorum.
        assert await testnet.add() == 5
        await testnet.wait_epoch(1, dict.fromkeys((1, 2, 3, 4, 5), 1))
        await testnet.kill(2)
        await writers.wait_more(20)

        # Weight; the dead one finds the next epoch when it comes back.
        await testnet.set_weight(3, 2)
        await testnet.wait_epoch(2, {1: 1, 3: 2, 4: 1, 5: 1}, total=6)
        await testnet.start(2)
        await testnet.wait_epoch(2, {1: 1, 2: 1, 3: 2, 4: 1, 5: 1})
        await writers.wait_more(10)

        # One leaves, without disturbance: it stays as an observer that serves reads.
        await testnet.leave(4)
        await testnet.wait_epoch(3, {1: 1, 2: 1, 3: 2, 5: 1})
        await writers.wait_more(10)
        left = await status(testnet, 4)
        assert (left["state"], left["weight"]) == ("observing", 0)
        assert left["reason"] == "seat 4 is not a member of this epoch"

        # It comes back when its owner says so, and not before.
        with trio.fail_after(30):
            while not any(
                "NotAuthorized" in alarm for alarm in (await status(testnet, 4))["alarms"]
            ):
                await trio.sleep(0.1)
        await testnet.rejoin(4)
        await testnet.wait_epoch(4, {1: 1, 2: 1, 3: 2, 4: 1, 5: 1})
        await writers.wait_more(10)
    # By what was final on the chain, and on all nodes at the same height.
    assert all(len(heights) == 1 for heights in heights_of_epochs(testnet).values())
    for seat in testnet.seats:
        opened = [line["epoch"] for line in events(testnet, seat, "epoch_opened")]
        assert opened == sorted(set(opened)), f"seat {seat}: {opened}"
    found = await status(testnet, 5)
    assert found["membership"]["pending"] is None and found["alarms"] == []


def heights_of_epochs(testnet: Testnet) -> dict[int, set[int]]:
    """At which heights of the cluster's own chain each epoch began, as all nodes' logs have it."""
    heights: dict[int, set[int]] = {}
    for seat in testnet.seats:
        for line in events(testnet, seat, "epoch_opened"):
            heights.setdefault(line["epoch"], set()).add(line["height"])
    return heights


async def test_a_revoked_root_and_a_burnt_seat_and_a_chain_that_takes_finality_back(
    testnet: Testnet,
) -> None:
    await testnet.wait_leader()
    four = dict.fromkeys((1, 2, 3, 4), 1)
    async with writing(testnet, voters_only=True) as writers:
        # A fifth joins whose app key was certified under a second root.
        await testnet.second_root()
        assert await testnet.add() == 5
        await testnet.wait_epoch(1, four | {5: 1})

        # That root is revoked: what is signed under it counts no more, at once and without a new
        # epoch, while the total weight stays.
        await testnet.as_owner(calls.revoke_root(2))
        with trio.fail_after(60):
            for seat in four:
                while (await status(testnet, seat))["membership"]["revoked"] != [5]:
                    await trio.sleep(0.1)
        found = await status(testnet, 1)
        assert (found["epoch"], found["weight_total"]) == (1, 5)
        await writers.wait_more(10)
        # In ten minutes somebody would sweep it.
        with trio.fail_after(30):
            while not (mute := (await status(testnet, 1))["chain"]["mute"]):
                await trio.sleep(0.1)
        assert [(row["seat"], row["reason"]) for row in mute] == [(5, "")]

        await testnet.as_owner(calls.burn_seat(5))
        await testnet.wait_epoch(2, four)
        await writers.wait_more(10)
        burnt = await status(testnet, 5)
        assert burnt["state"] == "observing"
        assert any("does not exist" in alarm for alarm in burnt["alarms"])
        heights = heights_of_epochs(testnet)
        assert sorted(heights) == [1, 2] and all(len(found) == 1 for found in heights.values())

        # What was final is not: every node stops to follow the chain, and the cluster goes on.
        await testnet.forget_finalized(20)
        with trio.fail_after(60):
            for seat in four:
                while not (await status(testnet, seat))["chain"]["alarm"]:
                    await trio.sleep(0.1)
        await testnet.as_owner(calls.set_weight(1, 7))
        await writers.wait_more(30)
        for seat in four:
            found = await status(testnet, seat)
            assert (found["epoch"], found["weight_total"], found["state"]) == (2, 4, "active")
            assert any("must not be followed any further" in alarm for alarm in found["alarms"])


async def test_a_lost_machine_is_replaced_and_everything_outlives_a_restart(
    testnet: Testnet,
) -> None:
    await testnet.wait_leader()
    four = dict.fromkeys((1, 2, 3, 4), 1)
    async with writing(testnet, voters_only=True) as writers:
        old_key = (await status(testnet, 3))["node_key"]
        await testnet.kill(3)
        await writers.wait_more(10)
        await testnet.replace_machine(3)
        await testnet.wait_epoch(1, four)
        new = await status(testnet, 3)
        assert new["node_key"] != old_key and new["epoch"] == 1
        # The new machine's vote is needed now.
        await testnet.kill(1)
        await writers.wait_more(10)
        await testnet.start(1)

        # All at once, in an epoch that is not the first, and while the chain does not answer.
        assert testnet.state.chain is not None
        await testnet.kill_all()
        processes.send(testnet.state.chain, signal.SIGSTOP)
        for seat in testnet.seats:
            await testnet.start(seat)
        await testnet.wait_epoch(1, four)
        await writers.wait_more(10)
        processes.send(testnet.state.chain, signal.SIGCONT)
    await testnet.add()
    await testnet.wait_epoch(2, four | {5: 1})


async def test_a_cluster_that_lost_its_quorum_goes_on_by_a_vote_on_the_chain(
    make_testnet: MakeTestnet,
) -> None:
    testnet = await make_testnet(4)
    await testnet.wait_leader()
    await testnet.put("before", b"1")
    await testnet.wait_same_state()
    for seat in (3, 4):
        await testnet.kill(seat)
    await testnet.wait_for(
        lambda seen: all(row.state == "waiting" for row in seen.nodes if row.answers), "no quorum"
    )
    opened: list[tuple[int, int]] = []

    async def recover() -> None:
        opened.append(await testnet.recover())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(recover)
        # Before it opens, every node says what is about to happen, and goes on as it was.
        with trio.fail_after(60):
            while not any("recovery" in text for text in (await status(testnet, 1))["alarms"]):
                assert not opened
                await trio.sleep(0.05)
        assert (await status(testnet, 1))["epoch"] == 0
    assert opened[0][0] == EPOCHS_PER_ERA
    await testnet.wait_epoch(EPOCHS_PER_ERA, {1: 1, 2: 1})
    await testnet.put("after", b"2")
    for seat in (1, 2):
        assert (await testnet.get("before", seat=seat)).value == b"1"

    # One that was given up comes back with its disk: it follows, and has no say.
    await testnet.start(3)
    await testnet.wait_for(
        lambda seen: (seen.nodes[2].state, seen.nodes[2].epoch) == ("observing", EPOCHS_PER_ERA),
        "seat 3 observes in the new epoch",
    )
    with trio.fail_after(30):
        while await testnet.get("after", seat=3, stale=True) is None:
            await trio.sleep(0.1)
