"""What this node can show the chain about its cluster, as values of ``chain.shown``."""

from __future__ import annotations

from chain import ShownDeposal, ShownEpoch, ShownLeader, SignedVote
from chain.shown import HEADERS_MAX
from consensus.compact import compact_parts
from consensus.digests import header_bytes
from consensus.engine import Engine
from consensus.types import Boundary, Certificate, Vote, VoteKind
from node.served import Served


def shown_epoch(store: Served, epoch: int) -> ShownEpoch | None:
    """How an epoch began, by its boundary block and the first block of it that is directly final.

    None while there is no such block on disk, when it is pruned, and for an epoch that launch or
    recovery opened: the chain knows those. Reads the disk; raises StorageError.
    """
    reply = store.openings_from(epoch - 1) if epoch > 0 else None
    if reply is None:
        return None
    opening = reply.openings[0]
    if not isinstance(opening, Boundary) or opening.block.next_epoch is None:
        return None
    block, record = opening.block, opening.block.next_epoch
    if record.epoch != epoch:
        return None
    above = store.blocks_from(block.header.height + 1, 1)
    if above is None or above.links or not 1 <= len(above.blocks) <= HEADERS_MAX:
        return None
    headers = b"".join(header_bytes(each.header) for each in above.blocks)
    parts = compact_parts(above.finalization.parts)
    return ShownEpoch(header_bytes(block.header), block.body, headers, parts, record.chain_block)


def shown_leader(engine: Engine) -> ShownLeader | None:
    """Who leads, by the newest final block; None before the leader of now has one."""
    proof = engine.leadership()
    if proof is None or proof.header is None or proof.certificate is None:
        return None
    return ShownLeader(header_bytes(proof.header), compact_parts(proof.certificate.parts))


def shown_deposal(engine: Engine, certificate: Certificate) -> ShownDeposal:
    """A nullification, with what the term's leader signed in it, if this node saw that."""
    epoch, view = certificate.epoch, certificate.view
    header, signature = engine.signed.get((epoch, view.term), (None, b""))
    return ShownDeposal(
        epoch, view.term, view.index, compact_parts(certificate.parts),
        b"" if header is None else header_bytes(header), signature,
    )  # fmt: skip


def signed_vote(vote: Vote) -> SignedVote:
    """A vote of consensus as the contract takes it."""
    return SignedVote(
        kind=int(vote.kind),
        epoch=vote.epoch,
        term=vote.view.term,
        index=vote.view.index,
        block_hash=bytes(32) if vote.kind is VoteKind.NULLIFY else vote.block,
        reason=vote.reason,
        signature=vote.signature,
    )
