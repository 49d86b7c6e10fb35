"""Evidence: judged before it is believed, bounded, chosen for blocks."""

from __future__ import annotations

from dataclasses import replace

from clusters import CLUSTER_ID, Cluster

from consensus import limits
from consensus.evidence import EvidenceBook, is_genuine, judge_committed
from consensus.types import Evidence, View, VoteKind

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


def _pair(cluster: Cluster, seat: int, index: int = 0) -> Evidence:
    view = View(1, index)
    return Evidence(
        cluster.vote(seat, VoteKind.NOTARIZE, view, A),
        cluster.vote(seat, VoteKind.NOTARIZE, view, B),
    )


def _genuine(cluster: Cluster, evidence: Evidence) -> bool:
    return is_genuine(evidence, [cluster.validators], CLUSTER_ID, cluster.verifier)


def test_two_signed_votes_that_contradict_each_other_convict() -> None:
    cluster = Cluster()
    assert _genuine(cluster, _pair(cluster, 2))
    gate = Evidence(
        cluster.vote(3, VoteKind.NULLIFY, View(2, 1), reason=1),
        cluster.vote(3, VoteKind.FINALIZE, View(2, 4), A),
    )
    assert _genuine(cluster, gate)


def test_nobody_honest_is_convicted() -> None:
    cluster = Cluster()
    first = cluster.vote(2, VoteKind.NOTARIZE, View(1, 0), A)
    forged = cluster.vote(3, VoteKind.NOTARIZE, View(1, 0), B)._replace(seat=2)
    finalize = cluster.vote(2, VoteKind.FINALIZE, View(1, 0), A)
    nullify = cluster.vote(2, VoteKind.NULLIFY, View(1, 1), reason=1)
    other = cluster.vote(2, VoteKind.NOTARIZE, View(1, 0), B)._replace(epoch=1)
    for second in (first, forged, finalize, other):
        assert not _genuine(cluster, Evidence(first, second))
    assert not _genuine(cluster, Evidence(nullify, finalize)), "finalized before it complained"
    stranger = Evidence(first._replace(seat=9), first._replace(seat=9, block=B))
    assert not _genuine(cluster, stranger)


def test_evidence_of_an_epoch_is_judged_with_the_keys_of_that_epoch() -> None:
    cluster = Cluster()
    later = replace(cluster.validators, epoch=1)
    evidence = _pair(cluster, 2)
    assert not is_genuine(evidence, [later], CLUSTER_ID, cluster.verifier)
    both = [later, cluster.validators]
    assert is_genuine(evidence, both, CLUSTER_ID, cluster.verifier)


def test_the_book_keeps_a_few_pairs_of_each_seat_once() -> None:
    cluster = Cluster()
    book = EvidenceBook()
    pair = _pair(cluster, 2)
    assert book.add(pair)
    assert not book.add(pair)
    assert not book.add(Evidence(pair.second, pair.first)), "the same two votes"
    for index in range(1, 2 * limits.EVIDENCE_PER_SEAT_MAX):
        book.add(_pair(cluster, 2, index))
    assert book.add(_pair(cluster, 3))
    assert len(book) == limits.EVIDENCE_PER_SEAT_MAX + 1
    assert book.seats == {2, 3}


def test_evidence_of_an_earlier_epoch_makes_way_for_that_of_a_later_one() -> None:
    cluster = Cluster()
    book = EvidenceBook(_pair(cluster, 2, n) for n in range(limits.EVIDENCE_PER_SEAT_MAX))
    pair = _pair(cluster, 2)
    later = Evidence(pair.first._replace(epoch=1), pair.second._replace(epoch=1))
    assert book.add(later) and later in list(book)
    assert len(book) == limits.EVIDENCE_PER_SEAT_MAX
    assert not book.add(_pair(cluster, 2, 99)), "it does not come back"


def test_a_block_carries_one_pair_for_each_seat_that_is_not_convicted_yet() -> None:
    cluster = Cluster((1,) * 12)
    book = EvidenceBook(_pair(cluster, seat, n) for seat in range(1, 13) for n in range(2))
    chosen = book.one_of_each([cluster.validators], without={1, 2})
    assert [e.first.seat for e in chosen] == list(range(3, 3 + limits.EVIDENCE_PER_BLOCK_MAX))


def test_a_new_holder_of_a_seat_answers_for_nothing_that_the_last_one_did() -> None:
    cluster = Cluster()
    pair = _pair(cluster, 2)
    book = EvidenceBook([pair])
    old = cluster.validators
    members = [
        replace(v, node_key=b"\2" + bytes(32)) if v.seat == 2 else v for v in old.validators
    ]
    same, rekeyed = replace(old, epoch=1), replace(old, epoch=1, validators=tuple(members))
    assert book.one_of_each([same, old]) == (pair,)
    for sets in ([rekeyed, old], [same]):
        assert book.one_of_each(sets) == ()
        assert judge_committed([pair], sets, CLUSTER_ID, cluster.verifier) is not None


def test_a_proposal_with_evidence_that_proves_nothing_is_refused() -> None:
    cluster = Cluster()

    def judged(*evidence: Evidence) -> str | None:
        return judge_committed(evidence, [cluster.validators], CLUSTER_ID, cluster.verifier)

    assert judged(_pair(cluster, 2), _pair(cluster, 3)) is None
    assert judged() is None
    assert judged(_pair(cluster, 2), _pair(cluster, 2, 1)) == "evidence against one seat twice"
    pair = _pair(cluster, 2)
    framed = Evidence(pair.first._replace(seat=4), pair.second._replace(seat=4))
    assert judged(framed) == "evidence that does not convict seat 4"

