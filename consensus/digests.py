"""What is signed and hashed. Vote digests are EIP-712, so that a contract can check a vote.

The cluster id is the EIP-712 domain separator of the registry contract; every digest and hash is
bound to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

from .keccak import keccak256
from .types import Header, Vote, VoteKind

BLOCK_TAG = b"dstack-cluster/block/v2"
BODY_TAG = b"dstack-cluster/body/v2"
GENESIS_TAG = b"dstack-cluster/genesis/v1"

_HEADER = struct.Struct(">QQQQQ32sQ32sQ32s")
HEADER_BYTES = _HEADER.size

_NOTARIZE = b"Notarize(uint64 epoch,uint64 term,uint64 index,bytes32 blockHash)"
_NULLIFY = b"Nullify(uint64 epoch,uint64 term,uint64 index,uint8 reason)"
_FINALIZE = b"Finalize(uint64 epoch,uint64 term,uint64 index,bytes32 blockHash)"
_BOOT = b"Boot(uint256 seat,uint64 incarnation,bytes32 bootId)"
_BOOT_ACK = b"BootAck(uint256 seat,uint64 incarnation,bytes32 bootId)"
_PROBE_ANSWER = (
    b"ProbeAnswer(uint256 seat,bytes16 nonce,uint64 incarnation,uint64 epoch,uint64 term,"
    b"uint64 index,uint64 height,uint64 chainBlock,uint64 chainTimeMs)"
)


_TYPE_HASHES = {
    VoteKind.NOTARIZE: keccak256(_NOTARIZE),
    VoteKind.NULLIFY: keccak256(_NULLIFY),
    VoteKind.FINALIZE: keccak256(_FINALIZE),
}
_BOOT_HASH = keccak256(_BOOT)
_BOOT_ACK_HASH = keccak256(_BOOT_ACK)
_PROBE_ANSWER_HASH = keccak256(_PROBE_ANSWER)


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def _typed(cluster_id: bytes, struct_hash: bytes) -> bytes:
    """EIP-712: keccak256(0x1901, domain separator, struct hash)."""
    return keccak256(b"\x19\x01" + cluster_id + struct_hash)


@lru_cache(maxsize=1024)  # all members sign the same digest for one block: compute it once
def vote_digest(
    cluster_id: bytes, kind: VoteKind, epoch: int, term: int, index: int, block: bytes, reason: int
) -> bytes:
    """The digest that a vote signs."""
    last = _word(reason) if kind is VoteKind.NULLIFY else block
    words = (_TYPE_HASHES[kind], _word(epoch), _word(term), _word(index), last)
    return _typed(cluster_id, keccak256(b"".join(words)))


def digest_of(cluster_id: bytes, vote: Vote) -> bytes:
    """``vote_digest`` of a vote."""
    kind, epoch, (term, index), _, block, reason, _ = vote
    return vote_digest(cluster_id, kind, epoch, term, index, block, reason)


def boot_digest(cluster_id: bytes, seat: int, incarnation: int, boot_id: bytes) -> bytes:
    """The digest that a booting member signs."""
    words = _BOOT_HASH + _word(seat) + _word(incarnation) + boot_id
    return _typed(cluster_id, keccak256(words))


def boot_ack_digest(cluster_id: bytes, seat: int, incarnation: int, boot_id: bytes) -> bytes:
    """The digest with which a member acknowledges another's boot."""
    words = _BOOT_ACK_HASH + _word(seat) + _word(incarnation) + boot_id
    return _typed(cluster_id, keccak256(words))


def probe_answer_digest(
    cluster_id: bytes,
    seat: int,
    nonce: bytes,
    *,
    incarnation: int,
    epoch: int,
    view: tuple[int, int],
    height: int,
    chain_block: int,
    chain_time_ms: int,
) -> bytes:
    """The digest with which a member answers a challenge; ``nonce`` is 16 bytes."""
    numbers = (incarnation, epoch, *view, height, chain_block, chain_time_ms)
    words = _PROBE_ANSWER_HASH + _word(seat) + nonce.ljust(32, b"\0")
    return _typed(cluster_id, keccak256(words + b"".join(map(_word, numbers))))


def header_bytes(header: Header) -> bytes:
    """All header fields at fixed width: ``HEADER_BYTES``, as the contract reads them."""
    return _HEADER.pack(
        header.epoch,
        header.view.term,
        header.view.index,
        header.proposer,
        header.height,
        header.parent,
        header.time_ms,
        header.body_hash,
        header.state_height,
        header.state_hash,
    )


def block_hash(cluster_id: bytes, header: Header) -> bytes:
    """Hash of a block, by its header."""
    return keccak256(BLOCK_TAG + cluster_id + header_bytes(header))


def linked_hash(
    cluster_id: bytes, block: bytes, height: int, links: Iterable[Header]
) -> bytes | None:
    """The hash of the last of some headers that stand one on the other, above a block.

    That block's own when there are none; None when one does not stand on the one before.
    """
    for header in links:
        height += 1
        if header.parent != block or header.height != height:
            return None
        block = block_hash(cluster_id, header)
    return block


def body_hash(body: bytes) -> bytes:
    """Hash of a block's encoded body."""
    return keccak256(BODY_TAG + body)


def genesis_hash(cluster_id: bytes, epoch: int, registry_digest: bytes) -> bytes:
    """The parent hash of an epoch's first block when no block precedes it."""
    return keccak256(GENESIS_TAG + cluster_id + epoch.to_bytes(8, "big") + registry_digest)
