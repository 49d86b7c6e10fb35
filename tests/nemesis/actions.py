"""What is done to the daemons: actions by seed, each undone before the next begins (see storm).

After each the cluster has a leader again: what it could not survive is not asked of it.
"""

from __future__ import annotations

import random
import shutil
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from deploy.testnet import layout, processes
from node.facade import NodeError
from node.votelog import NAMES, VoteLog
from tests.integration.testnet import Testnet
from tests.nemesis.disks import Disk
from tests.nemesis.faulty_daemon import CLOCK_FILE, FAULT_FILE
from tests.nemesis.relays import Relays

SHORT_S, LONG_S = (0.05, 1.5), (6.0, 14.0)
START_S = 60.0
ENDS_S = 30.0  # until a daemon notices that its disk is broken
PACE_S = 0.5
# What needs no quorum to be over.
STORMY = (
    "kill", "stop", "kill_all", "freeze", "stutter", "kill_the_frozen", "torn_write", "cut_links",
    "slow_disks", "wrong_clocks", "disk_loses_power", "disk_all_lose_power",
)  # fmt: skip


@dataclass
class Nemesis:
    """Harms one testnet.

    Args:
        disks: by seat, where the data are on disks of their own.
        dead: shared with clients that should not ask whoever does not run.
        say: told of each action.
    """

    testnet: Testnet
    relays: Relays
    rng: random.Random
    disks: dict[int, Disk]
    dead: set[int]
    say: Callable[[str], None]
    only: frozenset[str] = frozenset()
    done: list[str] = field(default_factory=list)
    wrong_clocks: bool = False  # a lease may have ended early by much (docs/state-machine.md, 3)
    broken_disks: int = 0  # how many daemons must have ended with a loud word about their disk

    def names(self) -> list[str]:
        """The actions there are on this machine."""
        found = [n.removeprefix("do_") for n in dir(self) if n.startswith("do_")]
        found = [n for n in found if self.disks or not n.startswith("disk_")]
        return [n for n in found if not self.only or n in self.only]

    async def do(self, name: str) -> None:
        """An action, and back to health."""
        action: Callable[[], Awaitable[None]] = getattr(self, f"do_{name}")
        self.done.append(name)
        await action()
        self.relays.heal()
        await self.settle()

    async def settle(self) -> None:
        """Everybody runs, and somebody leads."""
        for seat in self.testnet.seats:
            record = self.testnet.state.node(seat).process
            if record is not None and processes.is_alive(record):
                processes.send(record, signal.SIGCONT)
        await self._start(self.testnet.seats)
        await self.testnet.wait_leader(deadline_s=90)

    # --- pieces ---

    def _some(self, most: int) -> list[int]:
        return self.rng.sample(self.testnet.seats, self.rng.randint(1, most))

    @property
    def _tolerated(self) -> int:
        return (len(self.testnet.seats) - 1) // 3

    async def _a_while(self, longest_s: float = 4.0) -> None:
        await trio.sleep(self.rng.uniform(0.0, longest_s))

    async def _kill(self, seats: list[int], signal_name: str = "KILL") -> None:
        self.dead.update(seats)
        records = [self.testnet.state.node(seat).process for seat in seats]
        for record in filter(None, records):  # some may have ended by themselves
            processes.send(record, signal.Signals[f"SIG{signal_name}"])
        for record in filter(None, records):
            assert await processes.wait_gone(record, ENDS_S), f"{record} survives {signal_name}"

    async def _start(self, seats: list[int] | tuple[int, ...]) -> None:
        for seat in self.rng.sample(list(seats), len(seats)):
            if not self.testnet.alive(seat):
                with suppress(layout.TestnetError):  # it may only be slow to answer
                    await self.testnet.start(seat, START_S)
            assert self.testnet.alive(seat), f"seat {seat} does not start"
            self.dead.discard(seat)

    def _data(self, seat: int) -> Path:
        return self.testnet.state.node_dir(seat) / "data"

    # --- processes ---

    async def do_kill(self) -> None:
        seats = self._some(2)
        self.say(f"kill {seats}")
        await self._kill(seats)
        await self._a_while()
        await self._start(seats)

    async def do_stop(self) -> None:
        (seat,) = self._some(1)
        self.say(f"SIGTERM {seat}")
        await self._kill([seat], "TERM")
        await self._start([seat])

    async def do_kill_the_leader(self) -> None:
        leader = (await self.testnet.survey()).leader
        if leader is not None:
            self.say(f"kill the leader {leader}")
            await self._kill([leader])
            await self._a_while()

    async def do_kill_all(self) -> None:
        self.say("kill all")
        await self._kill(list(self.testnet.seats))
        await self._start(self.testnet.seats)

    async def do_kill_while_starting(self) -> None:
        seats = self._some(2)
        self.say(f"kill {seats} again and again while they start")
        for _ in range(3):
            await self._kill(seats)
            for seat in seats:
                await self.testnet.start(seat, START_S)
            await self._a_while(1.5)

    async def do_freeze(self) -> None:
        seats = self._some(len(self.testnet.seats))
        longest = SHORT_S if self.rng.random() < 0.6 else LONG_S
        self.say(f"freeze {seats} for {longest} s")
        for seat in seats:
            await self.testnet.pause(seat)
        await trio.sleep(self.rng.uniform(*longest))
        for seat in seats:
            await self.testnet.resume(seat)

    async def do_stutter(self) -> None:
        (seat,) = self._some(1)
        self.say(f"{seat} stutters")
        for _ in range(15):
            await self.testnet.pause(seat)
            await trio.sleep(self.rng.uniform(0.02, 0.5))
            await self.testnet.resume(seat)
            await trio.sleep(self.rng.uniform(0.0, 0.2))

    async def do_kill_the_frozen(self) -> None:
        seats = self._some(2)
        self.say(f"freeze {seats} and kill them")
        for seat in seats:
            await self.testnet.pause(seat)
        await self._a_while(2.0)
        await self._kill(seats)
        await self._start(seats)

    async def do_wrong_clocks(self) -> None:
        seats = self._some(self._tolerated)
        wrong_ms = self.rng.choice((-1, 1)) * self.rng.choice((1_000, 5_000, 60_000, 10**9))
        self.say(f"the clocks of {seats} are {wrong_ms} ms ahead")
        self.wrong_clocks = True
        files = [self.testnet.state.node_dir(seat) / CLOCK_FILE for seat in seats]
        for file in files:
            file.write_text(str(wrong_ms))
        await trio.sleep(self.rng.uniform(2.0, 8.0))
        for file in files:
            file.unlink()

    # --- links ---

    async def do_isolate(self) -> None:
        seats = self._some(2)
        rest = [seat for seat in self.testnet.seats if seat not in seats]
        self.say(f"{seats} are alone")
        between = self.relays.between
        self.relays.mute(between(seats, rest) + between(rest, seats))
        await trio.sleep(self.rng.uniform(1.0, 9.0))

    async def do_mute_one_way(self) -> None:
        seats = self._some(2)
        rest = [seat for seat in self.testnet.seats if seat not in seats]
        here, there = (seats, rest) if self.rng.random() < 0.5 else (rest, seats)
        self.say(f"nothing comes from {here} to {there}")
        self.relays.mute(self.relays.between(here, there))
        await trio.sleep(self.rng.uniform(1.0, 9.0))

    async def do_mute_some(self) -> None:
        ways = self.relays.between(self.testnet.seats, self.testnet.seats)
        some = self.rng.sample(ways, self.rng.randint(1, len(ways)))
        self.say(f"nothing comes on the ways {some}")
        self.relays.mute(some)
        await trio.sleep(self.rng.uniform(0.5, 6.0))

    async def do_slow_links(self) -> None:
        ways = self.relays.between(self.testnet.seats, self.testnet.seats)
        some = self.rng.sample(ways, self.rng.randint(1, len(ways)))
        delay_s = self.rng.choice((0.02, 0.1, 0.5))
        self.say(f"{delay_s} s on {len(some)} ways")
        self.relays.slow(some, delay_s)
        await trio.sleep(self.rng.uniform(2.0, 8.0))

    async def do_cut_links(self) -> None:
        self.say("links are cut")
        for _ in range(self.rng.randint(1, 12)):
            self.relays.cut(*self.rng.sample(self.testnet.seats, 2))
            await trio.sleep(self.rng.uniform(0.0, 0.4))

    async def do_storm(self) -> None:
        """Several at once: members end and come back while links are mute or slow."""
        ways = self.relays.between(self.testnet.seats, self.testnet.seats)
        self.relays.slow(self.rng.sample(ways, len(ways) // 2), 0.05)
        for _ in range(self.rng.randint(2, 4)):
            self.relays.mute(self.rng.sample(ways, self.rng.randint(1, len(ways) // 2)))
            name = self.rng.choice([n for n in STORMY if self.disks or not n.startswith("disk_")])
            action: Callable[[], Awaitable[None]] = getattr(self, f"do_{name}")
            await action()
            if self.rng.random() < 0.5:
                self.relays.heal()

    # --- disks ---

    async def do_vote_log_fails(self) -> None:
        seats, kind = self._some(self._tolerated), self.rng.choice(("eio", "full", "short"))
        self.say(f"the vote log of {seats}: {kind}")
        self.dead.update(seats)
        for seat in seats:
            (self.testnet.state.node_dir(seat) / FAULT_FILE).write_text(kind)
        with trio.fail_after(ENDS_S):
            while any(self.testnet.alive(seat) for seat in seats):
                await trio.sleep(0.05)
        self.broken_disks += len(seats)
        await self._start(seats)

    async def do_slow_disks(self) -> None:
        seats = self._some(len(self.testnet.seats))
        self.say(f"slow disks: {seats}")
        files = [self.testnet.state.node_dir(seat) / FAULT_FILE for seat in seats]
        for file in files:
            file.write_text("slow")
        await trio.sleep(self.rng.uniform(2.0, 6.0))
        for file in files:
            file.unlink()

    async def do_torn_write(self) -> None:
        """A crash in the middle of a write that nobody was told of."""
        seats = self._some(len(self.testnet.seats))
        self.say(f"kill {seats}, whose last write is torn")
        await self._kill(seats)
        for seat in seats:
            _tear(self._data(seat), self.rng)
        await self._start(seats)

    async def do_wipe(self) -> None:
        """A machine that lost its disk; one, and it is whole again before anything else happens."""
        (seat,) = self._some(1)
        await self._all_active()
        self.say(f"wipe {seat}")
        await self._kill([seat])
        for path in self._data(seat).iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        await self._a_while(1.0)
        await self._start([seat])
        await self._all_active()

    async def _all_active(self) -> None:
        with trio.fail_after(120):
            while any(node.state != "active" for node in (await self.testnet.survey()).nodes):
                await self._next_term()

    async def _next_term(self) -> None:
        """Who lost its votes gives none before later terms (R10): some leaders hand over."""
        leader = (await self.testnet.wait_leader()).leader
        assert leader is not None
        with suppress(NodeError):
            async with self.testnet.client(leader) as client:
                await client.step_down()
        await trio.sleep(PACE_S)

    async def do_disk_loses_power(self) -> None:
        seats = self._some(2)
        await self._power_cut(seats)

    async def do_disk_all_lose_power(self) -> None:
        await self._power_cut(list(self.testnet.seats))

    async def _power_cut(self, seats: list[int]) -> None:
        self.say(f"power cut: {seats}")
        self.dead.update(seats)
        for seat in seats:  # none of them may say a word about what its disk did not take
            if self.rng.random() < 0.5:
                await self.testnet.pause(seat)
        for seat in seats:
            self.disks[seat].cut_power()
        self.broken_disks += len(seats)
        await self._a_while(0.3)
        await self._kill(seats)
        for seat in seats:
            self.disks[seat].power_on()
        await self._a_while(2.0)
        await self._start(seats)

    async def do_disk_full(self) -> None:
        seats = self._some(self._tolerated)
        self.say(f"full disks: {seats}")
        for seat in seats:
            self.disks[seat].fill()
        self.broken_disks += len(seats)
        await trio.sleep(self.rng.uniform(1.0, 10.0))
        for seat in seats:
            self.disks[seat].free()
            if not self.testnet.alive(seat):
                self.dead.add(seat)
        await self._start(seats)


def _tear(directory: Path, rng: random.Random) -> None:
    """Puts a part of a frame, or what was never written whole, behind the end of the vote log."""
    newest, data = max(
        ((p, p.read_bytes()) for p in map(directory.joinpath, NAMES) if p.exists()),
        key=lambda found: int.from_bytes(found[1][35:43], "little"),
    )
    log = VoteLog(directory, data[43:75], 0)
    try:
        assert log._name == newest.name
        frame = log._frames.to_bytes(4, "little")
        size = rng.randint(1, 600)
        whole = size.to_bytes(4, "little") + rng.randbytes(4) + frame + rng.randbytes(size)
        torn = whole[: rng.randint(1, len(whole))]
        with newest.open("r+b") as file:
            file.seek(log.size)
            file.write(torn)
    finally:
        log.close()
