"""Links that can be muted, slowed down and cut, one relay for each member that dials each other.

A link is one TCP connection, whoever dialled it; a fault has a direction. What a mute way has taken
is delivered when it is heard again, as TCP does after a partition; members will have given the link
up by then.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import trio

PIECE_BYTES = 64 * 1024
Way = tuple[int, int]  # from seat to seat


@dataclass
class Trouble:
    """What is wrong with one way."""

    open: trio.Event = field(default_factory=trio.Event)  # replaced when it becomes mute
    delay_s: float = 0.0  # for each piece


class Relays:
    """All ways between all seats; ``run`` keeps them up."""

    def __init__(self, p2p_ports: Mapping[int, int]) -> None:
        self._ports = dict(p2p_ports)
        self._troubles: dict[Way, Trouble] = {}
        self._links: dict[frozenset[int], set[trio.CancelScope]] = {}
        self._relays: dict[Way, int] = {}
        for a in p2p_ports:
            for b in p2p_ports:
                if a != b:
                    self._troubles[a, b] = Trouble()
                    self._troubles[a, b].open.set()
                    self._links[frozenset((a, b))] = set()

    def environment(self, seat: int) -> dict[str, str]:
        """For the daemon of that seat."""
        relays = {self._ports[b]: port for (a, b), port in self._relays.items() if a == seat}
        return {"NEMESIS_RELAYS": json.dumps(relays)}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            for way in self._troubles:
                (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
                self._relays[way] = listener.socket.getsockname()[1]
                nursery.start_soon(self._serve, way, listener)
            task_status.started()

    async def _serve(self, way: Way, listener: trio.SocketListener) -> None:
        async def link(stream: trio.SocketStream) -> None:
            await self._link(way, stream)

        await trio.serve_listeners(link, [listener])

    async def _link(self, way: Way, dialled: trio.SocketStream) -> None:
        a, b = way
        try:
            other = await trio.open_tcp_stream("127.0.0.1", self._ports[b])
        except OSError:
            return
        scopes = self._links[frozenset(way)]
        with trio.CancelScope() as scope:
            scopes.add(scope)
            async with dialled, other, trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, (a, b), dialled, other, scope)
                nursery.start_soon(self._pump, (b, a), other, dialled, scope)
        scopes.discard(scope)

    async def _pump(
        self, way: Way, source: trio.SocketStream, sink: trio.SocketStream, scope: trio.CancelScope
    ) -> None:
        trouble = self._troubles[way]
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(PIECE_BYTES):
                if trouble.delay_s:
                    await trio.sleep(trouble.delay_s)
                await trouble.open.wait()
                await sink.send_all(data)
        await trouble.open.wait()  # the end of a connection is not heard either
        scope.cancel()

    # --- trouble ---

    def mute(self, ways: Collection[Way]) -> None:
        """Nothing more comes through."""
        for way in ways:
            if self._troubles[way].open.is_set():
                self._troubles[way].open = trio.Event()

    def slow(self, ways: Collection[Way], delay_s: float) -> None:
        """Each piece takes so much longer, one after the other."""
        for way in ways:
            self._troubles[way].delay_s = delay_s

    def cut(self, a: int, b: int) -> None:
        """Ends the connections between two members."""
        for scope in self._links[frozenset((a, b))]:
            scope.cancel()

    def heal(self) -> None:
        """All ways are as they were."""
        for trouble in self._troubles.values():
            trouble.open.set()
            trouble.delay_s = 0.0

    def between(self, these: Collection[int], those: Collection[int]) -> list[Way]:
        """All ways from one group to another, one direction."""
        return [(a, b) for a in these for b in those if a != b]
