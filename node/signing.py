"""secp256k1 for the protocol's ``Signer`` and ``Verifier``, by coincurve."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from coincurve import PrivateKey, PublicKey

_HALF_ORDER = bytes.fromhex("7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0")


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


def recover_plain(digest: bytes, signature: bytes) -> bytes | None:
    """The 33-byte key of which ``signature`` is the canonical one over ``digest``, or None.

    By the public interface of coincurve.
    """
    if len(signature) != 65 or signature[64] not in (27, 28):
        return None
    if signature[32:64] > _HALF_ORDER:
        return None
    plain = signature[:64] + bytes((signature[64] - 27,))
    try:
        return PublicKey.from_signature_and_message(plain, digest, hasher=None).format()
    except Exception:  # coincurve raises a bare Exception for a signature of no key
        return None


def _direct() -> Callable[[bytes, bytes], bytes | None]:
    """``recover_plain`` by the functions of libsecp256k1; coincurve's objects cost a third more.

    Raises AttributeError, ImportError or a cffi error when they are not there as in the releases
    that we know.
    """
    from coincurve._libsecp256k1 import ffi, lib
    from coincurve.context import GLOBAL_CONTEXT

    context, new, buffer = GLOBAL_CONTEXT.ctx, ffi.new, ffi.buffer
    parse = lib.secp256k1_ecdsa_recoverable_signature_parse_compact
    recovered, serialize = lib.secp256k1_ecdsa_recover, lib.secp256k1_ec_pubkey_serialize
    signature_type = ffi.typeof("secp256k1_ecdsa_recoverable_signature *")
    key_type = ffi.typeof("secp256k1_pubkey *")
    out_type, size_type = ffi.typeof("unsigned char[33]"), ffi.typeof("size_t *")
    compressed = lib.SECP256K1_EC_COMPRESSED

    # The library's objects, kept for the next check; each thread has its own, as the library
    # works without the interpreter's lock.
    class Scratch(threading.local):
        def __init__(self) -> None:
            self.parsed, self.key = new(signature_type), new(key_type)
            self.out, self.size = new(out_type), new(size_type, 33)

    scratch = Scratch()

    def recovered_key(digest: bytes, signature: bytes) -> bytes | None:
        if len(signature) != 65 or len(digest) != 32 or signature[64] not in (27, 28):
            return None
        if signature[32:64] > _HALF_ORDER:
            return None
        mine = scratch
        parsed, key, out = mine.parsed, mine.key, mine.out
        if not parse(context, parsed, signature, signature[64] - 27):
            return None
        if not recovered(context, key, parsed, digest):
            return None
        serialize(context, out, mine.size, key, compressed)
        return bytes(buffer(out))

    return recovered_key


def _chosen() -> Callable[[bytes, bytes], bytes | None]:
    digest = bytes(range(32))
    made = PrivateKey(digest).sign_recoverable(digest, hasher=None)
    samples = [made[:64] + bytes((27 + v,)) for v in (0, 1)] + [b"\xff" * 64 + b"\x1b", bytes(65)]
    try:
        direct = _direct()
        same = all(direct(digest, sample) == recover_plain(digest, sample) for sample in samples)
        return direct if same else recover_plain
    except Exception:  # cffi has many; the plain way is always there
        return recover_plain


# The 33-byte key of which a signature is the canonical one over a digest, or None.
recover = _chosen()
