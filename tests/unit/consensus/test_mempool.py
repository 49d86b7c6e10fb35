"""Waiting commands: turns between members and clients, room for everybody."""

from __future__ import annotations

import pytest
from clusters import command
from hypothesis import given
from hypothesis import strategies as st

from consensus import limits
from consensus.mempool import Mempool
from consensus.types import raw_command_id

OWN, FLOODER, OTHER = 1, 2, 3


def _big(client: int, sequence: int = 1, size: int = 64 * 1024) -> bytes:
    return command(client, sequence, value=bytes(size))


def _sources(pool: Mempool, batch: tuple[bytes, ...]) -> list[int]:
    found = []
    for raw in batch:
        waiting = pool.get(raw_command_id(raw))
        assert waiting is not None
        found.append(waiting.source)
    return found


def test_members_take_turns_in_a_block_whatever_one_of_them_floods() -> None:
    pool = Mempool(OWN)
    for n in range(100):
        pool.add(_big(n, size=32 * 1024), FLOODER, 0)
    pool.add(_big(500), OTHER, 0)
    pool.add(_big(501), OWN, 0)
    assert {OWN, OTHER} <= set(_sources(pool, pool.batch(frozenset())))


def test_clients_of_a_member_take_turns_and_each_keeps_its_order() -> None:
    pool = Mempool(OWN)
    for sequence in range(1, 6):
        pool.add(command(1, sequence), OWN, 0)
    pool.add(command(2, 1), OWN, 0)
    pool.add(command(2, 2), OWN, 0)
    turns = [(raw[15], raw[23]) for raw in pool.batch(frozenset())]
    assert turns == [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (1, 4), (1, 5)]


def test_a_client_whose_command_is_on_its_way_has_had_its_turn() -> None:
    pool = Mempool(OWN)
    for client in range(1, 4):
        for sequence in (1, 2):
            pool.add(command(client, sequence), OWN, 0)
    on_the_way = {raw_command_id(command(1, 1)), raw_command_id(command(2, 1))}
    assert pool.batch(on_the_way)[0] == command(3, 1)
    for command_id in sorted(on_the_way):
        pool.remove(command_id, 0)
    assert [raw[15] for raw in pool.batch(frozenset())][:3] == [3, 1, 2]


def test_a_command_that_did_not_fit_is_first_in_the_next_block() -> None:
    pool = Mempool(OWN)
    for source in range(1, 8):
        pool.add(_big(source), source, 0)
    served: list[int] = []
    while len(pool):
        batch = pool.batch(frozenset())
        assert len(batch) == 3  # of 64 KiB, in 256 KiB with their heads
        served += _sources(pool, batch)
        for raw in batch:
            pool.remove(raw_command_id(raw), 0)
        if len(pool) < 3:
            break
    assert served == [1, 2, 3, 4, 5, 6]


