"""The seat keeper writes to the registry when its row is wrong, and only then."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import trio
import trio.testing

from chain import (
    CallReverted,
    ChainError,
    FinalityAlarm,
    Member,
    Membership,
    MemberStatus,
    Sighting,
)
from contracts import artifact
from node.seat import REFUSALS, RETRY_S_MAX, SeatKeeper

ENDPOINT = "/ip4/127.0.0.1/tcp/1000"
IDENTITY: Any = SimpleNamespace(node_key=b"\2" * 33, instance_id=b"\3" * 20, scheme=0)
LEASE_S = 1000


def member(**changes: Any) -> Member:
    row = Member(
        seat=1, weight=1, status=MemberStatus.ACTIVE, node_key=IDENTITY.node_key,
        instance_id=IDENTITY.instance_id, incarnation=4, endpoint=ENDPOINT,
        lease_expires_s=LEASE_S, root_epoch=1, scheme=0, owner=bytes(20),
    )  # fmt: skip
    return replace(row, **changes)


def membership(row: Member | None, time_s: int = 0) -> Membership:
    members = () if row is None else (row,)
    return Membership(1, bytes(20), 9, bytes(32), time_s, bytes(32), 1, bytes(32), members)


class Chain:
    """A registry in memory: what is sent to ``views`` is what ``watch`` yields."""

    def __init__(self) -> None:
        self.tell, self._views = trio.open_memory_channel[Membership | Exception](10)
        self._told: Membership | None = None
        self.written: list[tuple[str, int]] = []
        self.refusal: ChainError | None = None
        self.wrote = trio.Event()
        self.mined = trio.Event()  # what is written, in block 11
        self.mined.set()

    async def watch(self) -> AsyncIterator[Sighting]:
        async for view in self._views:
            if isinstance(view, Exception):
                raise view
            changed = self._told is None or self._told.members != view.members
            self._told = view
            yield Sighting(view, changed, (), ())

    async def call(self, name: str) -> tuple[int]:
        assert name == "leaseDuration"
        return (LEASE_S,)

    async def register(self, identity: Any, seat: int, endpoint: str, incarnation: int) -> Any:
        return await self._write("register", incarnation)

    async def announce(self, identity: Any, seat: int, endpoint: str, incarnation: int) -> Any:
        return await self._write("announce", incarnation)

    async def _write(self, what: str, incarnation: int) -> Any:
        self.written.append((what, incarnation))
        self.wrote.set()
        if self.refusal is not None:
            raise self.refusal
        await self.mined.wait()
        return SimpleNamespace(block_number=11)


def keeper(chain: Chain, seen: list[Sighting]) -> SeatKeeper:
    return SeatKeeper(
        chain,  # type: ignore[arg-type]
        chain,  # type: ignore[arg-type]
        IDENTITY,
        1,
        ENDPOINT,
        seen.append,
    )


async def test_a_right_row_needs_no_transaction(autojump_clock: Any) -> None:
    chain, seen = Chain(), []
    keep = keeper(chain, seen)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep.run)
        await chain.tell.send(membership(member()))
        await keep.wait_registered()
        await trio.sleep(500)
        nursery.cancel_scope.cancel()
    assert chain.written == [] and len(seen) == 1


async def test_each_wrong_row_is_registered_again_above_its_incarnation(
    autojump_clock: Any,
) -> None:
    wrong = [
        {"status": MemberStatus.EMPTY, "node_key": b"", "incarnation": 0},
        {"status": MemberStatus.INACTIVE},
        {"node_key": b"\5" * 33},
        {"instance_id": b"\5" * 20},
        {"scheme": 1},
    ]
    for changes in wrong:
        chain = Chain()
        row = member(**changes)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper(chain, []).run)
            await chain.tell.send(membership(row))
            await chain.wrote.wait()
            nursery.cancel_scope.cancel()
        assert chain.written[0] == ("register", row.incarnation + 1)


async def test_a_moved_endpoint_and_a_half_spent_lease_are_announced(autojump_clock: Any) -> None:
    for row, time_s in ((member(endpoint="/ip4/9.9.9.9/tcp/1"), 0), (member(), LEASE_S // 2 + 1)):
        chain = Chain()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keeper(chain, []).run)
            await chain.tell.send(membership(row, time_s))
            await chain.wrote.wait()
            nursery.cancel_scope.cancel()
        assert chain.written[0] == ("announce", 5)


async def test_how_long_the_lease_lasts_is_told_by_the_newest_final_block(
    autojump_clock: Any,
) -> None:
    for row, left_s in (
        (member(), LEASE_S - 400),
        (member(node_key=b"\5" * 33), None),
        (None, None),
    ):
        chain = Chain()
        keep = keeper(chain, [])
        assert keep.lease_left_s() is None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep.run)
            await chain.tell.send(membership(row, 400))
            await trio.testing.wait_all_tasks_blocked()
            assert keep.lease_left_s() == left_s
            nursery.cancel_scope.cancel()


async def test_what_others_change_meanwhile_does_not_make_it_write_the_same_again(
    autojump_clock: Any,
) -> None:
    chain, empty = Chain(), member(status=MemberStatus.EMPTY, node_key=b"", incarnation=0)
    keep = keeper(chain, [])
    chain.mined = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep.run)
        await chain.tell.send(membership(empty))
        await chain.wrote.wait()
        other = replace(membership(empty), block_number=10, members=(empty, member(seat=2)))
        await chain.tell.send(other)  # another node's registration, in the block before ours
        chain.mined.set()
        await trio.sleep(100)
        assert chain.written == [("register", 1)] and keep.trouble == ""
        await chain.tell.send(
            replace(other, block_number=11, members=(member(incarnation=1), member(seat=2)))
        )
        await keep.wait_registered()
        nursery.cancel_scope.cancel()
    assert chain.written == [("register", 1)] and keep.transactions == 1


async def test_the_lease_is_renewed_though_nothing_in_the_registry_changes(
    autojump_clock: Any,
) -> None:
    chain = Chain()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keeper(chain, []).run)
        for time_s in range(0, LEASE_S, 100):
            await chain.tell.send(membership(member(), time_s))
            await trio.sleep(100)
            if chain.written:
                break
        nursery.cancel_scope.cancel()
    assert chain.written == [("announce", 5)] and LEASE_S // 2 < time_s < LEASE_S


async def test_a_refusal_is_told_and_tried_again_less_and_less_often(autojump_clock: Any) -> None:
    chain = Chain()
    chain.refusal = ChainError("the contract refuses: AppNotAllowed")
    keep = keeper(chain, [])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep.run)
        await chain.tell.send(membership(member(status=MemberStatus.EMPTY)))
        await trio.sleep(600)
        assert "AppNotAllowed" in keep.trouble
        assert 600 / RETRY_S_MAX <= len(chain.written) <= 600 / RETRY_S_MAX + 5
        nursery.cancel_scope.cancel()


async def test_a_refusal_of_the_contract_is_told_with_what_ends_it(autojump_clock: Any) -> None:
    known = {item["name"] for item in artifact("Registry").abi if item["type"] == "error"}
    assert known >= REFUSALS.keys()
    chain = Chain()
    chain.refusal = CallReverted("NotAuthorized", "NotAuthorized()", b"")
    keep = keeper(chain, [])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep.run)
        await chain.tell.send(membership(member(status=MemberStatus.EMPTY)))
        await trio.testing.wait_all_tasks_blocked()
        assert keep.trouble.startswith("the contract refuses: NotAuthorized(): the seat's owner")
        nursery.cancel_scope.cancel()


async def test_a_seat_that_does_not_exist_is_waited_for(autojump_clock: Any) -> None:
    chain = Chain()
    keep = keeper(chain, [])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep.run)
        await chain.tell.send(membership(None))
        await trio.sleep(1)
        assert "seat 1 does not exist" in keep.trouble
        await chain.tell.send(membership(member()))
        await keep.wait_registered()
        assert keep.trouble == ""
        nursery.cancel_scope.cancel()


async def test_an_alarm_of_the_chain_ends_following_and_not_the_daemon(
    autojump_clock: Any,
) -> None:
    chain = Chain()
    keep = keeper(chain, [])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep.run)
        await chain.tell.send(membership(member()))
        await keep.wait_registered()
        await chain.tell.send(FinalityAlarm("block 9 changed"))
        await trio.sleep(100)
        assert keep.alarm == "block 9 changed"
        nursery.cancel_scope.cancel()


async def test_what_was_written_is_not_written_again_before_the_registry_shows_it(
    autojump_clock: Any,
) -> None:
    chain = Chain()
    keep = keeper(chain, [])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(keep.run)
        await chain.tell.send(membership(member(status=MemberStatus.EMPTY)))
        await chain.wrote.wait()
        await trio.sleep(600)
        assert len(chain.written) == 1
        await chain.tell.send(replace(membership(member(incarnation=5)), block_number=11))
        await keep.wait_registered()
        nursery.cancel_scope.cancel()
    assert len(chain.written) == 1
