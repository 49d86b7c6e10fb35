"""Keccak-256 as Ethereum uses it (the padding before FIPS 202, not SHA3-256).

pycryptodome's hash object costs twice what the hash itself does, and every vote takes two hashes.
So its C functions are called directly where they are as expected, and its public interface
elsewhere. Each call has its own state: the C code runs without the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable

from Crypto.Hash import keccak


def plain(data: bytes) -> bytes:
    """32 bytes, by the public interface of pycryptodome."""
    digest: bytes = keccak.new(digest_bits=256, data=data).digest()
    return digest


def _direct() -> Callable[[bytes], bytes]:
    """The C functions of pycryptodome, without its object.

    Raises AttributeError, KeyError or ImportError when they are not there as in the releases that
    we know, or are reached through ctypes, which is slower.
    """
    from Crypto.Util._raw_api import ffi

    library = vars(keccak)["_raw_keccak_lib"]
    init, destroy = library.keccak_init, library.keccak_destroy
    absorb, squeeze = library.keccak_absorb, library.keccak_digest
    new, buffer = ffi.new, ffi.buffer
    box_type, out_type = ffi.typeof("void *[1]"), ffi.typeof("uint8_t[32]")

    def hashed(data: bytes) -> bytes:
        box, out = new(box_type), new(out_type)
        if init(box, 64, 24):
            raise MemoryError("no memory for a hash")
        state = box[0]
        failed = absorb(state, data, len(data)) or squeeze(state, out, 32, 1)
        destroy(state)
        if failed:
            raise ValueError(f"keccak failed with {failed}")
        return bytes(buffer(out))

    return hashed


def _chosen() -> Callable[[bytes], bytes]:
    try:
        direct = _direct()
        return direct if all(direct(d) == plain(d) for d in (b"", bytes(300))) else plain
    except (AttributeError, ImportError, KeyError, TypeError):
        return plain


keccak256 = _chosen()