def test_nobody_can_take_the_room_of_the_others() -> None:
    pool = Mempool(OWN)
    for n in range(2 * limits.MEMPOOL_COMMANDS_MAX):
        pool.add(command(n, 1), FLOODER, 0)
    assert len(pool) <= limits.MEMPOOL_COMMANDS_MAX
    for n in range(limits.MEMPOOL_COMMANDS_MAX // 3):
        assert pool.add(command(10**6 + n, 1), OTHER, 0) is None
        assert pool.add(command(2 * 10**6 + n, 1), OWN, 0) is None
    assert len(pool) <= limits.MEMPOOL_COMMANDS_MAX
    assert pool.get(raw_command_id(command(0, 1))), "the oldest commands stay"
    assert pool.add(command(10**7, 1), FLOODER, 0) == "the command pool is full"


def test_our_own_clients_are_refused_beyond_our_share_and_never_dropped() -> None:
    pool = Mempool(OWN)
    accepted = 0
    while pool.add(command(accepted, 1), OWN, 0) is None:
        accepted += 1
    assert accepted == limits.MEMPOOL_COMMANDS_MAX // 2
    refused = pool.add(command(accepted, 1), OWN, 0)
    assert refused == "this member's clients use all of its share of the command pool"
    for n in range(limits.MEMPOOL_COMMANDS_MAX):
        pool.add(command(10**6 + n, 1), FLOODER, 0)
    for n in range(accepted):
        assert pool.get(raw_command_id(command(n, 1)))


def test_one_client_may_not_wait_with_any_number_of_commands() -> None:
    pool = Mempool(OWN)
    for sequence in range(1, limits.CLIENT_COMMANDS_MAX + 1):
        assert pool.add(command(1, sequence), OWN, 0) is None
    assert "of this client" in (pool.add(command(1, 10**6), OWN, 0) or "")
    assert pool.add(command(2, 1), OWN, 0) is None


def test_a_command_that_another_member_gives_too_waits_in_both_rows() -> None:
    pool = Mempool(OWN)
    for n in range(50):
        pool.add(command(n, 1), FLOODER, 0)
    last = command(49, 1)
    pool.add(last, OTHER, 7)
    assert pool.given(raw_command_id(last)) == [(FLOODER, 0), (OTHER, 7)]
    assert last in pool.batch(frozenset())[:2]
    assert len(pool) == len(pool.batch(frozenset())) == 50
    pool.remove(raw_command_id(last), 8)
    assert len(pool) == len(pool.batch(frozenset())) == 49
    assert [f.source for f in pool.fronts()] == [FLOODER]


def test_a_liar_cannot_hide_a_busy_members_command_in_a_row_of_its_own() -> None:
    """It gives it again, or before, behind commands that it will not serve soon."""
    pool = Mempool(OWN)
    due = command(1, 1)
    for n in range(100, 120):
        pool.add(command(n, 1), FLOODER, 0)
    pool.add(due, FLOODER, 0)
    for n in range(200, 300):
        pool.add(command(n, 1), OTHER, 0)
    pool.add(due, OTHER, 1)
    for n in range(200, 300):
        pool.remove(raw_command_id(command(n, 1)), 5)
        pool.add(command(n, 2), OTHER, 5)
        pool.add(command(n, 2), FLOODER, 5)
    fronts = {front.source: front.command_id for front in pool.fronts()}
    assert fronts[OTHER] == raw_command_id(due)
    assert fronts[FLOODER] == raw_command_id(command(100, 1))


_STEPS = st.tuples(st.sampled_from("ar"), st.integers(1, 4), st.integers(0, 5))


@given(st.lists(_STEPS, max_size=60))
def test_the_rows_and_the_commands_always_agree(steps: list[tuple[str, int, int]]) -> None:
    pool, model = Mempool(OWN), {}
    for tick, (what, source, client) in enumerate(steps):
        raw = command(client, source)
        if what == "a":
            pool.add(raw, source, tick)
            model[raw_command_id(raw)] = raw
        else:
            pool.remove(raw_command_id(raw), tick)
            model.pop(raw_command_id(raw), None)
        assert sorted(pool.batch(frozenset())) == sorted(model.values())
        assert len(pool) == len(model)
        assert {f.command_id for f in pool.fronts()} <= set(model)
        assert bool(pool.fronts()) == bool(model)


@pytest.mark.parametrize("sources", [1, 4])
def test_a_batch_keeps_within_a_block(sources: int) -> None:
    pool = Mempool(OWN)
    for n in range(3000):
        pool.add(command(n, 1), 1 + n % sources, 0)
    assert len(pool.batch(frozenset())) == limits.BLOCK_COMMANDS_MAX


# --- reminders ---


def test_a_reminder_is_served_in_the_turn_of_who_sent_it_before_all_else_that_it_gave() -> None:
    pool = Mempool(OWN)
    for n in range(1, 20):
        pool.add(_big(n), FLOODER, 0)
        pool.add(_big(100 + n), OTHER, 0)
    unknown, behind_a_flood = command(300, 1), _big(19)
    pool.remind(unknown, OTHER, 1)
    pool.remind(behind_a_flood, OTHER, 2)
    first = pool.batch(frozenset())
    assert _big(101) not in first and first.count(behind_a_flood) == 1
    assert [_sources(pool, first).count(s) for s in (FLOODER, OTHER)] == [3, 1]
    assert first[1] == unknown
    for raw in (unknown, behind_a_flood):
        pool.remove(raw_command_id(raw), 3)
    assert _big(101) in pool.batch(frozenset())


def test_a_liar_that_reminds_of_much_delays_nobody() -> None:
    pool = Mempool(OWN)
    due = _big(1, size=1000)
    pool.add(due, OTHER, 0)
    for n in range(2, 300):
        pool.remind(_big(n), FLOODER, 1)
    pool.remind(due, FLOODER, 1)
    batch = pool.batch(frozenset())
    assert batch.count(due) == 1
    assert sum(pool.get(raw_command_id(_big(n))) is not None for n in range(2, 300)) == 64


def test_a_full_pool_takes_a_reminder_in_place_of_the_newest_of_the_biggest_row() -> None:
    pool = Mempool(OWN)
    clients = range(1, 1 + limits.MEMPOOL_COMMANDS_MAX)
    for n in clients:
        assert pool.add(command(n, 1), OTHER, 0) is None
    late = command(10_000, 1)
    assert pool.add(late, OTHER, 1) is not None
    pool.remind(late, OTHER, 1)
    assert pool.batch(frozenset())[0] == late
    assert len(pool) == limits.MEMPOOL_COMMANDS_MAX
    assert pool.get(raw_command_id(command(clients[-1], 1))) is None


def test_what_we_are_reminded_of_makes_room_for_nothing() -> None:
    """Whoever reminded us counts it against us when it is left out, as if we had refused it."""
    pool = Mempool(OWN)
    for n in range(1, limits.MEMPOOL_COMMANDS_MAX + 1):
        pool.add(command(n, 1), OTHER, 0)
    due = command(9_000, 1)
    pool.remind(due, OTHER, 1)
    for n in range(10_000, 10_100):
        assert pool.add(command(n, 1), FLOODER, 2) is None
    first, second, *_ = pool.batch(frozenset())
    assert (first, second) == (command(10_000, 1), due)
    assert len(pool) == limits.MEMPOOL_COMMANDS_MAX


def test_a_reminder_of_what_makes_room_is_forgotten_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where all of the row is reminded of, somebody must go."""
    monkeypatch.setattr(limits, "MEMPOOL_BYTES_MAX", 4 * limits.MEMPOOL_COST_MIN)
    pool = Mempool(OWN)
    for n in range(1, 5):
        pool.add(command(n, 1), OTHER, 0)
        pool.remind(command(n, 1), FLOODER, 1)
    pool.remind(command(10_000, 1), FLOODER, 1)
    assert pool.get(raw_command_id(command(4, 1))) is None
    assert command(4, 1) not in pool.batch(frozenset())
