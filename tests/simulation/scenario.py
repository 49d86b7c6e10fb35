"""What a seed means: members, weights, liars, network quality and a schedule of faults."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from consensus.interface import Checkpoints

FAULTS = (
    "delay",
    "loss",
    "duplicate",
    "reorder",
    "partition",
    "asymmetric",
    "skew",
    "pause",
    "crash",
    "crash_all",
    "rollback",
    "wipe",
    "membership",
)


@dataclass(frozen=True, slots=True)
class Settings:
    """What a campaign asks for; together with a seed it determines a run completely."""

    nodes: int = 4
    byzantine: int = 0
    faults: tuple[str, ...] = FAULTS
    weights: tuple[int, ...] = ()  # empty: chosen by the seed
    adversaries: tuple[str, ...] = ()  # empty: any, chosen by the seed
    above_third: bool = False  # Byzantine weight may reach a third; forks must convict
    chaos_ms: int = 8_000
    calm_ms: int = 60_000  # liveness: all must commit within this time of calm
    terms_max: int = 12  # ... and within this many terms
    clients: int = 3
    absences: int = 0  # members that miss most of the chaos; checkpoints are near each other then


@dataclass(frozen=True, slots=True)
class Fault:
    """One disturbance. ``seats`` are those it strikes, ``level`` its strength if it has one."""

    at_ms: float
    kind: str
    seats: tuple[int, ...] = ()
    until_ms: float = 0.0
    level: float = 0.0


@dataclass(slots=True)
class Scenario:
    """All choices of one seed."""

    seed: int
    settings: Settings
    weights: dict[int, int]
    byzantine: dict[int, str]  # seat -> class of adversary
    fragile: tuple[int, ...]  # correct seats whose disks may be rolled back or wiped
    movable: tuple[int, ...] = ()  # correct seats that may leave, join, or change their weight
    outside: tuple[int, ...] = ()  # those of them that are no members at the start
    faults: list[Fault] = field(default_factory=list)
    delay_ms: tuple[float, float] = (1.0, 10.0)
    group_commit_ms: float = 0.0
    serve_blocks: int = 64
    epoch_settle_ms: int = 3000
    checkpoints: Checkpoints = Checkpoints()  # noqa: RUF009 - frozen


def _below_third(weight: int, total: int) -> bool:
    return 3 * weight < total


def _weights(rng: Random, settings: Settings) -> dict[int, int]:
    seats = range(1, settings.nodes + 1)
    if settings.weights:
        return dict(zip(seats, settings.weights, strict=True))
    if rng.random() < 0.6:
        return dict.fromkeys(seats, 1)
    return {seat: rng.choice((1, 1, 2, 3, 5)) for seat in seats}


def build(seed: int, settings: Settings, adversaries: tuple[str, ...]) -> Scenario:
    """The scenario of a seed. Byzantine and fragile seats together stay below a third."""
    rng = Random(f"scenario {seed}")
    weights = _weights(rng, settings)
    total = sum(weights.values())
    byzantine: dict[int, str] = {}
    faulty = 0
    for seat in rng.sample(sorted(weights), len(weights)):
        if len(byzantine) == settings.byzantine:
            break
        if settings.above_third or _below_third(faulty + weights[seat], total):
            byzantine[seat] = rng.choice(settings.adversaries or adversaries)
            faulty += weights[seat]
    fragile = []
    if {"rollback", "wipe"} & set(settings.faults):
        for seat in rng.sample(sorted(weights), len(weights)):
            if seat not in byzantine and _below_third(faulty + weights[seat], total):
                fragile.append(seat)
                faulty += weights[seat]
    movable = _movable(rng, settings, weights, set(byzantine) | set(fragile), faulty)
    outside = tuple(seat for seat in movable if rng.random() < 0.5)
    scenario = Scenario(seed, settings, weights, byzantine, tuple(fragile), movable, outside)
    on = set(settings.faults)
    if "delay" in on:
        most = rng.choice((3.0, 10.0, 40.0, 150.0))
        scenario.delay_ms = (rng.choice((0.2, 1.0)), most)
    scenario.group_commit_ms = rng.choice((0.0, 0.0, 2.0))
    scenario.serve_blocks = rng.choice((3, 64))
    scenario.epoch_settle_ms = rng.choice((0, 100, 1000, 3000))
    _schedule(rng, scenario)
    scenario.checkpoints = Checkpoints(rng.choice((2, 8, 1024)), rng.choice((3, 20)))
    if settings.absences:
        _absences(rng, scenario)
    return scenario


def _movable(
    rng: Random, settings: Settings, weights: dict[int, int], bad: set[int], faulty: int
) -> tuple[int, ...]:
    """Correct seats without which the faulty ones are still below a third: in every set."""
    if "membership" not in settings.faults or rng.random() < 0.5:
        return ()
    movable: list[int] = []
    left = sum(weights.values())
    for seat in rng.sample(sorted(weights), len(weights)):
        # A weight may become 1 while its seat stays, which is less harm than to lose the seat.
        if seat not in bad and _below_third(faulty, left - weights[seat]) and len(movable) < 3:
            movable.append(seat)
            left -= weights[seat]
    return tuple(movable)


def _absences(rng: Random, s: Scenario) -> None:
    """Some correct members come back when the others have long pruned what they need."""
    s.checkpoints = Checkpoints(rng.choice((2, 4)), rng.choice((3, 20)))
    end = s.settings.chaos_ms
    for _ in range(s.settings.absences):
        at = rng.uniform(0.0, 0.3 * end)
        until = rng.uniform(0.7 * end, end)
        wiped = bool(s.fragile) and rng.random() < 0.5
        seat = rng.choice(s.fragile if wiped else [x for x in s.weights if x not in s.byzantine])
        s.faults.append(Fault(at, "wipe" if wiped else "crash", (seat,), until))
    s.faults.sort(key=lambda f: f.at_ms)


def _schedule(rng: Random, s: Scenario) -> None:
    """Draws a handful of faults over the chaotic time."""
    correct = [seat for seat in s.weights if seat not in s.byzantine]
    kinds = [k for k in s.settings.faults if k not in ("delay", "reorder", "skew")]
    if not s.fragile:
        kinds = [k for k in kinds if k not in ("rollback", "wipe")]
    if not s.movable:
        kinds = [k for k in kinds if k != "membership"]
    if not kinds:
        return
    end = s.settings.chaos_ms
    for _ in range(rng.randint(2, 10)):
        kind, at = rng.choice(kinds), rng.uniform(0.0, end)
        until = min(end, at + rng.choice((200.0, 1000.0, 4000.0)) * rng.random())
        match kind:
            case "rollback" | "wipe":
                seats: tuple[int, ...] = (rng.choice(s.fragile),)
            case "membership":
                seats = tuple(rng.sample(s.movable, rng.randint(1, len(s.movable))))
            case "crash":
                seats = tuple(rng.sample(correct, rng.randint(1, max(1, len(correct) // 2))))
            case "crash_all" | "loss" | "duplicate":
                seats = ()
            case "pause":
                seats = (rng.choice(correct),)
            case _:
                everyone = sorted(s.weights)
                seats = tuple(rng.sample(everyone, rng.randint(1, max(1, len(everyone) // 2))))
        s.faults.append(Fault(at, kind, seats, until, rng.choice((0.05, 0.2, 0.5))))
    for _ in range(rng.randint(1, 4) if s.movable else 0):
        seats = tuple(rng.sample(s.movable, rng.randint(1, len(s.movable))))
        level = rng.choice((0.05, 0.2, 0.5))
        s.faults.append(Fault(rng.uniform(0.0, 0.8 * end), "membership", seats, end, level))
    s.faults.sort(key=lambda f: f.at_ms)
