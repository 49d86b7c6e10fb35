"""What an operator is shown when some of his endpoints lie or are silent (a real chain)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from chain import LocalKey, write_deployment
from chain.keys import keccak256
from deploy import operator
from deploy.contract import Founding, deploy_registry
from tests.integration.anvil_chain import KMS, Chain, address
from tests.integration.rpc_proxy import FAULTS, LAG_BLOCKS, Proxy, proxies

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

SECRET = keccak256(b"an operator with three endpoints")
KEY = LocalKey(SECRET)
BAD = (*FAULTS, "false friend")
GRANT = ("grant", "0x" + KEY.address.hex(), 3)
GOOD_PLAN = ("weight", 1, 5)
REFUSED_PLAN = ("weight", 9, 5)
Run = Callable[..., Awaitable[Any]]


@pytest.fixture
async def front(chain: Chain) -> AsyncIterator[list[Proxy]]:
    async with proxies(chain.url, 3) as made:
        yield made


@pytest.fixture
async def run(
    chain: Chain, front: list[Proxy], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> Run:
    """``await run("grant", …)`` by three endpoints of which two must agree; there is a registry."""
    await chain.fund(KEY.address)
    (tmp_path / "key").write_text(SECRET.hex())
    (tmp_path / "key").chmod(0o600)
    deployment = await deploy_registry(chain.sender(KEY), Founding(address(KMS)))
    await write_deployment(tmp_path / "deployment.json", deployment)

    async def command(*words: object, status: int = 0, yes: bool = False) -> Any:
        line = [*words, "--deployment", tmp_path / "deployment.json", "--json"]
        line += ["--key-file", tmp_path / "key", *(["--yes", "--final"] if yes else [])]
        for proxy in front:
            line += ["--rpc", proxy.url]
        capfd.readouterr()
        found = await trio.to_thread.run_sync(operator.main, [str(word) for word in line])
        out, err = capfd.readouterr()
        assert found == status, out + err
        return json.loads(out)

    return command


async def settled(chain: Chain, run: Run) -> None:
    """Seat 1 is there, and no block comes any more: all honest endpoints say the same."""
    await run(*GRANT, yes=True)
    await chain.mine(LAG_BLOCKS)
    chain.mining = False


async def test_one_bad_endpoint_of_three_changes_no_word_of_a_plan(
    chain: Chain, front: list[Proxy], run: Run
) -> None:
    await settled(chain, run)
    good, refused = await run(*GOOD_PLAN), await run(*REFUSED_PLAN, status=3)
    assert good["effect"][0] == "seat 1: weight 3 -> 5" and good["would"] == "work"
    assert refused["reason"] == "the contract refuses: NoSuchSeat()"
    for fault in BAD:
        for proxy in front:
            proxy.fault = ""
        front[0].fault = fault
        assert await run(*GOOD_PLAN) == good, fault
        assert await run(*REFUSED_PLAN, status=3) == refused, fault

    # And it can be sent, beside a friend who says that it is refused.
    chain.mining = True
    assert (await run(*GOOD_PLAN, yes=True))["final"]


async def test_a_plan_is_not_shown_on_one_endpoints_word(
    chain: Chain, front: list[Proxy], run: Run
) -> None:
    """Two of three are bad, which is more than k of n outlasts: no plan rather than a wrong one."""
    await settled(chain, run)
    front[0].fault, front[1].fault = "hanger", "false friend"
    for words in (GOOD_PLAN, REFUSED_PLAN):
        answer = await run(*words, status=1)
        assert answer["error"].startswith("gas estimate:"), answer
    front[1].fault = "hanger"
    assert set(await run(*GOOD_PLAN, status=1)) == {"error"}
    front[0].fault = front[1].fault = "false rows"
    assert set(await run(*GOOD_PLAN, status=1)) == {"error"}
