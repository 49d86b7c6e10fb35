"""The peer: etcd with as many members, its default timers and its default durability (fsync).

Writes go through etcd's own JSON gateway, so that one client speaks to both sides. Its
native gRPC spares the server that work: ``native_line`` measures it with etcd's own tool.
"""

from __future__ import annotations

import base64
import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import trio

from deploy.testnet import layout, processes
from deploy.testnet.launch import Say
from deploy.testnet.layout import ProcessRecord, TestnetError

from .cluster import Address, BenchError, MakeWrite, Standing
from .distance import Relays
from .values import KEYS_PER_WRITER, VALUE_BYTES, VALUES_BASE64
from .wire import request

GO_MODULE = "go.etcd.io/etcd"
GO_VERSION = "v3.5.21"
SERVER_TOOL = "etcd"
BENCHMARK_TOOL = "etcd-benchmark"
UP_DEADLINE_S = 60.0
STEADY_DEADLINE_S = 60.0
GONE_DEADLINE_S = 15.0
VERSION_DEADLINE_S = 10.0
INSTALL_DEADLINE_S = 600.0
POLL_S = 0.05
NATIVE_CONNECTIONS_MAX = 16  # gRPC runs many clients over one connection, so more only cost
MARK_FILE = "mark"
MARK = re.compile("[0-9a-f]{32}")


async def find_or_install(tools: Path, say: Say) -> Path | None:
    """etcd's executable: from PATH, Debian's package, or built from the Go proxy into ``tools``.

    None when none of these can be had; ``say`` has then told why.
    """
    found = shutil.which("etcd")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        say("etcd: installing Debian's etcd-server")
        await _call(["apt-get", "install", "-y", "-q", "etcd-server"], Path("/"), say)
        found = shutil.which("etcd")
    if found is not None:
        return Path(found)
    built = await build(tools, say)
    if built is None:
        say("etcd: not found. `apt-get install etcd-server` as root, or put etcd or go on PATH")
    return built


async def build(tools: Path, say: Say) -> Path | None:
    """``etcd`` and ``etcd-benchmark`` in ``tools`` from the Go proxy, unless they are there.

    None when there is no Go, or it failed; ``say`` has then told why.
    """
    targets = {
        tools / SERVER_TOOL: f"{GO_MODULE}/server/v3",
        tools / BENCHMARK_TOOL: f"{GO_MODULE}/v3/tools/benchmark",
    }
    if not all(os.access(target, os.X_OK) for target in targets):
        if not shutil.which("go"):
            say("etcd: go is not on PATH")
            return None
        say(f"etcd: building {GO_VERSION} from the Go proxy (minutes)")
        # A module of our own around it: `go install` refuses modules with replace directives.
        source = tools / "etcd-build"
        source.mkdir(parents=True, exist_ok=True)
        commands = [["go", "mod", "init", "bench"]] if not (source / "go.mod").exists() else []
        commands += [["go", "get", f"{package}@{GO_VERSION}"] for package in targets.values()]
        commands += [["go", "build", "-o", str(out), package] for out, package in targets.items()]
        for command in commands:
            if not await _call(command, source, say):
                return None
    return tools / SERVER_TOOL


async def _call(command: list[str], cwd: Path, say: Say) -> bool:
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with trio.move_on_after(INSTALL_DEADLINE_S):
        result = await trio.run_process(
            command,
            cwd=cwd,
            env=environment,
            check=False,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
        )
        if result.returncode == 0:
            return True
        end = result.stdout.decode("utf-8", "replace").strip().splitlines()[-3:]
        say(f"{command[0]} failed: {' / '.join(end)}")
        return False
    say(f"{command[0]}: not done after {INSTALL_DEADLINE_S:.0f} s")
    return False


async def version_of(executable: Path) -> str:
    """The version that an etcd says it is. Raises BenchError when it is none."""
    try:
        with trio.fail_after(VERSION_DEADLINE_S):
            done = await trio.run_process([executable, "--version"], capture_stdout=True)
    except (OSError, subprocess.CalledProcessError, trio.TooSlowError) as error:
        raise BenchError(f"{executable} is no etcd that runs here: {error}") from None
    first = done.stdout.decode("utf-8", "replace").partition("\n")[0]
    if not first.startswith("etcd Version: "):
        raise BenchError(f"{executable} is no etcd; it says {first[:60]!r}")
    return first.removeprefix("etcd Version: ").strip()


