"""The real daemon, on links that somebody else may cut and a disk that fails on demand.

Run as ``dstack-cluster run``, from the folder of its node. ``NEMESIS_RELAYS`` (JSON: port to port)
says where its dials go instead. The file ``disk-fault`` in that folder holds what happens to the
vote log next, and is removed when it has happened: ``eio`` (a sync fails; the next would not, as on
Linux), ``full`` (no space), ``short`` (only a part is written), ``slow`` (syncs take long, as long
as the file is there). The file ``clock`` holds by how many milliseconds the clock of the consensus
is wrong. ``NEMESIS_LOG_ENTRIES`` takes the place of ``votelog.ENTRIES_MAX``. SIGUSR2 writes the
number of living tasks to the file ``tasks``.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio

from node import cli, driver, votelog
from node.network import dialler

FAULT_FILE = Path("disk-fault")
CLOCK_FILE = Path("clock")
TASKS_FILE = Path("tasks")
SLOW_SYNC_S = 0.3


def redirect_dials() -> None:
    """Dials go to the relays of this node."""
    relays = {int(k): v for k, v in json.loads(os.environ.get("NEMESIS_RELAYS", "{}")).items()}

    async def open_tcp_stream(host: str, port: int) -> trio.SocketStream:
        return await trio.open_tcp_stream(host, relays.get(port, port))

    wrapped = SimpleNamespace(**vars(trio))
    wrapped.open_tcp_stream = open_tcp_stream
    dialler.trio = wrapped  # type: ignore[attr-defined]


def fail_on_demand() -> None:
    """The vote log's system calls look into the fault file."""
    wrapped = SimpleNamespace(**vars(os))

    def fault() -> str:
        try:
            return FAULT_FILE.read_text()
        except FileNotFoundError:
            return ""

    def fdatasync(fd: int) -> None:
        match fault():
            case "eio":
                FAULT_FILE.unlink()
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            case "slow":
                time.sleep(SLOW_SYNC_S)
        os.fdatasync(fd)

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        match fault():
            case "full":
                FAULT_FILE.unlink()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            case "short":
                FAULT_FILE.unlink()
                return os.pwrite(fd, data[: len(data) // 2], offset)
        return os.pwrite(fd, data, offset)

    votelog.ENTRIES_MAX = int(os.environ.get("NEMESIS_LOG_ENTRIES", votelog.ENTRIES_MAX))
    wrapped.fdatasync, wrapped.pwrite = fdatasync, pwrite
    votelog.os = wrapped  # type: ignore[attr-defined]


def be_wrong_about_the_time() -> None:
    """The core is told the time by a clock that somebody may set."""
    wrapped = SimpleNamespace(**vars(time))

    def time_ns() -> int:
        try:
            return time.time_ns() + int(CLOCK_FILE.read_text()) * 1_000_000
        except (FileNotFoundError, ValueError):
            return time.time_ns()

    wrapped.time_ns = time_ns
    driver.time = wrapped  # type: ignore[attr-defined]


class TaskCount(trio.abc.Instrument):
    """How many tasks live."""

    def __init__(self) -> None:
        self.count = 0

    def task_spawned(self, task: Any) -> None:
        self.count += 1

    def task_exited(self, task: Any) -> None:
        self.count -= 1

    def before_run(self) -> None:
        signal.signal(signal.SIGUSR2, lambda *_: TASKS_FILE.write_text(str(self.count)))


def count_tasks() -> None:
    """In every trio run of this process."""
    run = trio.run

    def counted(*arguments: Any, **options: Any) -> Any:
        return run(*arguments, instruments=[TaskCount()], **options)

    trio.run = counted


if __name__ == "__main__":
    redirect_dials()
    fail_on_demand()
    be_wrong_about_the_time()
    count_tasks()
    sys.exit(cli.main())
