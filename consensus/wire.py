"""Messages as bytes. One versioned envelope, explicit field lists, bounds by type.

An envelope is the msgpack array ``[version, type, fields...]``; the values in it are encoded by
``codec``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgpack

from . import limits
from .codec import (
    array,
    blob,
    optional,
    pack_block,
    pack_boot_request,
    pack_certificate,
    pack_evidence,
    pack_final_header,
    pack_header,
    pack_manifest,
    pack_opening,
    pack_parts,
    pack_vote,
    read_block,
    read_boot_request,
    read_certificate,
    read_evidence,
    read_final_header,
    read_header,
    read_manifest,
    read_opening,
    read_parts,
    read_vote,
    record,
    short_bytes,
    uint,
    unpack,
)
from .commands import decode_command
from .errors import WireError
from .types import (
    Block,
    BootAck,
    BootCertificate,
    BootRequest,
    Certificate,
    Evidence,
    FinalHeader,
    Header,
    Manifest,
    Opening,
    Proposal,
    View,
    Vote,
)

VERSION = 4


@dataclass(frozen=True, slots=True)
class ProposalMessage:
    """A leader's proposal under its incarnation (R1)."""

    incarnation: int
    proposal: Proposal


@dataclass(frozen=True, slots=True)
class VoteMessage:
    """A member's vote under its incarnation; only the voter itself sends it."""

    incarnation: int
    vote: Vote


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates passed on (R5, R7)."""

    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class Commands:
    """Commands passed on, so that a new leader already has them (R7)."""

    commands: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Reminder:
    """A command whose turn has come, as its sender counts them (R12): to be served in its turn."""

    command: bytes


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """Asks for a block by hash (R16)."""

    hash: bytes


@dataclass(frozen=True, slots=True)
class BlockReply:
    """A block that was asked for by hash."""

    block: Block


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """Asks for so many finalized blocks from a height on (R16)."""

    from_height: int
    count: int = limits.SYNC_BLOCKS_MAX


@dataclass(frozen=True, slots=True)
class SyncReply:
    """Consecutive finalized blocks; ``links`` lead from the last one to the finalized block.

    ``head`` is the sender's newest finalized header, None when it is that of ``finalization``. No
    blocks at all: the sender does not have what was asked for.
    """

    blocks: tuple[Block, ...]
    links: tuple[Header, ...]
    finalization: Certificate
    head: FinalHeader | None = None


@dataclass(frozen=True, slots=True)
class SnapshotRequest:
    """Asks for a chunk of the snapshot at a height (R17); height 0: which is the newest?"""

    height: int
    chunk: int


@dataclass(frozen=True, slots=True)
class SnapshotOffer:
    """The newest snapshot of its sender; also the answer to a request for blocks it pruned."""

    manifest: Manifest


@dataclass(frozen=True, slots=True)
class SnapshotChunk:
    """Items of the state (``transfer``) at a height, the ``chunk``-th part of them."""

    height: int
    chunk: int
    items: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class BootRefused:
    """Answer to who speaks under an old incarnation: the newer one, signed by the seat (R10)."""

    request: BootRequest


@dataclass(frozen=True, slots=True)
class EvidenceMessage:
    """Proofs that members broke the rules, passed on by whoever found them (R14)."""

    pairs: tuple[Evidence, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """A challenge: answer this, with where you are (R12). The nonce has 16 bytes."""

    nonce: bytes


@dataclass(frozen=True, slots=True)
class ProbeReply:
    """A member's signed answer to a challenge; see ``digests.probe_answer_digest``."""

    nonce: bytes
    incarnation: int
    epoch: int
    view: View
    height: int
    chain_block: int
    chain_time_ms: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class EpochRequest:
    """Asks how an epoch and those after it ended (R11)."""

    epoch: int


