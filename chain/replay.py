"""Rebuilds the membership of a past version from events, and proves the rebuild by the digest.

Every change of a seat emits ``NodeChanged`` with all fields that enter the rolling digest. So the
events may come from anybody: one withheld, altered, added or reordered event gives another digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from chain.abi import EventAbi
from chain.decoding import Log
from chain.errors import BadChainData
from chain.keys import keccak256
from chain.membership import Change, Member, MemberStatus, Voter

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


@dataclass(frozen=True, slots=True)
class SeatState:
    """What the events tell of a seat; without a node the key is empty and the instance zero."""

    weight: int
    status: int
    node_key: bytes
    instance_id: bytes


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


def proven(
    changes: Iterable[NodeChange], version: int, digest: bytes, since: Change | None = None
) -> list[NodeChange]:
    """The changes up to ``version`` in order, proven by ``digest``.

    Args:
        changes: in any order; later and earlier versions may be among them.
        since: start after this one, instead of at the first change of all.

    Raises:
        BadChainData: a version is missing or twice there, or the digest differs.
    """
    first, rolling = (0, bytes(32)) if since is None else (since.version, since.digest)
    if not 0 <= version - first <= VERSIONS_MAX:
        raise BadChainData(
            f"version {version} of the registry, {first} to {first + VERSIONS_MAX} expected"
        )
    by_version: dict[int, NodeChange] = {}
    for change in changes:
        if not first < change.version <= version:
            continue
        if change.version in by_version:
            raise BadChainData(f"two node changes of version {change.version}")
        by_version[change.version] = change
    ordered = []
    for number in range(first + 1, version + 1):
        found = by_version.get(number)
        if found is None:
            raise BadChainData(f"the node change of version {number} is missing")
        rolling = next_digest(rolling, found)
        ordered.append(found)
    if rolling != digest:
        raise BadChainData(
            f"events give digest 0x{rolling.hex()} at version {version},"
            f" the registry says 0x{digest.hex()}"
        )
    return ordered


def set_changes(
    changes: Iterable[NodeChange], since: Change, voters: Mapping[int, Voter]
) -> list[tuple[Change, tuple[Voter, ...]]]:
    """Each block that changed who votes: the registry after its last such change, and the voters.

    Args:
        changes: proven, in order.
        since, voters: the registry before them, and who voted then.
    """
    now = dict(voters)
    digest = since.digest
    found: dict[int, tuple[Change, tuple[Voter, ...]]] = {}
    for change in changes:
        digest = next_digest(digest, change)
        voter = None
        if change.status == MemberStatus.ACTIVE:
            key = compressed(change.key_x, change.key_odd)
            voter = Voter(change.seat, change.weight, key)
        if now.get(change.seat) == voter:
            continue
        if voter is None:
            del now[change.seat]
        else:
            now[change.seat] = voter
        found[change.block_number] = (
            Change(change.block_number, change.version, digest),
            tuple(voter for _, voter in sorted(now.items())),
        )
    return list(found.values())


def seats_after(
    changes: Iterable[NodeChange], seats: Mapping[int, SeatState]
) -> dict[int, SeatState]:
    """The seats that exist after some changes, from those before them; burnt ones are gone."""
    now = dict(seats)
    for change in changes:
        if change.weight == 0:
            now.pop(change.seat, None)
        else:
            now[change.seat] = SeatState(
                change.weight,
                change.status,
                compressed(change.key_x, change.key_odd),
                change.instance_id,
            )
    return now


def active_members(changes: Iterable[NodeChange]) -> tuple[Member, ...]:
    """The seats that are active after all changes, sorted; what events do not hold is empty."""
    seats = {change.seat: change for change in changes}
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
