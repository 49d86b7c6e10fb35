"""The testnet's chain: anvil, the registry on it, and the transactions of its owners.

Blocks come each second and are finalized two blocks later, so daemons meet what a real chain gives
them: waiting, and a difference between newest and finalized. All wallets are made here and are
worth nothing; they stay in ``wallets.json`` for operator commands.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import trio

from attest import NodeIdentity
from chain.abi import ContractAbi, encode
from chain.deployment import Deployment, write_deployment
from chain.errors import ChainError, EndpointError, RpcFault
from chain.keys import LocalKey, address_of, keccak256
from chain.membership import MemberStatus
from chain.rpc import RpcEndpoint
from chain.transactions import Transaction, contract_address, sign
from contracts import Artifact, artifact

from . import processes
from .layout import ProcessRecord, Testnet, TestnetError, find_anvil, write_private

CHAIN_ID = 31337
POLL_S = 0.1
BALANCE_WEI = 100 * 10**18
LEASE_S = 7 * 24 * 3600
RECOVERY_DELAY_S = 5
DEPLOY_GAS = 12_000_000
CALL_GAS = 1_000_000
FEE_MAX_WEI = 100 * 10**9
TIP_WEI = 10**9
PAGE_SEATS = 100


def start(testnet: Testnet) -> ProcessRecord:
    """Start anvil; the caller records it."""
    return processes.spawn(
        [
            str(find_anvil()),
            "--host", "127.0.0.1",
            "--port", str(testnet.rpc_port),
            "--chain-id", str(CHAIN_ID),
            "--block-time", "1",
            "--slots-in-an-epoch", "1",
            "--hardfork", "prague",
            "--accounts", "1",  # its well-known accounts are not used
        ],
        log=testnet.log("anvil"),
        mark=testnet.mark,
        cwd=testnet.directory,
    )  # fmt: skip


async def wait_ready(testnet: Testnet) -> None:
    """Wait for the first answer; the caller bounds the time. Raises TestnetError if anvil ended."""
    rpc = RpcEndpoint(testnet.rpc_url)
    try:
        while True:
            if not processes.is_alive(testnet.chain):
                log = testnet.log("anvil")
                raise TestnetError(f"anvil ended; end of {log}:\n{processes.tail(log)}")
            try:
                await rpc.call("eth_chainId", [])
                return
            except EndpointError:
                await trio.sleep(POLL_S)
    finally:
        await rpc.aclose()


@dataclass(frozen=True, slots=True)
class Call:
    """A transaction to be: who, to what function of the registry, with which arguments."""

    sender: LocalKey
    function: str
    values: tuple[Any, ...]


class RegistryDesk:
    """The desk of everybody who owns something in the registry: contract and seats.

    All transactions of a step are sent at once, so that a set-up takes three blocks however many
    seats there are; the careful sender of ``chain`` waits for each one. This chain forks never.

    Every method raises TestnetError when a transaction is refused or the chain does not answer.
    """

    def __init__(
        self, rpc: RpcEndpoint, owner_secret: bytes, contract: bytes, abi: ContractAbi
    ) -> None:
        self._rpc = rpc
        self._owner_secret = owner_secret
        self._owner = LocalKey(owner_secret)
        self._contract = contract
        self._abi = abi

    @property
    def address(self) -> str:
        return "0x" + self._contract.hex()

    @property
    def contract(self) -> bytes:
        return self._contract

    async def grant_and_bind(
        self, testnet: Testnet, identities: Mapping[int, NodeIdentity]
    ) -> None:
        """Allow the app, certify its key, grant each seat to a wallet of its own, bind instances.

        The node accounts get money, so that daemons can register themselves.
        """
        any_identity = next(iter(identities.values()))
        secret_of = {node.seat: _new_secret() for node in testnet.nodes}
        _save_wallets(
            testnet,
            {"contract_owner": self._owner_secret}
            | {f"seat_{seat}": secret for seat, secret in secret_of.items()},
        )
        owners = {seat: LocalKey(secret) for seat, secret in secret_of.items()}
        wallets = [self._owner.address, *(key.address for key in owners.values())]
        accounts = [address_of(identity.node_key) for identity in identities.values()]
        await fund(self._rpc, [*wallets, *accounts])
        await self._send(
            [
                Call(self._owner, "allowApp", (any_identity.app_id, True)),
                Call(
                    self._owner,
                    "certifyAppKey",
                    (
                        any_identity.app_id,
                        *any_identity.app_key_xy(),
                        any_identity.kms_signature,
                        any_identity.root_epoch,
                    ),
                ),
                *(
                    Call(self._owner, "grantSeat", (owners[node.seat].address, node.weight))
                    for node in testnet.nodes
                ),
            ]
        )
        await self._send(
            [
                Call(owners[seat], "bindInstance", (seat, identity.instance_id))
                for seat, identity in identities.items()
            ]
        )

    async def wait_all_active(self, check: Callable[[], None]) -> None:
        """Wait until every seat has a live node; ``check`` may raise to give up."""
        while True:
            check()
            statuses = await self._statuses()
            if statuses and all(status == MemberStatus.ACTIVE for status in statuses):
                return
            await trio.sleep(POLL_S)

    async def launch(self) -> None:
        """Fix the founding set."""
        await self._send([Call(self._owner, "launch", ())])

    async def grant(self, testnet: Testnet, weight: int) -> int:
        """Grant one more seat, to a new wallet; the seat's number."""
        secret = _new_secret()
        wallet = LocalKey(secret)
        await fund(self._rpc, [wallet.address])
        await self._send([Call(self._owner, "grantSeat", (wallet.address, weight))])
        answer = await _ask(self._rpc, "eth_call", [self._call_of("seatCount"), "latest"])
        (seat,) = self._abi.function("seatCount").decode(_hex(answer))
        _save_wallets(testnet, _load_wallets(testnet) | {f"seat_{seat}": secret})
        return int(seat)

    async def bind(self, testnet: Testnet, seat: int, identity: NodeIdentity) -> None:
        """As the seat's owner: let this machine register, and give it money for that."""
        await fund(self._rpc, [address_of(identity.node_key)])
        await self._send(
            [Call(_seat_owner(testnet, seat), "bindInstance", (seat, identity.instance_id))]
        )

    async def deactivate(self, seat: int) -> None:
        """As the contract's owner: take the node off the seat."""
        await self._send([Call(self._owner, "deactivate", (seat,))])

    async def is_active(self, seat: int) -> bool:
        """Whether a node sits on the seat, in the newest block."""
        member = self._abi.function("member")
        call = {"to": self.address, "data": "0x" + member.encode(seat).hex()}
        (row,) = member.decode(_hex(await _ask(self._rpc, "eth_call", [call, "latest"])))
        return bool(row[3] == MemberStatus.ACTIVE)

    async def set_weight(self, seat: int, weight: int) -> None:
        """As the contract's owner."""
        await self._send([Call(self._owner, "setWeight", (seat, weight))])

    async def vote_recovery(
        self, testnet: Testnet, seats: Sequence[int], epoch: int, height: int, block_hash: bytes
    ) -> None:
        """As the owners of these seats: vote that the cluster goes on at a block, in an epoch."""
        await self._send(
            [
                Call(_seat_owner(testnet, s), "voteRecovery", (s, epoch, height, block_hash))
                for s in seats
            ]
        )

    async def recover(
        self, seats: Sequence[int], epoch: int, height: int, block_hash: bytes
    ) -> None:
        """Announce the recovery that these seats voted for, or open it after its delay."""
        arguments = (epoch, height, block_hash, sorted(seats))
        await self._send([Call(self._owner, "recover", arguments)])

    async def wait_time(self, seconds: float) -> None:
        """Let the chain's clock go on by this much."""
        start_s = await self._time_s()
        while await self._time_s() < start_s + seconds:
            await trio.sleep(POLL_S)

    async def _time_s(self) -> int:
        block = await _ask(self._rpc, "eth_getBlockByNumber", ["latest", False])
        return int(block["timestamp"], 16)

    def _call_of(self, name: str) -> dict[str, str]:
        return {"to": self.address, "data": "0x" + self._abi.function(name).encode().hex()}

    async def aclose(self) -> None:
        await self._rpc.aclose()

    async def _statuses(self) -> list[int]:
        found: list[int] = []
        first = 1
        page = self._abi.function("page")
        while first:
            data = "0x" + page.encode(first, PAGE_SEATS).hex()
            answer = await _ask(self._rpc, "eth_call", [{"to": self.address, "data": data}])
            members, first = page.decode(_hex(answer))
            found += [member[3] for member in members]
        return found

    async def _send(self, calls: Sequence[Call]) -> None:
        """Send all at once, in order for each sender, and wait until all are in blocks."""
        nonces: dict[bytes, int] = {}
        sent: list[tuple[str, str]] = []
        for call in calls:
            sender = call.sender.address
            if sender not in nonces:
                nonces[sender] = await _nonce(self._rpc, sender)
            transaction = _transaction(
                nonces[sender],
                self._contract,
                self._abi.function(call.function).encode(*call.values),
                CALL_GAS,
            )
            nonces[sender] += 1
            raw = "0x" + sign(transaction, call.sender).raw.hex()
            sent.append((call.function, await _ask(self._rpc, "eth_sendRawTransaction", [raw])))
        for name, transaction_hash in sent:
            receipt = await _receipt(self._rpc, transaction_hash)
            if receipt["status"] != "0x1":
                raise TestnetError(f"the registry refused {name}: {await self._why(receipt)}")

    async def _why(self, receipt: dict[str, Any]) -> str:
        """Repeat a refused transaction as a call to learn its error."""
        full = await _ask(self._rpc, "eth_getTransactionByHash", [receipt["transactionHash"]])
        call = {"from": full["from"], "to": full["to"], "data": full["input"]}
        try:
            await self._rpc.call("eth_call", [call, receipt["blockNumber"]])
        except RpcFault as fault:
            return str(self._abi.reverted(fault.data)) if fault.data else str(fault)
        except ChainError as error:
            return str(error)
        return "no reason given"


