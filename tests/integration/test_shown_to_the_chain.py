"""What members sign about each other reaches the chain, and acts there (real daemons, real chain).

Leaders, deposed leaders, epochs and a liar: first shown by the daemons by themselves, then by an
operator's command.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from chain import ContractAbi, EvmRegistry, MemberStatus, read_deployment
from chain.keys import address_of
from contracts import artifact
from deploy import operator
from deploy.contract import open_registry
from deploy.operator.audit import Audit, audit
from deploy.testnet import nodes, processes
from deploy.testnet.layout import REPOSITORY
from tests.integration.conftest import stop_testnet
from tests.integration.testnet import Testnet
from tests.integration.writers import writing

pytestmark = pytest.mark.timeout(400)

SHOWING = ("chain.record_leaders=true", "chain.depose_leaders=true")


@pytest.fixture(scope="module")
def shared_testnet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testnet]:
    """Four nodes for all tests here, whose daemons show leaders, too; the tests go on from each
    other."""
    directory = tmp_path_factory.mktemp("shown") / "testnet"

    async def up() -> Testnet:
        return await Testnet.up(directory, 4, settings=SHOWING)

    with stop_testnet(directory):
        yield trio.run(up)


@pytest.fixture
def testnet(shared_testnet: Testnet) -> Testnet:
    return shared_testnet


@asynccontextmanager
async def registry_of(testnet: Testnet) -> AsyncIterator[EvmRegistry]:
    deployment = read_deployment(testnet.state.deployment_file)
    registry = open_registry(deployment, [testnet.state.rpc_url], 1, single_rpc_insecure=True)
    try:
        yield registry
    finally:
        await registry.reader.aclose()


async def look(testnet: Testnet) -> Audit:
    """The registry at the newest final block."""
    async with registry_of(testnet) as registry:
        return await audit(read_deployment(testnet.state.deployment_file), registry)


async def certificates_view(testnet: Testnet, name: str, *values: Any) -> tuple[Any, ...]:
    """A view of the contract of certificates, at the newest final block."""
    async with registry_of(testnet) as registry:
        await registry.snapshot()
        view = ContractAbi(artifact("Certificates").abi).function(name)
        (raw,) = await registry.reader.call_many(
            registry.certificates,
            [view.encode(*values)],
            await registry.finalized(),
            answer_bytes_max=256,
        )
        assert isinstance(raw, bytes)
        return view.decode(raw)


Contract = Callable[..., Awaitable[Any]]


@pytest.fixture
def contract(testnet: Testnet, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Contract:
    """``await contract("lift-suspension", 3, wallet=…, yes=True)``: what --json gives."""

    async def run(
        *words: object, wallet: str = "contract_owner", yes: bool = False, exit_status: int = 0
    ) -> Any:
        key = tmp_path / wallet
        key.touch(0o600)
        key.write_text(json.loads((testnet.directory / "wallets.json").read_text())[wallet])
        line = [
            *words, "--rpc", testnet.state.rpc_url, "--single-rpc-insecure", "--json",
            "--deployment", testnet.state.deployment_file, "--key-file", key,
            *(["--yes", "--final"] if yes else []),
        ]  # fmt: skip
        capfd.readouterr()  # what the test's own looks at the chain logged
        status = await trio.to_thread.run_sync(operator.main, [str(word) for word in line])
        out, err = capfd.readouterr()
        assert status == exit_status, out + err
        return json.loads(out)

    return run


async def status(testnet: Testnet, seat: int) -> dict[str, Any]:
    async with testnet.client(seat) as client:
        return await client.status()


async def wait_recorded(testnet: Testnet, *, after: tuple[int, int] = (-1, 0)) -> tuple[int, int]:
    """Waits until the leader of now stands on the chain, of a later term than one; epoch, term."""
    with trio.fail_after(90):
        while True:
            seen = await testnet.survey()
            found = (await look(testnet)).certified
            assert found is not None
            on_record = (found.epoch, found.term, found.leader)
            told = {(n.epoch, n.term, n.leader) for n in seen.nodes if n.answers}
            if told == {on_record} and on_record[:2] > after:
                return on_record[:2]
            await trio.sleep(0.2)


async def test_leaders_and_a_deposed_one_and_an_epoch_are_put_on_record_by_the_daemons(
    testnet: Testnet,
) -> None:
    first = await wait_recorded(testnet)
    leader = await testnet.leader()
    assert leader is not None
    async with writing(testnet, voters_only=True):
        await testnet.kill(leader)
        second = await wait_recorded(testnet, after=first)
        with trio.fail_after(60):
            while await certificates_view(testnet, "lastDeposed", leader) != first:
                await trio.sleep(0.2)
        # By default that is a mark: the seat keeps node, weight and vote.
        row = (await look(testnet)).membership.member(leader)
        assert row is not None and (row.status, row.weight) == (MemberStatus.ACTIVE, 1)
        await testnet.start(leader)

        # Who votes changes: the new epoch's certificates count as soon as it is bound.
        assert await testnet.add() == 5
        await testnet.wait_epoch(1, dict.fromkeys((1, 2, 3, 4, 5), 1))
        third = await wait_recorded(testnet, after=second)
    assert third[0] == 1
    _version, weight, _recoveries = await certificates_view(testnet, "snapshot", 1)
    assert weight == 5
    # Each of it was paid for once, by one of them.
    shown = [
        row
        for seat in testnet.seats
        for row in (await status(testnet, seat))["chain"]["shown"]
        if row["state"] == "shown"
    ]
    assert "epoch 1" in [row["what"] for row in shown]
    assert len({row["what"] for row in shown}) == len(shown), shown


async def test_where_the_policy_says_so_a_deposed_leader_is_suspended_until_that_is_lifted(
    testnet: Testnet, contract: Contract
) -> None:
    def policy(deposal: str) -> Awaitable[Any]:
        return contract(
            "certificates", "policy", "--deposal", deposal, "--deposal-s", 86_400,
            "--conflict", "suspend", "--conflict-s", "for-good", "--min-seats", 3, yes=True,
        )  # fmt: skip

    await policy("suspend")
    await wait_recorded(testnet)
    leader = (await testnet.wait_leader()).leader
    assert leader is not None
    epoch = (await status(testnet, leader))["epoch"] + 1
    others = {seat: 1 for seat in testnet.seats if seat != leader}
    async with writing(testnet, voters_only=True) as writers:
        await testnet.kill(leader)
        await testnet.wait_epoch(epoch, others)
        row = (await look(testnet)).membership.member(leader)
        assert row is not None and row.status is MemberStatus.INACTIVE
        # Its machine is well again, and is told until when it has to wait, or for whom.
        await testnet.start(leader)
        await wait_cooling_down(testnet, leader)
        await contract("lift-suspension", leader, yes=True)
        await testnet.wait_epoch(epoch + 1, {**others, leader: 1})
        await writers.wait_more(10)
    await policy("mark")


async def wait_cooling_down(testnet: Testnet, seat: int) -> None:
    with trio.fail_after(60):
        while not any("CoolingDown" in alarm for alarm in (await status(testnet, seat))["alarms"]):
            await trio.sleep(0.2)


async def test_a_member_that_lies_is_convicted_on_the_chain_and_out_of_the_next_epoch(
    testnet: Testnet,
) -> None:
    await testnet.wait_all_linked()
    leader = (await testnet.wait_leader()).leader
    assert leader is not None
    epoch = (await status(testnet, leader))["epoch"] + 1
    liar = next(seat for seat in testnet.seats if seat != leader)
    others = {seat: 1 for seat in testnet.seats if seat != liar}
    async with writing(testnet, voters_only=True) as writers:
        # The same machine, disk and key, and a daemon that will sign anything.
        await testnet.kill(liar)
        start_lying_daemon(testnet, liar)
        await testnet.wait_all_linked()
        key = (await status(testnet, liar))["node_key"]
        (testnet.state.node_dir(liar) / "lie").touch()

        await testnet.wait_epoch(epoch, others)
        await writers.wait_more(10)
    registry = await look(testnet)
    row = registry.membership.member(liar)
    assert row is not None and row.status is MemberStatus.INACTIVE
    assert [m.seat for m in registry.membership.active()] == sorted(others)
    (convicted,) = await certificates_view(testnet, "convicted", address(key))
    assert convicted
    # Only the finalized chain put it out: everybody opened that epoch at one height.
    heights = {event["height"] for seat in others for event in opened(testnet, seat, epoch)}
    assert len(heights) == 1
    out = await status(testnet, liar)
    assert (out["state"], out["weight"]) == ("observing", 0)
    # And it cannot come back by itself.
    await wait_cooling_down(testnet, liar)
    await testnet.kill(liar)


def start_lying_daemon(testnet: Testnet, seat: int) -> None:
    state = testnet.state
    script = REPOSITORY / "tests/integration/lying_daemon.py"
    config = str(state.node_config(seat))
    words = [sys.executable, str(script), "run", "--config", config]
    record = processes.spawn(
        [*words, *nodes.settings(state)],
        log=state.node_log(seat),
        mark=state.mark,
        cwd=state.node_dir(seat),
    )
    state.with_node_process(seat, record).save()


def opened(testnet: Testnet, seat: int, epoch: int) -> list[dict[str, Any]]:
    """Lines of a daemon's log about the beginning of an epoch."""
    lines = [json.loads(line) for line in testnet.log(seat).splitlines() if line.startswith("{")]
    return [x for x in lines if x["event"] == "epoch_opened" and x["epoch"] == epoch]


