"""``/v1/leases``: keys that go when nobody keeps them alive."""

from __future__ import annotations

from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.api.answers import LargeAnswer, Refused, answer
from node.api.bounds import JSON_BODY_BYTES_MAX
from node.api.kv import read_body, request_id
from node.api.registration import check_json
from node.api.values import body_object
from node.facade import LeaseState, NodeFacade
from node.kv_json import read_number, show_bytes


def lease_routes(facade: NodeFacade, places: trio.Semaphore) -> list[Route]:
    """Grant, keep alive, revoke, look; ``places`` are those of large answers."""

    async def all_leases() -> Response:
        return answer({"leases": [_show(lease) for lease in await facade.kv.leases()]})

    async def leases(request: Request) -> Response:
        if request.method == "POST":
            check_json(request)
            row = body_object(await read_body(request, JSON_BODY_BYTES_MAX), ("ttl_ms", "lease"))
            granted = await facade.kv.grant(
                read_number(row, "ttl_ms"), read_number(row, "lease", 0), request_id(request)
            )
            return answer({"lease": granted.lease, "ttl_ms": granted.ttl_ms})
        return LargeAnswer(places, all_leases)

    async def lease(request: Request) -> Response:
        number = _number(request)
        if request.method == "DELETE":
            await read_body(request, 0)
            gone = await facade.kv.revoke(number, request_id(request))
            return answer({"revision": gone.revision, "deleted": gone.deleted})
        found = await facade.kv.lease(number)
        return answer({**_show(found), "keys": [show_bytes("key", key) for key in found.keys]})

    async def keep_alive(request: Request) -> Response:
        await read_body(request, 0)
        return answer(_show(await facade.kv.keep_alive(_number(request))))

    return [
        Route("/v1/leases", leases, methods=["GET", "POST"]),
        Route("/v1/leases/{lease}", lease, methods=["GET", "DELETE"]),
        Route("/v1/leases/{lease}/keepalive", keep_alive, methods=["POST"]),
    ]


def _number(request: Request) -> int:
    raw: str = request.path_params["lease"]
    if not raw.isascii() or not raw.isdecimal() or len(raw) > 19:
        raise Refused(404, "no_lease", "a lease has a decimal number")
    return int(raw)


def _show(lease: LeaseState) -> dict[str, Any]:
    return {"lease": lease.lease, "ttl_ms": lease.ttl_ms, "remaining_ms": lease.remaining_ms}
