"""Bad endpoints in front of a real chain, in every mixture that k honest ones must outlast."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import trio

from chain import (
    EvmRegistry,
    FinalizedReader,
    Membership,
    NoAgreement,
    NodeRegistrar,
    NotProven,
    PolicyText,
    TransactionSender,
    TxState,
)
from chain.abi import ContractAbi, encode
from chain.errors import BadChainData
from chain.keys import keccak256
from chain.rpc import RpcEndpoint
from chain.transactions import contract_address
from chain.watermark import Watermark
from contracts import artifact
from deploy import calls
from deploy.contract import registry_abi
from tests.integration.anvil_chain import (
    APP_ID,
    CHAIN_ID,
    OWNER,
    Chain,
    Cluster,
    bind,
    cluster,
    endpoint,
    identity,
    running_anvil,
    until,
)
from tests.integration.rpc_proxy import FAULTS, LAG_BLOCKS, NAMED, Proxy, proxies

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]
RULES = ContractAbi(artifact("Rules").abi)
DEADLINE_S = 1.0  # of one exchange with an endpoint
# Two rounds of waiting for everybody per question, and a snapshot asks some six questions.
SNAPSHOT_DEADLINE_S = 12 * DEADLINE_S


@pytest.fixture(scope="module")
def anvil_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Finalized is four blocks behind, so that three may be reorganised away."""
    with running_anvil(tmp_path_factory.mktemp("anvil") / "log", slots_in_epoch=2) as url:
        yield url


@pytest.fixture
async def found(chain: Chain) -> Cluster:
    """Two seats, a node on the first."""
    found = await cluster(chain, seats=2)
    await bind(found, 1, "node1")
    await found.registrar.register(
        identity(found.deployment, 1, "node1"), 1, endpoint(1), 1, until=TxState.FINAL
    )
    await chain.mine(LAG_BLOCKS)
    return found


@pytest.fixture
async def front(chain: Chain) -> AsyncIterator[list[Proxy]]:
    async with proxies(chain.url, 5) as made:
        yield made


def open_registry(
    found: Cluster, front: list[Proxy], k: int, *, require_proofs: bool = False
) -> EvmRegistry:
    reader = FinalizedReader(
        [RpcEndpoint(p.url, timeout_s=DEADLINE_S, body_bytes_max=500_000) for p in front],
        k,
        Watermark(
            None,
            chain_id=CHAIN_ID,
            contract=found.deployment.contract,
            code_hash=found.deployment.code_hash,
        ),
        grace_s=0.1,
        lag_s=0.0,
    )
    found.chain.closers.append(reader.aclose)
    return EvmRegistry(
        reader,
        registry_abi(),
        deploy_block=found.deployment.deploy_block,
        poll_interval_s=0.05,
        require_proofs=require_proofs,
    )


async def seen_by(registry: EvmRegistry) -> Membership:
    """A snapshot within the deadlines, without the block it was made at."""
    with trio.fail_after(SNAPSHOT_DEADLINE_S):
        membership = await registry.snapshot()
    return bare(membership)


def bare(membership: Membership) -> Membership:
    return replace(membership, block_number=0, block_hash=b"", block_time_s=0, prev_randao=b"")


def troubles(registry: EvmRegistry) -> list[set[str]]:
    return [set(row["troubles"]) for row in registry.status()["endpoints"]]


@pytest.mark.parametrize("first", FAULTS)
async def test_whatever_is_wrong_with_n_minus_k_endpoints_the_membership_is_right(
    found: Cluster, front: list[Proxy], first: str
) -> None:
    """One bad of four (k = 3), and each pair of bad kinds among five (k = 3)."""
    found.chain.mining = False  # or the honest ones would now and then be a block apart
    right = bare(await found.registry.snapshot())
    assert [m.seat for m in right.members] == [1, 2]
    mixtures = [(4, (first,)), *((5, (first, other)) for other in FAULTS[FAULTS.index(first) :])]
    for n, faults in mixtures:
        for proxy, fault in itertools.zip_longest(front, faults, fillvalue=""):
            assert isinstance(proxy, Proxy)
            proxy.fault = fault
        registry = open_registry(found, front[:n], 3)
        assert await seen_by(registry) == right, faults
        named = troubles(registry)
        for fault, kinds in zip(faults, named, strict=False):
            assert NAMED[fault] in kinds, (fault, kinds)
        # A machine that is busy may make an honest one late, and nothing else.
        assert all(kinds <= {"late"} for kinds in named[len(faults) :]), (faults, named)
        assert registry.status()["trust"] == dict.fromkeys(("state", "members", "policy"), "proven")


async def test_endpoints_that_turn_bad_do_not_hide_a_change(
    found: Cluster, front: list[Proxy]
) -> None:
    registry = open_registry(found, front, 3)
    watcher = registry.watch()
    await anext(watcher)
    for weight, faults in enumerate(itertools.combinations(FAULTS, 2), 10):
        for proxy, fault in zip(front, faults, strict=False):
            proxy.fault = fault
        await found.owner.send(calls.set_weight(1, weight))
        with trio.fail_after(SNAPSHOT_DEADLINE_S):
            async for seen in watcher:
                if seen.membership.members[0].weight == weight:
                    break
    await watcher.aclose()


