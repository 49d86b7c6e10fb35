"""What a message says: the votes and certificates in it, for the oracle."""

from __future__ import annotations

from consensus.types import Certificate, Vote, VoteKind
from consensus.wire import Certificates, Message, ProposalMessage, SyncReply, VoteMessage


def vote_in(message: Message, seat: int = 0) -> Vote | None:
    """The sender's vote in a message; of a proposal when the sender's ``seat`` is given."""
    match message:
        case VoteMessage(_, vote):
            return vote
        case ProposalMessage(_, p) if seat:
            h = p.block.header
            return Vote(VoteKind.NOTARIZE, h.epoch, h.view, seat, p.block.hash, 0, p.signature)
    return None


def certificates_in(message: Message) -> tuple[Certificate, ...]:
    """All certificates in a message that its sender may rely on."""
    match message:
        case Certificates(certificates):
            return certificates
        case ProposalMessage(_, p):
            parent = () if p.parent is None else (p.parent,)
            return (*parent, *p.block.nullifications)
        case SyncReply(_, _, finalization, head) if finalization.parts:  # else the chain proves it
            return (finalization,) if head is None else (finalization, head.finalization)
    return ()
