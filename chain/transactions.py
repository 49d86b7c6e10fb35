"""EIP-1559 transactions: signing hash, raw bytes. Twenty lines instead of a second of import.

Sources: EIP-2718 (envelope), EIP-1559 (type 2).
"""

from __future__ import annotations

from dataclasses import dataclass

from chain import rlp
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
    signature = key.sign(keccak256(_TYPE + rlp.encode(fields)))
    if len(signature) != 65 or signature[64] not in (27, 28):
        raise ValueError("the signer did not give 65 bytes with v of 27 or 28")
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:64], "big")
    raw = _TYPE + rlp.encode([*fields, signature[64] - 27, r, s])
    return SignedTransaction(keccak256(raw), raw)


def contract_address(sender: bytes, nonce: int) -> bytes:
    """The address of the contract that a deployment with this nonce creates."""
    return keccak256(rlp.encode([sender, nonce]))[12:]
