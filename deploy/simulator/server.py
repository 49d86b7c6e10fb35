"""Serves simulated guest agents over HTTP/1.1, one Unix socket for each, all in one process.

Semantics of the real agent: POST with JSON (by content type or ``?json``), GET with a query, an
``X-App-Version`` header on every answer, 400/404/413 as it gives them. Every request and the
number of connections are bounded.
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

from .kms import INSTANCE_SEED_BYTES, AppKeys, issue_app_keys
from .methods import (
    DEFAULT_APP_COMPOSE,
    DEFAULT_APP_NAME,
    Agent,
    Reply,
    answer,
    error_reply,
    is_mounted,
    not_mounted,
)

HEADER_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 1024 * 1024
READ_BYTES = 64 * 1024
CONNECTIONS_MAX = 64  # per agent; further ones are closed at once
REQUEST_DEADLINE_S = 30  # from the first wait for a request to its whole answer
ERROR_DEADLINE_S = 1  # for telling a client that its request was no HTTP
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
    """One KMS root (secret), one app (20 bytes) and its nodes; which guest APIs are served."""

    kms_root: SecretKey
    app_id: bytes
    nodes: tuple[Node, ...]
    serves_v0: bool = True
    serves_v1: bool = True
    app_name: str = DEFAULT_APP_NAME
    app_compose: str = DEFAULT_APP_COMPOSE

    def __post_init__(self) -> None:
        if not self.nodes:
            raise ValueError("a simulator serves at least one node")
        if len({os.path.abspath(node.socket_path) for node in self.nodes}) != len(self.nodes):
            raise ValueError("two nodes share a socket path")


@dataclass(frozen=True, slots=True)
class Serving:
    """What ``serve`` reports once every socket accepts: addresses and ids are 20 bytes."""

    root: bytes
    app_id: bytes
    instances: Mapping[str, bytes]  # socket path -> instance id


async def serve(
    config: SimulatorConfig,
    *,
    task_status: trio.TaskStatus[Serving] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; then remove the sockets. Raises OSError if one cannot be bound."""
    keys = issue_app_keys(config.kms_root.reveal(), config.app_id)
    agents = {node.socket_path: _agent(config, keys, node) for node in config.nodes}
    with ExitStack() as cleanup:
        listeners = {}
        for path in agents:
            listener, inode = await _listen(path)
            cleanup.callback(_remove_socket, path, inode)
            listeners[path] = listener
        async with trio.open_nursery() as nursery:
            for path, agent in agents.items():
                handler = partial(_serve_connection, agent, trio.CapacityLimiter(CONNECTIONS_MAX))
                await nursery.start(partial(trio.serve_listeners, handler, [listeners[path]]))
            task_status.started(
                Serving(
                    root=address_of_key(config.kms_root.public_key()),
                    app_id=config.app_id,
                    instances={path: agent.instance_id for path, agent in agents.items()},
                )
            )


def _agent(config: SimulatorConfig, keys: AppKeys, node: Node) -> Agent:
    return Agent(
        keys=keys,
        seed=node.seed,
        app_name=config.app_name,
        app_compose=config.app_compose,
        serves_v0=config.serves_v0,
        serves_v1=config.serves_v1,
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


async def _serve_connection(
    agent: Agent, limiter: trio.CapacityLimiter, stream: trio.SocketStream
) -> None:
    async with stream:
        try:
            limiter.acquire_nowait()
        except trio.WouldBlock:
            return
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)
        try:
            await _serve_requests(agent, connection, stream)
        except h11.RemoteProtocolError as error:
            if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                reply = Reply(error.error_status_hint, b"", is_json=False)
                with trio.move_on_after(ERROR_DEADLINE_S):
                    await _send(agent, connection, stream, reply, close=True)
        except trio.BrokenResourceError:
            pass  # the client is gone, and with it whoever could hear of it
        finally:
            limiter.release()


async def _serve_requests(
    agent: Agent, connection: h11.Connection, stream: trio.SocketStream
) -> None:
    while True:
        with trio.move_on_after(REQUEST_DEADLINE_S) as deadline:
            if not await _serve_request(agent, connection, stream):
                return
        if deadline.cancelled_caught:
            return
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return  # the client wants no further request on this connection
        connection.start_next_cycle()


async def _serve_request(
    agent: Agent, connection: h11.Connection, stream: trio.SocketStream
) -> bool:
    """Read and answer one request; False when the connection is to be closed."""
    request = await _next_event(connection, stream)
    if not isinstance(request, h11.Request):
        return False
    body = bytearray()
    while True:
        event = await _next_event(connection, stream)
        if isinstance(event, h11.EndOfMessage):
            break
        if not isinstance(event, h11.Data):
            return False
        body += event.data
        if len(body) > BODY_BYTES_MAX:
            # The rest of the body is not read, so nothing after it can be: close.
            reply = Reply(413, b"", is_json=False)
            await _send(agent, connection, stream, reply, close=True)
            return False
    await _send(agent, connection, stream, _dispatch(agent, request, bytes(body)), close=False)
    return True


def _dispatch(agent: Agent, request: h11.Request, body: bytes) -> Reply:
    target = request.target.decode("ascii")
    raw_path, _, query = target.partition("?")
    path = unquote(raw_path)
    if request.method not in (b"GET", b"POST"):
        return Reply(404, b"", is_json=False)  # no body: the method may be HEAD
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


async def _next_event(connection: h11.Connection, stream: trio.SocketStream) -> object:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        if connection.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            await stream.send_all(connection.send(go_on) or b"")
        connection.receive_data(await stream.receive_some(READ_BYTES))


async def _send(
    agent: Agent,
    connection: h11.Connection,
    stream: trio.SocketStream,
    reply: Reply,
    *,
    close: bool,
) -> None:
    headers = [
        ("X-App-Version", agent.version),
        ("Content-Type", "application/json" if reply.is_json else "text/plain; charset=utf-8"),
        ("Content-Length", str(len(reply.body))),
    ]
    if close:
        headers.append(("Connection", "close"))
    response = h11.Response(status_code=reply.status, headers=headers)
    data = connection.send(response) or b""
    if reply.body:
        data += connection.send(h11.Data(data=reply.body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    await stream.send_all(data)
