"""What must hold when a run is over: histories, watches, leases, nodes and their logs."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import trio

from node.facade import Compacted, NodeError
from tests.integration.testnet import Testnet
from tests.nemesis.actions import Nemesis
from tests.nemesis.clients import TTL_MS, Leaseholders, Observers
from tests.nemesis.faulty_daemon import TASKS_FILE
from tests.nemesis.watchers import Seen, Watcher, merged

LEVEL_S = 120.0
_KNOWN = re.compile(r"; (\d+) is$")
FILES_MAX, THREADS_MAX, TASKS_MAX, MEMORY_MB_MAX = 80, 45, 150, 250
# Lines of these levels that a node may write under faults; all others are a finding.
FAULTY_DISK = ("failed", "snapshot_failed", "snapshot_unreadable")


async def of(
    testnet: Testnet,
    observers: Observers,
    holders: Leaseholders,
    watchers: list[Watcher],
    nemesis: Nemesis,
    most: dict[str, int],
) -> list[str]:
    """Everything that is wrong, one line each; the clients have stopped, the watchers have not.

    Whether the history is linearizable is for ``check``, when nothing runs any more. ``most`` gets
    the most that any node had of files, threads, tasks and memory.
    """
    found: list[str] = []
    try:
        await testnet.wait_same_state(deadline_s=LEVEL_S)
    except AssertionError as error:
        return [f"not level: {error}"]
    found += await _leases_end(testnet, holders)
    await testnet.wait_same_state(deadline_s=LEVEL_S)
    revision = (await testnet.survey()).nodes[0].revision or 0
    found += await _watchers_arrive(watchers, revision)
    seen, differences = merged(watchers)
    found += differences
    found += _written_was_seen(observers, seen, watchers)
    found += _once(seen, observers)
    if not nemesis.wrong_clocks:
        found += holders.early(lambda key: _first_deletion(key, seen, watchers))
    for seat in testnet.seats:
        found += await _rewatch(testnet, seat, seen, revision)
        found += await _no_evidence(testnet, seat)
        found += await _resources(testnet, seat, most)
    found += _logs(testnet, nemesis.broken_disks)
    return found


async def _leases_end(testnet: Testnet, holders: Leaseholders) -> list[str]:
    with trio.move_on_after(TTL_MS / 1000 + 25.0):
        while True:
            try:
                async with testnet.client(testnet.seats[0]) as client:
                    left = await client.leases()
            except NodeError as error:
                left = [error]
            if not left:
                return []
            await trio.sleep(0.3)
    return [f"leases that do not end: {left}"]


async def _watchers_arrive(watchers: list[Watcher], revision: int) -> list[str]:
    with trio.move_on_after(60.0):
        while any(watcher.reached < revision for watcher in watchers):
            await trio.sleep(0.1)
        return []
    return [
        f"watcher {w.number} stands at {w.reached} of {revision}"
        for w in watchers
        if w.reached < revision
    ]


def _written_was_seen(observers: Observers, seen: Seen, watchers: list[Watcher]) -> Iterator[str]:
    """What a client was told at a revision is what watchers saw there."""
    for revision, (key, value) in observers.written.items():
        if revision not in seen:
            if not any(a <= revision <= b for w in watchers for a, b in w.gaps):
                yield f"nobody saw revision {revision}, a write of {key!r}"
            continue
        found = {c.key: None if c.entry is None else c.entry.value for c in seen[revision]}
        if found != {key: value}:
            yield f"revision {revision} was told to be {key!r} {value!r}; watchers saw {found}"


def _once(seen: Seen, observers: Observers) -> Iterator[str]:
    """Each value was asked for once, under one request id, however often it was sent."""
    first: dict[bytes, int] = {}
    for revision, changes in seen.items():
        for change in changes:
            if change.key.startswith(observers.stem) and change.entry is not None:
                before = first.setdefault(change.entry.value, revision)
                if before != revision:
                    yield f"{change.entry.value!r} was written at {before} and at {revision}"


def _first_deletion(key: bytes, seen: Seen, watchers: list[Watcher]) -> float | None:
    for revision, changes in seen.items():
        if any(change.key == key and change.entry is None for change in changes):
            times = [w.seen_at_s[revision] for w in watchers if revision in w.seen_at_s]
            return min(times, default=None)
    return None


async def _rewatch(testnet: Testnet, seat: int, seen: Seen, upto: int) -> list[str]:
    """What a node shows of its past, and of the present, is what was seen when it happened."""
    again = Watcher(testnet, 0, seat)
    with trio.move_on_after(30.0):
        try:
            await _follow(again, seat, upto)
        except Compacted as error:
            if not _took_over(testnet, seat):
                again.violations.append(f"seat {seat} does not know its own window: {error}")
            again.reached = int(_KNOWN.findall(str(error))[0]) - 1
            await _follow(again, seat, upto)
    found = list(again.violations)
    if again.reached < upto:
        found.append(f"seat {seat} shows its past up to {again.reached} of {upto} only")
    for revision, changes in again.seen.items():
        if revision in seen and seen[revision] != changes:
            found.append(f"seat {seat} shows something else at revision {revision} than it was")
    return found


async def _follow(again: Watcher, seat: int, upto: int) -> None:
    """Until the watcher has seen so much. Raises Compacted."""
    async with trio.open_nursery() as nursery:
        failure: list[NodeError] = []

        async def follow() -> None:
            try:
                await again.follow(seat)
            except NodeError as error:
                failure.append(error)
            nursery.cancel_scope.cancel()

        nursery.start_soon(follow)
        while again.reached < upto:
            await trio.sleep(0.02)
        nursery.cancel_scope.cancel()
    if failure:
        raise failure[0]


def _took_over(testnet: Testnet, seat: int) -> bool:
    return any(x.get("event") == "snapshot_installed" for x in _lines(testnet.log(seat)))


async def _no_evidence(testnet: Testnet, seat: int) -> list[str]:
    async with testnet.client(seat) as client:
        rows = await client.evidence()
        status = await client.status()
    found = [f"seat {seat} has evidence: {rows}"] if rows else []
    if status["alarms"]:
        found.append(f"seat {seat} has alarms: {status['alarms']}")
    return found


async def _resources(testnet: Testnet, seat: int, most: dict[str, int]) -> list[str]:
    record = testnet.state.node(seat).process
    assert record is not None
    proc = Path("/proc", str(record.pid))
    file = testnet.state.node_dir(seat) / TASKS_FILE
    file.unlink(missing_ok=True)
    os.kill(record.pid, signal.SIGUSR2)
    with trio.fail_after(10):
        while not file.exists() or not file.read_text():
            await trio.sleep(0.02)
    status = dict(
        line.split(":", 1) for line in (proc / "status").read_text().splitlines() if ":" in line
    )
    figures = {
        "files": (len(list((proc / "fd").iterdir())), FILES_MAX),
        "threads": (int(status["Threads"]), THREADS_MAX),
        "tasks": (int(file.read_text()), TASKS_MAX),
        "MB of memory": (int(status["VmRSS"].split()[0]) // 1024, MEMORY_MB_MAX),
    }
    for what, (count, _) in figures.items():
        most[what] = max(count, most.get(what, 0))
    return [
        f"seat {seat} has {count} {what}"
        for what, (count, permitted) in figures.items()
        if count > permitted
    ]


def _logs(testnet: Testnet, broken_disks: int) -> Iterator[str]:
    loud = 0
    for seat in testnet.seats:
        for line in testnet.log(seat).splitlines():
            if line.startswith("---") or not line.strip():
                continue
            row = _row(line)
            if row is None:
                yield f"seat {seat} wrote no log line: {line[:300]}"
            elif row["event"] == "alarm" and "clock" in row["reason"]:
                pass  # blocks that come late for a while look like that
            elif row.get("level") in ("error", "critical"):
                if row["event"] not in FAULTY_DISK or not broken_disks:
                    yield f"seat {seat}: {line[:1500]}"
                elif row["event"] == "failed":
                    loud += 1
    if loud > broken_disks:
        yield f"{loud} daemons failed, {broken_disks} had a broken disk"


def _lines(log: str) -> Iterable[dict[str, Any]]:
    return filter(None, map(_row, log.splitlines()))


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
