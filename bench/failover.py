"""How long no write is acknowledged after the leader was killed.

From SIGKILL on, the same write goes to the surviving nodes in turn, a new attempt every 10 ms
whatever became of the earlier ones, and the first acknowledgement of any ends the clock. So neither
side is charged for attempts that its dead leader swallowed, and the time is exact to about 10 ms.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from .cluster import Address, BenchError, Cluster, cpu_s
from .wire import BadAnswer, read_answer

ATTEMPT_EVERY_S = 0.010
ATTEMPT_S = 0.5
DEADLINE_S = 30.0
PHASE_S = 0.5  # kills fall anywhere between two heartbeats
RECEIVE_BYTES = 16 * 1024


@dataclass(slots=True)
class Failovers:
    """All trials of one side."""

    times_ms: list[float] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    terms: list[int] = field(default_factory=list)  # by how much the term rose, 1 when all is well
    caught_up_ms: list[float] = field(default_factory=list)  # restart until level with the others
    caught_up_cpu_ms: list[float] = field(default_factory=list)  # of its process, until then


async def trial(cluster: Cluster, run: str, results: Failovers) -> None:
    """Kill the leader once, measure, restart it, and wait until it is level.

    Raises:
        BenchError: no write within ``DEADLINE_S``, or the node did not come back.
    """
    before = await cluster.standing()
    survivors = [node for node in range(len(cluster.addresses)) if node != before.leader]
    client = _Client()
    try:
        for node in survivors:  # the connections stand before the kill
            warm = cluster.writes(f"{run}-{node}")(0, 0)
            await _first_acknowledged(client, [cluster.addresses[node]], warm)
        await trio.sleep(random.random() * PHASE_S)
        begin_s = await cluster.kill(before.leader)
        targets = [cluster.addresses[node] for node in survivors]
        acknowledged_s, attempts = await _first_acknowledged(
            client, targets, cluster.writes(run)(0, 0)
        )
    finally:
        client.close()
    results.times_ms.append(1000 * (acknowledged_s - begin_s))
    results.attempts.append(attempts)
    restart_s = time.perf_counter()
    await cluster.restart(before.leader)
    results.caught_up_ms.append(1000 * (time.perf_counter() - restart_s))
    # What others on the machine do moves this one less.
    results.caught_up_cpu_ms.append(1000 * cpu_s([cluster.pids()[before.leader]]))
    after = await cluster.standing()
    # A new epoch, due after as many failed terms as there are members, counts from term 1 again.
    rise = after.term - before.term if after.epoch == before.epoch else after.term
    results.terms.append(rise)


async def _first_acknowledged(
    client: _Client, targets: Sequence[Address], request: bytes
) -> tuple[float, int]:
    """When the first of ever new attempts was acknowledged, and how many there were."""
    acknowledged_s = 0.0
    attempts = 0

    async def attempt(target: Address) -> None:
        nonlocal acknowledged_s
        with trio.move_on_after(ATTEMPT_S):
            if await client.attempt(target, request) and not acknowledged_s:
                acknowledged_s = time.perf_counter()
                nursery.cancel_scope.cancel()

    with trio.move_on_after(DEADLINE_S):
        async with trio.open_nursery() as nursery:
            while True:
                nursery.start_soon(attempt, targets[attempts % len(targets)])
                attempts += 1
                await trio.sleep(ATTEMPT_EVERY_S)
    if not acknowledged_s:
        raise BenchError(f"no write was acknowledged within {DEADLINE_S:.0f} s")
    return acknowledged_s, attempts


class _Client:
    """Kept connections to some nodes; as many to each as it has attempts under way."""

    def __init__(self) -> None:
        self._free: dict[Address, list[trio.SocketStream]] = {}

    async def attempt(self, target: Address, request: bytes) -> bool:
        """Send once; whether the write was acknowledged. Never raises for what the node does."""
        free = self._free.setdefault(target, [])
        stream = None
        whole = False
        try:
            stream = free.pop() if free else await trio.open_tcp_stream(*target)
            await stream.send_all(request)
            buffer = b""
            while (answer := read_answer(buffer)) is None:
                data = await stream.receive_some(RECEIVE_BYTES)
                if not data:
                    return False
                buffer += data
            whole = len(buffer) == answer.length
            return answer.committed
        except (OSError, trio.BrokenResourceError, BadAnswer):
            return False
        finally:
            if stream is not None:
                if whole:
                    free.append(stream)
                else:
                    stream.socket.close()

    def close(self) -> None:
        """Close all connections."""
        for streams in self._free.values():
            for stream in streams:
                stream.socket.close()
        self._free.clear()
