"""What the cluster shows the chain: liars, leaders, deposed leaders.

The registry names the contract that checks such certificates. What is shown is plain values here,
in the forms that the contract reads (``ICertificates.sol``); where they come from is for the caller
to know. Everything is signed by members, so whoever sends it only pays.
"""

from __future__ import annotations

from dataclasses import dataclass

from chain.abi import ContractAbi, FunctionAbi
from chain.agreement import Reverted
from chain.errors import BadChainData, NotDeployed
from chain.evm import EvmRegistry
from chain.headers import Header
from chain.keys import address_of
from chain.sender import TransactionSender, TxOutcome, TxState
from contracts import artifact

HEADER_BYTES = 152
PART_BYTES = 69
CHANGES_MAX = 256  # how far back the change that made an epoch is looked for
_WORD_BYTES = 32


@dataclass(frozen=True, slots=True)
class SignedVote:
    """A vote as its signer signed it.

    Args:
        kind: 1 notarize, 2 nullify, 3 finalize.
        block_hash: 32 bytes, zeros for a nullify vote.
        reason: 0 unless it is a nullify vote.
        signature: 65 bytes r||s||v with v of 27 or 28 and low s.
    """

    kind: int
    epoch: int
    term: int
    index: int
    block_hash: bytes
    reason: int
    signature: bytes

    def fields(self) -> tuple[int | bytes, ...]:
        """As the contract's ``Vote`` struct has it."""
        return (
            self.kind, self.epoch, self.term, self.index, self.block_hash, self.reason,
            *compact_signature(self.signature),
        )  # fmt: skip


def certificates_abi() -> ContractAbi:
    """The interface of the contract, with the registry's errors, which its calls may end in."""
    return ContractAbi([*artifact("Registry").abi, *artifact("Certificates").abi])


def compact_signature(signature: bytes) -> tuple[bytes, bytes]:
    """r, and s with the parity of the nonce point in its top bit (EIP-2098).

    Raises:
        ValueError: not a signature with low s and v of 27 or 28.
    """
    if len(signature) != 65 or signature[64] not in (27, 28) or signature[32] & 0x80:
        raise ValueError("a signature is 65 bytes with low s and v of 27 or 28")
    top = (signature[64] - 27) << 7
    return signature[:32], bytes([signature[32] | top]) + signature[33:64]


class Certificates:
    """Shows things to the contract that the registry names, and asks what it knows.

    Args:
        registry: its newest snapshot tells where the contract is.
        sender: pays; its ABI should be ``certificates_abi()``, so that refusals are readable.

    Sending raises as ``TransactionSender.send``: what the contract would refuse costs nothing, and
    is a ``CallReverted`` with the name of its error. NotDeployed: the registry names no contract.
    """

    def __init__(self, registry: EvmRegistry, sender: TransactionSender) -> None:
        self._registry = registry
        self._sender = sender
        self._abi = certificates_abi()

    @property
    def named(self) -> bool:
        """Whether the registry names a contract, as far as it was read."""
        return any(self._registry.certificates)

    async def convicted(self, node_key: bytes) -> bool:
        """Whether the chain, as far as it is final, knows that this key (33 bytes) lied.

        Raises ``ChainError``.
        """
        header = await self._registry.finalized()
        data = self._function("convicted").encode("0x" + address_of(node_key).hex())
        return any(await self._ask(data, header))

    async def prove_conflict(
        self, seat: int, first: SignedVote, second: SignedVote, *, until: TxState = TxState.FINAL
    ) -> TxOutcome:
        """Shows two votes of a seat's present key that no correct member signs both."""
        data = self._function("proveConflict").encode(seat, first.fields(), second.fields())
        return await self._send(f"conflict of seat {seat} in epoch {first.epoch}", data, until)

    async def open_epoch(
        self,
        boundary: bytes,
        body: bytes,
        headers: bytes,
        parts: bytes,
        chain_block: int,
        *,
        until: TxState = TxState.FINAL,
    ) -> TxOutcome:
        """Binds an epoch to the registry's members of a chain block, so that its votes count there.

        Args:
            boundary, body: header and body of the block that ended the epoch before.
            headers: of blocks that stand on it in the new epoch, 152 bytes each.
            parts: the finalization of the last of them.
            chain_block: the block of the registry's change that the body names, 0 for none.
        """
        _check_forms(headers[:HEADER_BYTES], parts)
        version, following = await self._change_of(chain_block) if chain_block else (0, 0)
        data = self._function("openEpoch").encode(
            boundary, body, headers, parts, version, following
        )
        epoch = int.from_bytes(headers[:8], "big")
        return await self._send(f"open epoch {epoch}", data, until)

    async def _change_of(self, chain_block: int) -> tuple[int, int]:
        """The registry's last change of who votes in a block, and the change after it (0: none).

        Raises:
            BadChainData: there was no change in that block, or not among the newest.
        """
        newest = self._registry.newest
        version = newest.last_change.version if newest and newest.last_change else 0
        following = 0
        for _ in range(CHANGES_MAX):
            if version == 0:
                break
            block_number, _total, previous = await self._registry.call("changeOf", version)
            if block_number == chain_block:
                return version, following
            version, following = previous, version
        raise BadChainData(f"no change of who votes is known in block {chain_block}")

    async def record_leader(
        self, header: bytes, parts: bytes, *, until: TxState = TxState.FINAL
    ) -> TxOutcome:
        """Records who leads: the proposer of a final block.

        Args:
            header: 152 bytes, see ``consensus.compact``.
            parts: the finalization of that block, 69 bytes each.
        """
        _check_forms(header, parts)
        epoch, term = (int.from_bytes(header[at : at + 8], "big") for at in (0, 8))
        data = self._function("recordLeader").encode(header, parts)
        return await self._send(f"leader of term {epoch}.{term}", data, until)

    async def depose(
        self,
        view: tuple[int, int, int],
        parts: bytes,
        *,
        header: bytes = b"",
        signature: bytes = b"",
        until: TxState = TxState.FINAL,
    ) -> TxOutcome:
        """Shows that the cluster deposed a leader.

        Args:
            view: epoch, term and index that were nullified.
            parts: the nullification.
            header, signature: a block that the leader proposed in that term, and its notarize vote
                for it; empty when that term's leadership is on record.
        """
        _check_forms(header or bytes(HEADER_BYTES), parts)
        r, vs = compact_signature(signature) if header else (bytes(32), bytes(32))
        data = self._function("depose").encode(*view, parts, header, r, vs)
        return await self._send(f"deposed leader of term {view[0]}.{view[1]}", data, until)

    async def _ask(self, data: bytes, at: Header) -> bytes:
        (found,) = await self._registry.reader.call_many(
            self._address(), [data], at, answer_bytes_max=_WORD_BYTES
        )
        if isinstance(found, Reverted):
            raise self._abi.reverted(found.data)
        return found

    async def _send(self, intent: str, data: bytes, until: TxState) -> TxOutcome:
        return await self._sender.send(intent, self._address(), data, until=until)

    def _address(self) -> bytes:
        if not self.named:
            raise NotDeployed("the registry names no contract of certificates")
        return self._registry.certificates

    def _function(self, name: str) -> FunctionAbi:
        return self._abi.function(name)


def _check_forms(header: bytes, parts: bytes) -> None:
    if len(header) != HEADER_BYTES or not parts or len(parts) % PART_BYTES:
        raise ValueError(f"a header of {HEADER_BYTES} bytes and parts of {PART_BYTES} each")
