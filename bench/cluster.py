"""What is measured: a cluster of durable nodes that take writes over HTTP/1.1."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Address = tuple[str, int]
MakeWrite = Callable[[int, int], bytes]  # (writer, count) -> a whole HTTP request

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """The run cannot go on; the text is for the person who started it."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Who leads, as a majority (ours: more than 2/3 of the weight) of the nodes says."""

    leader: int  # index of the node, from 0
    epoch: int  # always 0 for etcd
    term: int
    revision: int  # rises by one with each write


class Cluster(Protocol):
    """One of the two sides. Nodes are numbered from 0 here, whatever they call themselves."""

    name: str
    version: str
    addresses: tuple[Address, ...]

    async def up(self) -> None:
        """Start all nodes; returns when there is a leader. Raises BenchError."""

    async def down(self) -> None:
        """End all processes; called shielded, also after a failed ``up``."""

    def remove(self) -> None:
        """Remove the files of a cluster that is down."""

    async def standing(self) -> Standing:
        """Wait until all nodes name the same leader. Raises BenchError."""

    def pids(self) -> Sequence[int]:
        """Processes of the nodes (not of what else a testnet needs)."""

    def writes(self, run: str) -> MakeWrite:
        """Makes the requests of one run, for any node; ``run`` is part of every request id."""

    async def kill(self, node: int) -> float:
        """SIGKILL; returns ``time.perf_counter()`` just before the signal."""

    async def restart(self, node: int) -> None:
        """Start a killed node on its data and wait until it has all the others have."""


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds, user and system, that these processes have used so far."""
    ticks = 0
    for pid in pids:
        try:
            text = Path("/proc", str(pid), "stat").read_text()
        except OSError:
            text = ") X"
        fields = text.rpartition(")")[2].split()
        if fields[0] in ("X", "Z"):  # dead children stay visible until they are waited for
            raise BenchError(f"a node ended during the measurement (pid {pid})")
        ticks += int(fields[11]) + int(fields[12])
    return ticks / TICKS_PER_S


def spread(leader: int, nodes: int) -> Callable[[int], int]:
    """Which node each writer talks to: the first the leader, the next ones the others in turn."""
    return lambda writer: (leader + writer) % nodes
