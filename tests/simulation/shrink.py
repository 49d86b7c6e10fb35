"""Makes a failing scenario small: fewer faults, fewer liars, a shorter schedule.

Delta debugging (Zeller and Hildebrandt, TSE 2002): parts are left out in ever smaller groups as
long as what is left still fails, whatever the failure. A smaller scenario takes another path
through the seed's random numbers, so it may fail otherwise than the first one did.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from consensus.engine import Engine

from . import campaign, rounds, scenario
from .bad_leaders import LIARS
from .scenario import Settings
from .twins import Phase

T = TypeVar("T")
TRACE_LINES = 200  # the last ones


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The least scenario that was found to fail: what it consists of, and its last events."""

    failure: str
    told: tuple[str, ...]
    trace: tuple[str, ...]


def least(items: tuple[T, ...], fails: Callable[[tuple[T, ...]], bool]) -> tuple[T, ...]:
    """A part of ``items`` that fails, of which no single one can be left out."""
    size = max(1, len(items) // 2)
    while items:
        for start in range(0, len(items), size):
            fewer = items[:start] + items[start + size :]
            if fails(fewer):
                items = fewer
                break
        else:
            if size == 1:
                break
            size = max(1, size // 2)
        size = min(size, max(1, len(items)))
    return items


def scenario_of(
    seed: int, settings: Settings, engine_class: type[Engine] = Engine
) -> Shrunk | None:
    """Shrinks a seed of the full simulation; None when it does not fail."""
    plan = scenario.build(seed, settings, tuple(LIARS))
    if not campaign.run_plan(plan, engine_class).failure:
        return None

    def changed(**what: object) -> bool:
        return bool(campaign.run_plan(replace(plan, **what), engine_class).failure)  # type: ignore[arg-type]

    for clients in range(settings.clients):
        if changed(settings=replace(settings, clients=clients)):
            settings = replace(settings, clients=clients)
            plan = replace(plan, settings=settings)
            break
    faults = least(tuple(plan.faults), lambda left: changed(faults=list(left)))
    plan = replace(plan, faults=list(faults))
    losses = least(plan.losses, lambda left: changed(losses=left))
    plan = replace(plan, losses=losses)
    liars = least(tuple(plan.byzantine.items()), lambda left: changed(byzantine=dict(left)))
    plan = replace(plan, byzantine=dict(liars))
    lines: list[str] = []
    outcome = campaign.run_plan(plan, engine_class, lines.append)
    told = (
        f"seed {seed}, weights {plan.weights}, liars {plan.byzantine}, {settings.clients} clients",
        *(f"fault {fault}" for fault in plan.faults),
        *map(str, plan.losses),
        outcome.failure,
    )
    return Shrunk(outcome.failure, told, tuple(lines[-TRACE_LINES:]))


def schedule_of(seed: int, engine_class: type[Engine] = Engine) -> Shrunk | None:
    """Shrinks a Twins seed: the fewest phases, then the fewest timers; None when all holds."""
    schedule = rounds.schedule_of(seed)
    if not rounds.run_schedule(seed, schedule, engine_class).failure:
        return None

    def fails(phases: tuple[Phase, ...]) -> bool:
        smaller = replace(schedule, phases=phases)
        return bool(rounds.run_schedule(seed, smaller, engine_class).failure)

    phases = least(schedule.phases, fails)
    for i, phase in enumerate(phases):
        calmer = (*phases[:i], replace(phase, fires=0), *phases[i + 1 :])
        if fails(calmer):
            phases = calmer
    lines: list[str] = []
    smallest = replace(schedule, phases=phases)
    trial = rounds.run_schedule(seed, smallest, engine_class, trace=lines.append)
    told = (
        f"seed {seed}, twins at the places {schedule.twins} of the order of leaders",
        *map(str, phases),
        trial.failure,
    )
    return Shrunk(trial.failure, told, tuple(lines[-TRACE_LINES:]))
