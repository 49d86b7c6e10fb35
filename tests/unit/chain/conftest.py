"""Servers and readers that are closed at the end of a test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
from faulty_chain import CHAIN_ID, CONTRACT, PATIENCE_S, FakeChain, Server

from chain.agreement import FinalizedReader
from chain.rpc import RpcEndpoint
from chain.watermark import Watermark


@pytest.fixture
async def serve(nursery: trio.Nursery) -> Callable[..., Awaitable[list[Server]]]:
    """Starts one server per given chain view; the test's nursery ends them."""

    async def start(*chains: FakeChain) -> list[Server]:
        servers = []
        for chain in chains:
            server = Server(chain)
            listeners = await nursery.start(run, server)
            port = listeners[0].socket.getsockname()[1]
            server.url = f"http://127.0.0.1:{port}"
            servers.append(server)
        return servers

    async def run(server: Server, task_status: trio.TaskStatus[Any]) -> None:
        await trio.serve_tcp(server.serve, 0, host="127.0.0.1", task_status=task_status)

    return start


@pytest.fixture
async def reader_of() -> AsyncIterator[Callable[..., FinalizedReader]]:
    """A reader over some servers, with short deadlines, closed at the end."""
    readers: list[FinalizedReader] = []

    def make(servers: list[Server], quorum: int, **options: Any) -> FinalizedReader:
        path = options.pop("path", None)
        reader = FinalizedReader(
            [RpcEndpoint(s.url, timeout_s=PATIENCE_S, body_bytes_max=200_000) for s in servers],
            quorum,
            Watermark(path, chain_id=CHAIN_ID, contract=CONTRACT),
            single_rpc_insecure=quorum == 1,
            grace_s=options.pop("grace_s", 0.1),
            lag_s=options.pop("lag_s", 0.0),
            **options,
        )
        readers.append(reader)
        return reader

    yield make
    for reader in readers:
        await reader.aclose()
