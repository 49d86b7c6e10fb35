"""What the registry says: members, their keys and weights, at one block.

``Membership`` is a value: it carries the block it was read at, so that two nodes that hold equal
values agree on everything the protocol derives from it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol


class MemberStatus(IntEnum):
    """State of a seat in the registry; the numbers are those of ``Registry.sol``."""

    EMPTY = 0  # granted, no node yet
    ACTIVE = 1
    INACTIVE = 2  # deactivated or swept; may register again with a higher incarnation


@dataclass(frozen=True, slots=True)
class Member:
    """One seat.

    ``node_key`` is the compressed secp256k1 key (33 bytes), empty while the seat has no node.
    ``endpoint`` is a libp2p multiaddr without the peer id (the peer id follows from the key).
    """

    seat: int
    weight: int
    status: MemberStatus
    node_key: bytes
    instance_id: bytes
    incarnation: int
    endpoint: str
    lease_expires_s: int
    root_epoch: int
    scheme: int
    owner: bytes


@dataclass(frozen=True, slots=True)
class Membership:
    """All seats at one block; ``members`` is sorted by seat."""

    chain_id: int
    contract: bytes
    block_number: int
    block_hash: bytes
    block_time_s: int
    prev_randao: bytes
    version: int
    digest: bytes
    members: tuple[Member, ...]

    def member(self, seat: int) -> Member | None:
        """The member with that seat number, or None."""
        return next((m for m in self.members if m.seat == seat), None)

    def active(self) -> tuple[Member, ...]:
        """Members that have a live node."""
        return tuple(m for m in self.members if m.status is MemberStatus.ACTIVE)


class Registry(Protocol):
    """The registry as the daemon sees it, on whatever chain it lives.

    Every read is made at one finalized block. Methods raise ``chain.ChainError``.
    """

    async def snapshot(self) -> Membership:
        """The membership at the newest finalized block."""
        ...

    async def genesis(self) -> Membership | None:
        """The membership at the block of ``launch()``, the validator set of epoch 0; None before.

        Rebuilt from events and checked against the digest that ``launch()`` recorded, so that every
        node derives the same set at any later time. Endpoints are empty in it.
        """
        ...

    def watch(self) -> AsyncIterator[Membership]:
        """Yields a membership at once and then at every change, until cancelled."""
        ...
