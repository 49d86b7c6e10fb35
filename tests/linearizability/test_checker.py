"""The checker accepts what one store in one place could have answered, and nothing else."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest

from tests.linearizability.checker import ABSENT, Operation, State, check, step


def op(
    client: str, kind: str, called: float, returned: float, answer: Any, **more: Any
) -> Operation:
    return Operation(client, kind, b"k", called, answer=answer, returned=returned, **more)


def put(client: str, called: float, returned: float, value: bytes, existed: bool) -> Operation:
    return op(client, "put", called, returned, existed, value=value)


def get(client: str, called: float, returned: float, *seen: Any) -> Operation:
    return op(client, "get", called, returned, seen or ABSENT)


def lost(client: str, kind: str, called: float, **more: Any) -> Operation:
    return Operation(client, kind, b"k", called, **more)


def test_a_sequence_with_right_answers() -> None:
    assert not check(
        [
            get("a", 0, 1),
            put("a", 2, 3, b"1", False),
            get("b", 4, 5, b"1", 1),
            op("b", "delete", 6, 7, True),
            get("a", 8, 9),
        ]
    )


def test_concurrent_writes_may_take_effect_in_either_order() -> None:
    writes = [put("a", 0, 10, b"1", False), put("b", 0, 10, b"2", True)]
    assert not check([*writes, get("c", 11, 12, b"2", 2)])
    swapped = [put("a", 0, 10, b"1", True), put("b", 0, 10, b"2", False)]
    assert not check([*swapped, get("c", 11, 12, b"1", 2)])


def test_a_stale_read_is_refused() -> None:
    assert check([put("a", 0, 1, b"1", False), put("a", 2, 3, b"2", True), get("b", 4, 5, b"1", 1)])


def test_a_read_cannot_go_back_even_while_the_write_runs() -> None:
    write = put("a", 0, 10, b"1", False)
    assert not check([write, get("b", 1, 2), get("c", 3, 4, b"1", 1)])
    assert check([write, get("b", 1, 2, b"1", 1), get("c", 3, 4)])


def test_a_lost_update_is_refused() -> None:
    swap = {"value": b"2", "expected": b"1"}
    history = [
        put("a", 0, 1, b"1", False),
        op("b", "swap", 2, 9, True, **swap),
        op("c", "swap", 2, 9, True, value=b"3", expected=b"1"),
    ]
    assert check(history)
    assert not check([*history[:2], op("c", "swap", 2, 9, False, value=b"3", expected=b"1")])


def test_two_halves_of_a_split_cluster_are_refused() -> None:
    assert check(
        [
            put("a", 0, 1, b"left", False),
            put("b", 0, 1, b"right", False),  # both sides say that the key was new
            get("a", 2, 3, b"left", 1),
            get("b", 2, 3, b"right", 1),
        ]
    )


def test_a_write_that_was_applied_twice_is_refused() -> None:
    assert check([put("a", 0, 1, b"1", False), get("a", 2, 3, b"1", 2)])


def test_an_unknown_outcome_may_show_late_or_never_but_not_vanish() -> None:
    unknown = lost("a", "put", 0, value=b"1")
    assert not check([unknown, get("b", 5, 6)])
    assert not check([unknown, get("b", 5, 6), get("b", 7, 8, b"1", 1)])
    assert check([unknown, get("b", 5, 6, b"1", 1), get("b", 7, 8)])
    assert check([lost("a", "put", 9, value=b"1"), get("b", 5, 6, b"1", 1)])


def test_keys_are_independent_and_the_answer_names_the_bad_one() -> None:
    good = Operation("a", "put", b"fine", 0, b"1", answer=False, returned=1)
    bad = Operation("a", "get", b"torn", 2, answer=(b"1", 1), returned=3)
    assert "torn" in check([good, bad])


@pytest.mark.parametrize("seed", range(30))
def test_every_history_of_one_atomic_store_is_accepted_and_one_wrong_answer_is_not(
    seed: int,
) -> None:
    rng = random.Random(seed)
    history = _play(rng, clients=5, operations=60)
    assert not check(history)
    reads = [i for i, o in enumerate(history) if o.kind == "get" and o.answer not in (None, ABSENT)]
    at = rng.choice(reads)
    wrong = Operation(
        history[at].client, "get", history[at].key, history[at].called,
        answer=(b"never written", 1), returned=history[at].returned,
    )  # fmt: skip
    assert check([*history[:at], wrong, *history[at + 1 :]])


@pytest.mark.parametrize("seed", range(200))
def test_short_histories_are_judged_as_by_trying_every_order(seed: int) -> None:
    rng = random.Random(seed)
    history = _play(rng, clients=3, operations=8, unknown=0.4, keys=(b"x",))
    assert _in_some_order(history, ABSENT)
    for _ in range(5):
        changed = _with_one_answer_changed(rng, history)
        assert bool(check(changed)) != _in_some_order(changed, ABSENT)


@pytest.mark.parametrize("seed", range(8))
def test_a_hundred_unknown_outcomes_are_no_burden(seed: int) -> None:
    """A cluster that loses its leader leaves dozens; taken one by one they double the search."""
    history = _play(random.Random(seed), clients=6, operations=800, unknown=0.15)
    assert not check(history)


def test_a_wrong_answer_after_dozens_of_unknown_outcomes_is_found() -> None:
    history = _play(random.Random(1), clients=6, operations=800, unknown=0.05)
    last = max(o.returned for o in history if o.answer is not None)
    read = Operation("late", "get", b"x", last + 1, answer=(b"never", 1), returned=last + 2)
    assert check([*history, read])


def _in_some_order(left: list[Operation], state: State) -> bool:
    if all(o.answer is None for o in left):
        return True
    deadline = min(o.returned for o in left)
    for index, operation in enumerate(left):
        after = step(state, operation) if operation.called <= deadline else None
        if after is not None and _in_some_order(left[:index] + left[index + 1 :], after):
            return True
    return False


def _with_one_answer_changed(rng: random.Random, history: list[Operation]) -> list[Operation]:
    at = rng.choice([i for i, o in enumerate(history) if o.answer is not None])
    answer: bool | State = not history[at].answer
    if history[at].kind == "get":
        answer = (rng.choice([o.value for o in history]), rng.randrange(1, 4))
    return [*history[:at], replace(history[at], answer=answer), *history[at + 1 :]]


def _play(
    rng: random.Random,
    clients: int,
    operations: int,
    unknown: float = 0.1,
    keys: tuple[bytes, ...] = (b"x", b"y"),
) -> list[Operation]:
    """Each operation takes effect at a random moment between its call and its return."""
    planned = []
    free = dict.fromkeys(range(clients), 0.0)
    for number in range(operations):
        client = rng.randrange(clients)
        called = free[client] + rng.random()
        effect = called + rng.random() * 3
        returned = effect + rng.random() * 3
        free[client] = returned
        planned.append((effect, client, called, returned, number))
    states: dict[bytes, State] = {}
    history = []
    for _, client, called, returned, number in sorted(planned):
        key = rng.choice(keys)
        kind = rng.choice(("put", "put", "get", "get", "delete", "swap"))
        state = states.get(key, ABSENT)
        expected = rng.choice((None, state[0])) if kind == "swap" else None
        blank = Operation(str(client), kind, key, called, b"%d" % number, expected)
        after = step(state, blank)
        assert after is not None
        states[key] = after
        answer: bool | State = state[0] is not None
        if kind == "get":
            answer = state
        elif kind == "swap":
            answer = state[0] == expected
        lost_answer = rng.random() < unknown
        history.append(
            Operation(
                str(client), kind, key, called, b"%d" % number, expected,
                None if lost_answer else answer, math.inf if lost_answer else returned,
            )
        )  # fmt: skip
    return history
