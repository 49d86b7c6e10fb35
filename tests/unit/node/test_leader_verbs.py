"""The operator and the leader: hand over, complain, and see who says what."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from memory_node import MemoryNode

from consensus.types import Evidence, View, Vote, VoteKind
from node.cli import main
from node.daemon import durations
from node.facade import NotDone
from tests.unit.node.small_cluster import STEADY
from tests.unit.node.test_api_routes import error_of, http  # noqa: F401 - a fixture
from tests.unit.node.test_cli import daemon  # noqa: F401 - a fixture
from tests.unit.node.test_service import config, four_services


async def test_the_leader_hands_over_and_nobody_else_does(tmp_path: Path) -> None:
    async with four_services(tmp_path, STEADY) as (_, services):
        leader = services[1].leader()["leader"]
        other = next(seat for seat in services if seat != leader)
        with pytest.raises(NotDone, match=f"seat {leader} leads"):
            await services[other].step_down()
        after = await services[leader].step_down()
        assert after["leader"] != leader and not after["self"]


async def test_complaints_of_more_than_a_third_depose_the_leader_and_one_does_not(
    tmp_path: Path,
) -> None:
    async with four_services(tmp_path, STEADY) as (cluster, services):
        leader = services[1].leader()["leader"]
        one, two, _ = (seat for seat in services if seat != leader)
        with pytest.raises(NotDone, match="step down"):
            await services[leader].complain()
        assert (await services[one].complain())["leader"] == leader
        assert services[one].status()["complaints"] == {str(one): "operator"}
        await services[two].put(b"key", b"value", None)
        assert services[two].leader()["leader"] == leader
        await services[two].complain()
        await cluster.wait(lambda: services[one].leader()["leader"] != leader)


async def test_the_status_shows_what_members_answered_to_challenges(tmp_path: Path) -> None:
    async with four_services(tmp_path) as (cluster, services):
        await cluster.wait(
            lambda: all("rtt_ms" in row for row in services[1].status()["probes"].values())
        )
        probes = services[1].status()["probes"]
        assert set(probes) == {"2", "3", "4"}
        assert all(row["missed"] == 0 and row["lag"] < 50 for row in probes.values())
        assert services[1].status()["patience"] == 0


async def test_evidence_is_shown_with_both_votes(tmp_path: Path) -> None:
    async with four_services(tmp_path) as (cluster, services):
        view = View(1, 3)
        votes = [Vote(VoteKind.FINALIZE, 0, view, 2, bytes([n]) * 32, 0, bytes(65)) for n in (1, 2)]
        cluster.members[1].driver.engine.evidence.add(Evidence(*votes))
        (row,) = services[1].evidence()
        assert (row["seat"], row["epoch"], row["convicted"]) == (2, 0, False)
        assert [v["block"][:2] for v in row["votes"]] == ["01", "02"]
        assert row["votes"][0]["kind"] == "finalize" and row["votes"][0]["view"] == "1.3"


async def test_the_routes_of_the_operator(http: httpx.AsyncClient) -> None:  # noqa: F811
    headers = {"content-type": "application/json"}
    response = await http.post("/v1/leader/step-down", content=b"{}", headers=headers)
    assert response.status_code == 200 and response.json()["leader"] == 2
    response = await http.post("/v1/leader/complain", headers=headers)
    assert error_of(response, 409) == "leading"
    assert error_of(await http.post("/v1/leader/step-down"), 415) == "wrong_type"
    wrong = await http.post("/v1/leader/complain", content=b'{"seat": 3}', headers=headers)
    assert error_of(wrong, 400) == "bad_request"
    assert (await http.get("/v1/evidence")).json()["evidence"][0]["seat"] == 2


def test_the_command_line_of_the_operator(
    daemon: tuple[str, MemoryNode],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    at = ["--api", daemon[0]]
    assert main(["leader", *at]) == 0
    assert "1.4" in capsys.readouterr().out
    assert main(["leader", "step-down", *at, "--json"]) == 0
    assert '"leader": 2' in capsys.readouterr().out
    assert main(["leader", "complain", *at]) == 1
    assert "leading: this node leads itself" in capsys.readouterr().err
    assert main(["evidence", *at]) == 0
    shown = capsys.readouterr().out
    assert "finalize 1.3 abababab" in shown and "nullify 1.2 reason 3" in shown
    assert max(len(line) for line in shown.splitlines()) < 100
    assert main(["evidence", *at, "--json"]) == 0
    assert "cd" * 65 in capsys.readouterr().out
    assert main(["certificates", *at]) == 0
    assert len(capsys.readouterr().out) < 1000


def test_the_timers_of_the_core_are_those_of_the_configuration() -> None:
    d = durations(config(1).timing)
    assert (d.leader_ms, d.heartbeat_ms, d.stall_ms) == (2000, 300, 2500)
    assert d.gather_ms == 50
    assert (d.probe_ms, d.censor_ms, d.slow_ms) == (1000, 2000, 1500)
    assert (d.behind_chain_ms, d.patience_ms) == (60_000, 60_000)
