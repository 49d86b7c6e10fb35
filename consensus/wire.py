"""Bytes on the wire and on disk. One versioned envelope, explicit field lists, bounds by type.

An envelope is the msgpack array ``[version, type, fields...]``. Decoding validates everything that
does not need a validator set and raises ``WireError`` for anything else; it never allocates more
than the input's size suggests.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack

from . import limits
from .digests import block_hash, body_hash
from .types import (
    ZERO_HASH,
    Block,
    BootAck,
    BootCertificate,
    BootRequest,
    Certificate,
    Command,
    Header,
    Op,
    Part,
    Proposal,
    Reason,
    View,
    Vote,
    VoteKind,
)

VERSION = 1
T = TypeVar("T")


class WireError(ValueError):
    """The bytes are no message of this protocol; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class ProposalMessage:
    """A leader's proposal under its incarnation."""

    incarnation: int
    proposal: Proposal


@dataclass(frozen=True, slots=True)
class VoteMessage:
    """A member's vote under its incarnation; only the voter itself sends it."""

    incarnation: int
    vote: Vote


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates passed on (R3, R5, R7)."""

    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class Commands:
    """Commands passed on to every member, so that a new leader already has them."""

    commands: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """Asks for a block by hash."""

    hash: bytes


@dataclass(frozen=True, slots=True)
class BlockReply:
    """A block that was asked for by hash."""

    block: Block


@dataclass(frozen=True, slots=True)
class SyncRequest:
    """Asks for finalized blocks from a height on."""

    from_height: int


@dataclass(frozen=True, slots=True)
class SyncReply:
    """Consecutive finalized blocks; ``links`` lead from the last one to the finalized block."""

    blocks: tuple[Block, ...]
    links: tuple[Header, ...]
    finalization: Certificate


@dataclass(frozen=True, slots=True)
class BootRefused:
    """Answer to a request or vote under an old incarnation: the newer one, signed by the seat."""

    request: BootRequest


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
)


# --- commands: fixed layout, because there are many ------------------------------------------

_COMMAND_HEAD = struct.Struct(">16sQBH")


def encode_command(command: Command) -> bytes:
    """client 16, sequence u64, op u8, key length u16, key, value (the rest)."""
    head = _COMMAND_HEAD.pack(command.client, command.sequence, command.op, len(command.key))
    return head + command.key + command.value


def decode_command(raw: bytes) -> Command:
    """Inverse of ``encode_command``; raises WireError."""
    if not _COMMAND_HEAD.size <= len(raw) <= limits.COMMAND_BYTES_MAX:
        raise WireError(f"a command of {len(raw)} bytes")
    client, sequence, op, key_size = _COMMAND_HEAD.unpack_from(raw)
    body = raw[_COMMAND_HEAD.size :]
    if key_size > limits.KEY_BYTES_MAX or key_size > len(body):
        raise WireError(f"a key of {key_size} bytes in a command of {len(raw)}")
    key, value = body[:key_size], body[key_size:]
    if len(value) > limits.VALUE_BYTES_MAX:
        raise WireError(f"a value of {len(value)} bytes")
    match op:
        case Op.PUT if key:
            pass
        case Op.DELETE if key and not value:
            pass
        case Op.BARRIER if not body:
            pass
        case _:
            raise WireError(f"operation {op} with a key of {key_size} and {len(value)} bytes")
    return Command(client, sequence, Op(op), key, value)


# --- field checks ---


def _uint(value: Any, most: int = limits.U64_MAX) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise WireError(f"expected an integer 0..{most}")
    return value


def _blob(value: Any, size: int) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise WireError(f"expected {size} bytes")
    return value


def _bytes(value: Any, most: int) -> bytes:
    if type(value) is not bytes or len(value) > most:
        raise WireError(f"expected at most {most} bytes")
    return value


def _list(value: Any, most: int) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) > most:
        raise WireError(f"expected an array of at most {most}")
    return value


def _fields(value: Any, count: int) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) != count:
        raise WireError(f"expected an array of {count} fields")
    return value


# --- the values ---


def _pack_parts(parts: tuple[Part, ...]) -> list[tuple[int, int, bytes]]:
    return [(part.seat, part.reason, part.signature) for part in parts]


def _parts(value: Any) -> tuple[Part, ...]:
    parts = []
    for item in _list(value, limits.MEMBERS_MAX):
        seat, reason, signature = _fields(item, 3)
        parts.append(Part(_uint(seat), _uint(reason, 255), _blob(signature, 65)))
    if any(a.seat >= b.seat for a, b in itertools.pairwise(parts)):
        raise WireError("the parts of a certificate are not sorted by seat")
    return tuple(parts)


def _pack_certificate(certificate: Certificate | None) -> Any:
    if certificate is None:
        return None
    c = certificate
    block = b"" if c.kind is VoteKind.NULLIFY else c.block
    return (int(c.kind), c.epoch, c.view.term, c.view.index, block, _pack_parts(c.parts))


def _certificate(value: Any) -> Certificate:
    kind_, epoch, term, index, block, parts = _fields(value, 6)
    kind = VoteKind(_uint(kind_, 3) or _bad("kind of certificate"))
    if kind is VoteKind.NULLIFY:
        _blob(block, 0)
        block = ZERO_HASH
    view = View(_uint(term), _uint(index))
    return Certificate(kind, _uint(epoch), view, _blob(block, 32), _parts(parts))


def _bad(what: str) -> int:
    raise WireError(f"unknown {what}")


def _optional(value: Any, decode: Callable[[Any], T]) -> T | None:
    return None if value is None else decode(value)


def _pack_vote(vote: Vote | None) -> Any:
    if vote is None:
        return None
    v = vote
    block = b"" if v.kind is VoteKind.NULLIFY else v.block
    return (int(v.kind), v.epoch, v.view.term, v.view.index, block, v.reason, v.signature)


def _vote(value: Any, seat: int) -> Vote:
    kind_, epoch, term, index, block, reason, signature = _fields(value, 7)
    kind = VoteKind(_uint(kind_, 3) or _bad("kind of vote"))
    if kind is VoteKind.NULLIFY:
        _blob(block, 0)
        block = ZERO_HASH
    most = max(Reason) if kind is VoteKind.NULLIFY else 0
    view = View(_uint(term), _uint(index))
    return Vote(
        kind, _uint(epoch), view, seat, _blob(block, 32), _uint(reason, most), _blob(signature, 65)
    )


def _pack_header(h: Header) -> tuple[Any, ...]:
    return (
        h.epoch,
        h.view.term,
        h.view.index,
        h.height,
        h.parent,
        h.time_ms,
        h.body_hash,
        h.state_height,
        h.state_hash,
    )


def _header(value: Any) -> Header:
    epoch, term, index, height, parent, time_ms, body, state_height, state = _fields(value, 9)
    return Header(
        _uint(epoch),
        View(_uint(term), _uint(index)),
        _uint(height),
        _blob(parent, 32),
        _uint(time_ms),
        _blob(body, 32),
        _uint(state_height),
        _blob(state, 32),
    )


def pack_body(commands: tuple[bytes, ...], nullifications: tuple[Certificate, ...]) -> bytes:
    """The encoding that a header's ``body_hash`` covers."""
    packed: bytes = msgpack.packb((commands, [_pack_certificate(c) for c in nullifications]))
    return packed


