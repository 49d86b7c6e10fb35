"""Routes that only read the node: status, members, peers, leader, health, ready, metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.api.answers import Refused, answer
from node.api.changes import ChangeStreams, LeaderChanges, PeerChanges
from node.api.openapi import DOCUMENT
from node.facade import NodeFacade, Unavailable
from node.metrics import metrics_registry, render


def read_routes(facade: NodeFacade, streams: ChangeStreams) -> list[Route]:
    """The routes that change nothing."""
    registry = metrics_registry(facade)
    rendering = trio.Lock()  # one page for each turn of the loop: it costs milliseconds
    showing = trio.Lock()  # one read of the disk at a time: others need the threads

    async def status(request: Request) -> Response:
        return answer(facade.status())

    async def members(request: Request) -> Response:
        return answer({"members": facade.members()})

    async def leader(request: Request) -> Response:
        if _watched(request):
            return LeaderChanges(facade, streams)
        return answer(facade.leader())

    async def evidence(request: Request) -> Response:
        return answer({"evidence": facade.evidence()})

    async def certificates(request: Request) -> Response:
        async with showing:
            return answer({"certificates": await facade.certificates()})

    async def peers(request: Request) -> Response:
        if _watched(request):
            return PeerChanges(facade, streams)
        if not _asked(request, "self"):
            return answer({"peers": facade.peers()})
        async with aclosing(facade.watch_peers()) as changes:  # type: ignore[type-var]
            async for rows in changes:
                return answer({"peers": rows})
        raise Unavailable("the node is stopping")

    async def health(request: Request) -> Response:
        return answer({"status": "ok"})

    async def ready(request: Request) -> Response:
        reasons = facade.ready()
        return answer({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    async def metrics(request: Request) -> Response:
        async with rendering:
            page, content_type = render(registry, request.headers.get("accept", ""))
        return Response(page, headers={"content-type": content_type, "cache-control": "no-store"})

    async def openapi(request: Request) -> Response:
        return answer(DOCUMENT)

    handlers: dict[str, Callable[[Request], Awaitable[Response]]] = {
        "/v1/status": status,
        "/v1/members": members,
        "/v1/peers": peers,
        "/v1/leader": leader,
        "/v1/evidence": evidence,
        "/v1/certificates": certificates,
        "/v1/health": health,
        "/v1/ready": ready,
        "/metrics": metrics,
        "/openapi.json": openapi,
    }
    return [Route(path, handler, methods=["GET"]) for path, handler in handlers.items()]


def _watched(request: Request) -> bool:
    """Whether an event stream is wanted. Raises Refused: but not as the kind that it is."""
    watch = _asked(request, "watch")
    if watch and "text/event-stream" not in request.headers.get("accept", ""):
        raise Refused(406, "not_acceptable", "watch=1 needs Accept: text/event-stream")
    return watch


def _asked(request: Request, name: str) -> bool:
    """Whether a switch like ``?watch=1`` is on."""
    value = request.query_params.get(name, "0")
    if value not in ("0", "1"):
        raise Refused(400, "bad_request", f"{name}: expected 0 or 1")
    return value == "1"
