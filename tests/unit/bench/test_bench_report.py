"""The report: medians, ratios, what is missing, and what must not stay unsaid."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import pytest

from bench.cluster import BenchError
from bench.etcd import read_native
from bench.failover import Failovers
from bench.load import Measured
from bench.report import Phase, Report, Side

MACHINE = {
    "cores": 2,
    "cpu": "X",
    "memory_gib": 4.0,
    "kernel": "Linux 6",
    "python": "3.11",
    "filesystem": "ext4",
    "fdatasync_p50_ms": 0.1,
    "fdatasync_p99_ms": 0.9,
    "load_average_before": 0.0,
    "commit": "abc",
}


def phase(commits: int, latency_s: float, *, changes: int = 0, strays: int = 0) -> Phase:
    measured = Measured(4, 2.0, [latency_s] * commits, commits, 0.2, 0.5, Counter())
    return Phase(measured, changes, strays, True)


def side(name: str, commits: Sequence[int], latency_s: float, kills: Sequence[float]) -> Side:
    made = Side(name, "1")
    made.phases[4] = [phase(count, latency_s) for count in commits]
    made.failovers = Failovers(list(kills), [1] * len(kills), [1] * len(kills), list(kills))
    return made


def report(*sides: Side) -> Report:
    return Report("2026-01-02", MACHINE, {"nodes": 4}, sides)


def test_rows_hold_medians_with_their_range_and_the_ratio_of_the_medians() -> None:
    ours = side("ours", [200, 600, 400], 0.004, [300.0, 100.0, 200.0])
    etcd = side("etcd", [800, 800, 900], 0.002, [1000.0])
    rows = {row[1]: row for row in report(ours, etcd).rows()}
    assert rows["commits/s"] == ("4", "commits/s", "200 (100 to 300)", "400 (400 to 450)", "0.50")
    assert rows["p50 ms"][4] == "2.00"
    assert rows["failover ms"] == (
        "3/1 kills",
        "failover ms",
        "200 (100 to 300)",
        "1000 (1000 to 1000)",
        "0.20",
    )


def test_without_etcd_its_column_and_the_ratio_are_not_available() -> None:
    for row in report(side("ours", [10], 0.1, [5.0])).rows():
        assert row[3:] == ("n/a", "n/a")


def test_a_side_that_could_not_be_killed_has_no_figures_instead_of_wrong_ones() -> None:
    ours = side("ours", [10], 0.1, [])
    ours.failover_error = "no write was acknowledged within 30 s"
    made = report(ours, side("etcd", [10], 0.1, [5.0]))
    row = next(row for row in made.rows() if row[1] == "failover ms")
    assert row[2] == "n/a" and row[4] == "n/a"
    assert any("failover ended early: no write" in remark for remark in made.remarks())


def test_needless_leader_changes_strays_and_noise_are_said() -> None:
    ours = side("ours", [10], 0.1, [])
    ours.phases[4] = [phase(10, 0.1, changes=2, strays=3)]
    text = " ".join(report(ours).remarks())
    assert "leader changes under load 2" in text
    assert "beyond acknowledged writes 3" in text


def test_all_three_forms_can_be_made_and_json_holds_every_round() -> None:
    made = report(side("ours", [10, 20], 0.1, [5.0]), side("etcd", [10, 20], 0.1, [5.0]))
    document = json.loads(json.dumps(made.as_json()))
    assert [len(s["load"]["4"]) for s in document["sides"]] == [2, 2]
    assert document["sides"][0]["load"]["4"][1]["commits_per_s"] == 10.0
    assert all(row[1] in made.as_text() and row[1] in made.as_markdown() for row in made.rows())


def test_what_etcds_own_tool_prints_is_read() -> None:
    text = "Summary:\n  Requests/sec:\t997.5\n\n  50% in 0.0117 secs.\n  99% in 0.0777 secs.\n"
    assert read_native(text) == pytest.approx(
        {"commits_per_s": 997.5, "p50_ms": 11.7, "p99_ms": 77.7}
    )
    with pytest.raises(BenchError, match="p99"):
        read_native(text.replace("99%", "98%"))
