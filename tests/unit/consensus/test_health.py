"""The trackers behind complaints: each accuses whom it should, and nobody else."""

from __future__ import annotations

from clusters import block, command

from consensus import limits
from consensus.buckets import TokenBuckets
from consensus.health import (
    ChainWatch,
    Fairness,
    Pace,
    Patience,
    Prober,
    Sample,
)
from consensus.mempool import Mempool
from consensus.types import View, raw_command_id
from consensus.wire import ProbeReply

PATIENCE, SETTLE = 2, 2


def _reply(nonce: bytes) -> ProbeReply:
    return ProbeReply(nonce, 1, 0, View(1, 2), 3, 4, 5, bytes(65))


def _block(*commands: bytes) -> object:
    return block(View(1, 0), commands=commands)


# --- probes ---


def test_a_member_that_answers_no_challenge_is_counted_and_one_that_answers_late_is_not() -> None:
    prober = Prober(bytes(32))
    nonces = [prober.challenge({2, 3}, 1000 * n) for n in range(1, 4)]
    prober.answered(3, _reply(nonces[1]), 3100, 12)
    prober.challenge({2, 3}, 4000)
    assert prober.peers[2].missed == 3
    assert prober.peers[3].missed == 1 and prober.peers[3].rtt_ms == 1100
    for n in range(5, 9):
        nonces.append(prober.challenge({2, 3}, 1000 * n))
        prober.answered(3, _reply(nonces[-2]), 1000 * n + 100, 4 * n)
    assert prober.peers[3].missed == 0, "always a second late, but there"


def test_nonces_are_not_known_before_they_are_sent_and_old_ones_count_no_more() -> None:
    prober, other = Prober(bytes(32)), Prober(b"1" * 32)
    nonces = [prober.challenge({2}, n) for n in range(10)]
    assert len(set(nonces)) == 10
    assert not prober.expects(2, nonces[0]) and prober.expects(2, nonces[9])
    assert not prober.expects(2, other.challenge({2}, 0)) and not prober.expects(3, nonces[9])
    prober.answered(2, _reply(nonces[9]), 100, 1)
    assert not prober.expects(2, nonces[9]), "one answer is enough"


def test_who_answers_every_challenge_too_late_for_the_next_one_is_not_silent() -> None:
    prober = Prober(bytes(32))
    for seat in (2, 3):
        prober.connected(seat, 0)
    nonces = [prober.challenge({2, 3}, 0)]
    for n in range(1, 5):
        nonces.append(prober.challenge({2, 3}, 1000 * n))
        prober.answered(3, _reply(nonces[-2]), 1000 * n + 500, 4 * n + 2)
        assert prober.silent({2, 3}, 4 * n) == {2}


def test_what_was_missed_without_a_link_does_not_count() -> None:
    prober = Prober(bytes(32))
    prober.challenge({2}, 1)
    prober.challenge({2}, 2)
    prober.lost(2)
    prober.challenge(set(), 3)
    prober.connected(2, 9)
    prober.challenge({2}, 4)
    assert prober.peers[2].missed == 0


def test_members_that_left_are_forgotten() -> None:
    prober, buckets = Prober(bytes(32)), TokenBuckets(burst=1, refill_ms=1000)
    prober.challenge({2, 3}, 1)
    assert buckets.take(3, 1) and not buckets.take(3, 1)
    for books in (prober, buckets):
        books.keep({2})
    prober.challenge({2}, 2)
    assert set(prober.peers) == {2} and prober.peers[2].missed == 1
    assert buckets.take(3, 1)


# --- censorship ---


def _suspecting(pool: Mempool) -> Fairness:
    """The command that waits since tick 0 is under suspicion from tick 2 on."""
    fairness = Fairness()
    assert fairness.remind(pool, 2, PATIENCE) is not None
    return fairness


def test_the_leader_is_reminded_once_of_the_command_whose_turn_is_due_longest() -> None:
    pool, fairness = Mempool(1), Fairness()
    pool.add(command(1, 1), 3, 5)
    pool.add(command(2, 1), 2, 4)
    assert fairness.remind(pool, 5, PATIENCE) is None, "too early"
    assert fairness.remind(pool, 6, PATIENCE) == command(2, 1)
    assert fairness.remind(pool, 6, PATIENCE) is None, "told already"
    assert fairness.remind(pool, 7, PATIENCE) == command(1, 1)
    pool.add(command(4, 1), 2, 7)
    pool.remove(raw_command_id(command(2, 1)), 8)
    assert fairness.remind(pool, 10, PATIENCE) == command(4, 1), "next in its row"