def address(node_key: str) -> str:
    return "0x" + address_of(bytes.fromhex(node_key)).hex()


async def test_an_operator_shows_by_command_what_the_daemons_were_told_not_to(
    testnet: Testnet, contract: Contract, tmp_path: Path
) -> None:
    found = (await look(testnet)).certified
    assert found is not None
    recorded = (found.epoch, found.term)
    running = [node.seat for node in testnet.state.nodes if testnet.alive(node.seat)]
    replace(testnet.state, settings=()).save()
    for seat in running:
        await testnet.kill(seat, "TERM")
    for seat in running:
        await testnet.start(seat)
    # Who led before may lead again, in a term that is on record; the next one's is not.
    await testnet.wait_for(
        lambda seen: all(row.state == "active" for row in seen.nodes if row.seat in running),
        "all that run are active",
    )
    before = (await testnet.wait_leader()).leader
    assert before is not None
    async with testnet.client(before) as client:
        await client.step_down()
    leader = (await testnet.wait_leader(other_than=before)).leader
    assert leader is not None
    command = partial(contract, "certificates", wallet="seat_1")

    def node(seat: int) -> tuple[str, str]:
        return ("--node", testnet.api_url(seat))

    # Nothing of this run is on the chain but what the commands put there.
    file = tmp_path / "shown.json"

    async def save(seat: int, *kinds: str) -> None:
        """The file is what that node prints, as soon as all these kinds are in it."""
        async with testnet.client(seat) as client:
            with trio.fail_after(30):
                rows = await client.certificates()
                while not {*kinds} <= {row["kind"] for row in rows}:
                    await trio.sleep(0.1)
                    rows = await client.certificates()
        file.write_text(json.dumps({"certificates": rows}))

    plan = await command("record-leader", *node(leader))
    assert plan["would"] == "work" and f"seat {leader} is on record" in plan["effect"][0]
    assert plan["effect"][1] == "voting weight stays 4"
    await save(leader, "leader")
    await command("record-leader", str(file), yes=True)
    assert (await wait_recorded(testnet, after=recorded)) > recorded
    again = await command("record-leader", str(file), exit_status=3)
    assert again["reason"] == "the contract refuses: StaleLeader()"

    # A leader dies whose term is on record; one of the others tells how it ended.
    await testnet.kill(leader)
    other = (await testnet.wait_leader(other_than=leader)).leader
    assert other is not None
    await save(other, "deposal")
    plan = await command("depose", str(file), yes=True)
    assert f"seat {leader}, weight 1, was deposed as leader of term" in plan["effect"][0]
    assert "it is marked, and keeps its node" in plan["effect"][0]
    (epoch, term) = await certificates_view(testnet, "lastDeposed", leader)
    assert plan["arguments"]["term"] == term and epoch == plan["arguments"]["epoch"]
    again = await command("depose", str(file), exit_status=3)
    assert again["reason"] == "the contract refuses: AlreadyMarked()"
    await testnet.start(leader)

    # An epoch begins that nobody has shown: a leader of it means nothing to the chain before.
    await testnet.set_weight(other, 2)
    weights = {seat: 2 if seat == other else 1 for seat in running}
    await testnet.wait_epoch(epoch + 1, weights)
    await save(other, "epoch", "leader")
    refused = await command("record-leader", str(file), exit_status=3)
    assert "UnknownEpoch" in refused["reason"]
    plan = await command("open-epoch", str(file), yes=True)
    bound = re.match(r"epoch (\d+) is bound to the registry's members", plan["effect"][0])
    assert bound, plan
    opened = int(bound[1])
    assert opened > epoch
    await command("record-leader", *node(other), yes=True)
    _version, weight, _recoveries = await certificates_view(testnet, "snapshot", opened)
    assert weight == 5
