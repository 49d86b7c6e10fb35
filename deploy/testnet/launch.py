"""The order of starting and stopping.

Up: chain, contract, agents, seats (granted to one wallet each, bound to the agent's instance), node
accounts, daemons, launch of the contract when every daemon has registered, leader. Whatever step
fails, and when the command is interrupted, everything that was started is stopped again.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TextIO

import trio

from . import agents, chain, layout, nodes, policies, processes, survey
from .layout import Testnet, TestnetError

UP_DEADLINE_S = 120.0
POLL_S = 0.25
STOP_GRACE_S = 10.0
STRAY_ROUNDS_MAX = 5

Say = Callable[[str], None]


def progress(out: TextIO) -> Say:
    """A ``say`` that writes the seconds since now before each line.

    A closed terminal or pipe must not end the command that starts or stops processes.
    """
    begin_s = time.monotonic()

    def say(text: str) -> None:
        with contextlib.suppress(OSError):
            print(f"[{time.monotonic() - begin_s:6.1f} s] {text}", file=out, flush=True)

    return say


def prepare(
    directory: Path,
    weights: tuple[int, ...],
    base_port: int,
    say: Say,
    settings: tuple[str, ...] = (),
    announced_offset: int = 0,
) -> Testnet:
    """Check everything that can be checked before a process starts, and make the directory.

    Raises TestnetError: one already runs there, the folder holds something else, ports are taken,
    or a tool is missing.
    """
    layout.find_anvil()
    earlier = layout.load(directory) if layout.exists(directory) else None
    if earlier is not None:
        running = sorted(name for name, p in earlier.processes().items() if processes.is_alive(p))
        if running or processes.marked(earlier.mark):
            raise TestnetError(
                f"a testnet runs in {directory} ({', '.join(running) or 'unrecorded processes'}); "
                "stop it first: testnet down"
            )
        # Its chain lived in anvil's memory, so nothing of it could ever run again.
        say(f"removing what is left of a stopped testnet in {directory}")
        layout.remove(earlier)
    testnet = layout.create(directory, weights, base_port, settings, announced_offset)
    try:
        layout.check_ports(testnet.ports())
    except TestnetError:
        layout.remove(testnet)
        raise
    agents.make_root(testnet)
    return testnet


async def bring_up(
    directory: Path,
    weights: tuple[int, ...],
    base_port: int,
    say: Say,
    deadline_s: float = UP_DEADLINE_S,
    settings: tuple[str, ...] = (),
    announced_offset: int = 0,
) -> Testnet:
    """Start a testnet and return once it has a leader; on any failure nothing is left running.

    ``settings`` are SECTION.KEY=VALUE for its daemons. With ``announced_offset`` each says that it
    is reached that many ports above the one where it listens; the caller runs what listens there.

    Raises TestnetError with what is missing and the tail of the log that tells most.
    """
    async with layout.locked(directory):
        testnet = prepare(directory, weights, base_port, say, settings, announced_offset)
        try:
            with trio.move_on_after(deadline_s):
                return await _steps(testnet, say)
            raise TestnetError(await _what_is_missing(layout.load(directory), deadline_s))
        except BaseException:
            with trio.CancelScope(shield=True):
                await stop_everything(layout.load(directory), grace_s=2.0)
            raise


async def _steps(testnet: Testnet, say: Say) -> Testnet:
    chain_process = chain.start(testnet)
    testnet = replace(testnet, chain=chain_process)
    testnet.save()
    await chain.wait_ready(testnet)
    say(f"anvil {testnet.rpc_url} (pid {chain_process.pid})")

    agents_process = agents.start(testnet)
    testnet = replace(testnet, agents=agents_process)
    testnet.save()
    await agents.wait_ready(testnet)
    say(f"{len(testnet.nodes)} guest agents (one simulator, pid {agents_process.pid})")

    kms_root = agents.kms_root(testnet)
    registry = await chain.deploy(testnet, kms_root)
    testnet = replace(testnet, contract=registry.address)
    testnet.save()
    say(f"registry {registry.address}")

    identities = await agents.identities(testnet, registry.contract)
    await registry.grant_and_bind(identities, policies.text(testnet))
    weights = ", ".join(str(node.weight) for node in testnet.nodes)
    say(f"{len(testnet.nodes)} seats granted and bound, weights {weights}")

    for node in testnet.nodes:
        nodes.write_config(testnet, node)
        process = nodes.start(testnet, node.seat)
        testnet = testnet.with_node_process(node.seat, process)
        testnet.save()
        say(f"node {node.seat} {testnet.api_url(node.seat)} (pid {process.pid})")

    current = testnet
    founders = await registry.wait_all_active(lambda: _check_daemons(current))
    say("every seat is registered on the chain")
    await registry.launch(founders)
    await registry.aclose()
    say("registry launched: this is the validator set of epoch 0")

    seen = await wait_leader(testnet)
    say(f"leader: seat {seen.leader} in term {seen.term}")
    return testnet


async def wait_leader(testnet: Testnet) -> survey.Survey:
    """Wait until all daemons answer and members of more than 2/3 of the weight report one leader.

    Raises TestnetError when a daemon ends meanwhile; the caller bounds the time.
    """
    while True:
        _check_daemons(testnet)
        seen = await survey.take(testnet)
        if seen.leader is not None and all(node.answers for node in seen.nodes):
            return seen
        await trio.sleep(POLL_S)


def _check_daemons(testnet: Testnet) -> None:
    for node in testnet.nodes:
        if not processes.is_alive(node.process):
            log = testnet.node_log(node.seat)
            raise TestnetError(f"node {node.seat} ended; end of {log}:\n{processes.tail(log)}")


async def _what_is_missing(testnet: Testnet, deadline_s: float) -> str:
    lines = [f"not up after {deadline_s:.0f} s"]
    log = testnet.log("anvil")
    if not processes.is_alive(testnet.chain):
        lines.append("anvil does not run")
    elif not processes.is_alive(testnet.agents) or not testnet.contract:
        lines.append("the guest agents or the contract are not ready")
        log = testnet.log("agents")
    else:
        seen = await survey.take(testnet)
        lines += seen.why() or ["a leader is known, but not every daemon answers"]
        worst = next((n for n in seen.nodes if not n.answers), seen.nodes[0])
        log = testnet.node_log(worst.seat)
    lines.append(f"end of {log}:\n{processes.tail(log)}")
    return "\n".join(lines)


async def stop_everything(
    testnet: Testnet, grace_s: float = STOP_GRACE_S, hurry: trio.Event | None = None
) -> None:
    """Stop daemons first, then agents and chain, then whatever else carries the mark; verify it.

    ``hurry`` set: no more grace, SIGKILL. Raises TestnetError when something survives that.
    """
    recorded = testnet.processes()
    daemons = [process for name, process in recorded.items() if name.startswith("node")]
    services = [process for name, process in recorded.items() if not name.startswith("node")]
    await _stop(daemons, grace_s, hurry)
    await _stop(services, grace_s, hurry)
    # A process that a killed command started but did not record, or that one of ours started.
    for _ in range(STRAY_ROUNDS_MAX):
        strays = processes.marked(testnet.mark)
        if not strays:
            return
        await _stop(strays, grace_s, hurry)
    pids = [process.pid for process in processes.marked(testnet.mark)]
    if pids:
        raise TestnetError(f"processes of this testnet are still there: {pids}")


async def _stop(
    records: list[layout.ProcessRecord], grace_s: float, hurry: trio.Event | None
) -> None:
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:

            async def watch() -> None:
                if hurry is not None:
                    await hurry.wait()
                    scope.cancel()

            nursery.start_soon(watch)
            await processes.stop(records, grace_s)
        nursery.cancel_scope.cancel()
