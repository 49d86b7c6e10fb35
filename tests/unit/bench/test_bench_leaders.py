"""What is printed comes from runs in which the leader really was replaced."""

from __future__ import annotations

import json

import pytest

from bench import leaders


def test_each_kind_of_bad_leader_has_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert leaders.main(["--seeds", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in report["replaced"]} == set(leaders.KINDS)
    assert all(0 < row["median_ms"] < leaders.LIMIT_MS for row in report["replaced"])
    assert {row["kind"] for row in report["longest_wait"]} == set(leaders.SERVING)
    assert all(0 < row["median_ms"] < leaders.SERVING_MS for row in report["longest_wait"])
