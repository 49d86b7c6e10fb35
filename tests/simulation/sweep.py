"""A range of Twins seeds on several cores, in chunks that a stopped campaign resumes with.

The digest of a range is a sum over its seeds: it does not depend on how many processes ran it, in
which chunks, or in which order.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from itertools import repeat
from pathlib import Path

from consensus.engine import Engine

from . import rounds
from .rounds import Trial

CHUNK = 2_000
_MODULUS = 1 << 128


@dataclass(slots=True)
class Tally:
    """What came of the seeds ``first``..``last``."""

    first: int
    last: int
    scenarios: int = 0
    steps: int = 0
    blocks: int = 0
    forks: int = 0
    terms_max: int = 0
    cpu_s: float = 0.0
    digest: str = "0" * 32
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, trial: Trial) -> None:
        self.scenarios += 1
        self.steps += trial.steps
        self.blocks += trial.height
        self.forks += trial.forked
        self.terms_max = max(self.terms_max, trial.terms)
        if trial.failure:
            self.failures.append((trial.seed, trial.failure))
        line = f"{trial.seed} {trial.digest} {trial.failure}"
        self._mix(blake2b(line.encode(), digest_size=16).hexdigest())

    def merge(self, other: Tally) -> None:
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        for name in ("scenarios", "steps", "blocks", "forks", "cpu_s"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.terms_max = max(self.terms_max, other.terms_max)
        self.failures += other.failures
        self._mix(other.digest)

    def _mix(self, digest: str) -> None:
        self.digest = f"{(int(self.digest, 16) + int(digest, 16)) % _MODULUS:032x}"

    def summary(self) -> dict[str, object]:
        """For people and for JSON."""
        rate = self.scenarios / self.cpu_s if self.cpu_s else 0.0
        return {**asdict(self), "cpu_s": round(self.cpu_s, 2), "per_cpu_s": round(rate, 1)}


def run_range(
    first: int, last: int, calm_every: int = 1, engine_class: type[Engine] = Engine
) -> Tally:
    """Plays the seeds ``first``..``last`` in this process."""
    tally = Tally(first, last)
    began = time.process_time()
    gc.disable()  # a cluster has few cycles: most of it goes when its last name does
    try:
        for seed in range(first, last + 1):
            tally.add(rounds.run_seed(seed, engine_class, calm_every))
            if seed % 256 == 0:
                gc.collect()
    finally:
        gc.enable()
    tally.cpu_s = time.process_time() - began
    return tally


def _chunks(first: int, last: int, size: int) -> Iterator[tuple[int, int]]:
    for start in range(first, last + 1, size):
        yield start, min(last, start + size - 1)


def run(
    first: int,
    last: int,
    *,
    jobs: int = 1,
    chunk: int = CHUNK,
    calm_every: int = 1,
    results: Path | None = None,
) -> Tally:
    """Plays a range, with a line of JSON per finished chunk in ``results``; skips those in it."""
    wanted = list(_chunks(first, last, chunk))
    total: Tally | None = None
    done: set[tuple[int, int]] = set()
    for tally in _read(results):
        if (tally.first, tally.last) in wanted and (tally.first, tally.last) not in done:
            done.add((tally.first, tally.last))
            total = _joined(total, tally)
    left = [bounds for bounds in wanted if bounds not in done]
    for tally in _play(left, jobs, calm_every):
        if results is not None:
            with results.open("a") as file:
                file.write(json.dumps(tally.summary()) + "\n")
        total = _joined(total, tally)
    assert total is not None
    return total


def _play(chunks: list[tuple[int, int]], jobs: int, calm_every: int) -> Iterator[Tally]:
    if jobs == 1 or len(chunks) < 2:
        for first, last in chunks:
            yield run_range(first, last, calm_every)
        return
    with ProcessPoolExecutor(jobs) as pool:
        yield from pool.map(run_range, *zip(*chunks, strict=True), repeat(calm_every))


def _joined(total: Tally | None, tally: Tally) -> Tally:
    if total is None:
        return tally
    total.merge(tally)
    return total


def _read(results: Path | None) -> Iterable[Tally]:
    if results is None or not results.exists():
        return
    for line in results.read_text().splitlines():
        known = json.loads(line)
        known.pop("per_cpu_s")
        known["failures"] = [tuple(failure) for failure in known["failures"]]
        yield Tally(**known)