async def test_two_colluders_of_four_get_no_answer_rather_than_a_wrong_one(
    found: Cluster, front: list[Proxy]
) -> None:
    registry = open_registry(found, front[:4], 3)
    for fault in ("forker", "false rows", "liar"):
        for proxy in front[:2]:
            proxy.fault = fault
        with pytest.raises(NoAgreement):
            await seen_by(registry)
        assert registry.newest is None
    front[1].fault = ""
    assert (await seen_by(registry)).members[0].weight == 1


async def test_even_k_colluders_cannot_invent_a_member_at_an_honest_hash(
    found: Cluster, front: list[Proxy]
) -> None:
    registry = open_registry(found, front[:3], 2)
    for proxy in front[:2]:
        proxy.fault = "false rows"
    with pytest.raises(BadChainData, match="the row of seat 1 is not what the registry's events"):
        await seen_by(registry)
    for proxy in front[:3]:
        proxy.fault = "no proofs"
    front[0].fault = ""
    assert (await seen_by(registry)).members[0].weight == 1
    assert registry.status()["trust"]["state"] == "proven", "one that proves is enough"


async def test_without_proofs_k_answers_must_do_and_status_says_so(
    found: Cluster, front: list[Proxy]
) -> None:
    found.chain.mining = False
    right = bare(await found.registry.snapshot())
    for proxy in front[:4]:
        proxy.fault = "no proofs"
    registry = open_registry(found, front[:4], 3)
    assert await seen_by(registry) == right
    trust = registry.status()["trust"]
    assert trust["state"].startswith("agreed on by 3 of 4: ")
    assert "the method is not available" in trust["state"]
    assert "the method is not available" in registry.status()["endpoints"][0]["proofs"]
    assert all(kinds <= {"late"} for kinds in troubles(registry)), "no proofs are no fault"
    strict = open_registry(found, front[:4], 3, require_proofs=True)
    with pytest.raises(NotProven):
        await seen_by(strict)

    # That an app is not allowed no view of the contract tells: k must give the same words.
    found.chain.mining = True
    await found.owner.send(calls.allow_app(APP_ID, False))
    await found.owner.wait_final()
    right = replace(right, disallowed=(1,))
    assert await seen_by(registry) == right
    front[0].fault = ""
    assert await seen_by(strict) == right


async def test_nobody_is_blamed_for_proving_more_slowly_than_the_quickest(
    found: Cluster, front: list[Proxy]
) -> None:
    registry = open_registry(found, front[:3], 2)
    await seen_by(registry)
    before = [row["troubles"].get("late", 0) for row in registry.status()["endpoints"]]
    front[0].fault = "slow proofs"
    header = await registry.finalized()
    for _ in range(3):
        await registry.reader.prove(registry.contract, [0], header)
    after = [row["troubles"].get("late", 0) for row in registry.status()["endpoints"]]
    assert front[0].asked["eth_getProof"] >= 4 and after[0] == before[0]


async def test_a_block_in_which_nothing_happened_costs_one_proof_of_each_contract(
    found: Cluster, front: list[Proxy]
) -> None:
    registry = open_registry(found, front[:3], 2)
    watcher = registry.watch()
    await anext(watcher)
    for proxy in front[:3]:
        proxy.asked.clear()
    seen = await anext(watcher)
    assert not seen.changed
    for proxy in front[:3]:
        # Of the registry and of the rules beside it.
        assert proxy.asked["eth_getProof"] == 2, proxy.asked
        assert not proxy.asked.keys() & {"eth_call", "eth_getLogs", "eth_getCode"}, proxy.asked

    # A new endpoint moves no version: rows are read again, events are not.
    for proxy in front[:3]:
        proxy.asked.clear()
    node = identity(found.deployment, 1, "node1")
    await found.registrar.announce(node, 1, "/dns4/new.example/tcp/1", 2, until=TxState.INCLUDED)
    async for seen in watcher:
        if seen.changed:
            break
    assert seen.membership.members[0].endpoint == "/dns4/new.example/tcp/1"
    assert sum(p.asked["eth_call"] for p in front[:3]) >= 2
    assert sum(p.asked["eth_getLogs"] for p in front[:3]) == 0
    await watcher.aclose()


async def test_what_an_earlier_run_proved_is_not_asked_for_again_and_an_untrue_memory_harms_nobody(
    found: Cluster, front: list[Proxy]
) -> None:
    known = await found.registry.snapshot()
    one, *rest = known.members
    untrue = replace(known, members=(replace(one, weight=99), *rest))
    older = replace(untrue, version=known.version - 1)
    for memory, asks in ((known, 0), (untrue, 1), (older, 2)):
        registry = open_registry(found, front[:3], 2)
        registry.history.remember(memory)
        for proxy in front:
            proxy.asked.clear()
        assert await seen_by(registry) == bare(known)
        assert sum(proxy.asked["eth_getLogs"] for proxy in front) >= asks
        assert (asks == 0) == (not any(proxy.asked["eth_getLogs"] for proxy in front))
        assert registry.status()["trust"]["members"] == "proven"
        assert not any(row["troubles"].get("lying") for row in registry.status()["endpoints"])


