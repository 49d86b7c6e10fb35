"""Server-sent events; here those of peers and leader: at once and after every change.

A slow reader gets the newest state, not a queue of old ones: memory stays bounded and what it
reads is true. Format: WHATWG HTML, section "Server-sent events".
"""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import trio
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from node.api.answers import Refused, encode
from node.api.bounds import LEADER_LOOK_S, WATCH_KEEPALIVE_S, WATCHERS_MAX
from node.facade import NodeFacade


class ChangeStreams:
    """Counts the open event streams and ends them all when the service stops."""

    def __init__(self) -> None:
        self.open_count = 0
        self.closing = trio.Event()


class EventStream(Response):
    """A response of server-sent events: ``write`` sends them until there are no more."""

    media_type = "text/event-stream"

    def __init__(self, streams: ChangeStreams) -> None:
        if streams.open_count >= WATCHERS_MAX or streams.closing.is_set():
            raise Refused(429, "busy", f"at most {WATCHERS_MAX} event streams are served at once")
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._streams = streams

    async def write(self, send: Send) -> None:
        """Sends the events; cancelled when the client leaves or the service stops."""
        raise NotImplementedError

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stream until the client leaves, the service stops or ``write`` ends."""
        self._streams.open_count += 1
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            async with trio.open_nursery() as nursery:

                async def until_disconnect() -> None:
                    while (await receive())["type"] != "http.disconnect":
                        pass
                    nursery.cancel_scope.cancel()

                async def until_closing() -> None:
                    await self._streams.closing.wait()
                    nursery.cancel_scope.cancel()

                nursery.start_soon(until_disconnect)
                nursery.start_soon(until_closing)
                await self.write(send)
                nursery.cancel_scope.cancel()
        finally:
            self._streams.open_count -= 1
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class PeerChanges(EventStream):
    """The event stream of ``/v1/peers?watch=1``; each event's data is ``{"peers": rows}``."""

    def __init__(self, facade: NodeFacade, streams: ChangeStreams) -> None:
        super().__init__(streams)
        self._facade = facade
        self._rows: list[dict[str, Any]] | None = None
        self._changed = trio.Event()

    async def write(self, send: Send) -> None:
        """Until the node ends the watch."""
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async with aclosing(self._facade.watch_peers()) as changes:  # type: ignore[type-var]
                    async for rows in changes:
                        self._rows = rows
                        self._changed.set()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await self._write(send)

    async def _write(self, send: Send) -> None:
        while True:
            with trio.move_on_after(WATCH_KEEPALIVE_S):
                await self._changed.wait()
            if self._changed.is_set():
                self._changed = trio.Event()
                data = b"event: peers\ndata: " + encode({"peers": self._rows}) + b"\n\n"
            else:
                data = b": still here\n\n"
            await send({"type": "http.response.body", "body": data, "more_body": True})


class LeaderChanges(EventStream):
    """The event stream of ``/v1/leader?watch=1``; each event's data is what ``/v1/leader`` says.

    It looks again and again, as much that changes who leads is no event: a quorum that is not
    heard any more, a boot certificate that arrives.
    """

    def __init__(self, facade: NodeFacade, streams: ChangeStreams) -> None:
        super().__init__(streams)
        self._facade = facade

    async def write(self, send: Send) -> None:
        """Until cancelled."""
        told: dict[str, Any] | None = None
        written_at = trio.current_time()
        while True:
            data, now = b"", self._facade.leader()
            if now != told:
                told, data = now, b"event: leader\ndata: " + encode(now) + b"\n\n"
            elif trio.current_time() - written_at >= WATCH_KEEPALIVE_S:
                data = b": still here\n\n"
            if data:
                written_at = trio.current_time()
                await send({"type": "http.response.body", "body": data, "more_body": True})
            await trio.sleep(LEADER_LOOK_S)
