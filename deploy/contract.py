"""The contract owner's side: deploy a registry, grant and bind seats, launch, wait for finality.

Used by the testnet launcher and by operators' commands.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from attest import PUBLIC_TEST_ROOTS
from chain.abi import ContractAbi, FunctionAbi, encode
from chain.agreement import FinalizedReader, Reverted, open_reader
from chain.deployment import Deployment, Placed
from chain.errors import BadChainData, ChainConfigError, PinMismatch
from chain.evm import EvmRegistry
from chain.fees import FeePolicy
from chain.headers import Header
from chain.keys import PayingSigner, keccak256
from chain.sender import Order, TransactionSender, TxOutcome, TxState
from chain.transactions import contract_address
from contracts import artifact
from deploy.calls import APP, MINT, REGISTRY, Call

MAX_SEATS = 1000
LEASE_S = 7 * 24 * 3600
# Contracts beside the registry, by the name of their artifact, and its view that names them.
BESIDE = {"Annex": "annex", "Rules": "rules", "Certificates": "certificates"}
SHOWN_CHARS_MAX = 64
RECOVERY_DELAY_S = 24 * 3600  # time to object to a recovery of a cluster without a quorum


def registry_abi() -> ContractAbi:
    """The interface of the committed registry artifact."""
    return ContractAbi(artifact("Registry").abi)


def owners_abi() -> ContractAbi:
    """The interfaces of all contracts together: it makes the refusal of any of them readable."""
    names = (REGISTRY, *BESIDE, MINT, APP)
    return ContractAbi([entry for name in names for entry in artifact(name).abi])


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
        reader, key, journal_path=journal_path, abi=owners_abi(), policy=policy
    )


def check_root(root: bytes, *, insecure_simulator: bool) -> None:
    """Refuses a KMS root (20-byte address) whose key everybody has, unless that is wanted.

    Raises:
        ChainConfigError: it is one.
    """
    public = PUBLIC_TEST_ROOTS.get(root)
    if public is not None and not insecure_simulator:
        raise ChainConfigError(
            f"the key of KMS root 0x{root.hex()} is public ({public}): anybody could register."
            " --insecure-simulator allows it for tests"
        )


@dataclass(frozen=True, slots=True)
class Founding:
    """What is fixed when a registry is deployed.

    ``kms_root`` is the 20-byte address of the KMS root key that app keys must descend from;
    ``guardian`` and ``owner`` are by default the deploying address.
    """

    kms_root: bytes
    guardian: bytes | None = None
    owner: bytes | None = None
    max_seats: int = MAX_SEATS
    lease_s: int = LEASE_S
    recovery_delay_s: int = RECOVERY_DELAY_S
    insecure_simulator: bool = False

    def creation_code(self, sender: bytes) -> bytes:
        """The data of the transaction that deploys it, for this deploying address.

        Raises:
            ChainConfigError: a root whose key is public, without the flag; no address.
        """
        check_root(self.kms_root, insecure_simulator=self.insecure_simulator)
        for name in ("kms_root", "guardian", "owner"):
            address = getattr(self, name)
            if address is not None and (len(address) != 20 or not any(address)):
                raise ChainConfigError(f"{name} is not a 20-byte address")
        compiled = artifact("Registry")
        return compiled.bytecode + encode(
            ContractAbi(compiled.abi).constructor_types,
            [
                self.owner or sender, self.guardian or sender, self.kms_root,
                self.max_seats, self.lease_s, self.recovery_delay_s,
            ],
        )  # fmt: skip


def earlier_deployment(sender: TransactionSender, founding: Founding) -> TxOutcome | None:
    """The same deployment by this key, if its journal knows that it is final."""
    return sender.done(_deployment(founding.creation_code(sender.address)))


def _deployment(code: bytes) -> str:
    """The same words for the same deployment: when this is broken off, saying it again goes on."""
    return f"deploy registry {keccak256(code).hex()}"


async def deploy_registry(
    sender: TransactionSender, founding: Founding, *, until: TxState = TxState.FINAL
) -> Deployment:
    """Deploys a registry and waits until it is final (or ``until`` INCLUDED).

    One that this key's journal knows to be final is not made again.

    Raises:
        ChainConfigError: see ``Founding.creation_code``.
        ChainError: see ``TransactionSender.send``.
    """
    code = founding.creation_code(sender.address)
    outcome = sender.done(_deployment(code)) or await sender.send(
        _deployment(code), b"", code, until=until
    )
    contract = contract_address(sender.address, outcome.nonce)
    header = await sender.reader.header_at(outcome.block_number)
    if header is None:
        raise BadChainData(f"the block of the deployment, {outcome.block_number}, is gone")
    deployed = await sender.reader.code_at(contract, header)
    if not artifact("Registry").matches_code(deployed):
        raise BadChainData(f"what was deployed at 0x{contract.hex()} is not the registry's code")
    beside = await read_beside(sender.reader, contract, header)
    for placed in beside:
        code = await sender.reader.code_at(placed.address, header)
        if not artifact(placed.name).matches_code(code):
            raise BadChainData(f"what was deployed as {placed.name} is not its code")
    return Deployment(
        sender.reader.chain_id, contract, outcome.block_number, keccak256(deployed),
        (founding.kms_root,),
        ("simulator",) if founding.kms_root in PUBLIC_TEST_ROOTS else (),
        beside,
    )  # fmt: skip


async def read_beside(reader: FinalizedReader, contract: bytes, at: Header) -> tuple[Placed, ...]:
    """The contracts that a registry (20-byte address) names at a block; those that there are."""
    abi = registry_abi()
    views = [abi.function(view) for view in BESIDE.values()]
    found = await reader.call_many(
        contract, [view.encode() for view in views], at, answer_bytes_max=64
    )
    placed = []
    for name, view, raw in zip(BESIDE, views, found, strict=True):
        if isinstance(raw, Reverted):
            raise abi.reverted(raw.data)
        address = bytes.fromhex(view.decode(raw)[0][2:])
        if any(address):
            placed.append(Placed(name, address, keccak256(await reader.code_at(address, at))))
    return tuple(placed)


@dataclass(frozen=True, slots=True)
class Creation:
    """A contract to be deployed beside the registry: the name of its artifact, its arguments."""

    name: str
    values: tuple[Any, ...] = ()

    def code(self) -> bytes:
        """The data of the transaction that deploys it."""
        compiled = artifact(self.name)
        types = ContractAbi(compiled.abi).constructor_types
        return compiled.bytecode + encode(types, list(self.values))

    def intent(self) -> str:
        """The same words for the same contract: said again when broken off, it goes on."""
        return f"deploy {self.name} {keccak256(self.code()).hex()}"


async def create_beside(
    sender: TransactionSender,
    creation: Creation,
    *,
    until: TxState = TxState.FINAL,
    again: bool = False,
) -> tuple[bytes, TxOutcome]:
    """Deploys a contract beside the registry; its 20-byte address.

    One that this key's journal knows is not made a second time, unless ``again``.

    Raises:
        ChainError: see ``TransactionSender.send``.
    """
    intent = creation.intent()
    if again:
        intent += f" again, {await sender.next_nonce()}"
    outcome = sender.done(intent) or await sender.send(intent, b"", creation.code(), until=until)
    contract = contract_address(sender.address, outcome.nonce)
    header = await sender.reader.header_at(outcome.block_number)
    if header is None:
        raise BadChainData(f"the block of the deployment, {outcome.block_number}, is gone")
    if not artifact(creation.name).matches_code(await sender.reader.code_at(contract, header)):
        raise BadChainData(f"what was deployed at 0x{contract.hex()} is not {creation.name}")
    return contract, outcome


async def verify_code(registry: EvmRegistry) -> None:
    """Checks that the contract is the committed artifact, whatever its constructor got.

    Raises:
        PinMismatch: it is other code.
    """
    code = await registry.reader.code_at(registry.contract, await registry.finalized())
    if not artifact("Registry").matches_code(code):
        raise PinMismatch(f"0x{registry.contract.hex()} does not run the registry's code")


class RegistryOwner:
    """Sends the transactions of the contract's or a seat's owner.

    Args:
        sender: the owner's key.
        contract: the registry's 20-byte address.
        companions: addresses of contracts beside the registry, by the name of their artifact.

    All raise ``CallReverted`` with the contract's reason when it would refuse, before any gas is
    spent, and otherwise as ``TransactionSender.send_all``. ``until`` INCLUDED is enough between
    steps; ``wait_final`` then waits once for all of them.
    """

    def __init__(
        self,
        sender: TransactionSender,
        contract: bytes,
        companions: Mapping[str, bytes] | None = None,
    ) -> None:
        self.sender = sender
        self._address_of = {REGISTRY: contract, **(companions or {})}
        self._abi_of = {name: ContractAbi(artifact(name).abi) for name in self._address_of}
        self._newest_block = 0
        # Asking for the same thing later must not be taken for the same purpose, by nobody who
        # reads this key's journal.
        self._run = secrets.token_hex(4)
        self._sent = 0

    def order(self, call: Call) -> Order:
        """A call as the sender takes it."""
        data = self._function(call).encode(*call.values)
        values = ", ".join(_shown(value) for value in call.values)
        self._sent += 1
        intent = f"{call.function}({values[:160]}) {self._run}-{self._sent}"
        return Order(intent, self._address_of[call.contract], data, call.value_wei)

    def address_of(self, contract: str) -> bytes | None:
        """Where a contract is, by the name of its artifact; None: the registry names none."""
        return self._address_of.get(contract)

    def argument_names(self, call: Call) -> tuple[str, ...]:
        """The contract's names for the arguments of a call."""
        return self._function(call).argument_names

    def _function(self, call: Call) -> FunctionAbi:
        try:
            return self._abi_of[call.contract].function(call.function)
        except KeyError:
            raise ChainConfigError(f"the registry names no contract {call.contract}") from None

    async def send(self, *calls: Call) -> list[TxOutcome]:
        """Gets all of them included, at once; none may need another one's effect."""
        orders = [self.order(call) for call in calls]
        outcomes = await self.sender.send_all(orders, until=TxState.INCLUDED)
        self._newest_block = max(self._newest_block, *(o.block_number for o in outcomes))
        return outcomes

    async def wait_final(self, poll_interval_s: float = 0.25) -> None:
        """Waits until every transaction that this object sent lies below the finalized block."""
        while (await self.sender.reader.finalized()).number < self._newest_block:
            await trio.sleep(poll_interval_s)

    async def granted_seat(self, outcome: TxOutcome) -> int:
        """The number of the seat that a grant made, from its events as k endpoints tell them."""
        event = self._abi_of[REGISTRY].event("NodeChanged")

        def decode(receipt: Any) -> int:
            if not isinstance(receipt, dict) or not isinstance(receipt.get("logs"), list):
                raise BadChainData("a receipt without logs")
            for log in receipt["logs"][:64]:
                if isinstance(log, dict) and isinstance(log.get("topics"), list):
                    topics = log["topics"]
                    if len(topics) == 2 and topics[0] == "0x" + event.topic.hex():
                        return int(topics[1], 16)
            raise BadChainData("the grant's receipt names no seat")

        return await self.sender.reader.agree(
            "eth_getTransactionReceipt", ["0x" + outcome.tx_hash.hex()], decode
        )


def _shown(value: Any) -> str:
    """A value in an intent: a document is named by its hash."""
    if isinstance(value, str) and len(value) > SHOWN_CHARS_MAX:
        return f"{len(value)} characters, {keccak256(value.encode()).hex()}"
    return value.hex() if isinstance(value, bytes) else str(value)