def _pack_block(block: Block) -> tuple[Any, ...]:
    return (_pack_header(block.header), block.body)


def _block(value: Any, cluster_id: bytes) -> Block:
    header_, body = _fields(value, 2)
    header = _header(header_)
    _bytes(body, limits.MESSAGE_BYTES_MAX)
    if body_hash(body) != header.body_hash:
        raise WireError("a block's body does not match its header")
    commands_, nullifications_ = _fields(_unpack(body), 2)
    commands = _list(commands_, limits.BLOCK_COMMANDS_MAX)
    for raw in commands:
        if type(raw) is not bytes:
            raise WireError("a command that is not bytes")
        decode_command(raw)
    if sum(map(len, commands)) > limits.BLOCK_BYTES_MAX:
        raise WireError(f"more than {limits.BLOCK_BYTES_MAX} bytes of commands in a block")
    nullifications = tuple(
        map(_certificate, _list(nullifications_, limits.NULLIFICATIONS_MAX))
    )
    return Block(header, block_hash(cluster_id, header), body, commands, nullifications)


def make_block(
    cluster_id: bytes,
    *,
    epoch: int,
    view: View,
    height: int,
    parent: bytes,
    time_ms: int,
    state_height: int,
    state_hash: bytes,
    commands: tuple[bytes, ...],
    nullifications: tuple[Certificate, ...],
) -> Block:
    """Builds a block with its body and hashes."""
    body = pack_body(commands, nullifications)
    digest = body_hash(body)
    header = Header(epoch, view, height, parent, time_ms, digest, state_height, state_hash)
    return Block(header, block_hash(cluster_id, header), body, commands, nullifications)


