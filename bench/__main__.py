"""``python -m bench``: the whole run, from starting both sides to the written report."""

from __future__ import annotations

import argparse
import json
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import structlog
import trio

from deploy.testnet.launch import Say, progress

from . import (
    attestation,
    catchup,
    chain,
    core,
    etcd,
    failover,
    handshake,
    leaders,
    load,
    machine,
)
from .cluster import BenchError, Cluster, cpu_s, spread
from .ours import Ours
from .report import Phase, Report, Side

ROOM = Path(__file__).resolve().parent
RESULTS = ROOM / "results"
TOOLS = ROOM.parent / ".tools"
BASE_PORT_DEFAULT = 27600
ETCD_PORT_OFFSET = 200
WRITERS_MAX = 1024  # a node of ours takes 512 connections
DELAY_MS_MAX = 500.0
IDLE_LOOK_S = 5.0
NATIVE_WRITES_PER_CLIENT = 100
NATIVE_WRITES_MIN = 2_000
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["core"]:
        return core.main(words[1:])
    if words[:1] == ["chain"]:
        return chain.main(words[1:])
    if words[:1] == ["catchup"]:
        return catchup.main(words[1:])
    if words[:1] == ["attest"]:
        return attestation.main(words[1:])
    if words[:1] == ["handshake"]:
        return handshake.main(words[1:])
    if words[:1] == ["leaders"]:
        return leaders.main(words[1:])
    arguments = _arguments(words)
    # What the testnet's own transactions say would stand in the report.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        return trio.run(_main, arguments)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return EXIT_FAILED


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--writers", type=_numbers, default=[1, 16, 64, 256], metavar="N,N,...")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument(
        "--warmup", type=float, default=2.0, help="seconds before each, not counted"
    )
    parser.add_argument("--rounds", type=int, default=3, help="0: no load")
    parser.add_argument("--kills", type=int, default=10, help="of the leader; 0: no failover")
    parser.add_argument(
        "--soak", type=float, default=0.0, metavar="SECONDS", help="of full load on ours at the end"
    )
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument(
        "--delay-ms", type=float, default=0.0, help="how far nodes are from each other, one way"
    )
    parser.add_argument("--skip-etcd", action="store_true")
    parser.add_argument("--etcd", type=Path, metavar="FILE", help="this executable of etcd")
    parser.add_argument(
        "--etcd-go",
        action="store_true",
        help=f"use etcd {etcd.GO_VERSION} and its benchmark tool, built from the Go proxy",
    )
    parser.add_argument(
        "--etcd-benchmark",
        type=Path,
        default=TOOLS / etcd.BENCHMARK_TOOL,
        metavar="FILE",
        help="etcd's own benchmark tool, for lines over gRPC; default: the built one, if any",
    )
    parser.add_argument("--idle-wait", type=float, default=20.0, help="seconds for a quiet machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the JSON report, there too")
    parser.add_argument("--dir", type=Path, default=RESULTS / "data", help="of both sides' data")
    parser.add_argument("--base-port", type=int, default=BASE_PORT_DEFAULT)
    arguments = parser.parse_args(argv)
    if not 0 <= arguments.delay_ms <= DELAY_MS_MAX:
        parser.error(f"--delay-ms must be 0 to {DELAY_MS_MAX:.0f}")
    if arguments.seconds <= 0 or arguments.warmup < 0 or arguments.soak < 0:
        parser.error("--seconds must be more than 0, --warmup and --soak not less")
    if arguments.json is not None and not arguments.json.resolve().parent.is_dir():
        parser.error(f"--json: no folder {arguments.json.parent}")
    if arguments.rounds < 0 or arguments.kills < 0 or arguments.nodes < 4:
        parser.error("--rounds and --kills must not be negative, --nodes at least 4")
    return arguments


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    numbers = [int(part) if part.isdecimal() else 0 for part in parts]
    if not all(1 <= number <= WRITERS_MAX for number in numbers):
        raise argparse.ArgumentTypeError(f"expected numbers from 1 to {WRITERS_MAX}")
    return sorted(set(numbers))


async def _main(arguments: argparse.Namespace) -> int:
    say = progress(sys.stderr)
    failure: Exception | None = None
    outcome: Report | None = None
    # The handlers stand until the last process has ended.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            work = trio.CancelScope()
            nursery.start_soon(_interrupt, signals, work)
            clusters: list[Cluster] = []
            try:
                with work:
                    outcome = await _run(arguments, clusters, say)
            except BenchError as error:
                failure = error
            finally:
                with trio.CancelScope(shield=True):
                    for cluster in clusters:
                        say(f"stopping {cluster.name}")
                        try:
                            await cluster.down()
                            if outcome is not None:
                                cluster.remove()
                        except BenchError as error:
                            failure = failure or error
            nursery.cancel_scope.cancel()
    if failure is not None:
        logs = f" (logs are in {arguments.dir})" if clusters else ""
        raise BenchError(f"{failure}{logs}")
    if outcome is None:
        return EXIT_INTERRUPTED
    _write(outcome, arguments.json, say)
    return 0


async def _interrupt(signals: AsyncIterator[int], work: trio.CancelScope) -> None:
    async for _ in signals:
        work.cancel()


