"""The gate that every request passes before a route sees it, and every error on its way out.

In: the ``Host`` check (a web page that rebinds its own name to 127.0.0.1 sends its own name), the
``Origin`` check (a page elsewhere may not write), the bearer token. Out: one JSON shape for every
error, nothing of our insides in it. And it reads the rest of a refused body within bounds: the
server under us would otherwise hold the connection's task for ever (an application that ends with
ten or more body pieces unread blocks its own ``http.disconnect``).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection
from functools import lru_cache
from urllib.parse import urlsplit

import structlog
import trio
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from node.api.answers import Refused, error_answer
from node.api.bounds import DRAIN_BYTES_MAX, DRAIN_TIMEOUT_S
from node.facade import NodeError

log = structlog.get_logger("api")

WITHOUT_TOKEN = frozenset({"/v1/health", "/v1/ready"})
READING = frozenset({"GET", "HEAD"})
ABORT_KEY = "dstack_cluster.abort"  # in the scope: cuts the connection

_HTTP_CODES = {
    404: ("not_found", "no such route"),
    405: ("wrong_method", "method not allowed here"),
}


class Gate:
    """ASGI application around the routes.

    Args:
        routes: the application behind.
        hosts: host names that ``Host`` may name; None allows all.
        token: bearer token that clients must show; None asks for none.
    """

    def __init__(self, routes: ASGIApp, hosts: Collection[str] | None, token: bytes | None) -> None:
        self._routes = routes
        self._hosts = None if hosts is None else frozenset(hosts)
        self._token = token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; raises nothing but cancellation."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            raise RuntimeError(f"scope of type {scope['type']!r} is not served")
        scope["app"] = self  # makes the router raise instead of answering in plain text
        exchange = _Exchange(scope, receive, send)
        try:
            self._admit(scope)
            await self._routes(scope, exchange.receive, exchange.send)
        except Exception as error:
            await exchange.fail(self.answer_to(error, scope["method"], scope["path"]))

    @staticmethod
    def answer_to(error: Exception, method: str, path: str) -> Response:
        """What a client is told of an error; of one that is a defect, only that it was one."""
        match error:
            case NodeError():
                headers = {"retry-after": "1"} if error.http_status in (429, 503) else {}
                if error.http_status == 401:
                    headers["www-authenticate"] = "Bearer"
                return error_answer(error.http_status, error.code, str(error), headers)
            case HTTPException():
                code, text = _HTTP_CODES.get(error.status_code, ("refused", error.detail))
                return error_answer(error.status_code, code, text, dict(error.headers or {}))
        log.error("api_request_failed", method=method, path=path[:256], exc_info=error)
        return error_answer(500, "internal", "the node could not answer; see its log", {})

    def _admit(self, scope: Scope) -> None:
        host = origin = authorization = None
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name == b"authorization":
                authorization = value
        self.admit(scope["method"], scope["path"], host, origin, authorization)

    def admit(
        self,
        method: str,
        path: str,
        host: bytes | None,
        origin: bytes | None,
        authorization: bytes | None,
    ) -> None:
        """Raises Refused when the headers of these names do not let a request in."""
        if self._hosts is not None and _host_name(host) not in self._hosts:
            raise Refused(403, "bad_host", "the Host header does not name this machine's loopback")
        if origin is not None and method not in READING:
            text = origin.decode("latin-1")
            if host is None or _netloc(text) != host.decode("latin-1").lower():
                raise Refused(403, "bad_origin", "web pages of other origins may not write")
        if self._token is not None and path not in WITHOUT_TOKEN:
            scheme, _, shown = (authorization or b"").partition(b" ")
            good = hmac.compare_digest(shown.strip(), self._token)
            if scheme.lower() != b"bearer" or not good:
                raise Refused(401, "unauthorized", "expected Authorization: Bearer <token>")


@lru_cache(maxsize=64)  # a client sends the same one each time
def _host_name(host: bytes | None) -> str | None:
    if host is None:
        return None
    try:
        return urlsplit("//" + host.decode("ascii")).hostname
    except ValueError:  # also UnicodeDecodeError
        return None


def _netloc(url: str) -> str | None:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None


class _Exchange:
    """One request and its answer: knows whether the body was read and whether the answer began."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._abort: Callable[[], None] | None = scope.get(ABORT_KEY)
        self._body_read = scope["method"] in READING and not any(
            name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]
        )
        self._started = False
        self._cut = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_read = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            if not self._body_read:
                await self._drain()
            if self._cut:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
        elif self._cut and not message.get("more_body", False):
            # Everything is said, but ending the exchange the regular way would wait for the body.
            await self._send({**message, "more_body": True})
            if self._abort is not None:
                self._abort()
                await trio.lowlevel.checkpoint()
        await self._send(message)

    async def _drain(self) -> None:
        count = 0
        with trio.move_on_after(DRAIN_TIMEOUT_S):
            while not self._body_read and count <= DRAIN_BYTES_MAX:
                count += len((await self.receive()).get("body", b""))
        self._cut = not self._body_read

    async def fail(self, response: Response) -> None:
        """Answer with an error, or cut the connection when an answer is already under way."""
        if self._started:
            if self._abort is not None:
                self._abort()
                await trio.lowlevel.checkpoint()
            return
        await self.send(
            {
                "type": "http.response.start",
                "status": response.status_code,
                "headers": response.raw_headers,
            }
        )
        await self.send({"type": "http.response.body", "body": response.body})
