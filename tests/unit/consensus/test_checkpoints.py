"""R2, checkpoints: the state hash of each multiple of their distance is in some header."""

from __future__ import annotations

import pytest
from clusters import GENESIS, Cluster, block, proposal

from consensus import limits
from consensus.ledger import Ledger, Tip, genesis_tip, opened_tip
from consensus.machine import Machine
from consensus.proposals import Verdict, judge, state_height
from consensus.types import Block, View, VoteKind

EVERY = 4
NOW = 1_000_000
cluster = Cluster()


def _applied(height: int) -> tuple[Ledger, Machine, Block]:
    """A member that applied so many blocks, whose newest header commits to the state at 0."""
    machine, ledger = Machine(), Ledger(genesis_tip(GENESIS))
    last: Block | bytes = GENESIS
    for index in range(height):
        last = block(View(1, index), last, time_ms=NOW)
        machine.apply(last)
    assert isinstance(last, Block)
    view = last.header.view
    final = cluster.certificate(VoteKind.FINALIZE, view, last.hash)
    ledger.advance(Tip(height, last.hash, view, NOW, 0, final))
    return ledger, machine, last


def _verdict(height: int, committed: int) -> Verdict | str:
    ledger, machine, last = _applied(height)
    made = block(
        last.header.view.next(),
        last,
        time_ms=NOW,
        state_height=committed,
        state_hash=machine.hash_at(committed) or bytes(32),
    )
    shown = proposal(cluster, made, ledger.tip.finalization)
    return judge(shown, cluster.leader(), ledger, machine, NOW, EVERY)


def test_a_header_may_go_up_to_the_next_checkpoint_but_not_over_it() -> None:
    assert _verdict(8, EVERY - 1) is Verdict.VALID
    assert _verdict(8, EVERY) is Verdict.VALID
    assert "passes over the checkpoint 4" in str(_verdict(8, EVERY + 1))
    assert "passes over the checkpoint 4" in str(_verdict(8, 2 * EVERY))


def test_a_leader_that_was_behind_stops_at_each_checkpoint() -> None:
    _, machine, _ = _applied(11)
    heights = [0]
    while len(heights) < 5:
        heights.append(state_height(heights[-1], machine, EVERY))
    assert heights == [0, 4, 8, 9, 9]


def test_the_first_block_of_an_epoch_commits_to_the_state_that_the_epoch_began_on() -> None:
    """Whoever installed that state knows no older one, be it of a checkpoint."""
    _, machine, last = _applied(6)
    ledger = Ledger(opened_tip(last.header, last.hash))

    def verdict(committed: int) -> Verdict | str:
        made = block(
            View(1, 0),
            last,
            time_ms=NOW,
            state_height=committed,
            state_hash=machine.hash_at(committed) or bytes(32),
        )
        shown = proposal(cluster, made, None)
        return judge(shown, cluster.leader(), ledger, machine, NOW, EVERY)

    assert verdict(6) is Verdict.VALID
    for older in (0, EVERY, 5):
        assert "state height" in str(verdict(older))
    assert state_height(ledger.tip.state_height, machine, EVERY) == 6


def test_a_checkpoint_that_nobody_can_check_any_more_stops_no_leader(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "STATE_HASHES_KEPT", 3)
    _, machine, _ = _applied(8)
    assert machine.hash_at(EVERY) is None
    assert state_height(0, machine, EVERY) == 6
    assert _verdict(8, 6) is Verdict.VALID
