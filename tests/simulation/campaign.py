"""Many seeds in a row, and what came of them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import blake2b

from consensus.engine import Engine

from . import scenario
from .bad_leaders import LIARS
from .scenario import Scenario, Settings
from .world import World


@dataclass(frozen=True, slots=True)
class Outcome:
    """One seed's result; ``failure`` is empty when all held."""

    seed: int
    digest: str
    failure: str
    forked: bool
    height: int
    events: int
    messages: int
    recovery_ms: float
    terms: int
    snapshots: int  # installed by members that were away
    recoveries: int  # that began another history


@dataclass(slots=True)
class Report:
    """Results of a campaign."""

    outcomes: list[Outcome] = field(default_factory=list)
    elapsed_s: float = 0.0

    @property
    def failures(self) -> list[Outcome]:
        return [o for o in self.outcomes if o.failure]

    @property
    def digest(self) -> str:
        """Digest over all runs: the same campaign twice gives the same one."""
        everything = "".join(f"{o.seed} {o.digest} {o.failure}\n" for o in self.outcomes)
        return blake2b(everything.encode(), digest_size=16).hexdigest()


def run_seed(
    seed: int,
    settings: Settings,
    engine_class: type[Engine] = Engine,
    trace: Callable[[str], None] | None = None,
) -> Outcome:
    """Plays one seed; any exception of a correct member's engine is a failure."""
    return run_plan(scenario.build(seed, settings, tuple(LIARS)), engine_class, trace)


def run_plan(
    plan: Scenario,
    engine_class: type[Engine] = Engine,
    trace: Callable[[str], None] | None = None,
) -> Outcome:
    """Plays a scenario, as a seed means it or made smaller."""
    world = World(plan, engine_class, trace)
    failure = ""
    try:
        world.run()
        world.oracle.settle_blame()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        if trace is not None:
            trace(traceback.format_exc())
    return Outcome(
        seed=plan.seed,
        digest=world.digest,
        failure=failure,
        forked=bool(world.oracle.forked),
        height=len(world.oracle.newest.blocks),
        events=world.events,
        messages=world.network.messages,
        recovery_ms=world.oracle.recovery_ms,
        terms=world.oracle.terms,
        snapshots=world.oracle.installs,
        recoveries=len(world.oracle.histories) - 1,
    )


def run(seeds: Iterable[int], settings: Settings, engine_class: type[Engine] = Engine) -> Report:
    """Plays all seeds."""
    report = Report()
    began = time.perf_counter()
    for seed in seeds:
        report.outcomes.append(run_seed(seed, settings, engine_class))
    report.elapsed_s = time.perf_counter() - began
    return report


def first_failure(
    seeds: Iterable[int], settings: Settings, engine_class: type[Engine]
) -> Outcome | None:
    """The first seed that fails, None when none does."""
    for seed in seeds:
        outcome = run_seed(seed, settings, engine_class)
        if outcome.failure:
            return outcome
    return None