@dataclass(frozen=True, slots=True)
class EpochReply:
    """How consecutive epochs were opened, as many as fit, each proven by the set before it.

    Also sent unasked to a member that speaks in an epoch that is over.
    """

    openings: tuple[Opening, ...]


Message = (
    ProposalMessage
    | VoteMessage
    | Certificates
    | Commands
    | BlockRequest
    | BlockReply
    | SyncRequest
    | SyncReply
    | BootRequest
    | BootAck
    | BootRefused
    | BootCertificate
    | EvidenceMessage
    | Probe
    | ProbeReply
    | EpochRequest
    | EpochReply
    | SnapshotRequest
    | SnapshotOffer
    | SnapshotChunk
    | Reminder
)


# --- the envelope ---


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    match message:
        case ProposalMessage(incarnation, p):
            fields: tuple[Any, ...] = (
                1,
                incarnation,
                pack_block(p.block),
                pack_certificate(p.parent),
                p.signature,
            )
        case VoteMessage(incarnation, vote):
            fields = (2, incarnation, pack_vote(vote))
        case Certificates(certificates):
            fields = (3, [pack_certificate(c) for c in certificates])
        case Commands(commands):
            fields = (4, commands)
        case BlockRequest(hash_):
            fields = (5, hash_)
        case BlockReply(block):
            fields = (6, pack_block(block))
        case SyncRequest(from_height, count):
            fields = (7, from_height, count)
        case SyncReply(blocks, links, finalization, head):
            fields = (
                8,
                [pack_block(b) for b in blocks],
                [pack_header(h) for h in links],
                pack_certificate(finalization),
                None if head is None else pack_final_header(head),
            )
        case BootRequest():
            fields = (9, pack_boot_request(message))
        case BootAck(seat, incarnation, boot_id, signature, epoch, last, tip):
            fields = (
                10,
                seat,
                incarnation,
                boot_id,
                signature,
                epoch,
                pack_vote(last),
                pack_certificate(tip),
            )
        case BootRefused(request):
            fields = (11, pack_boot_request(request))
        case BootCertificate(seat, incarnation, boot_id, parts):
            fields = (12, seat, incarnation, boot_id, pack_parts(parts))
        case EvidenceMessage(pairs):
            fields = (13, [pack_evidence(e) for e in pairs])
        case Probe(nonce):
            fields = (14, nonce)
        case ProbeReply(nonce, incarnation, epoch, view, height, chain_block, time_ms, signature):
            fields = (15, nonce, incarnation, epoch, *view, height, chain_block, time_ms, signature)
        case SnapshotRequest(height, chunk):
            fields = (16, height, chunk)
        case SnapshotOffer(manifest):
            fields = (17, pack_manifest(manifest))
        case SnapshotChunk(height, chunk, items):
            fields = (18, height, chunk, items)
        case EpochRequest(epoch):
            fields = (19, epoch)
        case EpochReply(openings):
            fields = (20, [pack_opening(o) for o in openings])
        case Reminder(command):
            fields = (21, command)
    packed: bytes = msgpack.packb((VERSION, *fields))
    return packed


