"""The registry's events on their way into seats and sets, and what shows that they are forged."""

from __future__ import annotations

from dataclasses import fields, replace

import eth_abi
import pytest

from chain.errors import BadChainData
from chain.keys import keccak256
from chain.membership import Change, Voter
from chain.replay import (
    SEATS_MAX,
    SETS_MAX,
    NodeChange,
    Replay,
    Seats,
    SeatState,
    Sets,
    active_members,
    next_digest,
)


def changes(count: int) -> list[NodeChange]:
    return [
        NodeChange(
            100 + n, 1 + n % 3, n, keccak256(b"%d" % n), n % 2 == 1, bytes([n]) * 20, n, 1 + n % 2
        )
        for n in range(1, count + 1)
    ]


def digest_of(listed: list[NodeChange]) -> bytes:
    rolling = bytes(32)
    for change in listed:
        rolling = keccak256(
            eth_abi.encode(
                ["bytes32", "uint64", "uint256", "uint256", "bytes32", "bool", "bytes20",
                 "uint32", "uint8"],
                [rolling, change.version, change.block_number, change.seat, change.key_x,
                 change.key_odd, change.instance_id, change.weight, change.status],
            )
        )  # fmt: skip
    return rolling


class Listed:
    """A fold that keeps all."""

    def __init__(self) -> None:
        self.changes: list[NodeChange] = []

    def add(self, change: NodeChange, digest: bytes) -> None:
        self.changes.append(change)


NOTHING = Change(100, 0, bytes(32))


def proven(
    listed: list[NodeChange], version: int, digest: bytes, since: Change = NOTHING
) -> list[NodeChange]:
    replay = Replay(since, Change(100 + version, version, digest), Listed())
    for change in listed:
        replay.add([change])
    return replay.finish().changes


def test_a_proven_history_is_what_leads_from_one_state_to_another() -> None:
    listed = changes(7)
    assert proven(listed, 6, digest_of(listed[:6])) == listed[:6]
    assert proven([], 0, bytes(32)) == []
    assert next_digest(bytes(32), listed[0]) == digest_of(listed[:1])
    since = Change(102, 2, digest_of(listed[:2]))
    # the blocks at both ends may hold more than what is asked for
    assert proven(listed[1:], 5, digest_of(listed[:5]), since) == listed[2:5]
    assert proven([], 2, since.digest, since) == []
    with pytest.raises(BadChainData, match="two node changes of version 1"):
        proven(listed, 5, digest_of(listed[:5]), replace(since, block_number=100))
    with pytest.raises(BadChainData, match="of version 6, which is not yet there"):
        Replay(NOTHING, Change(110, 5, digest_of(listed[:5])), Listed()).add(listed)
    wrong = Change(102, 2, digest_of(listed[:3]))
    with pytest.raises(BadChainData, match="events give digest"):
        proven(listed[2:], 5, digest_of(listed[:5]), wrong)


def test_the_seats_after_a_history_are_kept_and_not_the_history() -> None:
    seats = Seats({3: SeatState(1, 1, b"", b"")})
    for change in changes(7):
        seats.add(change, b"")
    seats.add(replace(changes(1)[0], seat=3, weight=0), b"")
    assert [m.seat for m in active_members(seats.now)] == [1] and sorted(seats.now) == [1, 2]
    before = changes(1)[0]
    full = Seats({seat: SeatState(1, 1, b"", b"") for seat in range(1, SEATS_MAX + 1)})
    full.add(before, b"")
    with pytest.raises(BadChainData, match="more than 65535 seats"):
        full.add(replace(before, seat=SEATS_MAX + 1), b"")


def test_of_many_sets_between_two_looks_the_newest_are_told() -> None:
    sets = Sets({9: Voter(9, 1, b"nine")})
    blocks = SETS_MAX + 3
    for n in range(2 * blocks):  # two changes in each block; the last one counts
        seat, weight = (1, 1 + n) if n % 2 else (2, 2 + n)
        sets.add(NodeChange(n // 2, seat, n + 1, b"k" * 32, True, b"", weight, 1), b"%d" % n)
    sets.add(NodeChange(blocks, 9, 2 * blocks + 1, bytes(32), False, b"", 5, 0), b"left")
    sets.add(NodeChange(blocks + 1, 9, 2 * blocks + 2, bytes(32), False, b"", 6, 0), b"no voter")
    found = sets.found()
    assert len(found) == SETS_MAX
    assert [change.block_number for change, _ in found] == list(range(4, blocks + 1))
    change, voters = found[0]
    assert change == Change(4, 10, b"9") and [(v.seat, v.weight) for v in voters] == [
        (1, 10), (2, 10), (9, 1),
    ]  # fmt: skip
    assert [v.seat for v in found[-1][1]] == [1, 2] and found[-1][0].digest == b"left"


def test_any_tampering_with_events_shows() -> None:
    listed = changes(6)
    digest = digest_of(listed)
    attempts = [listed[:3] + listed[4:], [*listed, listed[2]], listed[:5]]
    for field in fields(NodeChange):
        if field.name == "version":
            continue
        old = getattr(listed[3], field.name)
        new = (
            bytes(len(old))
            if isinstance(old, bytes)
            else (not old if isinstance(old, bool) else old + 1)
        )
        attempts.append([*listed[:3], replace(listed[3], **{field.name: new}), *listed[4:]])
    swapped = [replace(listed[0], version=2), replace(listed[1], version=1), *listed[2:]]
    for attempt in [*attempts, swapped]:
        with pytest.raises(BadChainData):
            proven(attempt, 6, digest)
    with pytest.raises(BadChainData, match="of version 7 is missing"):
        proven(listed, 2**63, digest)
