"""One hostile member cannot make another remember more than a bounded amount."""

from __future__ import annotations

from dataclasses import replace

from clusters import CLUSTER_ID, GENESIS, Cluster, block, command, proposal, sent

from consensus import limits
from consensus.certificates import VoteBook
from consensus.commands import Barrier, Command, Put, encode_command
from consensus.engine import Engine
from consensus.interface import EvidenceRecord, Output, PeerConnected, Received, Restored
from consensus.ledger import genesis_tip
from consensus.machine import Machine
from consensus.types import (
    ZERO_HASH,
    Certificate,
    Evidence,
    NextEpoch,
    Part,
    Proposal,
    Reason,
    View,
    Vote,
    VoteKind,
)
from consensus.validators import Validator
from consensus.wire import (
    BlockReply,
    Certificates,
    ProposalMessage,
    SyncReply,
    VoteMessage,
    decode,
    encode,
)


def _in_term(cluster: Cluster, seat: int, term: int) -> Engine:
    """An engine that saw ``term - 1`` leaders deposed and nothing finalized."""
    ended = [cluster.certificate(VoteKind.NULLIFY, View(t, 0)) for t in range(1, term)]
    restored = Restored(genesis_tip(GENESIS), Machine(), certificates=ended)
    engine, _ = cluster.booted(seat, restored)
    assert engine.view == View(term, 0)
    return engine


def _votes_kept(engine: Engine) -> int:
    return sum(len(ballot.votes) for ballot in engine.book._ballots.values())


def test_votes_for_endless_views_of_any_term_are_not_kept() -> None:
    cluster = Cluster()
    engine = _in_term(cluster, 1, 30)
    for term in range(1, 60):
        for index in [*range(0, 200, 7), *(2**e for e in range(8, 63, 6))]:
            for kind in VoteKind:
                vote = cluster.vote(2, kind, View(term, index))
                engine.step(Received(2, VoteMessage(1, vote)), 2)
    views = (limits.TERMS_AHEAD_MAX + 10) * (limits.VIEWS_AHEAD_MAX + 1)
    assert 0 < _votes_kept(engine) <= 3 * views


def test_endless_conflicting_votes_are_not_remembered() -> None:
    cluster = Cluster()
    book = VoteBook(cluster.validators, CLUSTER_ID, cluster.verifier)
    for number in range(500):
        book.add(cluster.vote(2, VoteKind.NOTARIZE, View(1, 0), number.to_bytes(32, "big")))
    assert len(book._valid) <= 2


def test_a_pruned_book_holds_nothing() -> None:
    cluster = Cluster()
    book = VoteBook(cluster.validators, CLUSTER_ID, cluster.verifier)
    for seat in (1, 2, 3):
        for index in range(20):
            for kind in VoteKind:
                book.add(cluster.vote(seat, kind, View(1, index)))
                book.certificate(kind, View(1, index))
        book.joins(1)
    book.prune(View(1, 10))
    book.joins(1)
    book.prune(View(2, 0))
    assert not book._ballots
    assert not book._valid
    assert not book._lowest_nullify
    assert not book._highest_finalize


def test_one_liar_leaves_room_for_evidence_against_others() -> None:
    cluster = Cluster((1,) * 7)
    engine, _ = cluster.booted(1)
    kept = Output()
    for liar in (2, 3):
        for number in range(100):
            made = number.to_bytes(32, "big")
            vote = cluster.vote(liar, VoteKind.NOTARIZE, View(1, 1 + number % 20), made)
            kept.merge(engine.step(Received(liar, VoteMessage(1, vote)), 2))
    blamed = {r.evidence.first.seat for r in kept.persist if isinstance(r, EvidenceRecord)}
    assert blamed == {2, 3}
    assert len(engine.evidence) <= limits.EVIDENCE_PER_SEAT_MAX * 2


def test_blocks_that_nobody_asked_for_are_dropped() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    stray = block(View(1, 5), bytes(32))
    engine.step(Received(2, BlockReply(stray)), 2)
    assert stray.hash not in engine.ledger.blocks
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 5), stray.hash)
    engine.step(Received(2, SyncReply((stray,), (), final)), 2)
    assert stray.hash not in engine.ledger.blocks


