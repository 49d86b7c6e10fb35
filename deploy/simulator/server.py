"""Serves simulated guest agents over HTTP/1.1, one Unix socket for each, all in one process.

Semantics of the real agent: POST with JSON (by content type or ``?json``), GET with a query, an
``X-App-Version`` header on every answer, 400/404/413 as it gives them. Beside them, where asked
for, the PCCS with the mock authority's statements, on a loopback port.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import parse_qs, unquote

import h11
import trio

from attest.keys import SecretKey, address_of_key

from .attester import Attester
from .faults import NO_FAULTS, FaultFile, FaultFileError, Faults
from .http_server import CONNECTIONS_MAX, PLAIN, HttpService, Reply, Respond
from .kms import INSTANCE_SEED_BYTES, AppKeys, issue_app_keys
from .methods import (
    DEFAULT_APP_COMPOSE,
    DEFAULT_APP_NAME,
    Agent,
    answer,
    error_reply,
    is_mounted,
    not_mounted,
)
from .pccs import MockPccs
from .tdx_pki import TdxPki

QUERY_FIELDS_MAX = 64
SOCKET_PATH_BYTES_MAX = 107  # sun_path without its final zero


@dataclass(frozen=True, slots=True)
class Node:
    """One agent: where it listens, and the 20-byte seed of its instance id."""

    socket_path: str
    seed: bytes

    def __post_init__(self) -> None:
        if len(self.seed) != INSTANCE_SEED_BYTES:
            raise ValueError(f"an instance seed has {INSTANCE_SEED_BYTES} bytes")
        if not 0 < len(os.fsencode(self.socket_path)) <= SOCKET_PATH_BYTES_MAX:
            raise ValueError(
                f"a socket path has 1 to {SOCKET_PATH_BYTES_MAX} bytes: {self.socket_path}"
            )


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """One KMS root (secret), one app (20 bytes) and its nodes; which guest APIs are served.

    ``is_old``: as agents before 0.5.6, see ``Agent``.
    ``fault_file``: what is wrong with the machines at the moment; absent means nothing.
    ``pccs_port``: of the mock PCCS on loopback, 0 for any free one, None for no PCCS.
    """

    kms_root: SecretKey
    app_id: bytes
    nodes: tuple[Node, ...]
    serves_v0: bool = True
    serves_v1: bool = True
    is_old: bool = False
    app_name: str = DEFAULT_APP_NAME
    app_compose: str = DEFAULT_APP_COMPOSE
    fault_file: str | None = None
    pccs_port: int | None = None

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("a simulator serves at least one node")
        if len({os.path.abspath(node.socket_path) for node in self.nodes}) != len(self.nodes):
            raise ValueError("two nodes share a socket path")


@dataclass(frozen=True, slots=True)
class Serving:
    """What ``serve`` reports once every socket accepts: addresses and ids are 20 bytes.

    ``tdx_root`` is the mock authority's root certificate, DER.
    """

    root: bytes
    app_id: bytes
    instances: Mapping[str, bytes]  # socket path -> instance id
    tdx_root: bytes
    pccs_url: str | None


async def serve(
    config: SimulatorConfig,
    *,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; then remove the sockets. Raises OSError if one cannot be bound."""
    keys = issue_app_keys(config.kms_root.reveal(), config.app_id)
    faults = FaultFile(config.fault_file)
    agents = {node.socket_path: _agent(config, keys, node, faults) for node in config.nodes}
    pki = TdxPki.of_kms_root(config.kms_root.reveal())
    with ExitStack() as cleanup:
        services: list[tuple[HttpService, trio.SocketListener]] = []
        for path, agent in agents.items():
            listener, inode = await _listen(path)
            cleanup.callback(_remove_socket, path, inode)
            headers = (("X-App-Version", agent.version),)
            service = HttpService(_or_500(partial(_dispatch, agent)), headers)
            services.append((service, listener))
        pccs_url = None
        if config.pccs_port is not None:
            (listener,) = await trio.open_tcp_listeners(config.pccs_port, host="127.0.0.1")
            pccs_url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
            pccs = MockPccs(pki, is_down=lambda: faults.plan().pccs_is_down)
            services.append((HttpService(_or_500(pccs.respond)), listener))
        async with trio.open_nursery() as nursery:
            for service, listener in services:
                serve_one = partial(trio.serve_listeners, service.serve_connection, [listener])
                await nursery.start(serve_one)
            task_status.started(
                Serving(
                    root=address_of_key(config.kms_root.public_key()),
                    app_id=config.app_id,
                    instances={
                        path: agent.attester.machine().instance_id for path, agent in agents.items()
                    },
                    tdx_root=pki.root_der,
                    pccs_url=pccs_url,
                )
            )


