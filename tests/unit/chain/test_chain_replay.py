"""The registry's events on their way into seats and sets, and what shows that they are forged."""

from __future__ import annotations

from dataclasses import fields, replace

import eth_abi
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
    compressed,
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


# ---------------------------------------------------------------------- against a slow walk


@st.composite
def histories(draw: st.DrawFn) -> list[NodeChange]:
    block, listed = 100, []
    for version in range(1, draw(st.integers(1, 30)) + 1):
        block += draw(st.integers(0, 2))
        weight = draw(st.sampled_from((0, 1, 2)))
        status = draw(st.sampled_from((0, 1, 2))) if weight else 0
        key = bytes([draw(st.integers(0, 2))]) * 32
        seat = draw(st.integers(1, 4))
        listed.append(NodeChange(block, seat, version, key, True, b"i" * 20, weight, status))
    return listed


def state(listed: list[NodeChange], version: int, block: int) -> Change:
    return Change(block, version, digest_of(listed[:version]))


def voters(listed: list[NodeChange], version: int) -> dict[int, Voter]:
    last = {change.seat: change for change in listed[:version]}
    return {
        seat: Voter(seat, c.weight, compressed(c.key_x, c.key_odd))
        for seat, c in last.items()
        if c.status == 1
    }


@given(histories(), st.data())
def test_whatever_two_states_are_seats_and_sets_between_them_are_those_of_a_slow_walk(
    listed: list[NodeChange], data: st.DataObject
) -> None:
    """A look is at the end of a block, a launch or a recovery may be in the middle of one."""
    first = data.draw(st.integers(0, len(listed)))
    last = data.draw(st.integers(first, len(listed)))
    blocks = [99, *(change.block_number for change in listed)]
    since, up_to = state(listed, first, blocks[first]), state(listed, last, blocks[last])
    shown = [c for c in listed if since.block_number <= c.block_number <= up_to.block_number]
    before = {c.seat: c for c in listed[:first]}
    seats = Seats(
        {
            seat: SeatState(c.weight, c.status, compressed(c.key_x, c.key_odd), c.instance_id)
            for seat, c in before.items()
            if c.weight
        }
    )
    replay = Replay(since, up_to, seats)
    replay.add(shown)
    after = {c.seat: c for c in listed[:last]}
    assert {seat: row.weight for seat, row in replay.finish().now.items()} == {
        seat: c.weight for seat, c in after.items() if c.weight
    }

    sets = Replay(since, up_to, Sets(voters(listed, first)))
    sets.add(shown)
    expected: dict[int, tuple[Change, tuple[Voter, ...]]] = {}
    for version in range(first + 1, last + 1):
        if voters(listed, version) != voters(listed, version - 1):
            change = listed[version - 1]
            expected[change.block_number] = (
                state(listed, version, change.block_number),
                tuple(voter for _, voter in sorted(voters(listed, version).items())),
            )
    assert sets.finish().found() == list(expected.values())[-SETS_MAX:]
