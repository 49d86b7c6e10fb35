"""Catch-up from several members at once: what is asked of whom, and who is believed what."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clusters import GENESIS, Cluster, block, proposal

from consensus import catchup, limits
from consensus.engine import Engine
from consensus.interface import Misbehaved, Output, Received, Timer, TimerFired
from consensus.types import Block, Certificate, FinalHeader, View, VoteKind
from consensus.wire import Certificates, ProposalMessage, SyncReply, SyncRequest

LENGTH = 40
SPAN = 4
cluster = Cluster((1, 1, 1, 1))
CHAIN = [block(View(1, 0))]
for _index in range(1, LENGTH):
    CHAIN.append(block(View(1, _index), CHAIN[-1]))


def _final(height: int, seats: tuple[int, ...] | None = None) -> Certificate:
    made = CHAIN[height - 1]
    return cluster.certificate(VoteKind.FINALIZE, made.header.view, made.hash, seats)


HEAD = FinalHeader(CHAIN[-1].header, _final(LENGTH))


def _answer(request: SyncRequest, head: FinalHeader | None = HEAD) -> SyncReply:
    last = min(request.from_height + request.count - 1, LENGTH)
    return SyncReply(tuple(CHAIN[request.from_height - 1 : last]), (), _final(last), head)


def _asked(output: Output) -> dict[int, SyncRequest]:
    return {
        s.to: s.message
        for s in output.send
        if isinstance(s.message, SyncRequest) and s.to is not None
    }


def _behind() -> tuple[Engine, Output]:
    """A member that has nothing, and a first answer that shows it how far the others are."""
    engine, _ = cluster.booted(1)
    output = engine.step(Received(2, Certificates((_final(LENGTH),))), 5)
    ((seat, request),) = _asked(output).items()
    assert (seat, request.from_height) == (2, 1)
    return engine, engine.step(Received(2, _answer(request)), 6)


@pytest.fixture(autouse=True)
def short_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SYNC_BLOCKS_MAX", SPAN)


def _heights(output: Output) -> list[int]:
    return [applied.block.header.height for applied in output.applied]


def test_every_member_is_asked_for_another_part() -> None:
    _, output = _behind()
    assert _heights(output) == [1, 2, 3, 4]
    asked = _asked(output)
    assert set(asked) == {2, 3, 4}
    assert sorted(r.from_height for r in asked.values()) == [5, 9, 13]


def test_answers_in_any_order_are_applied_in_the_right_one() -> None:
    engine, output = _behind()
    pending = _asked(output)
    applied = _heights(output)
    while pending:
        seat = max(pending, key=lambda s: pending[s].from_height)
        output = engine.step(Received(seat, _answer(pending.pop(seat))), 7)
        applied += _heights(output)
        pending |= _asked(output)
    assert applied == list(range(1, LENGTH + 1))
    assert engine.catchup.target is None


def test_the_part_of_a_silent_member_goes_to_another_and_it_is_spared_for_a_while() -> None:
    engine, output = _behind()
    pending = _asked(output)
    silent = min(pending, key=lambda s: pending[s].from_height)
    asked_again = 0
    for _ in range(4 * catchup.RETRIES_MAX):
        for seat, request in list(pending.items()):
            if seat != silent and engine.catchup.target is not None:
                del pending[seat]
                pending |= _asked(engine.step(Received(seat, _answer(request)), 8))
        more = _asked(engine.step(TimerFired(Timer.RETRY), 9))
        asked_again += silent in more
        pending |= more
    assert engine.ledger.tip.height == LENGTH
    assert asked_again <= 1


def test_a_member_that_lies_is_asked_no_more_and_reported() -> None:
    engine, output = _behind()
    pending = _asked(output)
    liar = 3
    forged = replace(_answer(pending.pop(liar)), finalization=_final(12, (2, 3)))
    output = engine.step(Received(liar, forged), 8)
    assert [n.seat for n in output.notices if isinstance(n, Misbehaved)] == [liar]
    pending |= _asked(output)
    assert liar not in pending
    applied = 4
    for _ in range(20):
        for seat, request in list(pending.items()):
            del pending[seat]
            output = engine.step(Received(seat, _answer(request)), 8)
            applied += len(output.applied)
            pending |= _asked(output)
        pending |= _asked(engine.step(TimerFired(Timer.RETRY), 9))
        assert liar not in pending
    assert applied == LENGTH


@pytest.mark.parametrize(
    "claim",
    [
        FinalHeader(replace(CHAIN[-1].header, height=10**9), _final(LENGTH)),
        FinalHeader(CHAIN[-1].header, _final(LENGTH, (2, 3))),
        FinalHeader(CHAIN[-1].header, replace(_final(LENGTH), kind=VoteKind.NOTARIZE)),
        FinalHeader(CHAIN[-2].header, _final(LENGTH)),
    ],
)
def test_a_height_without_a_certificate_is_not_believed(claim: FinalHeader) -> None:
    """CVE-2025-24371: a node that believed it went on fetching what does not exist."""
    engine, _ = cluster.booted(1)
    output = engine.step(Received(2, Certificates((_final(LENGTH),))), 5)
    output = engine.step(Received(2, _answer(_asked(output)[2], claim)), 6)
    assert engine.catchup.best_height == SPAN
    assert engine.status().lag == 0
    assert all(r.from_height == SPAN + 1 for r in _asked(output).values())


def test_what_came_too_early_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catchup, "READY_BYTES_MAX", 2 * SPAN * 256)
    engine, output = _behind()
    pending = _asked(output)
    lowest = min(pending, key=lambda s: pending[s].from_height)
    for _ in range(10):
        for seat, request in list(pending.items()):
            if seat != lowest:
                del pending[seat]
                pending |= _asked(engine.step(Received(seat, _answer(request)), 8))
    kept = sum(stretch.size for stretch in engine.catchup._ready.values())
    assert kept < 2 * catchup.READY_BYTES_MAX
    assert len(engine.ledger.blocks) == 0


def test_a_member_that_has_nothing_is_not_asked_again_at_once() -> None:
    engine, output = _behind()
    nothing = SyncReply((), (), _final(1))
    for seat in _asked(output):
        output = engine.step(Received(seat, nothing), 8)
        assert seat not in _asked(output)
    assert not _asked(output), "questions and empty answers must not chase each other"
    assert _asked(engine.step(TimerFired(Timer.RETRY), 9))


def test_a_forged_stretch_that_nobody_waits_for_costs_no_signature_check() -> None:
    engine, _ = _behind()
    engine.step(Received(2, _answer(SyncRequest(5, SPAN))), 8)
    checked: list[Certificate] = []
    engine._is_genuine = lambda c: bool(checked.append(c))  # type: ignore[method-assign]
    engine.step(Received(2, _answer(SyncRequest(1, SPAN))), 8)
    assert not checked


def test_blocks_of_one_stretch_are_as_many_as_a_message_holds() -> None:
    waiting = catchup.CatchUp(0)
    waiting.follow(HEAD.finalization, [2], 2)
    big: list[Block] = [replace(b, body=bytes(limits.SYNC_BYTES_MAX)) for b in CHAIN[:1]]
    waiting.take(2, SyncReply(tuple(big), (), _final(1), HEAD))
    waiting.next_stretch()
    waiting.prove(HEAD)
    (send,) = waiting.ask([2])
    assert send.message == SyncRequest(2, 1)


def test_a_member_from_whom_one_vote_is_withheld_asks_what_is_final() -> None:
    """The views go on by the others' notarizations, so nobody ever repeats anything to it."""
    cluster = Cluster()
    liar = cluster.leader(1)
    seat = next(s for s in cluster.validators.seats if s != liar)
    engine, _ = cluster.booted(seat)
    parent, final, asked = None, None, []
    made: Block | bytes = GENESIS
    for index in range(6):
        view = View(1, index)
        made = block(view, made)
        shown = ProposalMessage(1, proposal(cluster, made, parent))
        engine.step(Received(liar, shown), 1_000)
        parent = cluster.certificate(VoteKind.NOTARIZE, view, made.hash)
        engine.step(Received(liar, Certificates((parent,))), 1_000)
        assert engine.view == view.next()
        output = engine.step(TimerFired(Timer.RETRY), 1_000)
        asked += [s.to for s in output.send if isinstance(s.message, SyncRequest)]
        final = cluster.certificate(VoteKind.FINALIZE, view, made.hash)
    assert engine.ledger.tip.height == 0
    assert len(set(asked)) == 3, "it asks the same member again and again"
    assert final is not None
    engine.step(Received(asked[-1], SyncReply((), (), final)), 1_000)
    assert engine.ledger.tip.height == 6


def test_copies_of_an_answer_lead_to_no_more_requests() -> None:
    engine, output = _behind()
    seat, request = min(_asked(output).items(), key=lambda item: item[1].from_height)
    answer = _answer(request)
    engine.step(Received(seat, answer), 6)
    for _ in range(5):
        assert not _asked(engine.step(Received(seat, answer), 7))


def test_certified_blocks_that_do_not_stand_on_ours_stop_a_member() -> None:
    """Only more than a third of liars can make them; to be left behind in silence is no answer."""
    engine, _ = cluster.booted(1)
    engine.step(Received(2, Certificates((_final(1),))), 5)
    engine.step(Received(2, SyncReply((CHAIN[0],), (), _final(1))), 6)
    assert engine.ledger.tip.height == 1
    other = block(View(2, 1), block(View(2, 0)))  # height 2, on another block of height 1
    final = cluster.certificate(VoteKind.FINALIZE, other.header.view, other.hash)
    engine.step(Received(3, Certificates((final,))), 7)
    output = engine.step(Received(3, SyncReply((other,), (), final)), 8)
    assert output.halt is not None and "more than a third" in output.halt.reason
