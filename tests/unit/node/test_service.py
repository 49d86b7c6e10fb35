"""The node as its API sees it: linearizable reads, request ids, and honest refusals."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.lowlevel

from attest import SecretKey
from chain import ChainError
from chain.eip712 import domain_separator
from consensus import limits
from consensus.commands import (
    Action,
    Command,
    Compare,
    Delete,
    Put,
    Range,
    Relation,
    Target,
    Txn,
)
from consensus.interface import Durations
from consensus.outcomes import Result
from node.config import ChainConfig, Config, InsecureConfig, NodeConfig
from node.facade import BadRequest, Found, NotDone, TxnOutcome, Unavailable, Write
from node.service import NodeService
from node.signing import NodeSigner
from node.urls import signed_url, url_key
from tests.unit.node.small_cluster import QUICK, Cluster, secret, small_cluster

FOUR = {1: 1, 2: 1, 3: 1, 4: 1}


def service_of(cluster: Cluster, seat: int) -> NodeService:
    service = NodeService(config(seat))
    service.driver = cluster.members[seat].driver
    return service


def config(seat: int) -> Config:
    return Config(
        node=NodeConfig(seat=seat, state_dir=Path("/nowhere"), endpoint="/ip4/127.0.0.1/tcp/1"),
        chain=ChainConfig(1, bytes(20), rpc=("http://127.0.0.1:1",), kms_roots=()),
        insecure=InsecureConfig(no_attestation=True),
    )


@asynccontextmanager
async def four_services(
    tmp_path: Path, durations: Durations = QUICK
) -> AsyncIterator[tuple[Cluster, dict[int, NodeService]]]:
    async with small_cluster(tmp_path, FOUR, durations=durations) as cluster:
        yield cluster, {seat: service_of(cluster, seat) for seat in FOUR}


async def test_a_read_on_any_node_sees_every_write_that_ended_before_it(tmp_path: Path) -> None:
    async with four_services(tmp_path) as (_, services):
        for number in range(12):
            value = b"%d" % number
            await services[1 + number % 4].put(b"key", value, None)
            entry = await services[1 + (number + 2) % 4].get(b"key", linearizable=True)
            assert entry is not None and entry.value == value
            assert entry.version == number + 1


async def test_no_member_can_say_under_which_url_another_serves(tmp_path: Path) -> None:
    async with four_services(tmp_path) as (_, services):
        for seat in (1, 2):
            services[seat].identity = SimpleNamespace(secret=SecretKey(secret(seat)))  # type: ignore[assignment]
        await services[1].announce_url("https://one.example")
        own = await services[1].get(url_key(1), linearizable=True)
        assert own is not None
        assert services[1]._own_row()["connection_url"] == "https://one.example"
        # A liar's daemon has committed what it likes.
        cluster_id = domain_separator(1, bytes(20))
        liar = NodeSigner(SecretKey(secret(2)))
        for value in (
            signed_url(liar, cluster_id, 1, "https://liar.example"),
            b"https://liar.example",
            own.value[:65] + b"https://liar.example",
            signed_url(
                NodeSigner(SecretKey(secret(1))), bytes(32), 1, "https://other-cluster.example"
            ),
            own.value[:65] + b"\xff",
            b"",
        ):
            await services[2].kv.put(url_key(1), value)
            await services[1].barrier()
            assert services[1]._own_row()["connection_url"] is None
        await services[2].kv.put(url_key(2), own.value)
        await services[2].barrier()
        assert services[2]._own_row()["connection_url"] is None
        await services[1].announce_url("https://one.example")  # what the SDK does at each start
        assert services[1]._own_row()["connection_url"] == "https://one.example"


def test_a_chain_that_stops_to_finalize_is_an_alarm() -> None:
    service = NodeService(config(1))
    for age_s, alarms in ((None, 0), (600.0, 0), (2000.0, 1)):
        reader = SimpleNamespace(finalized_age_s=lambda age_s=age_s: age_s)
        service.registry = SimpleNamespace(reader=reader, failing_s=lambda: None)  # type: ignore[assignment]
        assert len(service.alarms()) == alarms


def test_a_registry_that_cannot_be_read_while_the_chain_goes_on_is_an_alarm_and_says_why() -> None:
    service = NodeService(config(1))
    for failing_s, alarms in ((None, 0), (20.0, 0), (90.0, 1)):
        service.registry = SimpleNamespace(  # type: ignore[assignment]
            reader=SimpleNamespace(finalized_age_s=lambda: 3.0),
            failing_s=lambda failing_s=failing_s: failing_s,
            last_error=ChainError("nobody gives the text of policy 2"),
        )
        assert len(service.alarms()) == alarms
    assert "for 90 s" in service.alarms()[0] and "the text of policy 2" in service.alarms()[0]
    service.phase = "registering the seat"
    service.keeper = SimpleNamespace(trouble="", membership=None, alarm="")  # type: ignore[assignment]
    assert service._waiting_for() == "registering the seat: nobody gives the text of policy 2"


@pytest.mark.parametrize(
    ("left_s", "begins"),
    [
        (None, "the registry does not show this node on its seat: no funds"),
        (3600, "this node's lease or endpoint cannot be renewed, 3600 s are left: no funds"),
    ],
)
def test_a_lease_that_is_not_renewed_is_told_while_it_still_lasts(
    left_s: int | None, begins: str
) -> None:
    service = NodeService(config(1))
    service.driver = object()  # type: ignore[assignment]
    service.keeper = SimpleNamespace(  # type: ignore[assignment]
        alarm="", trouble="no funds", lease_left_s=lambda: left_s
    )
    assert service.alarms() == [begins]


@pytest.mark.parametrize(
    "action",
    [
        Delete(b"a", b"b" * (limits.KEY_BYTES_MAX + 1)),
        Delete(b"", b"b"),
        Delete(b"a" * 2**16),
        Put(b"a", bytes(limits.VALUE_BYTES_MAX + 1)),
        Txn((), (Put(b"a", b"1"), Put(b"a", b"2"))),
    ],
)
async def test_what_members_could_not_read_is_refused_and_reaches_nobody(
    tmp_path: Path, action: Action
) -> None:
    """A block with it could be read by nobody, and not even by its own maker after a restart."""
    async with four_services(tmp_path) as (_, services):
        leader = services[1].driver.engine.leader(1)  # type: ignore[union-attr]
        with pytest.raises(BadRequest):
            await services[leader].execute(action, None)
        await services[leader].put(b"key", b"value", None)
        assert services[leader].driver.engine.view.term == 1  # type: ignore[union-attr]


async def test_nobody_can_answer_a_members_barriers_in_advance(tmp_path: Path) -> None:
    """A liar writes under the client of one that it saw, as the last request that there can be."""
    async with four_services(tmp_path) as (_, services):
        driver = services[1].driver
        assert driver is not None
        seen: list[Command] = []
        execute = driver.execute

        async def watched(command: Command, timeout_s: float) -> Result:
            seen.append(command)
            return await execute(command, timeout_s)

        driver.execute = watched  # type: ignore[method-assign]
        await services[1].barrier()
        liar = services[2].driver
        assert liar is not None
        lie = Command(seen[0].client, limits.I64_MAX, Put(b"key", b""))
        await liar.execute(lie, 10.0)
        while driver.engine.machine.answer(lie.id) is None:
            await trio.sleep(0.001)
        await services[1].barrier()
        assert driver.engine.machine.answer(seen[1].id) is None, "no answer before it was asked"


async def test_many_reads_share_few_barriers(tmp_path: Path) -> None:
    async with four_services(tmp_path) as (_, services):
        await services[1].put(b"key", b"value", None)
        sent = 0
        barrier = services[2].barrier

        async def counted() -> None:
            nonlocal sent
            sent += 1
            await barrier()

        services[2].barrier = counted  # type: ignore[method-assign]
        found: list[Any] = []

        async def read() -> None:
            found.append(await services[2].get(b"key", linearizable=True))

        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(read)
        assert len(found) == 50 and all(entry.value == b"value" for entry in found)
        assert sent <= 2


async def test_a_cancelled_reader_does_not_take_the_others_with_it(tmp_path: Path) -> None:
    async with four_services(tmp_path) as (_, services):
        await services[1].put(b"key", b"value", None)
        results: list[Any] = []

        async def read(scope: trio.CancelScope) -> None:
            with scope:
                results.append(await services[1].get(b"key", linearizable=True))

        first = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, first)
            await trio.lowlevel.checkpoint()
            for _ in range(5):
                nursery.start_soon(read, trio.CancelScope())
            await trio.lowlevel.checkpoint()
            first.cancel()
        assert len(results) == 5


async def test_a_request_id_makes_a_write_once_and_rules_out_nothing_else(tmp_path: Path) -> None:
    async with four_services(tmp_path) as (_, services):
        first = await services[1].put(b"a", b"1", b"request")
        assert await services[2].put(b"a", b"1", b"request") == first
        assert (await services[3].put(b"a", b"1", b"another")).revision == first.revision + 1
        removed = await services[4].delete(b"a", b"removal")
        assert removed.existed
        assert await services[1].delete(b"a", b"removal") == removed


async def test_another_write_under_a_used_request_id_is_done_and_not_answered_as_done(
    tmp_path: Path,
) -> None:
    async with four_services(tmp_path) as (_, services):
        await services[1].put(b"a", b"1", b"first")
        await services[2].put(b"b", b"1", b"first")
        await services[3].put(b"a", b"2", b"first")
        for key, value in ((b"a", b"2"), (b"b", b"1")):
            entry = await services[4].get(key, True)
            assert entry is not None and entry.value == value


@pytest.mark.parametrize(
    ("key", "value", "request_id"),
    [(b"", b"v", None), (b"k" * 1025, b"v", None), (b"k", b"v" * 65537, None), (b"k", b"v", b"")],
)
async def test_what_is_out_of_bounds_is_refused(
    tmp_path: Path, key: bytes, value: bytes, request_id: bytes | None
) -> None:
    async with four_services(tmp_path) as (_, services):
        with pytest.raises(BadRequest):
            await services[1].put(key, value, request_id)


async def test_without_a_quorum_it_says_why_and_takes_nothing(tmp_path: Path) -> None:
    async with four_services(tmp_path) as (cluster, services):
        await cluster.kill(3)
        await cluster.kill(4)
        await cluster.wait(lambda: services[1].status()["state"] == "waiting")
        with pytest.raises(Unavailable, match="weight 2 of 4 are connected, a quorum is 3"):
            await services[1].put(b"k", b"v", None)
        assert services[1].leader()["leader"] is None
        assert "a quorum is 3" in services[1].ready()[0]


async def test_before_the_core_runs_it_says_what_it_waits_for() -> None:
    service = NodeService(config(1))
    service.phase = "waiting for the guest agent"
    assert service.status()["state"] == "booting"
    assert service.ready() == ["booting: waiting for the guest agent"]
    with pytest.raises(Unavailable, match="guest agent"):
        await service.put(b"k", b"v", None)
    with pytest.raises(Unavailable):
        await service.get(b"k", linearizable=False)
    assert service.members() == [] and service.peers() == []


async def test_a_watch_goes_on_without_a_gap_on_another_node_and_after_a_restart(
    tmp_path: Path,
) -> None:
    async with four_services(tmp_path) as (cluster, services):
        told: list[tuple[int, bytes]] = []

        async def read(service: NodeService, upto: int) -> None:
            after = told[-1][0] if told else 0
            async with aclosing(service.kv.watch(b"k", b"l", after)) as batches:  # type: ignore[type-var]
                async for changes, _ in batches:
                    told.extend((c.revision, c.key) for c in changes)
                    if told and told[-1][0] >= upto:
                        return

        async def write(seat: int, first: int) -> None:
            for number in range(first, first + 5):
                await services[seat].kv.put(b"k%d" % number, b"", None)

        with trio.fail_after(60):
            await write(1, 0)
            await read(services[2], 5)
            await write(1, 5)
            await read(services[3], 10)
            await cluster.kill(3)
            await write(1, 10)
            await cluster.start(3)
            await cluster.wait_active()
            services[3] = service_of(cluster, 3)
            await read(services[3], 15)
            assert await services[3].kv.get(b"k3", True, 2) is None
            assert await services[3].kv.get(b"k3", True, 4) is not None
    assert told == [(number + 1, b"k%d" % number) for number in range(15)]


async def test_leases_and_transactions_run_through_consensus(tmp_path: Path) -> None:
    async with four_services(tmp_path) as (_, services):
        lease = (await services[1].kv.grant(5000)).lease
        free = Compare(b"lock", Target.CREATE, Relation.EQUAL, 0)
        take = Txn((free,), (Put(b"lock", b"mine", lease),), (Range(b"lock"),))
        first = await services[2].kv.txn(take, b"request")
        assert first.succeeded and first.responses == (Write(1, False),)
        second = await services[3].kv.txn(take)
        assert not second.succeeded and second.responses is not None
        (found,) = second.responses
        assert isinstance(found, Found) and found.entries[0][1].lease == lease
        repeated = await services[4].kv.txn(take, b"request")
        assert repeated == TxnOutcome(1, True, None)
        with trio.fail_after(60):  # block time runs by itself: nobody writes
            async with aclosing(services[4].kv.watch(b"lock", b"")) as batches:  # type: ignore[type-var]
                async for changes, _ in batches:
                    if changes:
                        break
        assert changes[0].entry is None
        with pytest.raises(NotDone) as refused:
            await services[1].kv.keep_alive(lease)
        assert refused.value.code == "no_lease"
