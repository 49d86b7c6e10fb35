"""The contract owner's side: deploy a registry, grant and bind seats, launch, wait for finality.

Used by the testnet launcher and by operators' commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import trio

from attest import PUBLIC_TEST_ROOTS
from chain.abi import ContractAbi, encode
from chain.agreement import open_reader
from chain.deployment import Deployment
from chain.errors import BadChainData, ChainConfigError, PinMismatch
from chain.evm import EvmRegistry
from chain.keys import PayingSigner, keccak256
from chain.sender import FeePolicy, TransactionSender, TxOutcome, TxState
from chain.transactions import contract_address
from contracts import artifact

MAX_SEATS = 1000
LEASE_S = 7 * 24 * 3600
RECOVERY_DELAY_S = 24 * 3600  # time to object to a recovery of a cluster without a quorum


def registry_abi() -> ContractAbi:
    """The interface of the committed registry artifact."""
    return ContractAbi(artifact("Registry").abi)


def open_registry(
    deployment: Deployment,
    rpc_urls: list[str],
    quorum: int,
    *,
    watermark_path: Path | None = None,
    single_rpc_insecure: bool = False,
    poll_interval_s: float = 4.0,
) -> EvmRegistry:
    """The registry of a deployment, code hash pinned; close it by ``registry.reader.aclose()``."""
    reader = open_reader(
        rpc_urls,
        quorum,
        chain_id=deployment.chain_id,
        contract=deployment.contract,
        code_hash=deployment.code_hash,
        watermark_path=watermark_path,
        single_rpc_insecure=single_rpc_insecure,
    )
    return EvmRegistry(
        reader,
        registry_abi(),
        deploy_block=deployment.deploy_block,
        poll_interval_s=poll_interval_s,
    )


def open_owner_sender(
    chain_id: int,
    rpc_urls: list[str],
    quorum: int,
    key: PayingSigner,
    *,
    journal_path: Path | None = None,
    single_rpc_insecure: bool = False,
    policy: FeePolicy | None = None,
) -> TransactionSender:
    """A sender for the owner's key, which needs no contract yet; close ``sender.reader``."""
    reader = open_reader(
        rpc_urls,
        quorum,
        chain_id=chain_id,
        contract=bytes(20),
        single_rpc_insecure=single_rpc_insecure,
    )
    return TransactionSender(
        reader, key, journal_path=journal_path, abi=registry_abi(), policy=policy
    )


async def deploy_registry(
    sender: TransactionSender,
    *,
    kms_root: bytes,
    guardian: bytes | None = None,
    owner: bytes | None = None,
    max_seats: int = MAX_SEATS,
    lease_s: int = LEASE_S,
    recovery_delay_s: int = RECOVERY_DELAY_S,
    insecure_simulator: bool = False,
) -> Deployment:
    """Deploys a registry and waits until it is final.

    Args:
        kms_root: 20-byte address of the KMS root key that app keys must descend from.
        guardian, owner: 20-byte addresses, by default the sender's.
        insecure_simulator: allows roots whose keys everybody has.

    Raises:
        ChainConfigError: a public simulator root without the flag, or no root at all.
        ChainError: see ``TransactionSender.send``.
    """
    public = PUBLIC_TEST_ROOTS.get(kms_root)
    if public is not None and not insecure_simulator:
        raise ChainConfigError(
            f"the key of KMS root 0x{kms_root.hex()} is public ({public}): anybody could"
            " register. insecure_simulator allows it for tests"
        )
    for name, address in (("kms_root", kms_root), ("guardian", guardian), ("owner", owner)):
        if address is not None and (len(address) != 20 or not any(address)):
            raise ChainConfigError(f"{name} is not a 20-byte address")
    compiled = artifact("Registry")
    constructor = ContractAbi(compiled.abi).constructor_types
    arguments = encode(
        constructor,
        [
            "0x" + (owner or sender.address).hex(),
            "0x" + (guardian or sender.address).hex(),
            "0x" + kms_root.hex(),
            max_seats,
            lease_s,
            recovery_delay_s,
        ],
    )
    outcome = await sender.send(
        f"deploy registry for root {kms_root.hex()}", b"", compiled.bytecode + arguments
    )
    contract = contract_address(sender.address, outcome.nonce)
    code = await sender.reader.code_at(contract, await sender.reader.finalized())
    if not compiled.matches_code(code):
        raise BadChainData(f"what was deployed at 0x{contract.hex()} is not the registry's code")
    return Deployment(
        sender.reader.chain_id, contract, outcome.block_number, keccak256(code), (kms_root,),
        () if public is None else ("simulator",),
    )  # fmt: skip


async def verify_code(registry: EvmRegistry) -> None:
    """Checks that the contract is the committed artifact, whatever its constructor got.

    Raises:
        PinMismatch: it is other code.
    """
    code = await registry.reader.code_at(registry.contract, await registry.finalized())
    if not artifact("Registry").matches_code(code):
        raise PinMismatch(f"0x{registry.contract.hex()} does not run the registry's code")


