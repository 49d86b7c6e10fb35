"""Our side: the same testnet that ``dstack-cluster testnet up`` starts, with default settings."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import trio

from deploy.testnet import cli, launch, layout, processes, survey
from deploy.testnet.layout import Testnet, TestnetError

from .cluster import Address, BenchError, MakeWrite, Standing
from .distance import Relays
from .values import KEYS_PER_WRITER, VALUES
from .wire import request

UP_DEADLINE_S = 180.0
STEADY_DEADLINE_S = 60.0
START_DEADLINE_S = 60.0
POLL_S = 0.05


class Ours:
    """A testnet of equal weights in a folder of its own."""

    name = "ours"

    def __init__(
        self,
        directory: Path,
        nodes: int,
        base_port: int,
        say: launch.Say,
        delay_ms: float = 0.0,
    ) -> None:
        self.version = version("dstack-cluster")
        self._directory = directory
        self._nodes = nodes
        self._base_port = base_port
        seats = range(1, nodes + 1)
        self._relays = Relays([base_port + layout.P2P_PORT + seat for seat in seats], delay_ms)
        self._say = say
        self.addresses: tuple[Address, ...] = ()

    async def up(self) -> None:
        """See ``Cluster``."""
        await self._stop_leftovers()
        self._relays.start()
        try:
            testnet = await launch.bring_up(
                self._directory,
                layout.parse_weights(None, self._nodes),
                self._base_port,
                lambda text: self._say(f"ours: {text}"),
                UP_DEADLINE_S,
                announced_offset=self._relays.offset,
            )
        except TestnetError as error:
            raise BenchError(f"ours: {error}") from None
        self.addresses = tuple(("127.0.0.1", testnet.api_port(n.seat)) for n in testnet.nodes)
        await self.standing()

    async def _stop_leftovers(self) -> None:
        """A run that was killed could not stop its testnet."""
        if layout.exists(self._directory):
            self._say("ours: ending what an earlier run left")
            await self.down()

    async def down(self) -> None:
        """See ``Cluster``; the logs stay."""
        self._relays.stop()
        if layout.exists(self._directory):
            try:
                await launch.stop_everything(self._testnet())
            except TestnetError as error:
                raise BenchError(f"ours: {error}") from None

    async def standing(self) -> Standing:
        """See ``Cluster``: all nodes active, level, and in the same term."""
        seen = None
        with trio.move_on_after(STEADY_DEADLINE_S):
            while True:
                seen = await survey.take(self._testnet())
                found = _agreed(seen)
                if found is not None:
                    return found
                await trio.sleep(POLL_S)
        rows = [
            f"seat {n.seat} {n.state} leader {n.leader} term {n.term} lag {n.lag} {n.reason}"
            for n in (seen.nodes if seen is not None else ())
        ]
        raise BenchError(f"ours: not steady after {STEADY_DEADLINE_S:.0f} s: {'; '.join(rows)}")

    def remove(self) -> None:
        """See ``Cluster``."""
        if layout.exists(self._directory):
            layout.remove(self._testnet())

    def pids(self) -> Sequence[int]:
        """See ``Cluster``: the daemons, without anvil and the guest agents."""
        return [node.process.pid for node in self._testnet().nodes if node.process is not None]

    def writes(self, run: str) -> MakeWrite:
        """See ``Cluster``."""

        def make(writer: int, count: int) -> bytes:
            value = VALUES[count % len(VALUES)]
            head = request(
                "PUT",
                f"/v1/kv/bench%2F{writer}%2F{count % KEYS_PER_WRITER}",
                "127.0.0.1",
                {"idempotency-key": f"{run}-{writer}-{count}"},
                len(value),
            )
            return head + value

        return make

    async def kill(self, node: int) -> float:
        """See ``Cluster``."""
        record = self._testnet().node(node + 1).process
        begin_s = time.perf_counter()
        if record is None or not processes.send(record, signal.SIGKILL):
            raise BenchError(f"ours: seat {node + 1} was dead before it was killed")
        return begin_s

    async def restart(self, node: int) -> None:
        """See ``Cluster``."""
        record = self._testnet().node(node + 1).process
        if record is not None and not await processes.wait_gone(record, START_DEADLINE_S):
            raise BenchError(f"ours: seat {node + 1} survived SIGKILL")
        try:
            await cli.start(self._directory, node + 1, START_DEADLINE_S)
        except TestnetError as error:
            raise BenchError(f"ours: {error}") from None
        await self.standing()

    def _testnet(self) -> Testnet:
        return layout.load(self._directory)


def _agreed(seen: survey.Survey) -> Standing | None:
    views = {(node.epoch, node.term, node.leader) for node in seen.nodes}
    steady = all(node.state == "active" and node.lag == 0 for node in seen.nodes)
    if not steady or len(views) != 1:
        return None
    epoch, term, leader = views.pop()
    if epoch is None or term is None or leader is None:
        return None
    revision = max(node.revision or 0 for node in seen.nodes)
    return Standing(leader - 1, epoch, term, revision)
