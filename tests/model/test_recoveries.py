"""Traces with recoveries: the core takes every step, and a core without a rule does not."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from consensus.engine import Engine
from tests.model.ballots import Mismatch
from tests.model.recoveries import RecoveryReplay
from tests.model.traces import QUINT, generate
from tests.simulation import planted_recoveries

SEED, COUNT, STEPS = 20261128, 24, 70
BROKEN = (
    planted_recoveries.RecoversWhereItIs,
    planted_recoveries.ForgetsWhatIsAbove,
    planted_recoveries.GoesOnBeside,
    planted_recoveries.RightKeptInANewEra,
)

pytestmark = pytest.mark.skipif(not QUINT.exists(), reason="make model installs Quint")


@cache
def traces() -> list[Any]:
    return generate("losses", SEED, COUNT, STEPS, "stepOverEras")


def test_the_core_follows_fresh_traces_with_recoveries() -> None:
    for trace in traces():
        RecoveryReplay(trace).run()


@pytest.mark.parametrize("engine", BROKEN, ids=lambda e: e.__name__)
def test_a_core_with_a_rule_of_recoveries_broken_leaves_the_model(engine: type[Engine]) -> None:
    with pytest.raises(Mismatch):
        for trace in traces():
            RecoveryReplay(trace, engine).run()
