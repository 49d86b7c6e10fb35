"""The two interfaces through which the protocol signs and checks.

The daemon gives secp256k1 (coincurve), the simulator may give something faster. A signature is 65
bytes r, s, v with low s and v in {27, 28}, exactly what a contract's ``ecrecover`` takes: a vote
that only the daemon could check would be worthless as evidence.
"""

from __future__ import annotations

from typing import Protocol

SIGNATURE_BYTES = 65


class Signer(Protocol):
    """Signs with this node's key, which it never shows."""

    def sign(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest."""
        ...


class Verifier(Protocol):
    """Checks a member's signature."""

    def verify(self, node_key: bytes, digest: bytes, signature: bytes) -> bool:
        """True when ``signature`` is the canonical one of ``node_key`` over ``digest``."""
        ...
