"""How each RPC endpoint did, in words for the operator and in counts for the metrics."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from chain.errors import (
    ChainError,
    EndpointError,
    EndpointTimeout,
    EndpointTooLong,
    RpcFault,
    WrongChain,
)
from chain.proofs import BadProof


class Trouble(StrEnum):
    """What an endpoint did wrong.

    =========== ===================================================================
    kind        meaning
    =========== ===================================================================
    late        hangs: no whole answer by the deadline, or long after the others'
    too_long    floods: an answer longer than the limit
    broken      cannot be asked, answers with an error, or with what is no answer
    wrong_chain serves another chain
    lagging     its finalized block is older than the agreed one
    forked      names another block than the agreed one at a height
    lying       answers otherwise than k others, or what a proof or digest refutes
    =========== ===================================================================
    """

    LATE = "late"
    TOO_LONG = "too_long"
    BROKEN = "broken"
    WRONG_CHAIN = "wrong_chain"
    LAGGING = "lagging"
    FORKED = "forked"
    LYING = "lying"


@dataclass(slots=True)
class EndpointHealth:
    """How one endpoint did.

    ``complaint`` is what is wrong with it now, empty while it is well; ``last_complaint`` stays.
    ``proofs`` is "given", "not asked yet" or why it gave no account proof when it was asked last.
    """

    name: str
    chain_checked: bool = False
    finalized_height: int = -1
    latency_ms: int = -1
    answers: int = 0
    proofs: str = "not asked yet"
    complaint: str = ""
    last_complaint: str = ""
    complaint_at_s: float = 0.0
    behind_since_s: float | None = None  # monotonic; None while it has the agreed block
    troubles: Counter[Trouble] = field(default_factory=Counter)

    def complain(self, kind: Trouble, text: str) -> None:
        """Notes what it did wrong just now."""
        self.troubles[kind] += 1
        if kind is Trouble.BROKEN and self.complaint.startswith(f"{Trouble.FORKED}:"):
            return  # that it does not know the agreed block follows from where it is
        self.complaint = self.last_complaint = f"{kind}: {text}"
        self.complaint_at_s = time.time()

    def failed(self, error: ChainError) -> None:
        """Notes that it gave no usable answer."""
        self.complain(_kind(error), reason_of(error))

    def row(self) -> dict[str, Any]:
        """JSON-ready; the name carries no secrets."""
        return {
            "endpoint": self.name,
            "ok": not self.complaint,
            "complaint": self.complaint,
            "last_complaint": self.last_complaint,
            "last_complaint_at_s": int(self.complaint_at_s),
            "troubles": {kind.value: count for kind, count in sorted(self.troubles.items())},
            "proofs": self.proofs,
            "finalized_height": self.finalized_height,
            "latency_ms": self.latency_ms,
            "answers": self.answers,
        }


def reason_of(error: ChainError) -> str:
    """An endpoint's failure without its name, which stands beside it."""
    if isinstance(error, EndpointError):
        return error.reason
    if isinstance(error, RpcFault):
        return f"error {error.code}: {error.message}"
    return str(error)


def _kind(error: ChainError) -> Trouble:
    if isinstance(error, EndpointTimeout):
        return Trouble.LATE
    if isinstance(error, EndpointTooLong):
        return Trouble.TOO_LONG
    if isinstance(error, WrongChain):
        return Trouble.WRONG_CHAIN
    return Trouble.LYING if isinstance(error, BadProof) else Trouble.BROKEN
