"""A real chain, a deployed registry and identities for the tests of ``test_registry_on_anvil``."""

from __future__ import annotations

import platform
import re
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import coincurve
import pytest
import trio

from chain import (
    Deployment,
    EvmRegistry,
    FeePolicy,
    LocalKey,
    NodeRegistrar,
    TransactionSender,
    purpose_text,
)
from chain.keys import keccak256
from chain.rpc import RpcEndpoint
from deploy import calls
from deploy.contract import (
    Founding,
    RegistryOwner,
    deploy_registry,
    open_owner_sender,
    open_registry,
)

CHAIN_ID = 31337
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), "amd64")
ANVIL = (
    Path(__file__).parents[2]
    / f"contracts/evm/node_modules/@foundry-rs/anvil-linux-{MACHINE}/bin/anvil"
)
# anvil's well-known accounts, derived from "test test ... junk".
OWNER = LocalKey(bytes.fromhex("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"))
POLICY = FeePolicy(poll_interval_s=0.02)
APP_ID = bytes.fromhex("a11ce0000000000000000000000000000000000a")
KMS = coincurve.PrivateKey(keccak256(b"kms root of this test"))
APP = coincurve.PrivateKey(keccak256(b"app key of this test"))


# ---------------------------------------------------------------------- the chain


@dataclass
class Chain:
    """A chain whose blocks come every few milliseconds, and the keys that act on it."""

    url: str
    rpc: RpcEndpoint
    mining: bool = True
    closers: list[Any] = field(default_factory=list)

    async def mine(self, blocks: int = 1) -> None:
        await self.rpc.call("anvil_mine", [hex(blocks)])

    async def pending(self, count: int) -> bool:
        return int((await self.rpc.call("txpool_status", []))["pending"], 16) >= count

    async def fund(self, address: bytes, ether: int = 10) -> None:
        await self.rpc.call("anvil_setBalance", ["0x" + address.hex(), hex(ether * 10**18)])

    async def funded_key(self, name: str) -> LocalKey:
        key = LocalKey(keccak256(name.encode()))
        await self.fund(key.address)
        return key

    def sender(self, key: LocalKey, journal: Path | None = None) -> TransactionSender:
        sender = open_owner_sender(
            CHAIN_ID, [self.url], 1, key,
            journal_path=journal, single_rpc_insecure=True, policy=POLICY,
        )  # fmt: skip
        self.closers.append(sender.reader.aclose)
        return sender

    def registry(self, deployment: Deployment, watermark: Path | None = None) -> EvmRegistry:
        registry = open_registry(
            deployment, [self.url], 1,
            watermark_path=watermark, single_rpc_insecure=True, poll_interval_s=0.05,
        )  # fmt: skip
        self.closers.append(registry.reader.aclose)
        return registry

    async def deploy(self, kms: coincurve.PrivateKey = KMS) -> Deployment:
        return await deploy_registry(self.sender(OWNER), Founding(address(kms)))


@contextmanager
def running_anvil(log: Path, slots_in_epoch: int) -> Iterator[str]:
    """A chain of its own, whose finalized block is twice ``slots_in_epoch`` behind; its URL."""
    # Its log goes to a file: a pipe that nobody reads would stop it when full.
    command = [str(ANVIL), "--port", "0", "--slots-in-an-epoch", str(slots_in_epoch)]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, "--hardfork", "prague"], stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 20
        while not (found := re.search(r"Listening on 127\.0\.0\.1:(\d+)", log.read_text())):
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"anvil did not start: {log.read_text()}")
            time.sleep(0.01)
        yield f"http://127.0.0.1:{found.group(1)}"
    finally:
        process.kill()
        process.wait(10)


@asynccontextmanager
async def open_chain(url: str) -> AsyncIterator[Chain]:
    chain = Chain(url, RpcEndpoint(url))

    async def mine_on() -> None:
        while True:
            if chain.mining:
                await chain.mine()
            await trio.sleep(0.03)

    snapshot = await chain.rpc.call("evm_snapshot", [])
    await chain.mine(3)  # right after a revert anvil may have no finalized block for a moment
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mine_on)
        try:
            yield chain
        finally:
            nursery.cancel_scope.cancel()
    with trio.CancelScope(shield=True):
        for close in chain.closers:
            await close()
        await chain.rpc.call("evm_setAutomine", [True])
        await chain.rpc.call("evm_revert", [snapshot])
        await chain.rpc.aclose()


