"""R1 and R2: what a proposal must show, and each way to refuse one."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clusters import GENESIS, Cluster, block, proposal

from consensus import limits
from consensus.ledger import Ledger, Tip, genesis_tip
from consensus.machine import Machine
from consensus.proposals import Verdict, judge
from consensus.types import GENESIS as FIRST
from consensus.types import Block, Certificate, Proposal, View, VoteKind

NOW = 1_000_000
cluster = Cluster()


def _null(term: int, index: int) -> Certificate:
    return cluster.certificate(VoteKind.NULLIFY, View(term, index))


def _ledger(*notarized: Block) -> Ledger:
    """A ledger at genesis that knows blocks and their notarizations."""
    ledger = Ledger(genesis_tip(GENESIS))
    for made in notarized:
        ledger.blocks[made.hash] = made
        ledger.add_notarization(_shown(made))
    return ledger


def _shown(made: Block) -> Certificate:
    return cluster.certificate(VoteKind.NOTARIZE, made.header.view, made.hash)


def _judge(made: Proposal, ledger: Ledger, machine: Machine | None = None) -> Verdict | str:
    leader = cluster.leader(made.block.header.view.term)
    return judge(made, leader, ledger, machine or Machine(), NOW, limits.CHECKPOINT_HEIGHTS)


FIRST_BLOCK = block(View(1, 0), time_ms=NOW)
SECOND_BLOCK = block(View(1, 1), FIRST_BLOCK, time_ms=NOW)


def test_the_first_block_stands_on_genesis() -> None:
    assert _judge(proposal(cluster, FIRST_BLOCK, None), _ledger()) is Verdict.VALID


def test_a_block_names_the_leader_of_its_term_as_its_proposer() -> None:
    leader = cluster.leader()
    for seat in (0, leader % 4 + 1, 99):
        made = block(View(1, 0), time_ms=NOW, proposer=seat)
        assert "proposer" in str(_judge(proposal(cluster, made, None), _ledger()))


def test_of_a_long_streak_a_block_shows_the_end_and_the_voter_must_know_the_rest() -> None:
    streak = limits.NULLIFICATIONS_PER_BLOCK_MAX + 3
    null = [_null(term, 2 if term == 1 else 0) for term in range(1, streak + 1)]
    carried = tuple(null[-limits.NULLIFICATIONS_PER_BLOCK_MAX :])

    def verdict(shown: tuple[Certificate, ...], *known: Certificate) -> Verdict | str:
        made = block(View(streak + 1, 0), SECOND_BLOCK, nullifications=shown, time_ms=NOW)
        ledger = _ledger(FIRST_BLOCK, SECOND_BLOCK)
        for certificate in known:
            ledger.add_nullification(certificate)
        return _judge(proposal(cluster, made, _shown(SECOND_BLOCK)), ledger)

    assert verdict(carried, *null[:3]) is Verdict.VALID
    assert verdict(carried, *null[:2]) is Verdict.WAIT
    assert verdict(carried, _null(1, 3), *null[1:3]) is Verdict.WAIT
    assert "not covered" in str(verdict(carried[1:], *null[:4]))
    assert "not covered" in str(verdict(tuple(null), *null))


def test_inside_a_term_the_parent_is_the_view_before() -> None:
    good = proposal(cluster, SECOND_BLOCK, _shown(FIRST_BLOCK))
    assert _judge(good, _ledger(FIRST_BLOCK)) is Verdict.VALID
    skipped = block(View(1, 2), FIRST_BLOCK, time_ms=NOW)
    verdict = _judge(proposal(cluster, skipped, _shown(FIRST_BLOCK)), _ledger(FIRST_BLOCK))
    assert "not in the view before" in str(verdict)


def _start_of_term_two(*nullifications: Certificate) -> Verdict | str:
    made = block(View(2, 0), SECOND_BLOCK, nullifications=nullifications, time_ms=NOW)
    ledger = _ledger(FIRST_BLOCK, SECOND_BLOCK)
    return _judge(proposal(cluster, made, _shown(SECOND_BLOCK)), ledger)


def test_a_term_begins_where_nullifications_cover_every_skipped_view() -> None:
    assert _start_of_term_two(_null(1, 2)) is Verdict.VALID
    assert _start_of_term_two(_null(1, 0)) is Verdict.VALID
    for bad in ((), (_null(1, 3),), (_null(2, 0),), (_null(1, 2), _null(1, 2))):
        assert "not covered" in str(_start_of_term_two(*bad))


@pytest.mark.parametrize("kind", [VoteKind.NOTARIZE, VoteKind.FINALIZE])
def test_only_nullifications_cover_views(kind: VoteKind) -> None:
    # With the notarization of (1, 1) in its place, the final block of that view would be passed by.
    shown = cluster.certificate(kind, View(1, 1), SECOND_BLOCK.hash)
    made = block(View(2, 0), FIRST_BLOCK, nullifications=(shown,), time_ms=NOW)
    ledger = _ledger(FIRST_BLOCK, SECOND_BLOCK)
    assert "not covered" in str(_judge(proposal(cluster, made, _shown(FIRST_BLOCK)), ledger))


def test_terms_without_a_block_are_covered_from_their_first_view() -> None:
    def start(*nullifications: Certificate) -> Verdict | str:
        made = block(View(4, 0), FIRST_BLOCK, nullifications=nullifications, time_ms=NOW)
        return _judge(proposal(cluster, made, _shown(FIRST_BLOCK)), _ledger(FIRST_BLOCK))

    assert start(_null(1, 1), _null(2, 0), _null(3, 0)) is Verdict.VALID
    assert "not covered" in str(start(_null(1, 1), _null(2, 1), _null(3, 0)))
    assert "not covered" in str(start(_null(1, 1), _null(3, 0)))
    assert "not covered" in str(start(_null(2, 0), _null(1, 1), _null(3, 0)))


def test_a_parent_of_the_same_or_a_later_term_cannot_begin_a_term() -> None:
    later = block(View(1, 0), SECOND_BLOCK, time_ms=NOW)
    verdict = _judge(
        proposal(cluster, later, _shown(SECOND_BLOCK)), _ledger(FIRST_BLOCK, SECOND_BLOCK)
    )
    assert "not covered" in str(verdict)


def test_nullifications_have_no_place_inside_a_term() -> None:
    made = block(View(1, 1), FIRST_BLOCK, nullifications=(_null(1, 1),), time_ms=NOW)
    verdict = _judge(proposal(cluster, made, _shown(FIRST_BLOCK)), _ledger(FIRST_BLOCK))
    assert "inside a term" in str(verdict)


def test_a_nullification_is_no_parent() -> None:
    verdict = _judge(proposal(cluster, SECOND_BLOCK, _null(1, 0)), _ledger(FIRST_BLOCK))
    assert "is a nullification" in str(verdict)


def test_the_parent_is_the_block_that_was_notarized() -> None:
    other = block(View(1, 0), time_ms=NOW - 1)
    made = block(View(1, 1), other, time_ms=NOW)
    verdict = _judge(proposal(cluster, made, _shown(FIRST_BLOCK)), _ledger(FIRST_BLOCK))
    assert "not the block that is notarized" in str(verdict)


def test_nothing_is_proposed_below_the_final_view() -> None:
    ledger = _ledger(FIRST_BLOCK, SECOND_BLOCK)
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 1), SECOND_BLOCK.hash)
    ledger.advance(Tip(2, SECOND_BLOCK.hash, View(1, 1), NOW, 0, final))
    made = block(View(2, 0), FIRST_BLOCK, nullifications=(_null(1, 1),), time_ms=NOW)
    assert "below the final" in str(_judge(proposal(cluster, made, _shown(FIRST_BLOCK)), ledger))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"height": 3}, "height 3"),
        ({"height": 1}, "height 1"),
        ({"time_ms": NOW - 1}, "time"),
        ({"state_height": 2}, "state height 2"),
        ({"state_hash": b"x" * 32}, "not ours"),
    ],
)
def test_a_header_that_does_not_fit_its_parent_is_refused(
    changes: dict[str, int | bytes], complaint: str
) -> None:
    made = replace(SECOND_BLOCK, header=replace(SECOND_BLOCK.header, **changes))
    verdict = _judge(proposal(cluster, made, _shown(FIRST_BLOCK)), _ledger(FIRST_BLOCK))
    assert complaint in str(verdict)


def test_a_block_whose_parent_is_on_its_way_waits() -> None:
    ledger = _ledger(FIRST_BLOCK)
    ledger.blocks.clear()
    verdict = _judge(proposal(cluster, SECOND_BLOCK, _shown(FIRST_BLOCK)), ledger)
    assert verdict is Verdict.WAIT


def test_a_state_that_we_did_not_reach_waits() -> None:
    made = block(View(1, 1), FIRST_BLOCK, state_height=1, time_ms=NOW)
    verdict = _judge(proposal(cluster, made, _shown(FIRST_BLOCK)), _ledger(FIRST_BLOCK))
    assert verdict is Verdict.WAIT


def test_a_leader_too_far_ahead_of_finality_waits() -> None:
    blocks = [FIRST_BLOCK]
    for index in range(1, limits.UNFINALIZED_BLOCKS_MAX + 2):
        blocks.append(block(View(1, index), blocks[-1], time_ms=NOW))
    *below, allowed, refused = blocks
    assert _judge(proposal(cluster, allowed, _shown(below[-1])), _ledger(*below)) is Verdict.VALID
    later = _ledger(*below, allowed)
    assert _judge(proposal(cluster, refused, _shown(allowed)), later) is Verdict.WAIT


def test_the_ledger_covers_exactly_what_r1_asks_for() -> None:
    ledger = _ledger(FIRST_BLOCK)
    assert ledger.covering(View(1, 0), 1) == ()
    assert ledger.covering(View(1, 0), 2) is None
    ledger.add_nullification(_null(1, 2))
    assert ledger.covering(View(1, 0), 2) is None
    assert ledger.covering(View(1, 1), 2) == (_null(1, 2),)
    ledger.add_nullification(_null(1, 1))  # a lower one covers more
    assert ledger.covering(View(1, 0), 2) == (_null(1, 1),)
    assert not ledger.add_nullification(_null(1, 5))
    ledger.add_nullification(_null(2, 1))
    assert ledger.covering(View(1, 0), 3) is None
    assert ledger.covering(View(2, 0), 3) == (_null(2, 1),)
    ledger.add_nullification(_null(2, 0))
    assert ledger.covering(View(1, 0), 3) == (_null(1, 1), _null(2, 0))
    assert ledger.covering(FIRST, 3) is None
    ledger.add_nullification(_null(1, 0))
    assert ledger.covering(FIRST, 3) == (_null(1, 0), _null(2, 0))


def test_a_state_hash_that_is_too_old_to_be_checked_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "STATE_HASHES_KEPT", 1)
    machine = Machine()
    machine.apply(FIRST_BLOCK)
    assert machine.hash_at(0) is None
    made = block(View(1, 1), FIRST_BLOCK, state_height=0, state_hash=b"x" * 32, time_ms=NOW)
    verdict = _judge(proposal(cluster, made, _shown(FIRST_BLOCK)), _ledger(FIRST_BLOCK), machine)
    assert "not ours" in str(verdict)
