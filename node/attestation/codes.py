"""Why a member was refused: numbers for the peer, words for counters, logs and status."""

from __future__ import annotations

from enum import IntEnum

from attest import RefusalCode
from node.network.attesting import CODE_BUSY

PREFIX = "attestation_"


class NodeCode(IntEnum):
    """Refusals that are no matter of the evidence; beside ``attest.RefusalCode`` on the wire."""

    STALE_INCARNATION = 200  # a newer boot of this seat is acknowledged; proof is attached
    NOT_REGISTERED = 201  # the registry does not show this node on the seat
    NO_QUOTE = 202  # the prover's guest agent gives none
    BUSY = CODE_BUSY


def word(code: int) -> str:
    """Fixed word of a code, for example ``compose_hash``; of one nobody knows ``code_77``."""
    for kind in (RefusalCode, NodeCode):
        try:
            return kind(code).name.lower()
        except ValueError:
            continue
    return f"code_{code}"


def reason(code: int) -> str:
    """The mesh's word for a refusal with this code."""
    return PREFIX + word(code)


# Whoever is refused for these can do nothing about it: it need not wait longer each time.
NO_FAULT_OF_THE_PEER = frozenset(
    {
        RefusalCode.NO_POLICY,
        RefusalCode.COLLATERAL_MISSING,
        RefusalCode.COLLATERAL_STALE,
        NodeCode.STALE_INCARNATION,
        NodeCode.NOT_REGISTERED,
    }
)
