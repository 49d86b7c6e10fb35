"""One run: a cluster, clients on it, faults by seed, the verdict."""

from __future__ import annotations

import random
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from deploy.testnet import launch, layout, nodes, processes
from tests.integration.testnet import Testnet, free_base_port
from tests.integration.writers import Writers
from tests.linearizability.checker import Operation, check
from tests.nemesis import verdict
from tests.nemesis.actions import PACE_S, Nemesis
from tests.nemesis.clients import ALL_KINDS, Leaseholders, Observers
from tests.nemesis.disks import Disk
from tests.nemesis.relays import Relays
from tests.nemesis.rude import RudeClients
from tests.nemesis.watchers import Watcher

DAEMON = layout.REPOSITORY / "tests/nemesis/faulty_daemon.py"
UP_S = 180.0

Say = Callable[[str], None]


@dataclass
class Outcome:
    """What a run found; ``violations`` is empty when all is well."""

    violations: list[str] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)
    answered: int = 0  # requests of observers
    writes: int = 0  # of writers that asked again and again
    leases: int = 0
    revisions: int = 0
    streams: int = 0  # of watchers
    offences: int = 0  # of rude clients
    most: dict[str, int] = field(default_factory=dict)  # of files, tasks, ... in one node
    history: list[Operation] = field(default_factory=list)


async def run(
    directory: Path,
    seed: int,
    *,
    count: int = 4,
    seconds: float = 60.0,
    own_disks: bool = False,
    only: frozenset[str] = frozenset(),
    script: tuple[str, ...] = (),
    say: Say = lambda _: None,
) -> Outcome:
    """Runs one seed for about so long; what was started is stopped.

    What is left of a run that found something stays in ``directory``.

    Args:
        count: nodes, of weight 1.
        own_disks: give each node a file system that can lose power (root only).
        only: names of actions; empty is all.
        script: these actions, in this order, however long that takes.
    """
    rng = random.Random(seed)
    outcome, testnet = Outcome(), Testnet(directory)
    every, log_entries = rng.choice((32, 128, 2_000)), rng.choice((8, 64, 1_024))
    settings = (f"snapshots.every_blocks={every}", "snapshots.checkpoint_blocks=16")
    base = free_base_port(count)
    relays = Relays({seat: base + layout.P2P_PORT + seat for seat in range(1, count + 1)})
    with _seams(relays, own_disks, log_entries) as disks:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(relays.run)
                await launch.bring_up(directory, (1,) * count, base, say, UP_S, settings)
                nemesis = Nemesis(testnet, relays, rng, disks, set(), say, only)
                await _under_clients(nemesis, seed, seconds, script, outcome)
                nursery.cancel_scope.cancel()
        except Exception as error:
            outcome.violations.append("".join(traceback.format_exception(error)))
        finally:
            with trio.CancelScope(shield=True):
                if layout.exists(directory):
                    await launch.stop_everything(testnet.state, grace_s=5.0)
    outcome.violations += filter(None, [check(outcome.history)])
    if not outcome.violations:
        await testnet.down()
    return outcome


async def _under_clients(
    nemesis: Nemesis, seed: int, seconds: float, script: tuple[str, ...], outcome: Outcome
) -> None:
    """Harms the cluster while clients are at work, and judges."""
    testnet = nemesis.testnet
    observers = Observers(
        testnet, seed, kinds=ALL_KINDS, retries=True, dead=nemesis.dead, pause_s=0.03
    )
    holders = Leaseholders(testnet, seed)
    rude = RudeClients(testnet, seed)
    writers = Writers(testnet, 3)
    watchers = [Watcher(testnet, seed, number) for number in range(3)]
    try:
        async with trio.open_nursery() as watching:
            for watcher in watchers:
                watching.start_soon(watcher.run)
            async with trio.open_nursery() as nursery:
                for client in (observers, holders, writers, rude):
                    nursery.start_soon(client.run)
                for name in script or _for(seconds, nemesis):
                    await observers.wait_more(10, deadline_s=90)
                    await nemesis.do(name)
                    await trio.sleep(nemesis.rng.uniform(0.0, PACE_S))
                await observers.wait_more(20, deadline_s=90)
                observers.stopping = holders.stopping = rude.stopping = True
                writers.stop()
            outcome.violations += await verdict.of(
                testnet, observers, holders, watchers, nemesis, outcome.most
            )
            await writers.check()
            watching.cancel_scope.cancel()
    finally:
        outcome.actions.update(nemesis.done)
        outcome.answered += observers.answered
        outcome.history = observers.history
        outcome.writes += writers.total
        outcome.revisions += max(watcher.reached for watcher in watchers)
        outcome.streams += sum(watcher.begun for watcher in watchers)
        outcome.leases += len(holders.lived)
        outcome.offences += rude.offences


def _for(seconds: float, nemesis: Nemesis) -> Iterator[str]:
    """Actions, until the time is over."""
    end_s = trio.current_time() + seconds
    while trio.current_time() < end_s:
        yield nemesis.rng.choice(nemesis.names())


@contextmanager
def _seams(relays: Relays, own_disks: bool, log_entries: int) -> Iterator[dict[int, Disk]]:
    """Daemons that the launcher starts meanwhile are faulty ones; the disks they got, by seat."""
    disks: dict[int, Disk] = {}

    def start(testnet: layout.Testnet, seat: int) -> layout.ProcessRecord:
        if own_disks and seat not in disks:
            disks[seat] = Disk(testnet.node_dir(seat) / "data")
        config = str(testnet.node_config(seat))
        words = [sys.executable, str(DAEMON), "run", "--config", config]
        return processes.spawn(
            [*words, *nodes.settings(testnet)],
            log=testnet.node_log(seat),
            mark=testnet.mark,
            cwd=testnet.node_dir(seat),
            environment={
                "PYTHONPATH": str(layout.REPOSITORY),
                "NEMESIS_LOG_ENTRIES": str(log_entries),
                **relays.environment(seat),
            },
        )

    before, nodes.start = nodes.start, start
    try:
        yield disks
    finally:
        nodes.start = before
        for disk in disks.values():
            disk.close()
