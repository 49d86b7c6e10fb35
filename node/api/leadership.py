"""``POST /v1/leader/step-down`` and ``/v1/leader/complain``: the operator and the leader."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.api.answers import Refused, answer
from node.api.bounds import JSON_BODY_BYTES_MAX
from node.api.kv import read_body
from node.facade import NodeFacade


def leadership_routes(facade: NodeFacade) -> list[Route]:
    """The two routes; both answer when it is done, with who leads then."""

    async def step_down(request: Request) -> Response:
        await _check(request)
        return answer(await facade.step_down())

    async def complain(request: Request) -> Response:
        await _check(request)
        return answer(await facade.complain())

    return [
        Route("/v1/leader/step-down", step_down, methods=["POST"]),
        Route("/v1/leader/complain", complain, methods=["POST"]),
    ]


async def _check(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        # also keeps out forms of web pages, which can send text without asking first
        raise Refused(415, "wrong_type", "expected Content-Type: application/json")
    if await read_body(request, JSON_BODY_BYTES_MAX) not in (b"", b"{}"):
        raise Refused(400, "bad_request", "expected an empty body, or {}")
