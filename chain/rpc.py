"""One JSON-RPC endpoint over HTTP, from trio, believing nothing.

Every answer is bounded while it streams in, must carry the id that was asked, and must come before
the deadline. Redirects are answers like any other wrong status. httpx is used at its transport
layer: the client layer above it logs full URLs, follows proxies of the environment and unpacks
compressed bodies of any size, none of which is wanted here.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import trio

from attest.bounded_json import parse_json
from chain.errors import (
    ChainConfigError,
    EndpointError,
    EndpointTimeout,
    EndpointTooLong,
    RpcFault,
)

BODY_BYTES_MAX = 4 * 1024 * 1024
BATCH_CALLS_MAX = 100
TIMEOUT_S = 4.0
CONNECTIONS_MAX = 8
SECRET_CHARS_MIN = 8  # a part of a URL's path or query as long as this may be an API key
_TEXT_CHARS_MAX = 200
_MESSAGE_CHARS_MAX = 4096  # in which keys are looked for, before it is cut
_HEX = re.compile(r"0x(?:[0-9a-fA-F]{2})*")

Call = tuple[str, Sequence[Any]]


@cache
def _trust() -> ssl.SSLContext:
    """The public authorities, read once for all endpoints: 30 ms of a start for each."""
    return httpx.create_ssl_context(trust_env=False)


class RpcEndpoint:
    """A JSON-RPC server; ``name`` (host and port) is the only thing ever shown of its URL.

    Args:
        url: http or https; user and password in it become a Basic authorisation header.
        timeout_s: deadline of one exchange, from connect to the last byte.
        body_bytes_max: longest answer that is read.

    Raises:
        ChainConfigError: not an http(s) URL with a host.
    """

    def __init__(
        self, url: str, *, timeout_s: float = TIMEOUT_S, body_bytes_max: int = BODY_BYTES_MAX
    ) -> None:
        try:
            parts = urlsplit(url)
            scheme, host, port = parts.scheme, parts.hostname, parts.port
            (host or "").encode("idna")  # else each lookup of the name would fail so
        except ValueError:  # also UnicodeError
            raise ChainConfigError("an RPC URL does not parse") from None
        if scheme not in ("http", "https") or not host:
            raise ChainConfigError("an RPC URL must be http:// or https:// with a host")
        port = port or (443 if scheme == "https" else 80)
        shown_host = f"[{host}]" if ":" in host else host
        self.name = f"{shown_host}:{port}"
        self._timeout_s = timeout_s
        self._body_bytes_max = body_bytes_max
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        try:
            self._url = httpx.URL(f"{scheme}://{shown_host}:{port}{target}")
        except httpx.InvalidURL:
            raise ChainConfigError(f"the RPC URL of {self.name} does not parse") from None
        self._headers = [
            ("Host", shown_host if port in (80, 443) else self.name),
            ("Content-Type", "application/json"),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),
        ]
        # Servers repeat the key that they refuse in their errors. Keys have digits, words do not.
        found = [p for p in re.split(r"[/?&=]", unquote(target)) if re.search(r"\d", p)]
        found.append(unquote(parts.password or ""))
        self._secrets = tuple(sorted((p for p in found if len(p) >= SECRET_CHARS_MIN), key=len))
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
            self._headers.append(("Authorization", "Basic " + base64.b64encode(pair).decode()))
        self._transport = httpx.AsyncHTTPTransport(
            verify=_trust() if scheme == "https" else False,  # plain HTTP shows no certificate
            trust_env=False,
            retries=0,
            limits=httpx.Limits(
                max_connections=CONNECTIONS_MAX,
                max_keepalive_connections=CONNECTIONS_MAX,
                keepalive_expiry=30.0,
            ),
        )
        self._next_id = 1

    def __repr__(self) -> str:
        return f"RpcEndpoint({self.name})"

    async def call(
        self, method: str, params: Sequence[Any], *, body_bytes_max: int | None = None
    ) -> Any:
        """The ``result`` of one call; its answer may be longer than others where that is said.

        Raises:
            RpcFault: the endpoint answered with an error.
            EndpointError: no usable answer; ``EndpointTimeout`` when it came too late.
        """
        request_id = self._take_ids(1)
        answer = await self._exchange(_request(request_id, method, params), body_bytes_max)
        if not isinstance(answer, dict):
            raise EndpointError(self.name, "the answer is not a JSON-RPC object")
        result = self._result(answer, request_id)
        if isinstance(result, RpcFault):
            raise result
        return result

    async def batch(self, calls: Sequence[Call]) -> list[Any | RpcFault]:
        """Results of up to 100 calls of one exchange, in order; a refused call gives its fault.

        Raises:
            EndpointError: no usable answer to the whole.
        """
        if not 1 <= len(calls) <= BATCH_CALLS_MAX:
            raise ValueError(f"a batch has 1..{BATCH_CALLS_MAX} calls, not {len(calls)}")
        first = self._take_ids(len(calls))
        requests = [_request(first + i, method, params) for i, (method, params) in enumerate(calls)]
        answer = await self._exchange(requests)
        if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
            raise self._fault(answer["error"])  # the server refuses batches, or this one
        if not isinstance(answer, list) or len(answer) != len(calls):
            raise EndpointError(self.name, f"no array of {len(calls)} answers to a batch")
        results: dict[int, Any | RpcFault] = {}
        for item in answer:
            item_id = item.get("id") if isinstance(item, dict) else None
            if type(item_id) is not int or not first <= item_id < first + len(calls):
                raise EndpointError(self.name, "an answer in a batch has an id nobody asked for")
            if item_id in results:
                raise EndpointError(self.name, "two answers in a batch have the same id")
            results[item_id] = self._result(item, item_id)
        return [results[first + i] for i in range(len(calls))]

    async def aclose(self) -> None:
        """Closes the kept connections."""
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await self._transport.aclose()

    def _take_ids(self, count: int) -> int:
        first = self._next_id
        self._next_id += count
        return first

    async def _exchange(self, body: Any, body_bytes_max: int | None = None) -> Any:
        content = json.dumps(body, separators=(",", ":")).encode()
        request = httpx.Request(
            "POST", self._url, headers=self._headers, content=content, extensions={"timeout": {}}
        )
        raw = b""
        with trio.move_on_after(self._timeout_s) as deadline:
            raw = await self._send(request, body_bytes_max or self._body_bytes_max)
        if deadline.cancelled_caught:
            raise EndpointTimeout(self.name, f"no whole answer within {self._timeout_s:g} s")
        try:
            return parse_json(raw)
        except ValueError:
            raise EndpointError(self.name, f"the answer ({len(raw)} bytes) is not JSON") from None

    async def _send(self, request: httpx.Request, body_bytes_max: int) -> bytes:
        # "from None": httpx errors hold the request, and with it the URL and its secrets.
        try:
            response = await self._transport.handle_async_request(request)
        except httpx.HTTPError as error:
            raise EndpointError(self.name, f"cannot ask ({type(error).__name__})") from None
        try:
            status = response.status_code
            encoding = response.headers.get("content-encoding", "identity")
            if encoding.lower() != "identity":
                raise EndpointError(self.name, "answers compressed though identity was asked for")
            # Many servers put the JSON-RPC error into a 4xx body; a redirect is never followed.
            if 300 <= status < 400:
                raise EndpointError(self.name, f"redirects (HTTP {status}); not followed")
            chunks, total = [], 0
            async for chunk in response.aiter_raw():
                total += len(chunk)
                if total > body_bytes_max:
                    raise EndpointTooLong(
                        self.name, f"the answer is longer than {body_bytes_max} bytes"
                    )
                chunks.append(chunk)
            raw = b"".join(chunks)
            if status != 200 and not raw.lstrip().startswith((b"{", b"[")):
                raise EndpointError(self.name, f"HTTP status {status}")
            return raw
        except httpx.HTTPError as error:
            raise EndpointError(self.name, f"answer broke off ({type(error).__name__})") from None
        finally:
            # After an over-long body or a cancellation this drops the connection; shielded because
            # a cancelled close would leave the socket to the garbage collector.
            with trio.CancelScope(shield=True), trio.move_on_after(1):
                await response.aclose()

    def _result(self, answer: dict[str, Any], request_id: int) -> Any | RpcFault:
        error = answer.get("error")
        answer_id = answer.get("id")
        if answer_id != request_id or type(answer_id) is not int:
            # JSON-RPC 2.0 section 5: the id is null when the request could not be read.
            if answer_id is None and isinstance(error, dict):
                return self._fault(error)
            raise EndpointError(self.name, "the answer has an id nobody asked for")
        if error is not None:
            if not isinstance(error, dict):
                raise EndpointError(self.name, "the error in the answer is not an object")
            return self._fault(error)
        if "result" not in answer:
            raise EndpointError(self.name, "the answer has neither result nor error")
        return answer["result"]

    def _fault(self, error: dict[str, Any]) -> RpcFault:
        code = error.get("code")
        data = error.get("data")
        if isinstance(data, dict):  # some clients wrap it once more
            data = data.get("data")
        revert = None
        if isinstance(data, str) and len(data) <= 20_000 and _HEX.fullmatch(data):
            revert = bytes.fromhex(data[2:])
        text = printable(error.get("message"), _MESSAGE_CHARS_MAX)
        for secret in reversed(self._secrets):
            text = text.replace(secret, "***")
        return RpcFault(self.name, code if type(code) is int else 0, text[:_TEXT_CHARS_MAX], revert)


def printable(text: Any, chars_max: int = _TEXT_CHARS_MAX) -> str:
    """Foreign text made safe for logs: printable ASCII, cut."""
    if not isinstance(text, str):
        return "no message"
    return "".join(c if " " <= c <= "~" else "?" for c in text[:chars_max])


def _request(request_id: int, method: str, params: Sequence[Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": list(params)}
