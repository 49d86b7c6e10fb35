"""Thresholds: more than two thirds, more than a third, in integers."""

from __future__ import annotations

from fractions import Fraction

import pytest
from clusters import Cluster
from hypothesis import given
from hypothesis import strategies as st

from consensus.limits import MEMBERS_MAX, WEIGHT_MAX
from consensus.validators import Validator, ValidatorSet

weights = st.lists(st.integers(1, WEIGHT_MAX), min_size=1, max_size=20)


def _set(values: list[int]) -> ValidatorSet:
    return ValidatorSet(
        0,
        tuple(
            Validator(i, w, b"\x02" + i.to_bytes(32, "big")) for i, w in enumerate(values, start=1)
        ),
        bytes(32),
    )


def test_ten_of_sixteen_is_no_quorum_and_neither_are_the_other_six() -> None:
    validators = Cluster((10, 1, 1, 1, 1, 1, 1)).validators
    heavy, light = validators.weight([1]), validators.weight(range(2, 8))
    assert (heavy, light) == (10, 6)
    assert not validators.is_quorum(heavy)
    assert not validators.is_quorum(light)
    assert validators.is_quorum(heavy + 1)
    assert validators.quorum_weight == 11


@pytest.mark.parametrize("n", [3, 6, 9, 99])
def test_exactly_two_thirds_are_no_quorum_and_exactly_a_third_does_not_join(n: int) -> None:
    validators = _set([1] * n)
    assert not validators.is_quorum(2 * n // 3)
    assert validators.is_quorum(2 * n // 3 + 1)
    assert not validators.is_join(n // 3)
    assert validators.is_join(n // 3 + 1)


@given(weights, st.data())
def test_thresholds_are_those_of_exact_fractions(values: list[int], data: st.DataObject) -> None:
    validators = _set(values)
    weight = data.draw(st.integers(0, validators.total))
    assert validators.is_quorum(weight) == (Fraction(weight, validators.total) > Fraction(2, 3))
    assert validators.is_join(weight) == (Fraction(weight, validators.total) > Fraction(1, 3))
    assert validators.is_quorum(validators.quorum_weight)
    assert not validators.is_quorum(validators.quorum_weight - 1)


@given(weights, st.data())
def test_two_quorums_share_more_than_a_third(values: list[int], data: st.DataObject) -> None:
    validators = _set(values)
    one = data.draw(st.sets(st.sampled_from(validators.seats)))
    two = data.draw(st.sets(st.sampled_from(validators.seats)))
    both = (validators.is_quorum(validators.weight(s)) for s in (one, two))
    if all(both):
        assert validators.is_join(validators.weight(one & two))


@given(weights, st.data())
def test_a_quorum_remains_without_any_third(values: list[int], data: st.DataObject) -> None:
    validators = _set(values)
    faulty = data.draw(st.sets(st.sampled_from(validators.seats)))
    if 3 * validators.weight(faulty) < validators.total:
        assert validators.is_quorum(validators.weight(set(validators.seats) - faulty))


def test_a_seat_counts_once_and_strangers_count_nothing() -> None:
    validators = _set([5, 7])
    assert validators.weight([1, 1, 1, 99]) == 5


def test_sets_that_make_no_sense_are_refused() -> None:
    key = b"\x02" + bytes(32)
    other = b"\x03" + bytes(32)
    for members in (
        (),
        (Validator(1, 1, key), Validator(1, 1, other)),
        (Validator(1, 1, key), Validator(2, 1, key)),
        (Validator(1, 0, key),),
        (Validator(1, WEIGHT_MAX + 1, key),),
        (Validator(1, 1, key[:32]),),
    ):
        with pytest.raises(ValueError):
            ValidatorSet(0, members, bytes(32))
    with pytest.raises(ValueError, match=str(MEMBERS_MAX)):
        _set([1] * (MEMBERS_MAX + 1))
