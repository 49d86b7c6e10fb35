"""What machines and key servers sign: honest by default, and bent by the attacks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import coincurve

from chain.eip712 import ANNOUNCE, REGISTER, digest, domain_separator
from chain.keys import CURVE_ORDER, keccak256, with_v27
from chain.registration import purpose_text
from tests.integration.anvil_chain import APP, CHAIN_ID, endpoint, instance

Key = coincurve.PrivateKey


def key(name: str) -> Key:
    return Key(keccak256(name.encode()))


def point(secret: Key) -> tuple[bytes, bytes]:
    """Affine x and y, 32 bytes each."""
    raw = secret.public_key.format(compressed=False)
    return raw[1:33], raw[33:]


def signed(secret: Key, message_hash: bytes) -> bytes:
    """r||s||v with low s, v 27 or 28."""
    return with_v27(secret.sign_recoverable(message_hash, hasher=None))


def twin(signature: bytes) -> bytes:
    """The other signature of the same text that anybody can compute: (r, n - s, other v)."""
    s = CURVE_ORDER - int.from_bytes(signature[32:64], "big")
    return signature[:32] + s.to_bytes(32, "big") + bytes([55 - signature[64]])


def kms_signature(app: Key, app_id: bytes, kms: Key) -> bytes:
    return signed(kms, keccak256(b"dstack-kms-issued:" + app_id + app.public_key.format()))


def claim(purpose: str, node_key: bytes, scheme: int = 0) -> bytes:
    """The hash that an app key signs for a purpose and a compressed key, by guest API version."""
    if scheme == 0:
        return keccak256(purpose.encode() + b":" + node_key.hex().encode())
    fields = (b"dstack-guest-v1-key-claim", b"secp256k1", purpose.encode(), node_key)
    return keccak256(b"".join(len(f).to_bytes(4, "big") + f for f in fields))


@dataclass(frozen=True)
class Proof:
    """A registration with its signatures; ``contract`` and ``chain_id``: what it is made for."""

    contract: bytes
    node: Key
    seat: int
    key_x: bytes
    key_y: bytes
    instance_id: bytes
    scheme: int
    incarnation: int
    deadline: int
    endpoint: str
    app_signature: bytes = b""
    node_signature: bytes = b""
    owner_signature: bytes = b""
    chain_id: int = CHAIN_ID

    @classmethod
    def honest(
        cls,
        contract: bytes,
        seat: int,
        name: str,
        *,
        deadline: int,
        incarnation: int = 1,
        scheme: int = 0,
        app: Key = APP,
        node: Key | None = None,
        purpose: str | None = None,
        chain_id: int = CHAIN_ID,
        **changes: Any,
    ) -> Proof:
        """What a machine called ``name`` shows for that seat, or with some of it changed.

        ``app`` signs the claim; ``purpose``: another text than that of the seat and instance.
        """
        node = node or key(f"node {name}")
        unsigned = cls(
            contract, node, seat, *point(node), instance(name), scheme, incarnation, deadline,
            endpoint(seat), chain_id=chain_id,
        )  # fmt: skip
        unsigned = replace(unsigned, **changes)
        if purpose is None:
            purpose = purpose_text(chain_id, contract, seat, unsigned.instance_id)
        app_signature = signed(app, claim(purpose, node.public_key.format(), unsigned.scheme))
        return replace(unsigned, app_signature=app_signature).signed_by(node)

    def signed_by(self, node: Key) -> Proof:
        """The same with that key's proof of possession for what it says now."""
        text = digest(
            domain_separator(self.chain_id, self.contract), REGISTER, self.seat, self.key_x,
            self.key_y[-1] % 2 == 1, self.instance_id, self.scheme, self.incarnation,
            self.deadline, self.endpoint,
        )  # fmt: skip
        return replace(self, node_signature=signed(node, text))

    def bent(self, **changes: Any) -> Proof:
        """Changed on the way, signatures as they are."""
        return replace(self, **changes)

    @property
    def call(self) -> tuple[Any, ...]:
        """The arguments of ``register``."""
        registration = (
            self.seat, self.key_x, self.key_y, self.instance_id, self.scheme, self.incarnation,
            self.deadline, self.endpoint,
        )  # fmt: skip
        return registration, self.app_signature, self.node_signature, self.owner_signature

    def announcement(self, incarnation: int, endpoint: str, deadline: int) -> tuple[Any, ...]:
        """The arguments of ``announce``, signed by the node's key."""
        domain = domain_separator(self.chain_id, self.contract)
        text = digest(domain, ANNOUNCE, self.seat, incarnation, deadline, endpoint)
        return self.seat, incarnation, deadline, endpoint, signed(self.node, text)
