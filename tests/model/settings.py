"""What a trace begins with: seats, keys, sets, and seeds that give the model's leader order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from consensus.epochs import next_set
from consensus.keccak import keccak256
from consensus.order import epoch_seed, leader_order
from consensus.types import ChainView
from consensus.validators import Validator, ValidatorSet
from tests.simulation.signing import keys_for


class Setting:
    """The constants of a trace."""

    def __init__(self, trace: Any) -> None:
        self.trace = trace
        registry = [dict(weights) for weights in trace["weights"]]
        self.seats = sorted({seat for weights in registry for seat in weights})
        self.liars = set(trace["liars"])
        self.keys, self.signers, self.verifier = keys_for(self.seats)
        self.sets = {0: self._first_set(registry[0])}
        self.views = [self._chain_view(i, ws) for i, ws in enumerate(registry[1:], 1)]

    def _order(self, weights: Iterable[int]) -> list[int]:
        """The model's leader order, the same in every epoch."""
        return [seat for seat in self.trace["order"] if seat in weights]

    def _validators(self, weights: dict[int, int]) -> tuple[Validator, ...]:
        return tuple(Validator(s, w, self.keys[s]) for s, w in sorted(weights.items()))

    def _first_set(self, weights: dict[int, int]) -> ValidatorSet:
        """The set of epoch 0 with a seed that gives the model's order."""
        for seed in range(10_000):
            made = ValidatorSet(0, self._validators(weights), seed.to_bytes(32, "big"))
            if list(leader_order(made)) == self._order(weights):
                return made
        raise AssertionError("no seed gives the model's order")

    def _chain_view(self, number: int, weights: dict[int, int]) -> ChainView:
        """What the registry shows, with a seed that gives the model's order in epoch 1."""
        target = self._validators(weights)
        seed = self._seed(1, next_set(self.sets[0].validators, target))
        return ChainView(number, keccak256(seed), bytes(32), seed, target)

    def _seed(self, epoch: int, members: tuple[Validator, ...]) -> bytes:
        """A seed of the chain that gives the model's order in an epoch."""
        for count in range(10_000):
            seed = count.to_bytes(32, "big")
            order = leader_order(ValidatorSet(epoch, members, epoch_seed(seed, epoch)))
            if list(order) == self._order({v.seat for v in members}):
                return seed
        raise AssertionError("no seed gives the model's order")
