"""The testnet's chain: anvil, the registry on it, and the transactions of its owners.

Blocks come each second and are finalized two blocks later, so daemons meet what a real chain gives
them: waiting, and a difference between newest and finalized. All wallets are made here and are
worth nothing; they stay in ``wallets.json`` for operator commands.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from attest import NodeIdentity
from chain import FeePolicy, FinalizedReader, TransactionSender, TxState, open_reader
from chain.deployment import write_deployment
from chain.errors import ChainError, EndpointError
from chain.keys import LocalKey, address_of
from chain.membership import MemberStatus
from chain.rpc import RpcEndpoint
from deploy import calls
from deploy.calls import RULES, Call
from deploy.contract import Founding, RegistryOwner, deploy_registry, owners_abi, registry_abi

from . import processes
from .layout import ProcessRecord, Testnet, TestnetError, find_anvil, write_private

CHAIN_ID = 31337
POLL_S = 0.1
BALANCE_WEI = 100 * 10**18
LEASE_S = 7 * 24 * 3600
RECOVERY_DELAY_S = 5
PAGE_SEATS = 100
CONTRACT_OWNER = "contract_owner"  # the wallet's name


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


class RegistryDesk:
    """The desk of everybody who owns something in the registry: contract and seats.

    All transactions of a step are sent at once, so that a set-up takes three blocks however many
    seats there are.

    Every method raises TestnetError when a transaction is refused or the chain does not answer.
    """

    def __init__(self, testnet: Testnet, contract: bytes) -> None:
        self._testnet = testnet
        self._rpc = RpcEndpoint(testnet.rpc_url)
        self._reader = _reader(testnet)
        self._abi = registry_abi()
        self._owners: dict[str, RegistryOwner] = {}
        self._companions: dict[str, bytes] = {}
        self.contract = contract

    @property
    def address(self) -> str:
        return "0x" + self.contract.hex()

    async def grant_and_bind(self, identities: Mapping[int, NodeIdentity], policy: bytes) -> None:
        """Set the policy, allow the app, certify its key, grant each seat to a wallet of its own,
        bind instances.

        The node accounts get money, so that daemons can register themselves.
        """
        any_identity = next(iter(identities.values()))
        nodes = self._testnet.nodes
        wallets = {node.seat: self._new_wallet(node.seat) for node in nodes}
        accounts = [address_of(identity.node_key) for identity in identities.values()]
        await fund(self._rpc, [*(key.address for key in wallets.values()), *accounts])
        await self._send(
            CONTRACT_OWNER,
            calls.set_policy(policy),
            calls.allow_app(any_identity.app_id),
            calls.certify_app_key(
                any_identity.app_id,
                any_identity.app_key_xy(),
                any_identity.kms_signature,
                any_identity.root_epoch,
            ),
            *(calls.grant_seat(wallets[node.seat].address, node.weight) for node in nodes),
        )
        await self._send_each(
            {
                _seat_owner(seat): calls.bind_instance(seat, identity.instance_id)
                for seat, identity in identities.items()
            }
        )

    async def set_policy(self, text: bytes) -> None:
        """As the contract's owner: the attestation policy in force from now on."""
        await self._send(CONTRACT_OWNER, calls.set_policy(text))

    async def wait_all_active(self, check: Callable[[], None]) -> bytes:
        """Wait until every seat has a live node; ``check`` may raise to give up.

        Returns the digest by which ``launch`` knows these founders.
        """
        while True:
            check()
            before = await self._founders()
            statuses = await self._statuses()
            everybody = statuses and all(status == MemberStatus.ACTIVE for status in statuses)
            # A block may have come between the reads: then these rows are not those of that digest.
            if everybody and await self._founders() == before:
                return before
            await trio.sleep(POLL_S)

    async def _founders(self) -> bytes:
        _block, _version, digest = await self._look("lastChange")
        return bytes(digest)

    async def launch(self, founders: bytes) -> None:
        """Fix the founding set, which must be the one that was waited for."""
        await self._send(CONTRACT_OWNER, calls.launch(founders))

    async def grant(self, weight: int) -> int:
        """Grant one more seat, to a new wallet; the seat's number."""
        seat = 1 + int((await self._look("seatCount"))[0])
        wallet = self._new_wallet(seat)
        await fund(self._rpc, [wallet.address])
        await self._send(CONTRACT_OWNER, calls.grant_seat(wallet.address, weight))
        return seat

    async def bind(self, seat: int, identity: NodeIdentity) -> None:
        """As the seat's owner: let this machine register, and give it money for that."""
        await fund(self._rpc, [address_of(identity.node_key)])
        await self._send(_seat_owner(seat), calls.bind_instance(seat, identity.instance_id))

    async def deactivate(self, seat: int) -> None:
        """As the seat's owner: take the node off the seat, which it may register on again."""
        await self._send(_seat_owner(seat), calls.deactivate(seat))

    async def as_owner(self, *several: Call) -> None:
        """As the contract's owner: whatever it may do beside what has a name here."""
        await self._send(CONTRACT_OWNER, *several)

    async def is_active(self, seat: int) -> bool:
        """Whether a node sits on the seat, in the newest block."""
        (row,) = await self._look("member", seat)
        return bool(row[3] == MemberStatus.ACTIVE)

    async def set_weight(self, seat: int, weight: int) -> None:
        """As the contract's owner."""
        await self._send(CONTRACT_OWNER, calls.set_weight(seat, weight))

    async def vote_recovery(
        self, seats: Sequence[int], epoch: int, height: int, block_hash: bytes
    ) -> None:
        """As the owners of these seats: vote that the cluster goes on at a block, in an epoch."""
        votes = {
            _seat_owner(seat): calls.vote_recovery(seat, epoch, height, block_hash)
            for seat in seats
        }
        await self._send_each(votes)

    async def recover(
        self, seats: Sequence[int], epoch: int, height: int, block_hash: bytes
    ) -> None:
        """Announce the recovery that these seats voted for, or open it after its delay."""
        await self._send(CONTRACT_OWNER, calls.recover(epoch, height, block_hash, seats))

    async def wait_time(self, seconds: float) -> None:
        """Let the chain's clock go on by this much."""
        start_s = await self._time_s()
        while await self._time_s() < start_s + seconds:
            await trio.sleep(POLL_S)

    async def aclose(self) -> None:
        await self._rpc.aclose()
        await self._reader.aclose()

    async def _send(self, wallet: str, *several: Call) -> None:
        owner = self._owners.get(wallet)
        if owner is None:
            sender = _sender(self._reader, _key(self._testnet, wallet))
            if not self._companions:
                (rules,) = await self._look("rules")
                self._companions = {RULES: _hex(rules)}
            owner = self._owners[wallet] = RegistryOwner(sender, self.contract, self._companions)
        try:
            await owner.send(*several)
        except ChainError as error:
            names = ", ".join(sorted({call.function for call in several}))
            raise TestnetError(f"{names}: {error}") from None

    async def _send_each(self, call_of: Mapping[str, Call]) -> None:
        """One transaction for each of several wallets, all at once."""
        failures: list[TestnetError] = []

        async def one(wallet: str, call: Call) -> None:
            try:
                await self._send(wallet, call)
            except TestnetError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for wallet, call in call_of.items():
                nursery.start_soon(one, wallet, call)
        if failures:
            raise failures[0]

    def _new_wallet(self, seat: int) -> LocalKey:
        secret = _new_secret()
        _save_wallet(self._testnet, _seat_owner(seat), secret)
        return LocalKey(secret)

    async def _statuses(self) -> list[int]:
        found: list[int] = []
        first = 1
        while first:
            members, first = await self._look("page", first, PAGE_SEATS)
            found += [member[3] for member in members]
        return found

    async def _look(self, name: str, *values: Any) -> tuple[Any, ...]:
        """A view function in the newest block."""
        function = self._abi.function(name)
        call = {"to": self.address, "data": "0x" + function.encode(*values).hex()}
        return function.decode(_hex(await _ask(self._rpc, "eth_call", [call, "latest"])))

    async def _time_s(self) -> int:
        block = await _ask(self._rpc, "eth_getBlockByNumber", ["latest", False])
        return int(block["timestamp"], 16)


