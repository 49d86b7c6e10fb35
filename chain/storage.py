"""One contract's storage words, proven to the block where that can be done, and how it was done."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from chain import decoding
from chain.agreement import FinalizedReader
from chain.errors import NotDeployed, NotProven, PinMismatch
from chain.headers import Header
from chain.keys import keccak256
from chain.rpc import RpcEndpoint

PROVEN = "proven"

_log = structlog.get_logger("chain.storage")


class ContractStorage:
    """Reads words of a contract whose storage layout is known by its code.

    Args:
        reader: the endpoints.
        address: 20 bytes.
        matches_code: whether code is the one that the layout belongs to.
        required: raise NotProven where the caller would have to do with k equal answers.
    """

    def __init__(
        self,
        reader: FinalizedReader,
        address: bytes,
        matches_code: Callable[[bytes], bool],
        *,
        required: bool,
    ) -> None:
        self.address = address
        self.how = "not read yet"  # "proven", or why not; for the operator
        self._reader = reader
        self._matches_code = matches_code
        self._required = required
        self._code_hash = b""
        self._laid_out = False

    async def code_hash(self, at: Header) -> bytes:
        """The hash of the contract's code, read once.

        Raises:
            NotDeployed: there is none at that block.
        """
        if not self._code_hash:
            code = await self._reader.code_at(self.address, at)
            if not code:
                raise self._not_deployed(at)
            self._laid_out = self._matches_code(code)
            self._code_hash = keccak256(code)
        return self._code_hash

    async def is_laid_out(self, at: Header) -> bool:
        """Whether the contract's code is the one whose layout is known. Raises NotDeployed."""
        await self.code_hash(at)
        return self._laid_out

    async def words(self, slots: Sequence[int], at: Header) -> tuple[bytes, tuple[int, ...]] | None:
        """The storage root and the words, None when they have to be agreed on instead.

        Raises:
            NotDeployed, PinMismatch: no contract is proven to be there, or one of other code.
            NotProven: they cannot be proven, and that is required.
        """
        expected = await self.code_hash(at)
        try:
            if not self._laid_out:
                raise NotProven("the contract's code is not this release's: layout unknown")
            account = await self._reader.prove(self.address, slots, at)
        except NotProven as error:
            if self._required:
                raise
            quorum, count = self._reader.quorum, len(self._reader.endpoints)
            self.note(f"agreed on by {quorum} of {count}: {error}")
            return None
        if account is None:
            raise self._not_deployed(at)
        if account.code_hash != expected:
            raise PinMismatch(
                f"0x{self.address.hex()} has code of hash 0x{account.code_hash.hex()} at block"
                f" {at.number}, it had 0x{expected.hex()}"
            )
        self.note(PROVEN)
        return account.storage_root, account.slots

    async def agreed(self, slots: Sequence[int], at: Header) -> tuple[int, ...]:
        """The words as k endpoints give them alike."""
        block, address = decoding.block_id(at.hash), "0x" + self.address.hex()
        batch = [("eth_getStorageAt", [address, hex(slot), block]) for slot in slots]

        async def ask(endpoint: RpcEndpoint) -> tuple[int, ...]:
            answers = await endpoint.batch(batch)
            return tuple(int.from_bytes(decoding.data(a, 32), "big") for a in answers)

        return await self._reader.agree_by("eth_getStorageAt", ask) if batch else ()

    def note(self, how: str) -> None:
        """Says how the contract was read; a change is logged."""
        if how != self.how:
            log = _log.info if how == PROVEN else _log.warning
            log("chain.trust", contract="0x" + self.address.hex(), how=how)
        self.how = how

    def _not_deployed(self, at: Header) -> NotDeployed:
        return NotDeployed(f"no contract at 0x{self.address.hex()} at block {at.number}")