def test_a_stretch_of_blocks_far_above_the_tip_is_dropped() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    chain = [block(View(1, 0))]
    for index in range(1, 40):
        chain.append(block(View(1, index), chain[-1]))
    last = chain[-1]
    final = cluster.certificate(VoteKind.FINALIZE, last.header.view, last.hash)
    # It follows the finalization, so it wants blocks; but from its tip upwards.
    leader = cluster.leader()
    told = proposal(cluster, block(View(1, 40), last), final)
    engine.step(Received(leader, ProposalMessage(1, told)), 2)
    assert engine.catchup.target == final
    for first in range(1, 39):
        links = tuple(b.header for b in chain[first + 1 :])
        engine.step(Received(2, SyncReply((chain[first],), links, final)), 2)
    assert not any(b.hash in engine.ledger.blocks for b in chain[1:])
    engine.step(Received(2, SyncReply(tuple(chain), (), final)), 2)
    assert engine.ledger.tip.height == 40


def test_a_hostile_leader_fills_no_more_than_the_views_ahead() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    seat = 1 if leader != 1 else 2
    engine, _ = cluster.booted(seat)
    parent = cluster.certificate(VoteKind.NOTARIZE, View(1, 0), bytes(32))
    for index in [*range(1, 200), 2**40, 2**63]:
        made = block(View(1, index), bytes(32), commands=(command(1, index % 1000),))
        told = proposal(cluster, made, parent)
        engine.step(Received(leader, ProposalMessage(1, told)), 2)
    assert len(engine._proposals) <= limits.VIEWS_AHEAD_MAX + 2
    assert len(engine.ledger.blocks) <= 1


def test_complaints_about_old_views_are_helped_once_a_view() -> None:
    cluster = Cluster()
    engine = _in_term(cluster, 1, 3)
    sends = 0
    for _ in range(20):
        vote = cluster.vote(2, VoteKind.NULLIFY, View(1, 0), reason=Reason.STALL)
        sends += len(sent(engine.step(Received(2, VoteMessage(1, vote)), 2)))
    assert sends <= 2


def test_a_long_justification_travels_in_messages_that_others_accept() -> None:
    cluster = Cluster((1,) * 40)
    ended = [cluster.certificate(VoteKind.NULLIFY, View(t, 0)) for t in range(1, 501)]
    restored = Restored(genesis_tip(GENESIS), Machine(), certificates=ended)
    engine, _ = cluster.booted(1, restored)
    output = engine.step(PeerConnected(2), 2)
    told = [m for m in sent(output) if isinstance(m, Certificates)]
    assert all(len(encode(m)) <= limits.MESSAGE_BYTES_MAX for m in told)
    assert [c for m in told for c in m.certificates] == ended


def test_the_largest_proposal_fits_a_message() -> None:
    parts = tuple(Part(limits.U64_MAX - i, 11, bytes(65)) for i in range(limits.MEMBERS_MAX, 0, -1))
    shown = Certificate(VoteKind.NULLIFY, limits.U64_MAX, View(2**60, 2**60), ZERO_HASH, parts)
    barrier = encode_command(Command(bytes(16), 1, Barrier()))
    half = limits.BLOCK_BYTES_MAX // 4 - 200
    large = encode_command(Command(bytes(16), 1, Put(b"k", bytes(half))))
    small = (barrier,) * ((limits.BLOCK_BYTES_MAX - 3 * len(large)) // len(barrier))
    vote = Vote(VoteKind.NOTARIZE, 0, View(1, 0), 1, bytes(32), 0, bytes(65))
    validators = tuple(
        Validator(i, limits.WEIGHT_MAX, i.to_bytes(33, "big"))
        for i in range(limits.U64_MAX - limits.MEMBERS_MAX, limits.U64_MAX)
    )
    made = block(
        View(2**60, 0),
        commands=(large,) * 3 + small[: limits.BLOCK_COMMANDS_MAX - 3],
        nullifications=(shown,) * limits.NULLIFICATIONS_PER_BLOCK_MAX,
        evidence=(Evidence(vote, vote),) * limits.EVIDENCE_PER_BLOCK_MAX,
        next_epoch=NextEpoch(1, 1, bytes(32), bytes(32), bytes(32), validators),
        proposer=1,
    )
    parent = replace(shown, kind=VoteKind.FINALIZE, block=bytes(32))
    data = encode(ProposalMessage(1, Proposal(made, parent, bytes(65))))
    assert len(data) <= limits.MESSAGE_BYTES_MAX
    decode(data, 1, CLUSTER_ID)
