"""``POST /v1/register``: the application says under which URL it serves."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from attest.bounded_json import parse_json
from node.api.answers import Refused, answer
from node.api.bounds import CONNECTION_URL_BYTES_MAX, JSON_BODY_BYTES_MAX
from node.api.kv import read_body
from node.facade import BadRequest, NodeFacade

SCHEMES = ("http", "https", "ws", "wss", "tcp")


def registration_routes(facade: NodeFacade) -> list[Route]:
    """The one route of this file."""

    async def register(request: Request) -> Response:
        check_json(request)
        url = connection_url(await read_body(request, JSON_BODY_BYTES_MAX))
        await facade.announce_url(url)
        return answer({"connection_url": url})

    return [Route("/v1/register", register, methods=["POST"])]


def check_json(request: Request) -> None:
    """Refuses a body of another type; also forms of web pages, which are sent without asking."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refused(415, "wrong_type", "expected Content-Type: application/json")


def connection_url(body: bytes) -> str:
    """The checked URL of a request body ``{"connection_url": URL}``.

    Raises:
        BadRequest: the body is not that, or the URL is none that a peer may be told.
    """
    try:
        document: Any = parse_json(body)
    except ValueError:
        raise BadRequest("expected a JSON body") from None
    if not isinstance(document, dict) or set(document) != {"connection_url"}:
        raise BadRequest('expected {"connection_url": "https://..."} and nothing else')
    url = document["connection_url"]
    expected = BadRequest(
        f"connection_url: expected a {'/'.join(SCHEMES)} URL with a host, without user name, in at "
        f"most {CONNECTION_URL_BYTES_MAX} printable ASCII characters"
    )
    if not isinstance(url, str) or len(url) > CONNECTION_URL_BYTES_MAX:
        raise expected
    if not re.fullmatch(r"[\x21-\x7e]+", url):
        raise expected
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise expected from None
    if parts.scheme not in SCHEMES or not parts.hostname or "@" in parts.netloc or port == 0:
        raise expected
    if parts.scheme == "tcp" and port is None:
        raise BadRequest("connection_url: a tcp URL needs a port")
    return url
