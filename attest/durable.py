"""Small files that survive a crash at any instant: whole old content or whole new content."""

from __future__ import annotations

import os
from pathlib import Path


def replace_file(path: Path, content: bytes) -> None:
    """Replaces a file atomically and durably. Blocks: call it in a worker thread.

    The temporary file is synced before the rename and the directory after it; otherwise a power cut
    could leave an empty file under the final name (POSIX says nothing about that order).
    """
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def load_file(path: Path, bytes_max: int) -> bytes | None:
    """The content of a file, None when there is none.

    Raises:
        ValueError: too long.
        OSError: unreadable.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(bytes_max + 1)
    except FileNotFoundError:
        return None
    if len(raw) > bytes_max:
        raise ValueError(f"longer than {bytes_max} bytes")
    return raw
