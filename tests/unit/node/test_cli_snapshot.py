"""``dstack-cluster snapshot`` on files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chain import eip712
from node import snapshots
from node.cli import main
from tests.unit.node.small_cluster import CLUSTER
from tests.unit.node.test_snapshots import AT, snapshot_file

CHAIN = ["--chain-id", "31337", "--contract", "0x" + "11" * 20]


@pytest.fixture(autouse=True)
def cluster_of_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eip712, "domain_separator", lambda *_: CLUSTER)


def _run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    status = main(["snapshot", *words, "--json"])
    out = capsys.readouterr().out
    return status, json.loads(out) if out else None


def test_snapshots_are_listed_saved_and_verified(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = snapshot_file(tmp_path / snapshots.DIRECTORY)
    status, listed = _run(capsys, "list", "--state-dir", str(tmp_path))
    assert status == 0
    assert [(row["height"], row["file"]) for row in listed["snapshots"]] == [(AT, str(path))]
    copy = str(tmp_path / "kept")
    status, saved = _run(capsys, "save", "--state-dir", str(tmp_path), copy, *CHAIN)
    assert status == 0 and saved["height"] == AT and saved["keys"] == AT
    status, verified = _run(capsys, "verify", copy, *CHAIN)
    assert (status, verified) == (0, saved)
    assert set(verified["signed_by"]) == {"1", "2", "3"}
    assert main(["snapshot", "save", "--state-dir", str(tmp_path), copy, *CHAIN]) == 1


def test_a_changed_snapshot_and_one_of_another_cluster_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = snapshot_file(tmp_path)
    monkeypatch.setattr(eip712, "domain_separator", lambda *_: bytes(32))
    assert main(["snapshot", "verify", str(path), *CHAIN]) == 1
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert main(["snapshot", "verify", str(path), *CHAIN]) == 1
    assert main(["snapshot", "verify", str(tmp_path / "none"), *CHAIN]) == 1
    assert main(["snapshot", "save", "--state-dir", str(tmp_path), "x", *CHAIN]) == 1
    assert main(["snapshot", "list", "--state-dir", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().out == ""