def decode(data: bytes, sender: int, cluster_id: bytes) -> Message:
    """The message in ``data``; a vote is its sender's by definition. Raises WireError."""
    if len(data) > limits.MESSAGE_BYTES_MAX:
        raise WireError(f"a message of {len(data)} bytes")
    envelope = unpack(data)
    if type(envelope) is not tuple or len(envelope) < 3:
        raise WireError("no envelope")
    if envelope[0] != VERSION or type(envelope[0]) is not int:
        raise WireError("another version of the protocol")
    kind, fields = uint(envelope[1]), envelope[2:]  # True and 1.0 would match 1
    match kind:
        case 1:
            incarnation, block, parent, signature = record(fields, 4)
            proposal = Proposal(
                read_block(block, cluster_id),
                optional(parent, read_certificate),
                blob(signature, 65),
            )
            return ProposalMessage(uint(incarnation), proposal)
        case 2:
            incarnation, vote = record(fields, 2)
            return VoteMessage(uint(incarnation), read_vote(vote, sender))
        case 3:
            (certificates,) = record(fields, 1)
            most = limits.NULLIFICATIONS_MAX
            return Certificates(tuple(map(read_certificate, array(certificates, most))))
        case 4:
            (commands,) = record(fields, 1)
            for raw in array(commands, limits.BLOCK_COMMANDS_MAX):
                decode_command(short_bytes(raw, limits.COMMAND_BYTES_MAX))
            return Commands(commands)
        case 5:
            (hash_,) = record(fields, 1)
            return BlockRequest(blob(hash_, 32))
        case 6:
            (block,) = record(fields, 1)
            return BlockReply(read_block(block, cluster_id))
        case 7:
            from_height, count = record(fields, 2)
            return SyncRequest(uint(from_height), uint(count, limits.SYNC_BLOCKS_MAX))
        case 8:
            blocks, links, finalization, head = record(fields, 4)
            return SyncReply(
                tuple(read_block(b, cluster_id) for b in array(blocks, limits.SYNC_BLOCKS_MAX)),
                tuple(map(read_header, array(links, limits.SYNC_LINKS_MAX))),
                read_certificate(finalization),
                optional(head, read_final_header),
            )
        case 9:
            (request,) = record(fields, 1)
            return read_boot_request(request)
        case 10:
            seat, incarnation, boot_id, signature, epoch, last, tip = record(fields, 7)
            return BootAck(
                uint(seat),
                uint(incarnation),
                blob(boot_id, 32),
                blob(signature, 65),
                uint(epoch),
                optional(last, lambda v: read_vote(v, uint(seat))),
                optional(tip, read_certificate),
            )
        case 11:
            (request,) = record(fields, 1)
            return BootRefused(read_boot_request(request))
        case 12:
            seat, incarnation, boot_id, parts = record(fields, 4)
            return BootCertificate(
                uint(seat), uint(incarnation), blob(boot_id, 32), read_parts(parts)
            )
        case 13:
            (pairs,) = record(fields, 1)
            most = limits.EVIDENCE_PER_BLOCK_MAX
            return EvidenceMessage(tuple(map(read_evidence, array(pairs, most))))
        case 14:
            (nonce,) = record(fields, 1)
            return Probe(blob(nonce, 16))
        case 15:
            nonce, *numbers, signature = record(fields, 9)
            incarnation, epoch, term, index, height, chain_block, time_ms = map(uint, numbers)
            return ProbeReply(
                blob(nonce, 16),
                incarnation,
                epoch,
                View(term, index),
                height,
                chain_block,
                time_ms,
                blob(signature, 65),
            )
        case 16:
            height, chunk = record(fields, 2)
            return SnapshotRequest(uint(height), uint(chunk, limits.SNAPSHOT_CHUNKS_MAX))
        case 17:
            (manifest,) = record(fields, 1)
            return SnapshotOffer(read_manifest(manifest))
        case 18:
            height, chunk, items = record(fields, 3)
            return SnapshotChunk(
                uint(height),
                uint(chunk, limits.SNAPSHOT_CHUNKS_MAX),
                tuple(
                    short_bytes(item, limits.SNAPSHOT_ITEM_BYTES_MAX)
                    for item in array(items, limits.SNAPSHOT_CHUNK_ITEMS)
                ),
            )
        case 19:
            (epoch,) = record(fields, 1)
            return EpochRequest(uint(epoch))
        case 20:
            (openings,) = record(fields, 1)
            most = limits.EPOCHS_PER_MESSAGE_MAX
            return EpochReply(
                tuple(read_opening(o, cluster_id) for o in array(openings, most))
            )
        case 21:
            (command,) = record(fields, 1)
            decode_command(short_bytes(command, limits.COMMAND_BYTES_MAX))
            return Reminder(command)
    raise WireError("unknown type of message")