async def test_a_reorganisation_of_three_blocks_during_a_registration_is_mended(
    found: Cluster, front: list[Proxy]
) -> None:
    chain = found.chain
    registry = open_registry(found, front[:3], 2)
    watcher = registry.watch()
    await anext(watcher)
    await bind(found, 2, "node2")
    chain.mining = False
    node = identity(found.deployment, 2, "node2")
    sender = chain.sender(OWNER)
    registrar = NodeRegistrar(found.registry, sender)

    async def included() -> bool:
        return any(row["state"] == "included" for row in sender.status())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(registrar.register, node, 2, endpoint(2), 1)
        await until(included)
        await chain.mine(2)
        # The registration's block and the two on it are gone, and with them the transaction.
        await chain.rpc.call("anvil_reorg", [3, []])
        chain.mining = True
    async for seen in watcher:
        if seen.membership.members[1].node_key == node.node_key:
            break
    assert [row["state"] for row in sender.status()] == ["final"]
    assert registry.status()["alarm"] is None
    await watcher.aclose()


# ---------------------------------------------------------------------- the attestation policy


async def set_policy(found: Cluster, sender: TransactionSender, text: bytes) -> None:
    (rules,) = await found.registry.call("rules")
    data = RULES.function("setPolicy").encode(text.decode())
    intent = f"policy {len(sender.status())}"
    await sender.send(intent, bytes.fromhex(rules[2:]), data, until=TxState.FINAL)


async def test_the_policy_is_proven_and_told_with_every_change(
    found: Cluster, front: list[Proxy]
) -> None:
    registry = open_registry(found, front[:3], 2, require_proofs=True)
    watcher = registry.watch()
    assert (await anext(watcher)).policy is None
    owner = found.chain.sender(OWNER)
    texts = [b"only these measurements", b"and only these from now on"]
    for proxy, fault in zip(front, ("liar", "", ""), strict=False):
        proxy.fault = fault
    for version, text in enumerate(texts, 1):
        await set_policy(found, owner, text)
        with trio.fail_after(SNAPSHOT_DEADLINE_S):
            async for seen in watcher:
                if seen.policy is not None and seen.policy.version == version:
                    break
        assert seen.policy == PolicyText(version, keccak256(text), text) and seen.changed
    assert registry.status()["trust"]["policy"] == "proven"
    assert not (await anext(watcher)).changed

    # Nobody gives the event: then a file or a peer may give the text, and only the right one.
    for proxy in front[:3]:
        proxy.fault = "no policy events"
    registry = open_registry(found, front[:3], 2)
    registry.policies.offer(b"let everybody in")
    with pytest.raises(NoAgreement, match="text of policy 2"):
        await seen_by(registry)
    registry.policies.offer(texts[1])
    await seen_by(registry)
    assert registry.policy == seen.policy

    # Without proofs the hash is agreed on.
    for proxy in front[:3]:
        proxy.fault = "no proofs"
    registry = open_registry(found, front[:3], 2)
    await seen_by(registry)
    assert registry.policy == seen.policy
    assert registry.status()["trust"]["policy"].startswith("agreed on by 2 of 3: ")

    for proxy in front[:3]:
        proxy.fault = ""
    # What could not be read whole is read anew, and not taken for unchanged.
    registry = open_registry(found, front[:3], 2)
    await seen_by(registry)
    for proxy in front[:3]:
        proxy.fault = "no policy events"
    await found.owner.send(calls.set_weight(1, 44))
    await set_policy(found, owner, b"a third")
    with pytest.raises(NoAgreement, match="text of policy 3"):
        await seen_by(registry)
    for proxy in front[:3]:
        proxy.fault = ""
    assert (await seen_by(registry)).members[0].weight == 44

    # Other rules have a policy of their own, and none before their owner sets it.
    compiled, contract = artifact("Rules"), found.deployment.contract
    code = compiled.bytecode + encode(["address"], ["0x" + contract.hex()])
    deployed = await owner.send("rules", b"", code, until=TxState.INCLUDED)
    rules = contract_address(OWNER.address, deployed.nonce)
    name = registry_abi().function("setCompanions")
    await owner.send("name them", contract, name.encode("0x" + rules.hex(), "0x" + bytes(20).hex()))
    with trio.fail_after(SNAPSHOT_DEADLINE_S):
        async for seen in watcher:
            if seen.policy is None:
                break
    await set_policy(found, owner, texts[0])
    with trio.fail_after(SNAPSHOT_DEADLINE_S):
        async for seen in watcher:
            if seen.policy is not None:
                break
    assert seen.policy == PolicyText(1, keccak256(texts[0]), texts[0])
    await watcher.aclose()
