"""Good leaders stay when members, their disks and their links are slow for a while, and a quorum
is all that is left."""

from __future__ import annotations

import pytest

from consensus.engine import Engine
from consensus.interface import Durations
from tests.simulation.planted import Directed
from tests.simulation.reign import Reign, Writer

# What the daemon runs with by default (``node.config``), where it differs from the core's.
DAEMON = Durations(leader_ms=2000, heartbeat_ms=300, gather_ms=50, stall_ms=2500)
PAUSES_MS = (900.0, 1600.0, 2400.0, 2900.0)  # a link outlives three seconds of silence


def _changes_in_a_bare_quorum(
    engine_class: type[Engine], *, busy: bool, place: int | None, seed: int
) -> int:
    """Leader changes while one of four is dead and another one (the leader is at place 0; None:
    each in turn) stands still again and again: it is paused, or waits for its disk."""
    reign = Reign(seed=seed, durations=DAEMON, engine_class=engine_class)
    alive = [reign.members[seat] for seat in reign.order[:3]]
    reign.after(1500.0, reign.members[reign.order[3]].crash)
    if busy:
        for member in alive:
            Writer(reign, member.seat, b"writer %d" % member.seat, 200.0)

    def strike(number: int) -> None:
        lasts_ms = PAUSES_MS[number % len(PAUSES_MS)]
        alive[number % 3 if place is None else place].pause(lasts_ms)
        reign.after(lasts_ms + reign.rng.uniform(1500.0, 4000.0), strike, number + 1)

    reign.after(4000.0, strike, 0)
    reign.run_for(40_000.0)
    return reign.changes


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("place", [0, 1, None], ids=["leader", "other", "all"])
def test_who_stands_still_for_seconds_and_is_needed_costs_no_leader(
    place: int | None, busy: bool
) -> None:
    for seed in (1, 2):
        assert _changes_in_a_bare_quorum(Engine, busy=busy, place=place, seed=seed) == 0


def _changes_after_a_restart(engine_class: type[Engine]) -> int:
    """A member starts again, and its link to the leader is made last; later another one dies."""
    reign = Reign(durations=DAEMON, engine_class=engine_class)
    leader, again, dies = (reign.members[seat] for seat in reign.order[:3])
    pair = frozenset((leader.seat, again.seat))
    reign.after(3000.0, again.crash)
    reign.after(3000.0, reign.network.cut.add, pair)
    reign.after(4000.0, again.start)
    reign.after(12_000.0, reign.network.cut.discard, pair)
    reign.after(14_000.0, dies.crash)
    reign.run_for(20_000.0)
    return reign.changes


def test_a_member_that_started_again_is_there_when_another_dies() -> None:
    assert _changes_after_a_restart(Engine) == 0


class ForHeldUp(Engine):
    """Complains although it hears from no quorum (R12)."""

    def _is_excused(self, ticks: int) -> bool:
        return False


class InAHurry(Engine):
    """Takes a link that is still to be made for one that is lost (R12)."""

    def _is_lost(self, seat: int) -> bool:
        return True


class Sleepwalker(Engine):
    """Believes its timers although it stood still itself (R12)."""

    def _slept(self) -> bool:
        return False


def _stays(engine_class: type[Engine]) -> bool:
    return not any(
        _changes_in_a_bare_quorum(engine_class, busy=False, place=place, seed=1) for place in (0, 1)
    )


MISSED: tuple[Directed, ...] = (
    Directed(ForHeldUp, ("R12",), _stays),
    Directed(Sleepwalker, ("R12",), _stays),
    Directed(InAHurry, ("R12",), lambda e: not _changes_after_a_restart(e)),
)


@pytest.mark.parametrize("bug", MISSED, ids=lambda b: b.engine.__name__)
def test_what_keeps_a_good_leader_is_missed_when_it_is_taken_out(bug: Directed) -> None:
    assert not bug.story(bug.engine)
