"""Values as bytes: votes, certificates, headers, blocks; in messages and on disk.

Decoding validates everything that does not need a validator set and raises ``WireError`` for
anything else; it never allocates more than the input's size suggests. ``wire`` puts the values
into messages.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, TypeVar

import msgpack

from . import limits
from .digests import block_hash, body_hash
from .errors import WireError
from .types import (
    ZERO_HASH,
    Block,
    BootRequest,
    Boundary,
    Certificate,
    Evidence,
    FinalHeader,
    Header,
    Manifest,
    NextEpoch,
    Opening,
    Part,
    Reason,
    Recovery,
    View,
    Vote,
    VoteKind,
)
from .validators import Validator, ValidatorSet

T = TypeVar("T")
_REASON_MAX = int(max(Reason))  # the contract takes no certificate with another one either


# --- field checks: each gives the value, or raises WireError ---


def uint(value: Any, most: int = limits.U64_MAX) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise WireError(f"expected an integer 0..{most}")
    return value


def blob(value: Any, size: int) -> bytes:
    if type(value) is not bytes or len(value) != size:
        raise WireError(f"expected {size} bytes")
    return value


def short_bytes(value: Any, most: int) -> bytes:
    if type(value) is not bytes or len(value) > most:
        raise WireError(f"expected at most {most} bytes")
    return value


def array(value: Any, most: int) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) > most:
        raise WireError(f"expected an array of at most {most}")
    return value


def record(value: Any, count: int) -> tuple[Any, ...]:
    if type(value) is not tuple or len(value) != count:
        raise WireError(f"expected an array of {count} fields")
    return value


# --- the values: pack gives what msgpack takes; read is its inverse, and raises WireError ---


def pack_parts(parts: tuple[Part, ...]) -> list[tuple[int, int, bytes]]:
    return [(part.seat, part.reason, part.signature) for part in parts]


def read_parts(value: Any) -> tuple[Part, ...]:
    parts = []
    for item in array(value, limits.MEMBERS_MAX):
        seat, reason, signature = record(item, 3)
        parts.append(Part(uint(seat), uint(reason, _REASON_MAX), blob(signature, 65)))
    if any(a.seat >= b.seat for a, b in itertools.pairwise(parts)):
        raise WireError("the parts of a certificate are not sorted by seat")
    return tuple(parts)


def pack_certificate(certificate: Certificate | None) -> Any:
    if certificate is None:
        return None
    c = certificate
    block = b"" if c.kind is VoteKind.NULLIFY else c.block
    return (int(c.kind), c.epoch, c.view.term, c.view.index, block, pack_parts(c.parts))


def read_certificate(value: Any) -> Certificate:
    kind_, epoch, term, index, block, parts = record(value, 6)
    kind = VoteKind(uint(kind_, 3) or _bad("kind of certificate"))
    if kind is VoteKind.NULLIFY:
        blob(block, 0)
        block = ZERO_HASH
    view = View(uint(term), uint(index))
    return Certificate(kind, uint(epoch), view, blob(block, 32), read_parts(parts))


def _bad(what: str) -> int:
    raise WireError(f"unknown {what}")


def optional(value: Any, decode: Callable[[Any], T]) -> T | None:
    return None if value is None else decode(value)


def pack_vote(vote: Vote | None) -> Any:
    if vote is None:
        return None
    v = vote
    block = b"" if v.kind is VoteKind.NULLIFY else v.block
    return (int(v.kind), v.epoch, v.view.term, v.view.index, block, v.reason, v.signature)


def read_vote(value: Any, seat: int) -> Vote:
    kind_, epoch, term, index, block, reason, signature = record(value, 7)
    kind = VoteKind(uint(kind_, 3) or _bad("kind of vote"))
    if kind is VoteKind.NULLIFY:
        blob(block, 0)
        block = ZERO_HASH
    most = _REASON_MAX if kind is VoteKind.NULLIFY else 0
    view = View(uint(term), uint(index))
    return Vote(
        kind, uint(epoch), view, seat, blob(block, 32), uint(reason, most), blob(signature, 65)
    )


def pack_header(h: Header) -> tuple[Any, ...]:
    return (
        h.epoch,
        h.view.term,
        h.view.index,
        h.proposer,
        h.height,
        h.parent,
        h.time_ms,
        h.body_hash,
        h.state_height,
        h.state_hash,
    )


def read_header(value: Any) -> Header:
    epoch, term, index, proposer, height, parent, time_ms, body, state_height, state = record(
        value, 10
    )
    return Header(
        uint(epoch),
        View(uint(term), uint(index)),
        uint(proposer),
        uint(height),
        blob(parent, 32),
        uint(time_ms),
        blob(body, 32),
        uint(state_height),
        blob(state, 32),
    )


def pack_manifest(m: Manifest) -> Any:
    return (
        pack_header(m.header),
        [pack_header(h) for h in m.links],
        pack_certificate(m.finalization),
        m.chunks,
    )


def read_manifest(value: Any) -> Manifest:
    header, links, finalization, chunks = record(value, 4)
    return Manifest(
        read_header(header),
        tuple(map(read_header, array(links, limits.SYNC_LINKS_MAX))),
        read_certificate(finalization),
        uint(chunks, limits.SNAPSHOT_CHUNKS_MAX),
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """A manifest for a snapshot's file."""
    packed: bytes = msgpack.packb(pack_manifest(manifest))
    return packed