async def deploy(testnet: Testnet, kms_root: bytes) -> RegistryDesk:
    """Deploy the registry with one KMS root (20-byte address) and a fresh owner."""
    secret = _new_secret()
    _save_wallet(testnet, CONTRACT_OWNER, secret)
    owner = LocalKey(secret)
    rpc, reader = RpcEndpoint(testnet.rpc_url), _reader(testnet)
    try:
        await fund(rpc, [owner.address])
        deployment = await deploy_registry(
            _sender(reader, owner),
            Founding(kms_root, lease_s=LEASE_S, recovery_delay_s=RECOVERY_DELAY_S),
            until=TxState.INCLUDED,  # this chain forks never
        )
    except ChainError as error:
        raise TestnetError(f"the registry could not be deployed: {error}") from None
    finally:
        await rpc.aclose()
        await reader.aclose()
    await write_deployment(testnet.deployment_file, deployment)
    return RegistryDesk(testnet, deployment.contract)


async def fund(rpc: RpcEndpoint, addresses: Sequence[bytes]) -> None:
    """Give anvil's play money to 20-byte addresses."""
    for address in addresses:
        await _ask(rpc, "anvil_setBalance", ["0x" + address.hex(), hex(BALANCE_WEI)])


def open_desk(testnet: Testnet) -> RegistryDesk:
    """The desk of a running testnet; close it. Raises TestnetError before there is a contract."""
    if not testnet.contract:
        raise TestnetError("this testnet has no contract yet")
    return RegistryDesk(testnet, _hex(testnet.contract))


def _reader(testnet: Testnet) -> FinalizedReader:
    return open_reader(
        [testnet.rpc_url], 1, chain_id=CHAIN_ID, contract=bytes(20), single_rpc_insecure=True
    )


def _sender(reader: FinalizedReader, key: LocalKey) -> TransactionSender:
    return TransactionSender(
        reader, key, journal_path=None, abi=owners_abi(), policy=FeePolicy(poll_interval_s=POLL_S)
    )


# --- wallets ----------------------------------------------------------------------------------


def _seat_owner(seat: int) -> str:
    return f"seat_{seat}"


def _key(testnet: Testnet, wallet: str) -> LocalKey:
    try:
        return LocalKey(_load_wallets(testnet)[wallet])
    except KeyError:
        raise TestnetError(f"no wallet {wallet}") from None


def _load_wallets(testnet: Testnet) -> dict[str, bytes]:
    path = testnet.directory / "wallets.json"
    values = json.loads(path.read_bytes()) if path.exists() else {}
    return {name: bytes.fromhex(secret) for name, secret in values.items()}


def _save_wallet(testnet: Testnet, wallet: str, secret: bytes) -> None:
    secrets_of = _load_wallets(testnet) | {wallet: secret}
    text = json.dumps({name: value.hex() for name, value in secrets_of.items()}, indent=1)
    write_private(testnet.directory / "wallets.json", text.encode())


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
