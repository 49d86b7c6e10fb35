"""What the cluster shows the chain: liars, leaders, deposed leaders.

The registry names the contract that checks such certificates. What is shown are the values of
``shown``; where they come from is for the caller to know. Everything is signed by members, so
whoever sends it only pays.
"""

from __future__ import annotations

from typing import Any

from chain.abi import ContractAbi, FunctionAbi
from chain.agreement import Reverted
from chain.errors import BadChainData, NotDeployed
from chain.evm import EvmRegistry
from chain.headers import Header
from chain.keys import address_of
from chain.sender import TransactionSender, TxOutcome, TxState
from chain.shown import ShownDeposal, ShownEpoch, ShownLeader, SignedVote
from contracts import artifact

CHANGES_MAX = 256  # how far back the change that made an epoch is looked for
_ANSWER_BYTES_MAX = 96


def certificates_abi() -> ContractAbi:
    """The interface of the contract, with the registry's errors, which its calls may end in."""
    return ContractAbi([*artifact("Registry").abi, *artifact("Certificates").abi])


async def change_of(registry: EvmRegistry, chain_block: int) -> tuple[int, int]:
    """The registry's last change of who votes in a block, and the change after it (0: none).

    Both 0 for block 0: the set of launch or recovery goes on.

    Raises:
        BadChainData: there was no change in that block, or not among the newest.
    """
    if chain_block == 0:
        return 0, 0
    newest = registry.newest
    version = newest.last_change.version if newest and newest.last_change else 0
    following = 0
    for _ in range(CHANGES_MAX):
        if version == 0:
            break
        block_number, _total, previous = await registry.call("changeOf", version)
        if block_number == chain_block:
            return version, following
        version, following = previous, version
    raise BadChainData(f"no change of who votes is known in block {chain_block}")


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
        (found,) = await self._ask("convicted", header, "0x" + address_of(node_key).hex())
        return bool(found)

    async def knows_epoch(self, epoch: int) -> bool:
        """Whether votes of that epoch count there, as far as the chain is final.

        Raises ``ChainError``.
        """
        header = await self._registry.finalized()
        _version, weight, recoveries = await self._ask("snapshot", header, epoch)
        newest = self._registry.newest
        return weight > 0 and newest is not None and recoveries == newest.recoveries

    async def last_deposed(self, seat: int) -> tuple[int, int]:
        """Epoch and term of a seat's last deposal on record, as far as the chain is final.

        Zeros when there is none. Raises ``ChainError``.
        """
        header = await self._registry.finalized()
        epoch, term = await self._ask("lastDeposed", header, seat)
        return epoch, term

    async def prove_conflict(
        self, seat: int, first: SignedVote, second: SignedVote, *, until: TxState = TxState.FINAL
    ) -> TxOutcome:
        """Shows two votes of one key that no correct member signs both.

        The seat answers for the key that sits on it, and for some time for one that left it.
        """
        data = self._function("proveConflict").encode(seat, first.fields(), second.fields())
        return await self._send(f"conflict of seat {seat} in epoch {first.epoch}", data, until)

    async def open_epoch(self, shown: ShownEpoch, *, until: TxState = TxState.FINAL) -> TxOutcome:
        """Binds an epoch to the registry's members of a chain block: its votes count from then."""
        change = await change_of(self._registry, shown.chain_block)
        data = self._function("openEpoch").encode(*shown.values(*change))
        return await self._send(f"open epoch {shown.epoch}", data, until)

    async def record_leader(
        self, shown: ShownLeader, *, until: TxState = TxState.FINAL
    ) -> TxOutcome:
        """Records who leads: the proposer of a final block."""
        data = self._function("recordLeader").encode(*shown.values())
        epoch, term = shown.token
        return await self._send(f"leader of term {epoch}.{term}", data, until)

    async def depose(self, shown: ShownDeposal, *, until: TxState = TxState.FINAL) -> TxOutcome:
        """Shows that the cluster deposed a leader."""
        data = self._function("depose").encode(*shown.values())
        return await self._send(f"deposed leader of term {shown.epoch}.{shown.term}", data, until)

    async def _ask(self, view: str, at: Header, *values: object) -> tuple[Any, ...]:
        function = self._function(view)
        (found,) = await self._registry.reader.call_many(
            self._address(), [function.encode(*values)], at, answer_bytes_max=_ANSWER_BYTES_MAX
        )
        if isinstance(found, Reverted):
            raise self._abi.reverted(found.data)
        return function.decode(found)

    async def _send(self, intent: str, data: bytes, until: TxState) -> TxOutcome:
        return await self._sender.send(intent, self._address(), data, until=until)

    def _address(self) -> bytes:
        if not self.named:
            raise NotDeployed("the registry names no contract of certificates")
        return self._registry.certificates

    def _function(self, name: str) -> FunctionAbi:
        return self._abi.function(name)
