"""Snapshots on disk (R17): written behind the running node's back, served chunk by chunk.

A file is the items of one state in chunks, each with a length and a CRC-32, then a trailer with
the manifest and the chunks' places, then where the trailer begins. It gets its name only when all
of it is on disk: whatever dies at whatever moment leaves whole files and nameless rests, which the
next start removes. The state comes from a read transaction that was opened at the right height, so
the node goes on meanwhile; the proof comes from the blocks that follow.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import msgpack

from consensus import codec, limits
from consensus.digests import block_hash
from consensus.errors import WireError
from consensus.machine import Machine
from consensus.snapshots import certified_state
from consensus.transfer import Importer
from consensus.types import Manifest

MAGIC = b"dstack-cluster snapshot/1\n"
DIRECTORY = "snapshots"
KEPT = 2  # the newest ones; blocks below the older one are not needed any more

_FRAME = struct.Struct(">II")  # length, CRC-32
_FOOTER = struct.Struct(f">Q{len(MAGIC)}s")  # where the trailer begins, magic again
_BYTES_MAX = limits.SNAPSHOT_CHUNK_BYTES + limits.SNAPSHOT_ITEM_BYTES_MAX + 65_536
_TRAILER_BYTES_MAX = 16 * limits.SNAPSHOT_CHUNKS_MAX + limits.MESSAGE_BYTES_MAX


class SnapshotError(Exception):
    """A file is no snapshot, or not the one it should be."""


@dataclass(slots=True)
class Draft:
    """A state on disk whose proof is still missing."""

    height: int
    path: Path
    places: list[int]


def draft_path(directory: Path, height: int) -> Path:
    """Where a state is until its proof is there."""
    return directory / f".{height}.tmp"


def write_state(directory: Path, height: int, items: Iterable[bytes]) -> Draft:
    """Writes the items of a state in chunks; not durable yet. Raises OSError."""
    directory.mkdir(mode=0o700, exist_ok=True)
    draft = Draft(height, draft_path(directory, height), [])
    with draft.path.open("wb") as file:
        file.write(MAGIC)
        for chunk in _chunks(items):
            draft.places.append(file.tell())
            _write_frame(file, msgpack.packb(chunk))
    return draft


def complete(draft: Draft, manifest: Manifest) -> Path:
    """Adds the proof, makes everything durable, and only then gives the file its name."""
    manifest = replace(manifest, chunks=len(draft.places))
    with draft.path.open("r+b") as file:
        trailer = file.seek(0, os.SEEK_END)
        packed = msgpack.packb((codec.encode_manifest(manifest), draft.places))
        _write_frame(file, packed)
        file.write(_FOOTER.pack(trailer, MAGIC))
        file.flush()
        os.fsync(file.fileno())
    path = draft.path.parent / f"{draft.height}.snapshot"
    draft.path.rename(path)
    sync_directory(path.parent)
    return path


def _write_frame(file: BinaryIO, payload: bytes) -> None:
    file.write(_FRAME.pack(len(payload), zlib.crc32(payload)) + payload)


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _chunks(items: Iterable[bytes]) -> Iterator[list[bytes]]:
    chunk: list[bytes] = []
    size = 0
    for item in items:
        full = len(chunk) == limits.SNAPSHOT_CHUNK_ITEMS
        if chunk and (full or size + len(item) > limits.SNAPSHOT_CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(item)
        size += len(item)
    yield chunk


class SnapshotFile:
    """One complete file.

    Raises SnapshotError when it is none, or damaged; OSError when it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        try:
            self._read_trailer()
        except (WireError, ValueError, TypeError, struct.error, msgpack.UnpackException) as error:
            self.close()
            raise SnapshotError(f"{path} is no snapshot: {error}") from None

    def _read_trailer(self) -> None:
        self._end = end = self._file.seek(0, os.SEEK_END)
        if end < _FOOTER.size:
            raise ValueError("it is too short")
        self._file.seek(end - _FOOTER.size)
        place, magic = _FOOTER.unpack(self._file.read(_FOOTER.size))
        if magic != MAGIC:
            raise ValueError("it does not end as one")
        manifest, places = msgpack.unpackb(self._frame(place, _TRAILER_BYTES_MAX), use_list=False)
        self.manifest = codec.decode_manifest(manifest)
        if not isinstance(places, tuple) or not all(type(place) is int for place in places):
            raise ValueError("places that are no numbers")
        self._places = places
        if len(places) != self.manifest.chunks:
            raise ValueError(f"{len(places)} chunks instead of {self.manifest.chunks}")

    def close(self) -> None:
        self._file.close()

    @property
    def height(self) -> int:
        return self.manifest.header.height

    def chunk(self, number: int) -> tuple[bytes, ...]:
        """The items of a chunk. Raises SnapshotError, also when the disk changed them."""
        try:
            items: tuple[bytes, ...] = msgpack.unpackb(
                self._frame(self._places[number], _BYTES_MAX), use_list=False
            )
            if not isinstance(items, tuple) or not all(isinstance(item, bytes) for item in items):
                raise ValueError("a part that is no list of items")
        except (ValueError, IndexError, TypeError, msgpack.UnpackException) as error:
            raise SnapshotError(f"chunk {number} of {self.path}: {error}") from None
        return items

    def _frame(self, place: int, most: int) -> bytes:
        if not 0 <= place < self._end:
            raise ValueError("a part at an impossible place")
        self._file.seek(place)
        head = self._file.read(_FRAME.size)
        length, crc = _FRAME.unpack(head) if len(head) == _FRAME.size else (most + 1, 0)
        if length > most:
            raise ValueError("a part of impossible length")
        payload = self._file.read(length)
        if len(payload) != length or zlib.crc32(payload) != crc:
            raise ValueError("a part that is not what was written")
        return payload

    def verify(self, cluster_id: bytes) -> Machine:
        """The state, when all of it is what the manifest's headers commit to.

        Who signed the finalization is for the caller to check. Raises SnapshotError.
        """
        state_hash = certified_state(self.manifest, cluster_id)
        if state_hash is None:
            raise SnapshotError(f"{self.path}: its headers prove no state of this cluster")
        importer = Importer()
        try:
            for number in range(self.manifest.chunks):
                importer.add(self.chunk(number))
            return importer.finish(self.height, self.manifest.header.time_ms, state_hash)
        except WireError as error:
            raise SnapshotError(f"{self.path}: {error}") from None

    def block(self, cluster_id: bytes) -> bytes:
        """Hash of the block whose state it is."""
        return block_hash(cluster_id, self.manifest.header)


def listing(directory: Path) -> list[tuple[int, Path]]:
    """Heights and files of the complete snapshots, oldest first."""
    found = [(int(p.stem), p) for p in directory.glob("*.snapshot") if p.stem.isdigit()]
    return sorted(found)


def tidy(directory: Path, kept: int = KEPT) -> list[Path]:
    """Removes what no one needs: rests of a crash, and all but the newest. Raises OSError."""
    files = [path for _, path in listing(directory)]
    gone = files[: max(0, len(files) - kept)]
    for path in gone:
        path.unlink()
    return gone


def tidy_drafts(directory: Path) -> None:
    """Removes what a crash left behind. Raises OSError."""
    for path in directory.glob(".*.tmp"):
        path.unlink()
