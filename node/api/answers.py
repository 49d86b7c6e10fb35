"""The shapes of answers: JSON, and one shape for every error."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.facade import NodeError

JSON_TYPE = "application/json"


class Refused(NodeError):
    """An error that only HTTP knows: status, code and text are given where it is raised."""

    def __init__(self, http_status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.http_status = http_status
        self.code = code


def encode(value: Any) -> bytes:
    """Compact JSON bytes."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "backslashreplace"
    )


def answer(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer that no cache keeps."""
    response = Response(encode(value), status, headers, JSON_TYPE)
    response.headers["cache-control"] = "no-store"
    return response


def error_answer(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> Response:
    """``{"error": {"code": ..., "message": ...}}``."""
    return answer({"error": {"code": code, "message": message}}, status, headers)


class LargeAnswer(Response):
    """An answer that is made when one of a few places is free, and keeps it until it is sent: a
    crowd of clients that do not read costs no more memory than there are places.

    ``make`` may raise what a route may.
    """

    def __init__(self, places: trio.Semaphore, make: Callable[[], Awaitable[Response]]) -> None:
        super().__init__()
        self._places = places
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ``Response``."""
        async with self._places:
            response = await self._make()
            await response(scope, receive, send)