async def _run(arguments: argparse.Namespace, clusters: list[Cluster], say: Say) -> Report:
    directory = arguments.dir.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    facts = await trio.to_thread.run_sync(machine.facts, directory)
    port = arguments.base_port
    far_ms = arguments.delay_ms
    clusters.append(Ours(directory / "ours", arguments.nodes, port, say, far_ms))
    await etcd.stop_leftovers(directory / "etcd")
    if not arguments.skip_etcd:
        executable = arguments.etcd
        if arguments.etcd_go and (executable := await etcd.build(TOOLS, say)) is None:
            raise BenchError("etcd could not be built")
        if executable is None:
            executable = await etcd.find_or_install(TOOLS, say)
        if executable is not None:
            version = await etcd.version_of(executable)
            at = (directory / "etcd", arguments.nodes, port + ETCD_PORT_OFFSET, say, far_ms)
            clusters.append(etcd.Etcd(executable, version, *at))
    sides = [Side(cluster.name, cluster.version) for cluster in clusters]
    for cluster in clusters:
        await cluster.up()
    for cluster, side in zip(clusters, sides, strict=True):
        before_s = cpu_s(cluster.pids())
        await trio.sleep(IDLE_LOOK_S)
        side.idle_cpu_share = (cpu_s(cluster.pids()) - before_s) / IDLE_LOOK_S

    pairs = list(zip(clusters, sides, strict=True))
    turn = 0
    for number in range(arguments.rounds):
        for writers in arguments.writers:
            for cluster, side in pairs if turn % 2 == 0 else reversed(pairs):
                phase = await _phase(cluster, writers, arguments, arguments.seconds)
                side.phases.setdefault(writers, []).append(phase)
                measured = phase.measured
                say(
                    f"round {number + 1}, {writers} writers, {side.name}: "
                    f"{measured.commits_per_s:.0f}/s, p50 {measured.percentile_ms(50):.2f} ms, "
                    f"p99 {measured.percentile_ms(99):.2f} ms"
                )
            turn += 1
    native = await _native(arguments, clusters, say)
    for number in range(arguments.kills):
        for cluster, side in pairs if number % 2 == 0 else reversed(pairs):
            await _kill(cluster, side, say)
    if arguments.soak:
        say(f"{arguments.soak:.0f} s of full load")
        sides[0].soak = await _phase(clusters[0], max(arguments.writers), arguments, arguments.soak)
    return Report(
        date=time.strftime("%Y-%m-%d"),
        machine=facts,
        settings={
            "nodes": arguments.nodes,
            "rounds": arguments.rounds,
            "seconds": arguments.seconds,
            "warm-up seconds": arguments.warmup,
            "kills": arguments.kills,
            "ms between nodes, one way": arguments.delay_ms,
        },
        sides=sides,
        native=native,
    )


async def _phase(
    cluster: Cluster, writers: int, arguments: argparse.Namespace, seconds: float
) -> Phase:
    quiet = await machine.wait_quiet(arguments.idle_wait)
    before = await cluster.standing()
    node_of = spread(before.leader, len(cluster.addresses))
    measured = await load.measure(
        cluster.writes(secrets.token_hex(8)),
        [cluster.addresses[node_of(writer)] for writer in range(writers)],
        warmup_s=arguments.warmup,
        seconds=seconds,
        cpu_s=partial(cpu_s, cluster.pids()),
    )
    after = await cluster.standing()
    same_epoch = after.epoch == before.epoch
    return Phase(
        measured=measured,
        leader_changes=(
            after.term - before.term if same_epoch else int(after.leader != before.leader)
        ),
        revisions_unexplained=after.revision - before.revision - measured.commits_total,
        quiet_before=quiet,
    )


async def _native(
    arguments: argparse.Namespace, clusters: Sequence[Cluster], say: Say
) -> dict[int, dict[str, float]]:
    """etcd's own client over gRPC, once for each number of writers."""
    figures: dict[int, dict[str, float]] = {}
    tool: Path = arguments.etcd_benchmark
    if not os.access(tool, os.X_OK) or not arguments.rounds or len(clusters) < 2:
        return figures
    for writers in arguments.writers:
        await machine.wait_quiet(arguments.idle_wait)
        total = max(NATIVE_WRITES_MIN, NATIVE_WRITES_PER_CLIENT * writers)
        figures[writers] = await etcd.native_line(tool, clusters[1].addresses, writers, total)
        say(f"etcd over gRPC, {writers} clients: {figures[writers]['commits_per_s']:.0f}/s")
    return figures


async def _kill(cluster: Cluster, side: Side, say: Say) -> None:
    if side.failover_error:
        return
    try:
        await failover.trial(cluster, secrets.token_hex(8), side.failovers)
    except BenchError as error:  # what was measured so far must not be lost
        side.failover_error = str(error)
        say(f"{side.name}: {error}")
        return
    say(
        f"kill {len(side.failovers.times_ms)}, {side.name}: "
        f"{side.failovers.times_ms[-1]:.0f} ms without a write"
    )


def _write(report: Report, extra: Path | None, say: Say) -> None:
    print(report.as_text(), flush=True)
    document = json.dumps(report.as_json(), indent=1)
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / time.strftime("%Y-%m-%dT%H%M%S")
    stem.with_suffix(".json").write_text(document)
    stem.with_suffix(".md").write_text(report.as_markdown())
    if extra is not None:
        extra.write_text(document)
    say(f"written: {stem}.json and {stem}.md")


if __name__ == "__main__":
    sys.exit(main())
