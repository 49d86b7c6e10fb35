"""Certificates that contradict a vote or each other: who lied is written down, then who stops."""

from __future__ import annotations

import pytest
from clusters import Cluster, block, command, proposal, sent

from consensus.interface import EvidenceRecord, Output, Received, Restored
from consensus.ledger import tip_at
from consensus.machine import Machine
from consensus.types import Block, Certificate, View, VoteKind
from consensus.wire import Certificates, EvidenceMessage, ProposalMessage

A, B = block(View(1, 0)), block(View(1, 0), commands=(command(1, 1),))


def _exposed(output: Output) -> list[int]:
    """Seats that evidence on the disk convicts; all of it was sent."""
    kept = [r.evidence for r in output.persist if isinstance(r, EvidenceRecord)]
    told = [e for m in sent(output) if isinstance(m, EvidenceMessage) for e in m.pairs]
    assert kept == told
    return sorted(e.first.seat for e in kept)


def _show(cluster: Cluster, *certificates: Certificate) -> list[Output]:
    """What a member of whom no vote is in them does about each."""
    engine, _ = cluster.booted(7)
    engine.ledger.blocks[A.hash] = A
    return [engine.step(Received(2, Certificates((c,))), 2) for c in certificates]


def test_a_leader_that_proposed_to_each_half_something_else_is_exposed_by_the_certificate() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    seat = next(s for s in cluster.validators.seats if s != leader)
    engine, _ = cluster.booted(seat)
    engine.step(Received(leader, ProposalMessage(1, proposal(cluster, A, None))), 2)
    others = tuple(s for s in cluster.validators.seats if s != seat)
    shown = cluster.certificate(VoteKind.NOTARIZE, View(1, 0), B.hash, others)
    output = engine.step(Received(leader, Certificates((shown,))), 2)
    assert _exposed(output) == [leader] and output.halt is None


def test_two_certified_blocks_in_a_view_convict_who_signed_both() -> None:
    cluster = Cluster((1,) * 7)
    one = cluster.certificate(VoteKind.NOTARIZE, View(1, 0), A.hash, (1, 2, 3, 4, 5))
    other = cluster.certificate(VoteKind.NOTARIZE, View(1, 0), B.hash, (2, 3, 4, 5, 6))
    before, after = _show(cluster, one, other)
    assert before.halt is None and after.halt is not None
    assert _exposed(after) == [2, 3, 4, 5]


@pytest.mark.parametrize("order", [1, -1])
def test_a_view_that_is_final_and_nullified_convicts_who_signed_both(order: int) -> None:
    cluster = Cluster((1,) * 7)
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 0), A.hash, (1, 2, 3, 4, 5))
    ended = cluster.certificate(VoteKind.NULLIFY, View(1, 0), seats=(2, 3, 4, 5, 6))
    before, after = _show(cluster, *[final, ended][::order])
    assert before.halt is None and after.halt is not None
    assert _exposed(after) == [2, 3, 4, 5]


def test_an_early_nullification_of_a_block_that_was_built_upon_stops_nobody() -> None:
    """Final by a block of a later term only, it may be the tip of an installed snapshot."""
    cluster = Cluster()
    chain: list[Block] = []
    machine = Machine()
    for index in range(4):
        chain.append(block(View(1, index), *chain[-1:]))
        machine.apply(chain[-1])
    tip = tip_at(chain[-1].header, chain[-1].hash, None)
    final = cluster.certificate(VoteKind.FINALIZE, View(2, 0), B.hash)
    engine, _ = cluster.booted(4, Restored(tip, machine, certificates=(final,)))
    ended = cluster.certificate(VoteKind.NULLIFY, View(1, 1))
    output = engine.step(Received(2, Certificates((ended,))), 2)
    assert output.halt is None and engine.view == View(2, 1)
