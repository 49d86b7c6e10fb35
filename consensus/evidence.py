"""Proof that members broke the rules: kept, passed on, committed (R14).

Evidence is a pair of votes of one seat that no correct member signs both. It is found where votes
are counted (``certificates``); here it is judged when it comes from others, and chosen for blocks.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from . import limits
from .certificates import conflict, votes_of
from .digests import digest_of
from .signatures import Verifier
from .types import Certificate, Evidence
from .validators import ValidatorSet


def is_genuine(
    evidence: Evidence, sets: Iterable[ValidatorSet], cluster_id: bytes, verifier: Verifier
) -> bool:
    """True when the pair convicts its seat: both votes are signed with its key of their epoch.

    ``sets`` are those whose keys we know. A pair of another epoch proves nothing to us.
    """
    first, second = evidence.first, evidence.second
    if not conflict(first, second):
        return False
    keys = [s.keys.get(first.seat) for s in sets if s.epoch == first.epoch]
    if not keys or keys[0] is None:
        return False
    return all(
        verifier.verify(keys[0], digest_of(cluster_id, vote), vote.signature)
        for vote in (first, second)
    )


def pairs_between(first: Certificate, second: Certificate) -> Iterator[Evidence]:
    """Those who signed in two genuine certificates what no correct member signs both."""
    votes = {vote.seat: vote for vote in votes_of(first)}
    for vote in votes_of(second):
        other = votes.get(vote.seat)
        if other is not None and conflict(other, vote):
            yield Evidence(other, vote)


class EvidenceBook:
    """All evidence that we hold: a few pairs for each seat, so that no liar can fill it."""

    def __init__(self, known: Iterable[Evidence] = ()) -> None:
        self._pairs: dict[int, list[Evidence]] = {}
        for evidence in known:
            self.add(evidence)

    def __len__(self) -> int:
        return sum(map(len, self._pairs.values()))

    def __iter__(self) -> Iterator[Evidence]:
        for seat in sorted(self._pairs):
            yield from self._pairs[seat]

    @property
    def seats(self) -> frozenset[int]:
        """Seats that we hold evidence against."""
        return frozenset(self._pairs)

    def wants(self, evidence: Evidence) -> bool:
        """True when it would be taken; worth asking before its signatures are checked."""
        known = self._pairs.get(evidence.first.seat, [])
        pair = {evidence.first, evidence.second}
        # That of earlier epochs makes way: the seat may have another holder by now.
        weighty = [e for e in known if e.first.epoch >= evidence.first.epoch]
        return len(weighty) < limits.EVIDENCE_PER_SEAT_MAX and all(
            {e.first, e.second} != pair for e in known
        )

    def add(self, evidence: Evidence) -> bool:
        """Takes genuine evidence; False when it is known, or there is enough of that seat."""
        if not self.wants(evidence):
            return False
        known = self._pairs.setdefault(evidence.first.seat, [])
        known.append(evidence)
        if len(known) > limits.EVIDENCE_PER_SEAT_MAX:
            known.remove(min(known, key=lambda e: e.first.epoch))
        return True

    def one_of_each(
        self, sets: Sequence[ValidatorSet], without: Collection[int] = ()
    ) -> tuple[Evidence, ...]:
        """Evidence against each present member that is not in ``without``: a block's worth."""
        chosen = []
        for seat in sorted(self._pairs):
            found = [e for e in self._pairs[seat] if is_present(e, sets)]
            if found and seat not in without:
                chosen.append(found[0])
        return tuple(chosen[: limits.EVIDENCE_PER_BLOCK_MAX])


def is_present(evidence: Evidence, sets: Sequence[ValidatorSet]) -> bool:
    """True when the key that signed it still holds the seat; ``sets``: the present one is first.

    A new holder of a seat answers for nothing that the last one did, and of epochs before the
    last not everybody has the keys.
    """
    seat = evidence.first.seat
    keys = [s.keys.get(seat) for s in sets if s.epoch == evidence.first.epoch]
    return bool(keys) and keys[0] is not None and keys[0] == sets[0].keys.get(seat)


def judge_committed(
    evidence: Sequence[Evidence],
    sets: Sequence[ValidatorSet],
    cluster_id: bytes,
    verifier: Verifier,
) -> str | None:
    """What is wrong with the evidence of a proposal, None when it is right (R14)."""
    seats = [e.first.seat for e in evidence]
    if len(set(seats)) != len(seats):
        return "evidence against one seat twice"
    for e in evidence:
        if not is_present(e, sets) or not is_genuine(e, sets, cluster_id, verifier):
            return f"evidence that does not convict seat {e.first.seat}"
    return None