async def stop_leftovers(directory: Path) -> None:
    """End the members of an earlier run in that directory; one that was killed could not."""
    try:
        mark = (directory / MARK_FILE).read_text()
    except FileNotFoundError:
        return
    if MARK.fullmatch(mark):
        await processes.stop(processes.marked(mark), grace_s=5.0)


@dataclass(frozen=True, slots=True)
class _Said:
    """What one member says of itself."""

    member: int
    leader: int
    term: int
    revision: int
    applied: int


class Etcd:
    """An etcd cluster in a folder of its own."""

    name = "etcd"

    def __init__(
        self,
        executable: Path,
        executable_version: str,
        directory: Path,
        nodes: int,
        base_port: int,
        say: Say,
        delay_ms: float = 0.0,
    ) -> None:
        self.version = executable_version
        self._executable = executable
        self._directory = directory
        self._say = say
        self._clients = [base_port + node for node in range(nodes)]
        self._peers = [base_port + 50 + node for node in range(nodes)]
        self._relays = Relays(self._peers, delay_ms)
        self._mark = secrets.token_hex(16)
        self._records: list[ProcessRecord] = []
        self.addresses: tuple[Address, ...] = tuple(("127.0.0.1", p) for p in self._clients)

    async def up(self) -> None:
        """See ``Cluster``."""
        await stop_leftovers(self._directory)
        shutil.rmtree(self._directory, ignore_errors=True)
        self._directory.mkdir(parents=True)
        (self._directory / MARK_FILE).write_text(self._mark)  # before the first process
        try:
            layout.check_ports({port: "etcd" for port in self._clients + self._peers})
            self._relays.start()
            for node in range(len(self._clients)):
                self._records.append(self._spawn(node))
        except TestnetError as error:
            raise BenchError(f"etcd: {error}") from None
        standing = await self.standing()
        self._say(f"etcd: {len(self._records)} members, leader {standing.leader + 1}")

    async def down(self) -> None:
        """See ``Cluster``; the logs stay."""
        self._relays.stop()
        await processes.stop(processes.marked(self._mark), grace_s=5.0)
        left = [record.pid for record in processes.marked(self._mark)]
        if left:
            raise BenchError(f"etcd: still there: {left}")

    async def standing(self) -> Standing:
        """See ``Cluster``: all members have applied the same and name the same leader."""
        said: list[_Said | None] = []
        with trio.move_on_after(STEADY_DEADLINE_S):
            async with httpx.AsyncClient(timeout=1.0, trust_env=False) as client:
                while True:
                    said = [await _ask(client, port) for port in self._clients]
                    found = _agreed(said)
                    if found is not None:
                        return found
                    for node, record in enumerate(self._records):
                        if not processes.is_alive(record):
                            end = processes.tail(self._log(node), 5)
                            raise BenchError(f"etcd: member {node + 1} ended:\n{end}")
                    await trio.sleep(POLL_S)
        raise BenchError(f"etcd: no steady state within {STEADY_DEADLINE_S:.0f} s: {said}")

    def remove(self) -> None:
        """See ``Cluster``."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def pids(self) -> Sequence[int]:
        """See ``Cluster``."""
        return [record.pid for record in self._records]

    def writes(self, run: str) -> MakeWrite:
        """See ``Cluster``; etcd knows no request ids, so ``run`` is not used."""

        def make(writer: int, count: int) -> bytes:
            key = base64.b64encode(b"bench/%d/%d" % (writer, count % KEYS_PER_WRITER)).decode()
            value = VALUES_BASE64[count % len(VALUES_BASE64)]
            body = f'{{"key":"{key}","value":"{value}"}}'.encode()
            headers = {"content-type": "application/json"}
            return request("POST", "/v3/kv/put", "127.0.0.1", headers, len(body)) + body

        return make

    async def kill(self, node: int) -> float:
        """See ``Cluster``."""
        begin_s = time.perf_counter()
        if not processes.send(self._records[node], signal.SIGKILL):
            raise BenchError(f"etcd: member {node + 1} was dead before it was killed")
        return begin_s

    async def restart(self, node: int) -> None:
        """See ``Cluster``."""
        if not await processes.wait_gone(self._records[node], GONE_DEADLINE_S):
            raise BenchError(f"etcd: member {node + 1} survived SIGKILL")
        try:
            self._records[node] = self._spawn(node)
        except TestnetError as error:
            raise BenchError(f"etcd: {error}") from None
        await self.standing()

    def _log(self, node: int) -> Path:
        return self._directory / f"m{node + 1}.log"

    def _spawn(self, node: int) -> ProcessRecord:
        def url(port: int) -> str:
            return f"http://127.0.0.1:{port}"

        announced = [url(port + self._relays.offset) for port in self._peers]
        members = ",".join(f"m{i + 1}={where}" for i, where in enumerate(announced))
        options = {
            "name": f"m{node + 1}",
            "data-dir": str(self._directory / f"m{node + 1}"),
            "listen-client-urls": url(self._clients[node]),
            "advertise-client-urls": url(self._clients[node]),
            "listen-peer-urls": url(self._peers[node]),
            "initial-advertise-peer-urls": announced[node],
            "initial-cluster": members,
            "initial-cluster-token": self._mark,
            "logger": "zap",
            "log-level": "warn",
        }
        return processes.spawn(
            [str(self._executable), *(f"--{name}={value}" for name, value in options.items())],
            log=self._log(node),
            mark=self._mark,
            cwd=self._directory,
        )


def _agreed(said: Sequence[_Said | None]) -> Standing | None:
    whole = [one for one in said if one is not None]
    if len(whole) != len(said):
        return None
    if len({(one.leader, one.term, one.applied) for one in whole}) != 1:
        return None
    for node, one in enumerate(whole):
        if one.member == one.leader:
            return Standing(node, 0, one.term, max(other.revision for other in whole))
    return None


async def _ask(client: httpx.AsyncClient, port: int) -> _Said | None:
    try:
        url = f"http://127.0.0.1:{port}/v3/maintenance/status"
        answer = await client.post(url, content=b"{}")
        values = answer.json()
        return _Said(
            member=int(values["header"]["member_id"]),
            leader=int(values["leader"]),
            term=int(values["raftTerm"]),
            revision=int(values["header"]["revision"]),
            applied=int(values.get("raftAppliedIndex", 0)),
        )
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


async def native_line(
    tool: Path, addresses: Sequence[Address], writers: int, total: int
) -> dict[str, float]:
    """Writes by etcd's own ``benchmark put`` over gRPC: commits/s, p50 and p99 in ms.

    Raises:
        BenchError: the tool failed or printed something else.
    """
    endpoints = ",".join(f"{host}:{port}" for host, port in addresses)
    command = [
        str(tool),
        f"--endpoints={endpoints}",
        f"--conns={min(writers, NATIVE_CONNECTIONS_MAX)}",
        f"--clients={writers}",
        "put",
        f"--total={total}",
        f"--val-size={VALUE_BYTES}",
        "--key-size=16",
        "--key-space-size=4096",
    ]
    with trio.move_on_after(INSTALL_DEADLINE_S):
        done = await trio.run_process(
            command, check=False, capture_stdout=True, stderr=subprocess.STDOUT
        )
        return read_native(done.stdout.decode("utf-8", "replace"))
    raise BenchError(f"{tool}: not done after {INSTALL_DEADLINE_S:.0f} s")


def read_native(text: str) -> dict[str, float]:
    """The figures in what ``benchmark put`` prints. Raises BenchError when they are not there."""
    found = {
        "commits_per_s": re.search(r"Requests/sec:\s+([0-9.]+)", text),
        "p50_ms": re.search(r"50% in ([0-9.]+) secs", text),
        "p99_ms": re.search(r"99% in ([0-9.]+) secs", text),
    }
    figures: dict[str, float] = {}
    for name, match in found.items():
        if match is None:
            raise BenchError(f"etcd's benchmark printed no {name}: {text.strip()[-300:]!r}")
        figures[name] = float(match[1]) * (1000 if name.endswith("_ms") else 1)
    return figures
