"""EIP-1559 transactions: RLP, signing hash, raw bytes. Forty lines instead of a second of import.

Sources: yellow paper appendix B (RLP), EIP-2718 (envelope), EIP-1559 (type 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from chain.keys import HashSigner, keccak256

_TYPE = b"\x02"


@dataclass(frozen=True, slots=True)
class Transaction:
    """A type-2 transaction to sign; ``to`` is empty for a deployment. Fees in wei per gas."""

    chain_id: int
    nonce: int
    tip: int
    fee_max: int
    gas: int
    to: bytes
    value: int
    data: bytes


@dataclass(frozen=True, slots=True)
class SignedTransaction:
    """What is sent, and the hash it will be found by."""

    hash: bytes
    raw: bytes


def sign(transaction: Transaction, key: HashSigner) -> SignedTransaction:
    """Signs a transaction; the same input gives the same bytes when the signer is deterministic."""
    t = transaction
    fields: list[object] = [
        t.chain_id, t.nonce, t.tip, t.fee_max, t.gas, t.to, t.value, t.data, [],
    ]  # fmt: skip
    signature = key.sign(keccak256(_TYPE + rlp(fields)))
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise ValueError("the signer did not give 65 bytes with v of 27 or 28")
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:64], "big")
    raw = _TYPE + rlp([*fields, signature[64] - 27, r, s])
    return SignedTransaction(keccak256(raw), raw)


def contract_address(sender: bytes, nonce: int) -> bytes:
    """The address of the contract that a deployment with this nonce creates."""
    return keccak256(rlp([sender, nonce]))[12:]


def rlp(item: object) -> bytes:
    """Recursive length prefix of bytes, non-negative integers and sequences of such."""
    if isinstance(item, int):
        return rlp(item.to_bytes((item.bit_length() + 7) // 8, "big"))
    if isinstance(item, bytes):
        if len(item) == 1 and item[0] < 0x80:
            return item
        return _prefix(len(item), 0x80) + item
    if isinstance(item, Sequence):
        body = b"".join(rlp(part) for part in item)
        return _prefix(len(body), 0xC0) + body
    raise TypeError(f"no RLP of {type(item).__name__}")


def _prefix(length: int, offset: int) -> bytes:
    if length < 56:
        return bytes([offset + length])
    size = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes([offset + 55 + len(size)]) + size
