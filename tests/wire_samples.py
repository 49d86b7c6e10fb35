"""Random but valid values of every wire type, a pure function of the random source given.

For conformance hashes and as first inputs of the fuzzers. A message type without a line in
``MAKERS`` fails ``test_conformance``.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

from consensus import codec, limits, wire
from consensus.commands import (
    Action,
    Barrier,
    Command,
    Compare,
    Delete,
    Grant,
    KeepAlive,
    Put,
    Range,
    Relation,
    Revoke,
    Target,
    Txn,
    encode_command,
)
from consensus.machine import Machine
from consensus.transfer import items_of
from consensus.types import (
    ZERO_HASH,
    Block,
    BootAck,
    BootCertificate,
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
    Proposal,
    Reason,
    Recovery,
    View,
    Vote,
    VoteKind,
)
from consensus.validators import Validator

CLUSTER = bytes(range(32))


def number(rng: Random) -> int:
    """Small, middling and extreme ones, so that every width of an integer is met."""
    return rng.choice((0, 1, rng.randrange(128), rng.randrange(1 << 16), rng.randrange(1 << 64)))


def view(rng: Random) -> View:
    return View(number(rng), number(rng))


def vote(rng: Random, seat: int | None = None) -> Vote:
    kind = rng.choice(tuple(VoteKind))
    nullify = kind is VoteKind.NULLIFY
    return Vote(
        kind,
        number(rng),
        view(rng),
        number(rng) if seat is None else seat,
        ZERO_HASH if nullify else rng.randbytes(32),
        rng.choice(tuple(Reason)) if nullify else 0,
        rng.randbytes(65),
    )


def parts(rng: Random, reasons: bool = False) -> tuple[Part, ...]:
    seats = sorted({number(rng) for _ in range(rng.randrange(5))})
    return tuple(
        Part(seat, rng.choice(tuple(Reason)) if reasons else 0, rng.randbytes(65))
        for seat in seats
    )


def certificate(rng: Random) -> Certificate:
    kind = rng.choice(tuple(VoteKind))
    nullify = kind is VoteKind.NULLIFY
    block = ZERO_HASH if nullify else rng.randbytes(32)
    return Certificate(kind, number(rng), view(rng), block, parts(rng, nullify))


def command(rng: Random) -> bytes:
    sequence = min(number(rng), limits.I64_MAX)
    return encode_command(Command(rng.randbytes(16), sequence, _action(rng)))


def _action(rng: Random) -> Action:
    lease = rng.randrange(1, limits.I64_MAX)
    ttl_ms = rng.randrange(limits.LEASE_TTL_MS_MIN, 10**9)
    return rng.choice(
        (
            *2 * (_put(rng),),
            _delete(rng),
            Barrier(),
            _txn(rng),
            Grant(lease, ttl_ms),
            KeepAlive(lease),
            Revoke(lease),
        )
    )


def _key(rng: Random) -> bytes:
    return rng.randbytes(rng.randint(1, 20))


def _put(rng: Random) -> Put:
    return Put(_key(rng), rng.randbytes(rng.randrange(40)), rng.choice((0, rng.getrandbits(62))))


def _delete(rng: Random) -> Delete:
    return Delete(_key(rng), rng.choice((b"", b"\0", _key(rng))))


def _txn(rng: Random) -> Txn:
    numbers = (Target.VERSION, Target.CREATE, Target.MOD, Target.LEASE)
    compare = (
        Compare(_key(rng), Target.VALUE, rng.choice(tuple(Relation)), rng.randbytes(5)),
        Compare(_key(rng), rng.choice(numbers), rng.choice(tuple(Relation)), number(rng)),
    )
    read = Range(_key(rng), b"\0", rng.randrange(limits.RANGE_KEYS_MAX))
    branch = rng.choice(((), (_put(rng),), (_delete(rng), read)))
    return Txn(compare[: rng.randrange(3)], branch, (read,) * rng.randrange(3))


def commands(rng: Random) -> tuple[bytes, ...]:
    return tuple(command(rng) for _ in range(rng.randrange(4)))


def evidence(rng: Random) -> Evidence:
    seat = number(rng)
    return Evidence(vote(rng, seat), vote(rng, seat))


def next_epoch(rng: Random) -> NextEpoch:
    seats = rng.sample(range(1000), rng.randint(1, 5))
    members = tuple(
        Validator(seat, rng.randint(1, 2**32 - 1), b"\2" + rng.randbytes(32))
        for seat in sorted(seats)
    )
    hashes = (rng.randbytes(32) for _ in range(3))
    return NextEpoch(number(rng), number(rng), *hashes, members)


def block(rng: Random) -> Block:
    return codec.make_block(
        CLUSTER,
        epoch=number(rng),
        view=view(rng),
        proposer=number(rng),
        height=number(rng),
        parent=rng.randbytes(32),
        time_ms=number(rng),
        state_height=number(rng),
        state_hash=rng.randbytes(32),
        commands=commands(rng),
        nullifications=tuple(certificate(rng) for _ in range(rng.randrange(3))),
        evidence=tuple(evidence(rng) for _ in range(rng.randrange(2))),
        next_epoch=next_epoch(rng) if rng.random() < 0.3 else None,
    )


def opening(rng: Random) -> Opening:
    record = next_epoch(rng)
    if rng.random() < 0.3:
        members = record.validators
        hash_, seed = rng.randbytes(32), rng.randbytes(32)
        return Recovery(number(rng), number(rng), hash_, members, seed, number(rng))
    ended = codec.make_block(
        CLUSTER,
        epoch=number(rng),
        view=view(rng),
        proposer=number(rng),
        height=number(rng),
        parent=rng.randbytes(32),
        time_ms=number(rng),
        state_height=number(rng),
        state_hash=rng.randbytes(32),
        commands=(),
        nullifications=(),
        next_epoch=record,
    )
    links = tuple(header(rng) for _ in range(rng.randrange(3)))
    return Boundary(ended, certificate(rng), links)


def header(rng: Random) -> Header:
    return block(rng).header


def boot_request(rng: Random) -> BootRequest:
    return BootRequest(number(rng), number(rng), rng.randbytes(32), rng.randbytes(65))


def boot_ack(rng: Random) -> BootAck:
    seat = number(rng)
    last = vote(rng, seat) if rng.random() < 0.5 else None
    tip = certificate(rng) if rng.random() < 0.5 else None
    boot_id, signature = rng.randbytes(32), rng.randbytes(65)
    return BootAck(seat, number(rng), boot_id, signature, number(rng), last, tip)


def proposal(rng: Random) -> Proposal:
    parent = certificate(rng) if rng.random() < 0.7 else None
    return Proposal(block(rng), parent, rng.randbytes(65))


def sync_reply(rng: Random) -> wire.SyncReply:
    blocks = tuple(block(rng) for _ in range(rng.randrange(3)))
    links = tuple(header(rng) for _ in range(rng.randrange(3)))
    head = FinalHeader(header(rng), certificate(rng)) if rng.random() < 0.5 else None
    return wire.SyncReply(blocks, links, certificate(rng), head)


def manifest(rng: Random) -> Manifest:
    links = tuple(header(rng) for _ in range(rng.randrange(4)))
    chunks = rng.randrange(limits.SNAPSHOT_CHUNKS_MAX)
    return Manifest(header(rng), links, certificate(rng), chunks)


def snapshot_chunk(rng: Random) -> wire.SnapshotChunk:
    items = tuple(rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(4)))
    return wire.SnapshotChunk(number(rng), rng.randrange(limits.SNAPSHOT_CHUNKS_MAX), items)


def state_items(rng: Random, count: int) -> list[bytes]:
    """The items of a state in which so many commands ran."""
    machine = Machine()
    ran = tuple(command(rng) for _ in range(count))
    machine.apply(replace(block(rng), header=replace(header(rng), height=1), commands=ran))
    return list(items_of(machine))


SENDER = 1  # of the vote in a ``VoteMessage``, which does not carry it

MAKERS: dict[type, Callable[[Random], wire.Message]] = {
    wire.ProposalMessage: lambda r: wire.ProposalMessage(number(r), proposal(r)),
    wire.VoteMessage: lambda r: wire.VoteMessage(number(r), vote(r, SENDER)),
    wire.Certificates: lambda r: wire.Certificates(
        tuple(certificate(r) for _ in range(r.randrange(4)))
    ),
    wire.Commands: lambda r: wire.Commands(commands(r)),
    wire.BlockRequest: lambda r: wire.BlockRequest(r.randbytes(32)),
    wire.BlockReply: lambda r: wire.BlockReply(block(r)),
    wire.SyncRequest: lambda r: wire.SyncRequest(number(r), r.randint(1, 512)),
    wire.SyncReply: sync_reply,
    BootRequest: boot_request,
    BootAck: boot_ack,
    wire.BootRefused: lambda r: wire.BootRefused(boot_request(r)),
    BootCertificate: lambda r: BootCertificate(number(r), number(r), r.randbytes(32), parts(r)),
    wire.EvidenceMessage: lambda r: wire.EvidenceMessage(
        tuple(evidence(r) for _ in range(r.randint(1, 2)))
    ),
    wire.EpochRequest: lambda r: wire.EpochRequest(number(r)),
    wire.EpochReply: lambda r: wire.EpochReply(tuple(opening(r) for _ in range(r.randint(1, 2)))),
    wire.Probe: lambda r: wire.Probe(r.randbytes(16)),
    wire.ProbeReply: lambda r: wire.ProbeReply(
        r.randbytes(16), number(r), number(r), view(r), *(number(r) for _ in range(3)),
        r.randbytes(65),
    ),
    wire.SnapshotRequest: lambda r: wire.SnapshotRequest(
        number(r), r.randrange(limits.SNAPSHOT_CHUNKS_MAX)
    ),
    wire.SnapshotOffer: lambda r: wire.SnapshotOffer(manifest(r)),
    wire.SnapshotChunk: snapshot_chunk,
    wire.Reminder: lambda r: wire.Reminder(command(r)),
}


def message_types() -> tuple[type, ...]:
    """All types of ``wire.Message``, in the order of their declaration."""
    return typing.get_args(wire.Message)


def samples(rng: Random, count: int) -> Iterator[tuple[str, wire.Message]]:
    """``count`` messages of every type, with the type's name."""
    for kind in message_types():
        for _ in range(count):
            yield kind.__name__, MAKERS[kind](rng)
