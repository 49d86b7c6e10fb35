"""``/v1/kv`` (ranges) and ``/v1/txn``: the key-value store beyond single keys, as JSON."""

from __future__ import annotations

import struct
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from consensus import limits
from consensus.commands import (
    Command,
    Compare,
    Delete,
    Put,
    Range,
    Target,
    Txn,
    TxnOp,
    decode_command,
    encode_command,
    prefix_end,
)
from consensus.errors import WireError
from node.api.answers import LargeAnswer, answer
from node.api.bounds import SMALL_RANGE_KEYS_MAX, TXN_BODY_BYTES_MAX
from node.api.kv import body_place, read_body, request_id
from node.api.registration import check_json
from node.api.values import (
    Query,
    body_object,
    check_writable,
    json_object,
)
from node.facade import BadRequest, Deleted, Found, NodeFacade, TxnOutcome, Write
from node.kv_json import RELATIONS, TARGETS, read_bytes, read_number, show_found

_BYTES = ("key", "key_base64")
_SPAN = (*_BYTES, "end", "end_base64", "prefix", "prefix_base64")
_OPERATIONS = ("put", "delete", "range")


def transaction_routes(
    facade: NodeFacade, places: trio.Semaphore, bodies: trio.Semaphore
) -> list[Route]:
    """Ranges and transactions; ``places`` are those of large answers, ``bodies`` of bodies."""
    encoding = trio.Lock()  # one for each turn of the loop: all of a block are answered together

    async def kv_range(request: Request) -> Response:
        if request.method == "DELETE":
            key, end = Query(request, "prefix", "key", "end").span()
            check_writable(key, end)
            await read_body(request, 0)
            gone = await facade.kv.delete_range(key, end, request_id(request))
            return answer({"revision": gone.revision, "deleted": gone.deleted})
        query = Query(
            request, "prefix", "key", "end", "limit", "revision", "stale", "count_only", "keys_only"
        )
        key, end = query.span()
        limit, revision = query.number("limit", 0) or 0, query.number("revision")
        linearizable, count_only = not query.switch("stale"), query.switch("count_only")
        keys_only = query.switch("keys_only")

        async def make() -> Response:
            found = await facade.kv.range(
                key,
                end,
                limit=limit,
                revision=revision,
                linearizable=linearizable,
                count_only=count_only,
            )
            return answer(show_found(found, keys_only=keys_only))

        if count_only or 1 <= limit <= SMALL_RANGE_KEYS_MAX:
            return await make()
        return LargeAnswer(places, make)

    async def txn(request: Request) -> Response:
        check_json(request)
        async with body_place(bodies, request):
            wanted = read_txn(await read_body(request, TXN_BODY_BYTES_MAX))
        outcome = await facade.kv.txn(wanted, request_id(request))

        async def make() -> Response:
            async with encoding:
                return answer(show_outcome(outcome))

        if any(isinstance(response, Found) for response in outcome.responses or ()):
            return LargeAnswer(places, make)
        return await make()

    return [
        Route("/v1/kv", kv_range, methods=["GET", "DELETE"]),
        Route("/v1/txn", txn, methods=["POST"]),
    ]


def read_txn(body: bytes) -> Txn:
    """The transaction of a JSON body, such as every member accepts. Raises BadRequest."""
    row = body_object(body, ("compare", "then", "else"))
    txn = Txn(
        tuple(_compare(item) for item in _array(row, "compare", limits.TXN_COMPARES_MAX)),
        tuple(_operation(item) for item in _array(row, "then", limits.TXN_OPS_MAX)),
        tuple(_operation(item) for item in _array(row, "else", limits.TXN_OPS_MAX)),
    )
    try:
        decode_command(encode_command(Command(bytes(16), 1, txn)))
    except (WireError, struct.error) as error:  # the latter of a length that no encoding holds
        raise BadRequest(str(error)) from None
    return txn


def _array(row: dict[str, Any], name: str, most: int) -> list[Any]:
    found = row.get(name, [])
    if not isinstance(found, list) or len(found) > most:
        raise BadRequest(f"{name}: expected an array of at most {most}")
    return found


def _compare(item: Any) -> Compare:
    row = json_object(
        item, "compare", (*_BYTES, "target", "relation", "value", "value_base64", "number")
    )
    target = TARGETS.get(str(row.get("target")))
    relation = RELATIONS.get(str(row.get("relation", "=")))
    if target is None or relation is None:
        raise BadRequest(
            f"compare: expected a target of {', '.join(TARGETS)} and a relation of "
            f"{', '.join(RELATIONS)}"
        )
    operand: int | bytes
    operand = read_bytes(row, "value") if target is Target.VALUE else read_number(row, "number")
    return Compare(_key(row), target, relation, operand)


def _operation(item: Any) -> TxnOp:
    row = json_object(item, "an operation", _OPERATIONS)
    if len(row) != 1:
        raise BadRequest(f"an operation: expected one of {', '.join(_OPERATIONS)}")
    ((name, what),) = row.items()
    if name == "put":
        put = json_object(what, name, (*_BYTES, "value", "value_base64", "lease"))
        key = _key(put)
        check_writable(key)
        return Put(key, read_bytes(put, "value"), read_number(put, "lease", 0))
    if name == "delete":
        key, end = _span(json_object(what, name, _SPAN))
        check_writable(key, end)
        return Delete(key, end)
    read = json_object(what, name, (*_SPAN, "limit"))
    limit = read_number(read, "limit", 0)
    if limit > limits.RANGE_KEYS_MAX:
        raise BadRequest(f"limit: expected at most {limits.RANGE_KEYS_MAX}")
    return Range(*_span(read), limit)


def _key(row: dict[str, Any]) -> bytes:
    key = read_bytes(row, "key")
    if not 1 <= len(key) <= limits.KEY_BYTES_MAX:
        raise BadRequest(f"a key has 1..{limits.KEY_BYTES_MAX} bytes, this one has {len(key)}")
    return key


def _span(row: dict[str, Any]) -> tuple[bytes, bytes]:
    if "prefix" in row or "prefix_base64" in row:
        prefix = read_bytes(row, "prefix")
        if not {"key", "key_base64", "end", "end_base64"}.isdisjoint(row):
            raise BadRequest("expected a prefix, or a key with or without an end")
        return prefix or b"\0", prefix_end(prefix)
    return _key(row), read_bytes(row, "end", b"")


def show_outcome(outcome: TxnOutcome) -> dict[str, Any]:
    """A transaction's outcome as JSON; ``responses`` are null for a repeated request."""
    shown = None
    if outcome.responses is not None:
        shown = [_response(response) for response in outcome.responses]
    return {
        "revision": outcome.revision,
        "succeeded": outcome.succeeded,
        "responses": shown,
    }


def _response(response: Write | Deleted | Found) -> dict[str, Any]:
    match response:
        case Write(_, existed):
            return {"put": {"existed": existed}}
        case Deleted(_, deleted):
            return {"delete": {"deleted": deleted}}
        case Found():
            return {"range": show_found(response)}
