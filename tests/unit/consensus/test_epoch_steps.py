"""How far one epoch may go (R18): as properties, and what they are for."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.epochs import (
    CHAIN_VIEWS_MAX,
    ChainViews,
    Origin,
    due,
    next_set,
    order_only,
    within_limits,
)
from consensus.types import ChainView
from consensus.validators import Validator, ValidatorSet
from tests.unit.consensus.towns import chain_view


def _key(seat: int, generation: int) -> bytes:
    return b"\2" + generation.to_bytes(16, "big") + seat.to_bytes(16, "big")


@st.composite
def sets(draw: st.DrawFn, most: int = 9) -> tuple[Validator, ...]:
    seats = sorted(draw(st.sets(st.integers(1, 12), min_size=1, max_size=most)))
    return tuple(
        Validator(s, draw(st.sampled_from((1, 1, 1, 2, 5, 10))), _key(s, draw(st.integers(0, 1))))
        for s in seats
    )


def _changed(old: tuple[Validator, ...], new: tuple[Validator, ...]) -> set[int]:
    before, after = {v.seat: v for v in old}, {v.seat: v for v in new}
    return {s for s in before | after if before.get(s) != after.get(s)}


@settings(max_examples=300)
@given(sets(), sets())
def test_every_step_is_small_or_of_one_seat_and_the_target_is_reached(current, target) -> None:
    at = current
    for _ in range(len(_changed(current, target))):
        step = next_set(at, target)
        changed = _changed(at, step)
        assert changed, "nothing is taken though something is left"
        assert changed <= _changed(at, target)
        old, new = {v.seat: v for v in at}, {v.seat: v for v in step}
        assert len(changed) == 1 or within_limits(old, new)
        assert [v.seat for v in step] == sorted(v.seat for v in step)
        at = step
        if at == target:
            break
    assert at == target
    assert next_set(at, target) == at


@settings(max_examples=300)
@given(sets(), sets())
def test_what_the_limits_are_for(current, target) -> None:
    """Who stays is a quorum of the old set; newcomers can neither complain nor block alone."""
    step = next_set(current, target)
    old, new = {v.seat: v for v in current}, {v.seat: v for v in step}
    if not within_limits(old, new):
        return
    before = ValidatorSet(0, current, bytes(32))
    after = ValidatorSet(1, step, bytes(32))
    stays = [s for s in old if s in new and old[s].node_key == new[s].node_key]
    assert before.is_quorum(sum(min(old[s].weight, new[s].weight) for s in stays))
    grown = sum(
        max(0, v.weight - old[s].weight) if s in old and old[s].node_key == v.node_key else v.weight
        for s, v in new.items()
    )
    assert not after.is_join(grown)
    assert after.is_quorum(after.total - grown)


@given(sets(), sets())
def test_the_step_is_the_same_whatever_the_order_of_the_registry(current, target) -> None:
    assert next_set(current[::-1], target[::-1]) == next_set(current, target)


def _set(*weights: int) -> tuple[Validator, ...]:
    return tuple(Validator(s, w, _key(s, 0)) for s, w in enumerate(weights, start=1))


def test_known_steps_are_pinned() -> None:
    four = _set(1, 1, 1, 1)
    assert next_set(_set(1), four) == _set(1, 1)  # one seat always may change
    assert next_set(_set(1, 1), four) == _set(1, 1, 1)
    assert next_set(_set(1, 1, 1), four) == four
    assert next_set(four, _set(1, 1, 1, 1, 1, 1)) == _set(1, 1, 1, 1, 1)
    assert next_set(_set(*[1] * 7), _set(*[1] * 12)) == _set(*[1] * 10)
    assert next_set(four, _set(1)) == (four[0], four[2], four[3])
    assert next_set(four, ()) == four[1:]
    assert next_set(_set(1), ()) == _set(1), "the last member does not leave"
    grown = (replace(four[0], weight=100), *four[1:])
    assert next_set(four, grown) == grown, "one seat changes whole"
    assert next_set(four, (*grown, Validator(5, 1, _key(5, 0)))) == (
        *four,
        Validator(5, 1, _key(5, 0)),
    )


def test_a_view_older_than_the_epochs_own_or_with_the_same_members_leads_nowhere() -> None:
    current = ValidatorSet(3, _set(1, 1, 1, 1), bytes(32))
    view = chain_view(7, *_set(1, 1, 1))
    assert due(current, Origin(8), view) is None
    record = due(current, Origin(7), view)
    assert record is not None
    assert (record.epoch, record.chain_block, record.seed) == (4, 7, view.seed)
    assert due(current, Origin(7), chain_view(9, *_set(1, 1, 1, 1))) is None


def test_a_new_order_needs_no_chain() -> None:
    current = ValidatorSet(3, _set(1, 1, 1, 1), b"s" * 32)
    record = order_only(current, Origin(7, b"h" * 32, b"d" * 32))
    assert record.validators == current.validators
    assert (record.epoch, record.chain_block, record.seed) == (4, 7, b"s" * 32)


def test_a_view_is_kept_once_and_the_newest_ones_only() -> None:
    views = ChainViews()
    made: list[ChainView] = [chain_view(n, *_set(1)) for n in range(CHAIN_VIEWS_MAX + 5)]
    assert all(views.add(view) for view in made)
    assert not views.add(made[-1])
    assert not views.add(chain_view(0, *_set(1)))
    assert views.newest == made[-1]
    assert views.at(3) is None
    assert views.at(5) == made[5]
