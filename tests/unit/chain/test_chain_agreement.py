"""k of n endpoints under liars, forkers, laggards, hangers and flooders."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import trio
from faulty_chain import CHAIN_ID, CONTRACT, FakeChain, Fault, Server, http

from chain import decoding
from chain.agreement import FinalizedReader, Reverted
from chain.errors import (
    ChainConfigError,
    FinalityAlarm,
    NoAgreement,
    NotKept,
    PinMismatch,
    RollbackRefused,
    WrongChain,
)
from chain.health import Trouble
from chain.keys import keccak256
from chain.rpc import RpcEndpoint
from chain.watermark import Watermark

CALL = keccak256(b"anything()")[:4]


def honest() -> FakeChain:
    return FakeChain(call_results={"0x" + CALL.hex(): "0x" + "11" * 32})


def complaint(reader: FinalizedReader, server: Server) -> str:
    name = server.url.removeprefix("http://")
    return next(s["complaint"] for s in reader.endpoint_status() if s["endpoint"] == name)


async def spoil(server: Server, fault: str) -> None:
    chain = server.chain
    if fault == "liar":
        chain.call_results["0x" + CALL.hex()] = "0x" + "66" * 32
    elif fault == "boaster":
        chain.finalized = 10**9
        chain.fork = "boast"
    elif fault == "forker":
        chain.fork = "fork"
        chain.finalized = 13
    elif fault == "laggard":
        chain.finalized = 4
    elif fault == "hanger":
        server.hang()
    elif fault == "flooder":
        server.flood()
    elif fault == "wrong id":
        server.say(http(b'{"jsonrpc":"2.0","id":-1,"result":"0x7"}'))
    elif fault == "other chain":
        chain.chain_id = 8


NAMED = {
    "liar": Trouble.LYING,
    "boaster": Trouble.FORKED,
    "forker": Trouble.FORKED,
    "laggard": Trouble.LAGGING,
    "hanger": Trouble.LATE,
    "flooder": Trouble.TOO_LONG,
    "wrong id": Trouble.BROKEN,
    "other chain": Trouble.WRONG_CHAIN,
}
FAULTS = list(NAMED)


@pytest.mark.parametrize("fault", FAULTS)
async def test_one_bad_endpoint_of_four_changes_nothing_and_is_named(
    serve, reader_of, fault: str
) -> None:
    servers = await serve(*(honest() for _ in range(4)))
    await spoil(servers[0], fault)
    reader = reader_of(servers, 3)
    header = await reader.finalized()
    assert (header.number, header.hash) == (10, FakeChain().hash_of(10))
    (answer,) = await reader.call_many(CONTRACT, [CALL], header, answer_bytes_max=64)
    assert answer == b"\x11" * 32
    assert complaint(reader, servers[0]).startswith(f"{NAMED[fault]}: ")
    assert [complaint(reader, server) for server in servers[1:]] == ["", "", ""]


@pytest.mark.parametrize("faults", list(itertools.combinations(FAULTS, 2)))
async def test_two_bad_endpoints_of_five_change_nothing(
    serve, reader_of, faults: tuple[str, str]
) -> None:
    servers = await serve(*(honest() for _ in range(5)))
    for server, fault in zip(servers, faults, strict=False):
        await spoil(server, fault)
    reader = reader_of(servers, 3, grace_s=0.02)
    header = await reader.finalized()
    assert header.hash == FakeChain().hash_of(10)
    assert await reader.call_many(CONTRACT, [CALL], header, answer_bytes_max=64) == [b"\x11" * 32]


async def test_quick_liars_do_not_shut_out_slow_honest_endpoints(serve, reader_of) -> None:
    """Two liars and one honest answer at once; the other honest ones come after the grace."""
    servers = await serve(*(honest() for _ in range(5)))
    await spoil(servers[0], "boaster")
    await spoil(servers[1], "forker")
    for server in servers[3:]:

        async def late(stream: trio.SocketStream, body: bytes, server: Server = server) -> None:
            await trio.sleep(0.15)
            await stream.send_all(http(json.dumps(server.rpc(body)).encode()))

        server.respond = late
    header = await reader_of(servers, 3, grace_s=0.01).finalized()
    assert header.hash == FakeChain().hash_of(10)


async def test_two_colluders_of_four_get_no_answer_rather_than_a_wrong_one(
    serve, reader_of
) -> None:
    servers = await serve(*(honest() for _ in range(4)))
    reader = reader_of(servers, 3)
    header = await reader.finalized()
    for server in servers[:2]:
        await spoil(server, "liar")
    with pytest.raises(NoAgreement, match="no 3 endpoints agree"):
        await reader.call_many(CONTRACT, [CALL], header, answer_bytes_max=64)
    for server in servers[:2]:
        await spoil(server, "forker")
    with pytest.raises(NoAgreement):
        await reader.finalized()


async def test_a_fork_at_the_same_height_is_outvoted(serve, reader_of) -> None:
    servers = await serve(*(honest() for _ in range(3)))
    servers[0].chain.fork = "fork"
    reader = reader_of(servers, 2)
    assert (await reader.finalized()).hash == FakeChain().hash_of(10)
    assert complaint(reader, servers[0]).startswith("forked: ")


async def test_an_endpoint_that_hears_of_blocks_a_little_later_is_not_named(
    serve, reader_of
) -> None:
    servers = await serve(*(honest() for _ in range(4)))
    servers[0].chain.finalized = 4  # and it does not know the agreed block either
    reader = reader_of(servers, 3, lag_s=3600)
    header = await reader.finalized()
    await reader.call_many(CONTRACT, [CALL], header, answer_bytes_max=64)
    assert complaint(reader, servers[0]) == "" and header.number == 10


async def test_a_dead_endpoint_is_not_called_a_laggard(serve, reader_of) -> None:
    servers = await serve(*(honest() for _ in range(4)))
    reader = reader_of(servers, 3)
    await reader.finalized()
    for server in servers:
        server.chain.finalized = 12
    servers[0].say(http(b"", "500 Oops"))
    await reader.finalized()
    assert complaint(reader, servers[0]) == "broken: HTTP status 500"


async def test_a_hanger_that_recovers_is_well_again(serve, reader_of) -> None:
    servers = await serve(*(honest() for _ in range(3)))
    servers[0].hang()
    reader = reader_of(servers, 2, recheck_s=0.0)
    await reader.finalized()
    assert "slower" in complaint(reader, servers[0])
    servers[0].respond = None
    await reader.finalized()
    assert complaint(reader, servers[0]) == ""
    row = reader.endpoint_status()[0]
    assert "slower" in row["last_complaint"] and row["troubles"] == {"late": 1}


async def test_a_revert_is_an_answer_that_is_agreed_on(serve, reader_of) -> None:
    servers = await serve(*(honest() for _ in range(3)))
    for server in servers[:2]:
        server.chain.call_results["0x" + CALL.hex()] = Fault(3, "execution reverted", "0xdeadbeef")
    reader = reader_of(servers, 2)
    header = await reader.finalized()
    answers = await reader.call_many(CONTRACT, [CALL, CALL], header, answer_bytes_max=64)
    assert answers == [Reverted(bytes.fromhex("deadbeef"))] * 2


async def test_reads_name_the_block_by_hash(serve, reader_of) -> None:
    (server,) = await serve(honest())
    reader = reader_of([server], 1)
    header = await reader.finalized()
    await reader.call_many(CONTRACT, [CALL], header, answer_bytes_max=64)
    assert server.chain.asked[-1][1][1] == {
        "blockHash": "0x" + header.hash.hex(),
        "requireCanonical": True,
    }


async def test_an_answer_longer_than_the_question_allows_is_a_failure(serve, reader_of) -> None:
    (server,) = await serve(honest())
    reader = reader_of([server], 1)
    header = await reader.finalized()
    with pytest.raises(NoAgreement, match="32 bytes, at most 31"):
        await reader.call_many(CONTRACT, [CALL], header, answer_bytes_max=31)


async def test_another_chain_is_told_from_a_disagreement(serve, reader_of) -> None:
    servers = await serve(*(FakeChain(chain_id=8) for _ in range(3)))
    with pytest.raises(WrongChain, match="chain 8, expected 7"):
        await reader_of(servers, 2).finalized()


@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (4, 2), (2, 3), (0, 0)])
def test_a_quorum_that_proves_nothing_is_refused(n: int, k: int) -> None:
    endpoints = [RpcEndpoint(f"http://host{i}") for i in range(n)]
    watermark = Watermark(None, chain_id=1, contract=CONTRACT)
    with pytest.raises(ChainConfigError):
        FinalizedReader(endpoints, k, watermark)
    if n == k == 1:
        FinalizedReader(endpoints, k, watermark, single_rpc_insecure=True)


def test_the_same_host_twice_is_not_two_endpoints() -> None:
    endpoints = [RpcEndpoint("http://host/a"), RpcEndpoint("http://user@HOST:80/b")]
    with pytest.raises(ChainConfigError, match="same host"):
        FinalizedReader(endpoints, 2, Watermark(None, chain_id=1, contract=CONTRACT))


# ---------------------------------------------------------------------- the watermark


async def test_a_lower_height_is_refused_also_after_a_restart(
    serve, reader_of, tmp_path: Path
) -> None:
    (server,) = await serve(honest())
    path = tmp_path / "mark.json"
    await reader_of([server], 1, path=path).finalized()
    server.chain.finalized = 9
    with pytest.raises(RollbackRefused, match="9 is older than 10"):
        await reader_of([server], 1, path=path).finalized()
    server.chain.finalized = 11
    assert (await reader_of([server], 1, path=path).finalized()).number == 11


async def test_a_block_that_cannot_be_remembered_is_not_acted_on_until_it_can(
    serve, reader_of, tmp_path: Path
) -> None:
    (server,) = await serve(honest())
    reader = reader_of([server], 1, path=tmp_path / "mark.json")
    in_the_way = tmp_path / "mark.json.new"
    in_the_way.mkdir()  # as a full disk would be
    with pytest.raises(NotKept, match="cannot be written"):
        await reader.finalized()
    assert reader.watermark.mark.height == -1
    in_the_way.rmdir()
    assert (await reader.finalized()).number == reader.watermark.mark.height == 10


@pytest.mark.parametrize("later", [10, 12])
async def test_a_changed_final_block_is_an_alarm_that_stays(
    serve, reader_of, tmp_path: Path, later: int
) -> None:
    (server,) = await serve(honest())
    path = tmp_path / "mark.json"
    reader = reader_of([server], 1, path=path)
    await reader.finalized()
    server.chain.fork, server.chain.finalized = "other", later
    with pytest.raises(FinalityAlarm):
        await reader.finalized()
    server.chain.fork = ""
    with pytest.raises(FinalityAlarm):  # one endpoint that tells the old story again is no excuse
        await reader.finalized()
    server.chain.fork = "other"
    with pytest.raises(FinalityAlarm):
        await reader_of([server], 1, path=path).finalized()


async def test_a_watermark_refuses_lower_versions_and_other_pins(tmp_path: Path) -> None:
    path = tmp_path / "mark.json"
    mark = Watermark(path, chain_id=CHAIN_ID, contract=CONTRACT)
    await mark.advance(5, b"\x05" * 32, code_hash=b"\x0c" * 32)
    await mark.advance_version(5, 3)
    with pytest.raises(RollbackRefused, match="version 2"):
        await mark.advance_version(6, 2)
    with pytest.raises(PinMismatch):
        await mark.advance(6, b"\x06" * 32, code_hash=b"\x0d" * 32)
    again = Watermark(path, chain_id=CHAIN_ID, contract=CONTRACT)
    assert again.mark == mark.mark and again.mark.version == 3
    with pytest.raises(RollbackRefused):
        await again.advance(4, b"\x04" * 32)
    with pytest.raises(FinalityAlarm):
        await again.advance(5, b"\x55" * 32)
    for other in ({"chain_id": 8}, {"contract": bytes(20)}, {"code_hash": b"\x0d" * 32}):
        settings = {"chain_id": CHAIN_ID, "contract": CONTRACT, **other}
        with pytest.raises(PinMismatch):
            Watermark(path, **settings)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[1]", b'{"format":2}', b" " * 5000])
def test_a_damaged_watermark_is_not_a_missing_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mark.json"
    path.write_bytes(content)
    with pytest.raises(PinMismatch, match="not readable"):
        Watermark(path, chain_id=CHAIN_ID, contract=CONTRACT)


# ---------------------------------------------------------------------- decoding


@pytest.mark.parametrize("value", [None, 1, "", "0x", "0x01", "1", "0xg", "0x" + "1" * 65, "-0x1"])
def test_a_quantity_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(decoding.BadChainData):
        decoding.quantity(value)


@pytest.mark.parametrize("value", [None, 1, "0x0", "0xzz", "00", b"0x00", "0x00\n"])
def test_data_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(decoding.BadChainData):
        decoding.data(value)
