"""The measurement of verdicts runs, on evidence that is really accepted."""

from __future__ import annotations

import json

import pytest

from bench.attestation import main


def test_a_verdict_is_measured_part_by_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--turns", "2", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)["costs"]
    assert set(costs) == {"verdict", "cryptography", "event log", "reading collateral"}
    assert all(0 < cost["least_ms"] <= cost["median_ms"] for cost in costs.values())
