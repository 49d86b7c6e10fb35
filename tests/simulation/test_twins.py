"""Twins: the space of schedules, and a modest part of it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest

from consensus.engine import Engine
from tests.simulation import planted, rounds, sweep, twins
from tests.simulation.rewind import Rewind
from tests.simulation.twins import Space


def test_each_scenario_is_there_once_up_to_the_exchange_of_a_twins_halves() -> None:
    space = Space(nodes=2, twins=1, length=2)
    orbits = {
        (places, frozenset(tuple(p.exchanged(image) for p in two) for image in group))
        for places in space.places
        for group in [space._exchanges(places)]
        for two in product(twins.phases(3), repeat=2)
    }
    found = {space.unrank(number) for number in range(space.size)}
    assert len(found) == space.size == len(orbits)


def test_different_seeds_have_different_scenarios() -> None:
    space = Space(nodes=2, twins=1, length=1)
    assert len({space.sample(seed) for seed in range(space.size)}) == space.size


def test_a_doubled_seat_neither_splits_nor_stops_the_cluster() -> None:
    tally = sweep.run(1, 300)
    assert not tally.failures
    assert tally.forks > 0, "no fork above a third: the schedules are too tame"


def test_a_fork_that_only_the_twins_see_is_a_fork() -> None:
    trial = rounds.run_seed(739948010804)  # they stop, and the others are too few to go on
    assert not trial.failure
    assert trial.forked


def test_the_digest_depends_on_nothing_but_the_seeds(tmp_path: Path) -> None:
    results = tmp_path / "results"
    whole = sweep.run(1, 40)
    assert sweep.run(1, 40, jobs=2, chunk=7).digest == whole.digest
    assert sweep.run(1, 40, chunk=10, results=results).digest == whole.digest
    lines = results.read_text().splitlines(keepends=True)
    results.write_text("".join(lines[:2]) + lines[2][:20])  # killed in the middle of a line
    resumed = sweep.run(1, 40, chunk=10, results=results)
    assert (resumed.digest, resumed.scenarios) == (whole.digest, 40)
    assert len(results.read_text().splitlines()) == 4
    assert "| seeds | 1..40 |\n| scenarios | 40 |" in sweep.report(results)
    assert f"| digest | {whole.digest} |" in sweep.report(results)


def test_a_results_file_of_other_sources_is_refused(tmp_path: Path) -> None:
    results = tmp_path / "results"
    sweep.run(1, 4, results=results)
    results.write_text(results.read_text().replace(sweep.code(), "0" * 16))
    with pytest.raises(sweep.ResultsError, match="other sources"):
        sweep.run(1, 4, results=results)
    with pytest.raises(sweep.ResultsError, match="other sources"):
        sweep.report(results)


def test_a_rewound_cluster_is_as_it_was() -> None:
    """A scenario leaves nothing behind for the next one with the same twins."""
    first = rounds.run_seed(1)
    for seed in range(2, 30):
        rounds.run_seed(seed)
    assert rounds.run_seed(1) == first
    rounds._BOOTED.clear()
    assert rounds.run_seed(1) == first


def test_what_cannot_be_rewound_is_refused() -> None:
    with pytest.raises(TypeError, match="how to rewind"):
        Rewind(lambda: [iter((1, 2))])


@pytest.mark.parametrize(
    ("bug", "scenarios"),
    [
        (planted.GateRemoved, 20),
        (planted.GateOpensWithTheNextView, 40),
        (planted.NotarizesTwice, 40),
    ],
)
def test_a_planted_bug_is_found(bug: type[Engine], scenarios: int) -> None:
    found = any(rounds.run_seed(seed, bug).failure for seed in range(1, scenarios + 1))
    assert found, f"{bug.__doc__} was not noticed in {scenarios} scenarios"
