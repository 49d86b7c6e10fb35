"""secp256k1 for the protocol's ``Signer`` and ``Verifier``, by coincurve."""

from __future__ import annotations

from typing import Protocol

from coincurve import PublicKey

_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


class SecretSigner(Protocol):
    """What signs: a secret that never leaves its object."""

    def sign_recoverable(self, digest: bytes) -> bytes:
        """r, s, recovery id 0 or 1 over a 32-byte digest."""
        ...


class NodeSigner:
    """``consensus.Signer`` with the node key."""

    def __init__(self, secret: SecretSigner) -> None:
        self._secret = secret

    def sign(self, digest: bytes) -> bytes:
        """65 bytes r, s, v with v in {27, 28}."""
        signature = self._secret.sign_recoverable(digest)
        return signature[:64] + bytes((27 + signature[64],))


class RecoveringVerifier:
    """``consensus.Verifier`` that accepts exactly what a contract's ``ecrecover`` accepts.

    The key is recovered and compared, so that a wrong v fails here as it would on chain; high s
    is refused as OpenZeppelin's ECDSA refuses it.
    """

    def verify(self, node_key: bytes, digest: bytes, signature: bytes) -> bool:
        """True when ``signature`` is the canonical one of ``node_key`` over ``digest``."""
        return recover(digest, signature) == node_key


def recover(digest: bytes, signature: bytes) -> bytes | None:
    """The 33-byte key of which ``signature`` is the canonical one over ``digest``, or None."""
    if len(signature) != 65 or signature[64] not in (27, 28):
        return None
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        return None
    plain = signature[:64] + bytes((signature[64] - 27,))
    try:
        return PublicKey.from_signature_and_message(plain, digest, hasher=None).format()
    except Exception:  # coincurve raises a bare Exception for a signature of no key
        return None
