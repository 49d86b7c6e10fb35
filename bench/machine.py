"""What the figures depend on: processor, kernel, filesystem, the time to reach the disk."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import trio

from .cluster import TICKS_PER_S, BenchError
from .load import percentile

FSYNCS = 100
FSYNC_BYTES = 256
IN_MEMORY = ("tmpfs", "ramfs")
QUIET_SHARE = 0.25  # of all cores; both clusters idle need less
QUIET_LOOK_S = 0.5


def facts(directory: Path) -> dict[str, Any]:
    """The machine, and the filesystem of ``directory``.

    Raises:
        BenchError: the directory lies in memory, so nothing there would be durable.
    """
    filesystem = _filesystem(directory)
    if filesystem in IN_MEMORY:
        raise BenchError(f"{directory} is on {filesystem}: choose a disk with --dir")
    fsyncs_s = _fsyncs(directory)
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "filesystem": filesystem,
        "fdatasync_p50_ms": round(1000 * percentile(fsyncs_s, 50), 3),
        "fdatasync_p99_ms": round(1000 * percentile(fsyncs_s, 99), 3),
        "load_average_before": round(os.getloadavg()[0], 2),
        "commit": _commit(),
    }


async def wait_quiet(deadline_s: float) -> bool:
    """Wait until the machine has little else to do; False when it did not become quiet."""
    with trio.move_on_after(deadline_s):
        while True:
            before = _busy_s()
            await trio.sleep(QUIET_LOOK_S)
            share = (_busy_s() - before) / QUIET_LOOK_S / len(os.sched_getaffinity(0))
            if share < QUIET_SHARE:
                return True
    return False


def _busy_s() -> float:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / TICKS_PER_S


def _fsyncs(directory: Path) -> list[float]:
    path = directory / "fsync-probe"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    times_s = []
    try:
        for _ in range(FSYNCS):
            os.write(descriptor, os.urandom(FSYNC_BYTES))
            begin_s = time.perf_counter()
            os.fdatasync(descriptor)
            times_s.append(time.perf_counter() - begin_s)
    finally:
        os.close(descriptor)
        path.unlink()
    return sorted(times_s)


def _filesystem(directory: Path) -> str:
    """The type of the mount that holds the directory: the longest mount point wins."""
    best, kind = "", "unknown"
    target = f"{directory.resolve()}/"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4].rstrip("/") + "/"
        if target.startswith(point) and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith(("model name", "Model")):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"
