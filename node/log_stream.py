"""Where log lines go: a stream that nobody waits for and nobody dies of.

A pipe or socket whose reader stands still (a stuck journald, a supervisor that was stopped) takes
what fits its buffer; the next write would block, and with it the one thread that votes, answers
clients and feeds every link. Such a line is lost instead, as is one that finds no space or no
reader, and the first line that passes again is preceded by how many were.

The descriptor is not made non-blocking: that belongs to all processes that share it, a shell too.
It is asked before each piece instead. A pipe that has room for anything takes ``PIPE_BUF`` bytes
without blocking (pipe(7)); a Unix socket that is writable has three quarters of its buffer free.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TextIO

PIECE_BYTES = select.PIPE_BUF
PATIENCE_MS = 50  # for a reader that is only busy: a burst of lines may fill a pipe
PATIENCE_EVERY_S = 1.0  # and no more often, so that a reader that drips costs no more either


class LogStream:
    """A stream of whole lines, one for each ``write``; for any thread.

    Args:
        out: where they go; one without a descriptor (in memory) is written to as it is.
        lost_line: the line that tells how many were lost, with its end.
    """

    def __init__(self, out: TextIO, lost_line: Callable[[int], str]) -> None:
        self.lost = 0  # lines, since the last that passed
        self._out = out
        self._lost_line = lost_line
        self._lock = threading.Lock()
        self._is_torn = False  # a part of the last line was written
        self._waited_s = -PATIENCE_EVERY_S
        self._fd = -1
        with suppress(OSError, ValueError):  # io.UnsupportedOperation is both
            self._fd = out.fileno()
        self._poll = select.poll()
        if self._fd >= 0:
            self._poll.register(self._fd, select.POLLOUT)

    def write(self, text: str) -> None:
        """Writes a line, or loses it."""
        with self._lock:
            told = not self.lost or self._put(self._lost_line(self.lost))
            if told:
                self.lost = 0
            if not (told and self._put(text)):
                self.lost += 1

    def flush(self) -> None:
        """Nothing is kept here."""

    def _put(self, text: str) -> bool:
        """Whether the whole line was written."""
        if self._fd < 0:
            with suppress(OSError):
                self._out.write(text)
                self._out.flush()
            return True
        data = text.encode("utf-8", "backslashreplace")
        if self._is_torn:
            data = b"\n" + data
        at = 0
        while at < len(data):
            if not self._is_writable():
                break
            try:
                at += os.write(self._fd, data[at : at + PIECE_BYTES])
            except OSError:
                break
        if at:
            self._is_torn = at < len(data)
        return at == len(data)

    def _is_writable(self) -> bool:
        """Whether a piece can be written without waiting; also when writing it would fail."""
        if self._poll.poll(0):
            return True
        now_s = time.monotonic()
        if now_s - self._waited_s < PATIENCE_EVERY_S:
            return False
        is_writable = bool(self._poll.poll(PATIENCE_MS))
        self._waited_s = time.monotonic()
        return is_writable
