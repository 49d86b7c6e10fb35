"""Rebuilds the membership of a past version from events, and proves the rebuild by the digest.

Every change of a seat emits ``NodeChanged`` with all fields that enter the rolling digest. So the
events may come from anybody: one withheld, altered, added or reordered event gives another digest.

They are taken in as they come and not kept: how many there ever were is up to whoever paid for
them, while the seats that are left are no more than the contract allows at a time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from chain.abi import EventAbi
from chain.decoding import Log
from chain.errors import BadChainData
from chain.keys import keccak256
from chain.membership import Change, Member, MemberStatus, Voter

ZERO_KEY = bytes(32)
SEATS_MAX = 2**16 - 1  # most seats that the contract lets exist at a time
SETS_MAX = 256  # of the sets between two looks, so many are told: the newest


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


class Fold(Protocol):
    """What is made of changes, one after the other."""

    def add(self, change: NodeChange, digest: bytes) -> None:
        """Takes the next change in, with the registry's digest after it. Raises BadChainData."""
        ...


F = TypeVar("F", bound=Fold)


class Replay(Generic[F]):
    """Changes from a known state up to another one, folded as they come.

    Nothing of it is true before ``finish``.

    Args:
        since: the registry before the first of them.
        up_to: after the last one.
        fold: what is made of them.
    """

    __slots__ = ("_digest", "_fold", "_since", "_up_to", "_version")

    def __init__(self, since: Change, up_to: Change, fold: F) -> None:
        assert since.version <= up_to.version
        self._since, self._up_to, self._fold = since, up_to, fold
        self._version, self._digest = since.version, since.digest

    def aim(self, up_to: Change) -> bool:
        """Goes on to a later state, at the end of a block; False when it is beyond that already."""
        if up_to.version < self._version:
            return False
        self._up_to = up_to
        return True

    def add(self, changes: Iterable[NodeChange]) -> None:
        """Takes the next ones in, in order of version.

        Raises:
            BadChainData: a version is missing or twice there, or one too many.
        """
        for change in changes:
            if self._is_beside(change):
                continue
            if change.version <= self._version:
                raise BadChainData(f"two node changes of version {change.version}")
            if change.version > self._up_to.version:
                raise BadChainData(f"a change of version {change.version}, which is not yet there")
            if change.version != self._version + 1:
                raise BadChainData(f"the node change of version {self._version + 1} is missing")
            self._version, self._digest = change.version, next_digest(self._digest, change)
            self._fold.add(change, self._digest)

    def finish(self) -> F:
        """What became of them. Raises BadChainData when they are not the registry's."""
        up_to = self._up_to
        if self._version != up_to.version:
            raise BadChainData(f"the node change of version {self._version + 1} is missing")
        if self._digest != up_to.digest:
            raise BadChainData(
                f"events give digest 0x{self._digest.hex()} at version {up_to.version},"
                f" the registry says 0x{up_to.digest.hex()}"
            )
        return self._fold

    def _is_beside(self, change: NodeChange) -> bool:
        """Before or after what is asked for: the block at either end may hold more than that."""
        since, up_to = self._since, self._up_to
        return (change.version <= since.version and change.block_number <= since.block_number) or (
            change.version > up_to.version and change.block_number >= up_to.block_number
        )


class Seats:
    """The seats that exist after some changes, from those before them; burnt ones are gone."""

    def __init__(self, before: Mapping[int, SeatState]) -> None:
        self.now = dict(before)

    def add(self, change: NodeChange, digest: bytes) -> None:
        """See ``Fold``."""
        if change.weight == 0:
            self.now.pop(change.seat, None)
            return
        self.now[change.seat] = SeatState(
            change.weight,
            change.status,
            compressed(change.key_x, change.key_odd),
            change.instance_id,
        )
        if len(self.now) > SEATS_MAX:
            raise BadChainData(f"events of more than {SEATS_MAX} seats, which cannot be")


class Sets:
    """Each block that changed who votes; of many, the newest ``SETS_MAX``.

    Args:
        voters: who voted before, by seat.
    """

    def __init__(self, voters: Mapping[int, Voter]) -> None:
        self._before = dict(voters)  # the oldest step that is kept
        self._now = dict(voters)
        self._steps: deque[_Step] = deque()

    def add(self, change: NodeChange, digest: bytes) -> None:
        """See ``Fold``."""
        voter = None
        if change.status == MemberStatus.ACTIVE:
            key = compressed(change.key_x, change.key_odd)
            voter = Voter(change.seat, change.weight, key)
        if self._now.get(change.seat) == voter:
            return
        _put(self._now, change.seat, voter)
        if len(self._now) > SEATS_MAX:
            raise BadChainData(f"events of more than {SEATS_MAX} voters, which cannot be")
        at = Change(change.block_number, change.version, digest)
        if not self._steps or self._steps[-1].at.block_number != change.block_number:
            if len(self._steps) == SETS_MAX:
                self._steps.popleft().apply(self._before)
            self._steps.append(_Step(at))
        self._steps[-1].at = at
        self._steps[-1].voters[change.seat] = voter

    def found(self) -> list[tuple[Change, tuple[Voter, ...]]]:
        """The registry after the last such change of each block, and who voted then."""
        voters = dict(self._before)
        found = []
        for step in self._steps:
            step.apply(voters)
            found.append((step.at, tuple(voter for _, voter in sorted(voters.items()))))
        return found


@dataclass(slots=True)
class _Step:
    """What one block changed; None: votes no more."""

    at: Change
    voters: dict[int, Voter | None] = field(default_factory=dict)

    def apply(self, to: dict[int, Voter]) -> None:
        for seat, voter in self.voters.items():
            _put(to, seat, voter)


def _put(voters: dict[int, Voter], seat: int, voter: Voter | None) -> None:
    if voter is None:
        voters.pop(seat, None)
    else:
        voters[seat] = voter


def active_members(seats: Mapping[int, SeatState]) -> tuple[Member, ...]:
    """The seats that are active, sorted; what events do not hold is empty."""
    return tuple(
        Member(
            seat=seat,
            weight=state.weight,
            status=MemberStatus.ACTIVE,
            node_key=state.node_key,
            instance_id=state.instance_id,
            incarnation=0,
            endpoint="",
            lease_expires_s=0,
            root_epoch=0,
            scheme=0,
            owner=b"",
        )
        for seat, state in sorted(seats.items())
        if state.status == MemberStatus.ACTIVE
    )


def compressed(key_x: bytes, key_odd: bool) -> bytes:
    """The 33-byte node key, empty for a seat without a node."""
    return b"" if key_x == ZERO_KEY else (b"\x03" if key_odd else b"\x02") + key_x
