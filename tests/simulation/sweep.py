"""A range of Twins seeds on several cores, in chunks that a stopped campaign resumes with.

The digest of a range is a sum over its seeds: it does not depend on how many processes ran it, in
which chunks, or in which order. A results file is of one state of the sources: another is refused.
"""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import blake2b
from pathlib import Path

from consensus.engine import Engine

from . import rounds
from .rounds import Trial

CHUNK = 2_000
_MODULUS = 1 << 128
_ROOT = Path(__file__).parents[2]
_SOURCES = ("consensus/*.py", "tests/simulation/*.py")


class ResultsError(Exception):
    """A results file that this campaign must not go on with."""


@cache
def code() -> str:
    """Digest of the engine's and the simulator's sources (16 hex digits)."""
    digest = blake2b(digest_size=8)
    for path in sorted(p for pattern in _SOURCES for p in _ROOT.glob(pattern)):
        if not path.name.startswith("test_"):
            digest.update(b"%s %d\n" % (path.name.encode(), path.stat().st_size))
            digest.update(path.read_bytes())
    return digest.hexdigest()


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
    calm_every: int = 1

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
    tally = Tally(first, last, calm_every=calm_every)
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
    total: Tally | None = None
    left = dict.fromkeys(_chunks(first, last, chunk))
    for tally in read(results) if results is not None else ():
        if tally.calm_every != calm_every:
            raise ResultsError(f"{results} was made with --calm-every {tally.calm_every}")
        if (tally.first, tally.last) in left:
            del left[tally.first, tally.last]
            total = _joined(total, tally)
    for tally in _play(list(left), jobs, calm_every):
        if results is not None:
            with results.open("a") as file:
                file.write(json.dumps({**tally.summary(), "code": code()}) + "\n")
        total = _joined(total, tally)
    assert total is not None
    return total


def _play(chunks: list[tuple[int, int]], jobs: int, calm_every: int) -> Iterator[Tally]:
    """The chunks as they are done: one that takes long holds nothing up."""
    if jobs == 1 or len(chunks) < 2:
        for first, last in chunks:
            yield run_range(first, last, calm_every)
        return
    with ProcessPoolExecutor(jobs) as pool:
        running = [pool.submit(run_range, *bounds, calm_every) for bounds in chunks]
        for future in as_completed(running):
            yield future.result()


def _joined(total: Tally | None, tally: Tally) -> Tally:
    if total is None:
        return tally
    total.merge(tally)
    return total


def read(results: Path) -> Iterator[Tally]:
    """The chunks of a results file, if it is there; a last line without its end is cut off.

    Raises ResultsError for lines of other sources.
    """
    if not results.exists():
        return
    text = results.read_text()
    whole = text.rfind("\n") + 1
    if whole < len(text):  # the writer was killed
        os.truncate(results, len(text[:whole].encode()))
    for line in text[:whole].splitlines():
        known = json.loads(line)
        if known.pop("code", None) != code():
            raise ResultsError(f"{results} was made with other sources than these ({code()})")
        known.pop("per_cpu_s")
        known["failures"] = [tuple(failure) for failure in known["failures"]]
        yield Tally(**known)


def report(results: Path) -> str:
    """What a results file holds, as a table in Markdown."""
    chunks = sorted(read(results), key=lambda tally: tally.first)
    if not chunks:
        raise ResultsError(f"{results} holds nothing yet")
    ranges: list[list[int]] = []
    total: Tally | None = None
    above = 0
    for tally in chunks:
        if ranges and tally.first <= ranges[-1][1]:
            continue  # twice
        if ranges and tally.first == ranges[-1][1] + 1:
            ranges[-1][1] = tally.last
        else:
            ranges.append([tally.first, tally.last])
        above += tally.last // 4 - (tally.first - 1) // 4
        total = _joined(total, tally)
    assert total is not None
    failed = [seed for seed, _ in total.failures]
    of_two = [seed for seed in failed if seed % 4 == 0]
    rows = (
        ("seeds", ", ".join(f"{first}..{last}" for first, last in ranges)),
        ("scenarios", f"{total.scenarios:,}"),
        ("steps of the engine", f"{total.steps:,}"),
        ("final blocks", f"{total.blocks:,}"),
        ("below a third", f"{total.scenarios - above:,}, {len(failed) - len(of_two)} failures"),
        ("above a third", f"{above:,}, {total.forks:,} forks, {len(of_two)} failures"),
        ("most terms of calm to a commit", f"{total.terms_max}, asked of 1 in {total.calm_every}"),
        ("processor time", f"{total.cpu_s:,.0f} s, {total.scenarios / total.cpu_s:.0f} a second"),
        ("sources", code()),
        ("digest", total.digest),
        ("failures", "; ".join(f"{s}: {f}" for s, f in sorted(total.failures)) or "none"),
    )
    return "\n".join(("| what | |", "|---|---|", *(f"| {a} | {b} |" for a, b in rows)))