def _pack_boot_request(r: BootRequest) -> tuple[Any, ...]:
    return (r.seat, r.incarnation, r.boot_id, r.signature)


def _boot_request(value: tuple[Any, ...]) -> BootRequest:
    seat, incarnation, boot_id, signature = _fields(value, 4)
    return BootRequest(
        _uint(seat), _uint(incarnation), _blob(boot_id, 32), _blob(signature, 65)
    )


# --- the envelope ---


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(
            data,
            use_list=False,
            strict_map_key=True,
            max_str_len=0,
            max_map_len=0,
            max_ext_len=0,
            max_array_len=max(limits.BLOCK_COMMANDS_MAX, limits.SYNC_LINKS_MAX),
            max_bin_len=limits.MESSAGE_BYTES_MAX,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError, TypeError) as error:
        raise WireError(f"not msgpack within the limits: {type(error).__name__}") from None


def encode(message: Message) -> bytes:
    """The bytes of a message."""
    match message:
        case ProposalMessage(incarnation, p):
            fields: tuple[Any, ...] = (
                1,
                incarnation,
                _pack_block(p.block),
                _pack_certificate(p.parent),
                p.signature,
            )
        case VoteMessage(incarnation, vote):
            fields = (2, incarnation, _pack_vote(vote))
        case Certificates(certificates):
            fields = (3, [_pack_certificate(c) for c in certificates])
        case Commands(commands):
            fields = (4, commands)
        case BlockRequest(hash_):
            fields = (5, hash_)
        case BlockReply(block):
            fields = (6, _pack_block(block))
        case SyncRequest(from_height):
            fields = (7, from_height)
        case SyncReply(blocks, links, finalization):
            fields = (
                8,
                [_pack_block(b) for b in blocks],
                [_pack_header(h) for h in links],
                _pack_certificate(finalization),
            )
        case BootRequest():
            fields = (9, _pack_boot_request(message))
        case BootAck(seat, incarnation, boot_id, signature, last, tip):
            fields = (
                10,
                seat,
                incarnation,
                boot_id,
                signature,
                _pack_vote(last),
                _pack_certificate(tip),
            )
        case BootRefused(request):
            fields = (11, _pack_boot_request(request))
        case BootCertificate(seat, incarnation, boot_id, parts):
            fields = (12, seat, incarnation, boot_id, _pack_parts(parts))
    packed: bytes = msgpack.packb((VERSION, *fields))
    return packed


