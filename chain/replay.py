"""Rebuilds the membership of a past version from events, and proves the rebuild by the digest.

Every change of a seat emits ``NodeChanged`` with all fields that enter the rolling digest. So the
events may come from anybody: one withheld, altered, added or reordered event gives another digest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from chain.abi import EventAbi
from chain.decoding import Log
from chain.errors import BadChainData
from chain.keys import keccak256
from chain.membership import Member, MemberStatus

ZERO_KEY = bytes(32)
VERSIONS_MAX = 200_000


@dataclass(frozen=True, slots=True)
class NodeChange:
    """One ``NodeChanged`` with the block it was mined in."""

    block_number: int
    seat: int
    version: int
    key_x: bytes
    key_odd: bool
    instance_id: bytes
    weight: int
    status: int


def node_change(log: Log, event: EventAbi, contract: bytes) -> NodeChange:
    """Reads a log as a node change.

    Raises:
        BadChainData: another contract's log, another event, or it does not decode.
    """
    if log.address != contract:
        raise BadChainData("a log of another contract among the registry's")
    fields = event.decode(log.topics, log.data)
    return NodeChange(
        block_number=log.block_number,
        seat=fields["seat"],
        version=fields["version"],
        key_x=fields["keyX"],
        key_odd=fields["keyOdd"],
        instance_id=fields["instanceId"],
        weight=fields["weight"],
        status=fields["status"],
    )


def next_digest(digest: bytes, change: NodeChange) -> bytes:
    """The registry's digest after a change (``abi.encode`` of nine static words)."""
    return keccak256(
        digest
        + change.version.to_bytes(32, "big")
        + change.block_number.to_bytes(32, "big")
        + change.seat.to_bytes(32, "big")
        + change.key_x
        + int(change.key_odd).to_bytes(32, "big")
        + change.instance_id.ljust(32, b"\0")
        + change.weight.to_bytes(32, "big")
        + change.status.to_bytes(32, "big")
    )


def replay(changes: Iterable[NodeChange], version: int, digest: bytes) -> dict[int, NodeChange]:
    """The last change of each seat up to ``version``, proven by ``digest``.

    Args:
        changes: in any order; later versions may be among them.

    Raises:
        BadChainData: a version is missing or twice there, or the digest differs.
    """
    if not 0 <= version <= VERSIONS_MAX:
        raise BadChainData(f"version {version} of the registry, at most {VERSIONS_MAX} expected")
    by_version: dict[int, NodeChange] = {}
    for change in changes:
        if change.version > version:
            continue
        if change.version in by_version:
            raise BadChainData(f"two node changes of version {change.version}")
        by_version[change.version] = change
    rolling = bytes(32)
    seats: dict[int, NodeChange] = {}
    for number in range(1, version + 1):
        found = by_version.get(number)
        if found is None:
            raise BadChainData(f"the node change of version {number} is missing")
        rolling = next_digest(rolling, found)
        seats[found.seat] = found
    if rolling != digest:
        raise BadChainData(
            f"events give digest 0x{rolling.hex()} at version {version},"
            f" the registry says 0x{digest.hex()}"
        )
    return seats


def active_members(seats: dict[int, NodeChange]) -> tuple[Member, ...]:
    """The active seats as members, sorted; what events do not hold is empty in them."""
    return tuple(
        Member(
            seat=change.seat,
            weight=change.weight,
            status=MemberStatus.ACTIVE,
            node_key=compressed(change.key_x, change.key_odd),
            instance_id=change.instance_id,
            incarnation=0,
            endpoint="",
            lease_expires_s=0,
            root_epoch=0,
            scheme=0,
            owner=b"",
        )
        for _, change in sorted(seats.items())
        if change.status == MemberStatus.ACTIVE
    )


def compressed(key_x: bytes, key_odd: bool) -> bytes:
    """The 33-byte node key, empty for a seat without a node."""
    return b"" if key_x == ZERO_KEY else (b"\x03" if key_odd else b"\x02") + key_x