def test_blocks_that_leave_a_command_out_for_later_ones_are_counted() -> None:
    pool = Mempool(1)
    pool.add(command(1, 1), 3, 0)
    fairness = _suspecting(pool)
    pool.add(command(2, 1), 2, 5)
    for tick in (4, 5, 6):
        fairness.saw_block(_block(command(2, 1)), pool, tick, SETTLE)
    assert fairness.suspicions[3].skips == 3


def test_empty_blocks_leave_out_what_waits() -> None:
    pool = Mempool(1)
    pool.add(command(1, 1), 3, 0)
    fairness = _suspecting(pool)
    for tick in (2, 3, 4, 5):
        fairness.saw_block(_block(), pool, tick, SETTLE)
    assert fairness.suspicions[3].skips == 2, "the reminder takes a while"


def test_a_leader_that_works_through_the_row_of_the_source_is_no_censor() -> None:
    pool = Mempool(1)
    for n in range(5):
        pool.add(command(n, 1), 3, 0)
    fairness = _suspecting(pool)
    for n in range(1, 5):
        fairness.saw_block(_block(command(n, 1)), pool, 5, SETTLE)
    assert fairness.suspicions[3].skips == 0


def test_a_full_block_of_commands_that_came_earlier_is_no_censorship() -> None:
    pool = Mempool(1)
    pool.add(command(1, 1), 3, 0)
    fairness = _suspecting(pool)
    others = [command(n, 1) for n in range(2, 2 + limits.BLOCK_COMMANDS_MAX)]
    for raw in others:
        pool.add(raw, 2, 1)
    fairness.saw_block(_block(*others), pool, 9, SETTLE)
    assert fairness.suspicions[3].skips == 0
    fairness.saw_block(_block(*others[1:]), pool, 9, SETTLE)
    assert fairness.suspicions[3].skips == 1, "there was room"


def test_where_many_take_turns_it_takes_many_full_blocks_to_leave_one_out() -> None:
    pool = Mempool(1)
    pool.add(command(1, 1), 3, 0)
    fairness = _suspecting(pool)
    others = [command(n, 1) for n in range(2, 2 + limits.BLOCK_COMMANDS_MAX)]
    for source, raw in enumerate(others):
        pool.add(raw, 4 + source % 8, 5)
    for count in range(1, 13):
        fairness.saw_block(_block(*others), pool, 9, SETTLE)
        assert fairness.suspicions[3].skips == count // 4, "nine rows, three commands for sure"


def test_what_came_to_its_turn_late_is_not_called_left_out_at_once() -> None:
    """A liar gives us two commands; we give the second to a busy leader when the first is done."""
    pool = Mempool(1)
    pool.add(command(1, 1), 3, 0)
    pool.add(command(2, 1), 3, 0)
    most = limits.BLOCK_COMMANDS_MAX
    queue = [command(n, 1) for n in range(3, 3 + 3 * most)]
    for raw in queue:
        pool.add(raw, 4, 10)  # what the leader's blocks are full of until it comes to ours
    pool.remove(raw_command_id(command(1, 1)), 14)
    pool.remove(raw_command_id(queue[0]), 14)
    fairness = Fairness()
    assert fairness.remind(pool, 15, PATIENCE) is None, "its turn has just come"
    assert fairness.remind(pool, 16, PATIENCE) == command(2, 1)
    for at in (1, most):
        fairness.saw_block(_block(*queue[at : at + most]), pool, 20, SETTLE)
        assert fairness.suspicions[3].skips == 0


def test_a_command_that_is_served_is_suspicious_no_more() -> None:
    pool = Mempool(1)
    pool.add(command(1, 1), 3, 0)
    fairness = _suspecting(pool)
    for blocks, below in ((2, False), (1, True)):
        for tick in range(blocks):
            fairness.saw_block(_block(), pool, 5 + tick, SETTLE)
        assert fairness.skipped(blocks)
        served = _block() if below else _block(command(1, 1))
        fairness.saw_block(served, pool, 9, SETTLE, lambda _, below=below: below)  # type: ignore[misc]
        assert fairness.skipped(1) is None
    assert fairness.remind(pool, 9, PATIENCE) is None, "it is on its way"


