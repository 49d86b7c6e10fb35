"""Signatures that are fast and cannot be forged inside the simulation.

A signature is a keyed hash. The verifier holds all secrets, a member only its own: an adversary
gets nothing but a ``SimSigner`` of its seat.
"""

from __future__ import annotations

from hashlib import blake2b


def _mac(secret: bytes, digest: bytes) -> bytes:
    return blake2b(digest, key=secret, digest_size=64).digest() + b"\x1b"


class SimSigner:
    """Signs for one seat."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def sign(self, digest: bytes) -> bytes:
        """65 bytes, deterministic."""
        assert len(digest) == 32
        return _mac(self._secret, digest)


class SimVerifier:
    """Checks signatures of all seats; one for the whole simulated cluster."""

    def __init__(self, secrets: dict[bytes, bytes]) -> None:
        self._secrets = secrets  # node key -> secret
        self._known: dict[tuple[bytes, bytes, bytes], bool] = {}

    def verify(self, node_key: bytes, digest: bytes, signature: bytes) -> bool:
        """True when the seat with ``node_key`` signed ``digest``."""
        question = (node_key, digest, signature)
        answer = self._known.get(question)
        if answer is None:
            secret = self._secrets.get(node_key)
            answer = secret is not None and _mac(secret, digest) == signature
            if len(self._known) > 200_000:
                self._known.clear()
            self._known[question] = answer
        return answer


def keys_for(seats: list[int]) -> tuple[dict[int, bytes], dict[int, SimSigner], SimVerifier]:
    """Node keys (33 bytes) and signers by seat, and the verifier of them all."""
    secrets = {seat: blake2b(b"secret %d" % seat, digest_size=32).digest() for seat in seats}
    keys = {seat: b"\x02" + blake2b(secrets[seat], digest_size=32).digest() for seat in seats}
    signers = {seat: SimSigner(secrets[seat]) for seat in seats}
    return keys, signers, SimVerifier({keys[s]: secrets[s] for s in seats})
