"""Worlds to attest in (a KMS root, an app), simulated agents, and servers that misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio

from attest import KeyProof, SecretKey, TrustedRoot
from deploy.simulator import Node, Serving, SimulatorConfig, root_address, serve
from deploy.simulator.kms import AppKeys, get_key_v0, get_key_v1, issue_app_keys


@dataclass(frozen=True)
class World:
    """A KMS root secret and an app under it."""

    kms_root: bytes
    app_id: bytes

    @property
    def app(self) -> AppKeys:
        return issue_app_keys(self.kms_root, self.app_id)

    def root(self, **window: int) -> TrustedRoot:
        return TrustedRoot(root_address(self.kms_root), epoch=7, **window)

    def proof(self, scheme: int, purpose: str) -> KeyProof:
        key = (
            get_key_v0(self.app, purpose, purpose, "")
            if scheme == 0
            else get_key_v1(self.app, purpose, "secp256k1")
        )
        return KeyProof(scheme, purpose, key.public_key, self.app_id, *key.signature_chain)


@pytest.fixture
def world() -> World:
    return World(kms_root=b"\x11" * 32, app_id=b"\xaa" * 20)


@pytest.fixture
def other_world() -> World:
    return World(kms_root=b"\x22" * 32, app_id=b"\xaa" * 20)


Simulate = Callable[..., Awaitable[Serving]]


@pytest.fixture
def simulate(nursery: trio.Nursery) -> Simulate:
    """Starts simulated agents of a world: ``await simulate(world, path=seed, ...)``."""

    async def start(world: World, nodes: dict[str, bytes], **options: object) -> Serving:
        config = SimulatorConfig(
            kms_root=SecretKey(world.kms_root),
            app_id=world.app_id,
            nodes=tuple(Node(path, seed) for path, seed in nodes.items()),
            **options,  # type: ignore[arg-type]
        )
        serving: Serving = await nursery.start(serve, config)
        return serving

    return start


Script = Callable[[trio.SocketStream], Awaitable[None]]


class FakeAgents:
    """Serves raw scripts on a Unix socket: each connection is handed to the script."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "fake.sock")
        self.connections = 0

    @asynccontextmanager
    async def running(self, script: Script) -> AsyncIterator[str]:
        sock = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        await sock.bind(self.path)
        sock.listen(8)

        async def handle(stream: trio.SocketStream) -> None:
            self.connections += 1
            async with stream:
                # The client under test may hang up on us, as it should.
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await script(stream)

        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_listeners, handle, [trio.SocketListener(sock)]))
            yield self.path
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def answering(
        self, body: bytes, status: int = 200, headers: str = ""
    ) -> AsyncIterator[str]:
        """Every request gets this one answer."""

        async def script(stream: trio.SocketStream) -> None:
            await stream.receive_some(65536)
            head = f"HTTP/1.1 {status} x\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
            await stream.send_all(head.encode() + body)

        async with self.running(script) as path:
            yield path


@pytest.fixture
def fake_agents(tmp_path: Path) -> FakeAgents:
    return FakeAgents(tmp_path)
