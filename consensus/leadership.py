"""The leadership certificate: who leads, verifiable by anybody who knows the validator set.

It shows that a quorum was in a term of a leader. ``(epoch, term)`` is the fencing token: whoever
saw a higher one must not listen to a lower one any more.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from .certificates import verify_certificate
from .codec import (
    optional,
    pack_certificate,
    pack_header,
    read_certificate,
    read_header,
    record,
    uint,
    unpack,
)
from .digests import block_hash
from .errors import WireError
from .order import leader_order
from .signatures import Verifier
from .standing import Demerits
from .types import Certificate, Header, VoteKind
from .validators import ValidatorSet

LEADERSHIP_VERSION = 1


@dataclass(frozen=True, slots=True)
class Leadership:
    """Proof that ``leader`` leads ``term`` of ``epoch``.

    With ``header`` and its finalization, once a block of the term is final: the header names its
    proposer, so a contract needs the validator set only. Before that, the nullification of the
    term before (None in an epoch's first term), and the leader follows from the order.
    """

    epoch: int
    term: int
    leader: int
    header: Header | None
    certificate: Certificate | None

    @property
    def token(self) -> tuple[int, int]:
        """The fencing token."""
        return (self.epoch, self.term)

    def verify(
        self,
        validators: ValidatorSet,
        cluster_id: bytes,
        verifier: Verifier,
        demerits: Demerits = (),
    ) -> bool:
        """True when it proves what it says to somebody who trusts ``validators``.

        ``demerits``, those at the epoch's opening, are needed only while no block of the term is
        final. Nobody can prove that a term has not ended meanwhile: compare tokens.
        """
        if self.epoch != validators.epoch:
            return False
        c, header = self.certificate, self.header
        if c is not None and not verify_certificate(c, validators, cluster_id, verifier):
            return False
        if header is not None:
            return (
                c is not None
                and c.kind is VoteKind.FINALIZE
                and c.block == block_hash(cluster_id, header)
                and c.view == header.view
                and (header.epoch, header.view.term) == self.token
                and header.proposer == self.leader
            )
        order = leader_order(validators, demerits)
        if self.term < 1 or order[(self.term - 1) % len(order)] != self.leader:
            return False
        if c is None:
            return self.term == 1
        return c.kind is VoteKind.NULLIFY and c.view.term == self.term - 1

    def encode(self) -> bytes:
        """Bytes for whoever checks it elsewhere."""
        packed: bytes = msgpack.packb(
            (
                LEADERSHIP_VERSION,
                self.epoch,
                self.term,
                self.leader,
                None if self.header is None else pack_header(self.header),
                pack_certificate(self.certificate),
            )
        )
        return packed


def decode_leadership(data: bytes) -> Leadership:
    """Inverse of ``Leadership.encode``; raises WireError."""
    version, epoch, term, leader, header, certificate = record(unpack(data), 6)
    if version != LEADERSHIP_VERSION:
        raise WireError("another version of the leadership certificate")
    return Leadership(
        uint(epoch),
        uint(term),
        uint(leader),
        optional(header, read_header),
        optional(certificate, read_certificate),
    )
