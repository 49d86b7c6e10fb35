"""Break-glass as stories (R21): a lost quorum, the chain's vote, and where it leads."""

from __future__ import annotations

import pytest

from consensus.epochs import Origin, due
from consensus.interface import Alarm, MembershipSeen, RecoverySeen
from consensus.types import Recovery
from consensus.validators import Validator
from tests.unit.consensus.towns import Town


def _stuck() -> Town:
    """Four of seven are gone for good."""
    town = Town(7, 7)
    town.commit()
    town.crash(4, 5, 6, 7)
    town.settle()
    return town


def members(town: Town, count: int) -> list[Validator]:
    return [town.member(seat) for seat in range(1, count + 1)]


def test_a_recovery_vote_on_the_chain_opens_an_epoch_of_those_who_are_left() -> None:
    town = _stuck()
    tip = town.engines[1].ledger.tip
    recovery = Recovery(1, tip.height, tip.hash, tuple(map(town.member, (1, 2, 3))), bytes(32))
    for seat in (1, 2, 3):
        output = town.step(seat, RecoverySeen(recovery))
        assert [n for n in output.notices if isinstance(n, Alarm)], "it must be loud"
    town.pass_time()
    assert town.members(1) == {1: 1, 2: 1, 3: 1}
    town.commit()
    town.crash(1, 2, 3)
    town.start(1, 2, 3)
    for seat in (1, 2, 3):  # the chain tells it again at every start
        town.step(seat, RecoverySeen(recovery))
    assert set(town.epochs().values()) == {1}
    town.settle()
    town.commit()


def test_a_member_behind_the_recovery_fetches_first() -> None:
    town = Town(7, 7)
    town.crash(3)
    town.commit()
    town.crash(4, 5, 6, 7)
    tip = town.engines[1].ledger.tip
    recovery = Recovery(1, tip.height, tip.hash, tuple(map(town.member, (1, 2, 3))), bytes(32))
    for seat in (1, 2):
        town.step(seat, RecoverySeen(recovery))
    town.start(3)
    town.step(3, RecoverySeen(recovery))
    assert town.epochs()[3] == 0
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    town.commit()


def test_after_a_recovery_no_older_view_leads_back_to_the_lost_members() -> None:
    town = Town(7, 7)
    old = town.change(*members(town, 7))
    town.commit()
    town.crash(5, 6, 7)
    town.change(*members(town, 4))
    tip = town.engines[1].ledger.tip
    recovery = Recovery(1, tip.height, tip.hash, tuple(members(town, 4)), bytes(32))
    for seat in (1, 2, 3, 4):
        town.step(seat, RecoverySeen(recovery))
    town.pass_time()
    assert town.members(1) == {1: 1, 2: 1, 3: 1, 4: 1}
    # One step back is within the limits, and a leader that lies would propose it.
    liar = town.engines[1]
    back = due(liar.validators, Origin(), old)
    assert back is not None and 5 in {member.seat for member in back.validators}
    for seat, engine in town.engines.items():
        town.step(seat, MembershipSeen(old, frozenset()))
        assert not engine._accepts(back, 1)
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    # What the registry shows later is followed as ever.
    town.change(town.heavier(1, 2), *members(town, 4)[1:])
    town.pass_time()
    assert set(town.epochs().values()) == {2}


@pytest.mark.parametrize("what", ["beyond", "another block", "another epoch"])
def test_a_recovery_that_does_not_fit_stops_the_member(what: str) -> None:
    town = _stuck()
    tip = town.engines[1].ledger.tip
    height, hash_, epoch = tip.height, tip.hash, 1
    if what == "beyond":
        height -= 1
    elif what == "another block":
        hash_ = bytes(32)
    else:
        epoch = 2
    members = tuple(map(town.member, (1, 2, 3)))
    output = town.step(1, RecoverySeen(Recovery(epoch, height, hash_, members, bytes(32))))
    assert output.halt is not None
    assert "recovery" in output.halt.reason
