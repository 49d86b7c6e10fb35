"""Counting votes: only real ones, only when it matters, and liars convict themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clusters import CLUSTER_ID, Cluster
from hypothesis import given
from hypothesis import strategies as st

from consensus.certificates import VoteBook, conflict, verify_certificate
from consensus.types import Certificate, Part, Reason, View, Vote, VoteKind

A, B = b"a" * 32, b"b" * 32
V = View(1, 3)
NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE


class CountingVerifier:
    """Counts checks, to show what is not checked."""

    def __init__(self, cluster: Cluster) -> None:
        self._verifier = cluster.verifier
        self.checks = 0

    def verify(self, node_key: bytes, digest: bytes, signature: bytes) -> bool:
        self.checks += 1
        return self._verifier.verify(node_key, digest, signature)


def _book(cluster: Cluster) -> tuple[VoteBook, CountingVerifier]:
    verifier = CountingVerifier(cluster)
    return VoteBook(cluster.validators, CLUSTER_ID, verifier), verifier


def _forged(vote: Vote) -> Vote:
    return vote._replace(signature=b"\1" * 65)


def test_no_signature_is_checked_before_the_votes_could_be_a_quorum() -> None:
    cluster = Cluster((1,) * 7)
    book, verifier = _book(cluster)
    for seat in range(1, 5):
        book.add(cluster.vote(seat, NOTARIZE, V, A))
        assert book.certificate(NOTARIZE, V) is None
    assert verifier.checks == 0
    book.add(cluster.vote(5, NOTARIZE, V, A))
    assert book.certificate(NOTARIZE, V) is not None
    assert verifier.checks == 5


def test_checking_stops_at_the_quorum() -> None:
    cluster = Cluster((1,) * 7)
    book, verifier = _book(cluster)
    for seat in range(1, 8):
        book.add(cluster.vote(seat, NOTARIZE, V, A))
    certificate = book.certificate(NOTARIZE, V)
    assert certificate is not None
    assert verifier.checks == 5
    assert [p.seat for p in certificate.parts] == sorted(p.seat for p in certificate.parts)
    book.certificate(NOTARIZE, V)
    assert verifier.checks == 5


def test_forged_votes_are_dropped_named_and_never_counted() -> None:
    cluster = Cluster()
    book, _ = _book(cluster)
    for seat in (1, 2):
        book.add(cluster.vote(seat, FINALIZE, V, A))
    forged = _forged(cluster.vote(3, FINALIZE, V, A))
    book.add(forged)
    assert book.certificate(FINALIZE, V) is None
    assert book.forged == [forged]
    assert book.get(V, FINALIZE, 3) is None
    book.add(cluster.vote(3, FINALIZE, V, A))  # the real one still counts
    assert book.certificate(FINALIZE, V) is not None


def test_votes_for_different_blocks_do_not_add_up() -> None:
    cluster = Cluster()
    book, _ = _book(cluster)
    for seat, block in ((1, A), (2, A), (3, B), (4, B)):
        book.add(cluster.vote(seat, NOTARIZE, V, block))
    assert book.certificate(NOTARIZE, V) is None


def test_nullify_votes_with_different_reasons_add_up_and_keep_them() -> None:
    cluster = Cluster()
    book, _ = _book(cluster)
    reasons = {1: Reason.STALL, 2: Reason.NO_PROPOSAL, 3: Reason.JOINED}
    for seat, reason in reasons.items():
        book.add(cluster.vote(seat, NULLIFY, V, reason=reason))
    certificate = book.certificate(NULLIFY, V)
    assert certificate is not None
    assert {p.seat: p.reason for p in certificate.parts} == reasons
    assert verify_certificate(certificate, cluster.validators, CLUSTER_ID, cluster.verifier)


@pytest.mark.parametrize("weights", [(10, 1, 1, 1, 1, 1, 1), (2, 2, 2), (1, 1, 1), (5, 3, 1)])
def test_a_certificate_needs_more_than_two_thirds_of_the_weight(weights: tuple[int, ...]) -> None:
    cluster = Cluster(weights)
    total = sum(weights)
    for mask in range(1, 2 ** len(weights)):
        seats = tuple(i + 1 for i in range(len(weights)) if mask >> i & 1)
        book, _ = _book(cluster)
        for seat in seats:
            book.add(cluster.vote(seat, FINALIZE, V, A))
        enough = 3 * sum(weights[s - 1] for s in seats) > 2 * total
        assert (book.certificate(FINALIZE, V) is not None) == enough
        made = cluster.certificate(FINALIZE, V, A, seats)
        genuine = verify_certificate(made, cluster.validators, CLUSTER_ID, cluster.verifier)
        assert genuine == enough


def test_the_three_pairs_and_no_others_convict() -> None:
    cluster = Cluster()

    def v(kind: VoteKind, index: int, block: bytes = A, term: int = 1, seat: int = 1) -> Vote:
        named = bytes(32) if kind is NULLIFY else block
        return cluster.vote(seat, kind, View(term, index), named)

    guilty = [
        (v(NOTARIZE, 3), v(NOTARIZE, 3, B)),
        (v(FINALIZE, 3), v(FINALIZE, 3, B)),
        (v(NULLIFY, 3), v(FINALIZE, 3)),
        (v(NULLIFY, 3), v(FINALIZE, 9)),
    ]
    innocent = [
        (v(NOTARIZE, 3), v(NOTARIZE, 3)),
        (v(NOTARIZE, 3), v(NOTARIZE, 4, B)),
        (v(NOTARIZE, 3), v(NOTARIZE, 3, B, seat=2)),
        (v(NOTARIZE, 3), v(FINALIZE, 3)),
        (v(NOTARIZE, 3), v(NULLIFY, 3)),
        (v(FINALIZE, 3), v(NULLIFY, 4)),
        (v(NULLIFY, 3), v(FINALIZE, 5, term=2)),
        (v(NULLIFY, 3), v(NULLIFY, 4)),
        (v(NULLIFY, 3), v(NULLIFY, 3)._replace(reason=2)),
        (v(NULLIFY, 3), v(FINALIZE, 3)._replace(epoch=1)),
        (v(NULLIFY, 3), v(FINALIZE, 5, seat=2)),
    ]
    for one, two in guilty:
        assert conflict(one, two)
        assert conflict(two, one)
    for one, two in innocent:
        assert not conflict(one, two)
        assert not conflict(two, one)


@pytest.mark.parametrize("order", [0, 1])
def test_each_pair_gives_evidence_in_either_order(order: int) -> None:
    cluster = Cluster()
    pairs = [
        (cluster.vote(2, NOTARIZE, V, A), cluster.vote(2, NOTARIZE, V, B)),
        (cluster.vote(2, FINALIZE, V, A), cluster.vote(2, FINALIZE, V, B)),
        (cluster.vote(2, NULLIFY, View(1, 1)), cluster.vote(2, FINALIZE, V, A)),
    ]
    for pair in pairs:
        first, second = pair[::-1] if order else pair
        book, _ = _book(cluster)
        assert book.add(first) is None
        evidence = book.add(second)
        assert evidence is not None
        assert {evidence.first, evidence.second} == {first, second}


def test_the_third_pair_is_found_across_many_other_votes() -> None:
    cluster = Cluster()
    book, _ = _book(cluster)
    for index in range(5, 20):
        book.add(cluster.vote(2, FINALIZE, View(1, index), A))
    for index in (40, 30, 25):
        assert book.add(cluster.vote(2, NULLIFY, View(1, index))) is None
    assert book.add(cluster.vote(2, FINALIZE, View(1, 26), A)) is not None
    assert book.add(cluster.vote(2, NULLIFY, View(1, 19))) is not None


def test_a_forged_vote_frames_nobody() -> None:
    cluster = Cluster()
    book, _ = _book(cluster)
    real = cluster.vote(2, NOTARIZE, V, A)
    book.add(real)
    assert book.add(_forged(cluster.vote(2, NOTARIZE, V, B))) is None
    assert book.get(V, NOTARIZE, 2) == real
    other, _ = _book(cluster)
    other.add(_forged(cluster.vote(2, NOTARIZE, V, B)))
    assert other.add(real) is None
    assert other.get(V, NOTARIZE, 2) == real


def test_a_forged_lowest_complaint_does_not_hide_a_real_one() -> None:
    cluster = Cluster()
    book, _ = _book(cluster)
    book.add(_forged(cluster.vote(2, NULLIFY, View(1, 0))))
    book.add(cluster.vote(2, NULLIFY, View(1, 2)))
    book.add(cluster.vote(3, NULLIFY, View(1, 4)))
    book.joins(1)
    assert book.joins(1)


def test_complaints_of_exactly_a_third_do_not_make_anyone_join() -> None:
    cluster = Cluster((1, 1, 1))
    book, _ = _book(cluster)
    book.add(cluster.vote(2, NULLIFY, View(1, 0)))
    book.add(cluster.vote(2, NULLIFY, View(1, 5)))
    assert not book.joins(1)
    book.add(cluster.vote(3, NULLIFY, View(1, 9)))
    assert book.joins(1)
    assert not book.joins(2)


def test_a_certificate_with_any_bad_part_is_refused() -> None:
    cluster = Cluster((1,) * 7)
    good = cluster.certificate(NOTARIZE, V, A)

    def genuine(c: Certificate) -> bool:
        return verify_certificate(c, cluster.validators, CLUSTER_ID, cluster.verifier)

    assert genuine(good)
    parts = good.parts
    for bad in (
        replace(good, parts=(*parts[:6], Part(7, 0, b"\1" * 65))),
        replace(good, parts=(*parts[:6], Part(8, 0, parts[6].signature))),
        replace(good, parts=(*parts[:6], Part(7, 3, parts[6].signature))),
        replace(good, parts=parts[:4]),
        replace(good, parts=(parts[0],) * 7),
        replace(good, parts=()),
        replace(good, kind=FINALIZE),
        replace(good, block=B),
        replace(good, view=V.next()),
        replace(good, epoch=1),
    ):
        assert not genuine(bad)


@given(st.permutations([(s, k) for s in (1, 2, 3, 4) for k in (NOTARIZE, FINALIZE)]))
def test_the_order_of_arrival_does_not_matter(arrivals: list[tuple[int, VoteKind]]) -> None:
    cluster = Cluster()
    book, _ = _book(cluster)
    for seat, kind in arrivals:
        assert book.add(cluster.vote(seat, kind, V, A)) is None
    for kind in (NOTARIZE, FINALIZE):
        certificate = book.certificate(kind, V)
        assert certificate is not None
        assert verify_certificate(certificate, cluster.validators, CLUSTER_ID, cluster.verifier)
