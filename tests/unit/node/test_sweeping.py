"""Nodes that lost their say for good are swept out of the registry by one member, after a while."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import trio

from chain import ChainError, Member, Membership, MemberStatus
from node.sweeping import GRACE_S, RETRY_S, TURN_S, Sweeper

NO_END_S = 2**39


def row(seat: int) -> Member:
    return Member(
        seat=seat, weight=1, status=MemberStatus.ACTIVE, node_key=b"\x02" + bytes([seat]) * 32,
        instance_id=bytes([seat]) * 20, incarnation=1, endpoint="", lease_expires_s=NO_END_S,
        root_epoch=1, scheme=0, owner=bytes(20),
    )  # fmt: skip


class Chain:
    """A registry of four seats, as every member reads it, and what was sent to it."""

    def __init__(self) -> None:
        self.now = Membership(
            chain_id=1, contract=bytes(20), block_number=9, block_hash=bytes(32), block_time_s=1,
            prev_randao=bytes(32), version=1, digest=bytes(32),
            members=tuple(row(seat) for seat in (1, 2, 3, 4)), roots=((1, NO_END_S),),
        )  # fmt: skip
        self.swept: list[tuple[float, list[int]]] = []
        self.failures: list[ChainError] = []
        self.paused = False

    def disallow(self, *seats: int) -> None:
        self.now = replace(self.now, disallowed=seats)

    async def is_paused(self) -> bool:
        return self.paused

    async def sweep(self, seats: Sequence[int]) -> None:
        if self.failures:
            raise self.failures.pop()
        self.swept.append((trio.current_time(), list(seats)))
        left = tuple(m for m in self.now.members if m.seat not in seats)
        self.now = replace(self.now, members=left, disallowed=())

    def member(self, seat: int, turn: int | None = 0) -> Sweeper:
        return Sweeper(self.sweep, self.is_paused, lambda: self.now, lambda: turn, seat)


async def run(*members: Sweeper, seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        for each in members:
            nursery.start_soon(each.run)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


async def test_one_member_sweeps_after_a_while_and_the_others_find_it_done(
    autojump_clock: Any,
) -> None:
    chain, started = Chain(), trio.current_time()
    chain.disallow(4)
    members = [chain.member(seat, turn) for seat, turn in ((1, 0), (2, 1), (3, 2))]
    await run(*members, seconds=GRACE_S - 10)
    assert chain.swept == [] and members[0].status()[0]["seat"] == 4
    await run(*members, seconds=3 * TURN_S)
    ((when, seats),) = chain.swept
    assert seats == [4] and GRACE_S <= when - started < GRACE_S + 20
    assert members[0].status() == []


async def test_when_it_does_not_the_next_one_does(autojump_clock: Any) -> None:
    chain, started = Chain(), trio.current_time()
    chain.disallow(4)
    await run(chain.member(2, 1), chain.member(9, None), seconds=2 * TURN_S)
    assert chain.swept[0][0] - started >= GRACE_S + TURN_S


async def test_one_that_comes_back_in_time_is_left_alone(autojump_clock: Any) -> None:
    chain = Chain()
    member = chain.member(1)
    for _ in range(3):
        chain.disallow(4)
        await run(member, seconds=GRACE_S - 10)
        chain.disallow()
        await run(member, seconds=20)
    assert chain.swept == []


async def test_nothing_is_swept_while_those_who_speak_are_no_quorum(autojump_clock: Any) -> None:
    chain = Chain()
    chain.disallow(3, 4)
    member = chain.member(1)
    await run(member, seconds=2 * GRACE_S)
    assert chain.swept == []
    assert {r["reason"] for r in member.status()} == {
        "those who speak hold 2 of 4, which is no quorum"
    }
    chain.disallow(4)  # the owner allows one of them again
    await run(member, seconds=2 * RETRY_S)
    assert [seats for _, seats in chain.swept] == [[4]]


async def test_nothing_is_swept_while_nobody_can_renew_a_lease(autojump_clock: Any) -> None:
    chain = Chain()
    chain.paused = True
    chain.disallow(4)
    member = chain.member(1)
    await run(member, seconds=2 * GRACE_S)
    assert chain.swept == [] and member.status()[0]["reason"] == "the registry is paused"
    chain.paused = False
    await run(member, seconds=2 * RETRY_S)
    assert [seats for _, seats in chain.swept] == [[4]]


async def test_trouble_is_tried_again_and_our_own_seat_is_for_others(autojump_clock: Any) -> None:
    chain = Chain()
    chain.failures = [ChainError("no 2 endpoints agree")]
    chain.disallow(4)
    own = chain.member(4)
    await run(own, seconds=2 * GRACE_S)
    assert chain.swept == [] and own.status() == [] and chain.failures
    member = chain.member(1)
    await run(member, seconds=GRACE_S + RETRY_S / 2)
    assert member.status()[0]["reason"] == "no 2 endpoints agree"
    await run(member, seconds=RETRY_S)
    assert [seats for _, seats in chain.swept] == [[4]]
