"""Real processes: identity against reused pids, signals, waiting, strays."""

from __future__ import annotations

import secrets
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from deploy.testnet import processes
from deploy.testnet.layout import ProcessRecord, TestnetError

SLEEP = "import time; print('up', flush=True); time.sleep(600)"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    "print('up', flush=True); time.sleep(600)"
)
Spawn = Callable[[str], ProcessRecord]


@pytest.fixture
def mark() -> str:
    return secrets.token_hex(8)


@pytest.fixture
def spawn(tmp_path: Path, mark: str) -> Iterator[Spawn]:
    started: list[ProcessRecord] = []

    def start(code: str) -> ProcessRecord:
        record = processes.spawn(
            [sys.executable, "-c", code], log=tmp_path / "log", mark=mark, cwd=tmp_path
        )
        started.append(record)
        return record

    yield start
    for record in started:
        processes.send(record, signal.SIGKILL)


async def until_up(log: Path) -> None:
    with trio.fail_after(20):
        while "up" not in processes.tail(log):
            await trio.sleep(0.01)


async def test_a_killed_process_is_gone(spawn: Spawn) -> None:
    record = spawn(SLEEP)
    assert processes.is_alive(record)
    assert processes.send(record, signal.SIGKILL)
    assert await processes.wait_gone(record, 20)
    assert not processes.is_alive(record)
    assert not processes.send(record, signal.SIGKILL)


async def test_waiting_for_a_process_that_stays_ends_at_the_deadline(spawn: Spawn) -> None:
    assert not await processes.wait_gone(spawn(SLEEP), 0.05)


async def test_a_reused_pid_is_not_taken_for_our_process(spawn: Spawn) -> None:
    record = spawn(SLEEP)
    earlier = replace(record, start_ticks=record.start_ticks - 1)
    assert not processes.is_alive(earlier)
    assert not processes.send(earlier, signal.SIGKILL)
    assert await processes.wait_gone(earlier, 20)
    await processes.stop([earlier], 0.0)
    assert processes.is_alive(record)


async def test_pause_and_resume_are_seen(spawn: Spawn) -> None:
    record = spawn(SLEEP)
    processes.send(record, signal.SIGSTOP)
    assert await processes.wait_paused(record, True, 20)
    processes.send(record, signal.SIGCONT)
    assert await processes.wait_paused(record, False, 20)


async def test_a_dead_process_is_neither_paused_nor_running(spawn: Spawn) -> None:
    record = spawn("pass")
    assert await processes.wait_gone(record, 20)
    assert not await processes.wait_paused(record, True, 20)
    assert not await processes.wait_paused(record, False, 20)


async def test_stop_ends_the_polite_the_stubborn_and_the_paused(
    spawn: Spawn, tmp_path: Path
) -> None:
    stubborn = spawn(STUBBORN)
    await until_up(tmp_path / "log")
    polite, paused = spawn(SLEEP), spawn(SLEEP)
    processes.send(paused, signal.SIGSTOP)
    assert await processes.wait_paused(paused, True, 20)
    await processes.stop([stubborn, polite, paused], grace_s=0.2)
    assert not any(map(processes.is_alive, (stubborn, polite, paused)))


async def test_a_cancelled_stop_kills_before_it_returns(spawn: Spawn, tmp_path: Path) -> None:
    stubborn = spawn(STUBBORN)
    await until_up(tmp_path / "log")
    with trio.move_on_after(0.1):
        await processes.stop([stubborn], grace_s=600)
    assert not processes.is_alive(stubborn)


async def test_processes_that_nobody_recorded_are_found_by_their_mark(
    spawn: Spawn, mark: str, tmp_path: Path
) -> None:
    grandchild = (
        "import subprocess, sys, time;"
        f"subprocess.Popen([sys.executable, '-c', {SLEEP!r}], start_new_session=True);"
        "time.sleep(600)"
    )
    record = spawn(grandchild)
    await until_up(tmp_path / "log")
    found = processes.marked(mark)
    assert record in found
    assert len(found) == 2
    assert processes.marked("another") == []
    await processes.stop(found, 5)
    assert processes.marked(mark) == []


def test_a_program_that_does_not_exist_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(TestnetError, match="cannot start /nowhere/anvil"):
        processes.spawn(["/nowhere/anvil"], log=tmp_path / "log", mark="m", cwd=tmp_path)


def test_a_name_with_brackets_and_spaces_does_not_confuse_the_identity(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 ("
    program.symlink_to("/bin/sleep")
    record = processes.spawn([str(program), "600"], log=tmp_path / "log", mark="m", cwd=tmp_path)
    try:
        assert processes.start_ticks(record.pid) == record.start_ticks
        # D: while the program is read from disk.
        assert processes.run_state(record) in ("R", "S", "D")
    finally:
        processes.send(record, signal.SIGKILL)


def test_the_tail_of_a_log_is_bounded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 100_000 + b"\nlast \xff line\n")
    assert processes.tail(log, 1) == "last \ufffd line"
    assert len(processes.tail(log, 5)) < 20_000
    assert processes.tail(tmp_path / "none") == ""
