"""When a new policy is not enforced: if the members that satisfy it would be no quorum. Pure.

A policy that shuts out too many members at once would end the cluster, and nothing but the chain
could bring it back. So members that are linked when the policy changes, and fail the new one, are
*held*: they stay, and may come back, under the policy that they satisfied, and the operator is
alarmed until enough members satisfy the new one, or it is changed again. Whoever was not linked is
judged by the new one alone.
docs/attestation.md tells why this is safe, and what a minority can make of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from consensus.validators import ValidatorSet


@dataclass(frozen=True, slots=True)
class Enforcement:
    """Whom to cut off and whom to hold, and what the members that satisfy weigh."""

    cut: frozenset[int]
    held: frozenset[int]
    weight: int = 0
    weight_total: int = 0
    quorum_weight: int = 0

    def alarm(self) -> str:
        """For the operator; empty when nobody is held."""
        if not self.held:
            return ""
        seats = ", ".join(map(str, sorted(self.held)))
        return (
            f"the attestation policy is NOT enforced against seats {seats}: the linked members that"
            f" satisfy it weigh {self.weight} of {self.weight_total}, a quorum is"
            f" {self.quorum_weight}"
        )


def enforcement(
    validators: ValidatorSet, satisfying: Iterable[int], failing: Iterable[int]
) -> Enforcement:
    """What follows for linked members.

    Args:
        validators: the set that votes now.
        satisfying: seats that are linked and satisfy the newest policy, our own if we do.
        failing: seats that are linked or held, and do not; those without a vote are always cut.
    """
    weights = validators.weights
    failing = frozenset(failing)
    weight = sum(weights.get(seat, 0) for seat in set(satisfying))
    held = frozenset(seat for seat in failing if seat in weights)
    if validators.is_quorum(weight):
        held = frozenset()
    return Enforcement(
        cut=failing - held,
        held=held,
        weight=weight,
        weight_total=validators.total,
        quorum_weight=validators.quorum_weight,
    )
