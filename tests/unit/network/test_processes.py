"""A peer that is a real process: stopped, continued, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from .conftest import FAST, Network, address, node_key, secret_of

PROGRAM = """
import sys, trio
from dataclasses import replace
from node.network import Mesh, NetworkLimits, PeerAddress
secret, cluster, key, endpoint = sys.argv[1:]
mesh = Mesh(secret=bytes.fromhex(secret), cluster_id=bytes.fromhex(cluster), seat=2,
            listen="/ip4/127.0.0.1/tcp/0",
            limits=NetworkLimits(heartbeat_s=0.1, dead_after_s=2.0, dial_grace_s=0.1,
                                 backoff_min_s=0.05, backoff_max_s=0.3))
mesh.set_members([PeerAddress(1, bytes.fromhex(key), endpoint)])
trio.run(mesh.run)
"""


@contextmanager
def member_process(endpoint: str) -> Iterator[subprocess.Popen[bytes]]:
    arguments = [secret_of(2).hex(), (b"\xc1" * 32).hex(), node_key(secret_of(1)).hex(), endpoint]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        stdout=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.processes
async def test_a_stopped_a_continued_and_a_killed_process_are_noticed(network: Network) -> None:
    a = await network.start(1, members=[address(2)], limits=FAST, dead_after_s=3.0)
    with member_process(a.mesh.listen_address) as process:
        await a.up(2)
        process.send_signal(signal.SIGSTOP)
        assert await a.down(2) == "silent"
        process.send_signal(signal.SIGCONT)
        await a.up(2)
        process.kill()
        # Not by silence: the kernel of a dead process closes its sockets.
        assert await a.down(2) in ("closed_by_peer", "connection_lost")
        await trio.to_thread.run_sync(process.wait)
