"""Where a testnet keeps its files and ports, and the state file that every verb reads.

DIR/testnet.json   this module's ``Testnet`` (mode 0600, replaced whole)
DIR/lock           held while a verb changes testnet.json
DIR/kms-root       the one KMS root secret, for the simulator only (mode 0600); the mock TDX
                   authority grows of it, too
DIR/tdx-root.der   that authority's certificate, which the daemons are told to trust
DIR/faults.json    what is wrong with which simulated machine, once something is (mode 0600)
DIR/wallets.json   keys of the contract's and the seats' owners, worth nothing (mode 0600)
DIR/deployment.json  which registry it is: the daemons' anchor
DIR/log/           anvil.log, agents.log, node-SEAT.log
DIR/node-SEAT/     config.toml and the daemon's data directory
socket_dir         the agents' Unix sockets; outside DIR when its path is too long for them
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import trio

STATE_FILE = "testnet.json"
STATE_BYTES_MAX = 1 << 20
FORMAT = 1
P2P_PORT = 10  # these two above the base, and the seat above that
API_PORT = 50
NODES_MAX = API_PORT - P2P_PORT
SOCKET_PATH_BYTES_MAX = 100  # the kernel takes 107; the rest is for the file name's growth
WEIGHT_MAX = 1_000_000
BASE_PORT_DEFAULT = 26600
LOCK_POLL_S = 0.05
REPOSITORY = Path(__file__).resolve().parents[2]


class TestnetError(Exception):
    """A verb could not do what it was asked; the text is for the person who typed it."""

    __test__ = False  # the name starts like a test class


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process that we started. The start time tells it from a later one with the same pid."""

    pid: int
    start_ticks: int  # field 22 of /proc/PID/stat: clock ticks since boot


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One seat of the testnet; ``process`` is the last daemon that was started for it."""

    seat: int
    weight: int
    instance_seed: str  # hex, 20 bytes
    process: ProcessRecord | None = None
    agent: ProcessRecord | None = None  # a guest agent of its own, for a machine that came later


@dataclass(frozen=True, slots=True)
class Testnet:
    """The whole state of one testnet; ``mark`` stands in the environment of all its processes."""

    __test__ = False

    directory: Path
    mark: str
    base_port: int
    socket_dir: Path
    app_id: str  # hex, 20 bytes
    contract: str  # 0x..., empty until deployed
    chain: ProcessRecord | None
    agents: ProcessRecord | None
    nodes: tuple[NodeRecord, ...]
    settings: tuple[str, ...] = ()  # SECTION.KEY=VALUE for every daemon that is started
    announced_offset: int = 0  # from a p2p port to the port at which others find it: a relay's

    @property
    def rpc_port(self) -> int:
        return self.base_port

    @property
    def rpc_url(self) -> str:
        return f"http://127.0.0.1:{self.rpc_port}"

    @property
    def pccs_port(self) -> int:
        return self.base_port + 1

    @property
    def pccs_url(self) -> str:
        return f"http://127.0.0.1:{self.pccs_port}"

    @property
    def weight_total(self) -> int:
        return sum(node.weight for node in self.nodes)

    @property
    def kms_root_file(self) -> Path:
        return self.directory / "kms-root"

    @property
    def tdx_root_file(self) -> Path:
        return self.directory / "tdx-root.der"

    @property
    def fault_file(self) -> Path:
        return self.directory / "faults.json"

    def p2p_port(self, seat: int) -> int:
        return self.base_port + P2P_PORT + seat

    def api_port(self, seat: int) -> int:
        return self.base_port + API_PORT + seat

    def api_url(self, seat: int) -> str:
        return f"http://127.0.0.1:{self.api_port(seat)}"

    def ports(self) -> dict[int, str]:
        """Every port the testnet listens on, with what listens there."""
        ports = {self.rpc_port: "anvil", self.pccs_port: "the PCCS"}
        for node in self.nodes:
            ports[self.p2p_port(node.seat)] = f"node {node.seat} (p2p)"
            ports[self.api_port(node.seat)] = f"node {node.seat} (API)"
        return ports

    def socket(self, seat: int) -> Path:
        """Of the seat's guest agent; a later machine's has a name of its own."""
        later = next((n for n in self.nodes if n.seat == seat and n.agent is not None), None)
        name = f"{seat}-{later.instance_seed[:8]}" if later else str(seat)
        return self.socket_dir / f"{name}.sock"

    @property
    def deployment_file(self) -> Path:
        return self.directory / "deployment.json"

    def log(self, name: str) -> Path:
        return self.directory / "log" / f"{name}.log"

    def node_log(self, seat: int) -> Path:
        return self.log(f"node-{seat}")

    def node_dir(self, seat: int) -> Path:
        return self.directory / f"node-{seat}"

    def node_config(self, seat: int) -> Path:
        return self.node_dir(seat) / "config.toml"

    def node(self, seat: int) -> NodeRecord:
        """The record of that seat. Raises TestnetError when there is none."""
        for node in self.nodes:
            if node.seat == seat:
                return node
        seats = ", ".join(str(node.seat) for node in self.nodes)
        raise TestnetError(f"no seat {seat} in this testnet (seats: {seats})")

    def with_node(self, record: NodeRecord) -> Testnet:
        """A copy with this record, in place of the seat's former one or added."""
        others = [node for node in self.nodes if node.seat != record.seat]
        nodes = sorted([*others, record], key=lambda node: node.seat)
        return replace(self, nodes=tuple(nodes))

    def with_node_process(self, seat: int, process: ProcessRecord) -> Testnet:
        """A copy in which that seat's daemon is ``process``."""
        return self.with_node(replace(self.node(seat), process=process))

    def processes(self) -> dict[str, ProcessRecord]:
        """Recorded processes by name, daemons first: the order in which they are stopped."""
        found = {f"node {n.seat}": n.process for n in self.nodes if n.process is not None}
        found |= {f"agent {n.seat}": n.agent for n in self.nodes if n.agent is not None}
        if self.agents is not None:
            found["agents"] = self.agents
        if self.chain is not None:
            found["anvil"] = self.chain
        return found

    def save(self) -> None:
        """Replace the state file in one step."""
        values = asdict(self)
        del values["directory"]
        values["socket_dir"] = str(self.socket_dir)
        values["format"] = FORMAT
        write_private(self.directory / STATE_FILE, json.dumps(values, indent=1).encode())


