"""Standing: who was deposed leads late in the next epoch, and it is forgotten in time."""

from __future__ import annotations

import pytest
from clusters import Cluster, block, command
from hypothesis import given
from hypothesis import strategies as st

from consensus.machine import STANDING, Machine
from consensus.order import leader_order
from consensus.standing import CONVICTED, Standing, decode_standing
from consensus.types import Evidence, NextEpoch, Reason, View, VoteKind
from consensus.validators import Validator

cluster = Cluster((1,) * 7, bytes(32))
seats = st.integers(1, 7)

GOLDEN_ORDERS = {
    (): (7, 2, 5, 4, 3, 6, 1),
    ((7, 1),): (2, 5, 4, 3, 6, 1, 7),
    ((1, 2), (6, 1), (7, 1)): (2, 5, 4, 3, 7, 6, 1),
    ((1, CONVICTED), (3, 5), (5, 5)): (7, 2, 4, 6, 5, 3, 1),
}


@pytest.mark.parametrize("demerits", GOLDEN_ORDERS, ids=str)
def test_orders_with_demerits_are_pinned(demerits) -> None:
    assert leader_order(cluster.validators, demerits) == GOLDEN_ORDERS[demerits]


def test_a_deposed_leader_leads_late_in_the_next_epoch_and_is_forgiven_after() -> None:
    standing = Standing().after([3], [])
    assert standing == Standing(((3, 1),), ())  # the order of this epoch is as it was
    opened = standing.next_epoch(range(1, 8))
    assert opened == Standing((), ((3, 1),))
    assert leader_order(cluster.validators, opened.opening)[-1] == 3
    assert opened.next_epoch(range(1, 8)) == Standing()


def test_a_convicted_member_stays_last_for_good() -> None:
    standing = Standing().after([3, 3, 4], [5])
    for _ in range(5):
        standing = standing.next_epoch(range(1, 8))
        assert leader_order(cluster.validators, standing.opening)[-1] == 5
    assert standing.now == ((5, CONVICTED),)
    assert standing.after([5], []).now == ((5, CONVICTED),)


def test_those_who_left_are_forgotten() -> None:
    assert Standing().after([3, 4], [5]).next_epoch([3]) == Standing((), ((3, 1),))


@given(st.lists(st.tuples(st.lists(seats), st.lists(seats), st.booleans()), max_size=6))
def test_a_standing_survives_the_disk(history) -> None:
    standing = Standing()
    for deposed, convicted, opens in history:
        standing = standing.after(deposed, convicted)
        if opens:
            standing = standing.next_epoch(range(1, 6))
    assert decode_standing(standing.encode()) == standing


@given(st.binary(max_size=60))
def test_any_other_bytes_are_refused_or_canonical(data: bytes) -> None:
    try:
        standing = decode_standing(data)
    except ValueError:
        return
    assert standing.encode() == data


def test_the_state_hash_covers_the_standing() -> None:
    plain, deposed = Machine(), Machine()
    made = block(View(1, 0), commands=(command(1, 1),))
    before = plain.apply(made)
    after = deposed.apply(made, [2])
    assert before.state_hash != after.state_hash
    assert after.changes.facts == {STANDING: Standing(((2, 1),)).encode()} == deposed.facts
    assert not before.changes.facts


def test_evidence_in_a_block_convicts_and_a_boundary_halves() -> None:
    machine = Machine()
    one = Cluster().vote(2, VoteKind.NOTARIZE, View(1, 0), bytes(32))
    other = Cluster().vote(2, VoteKind.NOTARIZE, View(1, 0), b"\1" * 32)
    first = block(View(1, 0), evidence=(Evidence(one, other),))
    machine.apply(first, [1, 1, 1, 4])
    assert machine.standing.now == ((1, 3), (2, CONVICTED), (4, 1))
    validators = tuple(Validator(s, 1, Cluster().keys[s]) for s in (1, 2, 3))
    record = NextEpoch(1, 9, bytes(32), bytes(32), bytes(32), validators)
    machine.apply(block(View(1, 1), first, next_epoch=record))
    assert machine.standing == Standing(((1, 1), (2, CONVICTED)), ((1, 3), (2, CONVICTED)))


def test_a_nullification_in_a_final_block_is_a_demerit_but_not_for_stepping_down() -> None:
    four = Cluster()
    for reason, expected in ((Reason.STALL, 1), (Reason.STEP_DOWN, 0)):
        engine, _ = four.booted(1)
        engine.ledger.nullifications.clear()
        leader = four.leader(1)
        certificate = four.certificate(VoteKind.NULLIFY, View(1, 0), reason=reason)
        made = block(View(2, 0), nullifications=(certificate,))
        assert engine._deposed(made) == (leader,) * expected
