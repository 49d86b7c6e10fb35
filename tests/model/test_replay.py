"""The core takes every step that the model took, and a core without a rule does not."""

from __future__ import annotations

from typing import Any

import pytest

from consensus.engine import Engine
from tests.model.ballots import Mismatch
from tests.model.replay import Replay
from tests.model.traces import QUINT, SEARCHES, generate, load
from tests.simulation import planted

TRACES = load()
FRESH_SEED = 20261122  # fixed: a failure is everybody's
BROKEN = (
    planted.GateRemoved,
    planted.GateOpensWithTheNextView,
    planted.GateForgottenAtRestart,
    planted.VotesForgottenAtRestart,
    planted.ViewForgottenAtRestart,
    planted.VoteNotPersisted,
    planted.BootCertificateIgnored,
    planted.ParentFromAnyView,
)


@pytest.mark.parametrize("trace", TRACES, ids=lambda t: t["name"])
def test_the_core_follows_a_stored_trace(trace: Any) -> None:
    Replay(trace).run()


@pytest.mark.skipif(not QUINT.exists(), reason="make model installs Quint")
@pytest.mark.parametrize("init", SEARCHES)
def test_the_core_follows_a_fresh_trace(init: str) -> None:
    for trace in generate(init, FRESH_SEED, 2):
        Replay(trace).run()


@pytest.mark.parametrize("engine", BROKEN, ids=lambda e: e.__name__)
def test_a_core_without_a_rule_leaves_the_model(engine: type[Engine]) -> None:
    with pytest.raises(Mismatch):
        for trace in TRACES:
            Replay(trace, engine).run()
