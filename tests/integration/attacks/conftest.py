"""One chain for all attacks, ours and the flawed contracts on it; each test has it anew."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
import trio

from chain.rpc import RpcEndpoint
from tests.integration.anvil_chain import running_anvil
from tests.integration.attacks.compiling import Compiled
from tests.integration.attacks.founding import flawed_contract, our_contracts
from tests.integration.attacks.target import Target


@pytest.fixture(scope="session")
def compiled(request: pytest.FixtureRequest) -> Compiled:
    return Compiled(request.config.cache.mkdir("attack-contracts"))


@pytest.fixture(scope="session")
def arena(
    tmp_path_factory: pytest.TempPathFactory, compiled: Compiled
) -> Iterator[tuple[str, dict[str, Target]]]:
    """The URL of the chain, and what is founded on it, by kind."""
    with running_anvil(tmp_path_factory.mktemp("arena") / "log", slots_in_epoch=1) as url:
        yield url, trio.run(_found, url, compiled)


async def _found(url: str, compiled: Compiled) -> dict[str, Target]:
    rpc = RpcEndpoint(url, timeout_s=30)
    try:
        await rpc.call("anvil_autoImpersonateAccount", [True])
        kinds = {"ours": await our_contracts(rpc)}
        for kind in ("Membership", "Election"):
            kinds[kind] = await flawed_contract(rpc, compiled, f"Flawed{kind}")
        for target in kinds.values():
            await target.found()
    finally:
        await rpc.aclose()
    return kinds


@pytest.fixture
async def chain_of_attacks(arena: tuple[str, dict[str, Target]]) -> AsyncIterator[RpcEndpoint]:
    """The arena's chain, as it was founded."""
    rpc = RpcEndpoint(arena[0], timeout_s=30)
    snapshot = await rpc.call("evm_snapshot", [])
    try:
        yield rpc
    finally:
        with trio.CancelScope(shield=True):
            assert await rpc.call("evm_revert", [snapshot])
            await rpc.aclose()


def _of_kind(arena: tuple[str, dict[str, Target]], rpc: RpcEndpoint, kind: str) -> Target:
    found = arena[1][kind]
    return replace(found, rpc=rpc, at=dict(found.at), funded=set(found.funded), url=arena[0])


@pytest.fixture(params=["ours", "flawed"])
async def target(
    request: pytest.FixtureRequest,
    arena: tuple[str, dict[str, Target]],
    chain_of_attacks: RpcEndpoint,
) -> Target:
    """Ours, or the rules of the earlier contract."""
    kind = "ours" if request.param == "ours" else "Membership"
    return _of_kind(arena, chain_of_attacks, kind)


@pytest.fixture(params=["ours", "flawed"])
async def election(
    request: pytest.FixtureRequest,
    arena: tuple[str, dict[str, Target]],
    chain_of_attacks: RpcEndpoint,
) -> Target:
    """Ours, or the rules of the contract before that, which elected leaders."""
    kind = "ours" if request.param == "ours" else "Election"
    return _of_kind(arena, chain_of_attacks, kind)


@pytest.fixture
async def ours(arena: tuple[str, dict[str, Target]], chain_of_attacks: RpcEndpoint) -> Target:
    return _of_kind(arena, chain_of_attacks, "ours")