def parse_weights(text: str | None, nodes: int) -> tuple[int, ...]:
    """The weights of all seats, from ``3,2,2,2``; all 1 when ``text`` is None."""
    if not 1 <= nodes <= NODES_MAX:
        raise TestnetError(f"--nodes must be 1 to {NODES_MAX}, not {nodes}")
    if text is None:
        return (1,) * nodes
    parts = text.split(",")
    if len(parts) != nodes:
        raise TestnetError(f"--weights has {len(parts)} numbers for {nodes} nodes")
    weights = []
    for part in parts:
        part = part.strip()
        if not (part.isascii() and part.isdigit() and 1 <= int(part[:9]) <= WEIGHT_MAX):
            raise TestnetError(f"a weight is a whole number from 1 to {WEIGHT_MAX}, not {part!r}")
        weights.append(int(part))
    return tuple(weights)


def create(
    directory: Path,
    weights: tuple[int, ...],
    base_port: int,
    settings: tuple[str, ...] = (),
    announced_offset: int = 0,
) -> Testnet:
    """Make the directory of a new testnet and its secrets; nothing runs yet.

    The directory must be new, empty, or hold nothing but a stopped testnet's files, which the
    caller has removed. Raises TestnetError.
    """
    if not 1024 <= base_port <= 65535 - 100:
        raise TestnetError(f"--base-port must be 1024 to {65535 - 100}, not {base_port}")
    directory.mkdir(parents=True, exist_ok=True)
    foreign = sorted(entry.name for entry in directory.iterdir() if entry.name != "lock")
    if foreign:
        raise TestnetError(f"{directory} is not empty ({foreign[0]}, ...) and holds no testnet")
    (directory / "log").mkdir()
    testnet = Testnet(
        directory=directory,
        mark=secrets.token_hex(16),
        base_port=base_port,
        socket_dir=_make_socket_dir(directory),
        app_id=secrets.token_hex(20),
        contract="",
        chain=None,
        agents=None,
        nodes=tuple(
            NodeRecord(seat, weight, secrets.token_hex(20))
            for seat, weight in enumerate(weights, start=1)
        ),
        settings=settings,
        announced_offset=announced_offset,
    )
    testnet.save()
    for node in testnet.nodes:
        testnet.node_dir(node.seat).mkdir(mode=0o700)
    return testnet


