"""As many scenarios as a time allows, other ones each day; and how a failing one is made small.

``SIMULATION_SECONDS`` (5 by default, 60 in CI) bounds each campaign. What fails is printed with the
command that plays it again.
"""

from __future__ import annotations

import datetime
import os
import time
from itertools import count

from tests.simulation import campaign, planted, rounds, shrink
from tests.simulation.scenario import Settings

SECONDS = float(os.environ.get("SIMULATION_SECONDS", "5"))
TODAY = datetime.datetime.now(tz=datetime.UTC).date().toordinal() * 1_000_000
KINDS = (
    ("", Settings()),
    ("--byzantine 1", Settings(byzantine=1)),
    ("--nodes 5 --byzantine 1", Settings(nodes=5, byzantine=1)),
    ("--nodes 7 --byzantine 2", Settings(nodes=7, byzantine=2)),
    ("--nodes 3", Settings(nodes=3)),
    ("--nodes 7 --byzantine 1 --recoveries 2", Settings(nodes=7, byzantine=1, recoveries=2)),
    ("--nodes 5 --byzantine 1 --recoveries 3", Settings(nodes=5, byzantine=1, recoveries=3)),
)


def test_todays_random_scenarios_hold() -> None:
    until = time.monotonic() + SECONDS
    for seed in count(TODAY):
        words, settings = KINDS[seed % len(KINDS)]
        outcome = campaign.run_seed(seed, settings)
        replay = f"python -m tests.simulation {words} --seeds {seed} --shrink"
        assert not outcome.failure, f"{outcome.failure}\n  replay: {replay}"
        if time.monotonic() > until:
            return


def test_todays_twins_hold() -> None:
    until = time.monotonic() + SECONDS
    for seed in count(TODAY):
        trial = rounds.run_seed(seed)
        replay = f"python -m tests.simulation --twins --seeds {seed} --shrink"
        assert not trial.failure, f"{trial.failure}\n  replay: {replay}"
        if time.monotonic() > until:
            return


def test_a_failing_seed_is_made_small() -> None:
    settings = Settings(byzantine=1, faults=("delay", "crash", "crash_all", "partition"))
    found = campaign.first_failure(range(1, 40), settings, planted.VotesForgottenAtRestart)
    assert found is not None
    small = shrink.scenario_of(found.seed, settings, planted.VotesForgottenAtRestart)
    assert small is not None and small.failure and small.trace
    faults = [line for line in small.told if line.startswith("fault ")]
    assert len(faults) <= 2  # a crash is enough, sometimes after another


def test_a_failing_schedule_is_made_small() -> None:
    bug = planted.GateOpensWithTheNextView
    seed = next(s for s in range(1, 100) if rounds.run_seed(s, bug).failure)
    small = shrink.schedule_of(seed, bug)
    assert small is not None and small.failure and small.trace
    assert len(small.told) - 2 <= len(rounds.schedule_of(seed).phases)


def test_what_can_be_left_out_is() -> None:
    assert shrink.least(tuple(range(20)), lambda left: {3, 17} <= set(left)) == (3, 17)
    assert shrink.least((1, 2, 3), lambda left: True) == ()
