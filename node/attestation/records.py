"""What this node knows of each member's evidence: last accepted, last refused, both ways."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from node.attestation.judging import Expected, Judgement
from node.attestation.policies import PolicyInForce


@dataclass(frozen=True, slots=True)
class Refusal:
    """``reason`` is a fixed word, ``detail`` for the operator, ``at_s`` unix time."""

    reason: str
    detail: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """Evidence that satisfied ``policy``; ``at`` in trio's time, ``at_s`` in unix time."""

    evidence: bytes = field(repr=False)
    expected: Expected
    policy: PolicyInForce
    judgement: Judgement
    incarnation: int
    at: float
    at_s: float


@dataclass(slots=True)
class Record:
    """One member, by seat and node key; ``held`` is the policy that it is judged by although a
    newer one is in force (``quorum``)."""

    seat: int
    peer_id: str
    accepted: Accepted | None = None
    refused: Refusal | None = None  # by us
    refused_us: Refusal | None = None
    held: PolicyInForce | None = None
    fails: Refusal | None = None  # why it does not satisfy the newest policy, while it is held
    renew_at: float = 0.0
    failures: int = 0  # renewals in a row that brought no evidence

    def refuse(self, reason: str, detail: str) -> None:
        """We refused it."""
        self.refused = Refusal(reason, detail, time.time())

    def refuse_us(self, reason: str) -> None:
        """It says that it refused us; what it says is all we know."""
        self.refused_us = Refusal(reason, "", time.time())

    def status(self, now: float, linked: bool) -> dict[str, Any]:
        """JSON-ready. ``attested``: it is linked on evidence that we accepted."""
        found = self.accepted
        row: dict[str, Any] = {
            "attested": linked and found is not None,
            "held": self.held is not None,
            "fails": _row(self.fails),
            "tcb_status": None,
            "policy_version": None,
            "quote_age_s": None,
            "incarnation": None,
            "compose_hash": None,
            "refused": _row(self.refused),
            "refused_us": _row(self.refused_us),
        }
        if found is not None:
            row |= {
                "tcb_status": found.judgement.tcb_status,
                "policy_version": found.policy.version,
                "quote_age_s": max(0, int(now - found.at)),
                "incarnation": found.incarnation,
                "compose_hash": found.judgement.compose_hash.hex(),
            }
        return row


def _row(refusal: Refusal | None) -> dict[str, Any] | None:
    if refusal is None:
        return None
    return {"reason": refusal.reason, "detail": refusal.detail, "at_s": int(refusal.at_s)}
