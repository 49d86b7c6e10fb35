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
class Change:
    """The registry right after a change: block, version, rolling digest (32 bytes)."""

    block_number: int
    version: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class PendingRecovery:
    """A recovery that has its majority and waits until ``ready_at_s`` (Unix) for objections."""

    epoch: int
    height: int
    block_hash: bytes
    ready_at_s: int


@dataclass(frozen=True, slots=True)
class Membership:
    """All seats at one block; ``members`` is sorted by seat.

    ``last_change`` is the newest change of who votes, by which key or weight; None before the
    first. ``roots`` holds, per epoch of a KMS root that active members were certified under, the
    Unix second at which it ends (0: revoked). ``recoveries`` is how many were opened so far.
    ``disallowed`` are the active seats whose node runs an app that is not allowed any more.
    """

    chain_id: int
    contract: bytes
    block_number: int
    block_hash: bytes
    block_time_s: int
    prev_randao: bytes
    version: int
    digest: bytes
    members: tuple[Member, ...]
    last_change: Change | None = None
    roots: tuple[tuple[int, int], ...] = ()
    recoveries: int = 0
    pending_recovery: PendingRecovery | None = None
    disallowed: tuple[int, ...] = ()

    def member(self, seat: int) -> Member | None:
        """The member with that seat number, or None."""
        return next((m for m in self.members if m.seat == seat), None)

    def active(self) -> tuple[Member, ...]:
        """Members that have a live node."""
        return tuple(m for m in self.members if m.status is MemberStatus.ACTIVE)

    def mute(self) -> tuple[Member, ...]:
        """Members with a node that may not speak for its seat any more: what ``sweep`` takes."""
        return tuple(m for m in self.active() if not self.speaks(m.seat, m.node_key))

    def speaks(self, seat: int, node_key: bytes) -> bool:
        """Whether the node with that key may speak for the seat at this block.

        It is on the seat, its lease runs, its app is allowed and the KMS root behind it is live:
        what ``sweep`` of the contract asks, before anybody has swept.
        """
        row = self.member(seat)
        if row is None or row.status is not MemberStatus.ACTIVE or row.node_key != node_key:
            return False
        if seat in self.disallowed:
            return False
        root_ends_s = dict(self.roots).get(row.root_epoch, 0)
        return self.block_time_s < min(row.lease_expires_s, root_ends_s)


@dataclass(frozen=True, slots=True)
class Voter:
    """A seat that votes, with the node that sits on it; the key is compressed (33 bytes)."""

    seat: int
    weight: int
    node_key: bytes


@dataclass(frozen=True, slots=True)
class SetView:
    """Who votes since a block, which is the last one so far that changed it.

    The same on every node, whichever later block it looked at. ``version`` and ``digest`` are the
    registry's right after the change; ``voters`` are sorted by seat.
    """

    block_number: int
    block_hash: bytes
    prev_randao: bytes
    version: int
    digest: bytes
    voters: tuple[Voter, ...]


@dataclass(frozen=True, slots=True)
class RecoveryVote:
    """What seat owners decided for a cluster without a quorum: ``epoch`` goes on at a block of it.

    ``height`` and ``block_hash`` name the cluster's own block; ``view`` is the registry when the
    vote was carried out.
    """

    epoch: int
    height: int
    block_hash: bytes
    view: SetView


@dataclass(frozen=True, slots=True)
class PolicyText:
    """The attestation policy that the registry names: what members' quotes are checked against.

    The registry's rules hold ``version`` (it only rises; other rules count anew) and ``digest``,
    the keccak256 of ``text``. The text itself may come from anybody, so whoever makes this value
    has hashed it: ``text`` always matches ``digest``. ``attest`` reads what the bytes mean.
    """

    version: int
    digest: bytes
    text: bytes


@dataclass(frozen=True, slots=True)
class Sighting:
    """What a look at a new finalized block showed.

    ``changed``: the membership or the policy differs in more than its block from the last one.
    ``views`` and ``recoveries`` are new since then, oldest first. ``policy`` is the one in force at
    that block, in every sighting; None while the registry names none.
    """

    membership: Membership
    changed: bool
    views: tuple[SetView, ...]
    recoveries: tuple[RecoveryVote, ...]
    policy: PolicyText | None = None


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

    def watch(self) -> AsyncIterator[Sighting]:
        """Yields a sighting at once and then at every new finalized block, until cancelled."""
        ...