def load(directory: Path) -> Testnet:
    """Read the state file. Raises TestnetError when there is none or it is damaged."""
    path = directory / STATE_FILE
    try:
        with path.open("rb") as file:
            raw = file.read(STATE_BYTES_MAX + 1)
    except FileNotFoundError:
        raise TestnetError(f"no testnet in {directory} (start one: testnet up --nodes 4)") from None
    if len(raw) > STATE_BYTES_MAX:
        raise TestnetError(f"{path} is larger than {STATE_BYTES_MAX} bytes")
    try:
        values = json.loads(raw)
        if values.pop("format") != FORMAT:
            raise ValueError("another format number")
        return Testnet(
            directory=directory,
            mark=str(values["mark"]),
            base_port=int(values["base_port"]),
            socket_dir=Path(values["socket_dir"]),
            app_id=str(values["app_id"]),
            contract=str(values["contract"]),
            chain=_process(values["chain"]),
            agents=_process(values["agents"]),
            nodes=tuple(
                NodeRecord(
                    int(n["seat"]),
                    int(n["weight"]),
                    str(n["instance_seed"]),
                    _process(n["process"]),
                    _process(n.get("agent")),
                )
                for n in values["nodes"]
            ),
            settings=tuple(map(str, values.get("settings", ()))),
            announced_offset=int(values.get("announced_offset", 0)),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TestnetError(f"{path} is damaged: {error}") from None


def exists(directory: Path) -> bool:
    """Whether a testnet, running or not, is recorded there."""
    return (directory / STATE_FILE).is_file()


def remove(testnet: Testnet) -> None:
    """Remove the testnet's own files, and the directory if nothing else is in it."""
    shutil.rmtree(testnet.socket_dir, ignore_errors=True)
    for node in testnet.nodes:
        shutil.rmtree(testnet.node_dir(node.seat), ignore_errors=True)
    shutil.rmtree(testnet.directory / "log", ignore_errors=True)
    for name in ("kms-root", "tdx-root.der", "wallets.json", "deployment.json", "faults.json"):
        (testnet.directory / name).unlink(missing_ok=True)
    for leftover in testnet.directory.glob(f".{STATE_FILE}.*"):
        leftover.unlink(missing_ok=True)
    # The state file goes last: until then a failed removal can be repeated.
    (testnet.directory / STATE_FILE).unlink(missing_ok=True)
    (testnet.directory / "lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        testnet.directory.rmdir()


@contextlib.asynccontextmanager
async def locked(directory: Path, wait_s: float = 0.0) -> AsyncIterator[None]:
    """Hold the directory against other verbs that change it.

    Raises TestnetError when another verb still holds it after ``wait_s``.
    """
    descriptor = _open_lock(directory)
    try:
        deadline_s = trio.current_time() + wait_s
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if trio.current_time() >= deadline_s:
                    raise TestnetError(
                        f"another command is changing the testnet in {directory}"
                    ) from None
                await trio.sleep(LOCK_POLL_S)
        yield
    finally:
        _close_lock(directory, descriptor)


def _open_lock(directory: Path) -> int:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        return os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TestnetError(f"cannot use {directory}: {error.strerror}") from None


def _close_lock(directory: Path, descriptor: int) -> None:
    os.close(descriptor)
    if not exists(directory):  # refused, or removed: leave nothing of ours in the folder
        (directory / "lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            directory.rmdir()


def check_ports(ports: dict[int, str]) -> None:
    """Raise TestnetError that names every port of ``ports`` which somebody listens on."""
    taken = []
    for port, user in sorted(ports.items()):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # Closed connections of an earlier run must not count as taken, a listener must.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                taken.append(f"{port} for {user}")
    if taken:
        raise TestnetError(
            f"ports in use: {', '.join(taken)}; choose others with "
            f"--base-port (make testnet ARGS='--base-port {BASE_PORT_DEFAULT + 1000}')"
        )


def find_anvil(repository: Path = REPOSITORY) -> Path:
    """The anvil executable that npm installed. Raises TestnetError when it is not there."""
    pattern = "contracts/evm/node_modules/@foundry-rs/anvil-linux-*/bin/anvil"
    for path in sorted(repository.glob(pattern)):
        if os.access(path, os.X_OK):
            return path
    raise TestnetError(f"no anvil at {repository}/{pattern}: run `make setup`")


def write_private(path: Path, content: bytes) -> None:
    """Write a file with mode 0600 so that a reader sees the old or the new content, never half."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _process(values: dict[str, Any] | None) -> ProcessRecord | None:
    if values is None:
        return None
    return ProcessRecord(int(values["pid"]), int(values["start_ticks"]))


def _make_socket_dir(directory: Path) -> Path:
    inside = directory / "sockets"
    if len(os.fsencode(inside)) <= SOCKET_PATH_BYTES_MAX - len("/99-01234567.sock"):
        inside.mkdir(mode=0o700)
        return inside
    return Path(tempfile.mkdtemp(prefix="dstack-testnet-"))