def _agent(config: SimulatorConfig, keys: AppKeys, node: Node, faults: FaultFile) -> Agent:
    def current() -> Faults:
        return faults.plan().nodes.get(node.socket_path, NO_FAULTS)

    return Agent(
        keys=keys,
        attester=Attester(
            config.kms_root.reveal(),
            seed=node.seed,
            app_id=config.app_id,
            app_compose=config.app_compose,
            faults=current,
        ),
        app_name=config.app_name,
        serves_v0=config.serves_v0,
        serves_v1=config.serves_v1,
        is_old=config.is_old,
    )


async def _listen(path: str) -> tuple[trio.SocketListener, int]:
    """Bind a socket that only the owner can open; a stale one of a dead process is replaced."""
    if await _is_stale(path):
        os.unlink(path)
    sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    try:
        # The mask, not a later chmod: the socket must never have been open to others.
        mask = os.umask(0o177)
        try:
            await sock.bind(path)
        finally:
            os.umask(mask)
        sock.listen(CONNECTIONS_MAX)
        return trio.SocketListener(sock), os.stat(path).st_ino
    except BaseException:
        sock.close()
        raise


async def _is_stale(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise FileExistsError(errno.EEXIST, "exists and is not a socket", path)
        stream = await trio.open_unix_socket(path)
    except FileNotFoundError:
        return False
    except ConnectionRefusedError:
        return True
    await stream.aclose()
    raise OSError(errno.EADDRINUSE, "another process serves this socket", path)


def _remove_socket(path: str, inode: int) -> None:
    try:
        # Somebody may have put another socket there since; that one is not ours to remove.
        if os.lstat(path).st_ino == inode:
            os.unlink(path)
    except FileNotFoundError:
        pass


def _or_500(respond: Respond) -> Respond:
    def guarded(request: h11.Request, body: bytes) -> Reply:
        try:
            return respond(request, body)
        except FaultFileError as error:
            return error_reply(500, str(error))

    return guarded


def _dispatch(agent: Agent, request: h11.Request, body: bytes) -> Reply:
    target = request.target.decode("ascii")
    raw_path, _, query = target.partition("?")
    path = unquote(raw_path)
    if request.method not in (b"GET", b"POST"):
        return Reply(404, b"", PLAIN)  # no body: the method may be HEAD
    if not is_mounted(agent, path):
        return not_mounted()
    fields: Any
    try:
        parsed = parse_qs(query, keep_blank_values=True, max_num_fields=QUERY_FIELDS_MAX)
        if request.method == b"GET":
            fields = {name: values[-1] for name, values in parsed.items()}
        else:
            content_type = next((v for n, v in request.headers if n == b"content-type"), b"")
            media_type = content_type.partition(b";")[0].strip().lower()
            if media_type != b"application/json" and "json" not in parsed:
                return error_reply(400, "send JSON: this simulator reads no protobuf")
            fields = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return error_reply(400, "Invalid request: not valid JSON or query")
    if not isinstance(fields, dict):
        return error_reply(400, "Invalid request: expected a JSON object")
    return answer(agent, path, fields)