class RegistryOwner:
    """Commands of the contract's or a seat's owner, one transaction each.

    Args:
        sender: the owner's key.
        contract: the registry's 20-byte address.

    All raise ``CallReverted`` with the contract's reason when it would refuse, before any gas is
    spent, and otherwise as ``TransactionSender.send``. ``until`` INCLUDED is enough between steps;
    ``wait_final`` then waits once for all of them.
    """

    def __init__(self, sender: TransactionSender, contract: bytes) -> None:
        self._sender = sender
        self._contract = contract
        self._abi = registry_abi()
        self._newest_block = 0
        self._commands = 0

    async def grant_seat(self, to: bytes, weight: int) -> int:
        """Grants a new seat to a wallet (20 bytes); its number."""
        outcome = await self._call("grantSeat", "0x" + to.hex(), weight)
        return await self._granted_seat(outcome)

    async def bind_instance(self, seat: int, instance_id: bytes) -> TxOutcome:
        """As the seat's owner: lets this instance register on the seat."""
        return await self._call("bindInstance", seat, instance_id)

    async def allow_app(self, app_id: bytes, allowed: bool = True) -> TxOutcome:
        """Allows nodes of an app, or no longer."""
        return await self._call("allowApp", app_id, allowed)

    async def set_weight(self, seat: int, weight: int) -> TxOutcome:
        """Changes the weight of a seat."""
        return await self._call("setWeight", seat, weight)

    async def burn_seat(self, seat: int) -> TxOutcome:
        """Takes a seat away for good."""
        return await self._call("burnSeat", seat)

    async def deactivate(self, seat: int) -> TxOutcome:
        """Takes the node off a seat."""
        return await self._call("deactivate", seat)

    async def launch(self) -> TxOutcome:
        """Fixes the active seats as the set of epoch 0, once."""
        return await self._call("launch")

    async def sweep(self, seats: Sequence[int]) -> TxOutcome:
        """Takes out those of these seats whose lease ended or whose root or app is gone."""
        return await self._call("sweep", sorted(set(seats)))

    async def revoke_root(self, epoch: int) -> TxOutcome:
        """As the guardian: nodes whose app key was certified under this root lose their say."""
        return await self._call("revokeRoot", epoch)

    async def vote_recovery(
        self, seat: int, epoch: int, height: int, block_hash: bytes
    ) -> TxOutcome:
        """As the seat's owner: votes that a cluster without a quorum goes on in ``epoch``.

        Args:
            height, block_hash: the cluster's own block, what survivors show as their newest final
                one. What was final above it is lost. Epoch 0 withdraws the vote.
        """
        return await self._call("voteRecovery", seat, epoch, height, block_hash)

    async def recover(
        self, epoch: int, height: int, block_hash: bytes, seats: Sequence[int]
    ) -> TxOutcome:
        """Announces a recovery that these seats voted for; after its delay, opens it."""
        return await self._call("recover", epoch, height, block_hash, sorted(set(seats)))

    async def veto_recovery(self) -> TxOutcome:
        """As the guardian or owner: voids all votes for a recovery."""
        return await self._call("vetoRecovery")

    async def wait_final(self, poll_interval_s: float = 0.25) -> None:
        """Waits until every transaction that this object sent lies below the finalized block."""
        while (await self._sender.reader.finalized()).number < self._newest_block:
            await trio.sleep(poll_interval_s)

    async def _call(self, name: str, *values: Any) -> TxOutcome:
        data = self._abi.function(name).encode(*values)
        shown = ", ".join(v.hex() if isinstance(v, bytes) else str(v) for v in values)[:160]
        self._commands += 1
        outcome = await self._sender.send(
            # Numbered, so that asking for the same thing later is not taken for the same purpose.
            f"{name}({shown}) {keccak256(data)[:4].hex()} #{self._commands}",
            self._contract,
            data,
            until=TxState.INCLUDED,
        )
        self._newest_block = max(self._newest_block, outcome.block_number)
        return outcome

    async def _granted_seat(self, outcome: TxOutcome) -> int:
        """The seat number from the events of the grant, as k endpoints tell them."""
        event = self._abi.event("NodeChanged")

        def decode(receipt: Any) -> int:
            if not isinstance(receipt, dict) or not isinstance(receipt.get("logs"), list):
                raise BadChainData("a receipt without logs")
            for log in receipt["logs"][:64]:
                if isinstance(log, dict) and isinstance(log.get("topics"), list):
                    topics = log["topics"]
                    if len(topics) == 2 and topics[0] == "0x" + event.topic.hex():
                        return int(topics[1], 16)
            raise BadChainData("the grant's receipt names no seat")

        return await self._sender.reader.agree(
            "eth_getTransactionReceipt", ["0x" + outcome.tx_hash.hex()], decode
        )
