"""Clients that break off, fall silent, do not read and send nonsense; nobody asks what they got.

What they leave behind in a node - connections, tasks, memory - shows in the verdict's figures.
"""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from tests.integration.testnet import Testnet

PATIENCE_S = 4.0
PAUSE_S = 0.1
_HOST = b"Host: localhost\r\n"
_WATCH = b"GET /v1/watch?prefix= HTTP/1.1\r\nAccept: text/event-stream\r\nLast-Event-ID: 0\r\n"
_READ = b"GET /v1/kv/rude HTTP/1.1\r\n" + _HOST + b"\r\n"
_WRITE = b"PUT /v1/kv/rude HTTP/1.1\r\nContent-Length: 4\r\n" + _HOST + b"\r\nrude"
_NONSENSE = (
    b"PUT /v1/kv/rude HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + _HOST
    + b"\r\n5\r\nab\r\nzz\r\n",
    b"PUT /v1/kv/rude HTTP/1.1\r\nContent-Length: 1000\r\n" + _HOST + b"\r\nnot all of it",
    b"POST /v1/txn HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 400000\r\n" + _HOST
    + b'\r\n{"then": [',
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /v1/kv?prefix= HTTP/1.1\r\n",
    b"\0\xff\r\n\r\n",
)  # fmt: skip


@dataclass
class RudeClients:
    """A few of them, each at any node."""

    testnet: Testnet
    seed: int
    clients: int = 3
    stopping: bool = False
    offences: int = 0

    async def run(self) -> None:
        """Until ``stopping``."""
        async with trio.open_nursery() as nursery:
            for number in range(self.clients):
                nursery.start_soon(self._client, random.Random(f"{self.seed} rude {number}"))

    async def _client(self, rng: random.Random) -> None:
        acts: list[Callable[[random.Random, trio.SocketStream], Awaitable[None]]]
        acts = [_break_off, _half_close, _watch_without_reading, _many_at_once, _drip]
        while not self.stopping:
            state, seat = self.testnet.state, rng.choice(self.testnet.seats)
            with suppress(OSError, trio.BrokenResourceError), trio.move_on_after(PATIENCE_S):
                stream = await trio.open_tcp_stream("127.0.0.1", state.api_port(seat))
                try:
                    await rng.choice(acts)(rng, stream)
                    self.offences += 1
                finally:
                    if rng.random() < 0.5:  # by a reset
                        stream.setsockopt(
                            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                        )
                    await trio.aclose_forcefully(stream)
            await trio.sleep(rng.uniform(0.0, 2 * PAUSE_S))


async def _break_off(rng: random.Random, stream: trio.SocketStream) -> None:
    whole = rng.choice((*_NONSENSE, _READ, _WRITE))
    await stream.send_all(whole[: rng.randrange(len(whole))])


async def _half_close(rng: random.Random, stream: trio.SocketStream) -> None:
    await stream.send_all(rng.choice((*_NONSENSE, _READ, _WRITE)))
    await stream.send_eof()
    while await stream.receive_some(65_536):
        pass


async def _watch_without_reading(rng: random.Random, stream: trio.SocketStream) -> None:
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2_048)
    await stream.send_all(_WATCH + _HOST + b"\r\n")
    await trio.sleep(rng.uniform(0.0, PATIENCE_S))


async def _many_at_once(rng: random.Random, stream: trio.SocketStream) -> None:
    await stream.send_all(b"".join(rng.choice((_READ, _WRITE)) for _ in range(40)))
    await stream.receive_some(rng.randrange(1, 4_096))


async def _drip(rng: random.Random, stream: trio.SocketStream) -> None:
    for byte in rng.choice((*_NONSENSE, _READ)):
        await stream.send_all(bytes([byte]))
        await trio.sleep(rng.uniform(0.0, 0.05))