def test_a_leader_is_reminded_again_over_a_new_link_and_gains_time_by_that_once() -> None:
    pool = Mempool(1)
    due = command(1, 1)
    pool.add(due, 3, 0)
    fairness = _suspecting(pool)
    for tick in (4, 5, 6):
        fairness.saw_block(_block(), pool, tick, SETTLE)
    assert fairness.skipped(3)
    assert fairness.reconnected(pool, 7) == [due], "it may never have come"
    fairness.saw_block(_block(), pool, 8, SETTLE)
    assert not fairness.skipped(1)
    for tick in (9, 10, 11):
        assert fairness.reconnected(pool, tick) == [due]
        fairness.saw_block(_block(), pool, tick, SETTLE)
    assert fairness.skipped(3)
    pool.remove(raw_command_id(due), 12)
    assert fairness.reconnected(pool, 12) == []


def test_a_leader_cannot_hide_whom_it_leaves_out_behind_a_command_of_its_own() -> None:
    """It keeps the oldest of its commands back, and serves one of its others in each block."""
    pool = Mempool(1)
    for n in range(1, 40):
        pool.add(command(n, 1), 4, 0)
    fairness = _suspecting(pool)
    pool.add(command(50, 1), 3, 3)
    assert fairness.remind(pool, 5, PATIENCE) == command(50, 1)
    for n in range(2, 8):
        fairness.saw_block(_block(command(n, 1)), pool, 4 + n, SETTLE)
        pool.remove(raw_command_id(command(n, 1)), 4 + n)
    front = fairness.skipped(3)
    assert front and front.source == 3


# --- pace ---


def test_a_leader_that_lets_commands_wait_is_slow_and_one_that_makes_blocks_is_not() -> None:
    slow, busy, idle = Pace(), Pace(), Pace()
    for tick in range(6):
        slow.sample(Sample(tick // 4, due=True))
        busy.sample(Sample(tick, due=True))
        idle.sample(Sample(0, due=tick % 3 > 0))
    assert slow.is_slow(6, 3)
    assert not busy.is_slow(6, 3)
    assert not idle.is_slow(6, 3)
    slow.forget()
    assert not slow.is_slow(6, 3), "a new leader has the whole time"


def test_a_leader_that_is_quick_for_a_moment_once_in_a_while_is_slow_too() -> None:
    pace = Pace()
    for tick in range(10):
        pace.sample(Sample(tick // 4, due=tick % 4 != 3))
        assert pace.is_slow(6, 3) == (tick == 9)


def test_a_leader_that_finality_holds_up_all_the_time_stalls() -> None:
    pace = Pace()
    for tick in range(9):
        pace.sample(Sample(8 + tick, held_up=tick > 2))
        assert pace.is_stalling(6) == (tick == 8)
    assert not pace.is_slow(6, 3)


def test_a_leader_that_does_not_finalize_its_own_views_stalls() -> None:
    pace = Pace()
    for tick in range(6):
        pace.sample(Sample(tick, withholds=tick % 3 < 2))
        assert pace.is_stalling(6) == (tick == 5)


# --- the chain ---


def test_a_head_counts_against_others_when_it_was_known_for_long() -> None:
    watch = ChainWatch()
    watch.saw(100, 5, 0)
    watch.saw(200, 6, 50)
    watch.saw(150, 7, 60)
    assert (watch.block, watch.time_ms) == (200, 6)
    assert watch.known_since(39, 40) == 0
    assert watch.known_since(40, 40) == 100
    assert watch.known_since(90, 40) == 200


# --- patience and rates ---


def test_patience_grows_once_a_term_up_to_its_cap_and_is_given_back_slowly() -> None:
    patience = Patience(most=3, decay=10)
    assert patience.was_wrong(0, 1) and not patience.was_wrong(0, 1)
    for term in range(2, 9):
        patience.was_wrong(0, term)
    assert patience.level == 3
    for _ in range(100):
        patience.tick(progress=False)
    assert patience.level == 3, "without finality nothing is proved"
    for _ in range(9):
        patience.tick(progress=True)
    assert patience.level == 3
    for _ in range(21):
        patience.tick(progress=True)
    assert patience.level == 0


def test_a_bucket_gives_a_burst_and_then_a_rate_to_each_seat() -> None:
    buckets = TokenBuckets(burst=3, refill_ms=1000)
    assert [buckets.take(1, 10_000) for _ in range(4)] == [True, True, True, False]
    assert buckets.take(2, 10_000), "another seat has its own"
    assert [buckets.take(1, 11_000) for _ in range(2)] == [True, False]
    assert [buckets.take(1, 60_000) for _ in range(4)] == [True, True, True, False]
