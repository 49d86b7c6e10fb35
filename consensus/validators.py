"""Who votes in an epoch, with what weight; the only place where thresholds are computed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .limits import MEMBERS_MAX, WEIGHT_MAX


@dataclass(frozen=True, slots=True)
class Validator:
    """A seat of the set: its weight and its compressed secp256k1 key (33 bytes)."""

    seat: int
    weight: int
    node_key: bytes


@dataclass(frozen=True)
class ValidatorSet:
    """The members of one epoch.

    Raises ValueError for an empty or oversized set, a repeated seat or key, or a weight outside
    1..WEIGHT_MAX.
    """

    epoch: int
    validators: tuple[Validator, ...]
    seed: bytes
    weights: dict[int, int] = field(init=False, repr=False, compare=False)
    keys: dict[int, bytes] = field(init=False, repr=False, compare=False)
    total: int = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= len(self.validators) <= MEMBERS_MAX:
            raise ValueError(f"a set has 1..{MEMBERS_MAX} members, got {len(self.validators)}")
        ordered = tuple(sorted(self.validators, key=lambda v: v.seat))
        weights = {v.seat: v.weight for v in ordered}
        keys = {v.seat: v.node_key for v in ordered}
        if len(weights) != len(ordered) or len(set(keys.values())) != len(ordered):
            raise ValueError("a seat or a node key appears twice")
        if any(not 1 <= w <= WEIGHT_MAX for w in weights.values()):
            raise ValueError(f"a weight lies outside 1..{WEIGHT_MAX}")
        if any(len(k) != 33 for k in keys.values()):
            raise ValueError("a node key is not 33 bytes")
        object.__setattr__(self, "validators", ordered)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "keys", keys)
        object.__setattr__(self, "total", sum(weights.values()))

    @property
    def seats(self) -> tuple[int, ...]:
        """All seats, ascending."""
        return tuple(self.weights)

    def weight(self, seats: Iterable[int]) -> int:
        """The sum of the weights of those of ``seats`` that are in the set, each counted once."""
        return sum(self.weights.get(seat, 0) for seat in set(seats))

    def is_quorum(self, weight: int) -> bool:
        """True when ``weight`` is more than two thirds of the total."""
        return 3 * weight > 2 * self.total

    def is_join(self, weight: int) -> bool:
        """True when ``weight`` is more than one third of the total: one correct member at least."""
        return 3 * weight > self.total

    @property
    def quorum_weight(self) -> int:
        """The least weight that is a quorum."""
        return 2 * self.total // 3 + 1

    @property
    def join_weight(self) -> int:
        """The least weight that is more than a third."""
        return self.total // 3 + 1