async def deploy(testnet: Testnet, kms_root: bytes) -> RegistryDesk:
    """Deploy the registry with one KMS root (20-byte address) and a fresh owner."""
    rpc = RpcEndpoint(testnet.rpc_url)
    owner_secret = _new_secret()
    owner = LocalKey(owner_secret)
    await fund(rpc, [owner.address])
    registry: Artifact = artifact("Registry")
    abi = ContractAbi(registry.abi)
    seats_max = max(len(testnet.nodes), 100)
    arguments = (
        owner.address, owner.address, kms_root, seats_max, LEASE_S, RECOVERY_DELAY_S
    )  # fmt: skip
    code = registry.bytecode + encode(abi.constructor_types, arguments)
    transaction = _transaction(0, b"", code, DEPLOY_GAS)
    raw = "0x" + sign(transaction, owner).raw.hex()
    receipt = await _receipt(rpc, await _ask(rpc, "eth_sendRawTransaction", [raw]))
    if receipt["status"] != "0x1":
        raise TestnetError("the registry could not be deployed")
    contract = contract_address(owner.address, 0)
    runtime = _hex(await _ask(rpc, "eth_getCode", ["0x" + contract.hex(), "latest"]))
    block = int(receipt["blockNumber"], 16)
    await write_deployment(
        testnet.deployment_file,
        Deployment(CHAIN_ID, contract, block, keccak256(runtime), (kms_root,)),
    )
    return RegistryDesk(rpc, owner_secret, contract, abi)


