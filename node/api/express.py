"""The express lane: plain ``PUT /v1/kv/{key}`` requests, served without the general server.

On a small machine the general HTTP server costs several times what it takes to commit a write, and
nearly all requests of a busy client have one simple shape. That shape is taken here: one read, one
call, one write. Whatever else comes - another method or path, a query, chunks, a header with a
meaning for the connection, a head that is not whole or not plain, anybody to be refused - is not
judged: its bytes go, as they came, to the general server, which has the connection from then on.
So this file can say yes or step aside, and every "no" is said in one place.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import trio
from starlette.responses import Response

from node.api import bounds
from node.api.answers import Refused
from node.api.bounds import HEADER_BYTES_MAX
from node.api.gate import Gate
from node.api.kv import PREFIX
from node.api.values import RESERVED_PREFIX
from node.deadlines import Deadlines
from node.facade import KEY_BYTES_MAX, REQUEST_ID_BYTES_MAX, VALUE_BYTES_MAX, NodeFacade

READ_BYTES = HEADER_BYTES_MAX + VALUE_BYTES_MAX
BODY_PATIENCE_S = 0.05  # for a body that comes in packets of its own

KV_PATH = PREFIX.decode()  # as far as the gate looks

_LINE = re.compile(rb'PUT (/v1/kv/[!"$->@-~]+) HTTP/1\.1')
# Blanks around a value are stripped later: a pattern that could give them to one of several parts
# would try all ways to, and its time would grow with the cube of their number.
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t -~\x80-\xff]*)")
# What changes how a request is read or a connection goes on.
_NOT_PLAIN = frozenset(
    {b"transfer-encoding", b"expect", b"upgrade", b"te", b"trailer", b"http2-settings"}
)
_ONCE = frozenset(
    {b"host", b"content-length", b"idempotency-key", b"origin", b"authorization", b"connection"}
)


# The answer of the general server to the same write: ``answer`` in bytes.
_WRITTEN = (
    b"HTTP/1.1 200 \r\ncontent-length: %d\r\ncontent-type: application/json\r\n"
    b"cache-control: no-store\r\n\r\n%b"
)
_BOOLEANS = (b"false", b"true")


class Plain(NamedTuple):
    """The head of a plain request; its body begins at ``body_at`` of the buffer."""

    path: bytes
    known: dict[bytes, bytes]  # those of _ONCE that came, by lower-case name
    body_at: int
    end: int


def parse_head(data: bytes) -> Plain | None:
    """The plain request that ``data`` begins with; None when it is not one, or not whole."""
    head_end = data.find(b"\r\n\r\n", 0, HEADER_BYTES_MAX)
    if head_end < 0:
        return None
    first, *lines = data[:head_end].split(b"\r\n")
    line = _LINE.fullmatch(first)
    if line is None:
        return None
    known: dict[bytes, bytes] = {}
    for raw in lines:
        header = _HEADER.fullmatch(raw)
        if header is None:
            return None
        name = header[1].lower()
        if name in _ONCE:
            if name in known:
                return None
            known[name] = header[2].strip(b" \t")
        elif name in _NOT_PLAIN:
            return None
    length = known.get(b"content-length", b"")
    if not length.isdigit() or len(length) > 6 or int(length) > VALUE_BYTES_MAX:
        return None
    if b"host" not in known or known.get(b"connection", b"keep-alive").lower() != b"keep-alive":
        return None
    body_at = head_end + 4
    return Plain(line[1], known, body_at, body_at + int(length))


class Express:
    """One connection, as long as its requests are plain.

    Args:
        scope: of the connection.
        deadlines: of all connections; calls ``stop_if_idle`` when this one's passes.
        stopping: set when the service ends: an answered request is then the last.
    """

    def __init__(
        self,
        facade: NodeFacade,
        gate: Gate,
        stream: trio.SocketStream,
        scope: trio.CancelScope,
        deadlines: Deadlines[Express],
        stopping: trio.Event,
    ) -> None:
        self._facade = facade
        self._gate = gate
        self._stream = stream
        self._fd = stream.socket.fileno()
        self._scope = scope
        self._deadlines = deadlines
        self._stopping = stopping
        self.idle = True

    def stop_if_idle(self) -> None:
        """End the connection when no request is under way."""
        if self.idle:
            self._scope.cancel()

    async def serve(self) -> bytes | None:
        """Serve plain requests; returns the bytes that the general server begins with, or None
        when the connection has ended."""
        data = b""
        while not self._stopping.is_set():
            if not data:
                data = await self._next()
                if not data:
                    return None
            plain = parse_head(data)
            key = None if plain is None else self._admitted_key(plain)
            if plain is None or key is None:
                return data
            self.idle = False
            if len(data) < plain.end:
                data = await self._rest(data, plain.end)
                if len(data) < plain.end:
                    return data
            response = await self._put(plain, key, data[plain.body_at : plain.end])
            if not await self._send(response):
                return None
            data = data[plain.end :]
            self.idle = True
        return None

    async def _next(self) -> bytes:
        """The next bytes of an idle connection; b"" when it has ended."""
        # A cancel scope of its own for each request would cost a tenth of it.
        self._deadlines.set(self, trio.current_time() + bounds.IDLE_TIMEOUT_S)
        try:
            while True:
                await trio.lowlevel.wait_readable(self._fd)
                try:
                    return os.read(self._fd, READ_BYTES)
                except BlockingIOError:  # woken for nothing, which select(2) permits
                    continue
                except OSError:
                    return b""
        finally:
            self._deadlines.cancel(self)

    def _admitted_key(self, plain: Plain) -> bytes | None:
        """The key that is to be written; None when the general server has something to say."""
        known = plain.known
        try:
            self._gate.admit(
                "PUT",
                KV_PATH,
                known.get(b"host"),
                known.get(b"origin"),
                known.get(b"authorization"),
            )
        except Refused:
            return None
        if len(known.get(b"idempotency-key", b"-")) not in range(1, REQUEST_ID_BYTES_MAX + 1):
            return None
        key = unquote_to_bytes(plain.path[len(PREFIX) :])
        if not 1 <= len(key) <= KEY_BYTES_MAX or key.startswith(RESERVED_PREFIX):
            return None
        return key

    async def _rest(self, data: bytes, end: int) -> bytes:
        """``data`` with the bytes up to ``end``, as far as they come soon."""
        with trio.move_on_after(BODY_PATIENCE_S), suppress(trio.BrokenResourceError):
            while len(data) < end:
                more = await self._stream.receive_some(end - len(data))
                if not more:
                    break
                data += more
        return data

    async def _put(self, plain: Plain, key: bytes, value: bytes) -> bytes:
        try:
            write = await self._facade.put(key, value, plain.known.get(b"idempotency-key"))
        except Exception as error:
            return _encoded(self._gate.answer_to(error, "PUT", plain.path.decode("ascii")))
        body = b'{"revision":%d,"existed":%b}' % (write.revision, _BOOLEANS[write.existed])
        return _WRITTEN % (len(body), body)

    async def _send(self, data: bytes) -> bool:
        """Write an answer; False when the client does not take it."""
        try:
            written = os.write(self._fd, data)
        except BlockingIOError:
            written = 0
        except OSError:
            return False
        if written == len(data):
            return True
        with trio.move_on_after(bounds.SEND_TIMEOUT_S), suppress(trio.BrokenResourceError):
            await self._stream.send_all(data[written:])
            return True
        return False


def _encoded(response: Response) -> bytes:
    pieces = [b"HTTP/1.1 %d \r\n" % response.status_code]
    pieces += [b"%b: %b\r\n" % header for header in response.raw_headers]
    return b"".join((*pieces, b"\r\n", bytes(response.body)))
