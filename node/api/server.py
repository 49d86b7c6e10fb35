"""Sockets and connections under the API: hypercorn's HTTP/1.1 on trio, with bounds of our own.

Hypercorn alone would take any number of connections, wait for ever for a client that does not
read its answer (its send is shielded from cancellation), and speak HTTP/2 to whoever asks. Here
each connection is counted, its stream gives up on slow readers, and only HTTP/1.1 is spoken.
"""

from __future__ import annotations

import math
import os
import resource
import socket
import stat
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import h11
import structlog
import trio
from hypercorn.config import Config as HypercornConfig
from hypercorn.events import Event, RawData, Updated
from hypercorn.protocol.h11 import H2ProtocolAssumedError
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState
from hypercorn.utils import wrap_app
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from node.api.answers import encode
from node.api.bounds import (
    CONNECTIONS_MAX,
    HEADER_BYTES_MAX,
    IDLE_TIMEOUT_S,
    LARGE_ANSWERS_MAX,
    LARGE_BODIES_MAX,
    READ_PIECE_BYTES,
    SEND_TIMEOUT_S,
    STOP_GRACE_S,
    TOKEN_BYTES_MAX,
    TOKEN_BYTES_MIN,
)
from node.api.changes import ChangeStreams
from node.api.express import Express
from node.api.gate import ABORT_KEY, Gate
from node.api.kv import kv_routes
from node.api.leadership import leadership_routes
from node.api.leases import lease_routes
from node.api.reads import read_routes
from node.api.registration import registration_routes
from node.api.transactions import transaction_routes
from node.api.watch import watch_routes
from node.config import ApiConfig, Config
from node.config_values import listens_only_here
from node.deadlines import Deadlines
from node.facade import NodeFacade

log = structlog.get_logger("api")

FILES_PER_CONNECTION = 4  # of the process, which it must leave to others

_FULL_BODY = encode({"error": {"code": "busy", "message": "too many connections are open"}})
_FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_FULL_BODY), _FULL_BODY)
)


class ApiError(Exception):
    """The API cannot be served: its address is taken, its token file is unusable."""


def build_app(facade: NodeFacade, config: ApiConfig, streams: ChangeStreams) -> Gate:
    """The ASGI application: gate and routes.

    Raises:
        ApiError: the token file is unusable.
    """
    places = trio.Semaphore(LARGE_ANSWERS_MAX)
    routes = [
        *kv_routes(facade),  # first: the busy ones
        *transaction_routes(facade, places, trio.Semaphore(LARGE_BODIES_MAX)),
        *lease_routes(facade, places),
        *watch_routes(facade, streams),
        *read_routes(facade, streams),
        *registration_routes(facade),
        *leadership_routes(facade),
    ]
    token = None if config.token_file is None else read_token(config.token_file)
    return Gate(Router(routes, redirect_slashes=False), _hosts(config.listen), token)


def read_token(path: Path) -> bytes:
    """The bearer token of a file that only its owner may read.

    Raises:
        ApiError: missing, readable by others, too short or too long, not one printable word.
    """
    try:
        mode = path.stat().st_mode
        with path.open("rb") as handle:
            raw = handle.read(TOKEN_BYTES_MAX + 2).strip()
    except OSError as error:
        raise ApiError(f"api.token_file {path}: cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode) or mode & 0o077:
        raise ApiError(f"api.token_file {path}: expected a file with mode 0600 or stricter")
    if not TOKEN_BYTES_MIN <= len(raw) <= TOKEN_BYTES_MAX:
        raise ApiError(
            f"api.token_file {path}: expected {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} bytes"
        )
    if not all(0x21 <= byte <= 0x7E for byte in raw):
        raise ApiError(f"api.token_file {path}: expected printable ASCII without blanks")
    return raw


async def serve(
    facade: NodeFacade,
    config: Config,
    *,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined, unused-ignore]
) -> None:
    """Serve the API until cancelled; then give requests under way a moment and close.

    ``task_status`` gets the address clients use: ``http://host:port`` (the real port when 0 was
    configured) or ``unix:/path``.

    Raises:
        ApiError: the address cannot be bound or the token file is unusable.
    """
    streams = ChangeStreams()
    app = build_app(facade, config.api, streams)
    listener = _listen(config.api.listen)
    address = _address(config.api.listen, listener)
    connections = _Connections(facade, app)
    stopping = trio.Event()
    log.info("api_listening", address=address)
    try:
        async with trio.open_nursery() as nursery:
            holder = await nursery.start(connections.hold, stopping, streams)
            try:
                task_status.started(address)
                await trio.serve_listeners(connections.run, [listener], handler_nursery=holder)
            finally:
                stopping.set()
    finally:
        listener.socket.close()
        if address.startswith("unix:"):
            with suppress(FileNotFoundError):
                os.unlink(address.removeprefix("unix:"))


