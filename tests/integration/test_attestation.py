"""Members prove their machines to each other (real processes, a real chain, a mock TDX authority).

Issue 5, acceptance 2. Every single fault is tried in tests/unit/node/test_attestation_links.py;
here is what only whole daemons show: the agent's client, the policy on the chain, restarts, clones.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from deploy.testnet import processes
from node.client import ApiClient
from node.config import load_config
from node.facade import NodeError
from tests.integration.testnet import Testnet
from tests.integration.writers import writing

pytestmark = pytest.mark.timeout(300)

BAD = 4
GOOD = (1, 2, 3)


@pytest.fixture
def testnet(shared_testnet: Testnet) -> Testnet:
    """One cluster for all: each test but the last leaves it as it found it."""
    return shared_testnet


async def attestation(testnet: Testnet, seat: int) -> dict[str, Any]:
    async with testnet.client(seat) as client:
        found: dict[str, Any] = (await client.status())["attestation"]
    return found


async def is_active(client: ApiClient) -> bool:
    """Whether the node answers, and votes."""
    try:
        return bool((await client.status())["state"] == "active")
    except NodeError:
        return False


async def test_members_are_attested_under_the_policy_of_the_chain(testnet: Testnet) -> None:
    await testnet.wait_all_linked()
    for seat in testnet.seats:
        status = await attestation(testnet, seat)
        assert status["policy_version"] == 1 and status["held"] == []
        others = {str(other) for other in testnet.seats if other != seat}
        assert {n for n, row in status["members"].items() if row["attested"]} == others
        assert {row["tcb_status"] for row in status["members"].values()} == {"UpToDate"}
    seen = await testnet.survey()
    assert {flag for row in seen.nodes for flag in row.insecure} == {
        "external_tdx_root",
        "simulator",
        "single_rpc",
    }


async def test_another_compose_is_out_and_in_and_out_as_the_chain_says(testnet: Testnet) -> None:
    await testnet.wait_all_linked()
    async with writing(testnet) as writers:
        await testnet.kill(BAD)
        await testnet.fault(BAD, "compose", "a later release")
        await testnet.start(BAD)
        await testnet.wait_refused(BAD, "compose_hash", by=GOOD)
        await writers.wait_more(20)

        # The policy takes it now, so it comes in without being started again.
        await testnet.policy("original", "a later release")
        await testnet.wait_all_linked()
        await writers.wait_more(20)

        # And no longer: all cut it when they see the policy final, and nobody is held.
        await testnet.policy()
        await testnet.wait_refused(BAD, "compose_hash", by=GOOD)
        await writers.wait_more(20)
        assert not any([(await attestation(testnet, seat))["held"] for seat in GOOD])
        assert {row.peers for row in (await testnet.survey()).nodes if row.seat in GOOD} == {2}

        # It goes back to the first release; a change of the policy ends the waits of the refused.
        await testnet.fault(BAD, "none")
        await testnet.policy()
        await testnet.wait_all_linked()


async def test_an_agent_that_lies_or_is_silent_is_found_out_by_its_own_node(
    testnet: Testnet,
) -> None:
    await testnet.wait_all_linked()
    await testnet.kill(BAD)
    await testnet.fault(BAD, "replay")
    await testnet.start(BAD)
    await testnet.wait_for(
        lambda seen: any(
            "other report data" in alarm
            for row in seen.nodes
            if row.seat == BAD
            for alarm in row.alarms
        ),
        "an alarm of the node with the lying agent",
    )
    assert {row.peers for row in (await testnet.survey()).nodes if row.seat in GOOD} == {2}
    # It gives true quotes again, and nothing has to be started.
    await testnet.fault(BAD, "none")
    await testnet.wait_all_linked()


async def test_a_clone_that_boots_later_is_the_member_and_the_older_copy_is_cut(
    testnet: Testnet, tmp_path: Path
) -> None:
    await testnet.wait_all_linked()
    state = testnet.state
    # The host stops the machine, copies its disk, and starts the copy: same key, same instance id.
    await testnet.pause(BAD)
    config = load_config(state.node_config(BAD), env={})
    shutil.copytree(config.node.state_dir, tmp_path / "data")
    port = state.base_port + 90
    clone = replace(
        config,
        node=replace(
            config.node,
            state_dir=tmp_path / "data",
            listen=f"/ip4/127.0.0.1/tcp/{port}",
        ),
        api=replace(config.api, listen=f"127.0.0.1:{port + 1}"),
    )
    (tmp_path / "config.toml").write_text(clone.to_toml())
    record = processes.spawn(
        processes.python("node.cli", "run", "--config", str(tmp_path / "config.toml")),
        log=tmp_path / "log",
        mark=state.mark,
        cwd=tmp_path,
    )
    try:
        # It must vote before the older copy wakes: else what that one signs next makes the clone's
        # disk an old one.
        async with ApiClient(f"http://127.0.0.1:{port + 1}") as client:
            with trio.fail_after(60):
                while not await is_active(client):
                    await trio.sleep(0.1)
        await testnet.resume(BAD)
        older = state.node(BAD).process
        assert older is not None
        assert await processes.wait_gone(older, 60), "the older copy learns of it and ends"
        # Its peers refused it with the proof of the newer boot, which a daemon acts on at once.
        assert "stale_incarnation" in testnet.log(BAD)
        assert "superseded: another copy of seat 4 booted" in testnet.log(BAD)
        # The member in its place is the clone: with seat 3 away, its vote is needed.
        await testnet.pause(3)
        await testnet.put("after", b"the clone votes")
        await testnet.resume(3)
    finally:
        await processes.stop([record], 5.0)
