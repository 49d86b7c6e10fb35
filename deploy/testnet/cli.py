"""``dstack-cluster testnet``: the verbs. Exit status 0 only when what was asked really happened."""

from __future__ import annotations

import argparse
import base64
import json
import os
import secrets
import select
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import trio
from rich.console import Console
from rich.live import Live

from node.logs import configure_command_logging

from . import (
    changes,
    faults,
    launch,
    layout,
    nodes,
    policies,
    processes,
    requests,
    survey,
    table,
)
from .layout import Testnet, TestnetError

REFRESH_S = 0.5
PLAIN_REFRESH_S = 30.0
SIGNAL_DEADLINE_S = 15.0
LOCK_WAIT_S = 10.0
CHANGE_DEADLINE_S = 60.0
EXIT_FAILED = 1
EXIT_INTERRUPTED = 130
ENDING_SIGNALS = ("KILL", "TERM", "INT", "QUIT", "HUP", "ABRT", "SEGV")

Verb = Callable[[argparse.Namespace], Awaitable[int]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status."""
    arguments = _parser().parse_args(argv)
    verb: Verb = arguments.verb
    configure_command_logging("warning")
    try:
        return trio.run(verb, arguments)
    except TestnetError as error:
        print(f"testnet: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left (``| head``); the interpreter must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dstack-cluster testnet", description="A whole cluster on this machine."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(name: str, run: Verb, text: str, *, seat: bool = False) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=run)
        sub.add_argument("--dir", type=Path, default=Path(".testnet"), help="default: .testnet")
        if seat:
            sub.add_argument("seat", type=int, metavar="SEAT")
        return sub

    up = verb("up", _up, "start chain, contract, agents and daemons; follow them until Ctrl-C")
    up.add_argument("--nodes", type=int, default=4, metavar="N")
    up.add_argument("--weights", metavar="W,W,...", help="one per node; default: all 1")
    up.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
                    help="a setting of every daemon, as of `dstack-cluster run`")  # fmt: skip
    up.add_argument("--detach", action="store_true", help="return when a leader is elected")
    up.add_argument("--base-port", type=int, default=layout.BASE_PORT_DEFAULT, metavar="P")
    up.add_argument("--deadline", type=float, default=launch.UP_DEADLINE_S, metavar="SECONDS")
    up.add_argument("--json", action="store_true", help="with --detach: print the status as JSON")

    status = verb("status", _status, "every seat, and the leader")
    status.add_argument("--json", action="store_true")
    status.add_argument("--watch", action="store_true", help="again and again until Ctrl-C")

    kill = verb("kill", _kill, "end a daemon at once; returns when it is gone", seat=True)
    kill.add_argument("--signal", default="KILL", choices=ENDING_SIGNALS)
    verb("pause", _pause, "stop a daemon with SIGSTOP", seat=True)
    verb("resume", _resume, "let a paused daemon go on", seat=True)
    start = verb("start", _start, "start a dead daemon on its old data", seat=True)
    start.add_argument("--deadline", type=float, default=30.0, metavar="SECONDS")
    logs = verb("logs", _logs, "a daemon's log", seat=True)
    logs.add_argument("-f", "--follow", action="store_true")
    logs.add_argument("-n", "--lines", type=int, default=1000)

    fault = verb("fault", _fault, "a fault of a simulated machine; none: show", seat=True)
    fault.add_argument("kind", nargs="?", choices=faults.KINDS, metavar="KIND")
    fault.add_argument("value", nargs="?", metavar="VALUE")
    fault.formatter_class = argparse.RawDescriptionHelpFormatter
    fault.epilog = faults.HELP

    policy = verb("policy", _policy, "set what members must prove of their machines, on the chain")
    policy.add_argument(
        "--compose",
        action="append",
        metavar="NAME",
        help=f"take this app compose (see `fault`); repeat it; default: {policies.ORIGINAL}",
    )
    policy.add_argument(
        "--tcb", action="append", default=[], metavar="STATUS", help="take this TCB status, too"
    )
    policy.add_argument("--show", action="store_true", help="print the policy, set nothing")

    add = verb("add", _add, "grant a seat and start a node that joins with the next epoch")
    add.add_argument("--weight", type=int, default=1, metavar="W")
    verb("leave", _leave, "deactivate a seat; its node stays as an observer", seat=True)
    verb("rejoin", _rejoin, "let a deactivated seat's node register again", seat=True)
    weight = verb("weight", _weight, "change the weight of a seat", seat=True)
    weight.add_argument("weight", type=int, metavar="W")
    verb("replace", _replace, "another machine (disk, instance, key) on a dead seat", seat=True)

    verb("recover", _recover, "a quorum is lost: give up dead seats, go on with the others")

    put = verb("put", _put, "write a key; returns when the write is committed")
    put.add_argument("key")
    put.add_argument("value")
    put.add_argument("--request-id", help="the same id is applied once; default: random")
    get = verb("get", _get, "print a key's value; exit status 1 when there is none")
    get.add_argument("key")
    get.add_argument("--stale", action="store_true", help="what the node has, without a quorum")
    for sub in (put, get):
        sub.add_argument("--seat", type=int, help="ask this node; default: the leader, then any")
        sub.add_argument("--deadline", type=float, default=30.0, metavar="SECONDS")
        sub.add_argument("--json", action="store_true")

    down = verb("down", _down, "stop everything and remove the directory")
    down.add_argument("--keep", action="store_true", help="keep the directory, for its logs")
    return parser


# --- up, and following it ---------------------------------------------------------------------


async def _up(arguments: argparse.Namespace) -> int:
    weights = layout.parse_weights(arguments.weights, arguments.nodes)
    directory = _directory(arguments)
    say = launch.progress(sys.stderr if arguments.json else sys.stdout)
    failure: Exception | None = None
    ours = False  # from when on it is our business to stop what runs in the directory
    hurry = trio.Event()
    # Handlers stand before the first process and until after the last: a second Ctrl-C must not
    # end this command while something still runs.
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:
            work = trio.CancelScope()
            nursery.start_soon(_interrupt, signals, work, hurry)
            try:
                with work:
                    await launch.bring_up(
                        directory, weights, arguments.base_port, say, arguments.deadline,
                        tuple(arguments.set),
                    )  # fmt: skip
                    ours = not arguments.detach
                    if ours:
                        say("following; Ctrl-C stops everything")
                        await _follow(directory)
                        say("stopped by another command")
                    else:
                        await _say_detached(arguments, directory, say)
            except Exception as error:  # also: whoever read our output is gone
                failure = error
            if ours and layout.exists(directory):
                say("stopping (again Ctrl-C: at once)")
                try:
                    with trio.CancelScope(shield=True):
                        await launch.stop_everything(layout.load(directory), hurry=hurry)
                    logs = directory / "log"  # `testnet down` may remove it at the same time
                    say("everything is stopped" + f"; the logs stay in {logs}" * logs.exists())
                except TestnetError as error:
                    failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return EXIT_INTERRUPTED if work.cancelled_caught and not ours else 0


async def _interrupt(
    signals: AsyncIterator[int], work: trio.CancelScope, hurry: trio.Event
) -> None:
    async for _ in signals:
        if work.cancel_called:
            hurry.set()
        work.cancel()


async def _say_detached(arguments: argparse.Namespace, directory: Path, say: launch.Say) -> None:
    if arguments.json:
        print(json.dumps((await survey.take(layout.load(directory))).as_json()))
    else:
        say(f"runs in the background; stop it: testnet down --dir {arguments.dir}")


async def _follow(directory: Path) -> None:
    """Show the table until cancelled, or until another command stopped the testnet."""
    console = Console()
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=False) as live:
            async for seen in _surveys(directory):
                live.update(table.render(seen, _clock()), refresh=True)
        return
    # Into a file or pipe: once whenever something changes, and now and then.
    shown: tuple[object, ...] = ()
    shown_s = 0.0
    async for seen in _surveys(directory):
        if _reader_left():  # it is noticed at once, not when there is something to print
            raise BrokenPipeError
        now_s = time.monotonic()
        if table.fingerprint(seen) != shown or now_s - shown_s >= PLAIN_REFRESH_S:
            shown, shown_s = table.fingerprint(seen), now_s
            print(table.as_text(seen, _clock()), flush=True)


async def _surveys(directory: Path) -> AsyncIterator[survey.Survey]:
    while True:
        if not layout.exists(directory):
            return
        testnet = layout.load(directory)  # again each time: `start` records new processes
        if not processes.is_alive(testnet.chain):
            return
        yield await survey.take(testnet)
        await trio.sleep(REFRESH_S)


def _reader_left() -> bool:
    """True when standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def _clock() -> str:
    return time.strftime("%H:%M:%S")


# --- looking ----------------------------------------------------------------------------------


async def _status(arguments: argparse.Namespace) -> int:
    directory = _directory(arguments)
    if not arguments.watch:
        _show(await survey.take(layout.load(directory)), arguments.json)
        return 0
    layout.load(directory)
    if not arguments.json:
        await _follow(directory)
        return 0
    async for seen in _surveys(directory):
        _show(seen, True)
    return 0


def _show(seen: survey.Survey, as_json: bool) -> None:
    if as_json:
        print(json.dumps(seen.as_json()), flush=True)
    elif sys.stdout.isatty():
        Console().print(table.render(seen))
    else:
        print(table.as_text(seen), end="", flush=True)


async def _logs(arguments: argparse.Namespace) -> int:
    testnet = layout.load(_directory(arguments))
    testnet.node(arguments.seat)
    path = testnet.node_log(arguments.seat)
    if not path.exists():
        raise TestnetError(f"seat {arguments.seat} has no log yet")
    if not arguments.follow:
        print(processes.tail(path, max(0, arguments.lines), bytes_max=4 << 20))
        return 0
    with path.open("rb") as log:
        print(processes.tail(path, 20), flush=True)
        log.seek(0, 2)
        while path.exists():
            chunk = log.read(65536)
            if not chunk:
                await trio.sleep(0.2)  # a plain file has no event for growth
                continue
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    return 0


# --- harming and healing ----------------------------------------------------------------------


def _living(testnet: Testnet, seat: int) -> layout.ProcessRecord:
    record = testnet.node(seat).process
    if record is None or not processes.is_alive(record):
        raise TestnetError(f"seat {seat} is dead (start it: testnet start {seat})")
    return record


async def _kill(arguments: argparse.Namespace) -> int:
    await kill(layout.load(_directory(arguments)), arguments.seat, arguments.signal)
    print(f"seat {arguments.seat}: gone")
    return 0


async def kill(testnet: Testnet, seat: int, signal_name: str = "KILL") -> None:
    """Send the signal and wait until the daemon is gone. Raises TestnetError."""
    record = _living(testnet, seat)
    processes.send(record, signal.Signals[f"SIG{signal_name}"])
    if not await processes.wait_gone(record, SIGNAL_DEADLINE_S):
        raise TestnetError(f"seat {seat} (pid {record.pid}) still runs after {signal_name}")


async def _pause(arguments: argparse.Namespace) -> int:
    await pause(layout.load(_directory(arguments)), arguments.seat)
    print(f"seat {arguments.seat}: paused")
    return 0


async def pause(testnet: Testnet, seat: int) -> None:
    """Stop the daemon and wait until the kernel says so. Raises TestnetError."""
    record = _living(testnet, seat)
    processes.send(record, signal.SIGSTOP)
    if not await processes.wait_paused(record, True, SIGNAL_DEADLINE_S):
        raise TestnetError(f"seat {seat} (pid {record.pid}) did not stop")


async def _resume(arguments: argparse.Namespace) -> int:
    await resume(layout.load(_directory(arguments)), arguments.seat)
    print(f"seat {arguments.seat}: runs")
    return 0


async def resume(testnet: Testnet, seat: int) -> None:
    """Let a paused daemon go on. Raises TestnetError, also when it was not paused."""
    record = _living(testnet, seat)
    if not processes.is_paused(record):
        raise TestnetError(f"seat {seat} is not paused")
    processes.send(record, signal.SIGCONT)
    if not await processes.wait_paused(record, False, SIGNAL_DEADLINE_S):
        raise TestnetError(f"seat {seat} (pid {record.pid}) did not go on")


async def _start(arguments: argparse.Namespace) -> int:
    testnet = await start(_directory(arguments), arguments.seat, arguments.deadline)
    record = testnet.node(arguments.seat).process
    print(f"seat {arguments.seat}: answers (pid {record.pid if record else '-'})")
    return 0


async def start(directory: Path, seat: int, deadline_s: float) -> Testnet:
    """Start a dead daemon on its old data and wait for its API. Raises TestnetError."""
    async with layout.locked(directory, LOCK_WAIT_S):
        testnet = layout.load(directory)
        if processes.is_alive(testnet.node(seat).process):
            raise TestnetError(f"seat {seat} runs already")
        if not processes.is_alive(testnet.chain) or not processes.is_alive(testnet.agents):
            raise TestnetError("the testnet is down: its chain or guest agents do not run")
        record = nodes.start(testnet, seat)
        testnet = testnet.with_node_process(seat, record)
        testnet.save()
    await nodes.wait_answers(testnet, seat, deadline_s)
    return testnet


async def _fault(arguments: argparse.Namespace) -> int:
    directory, seat = _directory(arguments), arguments.seat
    if arguments.kind is None:
        found = faults.of(layout.load(directory), seat)
    else:
        found = await faults.give(directory, seat, arguments.kind, arguments.value)
    print(f"seat {seat}: {json.dumps(found.to_json()) if found.to_json() else 'a sound machine'}")
    return 0


async def _policy(arguments: argparse.Namespace) -> int:
    directory = _directory(arguments)
    text = policies.text(
        layout.load(directory),
        composes=arguments.compose or (policies.ORIGINAL,),
        statuses=arguments.tcb,
    )
    if arguments.show:
        print(text.decode())
        return 0
    await policies.put_in_force(directory, text, CHANGE_DEADLINE_S)
    print("the policy is on the chain; members follow when it is final")
    return 0


# --- who belongs ------------------------------------------------------------------------------


async def _add(arguments: argparse.Namespace) -> int:
    seat = await changes.add(_directory(arguments), arguments.weight, CHANGE_DEADLINE_S)
    print(f"seat {seat}: granted, its node answers; it joins with the next epoch")
    return 0


async def _leave(arguments: argparse.Namespace) -> int:
    await changes.leave(_directory(arguments), arguments.seat, CHANGE_DEADLINE_S)
    print(f"seat {arguments.seat}: deactivated")
    return 0


async def _rejoin(arguments: argparse.Namespace) -> int:
    await changes.rejoin(_directory(arguments), arguments.seat, CHANGE_DEADLINE_S)
    print(f"seat {arguments.seat}: its instance is bound again, its node may register")
    return 0


async def _weight(arguments: argparse.Namespace) -> int:
    directory = _directory(arguments)
    await changes.set_weight(directory, arguments.seat, arguments.weight, CHANGE_DEADLINE_S)
    print(f"seat {arguments.seat}: weight {arguments.weight}")
    return 0


async def _recover(arguments: argparse.Namespace) -> int:
    epoch, height = await changes.recover(_directory(arguments), CHANGE_DEADLINE_S)
    print(f"epoch {epoch} goes on from height {height}; what was final above it is lost")
    return 0


async def _replace(arguments: argparse.Namespace) -> int:
    await changes.replace_machine(_directory(arguments), arguments.seat, CHANGE_DEADLINE_S)
    print(f"seat {arguments.seat}: another machine answers; it votes with the next epoch")
    return 0


async def _down(arguments: argparse.Namespace) -> int:
    await down(_directory(arguments), keep=arguments.keep)
    print(f"everything is stopped{'' if arguments.keep else ' and removed'}")
    return 0


async def down(directory: Path, *, keep: bool = False) -> None:
    """Stop everything, verify that nothing is left, remove the files. Raises TestnetError."""
    if not layout.exists(directory):
        raise TestnetError(f"no testnet in {directory}")
    async with layout.locked(directory, LOCK_WAIT_S):
        testnet = layout.load(directory)
        await launch.stop_everything(testnet)
        if not keep:
            layout.remove(testnet)


# --- key-value --------------------------------------------------------------------------------


async def _put(arguments: argparse.Namespace) -> int:
    testnet = layout.load(_directory(arguments))
    request_id = arguments.request_id or secrets.token_hex(16)
    written = await requests.put(
        testnet,
        arguments.key.encode(errors="surrogateescape"),
        arguments.value.encode(errors="surrogateescape"),
        request_id=request_id.encode(),
        seat=arguments.seat,
        deadline_s=arguments.deadline,
    )
    if arguments.json:
        values: dict[str, Any] = {
            "key": arguments.key,
            "revision": written.revision,
            "existed": written.existed,
            "request_id": request_id,
        }
        print(json.dumps(values))
    else:
        print(f"revision {written.revision}")
    return 0


async def _get(arguments: argparse.Namespace) -> int:
    entry = await requests.get(
        layout.load(_directory(arguments)),
        arguments.key.encode(errors="surrogateescape"),
        linearizable=not arguments.stale,
        seat=arguments.seat,
        deadline_s=arguments.deadline,
    )
    if arguments.json:
        print(json.dumps(_entry_json(arguments.key, entry)))
    elif entry is not None:
        sys.stdout.buffer.write(entry.value + b"\n")
        sys.stdout.buffer.flush()
    if entry is None:
        print(f"testnet: no key {arguments.key!r}", file=sys.stderr)
        return EXIT_FAILED
    return 0


def _entry_json(key: str, entry: requests.Entry | None) -> dict[str, Any]:
    if entry is None:
        return {"key": key, "found": False}
    return {
        "key": key,
        "found": True,
        "value": entry.value.decode(errors="replace"),
        "value_base64": base64.b64encode(entry.value).decode(),
        "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision,
        "version": entry.version,
    }


def _directory(arguments: argparse.Namespace) -> Path:
    return Path(arguments.dir).absolute()


if __name__ == "__main__":
    sys.exit(main())