def _connections_max() -> int:
    """As many as leave most of a process's files to the store, the members and the chain, where it
    may open few: the vote log must find one whenever it needs one."""
    permitted, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if permitted == resource.RLIM_INFINITY:
        return CONNECTIONS_MAX
    return min(CONNECTIONS_MAX, permitted // FILES_PER_CONNECTION)


class _Connections:
    """The open connections of one API."""

    def __init__(self, facade: NodeFacade, app: Gate) -> None:
        self._facade = facade
        self._app = app
        self._open: set[Express | _Connection] = set()
        self._deadlines: Deadlines[Express] = Deadlines()
        self._stopping = trio.Event()
        self._context = WorkerContext(None)
        self._config = HypercornConfig()
        self._config.accesslog = None
        self._config.errorlog = None
        self._config.h11_max_incomplete_size = HEADER_BYTES_MAX
        # Pieces of a body that its request has not asked for yet. Two at least: an exchange without
        # a body ends with the end of that and the client's leaving, which nobody asks for.
        self._config.max_app_queue_size = 2
        self._config.keep_alive_max_requests = 1_000_000
        self._config.include_server_header = False
        self._config.include_date_header = False

    async def hold(
        self,
        stopping: trio.Event,
        streams: ChangeStreams,
        *,
        task_status: trio.TaskStatus[trio.Nursery] = trio.TASK_STATUS_IGNORED,  # type: ignore[name-defined, unused-ignore]
    ) -> None:
        """Keep the connections' nursery open past cancellation, for ``STOP_GRACE_S`` at most."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as clock:
                clock.start_soon(self._deadlines.run, Express.stop_if_idle)
                async with trio.open_nursery() as nursery:
                    task_status.started(nursery)
                    await stopping.wait()
                    streams.closing.set()
                    self._stopping.set()
                    await self._context.terminated.set()
                    for connection in self._open:
                        connection.stop_if_idle()
                    nursery.cancel_scope.deadline = trio.current_time() + STOP_GRACE_S
                clock.cancel_scope.cancel()

    async def run(self, stream: trio.SocketStream) -> None:
        """Serve one connection; never raises but for cancellation from outside."""
        if len(self._open) >= _connections_max():
            with (
                trio.move_on_after(1),
                suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                await stream.send_all(_FULL)
            return
        scope = trio.CancelScope()
        express = Express(self._facade, self._app, stream, scope, self._deadlines, self._stopping)
        connection: Express | _Connection = express
        self._open.add(connection)
        try:
            with scope:
                begun = await express.serve()
                if begun is None:
                    return
                self._open.discard(connection)
                app = wrap_app(_with_abort(self._app, scope.cancel), 0, "asgi")  # type: ignore[arg-type]
                connection = _Connection(app, self._config, self._context, stream, scope, begun)
                self._open.add(connection)
                await connection.run()
        except Exception:
            log.exception("api_connection_failed")
        finally:
            self._open.discard(connection)


def _with_abort(app: ASGIApp, abort: Callable[[], None]) -> ASGIApp:
    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope[ABORT_KEY] = abort
        await app(scope, receive, send)

    return application


class _Connection(TCPServer):
    """Hypercorn's connection, with three things done otherwise.

    It cannot be talked into HTTP/2. Its idle time is a deadline of its cancel scope instead of
    two tasks per request. And the head of an answer waits for the first piece of the body, so that
    an answer is one packet: both halve what a small request costs.
    """

    def __init__(
        self,
        app: AppWrapper,
        config: HypercornConfig,
        context: WorkerContext,
        stream: trio.SocketStream,
        scope: trio.CancelScope,
        begun: bytes,
    ) -> None:
        bounded = _BoundedStream(stream, scope.cancel, begun)
        super().__init__(app, config, context, ConnectionState({}), bounded)  # type: ignore[arg-type]
        self._scope = scope
        self._head = b""
        self.idle = True
        scope.deadline = trio.current_time() + IDLE_TIMEOUT_S

    async def protocol_send(self, event: Event) -> None:
        """Called by hypercorn's protocol with what shall happen to the connection."""
        if isinstance(event, RawData):
            data = self._head + event.data
            self._head = b""
            if event.data.startswith(b"HTTP/1.1 ") and not self._informational(event.data):
                self._head = data
            elif data:
                await super().protocol_send(RawData(data))
            return
        if self._head:
            head, self._head = self._head, b""
            await super().protocol_send(RawData(head))
        if isinstance(event, Updated):
            self.idle = event.idle
            self._scope.deadline = trio.current_time() + IDLE_TIMEOUT_S if event.idle else math.inf
            if event.idle and self.context.terminated.is_set():
                self._scope.cancel()
        else:
            await super().protocol_send(event)

    @staticmethod
    def _informational(head: bytes) -> bool:
        return head[9:10] == b"1"  # 100 Continue: the client waits for it, no body follows

    def stop_if_idle(self) -> None:
        """End a connection that has no request under way."""
        if self.idle:
            self._scope.cancel()

    async def _idle_timeout(self) -> None:
        """The base class starts this once; the deadline above does its work."""

    async def _read_data(self) -> None:
        self.protocol = self.protocol.protocol  # type: ignore[assignment]
        self.protocol._check_protocol = _stay_with_http1  # type: ignore[attr-defined]
        try:
            await super()._read_data()
        except H2ProtocolAssumedError:
            return


async def _stay_with_http1(request: h11.Request) -> None:
    """In place of hypercorn's way into HTTP/2. An offer to upgrade (RFC 9110, section 7.8), which
    some clients make with each first request, is not taken up, and the request is answered."""
    if request.method == b"PRI":
        raise H2ProtocolAssumedError(b"")


class _BoundedStream:
    """A socket stream that ends its connection when a send fails or the client does not read.

    Hypercorn alone would keep a connection whose send failed while the next request was already
    there: its reader waits for a recycling that never comes.
    """

    def __init__(self, stream: trio.SocketStream, abort: Callable[[], None], begun: bytes) -> None:
        self._stream = stream
        self._abort = abort
        self._begun = begun
        self.socket = stream.socket
        self.send_eof = stream.send_eof
        self.aclose = stream.aclose

    async def receive_some(self, bytes_max: int | None = None) -> bytes | bytearray:
        if self._begun:
            begun, self._begun = self._begun, b""
            return begun
        return await self._stream.receive_some(min(bytes_max or READ_PIECE_BYTES, READ_PIECE_BYTES))

    async def send_all(self, data: bytes) -> None:
        try:
            with trio.fail_after(SEND_TIMEOUT_S):
                await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._abort()
            raise
        except trio.TooSlowError:
            self._abort()
            raise trio.BrokenResourceError("the client does not read") from None


def _listen(listen: str) -> trio.SocketListener:
    """A bound, listening socket for an ``api.listen`` value."""
    if listen.startswith("unix:"):
        return _listen_unix(listen.removeprefix("unix:"))
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # inherited on accept
        sock.bind((host, int(port)))
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise ApiError(f"api.listen {listen}: cannot be bound: {error.strerror}") from None
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _listen_unix(path: str) -> trio.SocketListener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if Path(path).is_socket():
            _remove_if_dead(path)
        sock.bind(path)
        os.chmod(path, 0o660)  # before listen, so nobody is let in under wider rights
        sock.listen(1024)
    except OSError as error:
        sock.close()
        raise ApiError(f"api.listen unix:{path}: cannot be bound: {error.strerror}") from None
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _remove_if_dead(path: str) -> None:
    """Remove the socket that a killed process left; leave one that answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)


def _address(listen: str, listener: trio.SocketListener) -> str:
    if listen.startswith("unix:"):
        return listen
    host, port = listener.socket.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _hosts(listen: str) -> Collection[str] | None:
    """Names that ``Host`` may carry: on loopback its names, elsewhere the token protects."""
    if listen.startswith("unix:") or not listens_only_here(listen):
        return None
    return {"127.0.0.1", "localhost", "::1", listen.rpartition(":")[0].strip("[]")}
