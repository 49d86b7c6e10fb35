"""EIP-1559 transactions: signing hash, raw bytes. Twenty lines instead of a second of import.

Sources: EIP-2718 (envelope), EIP-1559 (type 2).
"""

from __future__ import annotations

from dataclasses import dataclass

from chain import rlp
from chain.errors import SignerError
from chain.keys import CURVE_ORDER, PayingSigner, address_of, keccak256, recover

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


def sign(transaction: Transaction, key: PayingSigner) -> SignedTransaction:
    """Signs a transaction; the same input gives the same bytes when the signer is deterministic.

    Raises:
        SignerError: what the signer gave is not its address's signature of this transaction.
    """
    t = transaction
    fields: list[object] = [
        t.chain_id, t.nonce, t.tip, t.fee_max, t.gas, t.to, t.value, t.data, [],
    ]  # fmt: skip
    unsigned = _TYPE + rlp.encode(fields)
    signature = key.sign_transaction(unsigned)
    r = int.from_bytes(signature[:32], "big")
    s = int.from_bytes(signature[32:64], "big")
    try:
        # EIP-2: the other s of the same signature is refused by nodes.
        if signature[64:] not in (b"\x1b", b"\x1c") or 2 * s > CURVE_ORDER:
            raise ValueError
        if address_of(recover(keccak256(unsigned), signature)) != key.address:
            raise ValueError
    except ValueError:
        raise SignerError(
            f"the signer of 0x{key.address.hex()} did not sign the transaction it was asked to"
        ) from None
    raw = _TYPE + rlp.encode([*fields, signature[64] - 27, r, s])
    return SignedTransaction(keccak256(raw), raw)


def contract_address(sender: bytes, nonce: int) -> bytes:
    """The address of the contract that a deployment with this nonce creates."""
    return keccak256(rlp.encode([sender, nonce]))[12:]
