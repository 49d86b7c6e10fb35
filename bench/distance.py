"""Nodes far from each other: relays that hold back what nodes say to each other.

Every node is announced at a relay of its own, and what goes through in either direction comes out
a delay later, in order; a link between two nodes goes through the relay of the one that was
dialled. Clients are next to their nodes, as applications in the same machine are.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from functools import partial

from .cluster import BenchError

OFFSET = 500  # from the port on which a node listens to that of its relay


class Relays:
    """One to each of these local ports, in a thread of their own; none without a delay.

    They buffer without a bound: whoever measures sends no more than the nodes answer.
    """

    def __init__(self, ports: Sequence[int], delay_ms: float) -> None:
        self.offset = OFFSET if delay_ms else 0
        self._ports = ports
        self._delay_s = delay_ms / 1000
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._servers: list[asyncio.Server] = []
        self._ends: set[_Way] = set()

    def start(self) -> None:
        """Listen. Raises BenchError."""
        if not self.offset or self._thread is not None:
            return
        self._loop = loop = asyncio.new_event_loop()
        try:
            for port in self._ports:
                relay = partial(_Dialled, self._ends, self._delay_s, port)
                server = loop.create_server(relay, "127.0.0.1", port + self.offset)
                self._servers.append(loop.run_until_complete(server))
        except OSError as error:
            self._close()
            loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            raise BenchError(f"a relay cannot listen: {error}") from None
        self._thread = threading.Thread(target=loop.run_forever, name="relays", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End all links and the thread."""
        if self._loop is None or self._thread is None:
            return
        self._loop.call_soon_threadsafe(self._close)
        self._loop.call_soon_threadsafe(self._loop.call_soon, self._loop.stop)  # after what closes
        self._thread.join()
        self._loop.close()
        self._thread = None

    def _close(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        for end in self._ends:
            if end.transport is not None:
                end.transport.abort()


class _Way(asyncio.Protocol):
    """One end of a link; what it reads is written to the other end a moment later."""

    def __init__(self, ends: set[_Way], delay_s: float) -> None:
        self._ends = ends
        self._delay_s = delay_s
        self.transport: asyncio.Transport | None = None
        self.other: _Way | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._ends.add(self)

    def data_received(self, data: bytes) -> None:
        asyncio.get_running_loop().call_later(self._delay_s, self._deliver, data)

    def connection_lost(self, _: Exception | None) -> None:
        self._ends.discard(self)
        asyncio.get_running_loop().call_later(self._delay_s, self._end)

    def _deliver(self, data: bytes) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def _end(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Dialled(_Way):
    """The end of who dialled; it dials the node itself."""

    def __init__(self, ends: set[_Way], delay_s: float, port: int) -> None:
        super().__init__(ends, delay_s)
        self._port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        assert self.transport is not None
        self.transport.pause_reading()  # until there is another end
        self._dialling = asyncio.get_running_loop().create_task(self._dial())

    async def _dial(self) -> None:
        assert self.transport is not None
        other = _Way(self._ends, self._delay_s)
        other.other, self.other = self, other
        try:
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: other, "127.0.0.1", self._port)
        except OSError:  # the node is down
            self.transport.close()
            return
        self.transport.resume_reading()