# ---------------------------------------------------------------------- identities


@dataclass(frozen=True)
class NodeSecret:
    key: coincurve.PrivateKey

    def sign_recoverable(self, digest: bytes) -> bytes:
        return self.key.sign_recoverable(digest, hasher=None)


@dataclass(frozen=True)
class TestIdentity:
    __test__ = False
    secret: NodeSecret
    node_key: bytes
    instance_id: bytes
    scheme: int
    app_id: bytes
    app_key: bytes
    app_signature: bytes
    kms_signature: bytes


def address(key: coincurve.PrivateKey) -> bytes:
    return keccak256(key.public_key.format(compressed=False)[1:])[12:]


def instance(name: str) -> bytes:
    return keccak256(name.encode())[:20]


def identity(
    deployment: Deployment,
    seat: int,
    name: str,
    *,
    scheme: int = 0,
    app: coincurve.PrivateKey = APP,
    kms: coincurve.PrivateKey = KMS,
    app_id: bytes = APP_ID,
) -> TestIdentity:
    """A node's key and signature chain, made as dstack makes them."""
    purpose = purpose_text(deployment.chain_id, deployment.contract, seat, instance(name))
    app_key = app.public_key.format()
    node = coincurve.PrivateKey(keccak256(app.secret + purpose.encode() + name.encode()))
    node_key = node.public_key.format()
    if scheme == 0:
        claim = purpose.encode() + b":" + node_key.hex().encode()
    else:
        claim = b"".join(
            len(part).to_bytes(4, "big") + part
            for part in (b"dstack-guest-v1-key-claim", b"secp256k1", purpose.encode(), node_key)
        )
    return TestIdentity(
        secret=NodeSecret(node),
        node_key=node_key,
        instance_id=instance(name),
        scheme=scheme,
        app_id=app_id,
        app_key=app_key,
        app_signature=app.sign_recoverable(keccak256(claim), hasher=None),
        kms_signature=kms.sign_recoverable(
            keccak256(b"dstack-kms-issued:" + app_id + app_key), hasher=None
        ),
    )


@dataclass
class Cluster:
    """A deployed registry with granted seats."""

    chain: Chain
    deployment: Deployment
    owner: RegistryOwner
    registry: EvmRegistry
    registrar: NodeRegistrar
    seats: list[int]

    async def founders(self) -> bytes:
        """The digest by which a launch knows whoever votes in the newest block."""
        view = self.registry.abi.function("lastChange")
        call = {"to": "0x" + self.deployment.contract.hex(), "data": "0x" + view.encode().hex()}
        answer = await self.chain.rpc.call("eth_call", [call, "latest"])
        return bytes(view.decode(bytes.fromhex(answer[2:]))[2])

    async def launch(self) -> None:
        await self.owner.send(calls.launch(await self.founders()))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(20):
        while not await condition():
            await trio.sleep(0.01)


async def cluster(chain: Chain, seats: int = 2) -> Cluster:
    deployment = await chain.deploy()
    sender = chain.sender(OWNER)
    owner = RegistryOwner(sender, deployment.contract)
    await owner.send(calls.allow_app(APP_ID))
    granted = []
    for number in range(1, seats + 1):
        wallet = OWNER.address if number == 1 else LocalKey(keccak256(b"w%d" % number)).address
        granted.append(await grant(owner, wallet, number))
    registry = chain.registry(deployment)
    return Cluster(chain, deployment, owner, registry, NodeRegistrar(registry, sender), granted)


async def grant(owner: RegistryOwner, wallet: bytes, weight: int) -> int:
    """A new seat for a wallet; its number."""
    (outcome,) = await owner.send(calls.grant_seat(wallet, weight))
    return await owner.granted_seat(outcome)


def endpoint(seat: int) -> str:
    return f"/ip4/127.0.0.1/tcp/{9000 + seat}"


async def bind(found: Cluster, seat: int, name: str) -> None:
    """As the seat's wallet."""
    wallet = OWNER
    if seat != 1:
        wallet = LocalKey(keccak256(b"w%d" % seat))
        await found.chain.fund(wallet.address)
    owner = RegistryOwner(found.chain.sender(wallet), found.deployment.contract)
    await owner.send(calls.bind_instance(seat, instance(name)))


# ---------------------------------------------------------------------- the way it should go
