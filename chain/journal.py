"""The transaction sender's memory on disk: every transaction is here before it is sent.

A sender that was killed finds what it may have sent, with the raw bytes, and goes on from there
instead of signing a second transaction for the same purpose.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

import trio

from chain.errors import JournalError
from chain.files import load_json, replace_json

_FORMAT = 1
_FILE_BYTES_MAX = 16 * 1024 * 1024
FINISHED_KEPT = 32
INTENT_CHARS_MAX = 256


class TxState(StrEnum):
    """Where a transaction is.

    ======== ===========================================  ==========================
    state    meaning                                      next
    ======== ===========================================  ==========================
    pending  written down, perhaps sent                   included, failed, replaced
    included mined with success, not yet final            final, pending (reorg)
    final    mined with success in a finalized block      -
    replaced another transaction took its nonce           -
    failed   mined and reverted in a finalized block      -
    ======== ===========================================  ==========================
    """

    PENDING = "pending"
    INCLUDED = "included"
    FINAL = "final"
    REPLACED = "replaced"
    FAILED = "failed"


OPEN_STATES = (TxState.PENDING, TxState.INCLUDED)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One signed version of a transaction; later ones carry higher fees.

    ``raw`` is empty, as the ``data`` of the entry, when the transaction has ended.
    """

    hash: bytes
    raw: bytes
    tip: int
    fee_max: int
    height: int  # chain height when it was first sent


@dataclass(slots=True)
class Entry:
    """One transaction and all that was tried to get it mined."""

    intent: str
    nonce: int
    to: bytes
    value: int
    data: bytes
    gas: int
    attempts: list[Attempt] = field(default_factory=list)
    state: TxState = TxState.PENDING
    reason: str = ""
    tx_hash: bytes = b""
    block_number: int = -1
    block_hash: bytes = b""
    gas_used: int = 0


class Journal:
    """The entries of one key on one chain, in order of nonce (in memory only without a path).

    Raises:
        JournalError: the file cannot be read, is damaged or belongs to another key or chain.
    """

    def __init__(self, path: Path | None, *, chain_id: int, address: bytes) -> None:
        self._path = path
        self._owner = {"chain_id": chain_id, "address": address.hex()}
        self._lock = trio.Lock()
        self.entries: list[Entry] = self._load()

    def open_entries(self) -> list[Entry]:
        """Entries whose fate is not settled, in order of nonce."""
        return [entry for entry in self.entries if entry.state in OPEN_STATES]

    async def save(self) -> None:
        """Writes all entries durably; only the newest finished ones are kept.

        Raises JournalError: the file is as before, and nothing may be sent that it does not have.
        """
        async with self._lock:
            finished = [entry for entry in self.entries if entry.state not in OPEN_STATES]
            for entry in finished:  # long ones, signed again and again, would fill the file
                entry.data = b""
                entry.attempts = [replace(attempt, raw=b"") for attempt in entry.attempts]
            dropped = {id(entry) for entry in finished[:-FINISHED_KEPT]}
            self.entries = [entry for entry in self.entries if id(entry) not in dropped]
            if self._path is None:
                return
            content = {
                "format": _FORMAT,
                **self._owner,
                "entries": [_to_json(entry) for entry in self.entries],
            }
            try:
                await trio.to_thread.run_sync(
                    partial(replace_json, self._path, content, _FILE_BYTES_MAX)
                )
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise JournalError(
                    f"the journal {self._path} cannot be written: {reason}"
                ) from None

    def _load(self) -> list[Entry]:
        if self._path is None:
            return []
        try:
            content = load_json(self._path, _FILE_BYTES_MAX)
            if content is None:
                return []
            if content["format"] != _FORMAT:
                raise ValueError("unknown format")
            if {key: content[key] for key in self._owner} != self._owner:
                raise JournalError(f"the journal {self._path} belongs to another key or chain")
            return [_from_json(fields) for fields in content["entries"]]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise JournalError(f"the journal {self._path} is not readable ({error})") from None


def _to_json(entry: Entry) -> dict[str, Any]:
    return {
        "intent": entry.intent,
        "nonce": entry.nonce,
        "to": entry.to.hex(),
        "value": str(entry.value),
        "data": entry.data.hex(),
        "gas": entry.gas,
        "state": entry.state.value,
        "reason": entry.reason,
        "tx_hash": entry.tx_hash.hex(),
        "block_number": entry.block_number,
        "block_hash": entry.block_hash.hex(),
        "gas_used": entry.gas_used,
        "attempts": [
            {
                "hash": attempt.hash.hex(),
                "raw": attempt.raw.hex(),
                "tip": str(attempt.tip),
                "fee_max": str(attempt.fee_max),
                "height": attempt.height,
            }
            for attempt in entry.attempts
        ],
    }


def _from_json(fields: dict[str, Any]) -> Entry:
    return Entry(
        intent=str(fields["intent"]),
        nonce=int(fields["nonce"]),
        to=bytes.fromhex(fields["to"]),
        value=int(fields["value"]),
        data=bytes.fromhex(fields["data"]),
        gas=int(fields["gas"]),
        state=TxState(fields["state"]),
        reason=str(fields["reason"]),
        tx_hash=bytes.fromhex(fields["tx_hash"]),
        block_number=int(fields["block_number"]),
        block_hash=bytes.fromhex(fields["block_hash"]),
        gas_used=int(fields["gas_used"]),
        attempts=[
            Attempt(
                hash=bytes.fromhex(attempt["hash"]),
                raw=bytes.fromhex(attempt["raw"]),
                tip=int(attempt["tip"]),
                fee_max=int(attempt["fee_max"]),
                height=int(attempt["height"]),
            )
            for attempt in fields["attempts"]
        ],
    )
