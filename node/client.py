"""HTTP client for a node's API, under trio and asyncio alike (httpx over anyio).

The command line, the SDK and the testnet launcher speak to nodes through it. Errors of the node
come back as the same classes that it raised (``node.facade``); two more say that no node answered
(``Unreachable``) and that the API's gate refused (``Refused``).
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx

from attest.bounded_json import parse_json
from consensus.items import Refusal
from node.client_kv import BadAnswer, KeyValueClient
from node.facade import (
    VALUE_BYTES_MAX,
    BadRequest,
    Busy,
    Compacted,
    Entry,
    FutureRevision,
    NodeError,
    NotDone,
    OutcomeUnknown,
    Unavailable,
    Write,
)

DEFAULT_URL = "http://127.0.0.1:9700"
ANSWER_BYTES_MAX = 8 * 1024 * 1024  # all leases
EVENT_BYTES_MAX = 1024 * 1024
MESSAGE_LENGTH_MAX = 1024
TOKEN_BYTES_MAX = 4096


class Unreachable(NodeError):
    """No node answered at the address, or not in time; a write may have happened."""

    http_status = 0
    code = "unreachable"


class Refused(NodeError):
    """The API refused the request: token, host, route, size; nothing was done."""

    http_status = 403
    code = "refused"


def is_passing(error: NodeError) -> bool:
    """Whether the same request may work a moment later: a node restarts, a leader is replaced."""
    return isinstance(error, Unreachable | Unavailable | Busy | OutcomeUnknown)


_BY_CODE: dict[str, type[NodeError]] = {
    kind.code: kind
    for kind in (BadRequest, Busy, Compacted, FutureRevision, Unavailable, OutcomeUnknown)
}


_NOT_DONE = frozenset({"not_done", *(refusal.name.lower() for refusal in Refusal)})


class ApiClient(KeyValueClient):
    """One node's API; an async context manager that keeps its connections open.

    Args:
        url: ``http://host:port``, ``https://...`` or ``unix:/path``.
        token: bearer token, when the node asks for one.
        timeout_s: for a whole request; writes wait for consensus.
        connections_max: kept and opened at once.

    Raises:
        ValueError: the URL is none of these.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout_s: float = 15.0,
        connections_max: int = 64,
    ) -> None:
        check_url(url)
        self.url = url
        limits = httpx.Limits(
            max_connections=connections_max, max_keepalive_connections=connections_max
        )
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        secure = url.startswith("https://")
        if url.startswith("unix:/"):
            transport = httpx.AsyncHTTPTransport(
                uds=url.removeprefix("unix:"), limits=limits, verify=False, trust_env=False
            )
            base = "http://localhost"
        else:
            # plain HTTP needs no TLS context, which takes longer to build than most requests
            transport = httpx.AsyncHTTPTransport(limits=limits, verify=secure, trust_env=False)
            base = url.rstrip("/")
        self._http = httpx.AsyncClient(
            base_url=base,
            transport=transport,
            headers=headers,
            timeout=timeout_s,
            follow_redirects=False,
            trust_env=False,
        )

    def __repr__(self) -> str:
        return f"ApiClient({self.url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    # --- reads ------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """``NodeFacade.status()``."""
        return await self._json("/v1/status")

    async def members(self) -> list[dict[str, Any]]:
        """``NodeFacade.members()``."""
        return _rows(await self._json("/v1/members"), "members")

    async def peers(self, include_self: bool = False) -> list[dict[str, Any]]:
        """``NodeFacade.peers()``, with this node's own row if asked."""
        return _rows(await self._json("/v1/peers" + "?self=1" * include_self), "peers")

    async def leader(self) -> dict[str, Any]:
        """``NodeFacade.leader()``."""
        return await self._json("/v1/leader")

    async def evidence(self) -> list[dict[str, Any]]:
        """``NodeFacade.evidence()``."""
        return _rows(await self._json("/v1/evidence"), "evidence")

    async def certificates(self) -> list[dict[str, Any]]:
        """``NodeFacade.certificates()``."""
        return _rows(await self._json("/v1/certificates"), "certificates")

    async def step_down(self) -> dict[str, Any]:
        """``NodeFacade.step_down()``."""
        return await self._act("/v1/leader/step-down")

    async def complain(self) -> dict[str, Any]:
        """``NodeFacade.complain()``."""
        return await self._act("/v1/leader/complain")

    async def healthy(self) -> bool:
        """Whether the process works; raises as the others do when nobody answers."""
        return (await self._json("/v1/health")).get("status") == "ok"

    async def ready(self) -> list[str]:
        """Reasons why the node is not ready; empty means ready."""
        status, _, body = await self._request("GET", "/v1/ready")
        if status not in (200, 503):
            raise _error(status, body)
        document = _document(body)
        reasons = document.get("reasons")
        if not isinstance(reasons, list):
            raise BadAnswer(f"{self.url}: /v1/ready without a list of reasons")
        return [str(reason)[:MESSAGE_LENGTH_MAX] for reason in reasons]

    async def metrics(self) -> str:
        """The Prometheus page."""
        status, _, body = await self._request("GET", "/metrics")
        if status != 200:
            raise _error(status, body)
        return body.decode("utf-8", "replace")

    @asynccontextmanager
    async def watch_peers(self) -> AsyncIterator[AsyncIterator[list[dict[str, Any]]]]:
        """``async with client.watch_peers() as changes: async for rows in changes``.

        Rows include this node's own. The iteration ends when the node stops.

        Raises:
            NodeError: as every call; ``Unreachable`` also when the stream falls silent.
        """
        stream = self._sse("/v1/peers?watch=1", {}, EVENT_BYTES_MAX)
        async with stream as events, aclosing(_peers(events)) as changes:
            yield changes

    @asynccontextmanager
    async def watch_leader(self) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """``NodeFacade.leader()`` at once and after each change; else as ``watch_peers``."""
        stream = self._sse("/v1/leader?watch=1", {}, EVENT_BYTES_MAX)
        async with stream as events, aclosing(_documents(events)) as changes:
            yield changes

    # --- keys -------------------------------------------------------------------------------

    async def get(
        self, key: bytes | str, *, stale: bool = False, revision: int | None = None
    ) -> Entry | None:
        """The key's entry or None; ``stale`` answers from this node's own state.

        With a ``revision`` as it was then; raises Compacted when that is too long ago.
        """
        path = _key_path(key) + "?stale=" + "01"[stale]
        path += "" if revision is None else f"&revision={revision}"
        status, headers, body = await self._request("GET", path)
        if status == 404 and _error_code(body) == "no_such_key":
            return None
        if status != 200:
            raise _error(status, body)
        if len(body) > VALUE_BYTES_MAX:
            raise BadAnswer(f"{self.url}: a value of {len(body)} bytes")
        try:
            return Entry(
                body,
                int(headers["x-create-revision"]),
                int(headers["x-revision"]),
                int(headers["x-version"]),
                int(headers.get("x-lease", "0")),
            )
        except (KeyError, ValueError):
            raise BadAnswer(f"{self.url}: a value without its revisions") from None

    async def put(
        self,
        key: bytes | str,
        value: bytes,
        *,
        request_id: bytes | str | None = None,
        lease: int = 0,
    ) -> Write:
        """Write a key, on a lease if not 0; see ``NodeFacade.put``."""
        if not isinstance(value, bytes):  # None would be sent, as nothing
            raise TypeError(f"value: expected bytes; came {type(value).__name__}")
        return await self._write("PUT", key, value, request_id, f"?lease={lease}" if lease else "")

    async def delete(self, key: bytes | str, *, request_id: bytes | str | None = None) -> Write:
        """Delete a key; see ``NodeFacade.delete``."""
        return await self._write("DELETE", key, None, request_id)

    async def register(self, connection_url: str) -> None:
        """Announce the application's URL; see ``NodeFacade.announce_url``."""
        status, _, body = await self._request(
            "POST",
            "/v1/register",
            content=json.dumps({"connection_url": connection_url}).encode(),
            headers={"content-type": "application/json"},
        )
        if status != 200:
            raise _error(status, body)

    # --- beneath ----------------------------------------------------------------------------

    async def _write(
        self,
        method: str,
        key: bytes | str,
        value: bytes | None,
        request_id: bytes | str | None,
        query: str = "",
    ) -> Write:
        headers = _request_headers(request_id)
        status, _, body = await self._request(
            method, _key_path(key) + query, content=value, headers=headers
        )
        if status != 200:
            raise _error(status, body)
        document = _document(body)
        revision, existed = document.get("revision"), document.get("existed")
        if type(revision) is not int or type(existed) is not bool:
            raise BadAnswer(f"{self.url}: a write's answer without revision and existed")
        return Write(revision, existed)

    async def _send_json(
        self,
        method: str,
        path: str,
        body: Any = None,
        request_id: bytes | str | None = None,
    ) -> dict[str, Any]:
        headers = _request_headers(request_id)
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            headers.append((b"content-type", b"application/json"))
        status, _, answer = await self._request(method, path, content=content, headers=headers)
        if status != 200:
            raise _error(status, answer)
        return _document(answer)

    @asynccontextmanager
    async def _sse(
        self, path: str, headers: dict[str, str], bytes_max: int
    ) -> AsyncIterator[AsyncIterator[tuple[str, dict[str, Any]]]]:
        """Name and document of each server-sent event; an ``error`` event is raised."""
        timeout = httpx.Timeout(15.0, read=60.0)  # the node writes every 15 s at least
        headers = {"accept": "text/event-stream", **headers}
        try:
            async with self._http.stream("GET", path, headers=headers, timeout=timeout) as response:
                if response.status_code != 200:
                    raise _error(response.status_code, await _bounded(response))
                async with aclosing(_events(response, bytes_max)) as events:
                    yield events
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unreachable(f"{self.url}: {_why(error)}") from None

    async def _json(self, path: str) -> dict[str, Any]:
        status, _, body = await self._request("GET", path)
        if status != 200:
            raise _error(status, body)
        return _document(body)

    async def _act(self, path: str) -> dict[str, Any]:
        headers = {"content-type": "application/json"}
        status, _, body = await self._request("POST", path, content=b"{}", headers=headers)
        if status != 200:
            raise _error(status, body)
        return _document(body)

    async def _request(
        self, method: str, path: str, *, content: bytes | None = None, headers: Any = None
    ) -> tuple[int, httpx.Headers, bytes]:
        try:
            async with self._http.stream(
                method, path, content=content, headers=headers
            ) as response:
                return response.status_code, response.headers, await _bounded(response)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise Unreachable(f"{self.url}: {_why(error)}") from None


