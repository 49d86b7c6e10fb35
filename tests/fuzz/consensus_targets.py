"""Fuzz targets of ``consensus``: what peers, the own disk, makers of certificates hand in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import msgpack

from consensus import codec, commands, limits, wire
from consensus.codec import (
    decode_header,
    decode_manifest,
    decode_opening,
    encode_header,
    encode_manifest,
    encode_opening,
)
from consensus.compact import compact_parts, read_compact_parts
from consensus.digests import body_hash
from consensus.errors import WireError
from consensus.items import SUM_MASK, Head, element, state_hash
from consensus.leadership import Leadership, decode_leadership
from consensus.standing import Standing, decode_standing
from consensus.transfer import Importer, items_of
from tests import wire_samples
from tests.wire_samples import CLUSTER, samples, state_items

SEED = 20


def same(one: object, other: object) -> None:
    assert one == other, f"{one!r} became {other!r}"


def message(data: bytes) -> None:
    """Any message of the wire."""
    try:
        decoded = wire.decode(data, 1, CLUSTER)
    except WireError:
        return
    same(wire.decode(wire.encode(decoded), 1, CLUSTER), decoded)


def _messages() -> Iterator[bytes]:
    for _, value in samples(Random(SEED), 4):
        yield wire.encode(value)


def block_body(data: bytes) -> None:
    """A block's body under a header that commits to it: past the hash that stops other inputs."""
    header, body = _block_fields()
    packed = list(header)
    packed[packed.index(body_hash(body))] = body_hash(data)
    message(msgpack.packb((wire.VERSION, 6, (packed, data))))


def _block_fields() -> tuple[tuple[Any, ...], bytes]:
    """Fields of a header, and the body that they commit to."""
    reply = next(v for name, v in samples(Random(SEED), 1) if name == "BlockReply")
    fields = msgpack.unpackb(wire.encode(reply), use_list=False)[2]
    return fields


def _bodies() -> Iterator[bytes]:
    for name, value in samples(Random(SEED), 16):
        if name == "BlockReply":
            yield value.block.body


def command(data: bytes) -> None:
    """A command: the encoding is canonical, so what is accepted re-encodes to the same bytes."""
    try:
        decoded = commands.decode_command(data)
    except WireError:
        return
    same(commands.encode_command(decoded), data)


def _commands() -> Iterator[bytes]:
    for name, value in samples(Random(SEED), 16):
        if name == "Commands":
            yield from value.commands


_STORED: tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...] = (
    (lambda raw: codec.decode_vote(raw, 1), codec.encode_vote),
    (codec.decode_certificate, codec.encode_certificate),
    (lambda raw: codec.decode_block(raw, CLUSTER), codec.encode_block),
    (codec.decode_boot_request, codec.encode_boot_request),
    (lambda raw: decode_opening(raw, CLUSTER), encode_opening),
    (decode_manifest, encode_manifest),
    (decode_header, encode_header),
    (decode_standing, Standing.encode),
)


def stored(data: bytes) -> None:
    """Rows of the store and values of the state: the first byte chooses the kind."""
    if not data:
        return
    decode, encode = _STORED[data[0] % len(_STORED)]
    try:
        decoded = decode(data[1:])
    except ValueError:  # WireError, and what a standing raises
        return
    same(decode(encode(decoded)), decoded)


def _stored() -> Iterator[bytes]:
    for name, value in samples(Random(SEED), 4):
        match name:
            case "VoteMessage":
                yield b"\0" + codec.encode_vote(value.vote)
            case "Certificates" if value.certificates:
                yield b"\1" + codec.encode_certificate(value.certificates[0])
            case "BlockReply":
                yield b"\2" + codec.encode_block(value.block)
                yield b"\6" + encode_header(value.block.header)
            case "BootRequest":
                yield b"\3" + codec.encode_boot_request(value)
            case "EpochReply":
                yield b"\4" + encode_opening(value.openings[0])
            case "SnapshotOffer":
                yield b"\5" + encode_manifest(value.manifest)
    yield b"\7" + Standing(((1, 2), (4, 1)), ((4, 7),)).encode()


def leadership(data: bytes) -> None:
    """The certificate of who leads, and the compact parts that a contract reads."""
    try:
        decoded = decode_leadership(data)
    except WireError:
        pass
    else:
        same(decode_leadership(decoded.encode()), decoded)
    try:
        parts = read_compact_parts(data)
    except WireError:
        return
    same(compact_parts(parts), data)


def _leaderships() -> Iterator[bytes]:
    rng = Random(SEED)
    for _ in range(4):
        header, proof = wire_samples.header(rng), wire_samples.certificate(rng)
        yield Leadership(1, 2, 3, header, proof).encode()
    yield Leadership(0, 1, 3, None, None).encode()
    for seats in (1, 3):
        yield b"".join(bytes((0, 0, 0, seat, 4)) + bytes(64) for seat in range(1, seats + 1))


def snapshot(data: bytes) -> None:
    """Somebody's state: items, each after its length (u16). What is taken comes out the same."""
    items = []
    while len(data) >= 2:
        size = int.from_bytes(data[:2], "big")
        items.append(data[2 : 2 + size])
        data = data[2 + size :]
    importer = Importer()
    try:
        importer.add(items)
        revision = int.from_bytes(items[0][1:], "big")
        total = sum(map(element, items[1:])) & SUM_MASK
        machine = importer.finish(1, 0, state_hash(Head(revision), total))
    except (WireError, IndexError):
        return
    same(list(items_of(machine)), items)
    assert machine.bytes <= limits.STATE_BYTES_MAX


def _snapshots() -> Iterator[bytes]:
    for count in (1, 4, 12):
        items = state_items(Random(SEED), count)
        yield b"".join(len(item).to_bytes(2, "big") + item for item in items)


CONSENSUS_TARGETS: dict[str, tuple[Callable[[bytes], None], Callable[[], Iterator[bytes]]]] = {
    "message": (message, _messages),
    "block-body": (block_body, _bodies),
    "command": (command, _commands),
    "stored": (stored, _stored),
    "leadership": (leadership, _leaderships),
    "snapshot": (snapshot, _snapshots),
}
