"""Watchers of everything, from the first revision: one log for each, whatever happens meanwhile."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import trio

from consensus.commands import FROM_KEY
from node.facade import Change, Compacted, NodeError
from tests.integration.testnet import Testnet

PAUSE_S = 0.05
SILENCE_S = 40.0  # the node says something every 15 s
Seen = dict[int, tuple[Change, ...]]


@dataclass
class Watcher:
    """One client that goes on after the last revision it saw, at the same or another node."""

    testnet: Testnet
    seed: int
    number: int
    seen: Seen = field(default_factory=dict)
    seen_at_s: dict[int, float] = field(default_factory=dict)
    reached: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)  # what no node knows any more
    violations: list[str] = field(default_factory=list)
    begun: int = 0  # streams

    async def run(self) -> None:
        """Until cancelled."""
        rng = random.Random(f"{self.seed} watcher {self.number}")
        while True:
            seat = rng.choice(self.testnet.seats)
            try:
                await self.follow(seat)
            except Compacted:
                await self._skip(seat)
            except NodeError:
                await trio.sleep(PAUSE_S)
            except trio.TooSlowError:
                self.violations.append(f"watcher {self.number}: seat {seat} fell silent")

    async def follow(self, seat: int) -> None:
        """Until the stream ends. Raises NodeError."""
        async with self.testnet.client(seat) as client:
            opened = client.watch(b"\0", FROM_KEY, after=self.reached)
            self.begun += 1
            async with opened as batches:
                async for changes, revision in batches:
                    self._take(seat, changes, revision)

    def _take(self, seat: int, changes: list[Change], revision: int) -> None:
        where = f"watcher {self.number} at seat {seat}"
        if any(change.revision != revision for change in changes):
            self.violations.append(f"{where}: one batch of several revisions up to {revision}")
        if changes:
            if revision != self.reached + 1:
                self.violations.append(f"{where}: revision {revision} after {self.reached}")
            self.seen[revision] = tuple(changes)
            self.seen_at_s[revision] = trio.current_time()
        elif revision != self.reached:
            self.violations.append(f"{where}: progress to {revision}, told up to {self.reached}")
        self.reached = revision

    async def _skip(self, seat: int) -> None:
        """That node took over a snapshot; it knows the present."""
        try:
            async with self.testnet.client(seat) as client:
                now = (await client.status())["revision"]
        except NodeError:
            return
        if now > self.reached:
            self.gaps.append((self.reached + 1, now))
            self.reached = now


def merged(watchers: list[Watcher]) -> tuple[Seen, list[str]]:
    """What all of them saw, and where they differ."""
    together: Seen = {}
    found = [text for watcher in watchers for text in watcher.violations]
    for watcher in watchers:
        for revision, changes in watcher.seen.items():
            if together.setdefault(revision, changes) != changes:
                found.append(f"two watchers saw different things at revision {revision}")
    return together, found
