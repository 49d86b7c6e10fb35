"""A target's corpus: one file, one input per line in hex, sorted, so that diffs stay readable."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
INPUT_BYTES_MAX = 4096  # longer ones find nothing more and make the repository heavy
CORPUS_BYTES_MAX = 64 * 1024


def load(name: str) -> list[bytes]:
    """The inputs kept for a target; none when it was never run."""
    file = FOLDER / f"{name}.hex"
    if not file.exists():
        return []
    return [bytes.fromhex(line) for line in file.read_text().splitlines()]


def save(name: str, inputs: Iterable[bytes]) -> int:
    """Keeps the shortest inputs that fit the bound; how many."""
    kept: list[bytes] = []
    room = CORPUS_BYTES_MAX
    for data in sorted(set(inputs), key=lambda d: (len(d), d)):
        if len(data) <= INPUT_BYTES_MAX and len(data) <= room:
            kept.append(data)
            room -= len(data)
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.hex").write_text("".join(f"{data.hex()}\n" for data in sorted(kept)))
    return len(kept)
