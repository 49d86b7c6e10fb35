"""What the daemon makes of a changing registry: events for the core, links, alarms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from chain import (
    Change,
    Member,
    Membership,
    MemberStatus,
    PendingRecovery,
    RecoveryVote,
    SetView,
    Sighting,
    Voter,
)
from consensus.interface import ChainHead, EpochOpened, MembershipSeen, RecoverySeen
from consensus.limits import EPOCHS_PER_ERA as ERA
from consensus.order import chain_seed
from consensus.validators import Validator, ValidatorSet
from node.membership import MembershipFeed, chain_view

CLUSTER = b"c" * 32
OWN = 1


def key(name: int | str) -> bytes:
    return b"\x02" + str(name).encode().rjust(32, b"k")


def member(seat: int, weight: int = 1, **other: Any) -> Member:
    row = Member(
        seat, weight, MemberStatus.ACTIVE, key(seat), b"i" * 20, 1, f"/ip4/10.0.0.{seat}/tcp/1",
        2**40, 1, 0, bytes(20),
    )  # fmt: skip
    return replace(row, **other)


def view(block: int, voters: tuple[Voter, ...]) -> SetView:
    return SetView(block, b"%032d" % block, b"r" * 32, block, b"d%031d" % block, voters)


def sighting(block: int, *rows: Member, changed: bool = True, **other: Any) -> Sighting:
    """A look at a block in which these rows are new."""
    membership = Membership(
        1, bytes(20), block, b"%032d" % block, 1000 + block, b"r" * 32, block, bytes(32), rows,
        last_change=Change(block, block, bytes(32)), roots=((1, 2**40),),
    )  # fmt: skip
    voters = tuple(Voter(m.seat, m.weight, m.node_key) for m in membership.active())
    views = (view(block, voters),) if changed else ()
    return Sighting(replace(membership, **other), changed, views, ())


def validators(*rows: Member, epoch: int = 0) -> ValidatorSet:
    return ValidatorSet(epoch, tuple(Validator(m.seat, m.weight, m.node_key) for m in rows), b"s")


class Links:
    def __init__(self) -> None:
        self.members: dict[int, tuple[bytes, str]] = {}

    def set_members(self, members: Any) -> None:
        self.members = {m.seat: (m.node_key, m.endpoint) for m in members}


class Node:
    def __init__(self) -> None:
        self.links = Links()
        self.events: list[Any] = []
        self.feed = MembershipFeed(CLUSTER, OWN, self.links)

    def run(self, *rows: Member) -> None:
        self.feed.attach(self.events.append, validators(*rows))

    def open(self, epoch: int, *rows: Member) -> None:
        """As the core says it."""
        opening: Any = None
        self.feed.opened(EpochOpened(validators(*rows, epoch=epoch), 100 * epoch, opening, True))

    def take(self, kind: type) -> list[Any]:
        found = [event for event in self.events if isinstance(event, kind)]
        self.events.clear()
        return found


FOUR = tuple(member(seat) for seat in (1, 2, 3, 4))


def test_the_core_hears_the_newest_view_at_its_start_and_every_one_after_it() -> None:
    node = Node()
    node.feed.saw(sighting(5, member(1)))
    node.feed.saw(sighting(6, *FOUR))
    node.run(*FOUR)
    (first,) = node.take(MembershipSeen)
    assert first.view.block_number == 6 and first.revoked == frozenset()
    assert first.view.seed == chain_seed(CLUSTER, b"%032d" % 6, b"r" * 32)
    assert [v.seat for v in first.view.validators] == [1, 2, 3, 4]
    seen = sighting(9, *FOUR, member(5))
    between = view(8, (Voter(7, 1, key(7)),))
    node.feed.saw(replace(seen, views=(between, *seen.views)))
    assert [e.view.block_number for e in node.take(MembershipSeen)] == [8, 9]


def test_the_core_hears_of_each_block_of_the_chain() -> None:
    node = Node()
    node.feed.saw(sighting(6, *FOUR))
    node.run(*FOUR)
    assert node.take(ChainHead) == [ChainHead(6, 1_006_000)]
    node.feed.saw(sighting(7, *FOUR, changed=False))
    assert node.events == [ChainHead(7, 1_007_000)]


@pytest.mark.parametrize(
    "gone",
    [
        {"status": MemberStatus.INACTIVE},
        {"node_key": key("new")},
        {"lease_expires_s": 1007},
        {"root_epoch": 9},
    ],
)
def test_a_member_that_may_not_speak_any_more_is_revoked_at_once(gone: dict[str, Any]) -> None:
    node = Node()
    node.feed.saw(sighting(6, *FOUR))
    node.run(*FOUR)
    node.take(MembershipSeen)
    rows = (*FOUR[:3], member(4, **gone))
    node.feed.saw(replace(sighting(7, *rows), views=()))
    (told,) = node.take(MembershipSeen)
    assert told.revoked == {4} and told.view.block_number == 6
    node.feed.saw(sighting(8, *FOUR))
    assert node.take(MembershipSeen)[-1].revoked == frozenset()


def test_a_burnt_seat_is_revoked_and_a_newcomer_never() -> None:
    node = Node()
    node.feed.saw(sighting(6, *FOUR))
    node.run(*FOUR)
    node.feed.saw(sighting(7, *FOUR[:3], member(9, status=MemberStatus.INACTIVE)))
    assert node.take(MembershipSeen)[-1].revoked == {4}
    assert node.feed.status()["pending"] == {"joining": [], "leaving": [4], "changing": []}


def test_links_go_to_the_registrys_members_and_to_both_sets() -> None:
    node = Node()
    node.feed.saw(sighting(6, *FOUR))
    node.run(*FOUR)
    assert node.links.members == {m.seat: (m.node_key, m.endpoint) for m in FOUR[1:]}
    left = member(4, status=MemberStatus.INACTIVE)
    node.feed.saw(sighting(7, *FOUR[:3], left, member(5)))
    assert node.links.members.keys() == {2, 3, 4, 5}
    assert node.links.members[4] == (key(4), left.endpoint), "it may be needed for the boundary"
    now = (*FOUR[:3], member(5))
    node.open(1, *now)
    assert node.links.members.keys() == {2, 3, 4, 5}, "it still serves the epoch before"
    node.open(2, *now)
    assert node.links.members.keys() == {2, 3, 5}


def test_a_replaced_node_is_cut_off_for_the_one_that_the_registry_shows() -> None:
    node = Node()
    node.feed.saw(sighting(6, *FOUR))
    node.run(*FOUR)
    moved = member(4, node_key=key("new"), endpoint="/ip4/10.9.9.9/tcp/1")
    node.feed.saw(sighting(7, *FOUR[:3], moved))
    assert node.links.members[4] == (key("new"), "/ip4/10.9.9.9/tcp/1")
    assert node.feed.status()["pending"] == {"joining": [], "leaving": [], "changing": [4]}


def test_a_change_that_takes_several_epochs_is_told_until_one_is_left() -> None:
    node = Node()
    node.feed.saw(sighting(6, *FOUR))
    node.run(*FOUR)
    six = (*FOUR, member(5), member(6))
    node.feed.saw(sighting(7, *six))
    (alarm,) = node.feed.alarms()
    assert "more than one epoch may" in alarm and "seats 1, 2, 3, 4, 5, the rest" in alarm
    node.open(1, *six[:5])
    assert node.feed.alarms() == [] and node.feed.pending() == {
        "joining": [6], "leaving": [], "changing": [],
    }  # fmt: skip


def test_alarms_say_what_is_wrong_and_go_away() -> None:
    node = Node()
    node.feed.saw(sighting(6, *FOUR))
    node.run(*FOUR)
    assert node.feed.alarms() == []
    one_gone = (*FOUR[:3], member(4, status=MemberStatus.INACTIVE))
    node.feed.saw(sighting(7, *one_gone))
    assert node.feed.alarms() == [], "three of four are a quorum"
    two_gone = tuple(replace(m, status=MemberStatus.INACTIVE) if m.seat > 2 else m for m in FOUR)
    node.feed.saw(sighting(8, *two_gone))
    _, alarm = node.feed.alarms()
    assert "needed for the quorum: seats 3, 4" in alarm and "weight 2 of 4, a quorum is 3" in alarm
    waiting = PendingRecovery(ERA, 77, b"h" * 32, 5000)
    node.feed.saw(sighting(9, *FOUR, pending_recovery=waiting))
    (alarm,) = node.feed.alarms()
    assert f"epoch {ERA} on height 77" in alarm and (b"h" * 32).hex() in alarm
    node.feed.saw(sighting(10, *FOUR, pending_recovery=replace(waiting, epoch=3)))
    _, alarm = node.feed.alarms()
    assert "no node will open epoch 3" in alarm and f"vote for epoch {ERA}" in alarm
    node.feed.saw(sighting(11, *FOUR))
    assert node.feed.alarms() == []
    node.feed.saw(replace(sighting(12, *FOUR), recoveries=(recovery(ERA), recovery(2 * ERA))))
    second = replace(waiting, epoch=2 * ERA + 1)
    node.feed.saw(sighting(13, *FOUR, pending_recovery=second))
    *_, alarm = node.feed.alarms()
    assert f"no node will open epoch {2 * ERA + 1}" in alarm, "the first of its era counts"
    assert f"vote for epoch {3 * ERA}" in alarm


def recovery(epoch: int) -> RecoveryVote:
    return RecoveryVote(epoch, 77, b"h" * 32, view(7, (Voter(1, 1, key(1)),)))


def test_a_recovery_reaches_the_core_whenever_it_was_seen() -> None:
    early, late = Node(), Node()
    for node in (early, late):
        node.feed.saw(sighting(6, *FOUR))
    early.run(*FOUR)
    for node in (early, late):
        node.feed.saw(replace(sighting(7, *FOUR), recoveries=(recovery(1),)))
    late.run(*FOUR)
    for node in (early, late):
        (told,) = node.take(RecoverySeen)
        (told,) = told.recoveries
        assert (told.epoch, told.height, told.chain_block) == (1, 77, 7)
        assert told.validators == (Validator(1, 1, key(1)),)


def test_the_core_is_told_of_every_recovery_once_and_of_all_that_there_are() -> None:
    node = Node()
    eras = [2 * ERA, 5 * ERA, 9 * ERA]
    three = tuple(map(recovery, eras))
    assert node.feed.status()["recovery_epoch"] == ERA
    node.feed.saw(replace(sighting(7, *FOUR), recoveries=three))
    node.run(*FOUR)
    assert [[r.epoch for r in e.recoveries] for e in node.take(RecoverySeen)] == [eras]
    assert node.feed.status()["recovery_epoch"] == 10 * ERA
    nobody = replace(recovery(12 * ERA), view=view(7, ()))
    node.feed.saw(replace(sighting(8, *FOUR), recoveries=(nobody,)))
    assert node.feed.status()["recovery_epoch"] == 13 * ERA, "the registry wants rising numbers"
    node.open(2 * ERA, member(1))
    assert node.take(RecoverySeen) == []
    # The core was told of all that it is beyond, too: it must stop if it went another way.
    node = Node()
    node.feed.saw(replace(sighting(7, *FOUR), recoveries=three))
    node.feed.attach(node.events.append, validators(*FOUR, epoch=6 * ERA))
    assert [[r.epoch for r in e.recoveries] for e in node.take(RecoverySeen)] == [eras]


async def test_who_starts_again_behind_a_recovery_waits_for_the_chain() -> None:
    first = Node()
    first.feed.saw(replace(sighting(7, *FOUR), recoveries=(recovery(ERA), recovery(2 * ERA))))
    remembered = first.feed.newest_recovery
    assert remembered == 2 * ERA
    again, said = Node(), list[str]()
    with trio.fail_after(5):
        await again.feed.see_again(remembered, 2 * ERA + 3, said.append)
        await again.feed.see_again(0, 0, said.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(again.feed.see_again, remembered, 0, said.append)
            await trio.testing.wait_all_tasks_blocked()
            (reason,) = said
            assert "waiting for the chain" in reason and nursery.child_tasks
            again.feed.saw(sighting(8, *FOUR))


def test_a_view_that_no_set_can_be_made_of_is_left_out() -> None:
    crowd = tuple(Voter(seat, 1, key(seat)) for seat in range(1, 300))
    for voters in ((), crowd):
        assert chain_view(view(7, voters), CLUSTER) is None
    node = Node()
    node.feed.saw(sighting(6, *FOUR))
    node.run(*FOUR)
    node.events.clear()
    nobody = tuple(replace(m, status=MemberStatus.INACTIVE) for m in FOUR)
    node.feed.saw(sighting(7, *nobody))
    assert all(e.view.block_number == 6 for e in node.take(MembershipSeen))
    assert any("it has 0 voters" in alarm for alarm in node.feed.alarms())
    node.feed.saw(sighting(8, *FOUR))
    assert node.feed.alarms() == []
