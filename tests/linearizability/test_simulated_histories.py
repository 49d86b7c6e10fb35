"""What clients of simulated clusters see is linearizable, whatever breaks meanwhile."""

from __future__ import annotations

import pytest

from tests.linearizability.checker import Operation, check
from tests.linearizability.simulated import Recorder
from tests.simulation import adversaries, scenario
from tests.simulation.scenario import Settings
from tests.simulation.world import World


def record(seed: int, settings: Settings, barrier: bool = True) -> list[Operation]:
    """One seed's history of five clients."""
    world = World(scenario.build(seed, settings, tuple(adversaries.GALLERY)))
    recorders = [Recorder(world, number, barrier) for number in range(5)]
    world.run()
    return [operation for recorder in recorders for operation in recorder.close()]


@pytest.mark.parametrize("byzantine", [0, 1])
@pytest.mark.parametrize("seed", range(1, 16))
def test_histories_under_all_faults_are_linearizable(seed: int, byzantine: int) -> None:
    history = record(seed, Settings(clients=1, byzantine=byzantine))
    assert sum(o.answer is not None for o in history) > 5  # faults leave some little time
    assert not check(history)


def test_reads_without_their_barrier_are_found_out() -> None:
    """The check has teeth."""
    assert any(check(record(seed, Settings(clients=1), barrier=False)) for seed in range(1, 31))
