"""``/v1/kv/{key}``: the key is percent-encoded bytes in the path, the value is the raw body."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import unquote_to_bytes

import trio
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from node.api.answers import Refused, answer
from node.api.bounds import BODY_TIMEOUT_S
from node.api.values import Query, check_writable
from node.facade import (
    KEY_BYTES_MAX,
    REQUEST_ID_BYTES_MAX,
    VALUE_BYTES_MAX,
    BadRequest,
    NodeFacade,
)

PREFIX = b"/v1/kv/"


def kv_routes(facade: NodeFacade) -> list[Route]:
    """GET, PUT and DELETE of one key."""

    async def entry(request: Request) -> Response:
        key = _key(request)
        method = request.method
        if method in ("GET", "HEAD"):
            return await _get(facade, key, request)
        check_writable(key)
        name = request_id(request)
        if method == "PUT":
            lease = Query(request, "lease").number("lease", 0) or 0
            value = await read_body(request, VALUE_BYTES_MAX)
            if lease:
                write = await facade.kv.put(key, value, name, lease)
            else:
                write = await facade.put(key, value, name)
        else:
            await read_body(request, 0)
            write = await facade.delete(key, name)
        return answer({"revision": write.revision, "existed": write.existed})

    return [Route("/v1/kv/{key:path}", entry, methods=["GET", "PUT", "DELETE"])]


async def _get(facade: NodeFacade, key: bytes, request: Request) -> Response:
    query = Query(request, "stale", "revision")
    revision, stale = query.number("revision"), query.switch("stale")
    if revision is None:
        found = await facade.get(key, linearizable=not stale)
    else:
        found = await facade.kv.get(key, not stale, revision)
    if found is None:
        raise Refused(404, "no_such_key", "the key does not exist")
    return Response(
        found.value,
        headers={
            "content-type": "application/octet-stream",
            "cache-control": "no-store",
            # a value that looks like a page must not become one in a browser
            "x-content-type-options": "nosniff",
            "x-revision": str(found.mod_revision),
            "x-create-revision": str(found.create_revision),
            "x-version": str(found.version),
            "x-lease": str(found.lease),
        },
    )


def _key(request: Request) -> bytes:
    raw: bytes = request.scope["raw_path"]
    if not raw.startswith(PREFIX):
        # A route spelt with percent signs would match, but then where the key starts is a guess.
        raise Refused(404, "not_found", "no such route")
    key = unquote_to_bytes(raw[len(PREFIX) :])
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise BadRequest(f"expected a key of 1 to {KEY_BYTES_MAX} bytes; came {len(key)}")
    return key


def request_id(request: Request) -> bytes | None:
    """The checked ``Idempotency-Key``, None without one. Raises BadRequest."""
    found = [value for name, value in request.scope["headers"] if name == b"idempotency-key"]
    if not found:
        return None
    if len(found) > 1 or not 1 <= len(found[0]) <= REQUEST_ID_BYTES_MAX:
        raise BadRequest(f"expected one Idempotency-Key of 1 to {REQUEST_ID_BYTES_MAX} bytes")
    return bytes(found[0])


@asynccontextmanager
async def body_place(places: trio.Semaphore, request: Request) -> AsyncIterator[None]:
    """One of a few places, within which a request with a large body reads and decodes it: a crowd
    of clients that send such bodies slowly costs no more memory than there are places.

    Raises:
        Refused: 503 when none became free in time.
    """
    announced = request.headers.get("content-length", "0")
    is_known = announced.isdecimal() and "transfer-encoding" not in request.headers
    if is_known and len(announced) <= 6 and int(announced) <= VALUE_BYTES_MAX:
        yield
        return
    with trio.move_on_after(BODY_TIMEOUT_S) as waiting:
        await places.acquire()
    if waiting.cancelled_caught:
        raise Refused(503, "busy", "too many large bodies are under way; try again")
    try:
        yield
    finally:
        places.release()


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body, refused as soon as it is too long or too slow.

    Raises:
        Refused: 413 beyond ``bytes_max``, 408 after ``BODY_TIMEOUT_S``, 400 if the client left.
    """
    announced = request.headers.get("content-length", "0")
    too_long = Refused(413, "too_large", f"expected at most {bytes_max} bytes in the body")
    if len(announced) > 18 or not announced.isdecimal() or int(announced) > bytes_max:
        raise too_long
    pieces: list[bytes] = []
    count = 0
    try:
        with trio.fail_after(BODY_TIMEOUT_S):
            async for piece in request.stream():
                count += len(piece)
                if count > bytes_max:
                    raise too_long
                pieces.append(piece)
    except trio.TooSlowError:
        raise Refused(408, "too_slow", f"the body took longer than {BODY_TIMEOUT_S} s") from None
    except ClientDisconnect:
        raise BadRequest("the client left before the body was whole") from None
    return b"".join(pieces)
