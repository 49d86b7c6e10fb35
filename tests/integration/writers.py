"""A stream of writes whose fate is fully known afterwards.

Each writer owns a key and writes 1, 2, 3, ... to it, every number under a request id of its own,
again and again until it is acknowledged. So when it stops at n, the key must hold n and must have
been written exactly n times: a lost acknowledged write shows as a smaller value, a write applied
twice as a higher version.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from deploy.testnet.layout import TestnetError
from tests.integration.testnet import Testnet

ACKNOWLEDGED_S = 120


@dataclass
class Writers:
    """Writers that go on until ``stop``; ``acknowledged`` counts each one's writes."""

    testnet: Testnet
    count: int = 4
    run_id: str = field(default_factory=lambda: secrets.token_hex(4))
    acknowledged: dict[str, int] = field(default_factory=dict)
    _stopping: bool = False
    _progress: trio.Event = field(default_factory=trio.Event)

    @property
    def total(self) -> int:
        return sum(self.acknowledged.values())

    async def run(self) -> None:
        """Write until ``stop`` is called; returns when every writer's last write is through."""
        async with trio.open_nursery() as nursery:
            for number in range(self.count):
                nursery.start_soon(self._write, f"writer/{self.run_id}/{number}")

    def stop(self) -> None:
        self._stopping = True

    async def wait_more(self, writes: int, deadline_s: float = 60) -> None:
        """Returns when ``writes`` more writes have been acknowledged."""
        goal = self.total + writes
        with trio.fail_after(deadline_s):
            while self.total < goal:
                self._progress = trio.Event()
                await self._progress.wait()

    async def _write(self, key: str) -> None:
        number = 0
        while not self._stopping:
            number += 1
            await self._put(key, number)
            self.acknowledged[key] = number
            self._progress.set()

    async def _put(self, key: str, number: int) -> None:
        """One write under one request id, until it is acknowledged; all nodes may be dead."""
        with trio.fail_after(ACKNOWLEDGED_S):
            while True:
                try:
                    await self.testnet.put(
                        key, str(number).encode(), request_id=f"{key}/{number}", deadline_s=30
                    )
                    return
                except TestnetError:
                    await trio.sleep(0.05)

    async def check(self, seats: Sequence[int] | None = None) -> None:
        """Nothing acknowledged is lost, nothing was applied twice; asked of every node."""
        assert self.total > 0
        for seat in self.testnet.seats if seats is None else seats:
            for key, number in self.acknowledged.items():
                entry = await self.testnet.get(key, seat=seat)
                assert entry is not None, f"{key} is gone on seat {seat}"
                assert entry.value == str(number).encode(), f"{key} on seat {seat}: {entry}"
                assert entry.version == number, f"{key} was written {entry.version} times"


@asynccontextmanager
async def writing(
    testnet: Testnet, count: int = 2, *, voters_only: bool = False
) -> AsyncIterator[Writers]:
    """Writers run inside the block; afterwards every node must hold exactly what they wrote.

    ``voters_only``: every node that has a vote then, in tests in which members leave.
    """
    writers = Writers(testnet, count)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writers.run)
        await writers.wait_more(5 * count)
        yield writers
        await writers.wait_more(5 * count)
        writers.stop()
    seats = testnet.seats
    if voters_only:
        seen = await testnet.survey()
        seats = tuple(row.seat for row in seen.nodes if row.state == "active")
    await testnet.wait_same_state(seats)
    await writers.check(seats)