def decode_manifest(data: bytes) -> Manifest:
    """Inverse of ``encode_manifest``; raises WireError."""
    return read_manifest(unpack(data))


def encode_header(header: Header) -> bytes:
    """A header for the store."""
    packed: bytes = msgpack.packb(pack_header(header))
    return packed


def decode_header(data: bytes) -> Header:
    """Inverse of ``encode_header``; raises WireError."""
    return read_header(unpack(data))


def pack_final_header(f: FinalHeader) -> Any:
    return (pack_header(f.header), pack_certificate(f.finalization))


def read_final_header(value: Any) -> FinalHeader:
    header, finalization = record(value, 2)
    return FinalHeader(read_header(header), read_certificate(finalization))


def pack_evidence(evidence: Evidence) -> Any:
    """Seat and two votes."""
    return (evidence.first.seat, pack_vote(evidence.first), pack_vote(evidence.second))


def read_evidence(value: Any) -> Evidence:
    """Inverse of ``pack_evidence``; whether the pair convicts is for the caller to judge."""
    seat, first, second = record(value, 3)
    return Evidence(read_vote(first, uint(seat)), read_vote(second, uint(seat)))


def pack_next_epoch(n: NextEpoch | None) -> Any:
    """The record of a boundary block."""
    if n is None:
        return None
    members = _pack_validators(n.validators)
    return (n.epoch, n.chain_block, n.chain_hash, n.digest, n.seed, members)


def _pack_validators(validators: tuple[Validator, ...]) -> Any:
    return [(v.seat, v.weight, v.node_key) for v in validators]


def _validators(value: Any) -> tuple[Validator, ...]:
    """A possible set, sorted by seat."""
    validators = []
    for item in array(value, limits.MEMBERS_MAX):
        seat, weight, node_key = record(item, 3)
        validators.append(Validator(uint(seat), uint(weight), blob(node_key, 33)))
    if any(a.seat >= b.seat for a, b in itertools.pairwise(validators)):
        raise WireError("the members of an epoch are not sorted by seat")
    try:
        ValidatorSet(0, tuple(validators), ZERO_HASH)
    except ValueError as error:
        raise WireError(str(error)) from None
    return tuple(validators)


def read_next_epoch(value: Any) -> NextEpoch:
    """Inverse of ``pack_next_epoch``; the set in it is a possible one, sorted by seat."""
    epoch, chain_block, chain_hash, digest, seed, members = record(value, 6)
    return NextEpoch(
        uint(epoch),
        uint(chain_block),
        blob(chain_hash, 32),
        blob(digest, 32),
        blob(seed, 32),
        _validators(members),
    )


def pack_body(
    commands: tuple[bytes, ...],
    nullifications: tuple[Certificate, ...],
    evidence: tuple[Evidence, ...] = (),
    next_epoch: NextEpoch | None = None,
) -> bytes:
    """The encoding that a header's ``body_hash`` covers."""
    shown = [pack_certificate(c) for c in nullifications]
    proof = [pack_evidence(e) for e in evidence]
    packed: bytes = msgpack.packb((commands, shown, proof, pack_next_epoch(next_epoch)))
    return packed


def pack_block(block: Block) -> tuple[Any, ...]:
    """Header and body."""
    return (pack_header(block.header), block.body)


def read_block(value: Any, cluster_id: bytes) -> Block:
    """Inverse of ``pack_block``; the body is the one that the header covers."""
    header_, body = record(value, 2)
    header = read_header(header_)
    short_bytes(body, limits.MESSAGE_BYTES_MAX)
    if body_hash(body) != header.body_hash:
        raise WireError("a block's body does not match its header")
    commands_, nullifications_, evidence_, next_epoch = record(unpack(body), 4)
    commands = array(commands_, limits.BLOCK_COMMANDS_MAX)
    for raw in commands:
        if type(raw) is not bytes:
            raise WireError("a command that is not bytes")
    if sum(map(len, commands)) > limits.BLOCK_BYTES_MAX:
        raise WireError(f"more than {limits.BLOCK_BYTES_MAX} bytes of commands in a block")
    block = Block(
        header,
        block_hash(cluster_id, header),
        body,
        commands,
        tuple(map(read_certificate, array(nullifications_, limits.NULLIFICATIONS_PER_BLOCK_MAX))),
        tuple(map(read_evidence, array(evidence_, limits.EVIDENCE_PER_BLOCK_MAX))),
        optional(next_epoch, read_next_epoch),
    )
    _ = block.decoded  # kept there for the machine
    return block


