"""The EVM registry's reads, with rows and events that somebody wrote to harm others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import eth_abi
import pytest
import trio
from faulty_chain import FakeChain, Fault, Server, http

from chain.abi import ContractAbi
from chain.errors import BadChainData, CallReverted, NoAgreement, NotDeployed
from chain.evm import EvmRegistry
from chain.follow import Follower
from chain.keys import keccak256
from chain.membership import Change, MemberStatus
from chain.replay import NodeChange, next_digest
from contracts import artifact

ABI = ContractAbi(artifact("Registry").abi)
ROW = "(uint256,address,uint32,uint8,uint16,uint8,bool,uint40,uint48,bytes20,bytes32,address,bytes)"
OWNER = "0x" + "aa" * 20


def row(seat: int, endpoint: bytes = b"/ip4/1.2.3.4/tcp/5", status: int = 1, **other: Any) -> tuple:
    key_x = other.get("key_x", keccak256(b"%d" % seat))
    return (
        seat, OWNER, 2, status, 1, 0, True, 999, 4, b"\x0b" * 20, key_x, OWNER, endpoint,
    )  # fmt: skip


def answers(chain: FakeChain, **results: Any) -> None:
    for name, value in results.items():
        chain.call_results["0x" + ABI.function(name).selector.hex()] = value


def words(types: list[str], values: list[Any]) -> str:
    return "0x" + eth_abi.encode(types, values).hex()


def page(rows: list[tuple], following: int = 0) -> str:
    return words([ROW + "[]", "uint256"], [rows, following])


def with_members(
    chain: FakeChain,
    rows: list[tuple],
    version: int = 3,
    *,
    digest: bytes = b"\x0d" * 32,
    changed: tuple[int, int, bytes] = (9, 3, b"\x0d" * 32),
    root_ends_s: int = 2**40 - 1,
    pending: tuple[int, int, int, int, bytes, int] = (0, 0, 0, 0, bytes(32), 0),
) -> None:
    answers(
        chain,
        version=words(["uint64"], [version]),
        digest=words(["bytes32"], [digest]),
        seatCount=words(["uint256"], [max([r[0] for r in rows], default=0)]),
        rules=words(["address"], ["0x" + "00" * 20]),
        certificates=words(["address"], ["0x" + "00" * 20]),
        launched=words(["uint64", "uint64", "bytes32", "uint32"], [0, 0, bytes(32), 0]),
        lastChange=words(["uint64", "uint64", "bytes32"], list(changed)),
        root=words(["address", "uint40"], [OWNER, root_ends_s]),
        pendingRecovery=words(
            ["uint64", "uint64", "uint64", "uint64", "bytes32", "uint256"], list(pending)
        ),
        page=page(rows),
    )


async def start(serve, reader_of, n: int = 1, k: int = 1) -> tuple[list[Server], EvmRegistry]:
    servers = await serve(*(FakeChain() for _ in range(n)))
    return servers, EvmRegistry(reader_of(servers, k), ABI, poll_interval_s=0.01)


async def test_a_members_bad_endpoint_harms_only_that_member(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    rows = [
        row(1),
        row(2, b"\xff\xfe\x00evil"),
        row(3, b"x" * 500),
        row(5, b"", status=0, key_x=bytes(32)),
    ]
    with_members(servers[0].chain, rows)
    membership = await registry.snapshot()
    assert [m.endpoint for m in membership.members] == ["/ip4/1.2.3.4/tcp/5", "", "", ""]
    one, empty = membership.members[0], membership.members[3]
    assert one.node_key == b"\x03" + keccak256(b"1") and one.owner == b"\xaa" * 20
    assert (one.weight, one.incarnation, one.lease_expires_s, one.root_epoch) == (2, 4, 999, 1)
    assert empty.status is MemberStatus.EMPTY and empty.node_key == b""
    assert (membership.block_number, membership.block_time_s) == (10, 1010)
    assert membership.prev_randao == keccak256(b"mix10") and membership.version == 3


@pytest.mark.parametrize(
    "bad",
    [
        page([row(2), row(1)]),
        page([row(1), row(1)]),
        page([row(1, status=3)]),
        page([row(1)], following=1),
        page([row(n) for n in range(1, 102)]),
        page([row(1)])[:-64],
        "0x" + "00" * 64,
        "0x",
        "0x" + "ff" * 1000,
        "0x" + "00" * 90_000,
    ],
)
async def test_a_page_that_cannot_be_is_refused(serve, reader_of, bad: str) -> None:
    servers, registry = await start(serve, reader_of)
    with_members(servers[0].chain, [row(1)])
    answers(servers[0].chain, page=bad)
    with pytest.raises((BadChainData, NoAgreement)):
        await registry.snapshot()


async def test_no_contract_is_told_from_an_empty_one(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    servers[0].chain.code = b""
    with pytest.raises(NotDeployed):
        await registry.snapshot()
    servers[0].chain.code = b"\x01"
    with_members(servers[0].chain, [])
    assert (await registry.snapshot()).members == ()


async def test_a_refused_read_is_decoded(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    data = "0x" + keccak256(b"NoSuchSeat()")[:4].hex()
    answers(servers[0].chain, member=Fault(3, "execution reverted", data))
    with pytest.raises(CallReverted) as refused:
        await registry.member(9)
    assert refused.value.name == "NoSuchSeat"


async def test_a_watcher_outlives_a_disagreement_and_tells_of_each_new_block(
    serve, reader_of
) -> None:
    servers, registry = await start(serve, reader_of, n=2, k=2)
    for server in servers:
        with_members(server.chain, [row(1)])
    watcher = registry.watch()
    with trio.fail_after(10):
        first = await anext(watcher)
        for server in servers:
            server.chain.finalized = 11
        with_members(servers[0].chain, [row(1), row(2)], version=4, changed=(11, 4, b"4" * 32))

        async def mend() -> None:
            while registry.last_error is None:
                await trio.sleep(0.005)
            assert registry.failing_s() is not None
            server = servers[1].chain
            with_members(server, [row(1), row(2)], version=4, changed=(11, 4, b"4" * 32))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(mend)
            second = await anext(watcher)
        assert (first.membership.version, second.membership.version) == (3, 4)
        assert first.changed and second.changed
        assert registry.last_error is None and registry.status()["alarm"] is None
        assert registry.failing_s() is None
        # The same version with another endpoint is a change too; a block alone is none.
        for server in servers:
            server.chain.finalized = 12
            moved = row(2, b"/ip4/9.9.9.9/tcp/1")
            with_members(server.chain, [row(1), moved], version=4, changed=(11, 4, b"4" * 32))
        third = await anext(watcher)
        assert third.membership.members[1].endpoint == "/ip4/9.9.9.9/tcp/1" and third.changed
        for server in servers:
            server.chain.finalized = 13
        fourth = await anext(watcher)
        assert fourth.membership.block_number == 13 and not fourth.changed
        assert third.views == fourth.views == ()
    await watcher.aclose()


async def test_a_look_counts_though_a_transaction_has_seen_a_later_block_meanwhile(
    serve, reader_of
) -> None:
    servers, registry = await start(serve, reader_of)
    chain = servers[0].chain
    with_members(chain, [row(1)])
    shown = page([row(1)])
    mark = registry.reader.watermark

    def later(_: object) -> object:
        mark.mark = replace(mark.mark, height=11, block_hash=chain.hash_of(11))
        return shown

    answers(chain, page=later)
    membership = await registry.snapshot()
    assert (membership.block_number, len(membership.members)) == (10, 1)
    assert (mark.mark.height, mark.mark.version) == (11, 3)


async def test_a_look_that_does_not_end_is_told_by_how_long_it_takes(
    serve, reader_of, monkeypatch
) -> None:
    servers, registry = await start(serve, reader_of)
    with_members(servers[0].chain, [row(1)])
    watcher = registry.watch()
    with trio.fail_after(10):
        await anext(watcher)
        assert registry.failing_s() is None
        hung = trio.Event()

        async def hang(_: object) -> None:
            hung.set()
            await trio.sleep_forever()

        monkeypatch.setattr(Follower, "look", hang)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(anext, watcher)
            await hung.wait()
            assert registry.failing_s() is not None and registry.last_error is None
            nursery.cancel_scope.cancel()


# ---------------------------------------------------------------------- the founding set

CHANGES = [
    NodeChange(3, 1, 1, bytes(32), False, bytes(20), 5, 0),
    NodeChange(4, 1, 2, b"\x01" * 32, True, b"\x02" * 20, 5, 1),
    NodeChange(5, 2, 3, bytes(32), False, bytes(20), 7, 0),
    NodeChange(8, 1, 4, b"\x01" * 32, True, b"\x02" * 20, 6, 1),  # after the launch
]


def log(change: NodeChange, registry: EvmRegistry) -> dict[str, Any]:
    event = ABI.event("NodeChanged")
    return {
        "address": "0x" + registry.contract.hex(),
        "topics": ["0x" + event.topic.hex(), "0x" + change.seat.to_bytes(32, "big").hex()],
        "data": words(
            ["uint64", "bytes32", "bool", "bytes20", "uint32", "uint8"],
            [change.version, change.key_x, change.key_odd, change.instance_id, change.weight,
             change.status],
        ),
        "blockNumber": hex(change.block_number),
        "logIndex": "0x0",
    }  # fmt: skip


def launched(chain: FakeChain, registry: EvmRegistry, weight: int = 5, span_max: int = 10**9):
    digest = bytes(32)
    for change in CHANGES[:3]:
        digest = next_digest(digest, change)
    with_members(chain, [])
    answers(
        chain,
        launched=words(["uint64", "uint64", "bytes32", "uint32"], [6, 3, digest, weight]),
    )

    def logs(params: list[dict[str, Any]]) -> Any:
        first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        if last - first + 1 > span_max:
            return Fault(-32005, "query returned more than you may have")
        return [log(c, registry) for c in CHANGES if first <= c.block_number <= last]

    chain.methods["eth_getLogs"] = logs


async def test_the_founding_set_is_rebuilt_from_events_in_small_ranges(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    launched(servers[0].chain, registry, span_max=2)
    genesis = await registry.genesis()
    assert genesis is not None
    (member,) = genesis.members
    assert (member.seat, member.weight, member.node_key) == (1, 5, b"\x03" + b"\x01" * 32)
    assert (genesis.block_number, genesis.version, genesis.block_time_s) == (6, 3, 1006)
    assert genesis.block_hash == servers[0].chain.hash_of(6)


async def test_before_the_launch_there_is_no_founding_set(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    with_members(servers[0].chain, [])
    assert await registry.genesis() is None


async def test_an_endpoint_that_withholds_events_is_passed_over_and_named(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of, n=3, k=2)
    for server in servers:
        launched(server.chain, registry)
    servers[0].chain.methods["eth_getLogs"] = []
    servers[1].chain.methods["eth_getLogs"] = [
        {**log(CHANGES[0], registry), "address": "0x" + "77" * 20}
    ]
    genesis = await registry.genesis()
    assert genesis is not None and genesis.version == 3
    complaints = [status["complaint"] for status in registry.status()["endpoints"]]
    assert "missing" in complaints[0] and "another contract" in complaints[1]


def block_by_block(params: list[dict[str, Any]]) -> Any:
    return Fault(-32005, "too wide") if params[0]["fromBlock"] != params[0]["toBlock"] else []


async def test_nobody_waits_for_an_endpoint_whose_events_come_block_by_block(
    serve, reader_of
) -> None:
    servers, registry = await start(serve, reader_of, n=2, k=2)
    history, up_to = registry.history, long_ago(servers[1].chain, registry)
    history.patience_s = 0.01
    servers[0].chain.methods["eth_getLogs"] = block_by_block
    with trio.fail_after(20):
        assert len(await history.seats_at(up_to)) == 2


async def test_an_endpoint_that_fails_once_is_asked_again_while_a_liar_goes_on(
    serve, reader_of
) -> None:
    servers, registry = await start(serve, reader_of, n=2, k=2)
    history, up_to = registry.history, long_ago(servers[1].chain, registry)
    history.patience_s = 0.01
    servers[0].chain.methods["eth_getLogs"] = block_by_block

    async def once(stream: trio.SocketStream, body: bytes) -> None:
        servers[1].respond = None
        await stream.send_all(http(b"", "500 Oops"))

    servers[1].respond = once
    with trio.fail_after(20):
        assert len(await history.seats_at(up_to)) == 2


async def test_more_events_than_there_can_be_are_not_collected(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of, n=2, k=2)
    up_to = long_ago(servers[1].chain, registry)
    servers[0].chain.methods["eth_getLogs"] = [log(CHANGES[0], registry)] * 200
    assert len(await registry.history.seats_at(up_to)) == 2
    assert len(servers[0].chain.asked) < 30  # of a hundred ranges
    complaints = [status["complaint"] for status in registry.status()["endpoints"]]
    assert "two node changes of version 1" in complaints[0] and complaints[1] == ""


def long_ago(chain: FakeChain, registry: EvmRegistry) -> Change:
    """Three changes behind a million blocks without any."""
    launched(chain, registry)
    logs = chain.methods["eth_getLogs"]
    chain.methods["eth_getLogs"] = lambda params: logs(params)[:3]
    digest = bytes(32)
    for change in CHANGES[:3]:
        digest = next_digest(digest, change)
    return Change(1_000_000, 3, digest)


async def test_without_one_honest_source_of_events_there_is_no_founding_set(
    serve, reader_of
) -> None:
    servers, registry = await start(serve, reader_of)
    launched(servers[0].chain, registry)
    servers[0].chain.methods["eth_getLogs"] = [log(c, registry) for c in CHANGES[:2]]
    with pytest.raises(NoAgreement, match="version 3 is missing"):
        await registry.genesis()
    launched(servers[0].chain, registry, weight=99)
    with pytest.raises(BadChainData, match="do not add up to 99"):
        await registry.genesis()
