"""The order in which the members of an epoch lead: a weighted permutation without replacement.

P(first) is proportional to weight, a deposed leader returns only after everyone else had a turn,
and the order is a pure function of the set, its seed and demerits (``docs/protocol.md``, section
1). Integers only.
"""

from __future__ import annotations

from .keccak import keccak256
from .standing import Demerits
from .validators import ValidatorSet

ORDER_TAG = b"dstack-cluster/leader-order/v1"
CHAIN_SEED_TAG = b"dstack-cluster/chain-seed/v1"
SEED_TAG = b"dstack-cluster/epoch-seed/v2"


def chain_seed(cluster_id: bytes, block_hash: bytes, prev_randao: bytes) -> bytes:
    """What a chain block gives to the order of epochs that use its membership (32 bytes each)."""
    return keccak256(CHAIN_SEED_TAG + cluster_id + block_hash + prev_randao)


def epoch_seed(seed: bytes, epoch: int) -> bytes:
    """Seed of an epoch's order, from ``chain_seed``: each epoch has an order of its own."""
    return keccak256(SEED_TAG + seed + epoch.to_bytes(8, "big"))


def leader_order(validators: ValidatorSet, demerits: Demerits = ()) -> tuple[int, ...]:
    """Seats in the order of their terms; term ``t`` belongs to ``order[(t - 1) % n]``.

    Draw k takes the seat at offset ``keccak(tag, seed, k) mod remaining weight``, walking the
    remaining seats in ascending order. A 256-bit draw modulo a 40-bit weight is biased by less
    than 2**-215. Then those with fewer ``demerits`` (at the opening of the epoch) go first.
    """
    remaining = list(validators.weights.items())
    total = validators.total
    order = []
    for k in range(len(remaining)):
        draw = keccak256(ORDER_TAG + validators.seed + k.to_bytes(8, "big"))
        offset = int.from_bytes(draw, "big") % total
        for position, (seat, weight) in enumerate(remaining):
            if offset < weight:
                order.append(seat)
                total -= weight
                del remaining[position]
                break
            offset -= weight
    against = dict(demerits)
    return tuple(sorted(order, key=lambda seat: against.get(seat, 0)))  # stable