def make_block(
    cluster_id: bytes,
    *,
    epoch: int,
    view: View,
    proposer: int,
    height: int,
    parent: bytes,
    time_ms: int,
    state_height: int,
    state_hash: bytes,
    commands: tuple[bytes, ...],
    nullifications: tuple[Certificate, ...],
    evidence: tuple[Evidence, ...] = (),
    next_epoch: NextEpoch | None = None,
) -> Block:
    """Builds a block with its body and hashes."""
    body = pack_body(commands, nullifications, evidence, next_epoch)
    digest = body_hash(body)
    header = Header(
        epoch, view, proposer, height, parent, time_ms, digest, state_height, state_hash
    )
    hash_ = block_hash(cluster_id, header)
    return Block(header, hash_, body, commands, nullifications, evidence, next_epoch)


def pack_opening(opening: Opening) -> Any:
    """How an epoch was opened: six fields for a recovery, three for a boundary."""
    if isinstance(opening, Recovery):
        r = opening
        members = _pack_validators(r.validators)
        return (r.epoch, r.height, r.block_hash, members, r.seed, r.chain_block)
    b = opening
    links = [pack_header(h) for h in b.links]
    return (pack_block(b.block), pack_certificate(b.finalization), links)


def read_opening(value: Any, cluster_id: bytes) -> Opening:
    """Inverse of ``pack_opening``; what it proves is for the caller to check."""
    if type(value) is tuple and len(value) == 6:
        epoch, height, hash_, members, seed, chain_block = value
        return Recovery(
            uint(epoch),
            uint(height),
            blob(hash_, 32),
            _validators(members),
            blob(seed, 32),
            uint(chain_block),
        )
    block_, finalization, links = record(value, 3)
    block = read_block(block_, cluster_id)
    if block.next_epoch is None:
        raise WireError("a boundary without the record of an epoch")
    headers = tuple(map(read_header, array(links, limits.SYNC_LINKS_MAX)))
    return Boundary(block, read_certificate(finalization), headers)


def pack_boot_request(r: BootRequest) -> tuple[Any, ...]:
    return (r.seat, r.incarnation, r.boot_id, r.signature)


def read_boot_request(value: tuple[Any, ...]) -> BootRequest:
    seat, incarnation, boot_id, signature = record(value, 4)
    return BootRequest(uint(seat), uint(incarnation), blob(boot_id, 32), blob(signature, 65))


def unpack(data: bytes) -> Any:
    """Msgpack's arrays, integers, byte strings and None, bounded; raises WireError."""
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


# --- single values on disk ---


def encode_block(block: Block) -> bytes:
    """A block for the store."""
    packed: bytes = msgpack.packb(pack_block(block))
    return packed


def decode_block(data: bytes, cluster_id: bytes) -> Block:
    """Inverse of ``encode_block``; raises WireError."""
    return read_block(unpack(data), cluster_id)


def encode_certificate(certificate: Certificate) -> bytes:
    """A certificate for the store."""
    packed: bytes = msgpack.packb(pack_certificate(certificate))
    return packed


def decode_certificate(data: bytes) -> Certificate:
    """Inverse of ``encode_certificate``; raises WireError."""
    return read_certificate(unpack(data))


def encode_vote(vote: Vote) -> bytes:
    """A vote for the store; the seat is not in it."""
    packed: bytes = msgpack.packb(pack_vote(vote))
    return packed


def decode_vote(data: bytes, seat: int) -> Vote:
    """Inverse of ``encode_vote``; raises WireError."""
    return read_vote(unpack(data), seat)


def encode_boot_request(request: BootRequest) -> bytes:
    """A boot request for the store."""
    packed: bytes = msgpack.packb(pack_boot_request(request))
    return packed


def encode_opening(opening: Opening) -> bytes:
    """How an epoch was opened, for the store."""
    packed: bytes = msgpack.packb(pack_opening(opening))
    return packed


def decode_opening(data: bytes, cluster_id: bytes) -> Opening:
    """Inverse of ``encode_opening``; raises WireError."""
    return read_opening(unpack(data), cluster_id)


def decode_boot_request(data: bytes) -> BootRequest:
    """Inverse of ``encode_boot_request``; raises WireError."""
    return read_boot_request(unpack(data))
