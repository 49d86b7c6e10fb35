"""The three lines of the SDK against running daemons, under trio and under asyncio."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import trio

from dstack_cluster import (
    Change,
    Compare,
    DStackP2PSDK,
    Put,
    Relation,
    SeatNotActive,
    Target,
    Txn,
    WrongCluster,
)
from node.config import load_config
from tests.integration.testnet import Testnet


def sdk_of(testnet: Testnet, seat: int, *, contract: str | None = None) -> DStackP2PSDK:
    """The SDK as an application in that seat's VM would make it."""
    config = load_config(testnet.state.node_config(seat))
    return DStackP2PSDK(
        contract or "0x" + config.chain.contract.hex(),
        f"https://seat-{seat}.example",
        rpc_url=config.chain.rpc[0],
        dstack_socket=str(config.agent.socket),
        api_url=testnet.api_url(seat),
    )


def urls(*seats: int) -> list[str]:
    return [f"https://seat-{seat}.example" for seat in seats]


async def test_members_find_each_other_and_see_who_leaves_and_returns(
    shared_testnet: Testnet,
) -> None:
    testnet = shared_testnet
    for seat in testnet.seats:
        await sdk_of(testnet, seat).register()
    sdk = sdk_of(testnet, 1)
    seen: list[list[str]] = []
    heard = trio.Event()

    def on_change(peers: list[str]) -> None:
        nonlocal heard
        seen.append(sorted(peers))
        heard.set()
        heard = trio.Event()

    async def until(expected: list[str]) -> None:
        with trio.fail_after(60):
            while not seen or seen[-1] != expected:
                await heard.wait()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sdk.monitor_peers, on_change)
        await until(urls(*testnet.seats))
        await testnet.kill(4)
        await until(urls(1, 2, 3))
        await testnet.start(4)
        await until(urls(*testnet.seats))
        nursery.cancel_scope.cancel()
    assert sorted(await sdk.get_peers()) == urls(*testnet.seats)


async def test_the_same_three_lines_run_under_asyncio(shared_testnet: Testnet) -> None:
    async def application() -> tuple[list[str], list[list[str]]]:
        sdk = sdk_of(shared_testnet, 2)
        await sdk.register()
        peers = await sdk.get_peers()
        seen: list[list[str]] = []
        told = asyncio.Event()

        async def on_change(now: list[str]) -> None:
            seen.append(now)
            told.set()

        watching = asyncio.create_task(sdk.monitor_peers(on_change))
        await asyncio.wait_for(told.wait(), 30)
        watching.cancel()
        return peers, seen

    peers, seen = await trio.to_thread.run_sync(asyncio.run, application())
    assert "https://seat-2.example" in peers
    assert seen[0] == peers


async def test_an_application_of_another_cluster_is_told_so(shared_testnet: Testnet) -> None:
    with pytest.raises(WrongCluster):
        await sdk_of(shared_testnet, 1, contract="0x" + "11" * 20).register()


async def test_keys_and_the_fencing_token_through_the_sdk(shared_testnet: Testnet) -> None:
    sdk = sdk_of(shared_testnet, 3)
    first = await sdk.put("app/lock", b"me", request_id="take-1")
    again = await sdk.put("app/lock", b"me", request_id="take-1")
    assert again == first
    assert await sdk.get("app/lock") == b"me"
    leader, token = await sdk.leader()
    survey = await shared_testnet.wait_leader()
    assert (leader, token) == (survey.leader, f"0.{survey.term}")
    assert await sdk.delete("app/lock") and await sdk.get("app/lock") is None


async def test_a_lock_goes_with_its_lease_and_a_monitor_sees_it_over_a_kill(
    shared_testnet: Testnet,
) -> None:
    testnet = shared_testnet
    await testnet.wait_all_linked()  # one of them may have been away a moment ago
    writer, reader = sdk_of(testnet, 1), sdk_of(testnet, 4)
    begun = (await writer.list_keys("jobs/")).revision
    lease = await writer.grant_lease(5)
    free = Compare(b"jobs/lock", Target.CREATE, Relation.EQUAL, 0)
    take = Txn((free,), (Put(b"jobs/lock", b"1", lease),))
    assert (await writer.txn(take)).succeeded
    assert not (await reader.txn(take)).succeeded
    told: list[tuple[bytes, bool]] = []
    heard = trio.Event()

    def on_changes(changes: list[Change], revision: int) -> None:
        told.extend((c.key, c.entry is not None) for c in changes)
        if told:
            heard.set()

    async with trio.open_nursery() as nursery:

        async def monitor() -> None:
            await reader.monitor_keys("jobs/", on_changes, after=begun)

        nursery.start_soon(monitor)
        with trio.fail_after(60):
            await heard.wait()
            await testnet.kill(4)
            await writer.put("jobs/while-away", b"")
            await testnet.start(4)
            while len(told) < 3:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert told[0] == (b"jobs/lock", True)
    assert sorted(told[1:]) == [(b"jobs/lock", False), (b"jobs/while-away", True)]
    assert (await writer.txn(Txn((free,), ()))).succeeded


def test_the_import_name_is_the_one_of_the_readme() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    assert "from dstack_cluster import DStackP2PSDK" in readme
    assert issubclass(SeatNotActive, Exception)
