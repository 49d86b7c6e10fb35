"""The blocks and votes of a trace: the model's names for them, and certificates out of them."""

from __future__ import annotations

from typing import Any

from consensus.digests import digest_of, genesis_hash
from consensus.keccak import keccak256
from consensus.types import ZERO_HASH, Block, Certificate, Part, View, Vote, VoteKind
from tests.model.settings import Setting

CLUSTER_ID = keccak256(b"a cluster out of the model")
GENESIS = genesis_hash(CLUSTER_ID, 0, bytes(32))
KINDS = {
    "Notarize": VoteKind.NOTARIZE,
    "Nullify": VoteKind.NULLIFY,
    "Finalize": VoteKind.FINALIZE,
}
NO_BLOCK = (0, 0, 0, 0)

Name = tuple[int, int, int, int]  # of a block in the model
Key = tuple[int, VoteKind, View, bytes]  # what a vote says: epoch, kind, view, block


class Mismatch(AssertionError):
    """The core did something else than the model."""


class Ballots(Setting):
    """All that was signed so far."""

    def __init__(self, trace: Any) -> None:
        super().__init__(trace)
        self.names: dict[Name, Block] = {}
        self.votes: dict[Key, dict[int, Vote]] = {}

    def _hash(self, name: Name) -> bytes:
        return GENESIS if name == NO_BLOCK else self.names[name].hash

    def _key(self, vote: Any) -> Key:
        kind, what = KINDS[vote[0]], tuple(vote[1])
        block = ZERO_HASH if kind is VoteKind.NULLIFY else self._hash(what)  # type: ignore[arg-type]
        return what[0], kind, View(*what[1:3]), block

    def _sign(self, seat: int, key: Key) -> Vote:
        epoch, kind, view, block = key
        unsigned = Vote(kind, epoch, view, seat, block, 0, b"")
        return unsigned._replace(signature=self.signers[seat].sign(digest_of(CLUSTER_ID, unsigned)))

    def _keep(self, vote: Vote) -> None:
        key = (vote.epoch, vote.kind, vote.view, vote.block)
        self.votes.setdefault(key, {})[vote.seat] = vote

    def _has_quorum(self, key: Key) -> bool:
        validators = self.sets[key[0]]
        return validators.is_quorum(validators.weight(self.votes.get(key, {})))

    def _certificate(self, key: Key) -> Certificate:
        """A certificate from what was signed so far."""
        epoch, kind, view, block = key
        votes = self.votes.get(key, {})
        if not self._has_quorum(key):
            raise Mismatch(f"no quorum of {kind.name} in {epoch}, {view} among {sorted(votes)}")
        parts = tuple(Part(s, votes[s].reason, votes[s].signature) for s in sorted(votes))
        return Certificate(kind, epoch, view, block, parts)

    def _named(self, kind: VoteKind, name: Name) -> Certificate:
        return self._certificate((name[0], kind, View(*name[1:3]), self._hash(name)))

    def _nullified(self, epoch: int, term: int) -> Certificate | None:
        """The nullification that covers most of a term, if there is one."""
        for key in sorted(self.votes, key=lambda k: k[2]):
            wanted = key[:2] == (epoch, VoteKind.NULLIFY) and key[2].term == term
            if wanted and self._has_quorum(key):
                return self._certificate(key)
        return None
