"""A state directory belongs to one process at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from node.served import StorageError

LOCK_FILE = "lock"


class StateLock:
    """Held until it is released, or the process ends, in whatever way.

    The daemon takes it before it reads anything: not the store alone, the transactions' journal
    too must not have two writers, which would use each nonce twice.

    Args:
        directory: created with mode 0700 when missing.

    Raises:
        StorageError: another process has it.
        OSError: the directory cannot be used.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.release()
            raise StorageError(f"{directory} is in use by another process") from None

    def release(self) -> None:
        """Gives the directory free."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
