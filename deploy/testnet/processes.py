"""Processes that outlive the command that started them: spawn, identify, signal, wait.

A process is named by (pid, start time), never by the pid alone: pids are used again. Signals go
through a pidfd that is opened before the identity is checked, so the check cannot become stale.
Every process also carries the testnet's mark in its environment; ``marked`` finds those that no
record names, for example because the recording command was killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import trio

from .layout import ProcessRecord, TestnetError

MARK_VARIABLE = "DSTACK_TESTNET_MARK"
POLL_S = 0.02
KILL_GRACE_S = 10.0

# Children of this very process must be reaped, or they stay as zombies.
_children: dict[int, subprocess.Popen[bytes]] = {}


def spawn(
    argv: Sequence[str], *, log: Path, mark: str, cwd: Path, environment: Mapping[str, str] = {}
) -> ProcessRecord:
    """Start ``argv`` in a session of its own, with output appended to ``log``.

    It gets no signal of our terminal. Raises TestnetError when it cannot be started.
    """
    env = os.environ | {
        "PYTHONUNBUFFERED": "1",
        "PYTHONSAFEPATH": "1",  # the testnet's folders must not become importable packages
        MARK_VARIABLE: mark,
        **environment,
    }
    with log.open("ab", buffering=0) as output:
        output.write(f"--- {time.strftime('%H:%M:%S')} {Path(argv[0]).name} starts\n".encode())
        try:
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                start_new_session=True,
            )
        except OSError as error:
            raise TestnetError(f"cannot start {argv[0]}: {error.strerror}") from None
    _children[child.pid] = child
    # The child is unreaped, so its /proc entry exists even if it died at once.
    ticks = start_ticks(child.pid)
    assert ticks is not None, "an unreaped child has a /proc entry"
    record = ProcessRecord(child.pid, ticks)
    # While exec is under way the kernel shows an empty environment, in which nobody finds the mark.
    while not _environment(record.pid) and is_alive(record):
        time.sleep(0.001)
    return record


def python(module: str, *arguments: str) -> list[str]:
    """The command line that runs a module under this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def start_ticks(pid: int) -> int | None:
    """Start time of that pid in clock ticks since boot, None when there is no such process."""
    fields = _stat(pid)
    return None if fields is None else int(fields[19])


def run_state(record: ProcessRecord) -> str | None:
    """One letter of proc(5): R, S, D, T ...; None when that process is gone (zombies are gone)."""
    fields = _stat(record.pid)
    if fields is None or int(fields[19]) != record.start_ticks:
        _reap()
        return None
    if fields[0] in ("Z", "X"):
        _reap()
        return None
    return fields[0]


def is_alive(record: ProcessRecord | None) -> bool:
    """Whether exactly that process still runs (or is stopped)."""
    return record is not None and run_state(record) is not None


def is_paused(record: ProcessRecord) -> bool:
    """Whether it is stopped by SIGSTOP."""
    return run_state(record) == "T"


def send(record: ProcessRecord, number: int) -> bool:
    """Send a signal to exactly that process; False when it is gone."""
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return False
    try:
        if not is_alive(record):
            return False
        signal.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


async def wait_gone(record: ProcessRecord, deadline_s: float) -> bool:
    """Wait for the end of that process, without polling; False when the deadline passed."""
    try:
        descriptor = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return True
    try:
        if not is_alive(record):
            return True
        with trio.move_on_after(deadline_s):
            await trio.lowlevel.wait_readable(descriptor)
        return not is_alive(record)
    finally:
        os.close(descriptor)


async def wait_paused(record: ProcessRecord, paused: bool, deadline_s: float) -> bool:
    """Wait until the process is (or is no longer) stopped; the kernel has no event for it."""
    with trio.move_on_after(deadline_s):
        while is_alive(record):
            if is_paused(record) is paused:
                return True
            await trio.sleep(POLL_S)
    return False


async def stop(records: Iterable[ProcessRecord], grace_s: float = KILL_GRACE_S) -> None:
    """End all of them: SIGTERM, then SIGKILL after the grace or when cancelled.

    Returns when they are gone; whether the kernel really removed them is for the caller to verify.
    """
    pending = [record for record in records if send(record, signal.SIGTERM)]
    for record in pending:
        send(record, signal.SIGCONT)  # a paused process acts on SIGTERM only when it runs
    try:
        await _all_gone(pending, grace_s)
    finally:
        for record in pending:
            send(record, signal.SIGKILL)
        with trio.CancelScope(shield=True):
            await _all_gone(pending, KILL_GRACE_S)


def marked(mark: str) -> list[ProcessRecord]:
    """Living processes of this user that carry the mark, recorded or not."""
    wanted = f"{MARK_VARIABLE}={mark}".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        if wanted in _environment(int(entry)).split(b"\0"):
            ticks = start_ticks(int(entry))
            if ticks is not None:
                record = ProcessRecord(int(entry), ticks)
                if is_alive(record):
                    found.append(record)
    return found


def tail(log: Path, lines: int = 20, bytes_max: int = 16384) -> str:
    """The last lines of a log, empty when there is none."""
    try:
        with log.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - bytes_max))
            text = file.read(bytes_max).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


async def _all_gone(records: Sequence[ProcessRecord], deadline_s: float) -> None:
    async with trio.open_nursery() as nursery:
        for record in records:
            nursery.start_soon(wait_gone, record, deadline_s)


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (state) on; the second may hold anything."""
    try:
        text = Path("/proc", str(pid), "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def _environment(pid: int) -> bytes:
    """Empty for another user's process and for one that is gone."""
    try:
        return Path("/proc", str(pid), "environ").read_bytes()
    except OSError:
        return b""


def _reap() -> None:
    for pid, child in list(_children.items()):
        if child.poll() is not None:
            del _children[pid]
