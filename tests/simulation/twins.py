"""The space of Twins scenarios: counted, without symmetric copies, sampled without replacement.

After Bano and others, "Twins: BFT Systems Made Robust" (OPODIS 2021): some seats are run by two
engines under one key, and a schedule says, for each of a few phases, who can talk to whom. Terms
have a fixed order of leaders, so the leaders' part of the schedule is which places of that order
the twins hold. A phase adds whose timer fires, and how many rounds of messages it lasts.

The two halves of a twin are interchangeable: schedules that differ by such an exchange only are
one scenario, as in commonware's canonical sampling. ``Space.unrank`` numbers the scenarios that
are left; ``sample`` walks the numbers in a pseudo-random order that meets each one once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from itertools import combinations

ROUNDS = (1, 2, 3, 4)  # how long a phase may last
GROUPS_MAX = 2  # a network in three parts rarely does anything at this size

Group = frozenset[tuple[int, ...]]  # permutations of processes, closed under composition


@dataclass(frozen=True, slots=True)
class Phase:
    """Who reaches whom (a mask of processes for each), whose timer fires (a mask), how long."""

    reach: tuple[int, ...]
    fires: int
    rounds: int

    def exchanged(self, image: tuple[int, ...]) -> Phase:
        """The same with each process in the place of its image."""
        reach = [0] * len(image)
        for process, mask in enumerate(self.reach):
            reach[image[process]] = _map(mask, image)
        return Phase(tuple(reach), _map(self.fires, image), self.rounds)


@dataclass(frozen=True, slots=True)
class Schedule:
    """One scenario: the twins' places in the order of leaders, and the phases."""

    number: int
    twins: tuple[int, ...]
    phases: tuple[Phase, ...]


def _map(mask: int, image: tuple[int, ...]) -> int:
    return sum(1 << to for process, to in enumerate(image) if mask >> process & 1)


def _partitions(processes: int) -> Iterator[list[int]]:
    """All partitions of so many processes into groups, each group as a mask."""

    def place(process: int, groups: list[int]) -> Iterator[list[int]]:
        if process == processes:
            yield list(groups)
            return
        for i in range(len(groups)):
            groups[i] |= 1 << process
            yield from place(process + 1, groups)
            groups[i] ^= 1 << process
        groups.append(1 << process)
        yield from place(process + 1, groups)
        groups.pop()

    return place(0, [])


@cache
def phases(processes: int) -> tuple[Phase, ...]:
    """All phases: nobody's, anybody's, a whole group's or everybody's timers fire."""
    found: dict[Phase, None] = {}
    for groups in _partitions(processes):
        if len(groups) > GROUPS_MAX:
            continue
        reach = tuple(next(g for g in groups if g >> p & 1) for p in range(processes))
        everybody = (1 << processes) - 1
        for fires in (0, *(1 << p for p in range(processes)), *groups, everybody):
            for rounds in ROUNDS:
                found[Phase(reach, fires, rounds)] = None
    return tuple(found)


class Space:
    """All schedules of so many phases for ``nodes`` seats of which ``twins`` are doubled.

    Processes 0..nodes-1 are the seats in the order in which they lead, those after them the
    second halves, in the order of the twins' places.
    """

    def __init__(self, nodes: int, twins: int, length: int) -> None:
        self.nodes, self.length = nodes, length
        self.places = tuple(combinations(range(nodes), twins))
        self._phases = phases(nodes + twins)
        self._orbits: dict[Group, dict[Group, list[Phase]]] = {}
        self._counts: dict[tuple[int, Group], int] = {}
        self._each = self._count(length, self._exchanges(self.places[0]))
        self.size = len(self.places) * self._each

    def _exchanges(self, places: tuple[int, ...]) -> Group:
        """The group made by the exchanges of each twin's halves."""
        processes = self.nodes + len(places)
        group = {tuple(range(processes))}
        for i, place in enumerate(places):
            other = self.nodes + i
            swap = {place: other, other: place}
            group |= {tuple(swap.get(p, p) for p in image) for image in group}
        return frozenset(group)

    def _classes(self, group: Group) -> dict[Group, list[Phase]]:
        """One phase of each orbit under ``group``, by the exchanges that leave it as it is."""
        if group not in self._orbits:
            classes: dict[Group, list[Phase]] = {}
            seen: set[Phase] = set()
            for phase in self._phases:
                if phase in seen:
                    continue
                images = {image: phase.exchanged(image) for image in group}
                seen.update(images.values())
                left = frozenset(image for image, what in images.items() if what == phase)
                classes.setdefault(left, []).append(phase)
            self._orbits[group] = classes
        return self._orbits[group]

    def _count(self, length: int, group: Group) -> int:
        if length == 0:
            return 1
        key = (length, group)
        if key not in self._counts:
            self._counts[key] = sum(
                len(found) * self._count(length - 1, left)
                for left, found in self._classes(group).items()
            )
        return self._counts[key]

    def unrank(self, number: int) -> Schedule:
        """The schedule with a number in ``range(size)``."""
        place, rest = divmod(number, self._each)
        twins = self.places[place]
        group = self._exchanges(twins)
        chosen: list[Phase] = []
        for left_over in range(self.length - 1, -1, -1):
            for left, found in self._classes(group).items():
                below = self._count(left_over, left)
                if rest < len(found) * below:
                    which, rest = divmod(rest, below)
                    chosen.append(found[which])
                    group = left
                    break
                rest -= len(found) * below
        return Schedule(number, twins, tuple(chosen))

    def sample(self, seed: int) -> Schedule:
        """The schedule of a seed; different seeds in ``range(size)`` give different ones."""
        return self.unrank(_shuffled(seed % self.size, self.size))


def _shuffled(number: int, size: int) -> int:
    """A permutation of ``range(size)``: a Feistel network, walked until it falls into the range."""
    half = max(1, (size.bit_length() + 1) // 2)
    mask = (1 << half) - 1
    while True:
        left, right = number >> half, number & mask
        for turn in range(4):
            data = b"%d %d" % (turn, right)
            digest = blake2b(data, key=b"twins", digest_size=16).digest()
            left, right = right, left ^ int.from_bytes(digest, "big") & mask
        number = left << half | right
        if number < size:
            return number
