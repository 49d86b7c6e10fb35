"""Block headers as endpoints tell them, rebuilt to see whether they hash to the hash they name.

A header whose fields give its hash is *sealed*: whoever agrees on the hash has agreed on the state
root, the time and the randomness as well. Sources: yellow paper section 4.3, and for the fields
that forks appended EIP-1559 (base fee), EIP-4895 (withdrawals), EIP-4844 (blob gas), EIP-4788
(beacon root), EIP-7685 (requests), EIP-7928 (access lists), EIP-7843 (slot number).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chain import rlp
from chain.decoding import data, fields_of, quantity
from chain.errors import BadChainData
from chain.keys import keccak256

EXTRA_BYTES_MAX = 1024  # Ethereum has 32; chains that sign blocks put seals there
_BLOOM_BYTES = 256

# JSON name and size in bytes, 0 for an integer, in the order of the RLP list.
_ALWAYS: tuple[tuple[str, int | None], ...] = (
    ("parentHash", 32),
    ("sha3Uncles", 32),
    ("miner", 20),
    ("stateRoot", 32),
    ("transactionsRoot", 32),
    ("receiptsRoot", 32),
    ("logsBloom", _BLOOM_BYTES),
    ("difficulty", 0),
    ("number", 0),
    ("gasLimit", 0),
    ("gasUsed", 0),
    ("timestamp", 0),
    ("extraData", None),
    ("mixHash", 32),
    ("nonce", 8),
)
# A header has the first few of these and none after the first that it lacks.
_SINCE_FORKS: tuple[tuple[str, int | None], ...] = (
    ("baseFeePerGas", 0),
    ("withdrawalsRoot", 32),
    ("blobGasUsed", 0),
    ("excessBlobGas", 0),
    ("parentBeaconBlockRoot", 32),
    ("requestsHash", 32),
    ("blockAccessListHash", 32),
    ("slotNumber", 0),
)


@dataclass(frozen=True, slots=True)
class Header:
    """What is taken from a block header.

    ``sealed``: all fields together hash to ``hash``, which so vouches for the others. When a
    chain's headers have fields that are not known here, they are not sealed, and ``state_root`` is
    empty: nothing can be proven against it.
    """

    number: int
    hash: bytes
    parent_hash: bytes
    time_s: int
    prev_randao: bytes
    state_root: bytes = b""
    sealed: bool = False


def header(value: Any) -> Header:
    """A block header from ``eth_getBlockBy*``.

    Raises:
        BadChainData: not an object, or a field that is needed is missing or malformed.
    """
    block = fields_of(value, "a block")
    block_hash = data(block.get("hash"), 32)
    sealed = _rebuilt_hash(block) == block_hash
    return Header(
        number=quantity(block.get("number"), 48),
        hash=block_hash,
        parent_hash=data(block.get("parentHash"), 32),
        time_s=quantity(block.get("timestamp"), 48),
        prev_randao=data(block.get("mixHash"), 32),
        state_root=data(block.get("stateRoot"), 32) if sealed else b"",
        sealed=sealed,
    )


def header_or_none(value: Any) -> Header | None:
    """A block header, None when the endpoint does not have the block."""
    return None if value is None else header(value)


def header_rlp(block: Mapping[str, Any]) -> bytes:
    """The header of a JSON block in the form whose keccak256 is the block's hash.

    Raises:
        BadChainData: a field is missing or malformed.
    """
    present = [field for field in _SINCE_FORKS if block.get(field[0]) is not None]
    if present != list(_SINCE_FORKS[: len(present)]):
        raise BadChainData("a header has a later fork's field without an earlier one's")
    return rlp.encode([_field(block, name, size) for name, size in (*_ALWAYS, *present)])


def _rebuilt_hash(block: Mapping[str, Any]) -> bytes | None:
    try:
        return keccak256(header_rlp(block))
    except BadChainData:
        return None


def _field(block: Mapping[str, Any], name: str, size: int | None) -> int | bytes:
    value = block.get(name)
    if size == 0:
        return quantity(value)
    found = data(value, size)
    if len(found) > EXTRA_BYTES_MAX:
        raise BadChainData(f"the field {name} of a header has {len(found)} bytes")
    return found
