"""The node's identity: a key from the guest agent, accepted only with a chain that verifies."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

from .agent import AgentKey, GuestAgent
from .chain import (
    APP_ID_BYTES,
    INSTANCE_ID_BYTES,
    SCHEME_V0,
    SCHEME_V1,
    KeyProof,
    TrustedRoot,
    VerifiedChain,
    node_purpose,
    verify_chain,
)
from .errors import ApiNotMounted, IdentityError, MethodMissing
from .keys import SecretKey, compressed_to_xy, from_evm_signature, to_evm_signature


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who this node is in the cluster, verified; printing or pickling never yields the secret.

    ``node_key`` and ``app_key`` are compressed keys (33 bytes), ``instance_id`` and ``app_id`` 20
    bytes, ``root`` the 20-byte address that signed for the app key under ``root_epoch``. Both
    signatures are in the form the registry takes: 65 bytes r || s || v, v 27 or 28, low s.
    ``compose_hash`` (32 bytes or empty) is what the agent says, unproven.
    """

    secret: SecretKey
    node_key: bytes
    instance_id: bytes
    app_id: bytes
    scheme: int
    purpose: str
    app_signature: bytes
    kms_signature: bytes
    app_key: bytes
    root: bytes
    root_epoch: int
    compose_hash: bytes

    def proof(self) -> KeyProof:
        """The signature chain as ``verify_chain`` takes it, for showing it to a peer."""
        return KeyProof(
            scheme=self.scheme,
            purpose=self.purpose,
            public_key=self.node_key,
            app_id=self.app_id,
            app_signature=from_evm_signature(self.app_signature),
            kms_signature=from_evm_signature(self.kms_signature),
        )

    def node_key_xy(self) -> tuple[bytes, bytes]:
        """Coordinates of the node key, 32 bytes each, as ``register`` takes them."""
        return compressed_to_xy(self.node_key)

    def app_key_xy(self) -> tuple[bytes, bytes]:
        """Coordinates of the app key, 32 bytes each, as ``certifyAppKey`` takes them."""
        return compressed_to_xy(self.app_key)


async def obtain_identity(
    agent: GuestAgent,
    *,
    chain_id: int,
    contract: bytes,
    seat: int,
    roots: Iterable[TrustedRoot],
    app_id: bytes | None = None,
    scheme: int | None = None,
    insecure_simulator: bool = False,
    now_s: int | None = None,
) -> NodeIdentity:
    """Ask the agent for the key of this seat and verify its chain before anything uses it.

    ``contract`` 20 bytes; ``app_id`` (20 bytes) is the app the cluster demands, None takes the
    agent's own. ``scheme``: 0 or 1 asks exactly that guest API, as a registered node must (the two
    derive different keys); None takes v0, which every release has, and v1 where v0 is gone.
    ``now_s``: unix time for the roots' windows, None reads the clock.

    Raises AgentError, IdentityError, SignatureChainError; then no key leaves this function.
    """
    if scheme not in (None, SCHEME_V0, SCHEME_V1):
        raise ValueError(f"scheme is 0, 1 or None, got {scheme}")
    if app_id is not None and len(app_id) != APP_ID_BYTES:
        raise ValueError(f"an app id has {APP_ID_BYTES} bytes, got {len(app_id)}")
    info = await agent.info()
    if app_id is not None and info.app_id != app_id:
        raise IdentityError(
            f"the agent serves app {info.app_id.hex()}, the cluster wants {app_id.hex()}"
        )
    if len(info.instance_id) != INSTANCE_ID_BYTES:
        raise IdentityError(
            "the agent names no instance id (app-compose has no_instance_id): "
            "a seat is bound to one instance"
        )
    purpose = node_purpose(chain_id, contract, seat, info.instance_id)
    used_scheme, key = await _ask_key(agent, purpose, scheme)
    proof = KeyProof(
        scheme=used_scheme,
        purpose=purpose,
        # Computed from the secret we were given, so a valid chain proves that the two belong
        # together; an agent that hands out a key under another key's chain fails below.
        public_key=key.public_key,
        app_id=info.app_id,
        app_signature=key.app_signature,
        kms_signature=key.kms_signature,
    )
    verified = verify_chain(
        proof,
        purpose=purpose,
        app_id=info.app_id,
        roots=roots,
        now_s=int(time.time()) if now_s is None else now_s,
        public_key=key.secret.public_key(),
        insecure_simulator=insecure_simulator,
    )
    return _identity(key, verified, info.instance_id, info.compose_hash)


async def _ask_key(agent: GuestAgent, purpose: str, scheme: int | None) -> tuple[int, AgentKey]:
    if scheme == SCHEME_V1:
        return SCHEME_V1, await agent.get_key_v1(purpose)
    try:
        return SCHEME_V0, await agent.get_key_v0(purpose, purpose)
    except (ApiNotMounted, MethodMissing):
        if scheme == SCHEME_V0:
            raise
        return SCHEME_V1, await agent.get_key_v1(purpose)


def _identity(
    key: AgentKey, verified: VerifiedChain, instance_id: bytes, compose_hash: bytes
) -> NodeIdentity:
    proof = verified.proof
    return NodeIdentity(
        secret=key.secret,
        node_key=proof.public_key,
        instance_id=instance_id,
        app_id=proof.app_id,
        scheme=proof.scheme,
        purpose=proof.purpose,
        app_signature=to_evm_signature(proof.app_signature),
        kms_signature=to_evm_signature(proof.kms_signature),
        app_key=verified.app_key,
        root=verified.root,
        root_epoch=verified.root_epoch,
        compose_hash=compose_hash,
    )
