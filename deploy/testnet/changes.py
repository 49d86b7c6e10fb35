"""Changes of a running testnet's membership: each is a transaction, and the cluster follows it.

The verbs return when the chain has the change and the daemon concerned runs. That the cluster
opens its next epoch shows in ``testnet status``: the registry leads, members follow what is final.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import trio

from . import agents, chain, layout, nodes, processes
from .layout import NodeRecord, Testnet, TestnetError
from .survey import fetch_status

LOCK_WAIT_S = 10.0


async def add(directory: Path, weight: int, deadline_s: float) -> int:
    """Grant a seat and start a node on it; the seat. It joins with the next epoch."""
    async with changing(directory, deadline_s) as (testnet, desk):
        if len(testnet.nodes) >= layout.NODES_MAX:
            raise TestnetError(f"a testnet has at most {layout.NODES_MAX} nodes")
        if not 1 <= weight <= layout.WEIGHT_MAX:
            raise TestnetError(f"a weight is a whole number from 1 to {layout.WEIGHT_MAX}")
        seat = await desk.grant(weight)
        ports = {
            testnet.p2p_port(seat): f"node {seat} (p2p)",
            testnet.api_port(seat): f"node {seat} (API)",
        }
        layout.check_ports(ports)
        testnet.node_dir(seat).mkdir(mode=0o700)
        testnet = await _new_machine(testnet, desk, NodeRecord(seat, weight, ""))
        nodes.write_config(testnet, testnet.node(seat))
        testnet = _start(testnet, seat)
    await nodes.wait_answers(testnet, seat, deadline_s)
    return seat


async def leave(directory: Path, seat: int, deadline_s: float) -> None:
    """Deactivate a seat; its daemon goes on as an observer."""
    async with changing(directory, deadline_s) as (testnet, desk):
        testnet.node(seat)
        await desk.deactivate(seat)


async def rejoin(directory: Path, seat: int, deadline_s: float) -> None:
    """Let the machine of a deactivated seat register again, which its daemon then does."""
    async with changing(directory, deadline_s) as (testnet, desk):
        await desk.bind(seat, await agents.identity(testnet, desk.contract, seat))


async def set_weight(directory: Path, seat: int, weight: int, deadline_s: float) -> None:
    """Change a seat's weight."""
    async with changing(directory, deadline_s) as (testnet, desk):
        await desk.set_weight(seat, weight)
        testnet.with_node(replace(testnet.node(seat), weight=weight)).save()


async def replace_machine(directory: Path, seat: int, deadline_s: float) -> None:
    """Put another machine on a seat whose daemon is dead: no disk, another instance and key."""
    async with changing(directory, deadline_s) as (testnet, desk):
        node = testnet.node(seat)
        if processes.is_alive(node.process):
            raise TestnetError(f"seat {seat} runs: kill it first")
        shutil.rmtree(testnet.node_dir(seat) / "data", ignore_errors=True)
        testnet = await _new_machine(testnet, desk, node)
        nodes.write_config(testnet, testnet.node(seat))
        testnet = _start(testnet, seat)
    await nodes.wait_answers(testnet, seat, deadline_s)


async def recover(directory: Path, deadline_s: float) -> tuple[int, int]:
    """Break the glass: give up the seats whose daemons are dead and go on with the others.

    All seat owners, whose wallets a testnet has, vote for the highest block that a survivor shows;
    what was final above it is lost. Returns the new epoch and that block's height.
    """
    async with changing(directory, deadline_s) as (testnet, desk):
        alive = [node.seat for node in testnet.nodes if processes.is_alive(node.process)]
        found = await _statuses(testnet, alive)
        if not found:
            raise TestnetError("no node answers: nobody is left to go on with")
        best = max(found, key=lambda status: (status["epoch"], status["height"]))
        for node in testnet.nodes:
            if node.seat not in alive and await desk.is_active(node.seat):
                await desk.deactivate(node.seat)
        seats = [node.seat for node in testnet.nodes]
        epoch, height = best["membership"]["recovery_epoch"], best["height"]
        vote = (epoch, height, bytes.fromhex(best["block_hash"]))
        await desk.vote_recovery(seats, *vote)
        await desk.recover(seats, *vote)
        await desk.wait_time(chain.RECOVERY_DELAY_S)
        await desk.recover(seats, *vote)
    return epoch, height


async def _statuses(testnet: Testnet, seats: list[int]) -> list[dict[str, Any]]:
    """What those of the seats say whose core runs."""
    async with httpx.AsyncClient(trust_env=False, timeout=2.0) as client:
        answers = [await fetch_status(client, testnet.api_url(seat)) for seat in seats]
    return [answer for answer in answers if answer is not None and answer.get("block_hash")]


@asynccontextmanager
async def changing(
    directory: Path, deadline_s: float
) -> AsyncIterator[tuple[Testnet, chain.RegistryDesk]]:
    """The testnet under its lock, and the desk of all its wallets, for a bounded time."""
    async with layout.locked(directory, LOCK_WAIT_S):
        testnet = layout.load(directory)
        if not processes.is_alive(testnet.chain):
            raise TestnetError("the testnet is down: its chain does not run")
        desk = chain.open_desk(testnet)
        try:
            with trio.fail_after(deadline_s):
                yield testnet, desk
        except trio.TooSlowError:
            raise TestnetError(f"the chain did not take it within {deadline_s:.0f} s") from None
        finally:
            await desk.aclose()


async def _new_machine(testnet: Testnet, desk: chain.RegistryDesk, node: NodeRecord) -> Testnet:
    """A guest agent with an instance of its own for the seat, bound to it on the chain."""
    seed = secrets.token_hex(20)
    socket = testnet.socket_dir / f"{node.seat}-{seed[:8]}.sock"
    former = node.agent
    record = agents.start_one(testnet, socket, seed)
    testnet = testnet.with_node(replace(node, instance_seed=seed, agent=record))
    testnet.save()
    if former is not None:
        await processes.stop([former], 2.0)
    await agents.wait_one_ready(testnet, node.seat)
    await desk.bind(node.seat, await agents.identity(testnet, desk.contract, node.seat))
    return testnet


def _start(testnet: Testnet, seat: int) -> Testnet:
    testnet = testnet.with_node_process(seat, nodes.start(testnet, seat))
    testnet.save()
    return testnet
