"""Faults are given by name, add up, reach the file that the simulators read, and go again."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from deploy.simulator import Faults
from deploy.simulator.faults import FaultFile
from deploy.testnet import cli, faults, layout
from deploy.testnet.layout import TestnetError


@pytest.fixture
def testnet(tmp_path: Path) -> layout.Testnet:
    return layout.create(tmp_path / "t", (1, 1), 30_000)


async def test_faults_add_up_until_none(testnet: layout.Testnet) -> None:
    await faults.give(testnet.directory, 1, "tcb", "Revoked")
    await faults.give(testnet.directory, 2, "debug")
    await faults.give(testnet.directory, 1, "clone-of", "2")
    seed = testnet.node(2).instance_seed
    assert faults.of(testnet, 1) == Faults(tcb_status="Revoked", clone_of=seed)
    assert stat.S_IMODE(testnet.fault_file.stat().st_mode) == 0o600
    simulator = FaultFile(str(testnet.fault_file))
    assert simulator.plan().nodes[str(testnet.socket(2))] == Faults(is_debug=True)
    await faults.stop_pccs(testnet.directory, is_down=True)
    await faults.give(testnet.directory, 1, "none")
    assert faults.of(testnet, 1) == Faults()
    plan = simulator.plan()
    assert plan.pccs_is_down and plan.nodes.keys() == {str(testnet.socket(2))}


@pytest.mark.parametrize("kind", [kind for kind in faults.KINDS if not kind.endswith("-of")])
async def test_every_kind_is_a_fault_and_is_explained(testnet: layout.Testnet, kind: str) -> None:
    found = await faults.give(testnet.directory, 1, kind)
    assert bool(found.to_json()) is (kind != "none")
    assert f"\n  {kind}" in faults.HELP


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("tcb", "Fine"),
        ("measurement", "rtmr3"),
        ("debug", "yes"),
        ("clone-of", None),
        ("quote-of", "x"),
        ("quote-of", "3"),
        ("none", "x"),
    ],
)
async def test_what_makes_no_sense_is_refused_and_changes_nothing(
    testnet: layout.Testnet, kind: str, value: str | None
) -> None:
    with pytest.raises(TestnetError):
        await faults.give(testnet.directory, 1, kind, value)
    with pytest.raises(TestnetError, match="no seat 3"):
        await faults.give(testnet.directory, 3, "debug")
    assert not testnet.fault_file.exists()


async def test_a_damaged_file_is_told(testnet: layout.Testnet) -> None:
    testnet.fault_file.write_text("{")
    with pytest.raises(TestnetError, match=r"faults\.json is damaged"):
        faults.of(testnet, 1)


def test_the_verb_sets_and_shows(
    testnet: layout.Testnet, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["--dir", str(testnet.directory)]
    assert cli.main(["fault", "1", *place]) == 0
    assert capsys.readouterr().out == "seat 1: a sound machine\n"
    assert cli.main(["fault", "1", "tcb", *place]) == 0
    assert cli.main(["fault", "1", *place]) == 0
    assert capsys.readouterr().out == 'seat 1: {"tcb_status": "OutOfDate"}\n' * 2
    assert cli.main(["fault", "1", "tcb", "Nope", *place]) == 1
    with pytest.raises(SystemExit):
        cli.main(["fault", "1", "no-such-kind", *place])
