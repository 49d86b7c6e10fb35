"""``/v1/watch``: every change of a key or range as server-sent events, from any known revision.

Each event's id is a revision: who shows the last one again (``Last-Event-ID``, as browsers do by
themselves) goes on right after it. Events:

- ``progress`` {revision}: all up to here is told; the first one, and after a while without changes;
- ``changes`` {revision, events}: all changes of one revision, so that a transaction comes whole;
- ``error`` {error: {code, message}}: the last one. ``compacted``: the reader was too slow, or away
  for too long, for what this node keeps; read the range and watch on from its revision.

Nothing is queued for a slow reader: it has a place in the history, and memory stays bounded.
"""

from __future__ import annotations

from contextlib import aclosing
from itertools import groupby
from typing import Any, Self

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Send

from consensus.limits import I64_MAX
from node.api.answers import Refused, encode
from node.api.bounds import WATCH_KEEPALIVE_S
from node.api.changes import ChangeStreams, EventStream
from node.api.values import Query
from node.facade import BadRequest, Change, NodeError, NodeFacade
from node.kv_json import show_change

Batch = tuple[list[Change], int]


def watch_routes(facade: NodeFacade, streams: ChangeStreams) -> list[Route]:
    """The watch."""

    async def watch(request: Request) -> Response:
        if "text/event-stream" not in request.headers.get("accept", ""):
            raise Refused(406, "not_acceptable", "a watch needs Accept: text/event-stream")
        query = Query(request, "prefix", "key", "end", "revision")
        key, end = query.span()
        return await KeyChanges(facade, streams, key, end, _after(request, query)).begin()

    return [Route("/v1/watch", watch, methods=["GET"])]


def _after(request: Request, query: Query) -> int | None:
    """The revision after which the watch begins; None is now."""
    last = request.headers.get("last-event-id")
    if last is not None:
        if not last.isascii() or not last.isdecimal() or len(last) > 19 or int(last) > I64_MAX:
            raise BadRequest("Last-Event-ID: expected a revision")
        return int(last)
    first = query.number("revision")
    return max(first - 1, 0) if first is not None else None


class KeyChanges(EventStream):
    """One watcher."""

    def __init__(
        self, facade: NodeFacade, streams: ChangeStreams, key: bytes, end: bytes, after: int | None
    ) -> None:
        super().__init__(streams)
        self._changes = facade.kv.watch(key, end, after)
        self._first: Batch = ([], 0)

    async def begin(self) -> Self:
        """Finds out where the watch begins, so that an error is an answer and not an event."""
        self._first = await anext(self._changes)
        return self

    async def write(self, send: Send) -> None:
        """Until the watch ends."""
        into, out = trio.open_memory_channel[Batch | NodeError](0)  # the reader sets the pace
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, into)
            reached, first = 0, True
            while True:
                item: Batch | NodeError | None = None
                with trio.move_on_after(WATCH_KEEPALIVE_S):
                    item = await out.receive()
                if isinstance(item, NodeError):
                    error = {"code": item.code, "message": str(item)}
                    await send_event(send, "error", {"error": error})
                    return
                if item is not None:
                    changes, reached = item
                    for revision, group in groupby(changes, lambda c: c.revision):
                        shown = {"revision": revision, "events": [show_change(c) for c in group]}
                        await send_event(send, "changes", shown, revision)
                if item is None or first:
                    first = False
                    await send_event(send, "progress", {"revision": reached}, reached)

    async def _read(self, into: trio.MemorySendChannel[Batch | NodeError]) -> None:
        try:
            await into.send(self._first)
            async with aclosing(self._changes) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    await into.send(batch)
        except NodeError as error:
            await into.send(error)


async def send_event(send: Send, name: str, data: dict[str, Any], id_: int | None = None) -> None:
    """One server-sent event."""
    head = b"" if id_ is None else b"id: %d\n" % id_
    body = head + b"event: %b\ndata: %b\n\n" % (name.encode(), encode(data))
    await send({"type": "http.response.body", "body": body, "more_body": True})
