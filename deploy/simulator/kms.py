"""What a dstack KMS and a guest agent compute, without any I/O: keys, claims and signatures.

The derivations are the real ones (``kms/src/crypto.rs`` and ``guest-agent`` of Dstack-TEE/dstack,
guest API v0 as of 0.5.11 and v1 of 0.6), so chains made here verify with the production code.
Only the root is not a KMS in a TEE but a file of the testnet.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from dataclasses import dataclass

from attest.chain import (
    APP_ID_BYTES,
    V1_ALGORITHM,
    claim_v0,
    claim_v1,
    kms_message,
    length_prefixed,
)
from attest.keys import SecretKey, address_of_key, keccak256

INSTANCE_SEED_BYTES = 20
KMS_SALT = b"RATLS"
V1_SALT = b"dstack-guest-v1"
V1_KEY_TAG = b"dstack-guest-v1-key"
ED25519 = "ed25519"

KMS_FILE_BYTES_MAX = 256


@dataclass(frozen=True, slots=True)
class AppKeys:
    """What a KMS hands to every machine of an app: its root secret, and the root's signature."""

    app_id: bytes
    secret: SecretKey
    kms_signature: bytes


@dataclass(frozen=True, slots=True)
class DerivedKey:
    """A derived key: ``key`` 32 secret bytes, ``public_key`` 33 bytes (ed25519: 32), the chain."""

    key: bytes
    public_key: bytes
    signature_chain: tuple[bytes, bytes]

    def __repr__(self) -> str:
        return f"DerivedKey(public_key={self.public_key.hex()})"


class UnsupportedAlgorithm(ValueError):
    """The named algorithm exists in neither API."""


def new_kms_root() -> bytes:
    """A fresh random KMS root secret, 32 bytes."""
    while True:
        secret = secrets.token_bytes(32)
        try:
            SecretKey(secret)
        except ValueError:  # zero or above the curve order: once in 2^128
            continue
        return secret


def root_address(secret: bytes) -> bytes:
    """The 20-byte Ethereum address that a registry trusts for this root secret (32 bytes)."""
    return address_of_key(SecretKey(secret).public_key())


def write_kms_root(path: str, secret: bytes) -> None:
    """Write a root secret as hex to a new file that only the owner can read.

    Raises FileExistsError rather than replace a root: that would change every identity below it.
    """
    text = SecretKey(secret).reveal().hex() + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def read_kms_root(path: str) -> bytes:
    """Read a root secret (32 bytes) written by ``write_kms_root``.

    Raises OSError, or ValueError when others could read or write the file or it holds no secret.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_mode & 0o077:
            raise ValueError(f"{path}: others can open this secret; chmod 600 it")
        text = file.read(KMS_FILE_BYTES_MAX).strip()
    try:
        return SecretKey(bytes.fromhex(text.decode("ascii"))).reveal()
    except ValueError:
        # "from None": the original error may quote the content.
        raise ValueError(f"{path}: expected 64 hex digits of a secp256k1 secret") from None


def hkdf(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 with 32 bytes of output, which is exactly one block (RFC 5869)."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def issue_app_keys(kms_root: bytes, app_id: bytes) -> AppKeys:
    """Derive the app's root key from the KMS root (32 bytes) and sign it; ``app_id`` 20 bytes."""
    if len(app_id) != APP_ID_BYTES:
        raise ValueError(f"an app id has {APP_ID_BYTES} bytes, got {len(app_id)}")
    secret = SecretKey(hkdf(kms_root, KMS_SALT, app_id + b"app-key"))
    message = kms_message(app_id, secret.public_key())
    return AppKeys(app_id, secret, SecretKey(kms_root).sign_recoverable(keccak256(message)))


def get_key_v0(app: AppKeys, path: str, purpose: str, algorithm: str) -> DerivedKey:
    """Guest API v0 ``GetKey``: only ``path`` enters the key, purpose and algorithm the claim.

    Raises UnsupportedAlgorithm.
    """
    key = hkdf(app.secret.reveal(), KMS_SALT, path.encode())
    if algorithm in ("", V1_ALGORITHM, "k256"):
        public_key = SecretKey(key).public_key()
    elif algorithm == ED25519:
        public_key = _ed25519_public_key(key)
    else:
        raise UnsupportedAlgorithm(f"Unsupported algorithm: {algorithm}")
    return _certified(app, key, public_key, claim_v0(purpose, public_key))


def get_key_v1(app: AppKeys, domain: str, algorithm: str) -> DerivedKey:
    """Guest API v1 ``GetKey``: algorithm and domain enter both key and claim.

    Raises UnsupportedAlgorithm.
    """
    if algorithm not in (V1_ALGORITHM, ED25519):
        raise UnsupportedAlgorithm(f"Unsupported algorithm: {algorithm}")
    parts = (V1_KEY_TAG, algorithm.encode(), domain.encode())
    key = hkdf(app.secret.reveal(), V1_SALT, b"".join(length_prefixed(part) for part in parts))
    public_key = (
        SecretKey(key).public_key() if algorithm == V1_ALGORITHM else _ed25519_public_key(key)
    )
    return _certified(app, key, public_key, claim_v1(domain, public_key, algorithm))


def instance_id(seed: bytes, app_id: bytes) -> bytes:
    """The 20-byte instance id that a machine with this 20-byte seed has for the app."""
    if len(seed) != INSTANCE_SEED_BYTES:
        raise ValueError(f"an instance seed has {INSTANCE_SEED_BYTES} bytes, got {len(seed)}")
    return hashlib.sha256(seed + app_id).digest()[:20]


def _certified(app: AppKeys, key: bytes, public_key: bytes, claim: bytes) -> DerivedKey:
    app_signature = app.secret.sign_recoverable(keccak256(claim))
    return DerivedKey(key, public_key, (app_signature, app.kms_signature))


def _ed25519_public_key(seed: bytes) -> bytes:
    # Imported here: nodes never ask for it, and it would double the start-up of the simulator.
    from Crypto.Signature import eddsa

    return bytes(eddsa.import_private_key(seed).public_key().export_key(format="raw"))
