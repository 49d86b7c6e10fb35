"""The memory that keeps a node from being led back: what it has already acted on.

A node whose disk survives never accepts an older height or version, another chain, contract or
code, nor another block at a height it held for final.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from chain.errors import FinalityAlarm, NotKept, PinMismatch, RollbackRefused
from chain.files import load_json, replace_json

_FILE_BYTES_MAX = 4096
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Mark:
    """The newest finalized block that was acted on; ``version`` is -1 before the first snapshot."""

    chain_id: int
    contract: bytes
    code_hash: bytes
    height: int
    block_hash: bytes
    version: int


class Watermark:
    """A ``Mark`` on disk (or in memory only, without a path).

    Args:
        path: JSON file; its directory must exist.
        chain_id: pinned chain.
        contract: pinned 20-byte registry address.
        code_hash: keccak256 of the contract's code, empty to take the first one seen.

    Raises:
        PinMismatch: the file belongs to another chain or contract, or is not readable; an operator
            who really wants to start anew removes the file.
    """

    def __init__(
        self, path: Path | None, *, chain_id: int, contract: bytes, code_hash: bytes = b""
    ) -> None:
        self._path = path
        self._lock = trio.Lock()
        self.mark = Mark(chain_id, contract, code_hash, -1, b"", -1)
        stored = self._load()
        if stored is None:
            return
        if (stored.chain_id, stored.contract) != (chain_id, contract):
            raise PinMismatch(
                f"{path} belongs to chain {stored.chain_id}, contract 0x{stored.contract.hex()};"
                f" configured are chain {chain_id}, contract 0x{contract.hex()}"
            )
        if code_hash and stored.code_hash and stored.code_hash != code_hash:
            raise PinMismatch(
                f"{path} pins code 0x{stored.code_hash.hex()}, the configuration"
                f" 0x{code_hash.hex()}"
            )
        self.mark = replace(stored, code_hash=stored.code_hash or code_hash)

    def check_block(self, number: int, block_hash: bytes) -> None:
        """Refuses a finalized block below the mark, or another one at it.

        Raises:
            RollbackRefused: older; endpoints that lag or a chain that was rolled back.
            FinalityAlarm: the block at the marked height has changed.
        """
        mark = self.mark
        if number < mark.height:
            raise RollbackRefused(
                f"finalized block {number} is older than {mark.height}, already acted on"
            )
        if number == mark.height and block_hash != mark.block_hash:
            raise FinalityAlarm(
                f"finalized block {number} was 0x{mark.block_hash.hex()}"
                f" and is now 0x{block_hash.hex()}"
            )

    def check_code(self, code_hash: bytes) -> None:
        """Refuses another contract code than the pinned one.

        Raises:
            PinMismatch: it differs.
        """
        if self.mark.code_hash and self.mark.code_hash != code_hash:
            raise PinMismatch(
                f"the contract's code hash is 0x{code_hash.hex()},"
                f" pinned is 0x{self.mark.code_hash.hex()}"
            )

    async def advance(self, number: int, block_hash: bytes, *, code_hash: bytes = b"") -> None:
        """Records a finalized block that is about to be acted on, durably, before it is.

        Args:
            code_hash: the contract's code hash, empty to leave it.

        Raises:
            RollbackRefused, FinalityAlarm, PinMismatch: see above.
            NotKept: the disk does not take it.
        """
        async with self._lock:
            self.check_block(number, block_hash)
            if code_hash:
                self.check_code(code_hash)
            mark = replace(self.mark, height=number, block_hash=block_hash)
            await self._keep(replace(mark, code_hash=code_hash or mark.code_hash))

    async def advance_version(self, number: int, version: int) -> None:
        """Records the registry's version at a block that was the agreed final one when the reading
        of it began; this process may have seen a later one by now.

        Raises:
            RollbackRefused: the version is older than one already acted on.
            NotKept: the disk does not take it.
        """
        async with self._lock:
            if version < self.mark.version:
                raise RollbackRefused(
                    f"registry version {version} at block {number} is older than"
                    f" {self.mark.version}, already acted on"
                )
            await self._keep(replace(self.mark, version=version))

    async def _keep(self, new: Mark) -> None:
        if new == self.mark:
            return
        if self._path is not None:
            try:
                await trio.to_thread.run_sync(partial(self._store, self._path, new))
            except OSError as error:
                raise NotKept(
                    f"the watermark {self._path} cannot be written: {error.strerror}"
                ) from None
        self.mark = new

    @staticmethod
    def _store(path: Path, mark: Mark) -> None:
        fields: dict[str, Any] = {"format": _FORMAT}
        for name, value in asdict(mark).items():
            fields[name] = value.hex() if isinstance(value, bytes) else value
        replace_json(path, fields, _FILE_BYTES_MAX)

    def _load(self) -> Mark | None:
        if self._path is None:
            return None
        try:
            fields = load_json(self._path, _FILE_BYTES_MAX)
            if fields is None:
                return None
            if fields["format"] != _FORMAT:
                raise ValueError("unknown format")
            mark = Mark(
                chain_id=int(fields["chain_id"]),
                contract=bytes.fromhex(fields["contract"]),
                code_hash=bytes.fromhex(fields["code_hash"]),
                height=int(fields["height"]),
                block_hash=bytes.fromhex(fields["block_hash"]),
                version=int(fields["version"]),
            )
            if len(mark.contract) != 20 or len(mark.block_hash) not in (0, 32):
                raise ValueError("a field has the wrong length")
            return mark
        except (ValueError, KeyError, TypeError, OSError) as error:
            # Fail closed: a damaged watermark must not become a missing one.
            raise PinMismatch(f"the watermark {self._path} is not readable ({error})") from None
