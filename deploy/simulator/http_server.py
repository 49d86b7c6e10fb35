"""HTTP/1.1 for small local services: one request at a time per connection, everything bounded.

What is answered is the caller's: a function from request and body to ``Reply``, without I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import h11
import trio

HEADER_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 1024 * 1024
READ_BYTES = 64 * 1024
CONNECTIONS_MAX = 64  # per listener; further ones are closed at once
REQUEST_DEADLINE_S = 30  # from the first wait for a request to its whole answer
ERROR_DEADLINE_S = 1  # for telling a client that its request was no HTTP

JSON = "application/json"
PLAIN = "text/plain; charset=utf-8"
Headers = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer; ``headers`` come on top of type, length and the service's own."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Headers = ()

    def __repr__(self) -> str:
        return f"Reply({self.status}, {len(self.body)} bytes)"


Respond = Callable[[h11.Request, bytes], Reply]


class HttpService:
    """Answers connections of one listener with ``respond``; ``headers`` stand on every answer."""

    def __init__(self, respond: Respond, headers: Headers = ()) -> None:
        self._respond = respond
        self._headers = headers
        self._limiter = trio.CapacityLimiter(CONNECTIONS_MAX)

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        """Answer requests until the client leaves, errs or waits too long."""
        async with stream:
            try:
                self._limiter.acquire_nowait()
            except trio.WouldBlock:
                return
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)
            try:
                await self._serve_requests(connection, stream)
            except h11.RemoteProtocolError as error:
                if connection.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                    reply = Reply(error.error_status_hint, b"", PLAIN)
                    with trio.move_on_after(ERROR_DEADLINE_S):
                        await self._send(connection, stream, reply, close=True)
            except trio.BrokenResourceError:
                pass  # the client is gone, and with it whoever could hear of it
            finally:
                self._limiter.release()

    async def _serve_requests(self, connection: h11.Connection, stream: trio.SocketStream) -> None:
        while True:
            with trio.move_on_after(REQUEST_DEADLINE_S) as deadline:
                if not await self._serve_request(connection, stream):
                    return
            if deadline.cancelled_caught:
                return
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return  # the client wants no further request on this connection
            connection.start_next_cycle()

    async def _serve_request(self, connection: h11.Connection, stream: trio.SocketStream) -> bool:
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
                await self._send(connection, stream, Reply(413, b"", PLAIN), close=True)
                return False
        reply = self._respond(request, bytes(body))
        await self._send(connection, stream, reply, close=False)
        return True

    async def _send(
        self, connection: h11.Connection, stream: trio.SocketStream, reply: Reply, *, close: bool
    ) -> None:
        headers = [
            *self._headers,
            ("Content-Type", reply.content_type),
            ("Content-Length", str(len(reply.body))),
            *reply.headers,
        ]
        if close:
            headers.append(("Connection", "close"))
        response = h11.Response(status_code=reply.status, headers=headers)
        data = connection.send(response) or b""
        if reply.body:
            data += connection.send(h11.Data(data=reply.body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
        await stream.send_all(data)


async def _next_event(connection: h11.Connection, stream: trio.SocketStream) -> object:
    while True:
        event = connection.next_event()
        if event is not h11.NEED_DATA:
            return event
        if connection.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[])
            await stream.send_all(connection.send(go_on) or b"")
        connection.receive_data(await stream.receive_some(READ_BYTES))
