"""What a vote rests on, on disk before it is sent: an append-only file and one ``fdatasync``.

Theory of operation. Entries (kind, bytes) gather in memory; ``sync`` writes them as one frame and
waits for the disk. A frame carries its length and a CRC-32 that covers the file's generation and
the frame's number too, so neither a frame torn by a crash nor one left from an earlier use of the
file passes for a new one; reading stops at the first frame that does not pass. A frame is written
only when all before it are on disk, so a whole frame *behind* a bad one means that the disk lost
what it had promised: such a file is refused, not cut.

``rewrite`` puts the entries that are still needed into the first frame of the other of two files,
under the next generation; when that is on disk the old file is free. The file with the highest
generation counts. Files are filled with zeros ahead of the writing: a write within a file's size
needs no second write of metadata. As SQLite does, we rely on writing part of a sector leaving
the rest of it alone.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

NAMES = ("votes-0.log", "votes-1.log")
MAGIC = b"dstack-cluster votes/1\n"
GROWTH_BYTES = 256 * 1024
LATER_FRAMES = 16  # looked for behind a bad one
# Before what is superfluous is left behind: each start reads all, and makes something of each
# entry, of which an idle cluster writes many small ones.
BYTES_MAX = 4 * 1024 * 1024
ENTRIES_MAX = 1024

_FRAME = struct.Struct("<III")  # length, CRC-32, number of the frame in its file
_ENTRY = struct.Struct("<BI")  # kind, length
_HEAD = struct.Struct(f"<{len(MAGIC)}sQ32s")  # first in frame 0: magic, generation, identity

Entry = tuple[int, bytes]


class VoteLogError(Exception):
    """The log cannot be written, or what it holds is not what was written."""


@dataclass(slots=True)
class _Found:
    """A file whose first frame is whole."""

    name: str
    generation: int
    entries: list[Entry]
    frames: int
    end: int
    last: bytes  # frame, whole
    damaged: bool


class VoteLog:
    """The log of one node.

    Args:
        directory: exists, and is locked by the caller.
        identity: 32 bytes; a log of another cluster or seat is refused.
        generation_min: the log is known to have been there in this generation; an older one, or
            none, is refused: votes would be forgotten.

    Raises VoteLogError.
    """

    def __init__(self, directory: Path, identity: bytes, generation_min: int) -> None:
        assert len(identity) == 32
        self._directory = directory
        self._identity = identity
        self._waiting: list[bytes] = []
        self._count = 0  # entries, with those that wait
        self._fd = -1
        self._allocated = 0
        try:
            found = [f for f in map(self._read, NAMES) if f is not None]
            newest = max(found, key=lambda f: f.generation, default=None)
            generation = newest.generation if newest else 0
            if generation < generation_min:
                raise VoteLogError(
                    f"the vote log of generation {generation_min} is missing, "
                    f"the newest one found is {generation}"
                )
            if newest is None:
                self.entries: list[Entry] = []  # what was found, oldest first
                self.rewrite(())
                return
            if newest.damaged:
                raise VoteLogError(f"{newest.name} is damaged behind byte {newest.end}")
            self.entries = newest.entries
            self._count = len(newest.entries)
            self._open(newest.name, newest.generation, newest.frames, newest.end)
            self._write_again(newest)
        except OSError as error:
            raise VoteLogError(f"cannot be used: {error}") from error

    def _write_again(self, found: _Found) -> None:
        """What a killed process may have left in memory only, or what the disk once refused."""
        begin = found.end - len(found.last)
        if os.pwrite(self._fd, found.last, begin) != len(found.last):
            raise OSError("the disk took only a part of a frame")
        os.fdatasync(self._fd)
        self._sync_directory()

    def _open(self, name: str, generation: int, frames: int, end: int) -> None:
        fd = os.open(self._directory / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        self._name = name
        self.generation = generation
        self._frames = frames
        self.size = end  # bytes in use
        self._allocated = os.fstat(fd).st_size

    def close(self) -> None:
        """Closes the file; what was not synced is gone."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # --- writing ---

    def append(self, kind: int, data: bytes) -> None:
        """Adds an entry to the next frame."""
        self._waiting += (_ENTRY.pack(kind, len(data)), data)
        self._count += 1

    def sync(self) -> None:
        """Makes all appended entries durable, or raises VoteLogError: then use it no more."""
        if not self._waiting:
            return
        payload = b"".join(self._waiting)
        self._waiting.clear()
        try:
            self._write(payload)
        except OSError as error:
            raise VoteLogError(f"cannot write: {error}") from error

    def _write(self, payload: bytes) -> None:
        crc = self._crc(self.generation, self._frames, payload)
        frame = _FRAME.pack(len(payload), crc, self._frames) + payload
        end = self.size + len(frame)
        while end > self._allocated:
            os.pwrite(self._fd, bytes(GROWTH_BYTES), self._allocated)
            self._allocated += GROWTH_BYTES
        if os.pwrite(self._fd, frame, self.size) != len(frame):
            raise OSError("the disk took only a part of a frame")
        os.fdatasync(self._fd)
        self.size = end
        self._frames += 1

    def outgrows(self, needed: Collection[Entry]) -> bool:
        """True when most of it is not in ``needed``, and that is much: time for ``rewrite``."""
        needed_bytes = sum(len(data) for _, data in needed)
        is_long = self._count > ENTRIES_MAX + 2 * len(needed)
        return is_long or self.size > BYTES_MAX + 2 * needed_bytes

    def rewrite(self, entries: Collection[Entry]) -> None:
        """Goes on in the other file with these entries only; durable on return.

        Raises VoteLogError.
        """
        assert not self._waiting, "sync first"
        other = NAMES[0] if self._fd < 0 or self._name == NAMES[1] else NAMES[1]
        generation = 1 if self._fd < 0 else self.generation + 1
        pieces = [_HEAD.pack(MAGIC, generation, self._identity)]
        for kind, data in entries:
            pieces += (_ENTRY.pack(kind, len(data)), data)
        try:
            self._open(other, generation, 0, 0)
            self._write(b"".join(pieces))
            self._sync_directory()
            self._count = len(entries)
        except OSError as error:
            raise VoteLogError(f"cannot write: {error}") from error

    def _sync_directory(self) -> None:
        """The file's name, when it is new."""
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @staticmethod
    def _crc(generation: int, number: int, payload: bytes) -> int:
        return zlib.crc32(payload, zlib.crc32(struct.pack("<QI", generation, number)))

    # --- reading ---

    def _read(self, name: str) -> _Found | None:
        """The file's frames; None when there is no file or its first frame is not whole."""
        try:
            data = (self._directory / name).read_bytes()
        except FileNotFoundError:
            return None
        head_end = _FRAME.size + _HEAD.size
        if len(data) < head_end:
            return None
        magic, generation, identity = _HEAD.unpack_from(data, _FRAME.size)
        first = self._frame(data, 0, generation, 0)
        if magic != MAGIC or first is None:
            return None
        if identity != self._identity:
            raise VoteLogError(f"{name} belongs to another node")
        entries = list(_entries(data, head_end, first))
        begin, position, number = 0, first, 1
        while (end := self._frame(data, position, generation, number)) is not None:
            entries += _entries(data, position + _FRAME.size, end)
            begin, position, number = position, end, number + 1
        damaged = self._goes_on(data, position, generation, number)
        last = data[begin:position]
        return _Found(name, generation, entries, number, position, last, damaged)

    def _frame(self, data: bytes, position: int, generation: int, number: int) -> int | None:
        """Where the frame at ``position`` ends, None when it is not whole."""
        begin = position + _FRAME.size
        if begin > len(data):
            return None
        length, crc, own_number = _FRAME.unpack_from(data, position)
        if own_number != number or length == 0 or begin + length > len(data):
            return None
        payload = data[begin : begin + length]
        return begin + length if self._crc(generation, number, payload) == crc else None

    def _goes_on(self, data: bytes, position: int, generation: int, number: int) -> bool:
        """True when a whole later frame lies behind the bad one, or behind several."""
        begin = position + _FRAME.size
        if begin > len(data):
            return False
        length, _, own_number = _FRAME.unpack_from(data, position)
        # What is in the bad frame is no frame, if its head can be believed.
        start = begin + length if own_number == number else position
        number_at = _FRAME.size - 4
        for later in range(number + 1, number + 1 + LATER_FRAMES):
            mark = later.to_bytes(4, "little")
            at = data.find(mark, start + number_at)
            while at >= 0:
                if self._frame(data, at - number_at, generation, later) is not None:
                    return True
                at = data.find(mark, at + 1)
        return False


def _entries(data: bytes, position: int, end: int) -> Iterator[Entry]:
    while position < end:
        kind, length = _ENTRY.unpack_from(data, position)
        position += _ENTRY.size
        yield kind, data[position : position + length]
        position += length