def decode(data: bytes, sender: int, cluster_id: bytes) -> Message:
    """The message in ``data``; a vote is its sender's by definition. Raises WireError."""
    if len(data) > limits.MESSAGE_BYTES_MAX:
        raise WireError(f"a message of {len(data)} bytes")
    envelope = _unpack(data)
    if type(envelope) is not tuple or len(envelope) < 3:
        raise WireError("no envelope")
    if envelope[0] != VERSION or type(envelope[0]) is not int:
        raise WireError("another version of the protocol")
    kind, fields = envelope[1], envelope[2:]
    match kind:
        case 1:
            incarnation, block, parent, signature = _fields(fields, 4)
            proposal = Proposal(
                _block(block, cluster_id), _optional(parent, _certificate), _blob(signature, 65)
            )
            return ProposalMessage(_uint(incarnation), proposal)
        case 2:
            incarnation, vote = _fields(fields, 2)
            return VoteMessage(_uint(incarnation), _vote(vote, sender))
        case 3:
            (certificates,) = _fields(fields, 1)
            most = limits.NULLIFICATIONS_MAX
            return Certificates(tuple(map(_certificate, _list(certificates, most))))
        case 4:
            (commands,) = _fields(fields, 1)
            for raw in _list(commands, limits.BLOCK_COMMANDS_MAX):
                decode_command(_bytes(raw, limits.COMMAND_BYTES_MAX))
            return Commands(commands)
        case 5:
            (hash_,) = _fields(fields, 1)
            return BlockRequest(_blob(hash_, 32))
        case 6:
            (block,) = _fields(fields, 1)
            return BlockReply(_block(block, cluster_id))
        case 7:
            (from_height,) = _fields(fields, 1)
            return SyncRequest(_uint(from_height))
        case 8:
            blocks, links, finalization = _fields(fields, 3)
            return SyncReply(
                tuple(_block(b, cluster_id) for b in _list(blocks, limits.SYNC_BLOCKS_MAX)),
                tuple(map(_header, _list(links, limits.SYNC_LINKS_MAX))),
                _certificate(finalization),
            )
        case 9:
            (request,) = _fields(fields, 1)
            return _boot_request(request)
        case 10:
            seat, incarnation, boot_id, signature, last, tip = _fields(fields, 6)
            return BootAck(
                _uint(seat),
                _uint(incarnation),
                _blob(boot_id, 32),
                _blob(signature, 65),
                _optional(last, lambda v: _vote(v, _uint(seat))),
                _optional(tip, _certificate),
            )
        case 11:
            (request,) = _fields(fields, 1)
            return BootRefused(_boot_request(request))
        case 12:
            seat, incarnation, boot_id, parts = _fields(fields, 4)
            return BootCertificate(
                _uint(seat), _uint(incarnation), _blob(boot_id, 32), _parts(parts)
            )
    raise WireError("unknown type of message")


# --- single values on disk ---


def encode_block(block: Block) -> bytes:
    """A block for the store."""
    packed: bytes = msgpack.packb(_pack_block(block))
    return packed


def decode_block(data: bytes, cluster_id: bytes) -> Block:
    """Inverse of ``encode_block``; raises WireError."""
    return _block(_unpack(data), cluster_id)


def encode_certificate(certificate: Certificate) -> bytes:
    """A certificate for the store."""
    packed: bytes = msgpack.packb(_pack_certificate(certificate))
    return packed


def decode_certificate(data: bytes) -> Certificate:
    """Inverse of ``encode_certificate``; raises WireError."""
    return _certificate(_unpack(data))


def encode_vote(vote: Vote) -> bytes:
    """A vote for the store; the seat is not in it."""
    packed: bytes = msgpack.packb(_pack_vote(vote))
    return packed


def decode_vote(data: bytes, seat: int) -> Vote:
    """Inverse of ``encode_vote``; raises WireError."""
    return _vote(_unpack(data), seat)


def encode_boot_request(request: BootRequest) -> bytes:
    """A boot request for the store."""
    packed: bytes = msgpack.packb(_pack_boot_request(request))
    return packed


def decode_boot_request(data: bytes) -> BootRequest:
    """Inverse of ``encode_boot_request``; raises WireError."""
    return _boot_request(_unpack(data))
