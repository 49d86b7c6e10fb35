"""The chain room against a real chain: deploy, grant, register, launch, and everything refused."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import coincurve
import pytest
import trio
import web3

from attest import PUBLIC_TEST_ROOTS
from chain import (
    CallReverted,
    ChainConfigError,
    ContractAbi,
    Deployment,
    EvmRegistry,
    FinalityAlarm,
    InsufficientFunds,
    LocalKey,
    MemberStatus,
    NotDeployed,
    PinMismatch,
    RollbackRefused,
    RootUnknown,
    SetView,
    Sighting,
    TxState,
    open_reader,
    purpose_text,
)
from chain.follow import Follower
from chain.keys import keccak256
from chain.registration import owner_authorization
from contracts import artifact
from deploy import calls
from deploy.contract import (
    RECOVERY_DELAY_S,
    Founding,
    RegistryOwner,
    deploy_registry,
    registry_abi,
    verify_code,
)
from node.sweeping import Sweeper
from tests.integration.anvil_chain import (
    APP,
    APP_ID,
    CHAIN_ID,
    OWNER,
    Chain,
    Cluster,
    NodeSecret,
    TestIdentity,
    bind,
    cluster,
    endpoint,
    grant,
    identity,
    instance,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


async def test_a_registry_lives_from_deployment_to_launch(chain: Chain, tmp_path: Path) -> None:
    found = await cluster(chain, seats=3)
    assert found.seats == [1, 2, 3]
    assert await found.registry.genesis() is None
    for seat in (1, 2):
        await bind(found, seat, f"node{seat}")
        await found.registrar.register(
            identity(found.deployment, seat, f"node{seat}", scheme=seat % 2), seat,
            endpoint(seat), 1, until=TxState.INCLUDED,
        )  # fmt: skip
    await found.owner.wait_final()
    await found.registrar.announce(
        identity(found.deployment, 1, "node1", scheme=1), 1, "/dns4/one.example/tcp/1", 7
    )

    membership = await found.registry.snapshot()
    assert [m.seat for m in membership.members] == [1, 2, 3]
    assert [m.weight for m in membership.members] == [1, 2, 3]
    one, two, three = membership.members
    assert one.status is two.status is MemberStatus.ACTIVE
    assert three.status is MemberStatus.EMPTY and three.node_key == b"" and three.endpoint == ""
    assert one.node_key == identity(found.deployment, 1, "node1", scheme=1).node_key
    assert one.endpoint == "/dns4/one.example/tcp/1" and one.incarnation == 7 and one.scheme == 1
    assert two.endpoint == endpoint(2) and two.scheme == 0
    assert one.owner == OWNER.address and one.instance_id == instance("node1")
    assert one.lease_expires_s > membership.block_time_s
    assert one == await found.registry.member(1)

    await found.launch()
    await found.owner.wait_final()
    genesis = await found.registry.genesis()
    assert genesis is not None
    assert [(m.seat, m.weight, m.node_key) for m in genesis.members] == [
        (m.seat, m.weight, m.node_key) for m in (one, two)
    ]

    # Later changes leave the founding set as it was, for a node that comes much later.
    await found.owner.send(calls.set_weight(2, 9))
    await found.owner.send(calls.deactivate(1))
    await found.owner.wait_final()
    late = chain.registry(found.deployment, tmp_path / "mark.json")
    assert await late.genesis() == genesis
    changed = await late.snapshot()
    assert changed.version == genesis.version + 2 and changed.digest != genesis.digest
    assert [m.status for m in changed.members[:2]] == [MemberStatus.INACTIVE, MemberStatus.ACTIVE]
    await verify_code(late)


async def test_web3_reads_the_same_registry(chain: Chain) -> None:
    """An independent client sees what ours sees, and derives the same purpose and domain."""
    from chain.eip712 import domain_separator

    found = await cluster(chain, seats=2)
    await found.owner.wait_final()
    ours = await found.registry.snapshot()

    def ask() -> tuple[Any, ...]:
        client = web3.Web3(web3.HTTPProvider(chain.url))
        contract = client.eth.contract(
            address=client.to_checksum_address(found.deployment.contract),
            abi=list(artifact("Registry").abi),
        )
        at = {"block_identifier": ours.block_number}
        return (
            contract.functions.version().call(**at),
            contract.functions.digest().call(**at),
            contract.functions.domainSeparator().call(**at),
            contract.functions.purposeOf(2, instance("x")).call(**at),
            client.eth.get_block(ours.block_number),
        )

    version, digest, domain, purpose, block = await trio.to_thread.run_sync(ask)
    assert (version, digest) == (ours.version, ours.digest)
    assert domain == domain_separator(CHAIN_ID, found.deployment.contract)
    assert purpose == purpose_text(CHAIN_ID, found.deployment.contract, 2, instance("x"))
    assert bytes(block["hash"]) == ours.block_hash
    assert bytes(block["mixHash"]) == ours.prev_randao and block["timestamp"] == ours.block_time_s


async def test_a_watcher_hears_of_a_change_once_it_is_final(chain: Chain) -> None:
    found = await cluster(chain, seats=1)
    await found.owner.wait_final()
    watcher = found.registry.watch()
    first = (await anext(watcher)).membership
    assert [m.weight for m in first.members] == [1]
    await found.owner.send(calls.set_weight(1, 5))
    second = await changed(watcher)
    assert [m.weight for m in second.membership.members] == [5]
    assert second.membership.block_number > first.block_number
    assert second.views == (), "nobody sits on the seat"
    assert found.registry.status()["endpoints"][0]["ok"] is True
    await watcher.aclose()


async def changed(watcher: AsyncIterator[Sighting]) -> Sighting:
    """The next sighting that is more than a new block."""
    async for seen in watcher:
        if seen.changed:
            return seen
    raise AssertionError("the watcher ended")


async def register(
    found: Cluster,
    seat: int,
    name: str,
    incarnation: int = 1,
    until: TxState = TxState.INCLUDED,
) -> TestIdentity:
    await bind(found, seat, name)
    node = identity(found.deployment, seat, name)
    await found.registrar.register(node, seat, endpoint(seat), incarnation, until=until)
    return node


async def test_every_node_sees_the_same_sets_however_often_it_looks(chain: Chain) -> None:
    found = await cluster(chain, seats=2)
    await found.owner.wait_final()
    often, seldom = (chain.registry(found.deployment) for _ in range(2))
    views: list[SetView] = []

    async def follow(registry: EvmRegistry, until_version: int) -> list[SetView]:
        told = []
        async for seen in registry.watch():
            told += seen.views
            if seen.membership.version >= until_version:
                return told
        return told

    lazy = Follower(seldom)
    await lazy.look()

    async def keep() -> None:
        views.extend(await follow(often, 9))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep)
        one = await register(found, 1, "node1")
        await grant(found.owner, LocalKey(keccak256(b"w3")).address, 3)
        two = await register(found, 2, "node2")
        await found.owner.send(calls.set_weight(2, 7))
        await register(found, 1, "node1", incarnation=2)  # the same key: no change of the set
        other = await register(found, 1, "a new machine", incarnation=3)
        await found.owner.send(calls.deactivate(2))
    seen = await lazy.look()
    assert list(seen.views) == views
    assert [[(v.seat, v.weight, v.node_key) for v in view.voters] for view in views] == [
        [(1, 1, one.node_key)],
        [(1, 1, one.node_key), (2, 2, two.node_key)],
        [(1, 1, one.node_key), (2, 7, two.node_key)],
        [(1, 1, other.node_key), (2, 7, two.node_key)],
        [(1, 1, other.node_key)],
    ]
    (newest,) = (await Follower(chain.registry(found.deployment)).look()).views
    assert newest == views[-1]


async def test_nodes_of_a_revoked_root_lose_their_say_before_anybody_sweeps(chain: Chain) -> None:
    found = await cluster(chain, seats=1)
    node = await register(found, 1, "node1", until=TxState.FINAL)
    watcher = found.registry.watch()
    before = (await anext(watcher)).membership
    assert before.speaks(1, node.node_key)
    await found.owner.send(calls.revoke_root(1))
    after = await changed(watcher)
    assert after.membership.version == before.version and after.views == ()
    assert not after.membership.speaks(1, node.node_key)
    await watcher.aclose()


async def test_nodes_of_a_disallowed_app_lose_their_say_before_anybody_sweeps(
    chain: Chain,
) -> None:
    found = await cluster(chain, seats=3)
    other_app = APP_ID[::-1]
    await found.owner.send(calls.allow_app(other_app))
    other_key = coincurve.PrivateKey(keccak256(b"another app's key"))
    for seat, app_id, key in ((1, other_app, other_key), (2, APP_ID, APP), (3, APP_ID, APP)):
        await bind(found, seat, f"node{seat}")
        node = identity(found.deployment, seat, f"node{seat}", app=key, app_id=app_id)
        await found.registrar.register(node, seat, endpoint(seat), 1, until=TxState.FINAL)
    watcher = found.registry.watch()
    before = (await anext(watcher)).membership
    assert before.disallowed == () and before.mute() == ()

    await found.owner.send(calls.allow_app(other_app, False))
    after = await changed(watcher)
    assert after.membership.version == before.version and after.views == ()
    assert [m.seat for m in after.membership.mute()] == [1]
    assert found.registry.status()["trust"]["state"] == "proven"

    # The owner changes his mind: nobody had swept, so nobody must register again.
    await found.owner.send(calls.allow_app(other_app))
    assert (await changed(watcher)).membership.mute() == ()

    # Then he means it: whoever's turn it is has it taken out, after a while.
    await found.owner.send(calls.allow_app(other_app, False))
    assert [m.seat for m in (await changed(watcher)).membership.mute()] == [1]
    sweeper = Sweeper(
        found.registrar.sweep, found.registrar.is_paused, lambda: found.registry.newest,
        lambda: 0, seat=2, grace_s=1, poll_s=0.05,
    )  # fmt: skip
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sweeper.run)
        with trio.fail_after(20):
            while not sweeper.status():
                await trio.sleep(0.01)
        assert sweeper.status()[0]["seat"] == 1 and found.registry.newest is not None
        assert [m.seat for m in found.registry.newest.mute()] == [1]
        swept = (await changed(watcher)).membership
        nursery.cancel_scope.cancel()
    assert [m.seat for m in swept.active()] == [2, 3] and swept.mute() == ()
    await watcher.aclose()


async def test_a_recovery_is_voted_announced_and_opened(chain: Chain) -> None:
    found = await cluster(chain, seats=2)
    for seat in (1, 2):
        await register(found, seat, f"node{seat}")
    await found.launch()
    # Seat 2 alone has the majority: weights are 1 and 2.
    voter = RegistryOwner(chain.sender(LocalKey(keccak256(b"w2"))), found.deployment.contract)
    await found.owner.send(calls.deactivate(1))
    with pytest.raises(CallReverted, match=r"NoMajority\(0, 3\)"):
        await voter.send(calls.recover(1, 77, b"h" * 32, [2]))
    await voter.send(calls.vote_recovery(2, 1, 77, b"h" * 32))
    await voter.send(calls.recover(1, 77, b"h" * 32, [2]))
    await voter.wait_final()
    watcher = found.registry.watch()
    seen = await anext(watcher)
    pending = seen.membership.pending_recovery
    assert pending is not None and seen.recoveries == ()
    assert (pending.epoch, pending.height, pending.block_hash) == (1, 77, b"h" * 32)
    with pytest.raises(CallReverted, match="TooEarly"):
        await voter.send(calls.recover(1, 77, b"h" * 32, [2]))
    await chain.rpc.call("evm_increaseTime", [RECOVERY_DELAY_S])
    await voter.send(calls.recover(1, 77, b"h" * 32, [2]))
    (vote,) = (await changed(watcher)).recoveries
    assert (vote.epoch, vote.height, vote.block_hash) == (1, 77, b"h" * 32)
    assert [v.seat for v in vote.view.voters] == [2]
    await watcher.aclose()

    # Its set stands, whatever comes later and whoever asks then.
    await register(found, 1, "node1", incarnation=9, until=TxState.FINAL)
    (again,) = (await Follower(chain.registry(found.deployment)).look()).recoveries
    assert again == vote


async def test_many_seats_come_in_pages(chain: Chain) -> None:
    deployment = await chain.deploy()
    abi = registry_abi()
    # Granted by impersonation in one block: this is about reading.
    await chain.rpc.call("evm_setAutomine", [False])
    chain.mining = False
    for number in range(1, 206):
        data = abi.function("grantSeat").encode("0x" + keccak256(b"%d" % number)[12:].hex(), 1)
        await chain.rpc.call(
            "eth_sendTransaction",
            [{"from": "0x" + OWNER.address.hex(), "to": "0x" + deployment.contract.hex(),
              "data": "0x" + data.hex(), "gas": hex(400_000)}],
        )  # fmt: skip
        if number % 50 == 0:
            await chain.mine()
    chain.mining = True
    await chain.mine(4)
    await chain.rpc.call("evm_setAutomine", [True])
    registry = chain.registry(deployment)
    membership = await registry.snapshot()
    assert [m.seat for m in membership.members] == list(range(1, 206))
    assert set(registry.status()["trust"].values()) == {"proven"}


async def test_an_owner_signature_stands_for_a_binding(chain: Chain) -> None:
    found = await cluster(chain, seats=2)
    wallet = LocalKey(keccak256(b"w2"))
    header = await found.registry.finalized()
    node = identity(found.deployment, 2, "node2")
    with pytest.raises(CallReverted) as refused:
        await found.registrar.register(node, 2, endpoint(2), 1)
    assert refused.value.name == "NotAuthorized"
    allowed = owner_authorization(
        wallet, chain_id=CHAIN_ID, contract=found.deployment.contract, seat=2,
        instance_id=instance("node2"), deadline_s=header.time_s + 3600,
    )  # fmt: skip
    outcome = await found.registrar.register(node, 2, endpoint(2), 1, owner_signature=allowed)
    assert outcome.state is TxState.FINAL


# ---------------------------------------------------------------------- what is refused


async def test_chains_that_belong_elsewhere_are_refused_with_the_reason(chain: Chain) -> None:
    found = await cluster(chain, seats=2)
    here = found.deployment
    for seat in (1, 2):
        await bind(found, seat, "node")
    good = identity(here, 1, "node")

    async def refusal(node: TestIdentity, seat: int = 1, incarnation: int = 1) -> str:
        with pytest.raises(CallReverted) as refused:
            await found.registrar.register(node, seat, endpoint(seat), incarnation)
        return refused.value.name

    # Another KMS root: its key was never granted an epoch here.
    other_root = coincurve.PrivateKey(keccak256(b"another root"))
    with pytest.raises(RootUnknown, match="trusts no such root"):
        await found.registrar.register(
            identity(here, 1, "node", app=other_root, kms=other_root), 1, endpoint(1), 1
        )
    # Another app of the same root: certified for its own app id, which is not allowed here.
    stranger = coincurve.PrivateKey(keccak256(b"another app"))
    assert await refusal(
        identity(here, 1, "node", app=stranger, app_id=bytes.fromhex("bb" * 20))
    ) == "AppNotAllowed"  # fmt: skip
    # A chain made for seat 2, used on seat 1.
    assert await refusal(replace(identity(here, 2, "node"))) == "BadAppKey"
    # The same for another contract, and another chain.
    assert await refusal(identity(replace(here, contract=bytes(19) + b"\1"), 1, "node")) == (
        "BadAppKey"
    )
    assert await refusal(identity(replace(here, chain_id=1), 1, "node")) == "BadAppKey"
    # A copied chain without the node's key: possession fails.
    thief = NodeSecret(coincurve.PrivateKey(keccak256(b"thief")))
    assert await refusal(replace(good, secret=thief)) == "BadSignature"
    # The claim of the other API version.
    assert await refusal(replace(good, scheme=1)) == "BadAppKey"
    assert await refusal(replace(good, scheme=2)) == "BadScheme"
    # The real one passes, once; an old incarnation and a second seat for the same key do not.
    await found.registrar.register(good, 1, endpoint(1), 3)
    assert await refusal(good, incarnation=3) == "BadIncarnation"
    assert await refusal(identity(here, 2, "node"), seat=2) == "InstanceInUse"
    with pytest.raises(CallReverted, match=r"BadIncarnation\(3\)"):
        await found.registrar.announce(good, 1, endpoint(1), 3)
    with pytest.raises(CallReverted) as refused:
        await found.registrar.announce(replace(good, secret=thief), 1, endpoint(1), 4)
    assert refused.value.name == "BadSignature"


async def test_E25_public_test_roots_are_refused_for_deployment(chain: Chain) -> None:
    sender = chain.sender(OWNER)
    for root in PUBLIC_TEST_ROOTS:
        with pytest.raises(ChainConfigError, match="public"):
            await deploy_registry(sender, Founding(root))
    with pytest.raises(ChainConfigError, match="kms_root"):
        await deploy_registry(sender, Founding(bytes(20)))
    deployment = await deploy_registry(sender, Founding(root, insecure_simulator=True))
    assert deployment.insecure == ("simulator",) and deployment.kms_roots == (root,)


async def test_a_stranger_cannot_grant_and_pays_nothing_for_trying(chain: Chain) -> None:
    deployment = await chain.deploy()
    stranger = chain.sender(await chain.funded_key("stranger"))
    before = await stranger.balance()
    with pytest.raises(CallReverted, match="NotMinter"):
        await grant(RegistryOwner(stranger, deployment.contract), stranger.address, 1)
    assert await stranger.balance() == before
    assert stranger.status() == []


async def test_an_empty_wallet_is_named_with_its_balance(chain: Chain) -> None:
    key = LocalKey(keccak256(b"a poor wallet"))
    sender = chain.sender(key)
    with pytest.raises(InsufficientFunds) as refused:
        await sender.send("pay", OWNER.address, b"", value=10**18)
    assert f"0x{key.address.hex()}" in str(refused.value)
    assert str(keccak256(b"a poor wallet").hex()) not in str(refused.value)


async def test_a_contract_with_other_code_is_refused(chain: Chain, tmp_path: Path) -> None:
    deployment = await chain.deploy()
    with pytest.raises(PinMismatch):
        await chain.registry(replace(deployment, code_hash=bytes(32 * [7]))).snapshot()
    # Without a configured hash the first one seen is pinned on disk.
    path = tmp_path / "mark.json"
    running = chain.registry(replace(deployment, code_hash=b""), path)
    await running.snapshot()
    code = "0x6001600155"
    await chain.rpc.call("anvil_setCode", ["0x" + deployment.contract.hex(), code])
    await chain.mine(3)
    with pytest.raises(PinMismatch):
        await chain.registry(replace(deployment, code_hash=b""), path).snapshot()
    # One that runs notices by the proof of the next block.
    with pytest.raises(PinMismatch, match="has code of hash"):
        await running.snapshot()


async def test_an_address_without_code_is_not_deployed(chain: Chain) -> None:
    nowhere = Deployment(CHAIN_ID, bytes(19) + b"\x99", 0, b"", ())
    with pytest.raises(NotDeployed):
        await chain.registry(nowhere).snapshot()


# ---------------------------------------------------------------------- finality


async def test_a_finalized_block_that_changes_is_an_alarm_that_stays(
    chain: Chain, tmp_path: Path
) -> None:
    found = await cluster(chain, seats=1)
    path = tmp_path / "mark.json"
    registry = chain.registry(found.deployment, path)
    watcher = registry.watch()
    await anext(watcher)
    chain.mining = False
    marked = await registry.snapshot()
    await chain.rpc.call("anvil_reorg", [8, []])
    await chain.mine(3)
    with pytest.raises(FinalityAlarm, match=str(marked.block_number)):
        await registry.snapshot()
    with pytest.raises(FinalityAlarm):
        await anext(watcher)
    assert "was 0x" in registry.status()["alarm"]
    with pytest.raises(FinalityAlarm):
        await registry.genesis()
    # A restart does not forget.
    with pytest.raises(FinalityAlarm):
        await chain.registry(found.deployment, path).snapshot()


async def test_a_chain_that_went_back_is_not_followed(chain: Chain, tmp_path: Path) -> None:
    found = await cluster(chain, seats=1)
    path = tmp_path / "mark.json"
    await chain.registry(found.deployment, path).snapshot()
    chain.mining = False
    await chain.rpc.call("anvil_rollback", [5])
    with pytest.raises((RollbackRefused, FinalityAlarm)):
        await chain.registry(found.deployment, path).snapshot()


async def test_the_abi_of_the_artifact_matches_the_solidity_errors() -> None:
    abi = ContractAbi(artifact("Registry").abi)
    data = keccak256(b"BadIncarnation(uint48)")[:4] + (7).to_bytes(32, "big")
    assert abi.reverted(data).text == "BadIncarnation(7)"
    assert open_reader(
        ["http://127.0.0.1:1"], 1, chain_id=1, contract=bytes(20), single_rpc_insecure=True
    ).endpoint_status()[0]["ok"]
