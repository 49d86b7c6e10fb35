"""Small state files that survive a crash at any instant: whole old content or whole new content."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attest.bounded_json import parse_json
from attest.durable import load_file, replace_file


def replace_json(path: Path, value: Any, bytes_max: int) -> None:
    """Replaces a JSON file atomically and durably. Blocks: call it in a worker thread.

    Raises:
        ValueError: too long for ``load_json`` with this bound; the file is as before.
        OSError: the disk does not take it.
    """
    content = json.dumps(value, indent=1, sort_keys=True).encode("ascii") + b"\n"
    if len(content) > bytes_max:
        raise ValueError(f"it would be longer than {bytes_max} bytes")
    replace_file(path, content)


def load_json(path: Path, bytes_max: int) -> Any | None:
    """The content of a JSON file, None when there is no file.

    Raises:
        ValueError: too long or not JSON.
        OSError: unreadable.
    """
    raw = load_file(path, bytes_max)
    return None if raw is None else parse_json(raw)
