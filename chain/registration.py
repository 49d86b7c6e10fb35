"""Puts this node on its seat: certifies its app key, registers, announces, leaves.

The node key proves possession by EIP-712 signatures; the app key's signature, made inside the guest
agent for a purpose text of this chain, contract, seat and instance, proves where the key comes
from. The contract checks both; what it would refuse is refused here before gas is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from chain import decoding
from chain.abi import FunctionAbi, encode
from chain.eip712 import ANNOUNCE, AUTHORIZE, REGISTER, digest, domain_separator
from chain.errors import CallReverted, ChainError, RootUnknown, TransactionFailed
from chain.evm import EvmRegistry
from chain.headers import Header
from chain.keys import HashSigner, address_of, keccak256, recover, uncompressed, with_v27
from chain.rows import ENDPOINT_CHARS_MAX, usable_endpoint
from chain.sender import TransactionSender, TxOutcome, TxState

# The contract takes deadlines up to a day ahead; the finalized block that this is counted from may
# be some minutes old.
DEADLINE_AHEAD_S = 12 * 3600
ROOT_EPOCHS_MAX = 64
PURPOSE_PREFIX = "dstack-cluster-node-v1/"


class NodeKey(Protocol):
    """The secret node key, as far as registering needs it."""

    def sign_recoverable(self, digest: bytes, /) -> bytes:
        """65 bytes r||s||v with low s; v may be 0, 1, 27 or 28."""
        ...


class Identity(Protocol):
    """What registering needs of ``attest.NodeIdentity``; keys are compressed (33 bytes)."""

    @property
    def secret(self) -> NodeKey: ...
    @property
    def node_key(self) -> bytes: ...
    @property
    def instance_id(self) -> bytes: ...
    @property
    def scheme(self) -> int: ...
    @property
    def app_id(self) -> bytes: ...
    @property
    def app_key(self) -> bytes: ...
    @property
    def app_signature(self) -> bytes: ...
    @property
    def kms_signature(self) -> bytes: ...


class NodeRegistrar:
    """Writes about one node to the registry.

    Args:
        registry: where it is read.
        sender: pays and sends; usually the seat owner's key or any funded key (the node signs).
    """

    def __init__(self, registry: EvmRegistry, sender: TransactionSender) -> None:
        self._registry = registry
        self._sender = sender
        self._domain = domain_separator(registry.chain_id, registry.contract)

    async def register(
        self,
        identity: Identity,
        seat: int,
        endpoint: str,
        incarnation: int,
        *,
        owner_signature: bytes = b"",
        until: TxState = TxState.FINAL,
    ) -> TxOutcome:
        """Puts the node on the seat, certifying its app key first when that is still to do.

        Args:
            endpoint: multiaddr without peer id, 1..128 characters.
            incarnation: above the one the registry has for the seat.
            owner_signature: see ``owner_authorization``; empty when the sender is the seat owner or
                the instance is bound to the seat.

        Raises:
            CallReverted: the contract would refuse; nothing was spent on it.
            RootUnknown: the KMS root behind the app key is not the registry's.
            TransactionError, ChainError: see ``TransactionSender.send``.
        """
        _check_endpoint(endpoint)
        header = await self._registry.finalized()
        await self.certify_app_key(identity)
        deadline_s = header.time_s + DEADLINE_AHEAD_S
        point = uncompressed(identity.node_key)
        node_signature = self._sign(
            identity, REGISTER, seat, point[1:33], point[64] % 2 == 1, identity.instance_id,
            identity.scheme, incarnation, deadline_s, endpoint,
        )  # fmt: skip
        registration = (
            seat, point[1:33], point[33:], identity.instance_id, identity.scheme, incarnation,
            deadline_s, endpoint,
        )  # fmt: skip
        data = self._function("register").encode(
            registration, with_v27(identity.app_signature), node_signature, owner_signature
        )
        return await self._send(f"register seat {seat} incarnation {incarnation}", data, until)

    async def announce(
        self,
        identity: Identity,
        seat: int,
        endpoint: str,
        incarnation: int,
        *,
        until: TxState = TxState.FINAL,
    ) -> TxOutcome:
        """Renews the lease, with a new endpoint and a higher incarnation; fails as ``register``."""
        _check_endpoint(endpoint)
        deadline_s = (await self._registry.finalized()).time_s + DEADLINE_AHEAD_S
        signature = self._sign(identity, ANNOUNCE, seat, incarnation, deadline_s, endpoint)
        data = self._function("announce").encode(seat, incarnation, deadline_s, endpoint, signature)
        return await self._send(f"announce seat {seat} incarnation {incarnation}", data, until)

    async def deactivate(self, seat: int, *, until: TxState = TxState.FINAL) -> TxOutcome:
        """Takes the node off; the sender must be the seat's or contract's owner or guardian."""
        return await self._send(
            f"deactivate seat {seat}", self._function("deactivate").encode(seat), until
        )

    async def certify_app_key(self, identity: Identity) -> None:
        """Makes sure that the registry knows the node's app key under a root that is live.

        Raises:
            RootUnknown, CallReverted, TransactionError: as ``register``.
        """
        if await self._certified(identity):
            return
        header = await self._registry.finalized()
        epoch = await self._root_epoch(identity, header)
        point = uncompressed(identity.app_key)
        data = self._function("certifyAppKey").encode(
            identity.app_id, point[1:33], point[33:], with_v27(identity.kms_signature), epoch
        )
        try:
            await self._send(
                f"certify app key 0x{address_of(identity.app_key).hex()} epoch {epoch}",
                data,
                TxState.INCLUDED,
            )
        except (CallReverted, TransactionFailed):
            # All nodes of an app share the app key and may do this at the same moment.
            if not await self._certified(identity):
                raise

    async def is_paused(self) -> bool:
        """Whether nobody can register or renew a lease, at the finalized block."""
        (paused,) = await self._registry.call("paused")
        return bool(paused)

    async def sweep(self, seats: Sequence[int]) -> TxOutcome:
        """Takes out those of these seats whose lease, root or app ended; the rest is passed over.

        Raises as ``TransactionSender.send``.
        """
        data = self._function("sweep").encode(list(seats))
        named = ", ".join(map(str, seats))
        return await self._send(f"sweep seats {named:.160}", data, TxState.INCLUDED)

    async def _certified(self, identity: Identity) -> bool:
        """Whether the newest state has the app key for this app under a live root.

        This reads the latest block, not the finalized one: another node's certificate helps as soon
        as it is mined. A wrong answer only costs a transaction or a refusal; nothing is believed.
        """
        app_key = self._function("appKey")
        call = {
            "to": "0x" + self._registry.contract.hex(),
            "data": "0x" + app_key.encode("0x" + address_of(identity.app_key).hex()).hex(),
        }
        try:
            raw = await self._registry.reader.agree("eth_call", [call, "latest"], decoding.data)
        except ChainError:
            return False
        app_id, epoch = app_key.decode(raw)
        if app_id != identity.app_id:
            return False
        signer, valid_until_s = await self._registry.call("root", epoch)
        header = await self._registry.finalized()
        return int(signer, 16) != 0 and valid_until_s > header.time_s

    async def _root_epoch(self, identity: Identity, header: Header) -> int:
        message = b"dstack-kms-issued:" + identity.app_id + identity.app_key
        root = address_of(recover(keccak256(message), identity.kms_signature))
        (newest,) = await self._registry.call("currentRootEpoch", at=header)
        for epoch in range(newest, max(-1, newest - ROOT_EPOCHS_MAX), -1):
            signer, valid_until_s = await self._registry.call("root", epoch, at=header)
            if bytes.fromhex(signer[2:]) == root and valid_until_s > header.time_s:
                return int(epoch)
        raise RootUnknown(
            f"KMS root 0x{root.hex()} signed for this node's app key, and the registry"
            f" 0x{self._registry.contract.hex()} trusts no such root (any more)"
        )

    async def _send(self, intent: str, data: bytes, until: TxState) -> TxOutcome:
        return await self._sender.send(intent, self._registry.contract, data, until=until)

    def _sign(self, identity: Identity, kind: str, *values: int | bool | str | bytes) -> bytes:
        return with_v27(identity.secret.sign_recoverable(digest(self._domain, kind, *values)))

    def _function(self, name: str) -> FunctionAbi:
        return self._registry.abi.function(name)


def owner_authorization(
    owner: HashSigner,
    *,
    chain_id: int,
    contract: bytes,
    seat: int,
    instance_id: bytes,
    deadline_s: int,
) -> bytes:
    """What the seat owner signs to let an instance register until the deadline (unix seconds)."""
    domain = domain_separator(chain_id, contract)
    signature = owner.sign(digest(domain, AUTHORIZE, seat, instance_id, deadline_s))
    return encode(["uint64", "bytes"], [deadline_s, with_v27(signature)])


def purpose_text(chain_id: int, contract: bytes, seat: int, instance_id: bytes) -> str:
    """The text that the node key is derived under and the app key signs."""
    words = (
        chain_id.to_bytes(32, "big")
        + contract.rjust(32, b"\0")
        + seat.to_bytes(32, "big")
        + instance_id.ljust(32, b"\0")
    )
    return PURPOSE_PREFIX + keccak256(words).hex()


def _check_endpoint(endpoint: str) -> None:
    if not usable_endpoint(endpoint.encode("utf-8", "replace")):
        raise ValueError(f"an endpoint is a multiaddr of at most {ENDPOINT_CHARS_MAX} characters")
