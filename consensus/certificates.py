"""Counting votes (R3, R5, R6) and checking certificates.

``VoteBook`` keeps what members signed for the views around ours, at most one vote per seat, kind
and view. Signatures are checked as late as possible: not before the votes would make a quorum (or
a join), and no further once they do. Two votes that no correct member signs both are checked at
once and become evidence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from .digests import digest_of, vote_digest
from .signatures import Verifier
from .types import Certificate, Evidence, Part, View, Vote, VoteKind
from .validators import ValidatorSet


def verify_certificate(
    certificate: Certificate, validators: ValidatorSet, cluster_id: bytes, verifier: Verifier
) -> bool:
    """True when members of more than 2/3 of the weight really signed it.

    Every part is checked: a certificate is stored and passed on whole, so a bad part that rides
    along with a good quorum would spoil it for whoever checks all of them (a contract does).
    """
    c = certificate
    if c.epoch != validators.epoch:
        return False
    if not validators.is_quorum(validators.weight(part.seat for part in c.parts)):
        return False
    term, index = c.view
    digests: dict[int, bytes] = {}
    for part in c.parts:
        key = validators.keys.get(part.seat)
        if key is None or (part.reason and c.kind is not VoteKind.NULLIFY):
            return False
        digest = digests.get(part.reason)
        if digest is None:
            digest = vote_digest(cluster_id, c.kind, c.epoch, term, index, c.block, part.reason)
            digests[part.reason] = digest
        if not verifier.verify(key, digest, part.signature):
            return False
    return True


def votes_of(certificate: Certificate) -> Iterator[Vote]:
    """The votes that a certificate consists of."""
    c = certificate
    for seat, reason, signature in c.parts:
        yield Vote(c.kind, c.epoch, c.view, seat, c.block, reason, signature)


def conflict(first: Vote, second: Vote) -> bool:
    """True when no correct member signs both: one of the three pairs of ``docs/protocol.md``, 3."""
    if (first.seat, first.epoch) != (second.seat, second.epoch):
        return False
    if first.kind is second.kind:
        if first.kind is VoteKind.NULLIFY or first.view != second.view:
            return False
        return first.block != second.block
    kinds = {first.kind: first, second.kind: second}
    nullify, finalize = kinds.get(VoteKind.NULLIFY), kinds.get(VoteKind.FINALIZE)
    if nullify is None or finalize is None or nullify.view.term != finalize.view.term:
        return False
    return nullify.view.index <= finalize.view.index


_NO_VOTES: Mapping[int, Vote] = MappingProxyType({})


class _Ballot:
    """Votes of one kind for one view, and their weight by block; not all are checked."""

    __slots__ = ("votes", "weights")

    def __init__(self) -> None:
        self.votes: dict[int, Vote] = {}
        self.weights: dict[bytes, int] = {}


class VoteBook:
    """Votes of one epoch for the views that still matter."""

    def __init__(self, validators: ValidatorSet, cluster_id: bytes, verifier: Verifier) -> None:
        self._validators = validators
        self._cluster_id = cluster_id
        self._verifier = verifier
        self._ballots: dict[tuple[View, VoteKind], _Ballot] = {}
        self._valid: set[Vote] = set()
        # Per term and seat, for the third pair rule and for joining (R4).
        self._lowest_nullify: dict[int, dict[int, Vote]] = {}
        self._highest_finalize: dict[int, dict[int, Vote]] = {}
        self.forged: list[Vote] = []  # votes whose signature was wrong, for the caller to report

    def get(self, view: View, kind: VoteKind, seat: int) -> Vote | None:
        """The vote of that kind that a seat sent for a view."""
        ballot = self._ballots.get((view, kind))
        return ballot.votes.get(seat) if ballot else None

    def trust(self, vote: Vote) -> None:
        """Mark a vote as checked: our own, or one that was restored."""
        self._valid.add(vote)

    def add(self, vote: Vote) -> Evidence | None:
        """Take a vote into account; evidence when it convicts its signer."""
        kind, view, seat = vote.kind, vote.view, vote.seat
        ballot = self._ballots.get((view, kind))
        known = other = None
        if ballot is not None:
            known = ballot.votes.get(seat)
        if kind is VoteKind.NULLIFY:
            other = self._highest_finalize.get(view.term, _NO_VOTES).get(seat)
        elif kind is VoteKind.FINALIZE:
            other = self._lowest_nullify.get(view.term, _NO_VOTES).get(seat)
        for rival in (known, other):
            if rival is None or not conflict(rival, vote):
                continue
            if not self.is_valid(vote):
                return None
            if self.is_valid(rival):
                self._valid.discard(vote)  # not kept: a liar can sign any number of these
                return Evidence(rival, vote)
            known = self.get(view, kind, seat)  # the rival was forged, and is forgotten
        if known is not None:
            return None
        if ballot is None:
            ballot = self._ballots[view, kind] = _Ballot()
        ballot.votes[seat] = vote
        weight = self._validators.weights.get(seat, 0)
        ballot.weights[vote.block] = ballot.weights.get(vote.block, 0) + weight
        if kind is not VoteKind.NOTARIZE:
            self._index(vote)
        return None

    def against(self, certificate: Certificate) -> Iterator[Evidence]:
        """Pairs of a vote that we hold and one in a certificate whose signatures are right."""
        for vote in votes_of(certificate):
            term, seat = vote.view.term, vote.seat
            for rival in (
                self.get(vote.view, vote.kind, seat),
                self._lowest_nullify.get(term, _NO_VOTES).get(seat),
                self._highest_finalize.get(term, _NO_VOTES).get(seat),
            ):
                if rival is not None and conflict(rival, vote) and self.is_valid(rival):
                    yield Evidence(rival, vote)
                    break

    def has_quorum(self, vote: Vote) -> bool:
        """True when the votes for what ``vote`` votes for might make a certificate."""
        ballot = self._ballots.get((vote.view, vote.kind))
        return ballot is not None and self._validators.is_quorum(ballot.weights.get(vote.block, 0))

    def _index(self, vote: Vote) -> None:
        term, seat = vote.view.term, vote.seat
        if vote.kind is VoteKind.NULLIFY:
            lowest = self._lowest_nullify.setdefault(term, {})
            if seat not in lowest or vote.view < lowest[seat].view:
                lowest[seat] = vote
        elif vote.kind is VoteKind.FINALIZE:
            highest = self._highest_finalize.setdefault(term, {})
            if seat not in highest or vote.view > highest[seat].view:
                highest[seat] = vote

    def is_valid(self, vote: Vote) -> bool:
        """Checks a vote's signature once; a forged vote is forgotten and noted in ``forged``."""
        return vote in self._valid or self._check(vote)

    def _check(self, vote: Vote) -> bool:
        key = self._validators.keys.get(vote.seat)
        digest = digest_of(self._cluster_id, vote)
        if key is not None and self._verifier.verify(key, digest, vote.signature):
            self._valid.add(vote)
            return True
        self._forget(vote)
        self.forged.append(vote)
        return False

    def _forget(self, vote: Vote) -> None:
        ballot = self._ballots.get((vote.view, vote.kind))
        if ballot is not None and ballot.votes.get(vote.seat) == vote:
            del ballot.votes[vote.seat]
            ballot.weights[vote.block] -= self._validators.weights.get(vote.seat, 0)
            if not ballot.weights[vote.block]:
                del ballot.weights[vote.block]
        for index in (self._lowest_nullify, self._highest_finalize):
            votes = index.get(vote.view.term, {})
            if votes.get(vote.seat) == vote:
                del votes[vote.seat]
                for (view, kind), other in self._ballots.items():
                    again = other.votes.get(vote.seat)
                    if again is not None and kind is vote.kind and view.term == vote.view.term:
                        self._index(again)

    def certificate(self, kind: VoteKind, view: View) -> Certificate | None:
        """A certificate from the votes at hand, None while no block has a quorum."""
        ballot = self._ballots.get((view, kind))
        if ballot is None:
            return None
        for block, weight in list(ballot.weights.items()):
            if not self._validators.is_quorum(weight):
                continue
            votes = [v for v in ballot.votes.values() if v.block == block]
            chosen = self._choose(votes, self._validators.quorum_weight)
            if chosen:
                parts = sorted([Part(seat, why, by) for _, _, _, seat, _, why, by in chosen])
                return Certificate(kind, votes[0].epoch, view, block, tuple(parts))
        return None

    def joins(self, term: int) -> bool:
        """True when members of more than 1/3 of the weight voted to end the term (R4)."""
        lowest = self._lowest_nullify.get(term)
        if lowest is None or not self._validators.is_join(self._validators.weight(lowest)):
            return False
        return bool(self._choose(list(lowest.values()), self._validators.join_weight))

    def has_complaints(self, term: int) -> bool:
        """True when anybody voted to end the term."""
        return term in self._lowest_nullify

    def resigned(self, term: int, leader: int) -> bool:
        """True when the term's own leader voted to end it."""
        lowest = self._lowest_nullify.get(term)
        vote = lowest.get(leader) if lowest else None
        return vote is not None and self.is_valid(vote)

    def _choose(self, votes: Iterable[Vote], enough: int) -> list[Vote]:
        """The first valid votes whose weight is enough; empty when there are none."""
        weights, valid = self._validators.weights, self._valid
        chosen, unchecked, weight = [], [], 0
        for vote in votes:  # checked ones first: often they suffice
            if vote not in valid:
                unchecked.append(vote)
                continue
            chosen.append(vote)
            weight += weights.get(vote.seat, 0)
            if weight >= enough:
                return chosen
        for vote in unchecked:
            if self._check(vote):
                chosen.append(vote)
                weight += weights.get(vote.seat, 0)
                if weight >= enough:
                    return chosen
        return []

    def complaints(self, term: int) -> dict[int, int]:
        """Seat to reason of those who voted to end the term, for status; not all are checked."""
        return {s: v.reason for s, v in self._lowest_nullify.get(term, {}).items()}

    def prune(self, view: View) -> None:
        """Forget views below ``view``, and terms below its term."""
        for old in [key for key in self._ballots if key[0] < view]:
            self._valid.difference_update(self._ballots.pop(old).votes.values())
        for index in (self._lowest_nullify, self._highest_finalize):
            for term in [t for t in index if t < view.term]:
                self._valid.difference_update(index.pop(term).values())
