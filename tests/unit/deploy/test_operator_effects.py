"""What the dry run says about the cluster, from small memberships."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest

from chain import Change, Member, Membership, MemberStatus, PendingRecovery
from consensus.limits import EPOCHS_PER_ERA as ERA
from deploy import calls
from deploy.calls import Call
from deploy.operator.effects import _describe, effect_of
from deploy.operator.wording import NO_END_S, Effect

NOW_S = 1_000_000


def member(seat: int, weight: int = 1, *, active: bool = True, root: int = 1) -> Member:
    return Member(
        seat=seat, weight=weight, status=MemberStatus.ACTIVE if active else MemberStatus.EMPTY,
        node_key=b"\x02" + bytes([seat]) * 32 if active else b"", instance_id=bytes([seat]) * 20,
        incarnation=1, endpoint="/ip4/1.2.3.4/tcp/1", lease_expires_s=NOW_S + 100, root_epoch=root,
        scheme=0, owner=bytes([seat]) * 20,
    )  # fmt: skip


def membership(*members: Member, pending: PendingRecovery | None = None) -> Membership:
    return Membership(
        chain_id=1, contract=bytes(20), block_number=9, block_hash=bytes(32), block_time_s=NOW_S,
        prev_randao=bytes(32), version=1, digest=bytes(32), members=members,
        roots=((1, NOW_S + 500), (2, NO_END_S)), pending_recovery=pending,
    )  # fmt: skip


FOUR = membership(*(member(seat) for seat in range(1, 5)))


def text(effect: Effect) -> str:
    return "\n".join([*effect.lines, *(f"WARNING {w}" for w in effect.warnings)])


def test_every_call_has_words_for_its_effect() -> None:
    names = re.findall(r'Call\(\s*"(\w+)"', inspect.getsource(calls))
    assert len(names) > 20
    after_a_look_at_the_chain = {"proveConflict", "depose", "upgradeToAndCall", "setRegistry"}
    assert {name for name in names if not _describe(Call(name))} == after_a_look_at_the_chain


def test_taking_one_of_four_leaves_a_quorum_and_two_do_not() -> None:
    one = effect_of(calls.burn_seat(4), FOUR)
    assert "voting weight 4 -> 3, quorum 3 -> 3" in text(one) and not one.warnings
    rows = [member(1, root=1), member(2, root=1), member(3, root=2), member(4, root=2)]
    two = effect_of(calls.revoke_root(1), membership(*rows))
    assert "seat 1, 2, weight 2" in text(two)
    (warning,) = two.warnings
    assert "BREAKS THE QUORUM" in warning and "2 of 4" in warning


@pytest.mark.parametrize("call", [calls.deactivate(3), calls.burn_seat(3), calls.set_weight(3, 5)])
def test_a_seat_without_a_node_changes_no_vote(call: Call) -> None:
    now = membership(member(1), member(2), member(3, active=False))
    assert "BREAKS" not in text(effect_of(call, now))
    assert re.search(r"no vote changes|stays 2", text(effect_of(call, now)))


def test_a_seat_that_is_not_there_is_said_to_be_missing() -> None:
    for call in (calls.set_weight(9, 1), calls.burn_seat(9), calls.bind_instance(9, b"i" * 20)):
        assert "no seat 9 in block 9" in text(effect_of(call, FOUR))


def test_a_launch_says_whom_it_takes_and_when_these_are_not_whom_it_was_asked_for() -> None:
    now = replace(FOUR, last_change=Change(8, 1, b"\xaa" * 32))
    same = effect_of(calls.launch(b"\xaa" * 32), now)
    assert "seats 1 (weight 1), 2 (weight 1)" in text(same) and not same.warnings
    assert "--founders 0x" + "aa" * 32 in text(same)
    other = effect_of(calls.launch(b"\xbb" * 32), now)
    assert "these are not the founders 0x" + "bb" * 32 in text(other)


def test_a_weight_that_makes_a_seat_indispensable_is_warned_of() -> None:
    now = membership(*(member(seat, 2) for seat in range(1, 5)))
    assert not effect_of(calls.set_weight(1, 2), now).warnings
    heavy = effect_of(calls.set_weight(1, 3), now)
    assert "voting weight 8 -> 9, quorum 6 -> 7" in text(heavy)
    assert "without seat 1 there would be no quorum" in text(heavy)
    granted = effect_of(calls.grant_seat(b"w" * 20, 100), now)
    assert "granted weight 8 -> 108" in text(granted) and "this seat" in text(granted)


def test_a_rotation_without_grace_ends_the_nodes_of_the_current_root() -> None:
    now = membership(member(1, root=1), *(member(seat, root=2) for seat in (2, 3, 4)))
    at_once = effect_of(calls.rotate_root(b"r" * 20, 0), now)
    assert "seat 2, 3, 4, weight 3" in text(at_once) and at_once.warnings
    later = effect_of(calls.rotate_root(b"r" * 20, NOW_S + 60), now)
    assert "seats of weight 3 must register" in text(later) and not later.warnings


def test_a_sweep_counts_only_those_that_may_not_speak() -> None:
    rows = (member(1), member(2), member(3), member(4, root=7))  # nobody knows root 7
    found = effect_of(calls.sweep([1, 4]), membership(*rows))
    assert "seat 4, weight 1" in text(found) and "seat 1" not in text(found)


def test_a_recovery_that_waits_is_told_from_a_new_one() -> None:
    waiting = PendingRecovery(ERA, 70, b"h" * 32, NOW_S + 9)
    now = membership(member(1), member(2), pending=waiting)
    opens = effect_of(calls.recover(ERA, 70, b"h" * 32, [1, 2]), now)
    assert "opens the recovery" in text(opens) and len(opens.warnings) == 1
    announces = effect_of(calls.recover(ERA, 71, b"h" * 32, [1, 2]), now)
    assert "announces" in text(announces) and not announces.warnings


def test_a_recovery_that_no_node_will_open_is_told_before_anybody_votes() -> None:
    now = membership(member(1), member(2))
    good = effect_of(calls.vote_recovery(1, 2 * ERA, 70, b"h" * 32), now)
    assert len(good.warnings) == 1
    for call in (calls.vote_recovery(1, 7, 70, b"h" * 32), calls.recover(7, 70, b"h" * 32, [1])):
        assert f"is {ERA}" in effect_of(call, now).warnings[-1]


@pytest.mark.parametrize(("era", "warnings"), [(63, 1), (64, 2), (6400, 3)])
def test_a_number_that_leaves_none_for_a_later_recovery_is_warned_of(
    era: int, warnings: int
) -> None:
    """A few digits too many: members would refuse it, and the registry all that is smaller."""
    effect = effect_of(calls.vote_recovery(1, era * ERA, 70, b"h" * 32), FOUR)
    assert len(effect.warnings) == warnings
    assert any("possible any more" in line for line in effect.warnings) == (era > 63)
