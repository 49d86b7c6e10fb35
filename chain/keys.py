"""secp256k1 and keccak: hashing, addresses, recovery, and the key that pays for transactions."""

from __future__ import annotations

from typing import Protocol

import coincurve

from attest.keys import keccak256 as keccak256
from chain.errors import ChainConfigError

# SEC 2 section 2.4.1, order of the group.
CURVE_ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


class HashSigner(Protocol):
    """Something that signs a 32-byte digest as r||s||v, 65 bytes, v in {27, 28}, low s."""

    def sign(self, digest: bytes) -> bytes:
        """Signs a digest; never shows the key."""
        ...


class PayingSigner(Protocol):
    """Something that signs transactions for an address that holds funds."""

    @property
    def address(self) -> bytes:
        """The 20-byte address of the key."""
        ...

    def sign_transaction(self, unsigned: bytes) -> bytes:
        """Signs the keccak256 of an unsigned transaction (EIP-2718: type, then its fields), which
        it may read and refuse; as r||s||v, 65 bytes, v in {27, 28}, low s."""
        ...


class LocalKey:
    """A secp256k1 key in memory. Its repr shows the address and never the secret.

    Args:
        secret: 32 bytes.

    Raises:
        ChainConfigError: not a valid secret.
    """

    __slots__ = ("_key", "address")

    def __init__(self, secret: bytes) -> None:
        try:
            if len(secret) != 32:
                raise ValueError
            self._key = coincurve.PrivateKey(secret)
        except ValueError:
            raise ChainConfigError("a secret key is 32 bytes, not 0 and below the order") from None
        self.address = address_of(self._key.public_key.format(compressed=False))

    def __repr__(self) -> str:
        return f"LocalKey(0x{self.address.hex()})"

    def sign_transaction(self, unsigned: bytes) -> bytes:
        """Signs a transaction that is to be."""
        return self.sign(keccak256(unsigned))

    def sign(self, digest: bytes) -> bytes:
        """Signs a digest (RFC 6979, low s) as r||s||v with v in {27, 28}."""
        raw = self._key.sign_recoverable(digest, hasher=None)
        return bytes(raw[:64]) + bytes([27 + raw[64]])


def address_of(public_key: bytes) -> bytes:
    """The 20-byte address of a public key in any SEC 1 form."""
    return keccak256(uncompressed(public_key)[1:])[12:]


def uncompressed(public_key: bytes) -> bytes:
    """The 65-byte form of a public key.

    Raises:
        ValueError: not a point of the curve.
    """
    return bytes(coincurve.PublicKey(public_key).format(compressed=False))


def recover(digest: bytes, signature: bytes) -> bytes:
    """The compressed public key that made a recoverable signature; v may be 0, 1, 27 or 28.

    Raises:
        ValueError: not a signature.
    """
    if len(signature) != 65 or signature[64] not in (0, 1, 27, 28):
        raise ValueError("a signature is 65 bytes with v of 0, 1, 27 or 28")
    raw = signature[:64] + bytes([signature[64] % 27])
    try:
        key = coincurve.PublicKey.from_signature_and_message(raw, digest, hasher=None)
    except Exception:  # coincurve raises a bare Exception for an unrecoverable signature
        raise ValueError("no key made this signature") from None
    return bytes(key.format(compressed=True))


def with_v27(signature: bytes) -> bytes:
    """A signature with v in {27, 28}, as contracts want it; dstack's carry 0 or 1.

    Raises:
        ValueError: not a signature.
    """
    if len(signature) != 65 or signature[64] not in (0, 1, 27, 28):
        raise ValueError("a signature is 65 bytes with v of 0, 1, 27 or 28")
    return signature[:64] + bytes([27 + signature[64] % 27])
