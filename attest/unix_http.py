"""One bounded HTTP/1.1 exchange over a Unix socket.

A new connection for every call: calls are rare, and a connection that lives for one exchange has
no state that an earlier answer could have poisoned. Everything the other side sends is bounded;
the deadline is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import h11
import trio

from .errors import AgentProtocolError, AgentUnavailable

HEADER_BYTES_MAX = 16 * 1024
READ_BYTES = 64 * 1024
# Chunked framing of tiny chunks costs more bytes than it carries; beyond this factor it is abuse.
WIRE_FACTOR_MAX = 2


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and whole body of a response; the body never shows in the repr."""

    status: int
    body: bytes

    def __repr__(self) -> str:
        return f"Answer(status={self.status}, {len(self.body)} bytes)"


async def connect(paths: Sequence[str]) -> tuple[str, trio.SocketStream]:
    """Connect to the first of ``paths`` that answers; returns it and the stream.

    Raises AgentUnavailable, naming each failure.
    """
    failures = []
    for path in paths:
        try:
            return path, await trio.open_unix_socket(path)
        except (OSError, ValueError) as error:  # ValueError: longer than a socket path may be
            failures.append(f"{path}: {_reason(error)}")
    raise AgentUnavailable("no guest agent answers at " + "; ".join(failures))


async def post(
    stream: trio.SocketStream, target: str, body: bytes, *, body_bytes_max: int
) -> Answer:
    """Send one POST with a JSON body and read the whole answer; closes the stream.

    Raises AgentUnavailable when the connection breaks, AgentProtocolError when the answer is not
    HTTP or is larger than ``body_bytes_max``.
    """
    async with stream:
        try:
            return await _exchange(stream, target, body, body_bytes_max)
        except trio.BrokenResourceError:
            raise AgentUnavailable("the agent broke the connection") from None
        except h11.RemoteProtocolError as error:
            raise AgentProtocolError(f"the answer is not valid HTTP: {_printable(error)}") from None


async def _exchange(
    stream: trio.SocketStream, target: str, body: bytes, body_bytes_max: int
) -> Answer:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEADER_BYTES_MAX)
    request = h11.Request(
        method="POST",
        target=target,
        headers=[
            ("Host", "dstack"),
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ],
    )
    head = connection.send(request)
    data = connection.send(h11.Data(data=body))
    end = connection.send(h11.EndOfMessage())
    await stream.send_all((head or b"") + (data or b"") + (end or b""))

    wire_bytes_max = WIRE_FACTOR_MAX * body_bytes_max + 2 * HEADER_BYTES_MAX
    wire_bytes = 0
    status: int | None = None
    framed = False  # the answer says itself where it ends, so an early close is noticed
    received = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            chunk = await stream.receive_some(READ_BYTES)
            wire_bytes += len(chunk)
            if wire_bytes > wire_bytes_max:
                raise AgentProtocolError(f"the answer exceeds {wire_bytes_max} bytes on the wire")
            if not chunk and wire_bytes == 0:
                raise AgentUnavailable("the agent closed the connection without an answer")
            if not chunk and connection.their_state is h11.SEND_BODY and framed:
                # It died while answering; a restarted agent may do better, so not a protocol error.
                raise AgentUnavailable("the agent closed the connection inside its answer")
            connection.receive_data(chunk)
        elif isinstance(event, h11.Response):
            status = event.status_code
            framed = any(
                name in (b"content-length", b"transfer-encoding") for name, _ in event.headers
            )
            _refuse_declared_length(event, body_bytes_max)
        elif isinstance(event, h11.Data):
            received += event.data
            if len(received) > body_bytes_max:
                raise AgentProtocolError(f"the answer's body exceeds {body_bytes_max} bytes")
        elif isinstance(event, h11.EndOfMessage):
            assert status is not None
            return Answer(status, bytes(received))
        elif isinstance(event, h11.InformationalResponse):
            continue
        else:  # ConnectionClosed, PAUSED: no whole answer will come
            raise AgentProtocolError("the answer ended before it was whole")


def _refuse_declared_length(response: h11.Response, body_bytes_max: int) -> None:
    for name, value in response.headers:
        # h11 has checked that the value is a plain number; its digits may still be many.
        if name == b"content-length" and (len(value) > 15 or int(value) > body_bytes_max):
            raise AgentProtocolError(f"the answer announces a body above {body_bytes_max} bytes")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _printable(error: Exception) -> str:
    return "".join(c if c.isprintable() else "?" for c in str(error))[:200]