async def fund(rpc: RpcEndpoint, addresses: Sequence[bytes]) -> None:
    """Give anvil's play money to 20-byte addresses."""
    for address in addresses:
        await _ask(rpc, "anvil_setBalance", ["0x" + address.hex(), hex(BALANCE_WEI)])


def open_desk(testnet: Testnet) -> RegistryDesk:
    """The desk of a running testnet; close it. Raises TestnetError before there is a contract."""
    if not testnet.contract:
        raise TestnetError("this testnet has no contract yet")
    return RegistryDesk(
        RpcEndpoint(testnet.rpc_url),
        _load_wallets(testnet)["contract_owner"],
        _hex(testnet.contract),
        ContractAbi(artifact("Registry").abi),
    )


def _seat_owner(testnet: Testnet, seat: int) -> LocalKey:
    try:
        return LocalKey(_load_wallets(testnet)[f"seat_{seat}"])
    except KeyError:
        raise TestnetError(f"no wallet of seat {seat}") from None


def _load_wallets(testnet: Testnet) -> dict[str, bytes]:
    values = json.loads((testnet.directory / "wallets.json").read_bytes())
    return {name: bytes.fromhex(secret) for name, secret in values.items()}


def _save_wallets(testnet: Testnet, secret_of: Mapping[str, bytes]) -> None:
    text = json.dumps({name: secret.hex() for name, secret in secret_of.items()}, indent=1)
    write_private(testnet.directory / "wallets.json", text.encode())


def _transaction(nonce: int, to: bytes, data: bytes, gas: int) -> Transaction:
    return Transaction(
        chain_id=CHAIN_ID,
        nonce=nonce,
        tip=TIP_WEI,
        fee_max=FEE_MAX_WEI,
        gas=gas,
        to=to,
        value=0,
        data=data,
    )


async def _nonce(rpc: RpcEndpoint, address: bytes) -> int:
    return int(await _ask(rpc, "eth_getTransactionCount", ["0x" + address.hex(), "latest"]), 16)


async def _receipt(rpc: RpcEndpoint, transaction_hash: str) -> dict[str, Any]:
    while True:
        receipt = await _ask(rpc, "eth_getTransactionReceipt", [transaction_hash])
        if receipt is not None:
            found: dict[str, Any] = receipt
            return found
        await trio.sleep(POLL_S)


async def _ask(rpc: RpcEndpoint, method: str, params: Sequence[Any]) -> Any:
    try:
        return await rpc.call(method, params)
    except ChainError as error:
        raise TestnetError(f"the chain refused {method}: {error}") from None


def _hex(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))


def _new_secret() -> bytes:
    while True:
        secret = secrets.token_bytes(32)
        try:
            LocalKey(secret)
        except ChainError:  # zero or above the curve's order: once in 2^128
            continue
        return secret
