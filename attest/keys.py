"""secp256k1 and keccak as this room uses them: strict encodings, recovery, hidden secrets.

Signatures are 65 bytes r || s || v. dstack writes v as the recovery id (0 or 1), Ethereum as
27 or 28; both forms occur here and the function names say which. Public keys are the 33-byte SEC1
compressed form. Digests are keccak-256 without the EIP-191 prefix.
"""

from __future__ import annotations

import hmac
from typing import NoReturn, SupportsIndex

from coincurve import PrivateKey, PublicKey
from sha3 import keccak_256

SIGNATURE_BYTES = 65
PUBLIC_KEY_BYTES = 33
SECRET_BYTES = 32
ADDRESS_BYTES = 20

CURVE_ORDER = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141


class SecretKey:
    """A 32-byte secret that neither prints, nor formats, nor pickles itself.

    ``reveal()`` is the only way to the bytes, so a search for that word finds every use.
    """

    __slots__ = ("_private_key", "_secret")

    def __init__(self, secret: bytes) -> None:
        if type(secret) is not bytes or len(secret) != SECRET_BYTES:
            raise ValueError(f"a secret key has {SECRET_BYTES} bytes")
        if not 0 < int.from_bytes(secret, "big") < CURVE_ORDER:
            raise ValueError("the secret key is outside the range of the curve")
        self._secret = secret
        self._private_key = PrivateKey(secret)  # made once: it costs more than a signature

    def reveal(self) -> bytes:
        """The 32 secret bytes; the caller must not log or store them."""
        return self._secret

    def public_key(self) -> bytes:
        """The compressed public key, 33 bytes."""
        return self._private_key.public_key.format(compressed=True)

    def sign_recoverable(self, digest: bytes) -> bytes:
        """Sign a 32-byte digest: r || s || v with v 0 or 1, low s, RFC 6979 nonce."""
        return self._private_key.sign_recoverable(digest, hasher=None)

    def __repr__(self) -> str:
        return "SecretKey(hidden)"

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretKey):
            return NotImplemented
        return hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self.public_key())

    def __copy__(self) -> SecretKey:
        return self

    def __deepcopy__(self, memo: object) -> SecretKey:
        return self

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError("a SecretKey is never serialised")


def keccak256(data: bytes) -> bytes:
    """Keccak-256 as Ethereum uses it (original padding, not SHA3-256)."""
    digest: bytes = keccak_256(data).digest()
    return digest


def is_public_key(key: bytes) -> bool:
    """Whether ``key`` is a canonical compressed point of secp256k1."""
    if len(key) != PUBLIC_KEY_BYTES:
        return False
    try:
        PublicKey(key)
    except ValueError:
        return False
    return True


def compressed_to_xy(key: bytes) -> tuple[bytes, bytes]:
    """The affine coordinates of a compressed key, 32 bytes big-endian each.

    Raises ValueError when ``key`` is no compressed point of the curve.
    """
    if len(key) != PUBLIC_KEY_BYTES:
        raise ValueError(f"a compressed key has {PUBLIC_KEY_BYTES} bytes, got {len(key)}")
    point = PublicKey(key).format(compressed=False)
    return point[1:33], point[33:65]


def address_of_key(key: bytes) -> bytes:
    """The 20-byte Ethereum address of a compressed key. Raises ValueError as above."""
    x, y = compressed_to_xy(key)
    return keccak256(x + y)[12:]


def checksum_address(address: bytes) -> str:
    """``0x`` text of a 20-byte address with the EIP-55 checksum, for humans and configs."""
    if len(address) != ADDRESS_BYTES:
        raise ValueError(f"an address has {ADDRESS_BYTES} bytes, got {len(address)}")
    text = address.hex()
    mask = keccak256(text.encode()).hex()
    return "0x" + "".join(
        c.upper() if int(m, 16) >= 8 else c for c, m in zip(text, mask, strict=False)
    )


def signature_defect(signature: bytes) -> str | None:
    """Why a signature is not in dstack's one canonical form, or None when it is.

    Canonical: 65 bytes, recovery id 0 or 1, 0 < r < n, 0 < s <= n/2. Ids 2 and 3 stand for r >= n,
    which no honest signer ever produces and ``ecrecover`` cannot express; the high-s twin of a
    signature is as valid to the curve, so accepting it would make proofs malleable.
    """
    if len(signature) != SIGNATURE_BYTES:
        return f"expected {SIGNATURE_BYTES} bytes, got {len(signature)}"
    if signature[64] not in (0, 1):
        return f"expected recovery id 0 or 1, got {signature[64]}"
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:64], "big")
    if not 0 < r < CURVE_ORDER:
        return "r is outside the range of the curve"
    if s == 0:
        return "s is zero"
    if s > CURVE_ORDER // 2:
        return "s is not in the lower half"
    return None


def recover_key(signature: bytes, digest: bytes) -> bytes | None:
    """The compressed key that made a canonical v-0/1 signature over a 32-byte digest.

    None when the signature names no point. Check ``signature_defect`` first.
    """
    try:
        key = PublicKey.from_signature_and_message(signature, digest, hasher=None)
    except ValueError:
        return None
    return key.format(compressed=True)


def to_evm_signature(signature: bytes) -> bytes:
    """Turn dstack's v 0/1 into 27/28 for ``ecrecover``. Raises ValueError if not canonical."""
    defect = signature_defect(signature)
    if defect is not None:
        raise ValueError(defect)
    return signature[:64] + bytes([signature[64] + 27])


def from_evm_signature(signature: bytes) -> bytes:
    """Turn v 27/28 back into dstack's 0/1. Raises ValueError if the result is not canonical."""
    if len(signature) != SIGNATURE_BYTES or signature[64] not in (27, 28):
        raise ValueError(f"expected {SIGNATURE_BYTES} bytes that end in 27 or 28")
    plain = signature[:64] + bytes([signature[64] - 27])
    defect = signature_defect(plain)
    if defect is not None:
        raise ValueError(defect)
    return plain
