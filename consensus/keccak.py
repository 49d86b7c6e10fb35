"""Keccak-256 as Ethereum uses it (the padding before FIPS 202, not SHA3-256)."""

from __future__ import annotations

from sha3 import keccak_256


def keccak256(data: bytes) -> bytes:
    """32 bytes."""
    digest: bytes = keccak_256(data).digest()
    return digest
