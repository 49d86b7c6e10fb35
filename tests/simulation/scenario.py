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
    recoveries: int = 0  # times that a quorum is lost for good, and the owners vote


@dataclass(frozen=True, slots=True)
class Fault:
    """One disturbance. ``seats`` are those it strikes, ``level`` its strength if it has one."""

    at_ms: float
    kind: str
    seats: tuple[int, ...] = ()
    until_ms: float = 0.0
    level: float = 0.0


@dataclass(frozen=True, slots=True)
class Loss:
    """Nobody hears of ``seats`` any more; without them there is no quorum, and their owners vote.

    ``how`` it goes on with them: *gone* for ever, with their disks; *late*: they come back; with
    an *old* or an *empty* disk; or they were *cut* off only, and went on if they are a quorum.
    ``names``: the block that is voted for is the *highest* that anybody shows, *any* of theirs,
    or *none*, by mistake, and they have to vote again.
    """

    at_ms: float
    seats: tuple[int, ...]
    how: str
    vote_ms: float
    back_ms: float
    names: str


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
    losses: tuple[Loss, ...] = ()
    delay_ms: tuple[float, float] = (1.0, 10.0)
    group_commit_ms: float = 0.0
    serve_blocks: int = 64
    epoch_settle_ms: int = 3000
    gather_ms: int = 0
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


class Margins:
    """Keeps the faulty below a third of every set that there may be.

    ``sets`` are who is left after each loss; the first is everybody.
    """

    def __init__(self, weights: dict[int, int], sets: list[frozenset[int]]) -> None:
        self._weights = weights
        self._sets = sets
        self.faulty: frozenset[int] = frozenset()
        self._away: frozenset[int] = frozenset()

    def _hold(self, faulty: frozenset[int], away: frozenset[int]) -> bool:
        return all(_below_third(self._weigh(faulty & s), self._weigh(s - away)) for s in self._sets)

    def _weigh(self, seats: frozenset[int]) -> int:
        return sum(self._weights[seat] for seat in seats)

    def may_fail(self, seat: int) -> bool:
        """True when a seat may be faulty beside those that are."""
        return self._hold(self.faulty | {seat}, frozenset())

    def let_go(self, seat: int) -> bool:
        """Lets a correct seat be away, when the faulty are still few without it.

        Its weight may become 1 while it stays, which is less harm than to lose it.
        """
        away = self._away | {seat}
        if seat in self.faulty or not self._hold(self.faulty, away):
            return False
        self._away = away
        return True


def build(seed: int, settings: Settings, adversaries: tuple[str, ...]) -> Scenario:
    """The scenario of a seed. Byzantine and fragile seats together stay below a third."""
    rng = Random(f"scenario {seed}")
    weights = _weights(rng, settings)
    losses = _losses(Random(f"losses {seed}"), settings, weights)
    sets = [frozenset(weights)]
    for loss in losses:
        sets.append(sets[-1] - set(loss.seats))
    margins = Margins(weights, sets)
    byzantine: dict[int, str] = {}
    for seat in rng.sample(sorted(weights), len(weights)):
        if len(byzantine) == settings.byzantine:
            break
        if settings.above_third or margins.may_fail(seat):
            byzantine[seat] = rng.choice(settings.adversaries or adversaries)
            margins.faulty |= {seat}
    fragile = []
    if {"rollback", "wipe"} & set(settings.faults):
        for seat in rng.sample(sorted(weights), len(weights)):
            if seat not in byzantine and margins.may_fail(seat):
                fragile.append(seat)
                margins.faulty |= {seat}
    movable = _movable(rng, settings, weights, margins)
    outside = tuple(seat for seat in movable if rng.random() < 0.5)
    scenario = Scenario(seed, settings, weights, byzantine, tuple(fragile), movable, outside)
    scenario.losses = losses
    on = set(settings.faults)
    if "delay" in on:
        most = rng.choice((3.0, 10.0, 40.0, 150.0))
        scenario.delay_ms = (rng.choice((0.2, 1.0)), most)
    scenario.group_commit_ms = rng.choice((0.0, 0.0, 2.0))
    scenario.serve_blocks = rng.choice((3, 64))
    scenario.epoch_settle_ms = rng.choice((0, 100, 1000, 3000))
    scenario.gather_ms = Random(f"gather {seed}").choice((0, 20, 200))
    _schedule(rng, scenario)
    scenario.checkpoints = Checkpoints(rng.choice((2, 8, 1024)), rng.choice((3, 20)))
    if settings.absences:
        _absences(rng, scenario)
    return scenario


def _movable(
    rng: Random, settings: Settings, weights: dict[int, int], margins: Margins
) -> tuple[int, ...]:
    """Correct seats without which the faulty ones are still below a third: in every set."""
    if "membership" not in settings.faults or rng.random() < 0.5:
        return ()
    movable: list[int] = []
    for seat in rng.sample(sorted(weights), len(weights)):
        if len(movable) < 3 and margins.let_go(seat):
            movable.append(seat)
    return tuple(movable)


def _losses(rng: Random, settings: Settings, weights: dict[int, int]) -> tuple[Loss, ...]:
    """Each takes a third or more of who is left, and leaves somebody."""
    losses: list[Loss] = []
    left, at_ms = set(weights), 0.0
    span = settings.chaos_ms / (settings.recoveries + 1)
    for _ in range(settings.recoveries):
        how = rng.choice(("gone", "late", "old", "empty", "cut"))
        thirds = 1 if how == "cut" and rng.random() < 0.6 else 2  # of whom no quorum is left
        seats: set[int] = set()
        total = sum(weights[s] for s in left)
        for seat in rng.sample(sorted(left), len(left)):
            if 3 * sum(weights[s] for s in left - seats) <= thirds * total:
                break
            seats.add(seat)
        if not left - seats:
            break
        at_ms += rng.uniform(0.1, 0.8) * span
        vote_ms = at_ms + rng.uniform(100.0, 0.5 * span)
        back_ms = rng.uniform(vote_ms, settings.chaos_ms)
        names = rng.choice(("highest", "highest", "highest", "any", "none"))
        losses.append(Loss(at_ms, tuple(sorted(seats)), how, vote_ms, back_ms, names))
        left -= seats
        at_ms = vote_ms
    return tuple(losses)


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