def check_url(url: str) -> None:
    """Refuse what ``ApiClient`` cannot connect to.

    Raises:
        ValueError: neither ``http(s)://host:port`` nor ``unix:/path``.
    """
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if url.startswith("unix:/"):
        good = True
    elif good:
        good = not parts.query and not parts.fragment and "@" not in parts.netloc
    if not good or not url.isprintable():
        raise ValueError(f"expected http(s)://host:port or unix:/path; came {url[:80]!r}")


def read_token_file(path: Path | str) -> str:
    """The token of a client's token file.

    Raises:
        Refused: it cannot be read or holds no token.
    """
    try:
        with Path(path).open("rb") as handle:
            token = handle.read(TOKEN_BYTES_MAX).decode("ascii").strip()
    except (OSError, UnicodeDecodeError):
        raise Refused(f"token file {path}: cannot be read") from None
    if not token or not token.isprintable() or " " in token:
        raise Refused(f"token file {path}: expected one printable word")
    return token


def _key_path(key: bytes | str) -> str:
    raw = key.encode() if isinstance(key, str) else key
    # dots too: URL normalisation would take "." and ".." for path steps
    return "/v1/kv/" + quote(raw, safe="").replace(".", "%2E")


async def _bounded(response: httpx.Response) -> bytes:
    pieces: list[bytes] = []
    count = 0
    async for piece in response.aiter_bytes():
        count += len(piece)
        if count > ANSWER_BYTES_MAX:
            raise BadAnswer(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
        pieces.append(piece)
    return b"".join(pieces)


async def _events(
    response: httpx.Response, bytes_max: int
) -> AsyncGenerator[tuple[str, dict[str, Any]]]:
    """Name and document of each server-sent event; comments are skipped, an error is raised."""
    buffer = b""
    async for piece in response.aiter_bytes():
        buffer += piece
        if len(buffer) > bytes_max:
            raise BadAnswer(f"an event of more than {bytes_max} bytes")
        while b"\n\n" in buffer:
            event, _, buffer = buffer.partition(b"\n\n")
            lines = event.split(b"\n")
            data = b"\n".join(line[6:] for line in lines if line.startswith(b"data: "))
            names = [line[7:] for line in lines if line.startswith(b"event: ")]
            if not data:
                continue
            if names == [b"error"]:
                raise _error(0, data)
            yield names[0].decode("ascii", "replace") if names else "", _document(data)


async def _documents(
    events: AsyncIterator[tuple[str, dict[str, Any]]],
) -> AsyncGenerator[dict[str, Any]]:
    async for _, document in events:
        yield document


async def _peers(
    events: AsyncIterator[tuple[str, dict[str, Any]]],
) -> AsyncGenerator[list[dict[str, Any]]]:
    async for _, document in events:
        yield _rows(document, "peers")


def _request_headers(request_id: bytes | str | None) -> list[tuple[bytes, bytes]]:
    if request_id is None:
        return []
    raw = request_id.encode() if isinstance(request_id, str) else request_id
    return [(b"idempotency-key", raw)]


def _document(body: bytes) -> dict[str, Any]:
    try:
        document = parse_json(body)
    except ValueError:
        raise BadAnswer("expected JSON from the node") from None
    if not isinstance(document, dict):
        raise BadAnswer("expected a JSON object from the node")
    return document


def _rows(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    rows = document.get(name)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadAnswer(f"expected a list of {name} from the node")
    return rows


def _error_code(body: bytes) -> str:
    try:
        return str(parse_json(body)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return ""


def _error(status: int, body: bytes) -> NodeError:
    code = _error_code(body)
    message = str(parse_json(body)["error"].get("message", "")) if code else ""
    message = "".join(c if c.isprintable() else "?" for c in message[:MESSAGE_LENGTH_MAX])
    text = message or f"HTTP status {status}"
    kind = _BY_CODE.get(code)
    if kind is not None:
        return kind(text)
    if code in _NOT_DONE:
        return NotDone(text, code)
    if 400 <= status < 500 and code:
        error: NodeError = Refused(text)
    elif code:
        error = NodeError(text)
    else:
        error = BadAnswer(f"HTTP status {status} without an error that a node would send")
    error.http_status = status
    error.code = code or error.code
    return error


def _why(error: Exception) -> str:
    name = type(error).__name__
    text = str(error)
    return f"{name}: {text}" if text else name
