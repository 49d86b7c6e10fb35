"""Strict decoding of what JSON-RPC answers hold: quantities, bytes, receipts, logs.

Each function turns one agreed question's result into a plain value that two endpoints can be
compared by; fields that clients differ in (such as ``blockTimestamp`` in logs) do not enter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from chain.errors import BadChainData

_QUANTITY = re.compile(r"0x(?:0|[1-9a-fA-F][0-9a-fA-F]{0,63})")
_DATA = re.compile(r"0x(?:[0-9a-fA-F]{2})*")
LOG_TOPICS_MAX = 4


@dataclass(frozen=True, slots=True)
class Receipt:
    """Where a transaction was mined and whether it did what it said."""

    tx_hash: bytes
    block_number: int
    block_hash: bytes
    succeeded: bool
    gas_used: int
    effective_gas_price: int


@dataclass(frozen=True, slots=True)
class Log:
    """One event as an endpoint tells it; nothing of it is true until a digest says so."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    log_index: int


def quantity(value: Any, bits: int = 256) -> int:
    """A JSON-RPC quantity ("0x1a") below ``2**bits``."""
    if not isinstance(value, str) or not _QUANTITY.fullmatch(value):
        raise BadChainData("a quantity is not of the form 0x1a")
    number = int(value, 16)
    if number >> bits:
        raise BadChainData(f"a quantity does not fit in {bits} bits")
    return number


def hexed(raw: bytes) -> str:
    """Bytes as JSON-RPC writes them."""
    return "0x" + raw.hex()


def block_id(block_hash: bytes) -> dict[str, Any]:
    """Names a block by its hash (EIP-1898), so that no other block of its height is meant."""
    return {"blockHash": hexed(block_hash), "requireCanonical": True}


def data(value: Any, size: int | None = None) -> bytes:
    """JSON-RPC data ("0x0102"), of exactly ``size`` bytes when given."""
    if not isinstance(value, str) or not _DATA.fullmatch(value):
        raise BadChainData("data is not of the form 0x0102")
    raw = bytes.fromhex(value[2:])
    if size is not None and len(raw) != size:
        raise BadChainData(f"data has {len(raw)} bytes, expected {size}")
    return raw


def fields_of(value: Any, what: str) -> dict[str, Any]:
    """A JSON object; ``what`` names it in the error."""
    if not isinstance(value, dict):
        raise BadChainData(f"{what} is not an object")
    return value


def receipt_or_none(value: Any) -> Receipt | None:
    """A receipt from ``eth_getTransactionReceipt``, None while there is none."""
    if value is None:
        return None
    fields = fields_of(value, "a receipt")
    return Receipt(
        tx_hash=data(fields.get("transactionHash"), 32),
        block_number=quantity(fields.get("blockNumber"), 48),
        block_hash=data(fields.get("blockHash"), 32),
        succeeded=quantity(fields.get("status"), 1) == 1,
        gas_used=quantity(fields.get("gasUsed"), 64),
        effective_gas_price=quantity(fields.get("effectiveGasPrice"), 128),
    )


def logs(value: Any, count_max: int) -> list[Log]:
    """Logs from ``eth_getLogs``; at most ``count_max``."""
    if not isinstance(value, list) or len(value) > count_max:
        raise BadChainData(f"logs are not an array of at most {count_max}")
    found = []
    for item in value:
        fields = fields_of(item, "a log")
        topics = fields.get("topics")
        if not isinstance(topics, list) or len(topics) > LOG_TOPICS_MAX:
            raise BadChainData("the topics of a log are not an array of at most 4")
        found.append(
            Log(
                address=data(fields.get("address"), 20),
                topics=tuple(data(topic, 32) for topic in topics),
                data=data(fields.get("data")),
                block_number=quantity(fields.get("blockNumber"), 48),
                log_index=quantity(fields.get("logIndex"), 48),
            )
        )
    return found
