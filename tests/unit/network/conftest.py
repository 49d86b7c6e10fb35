"""Meshes on loopback, a log that remembers, and a client that speaks each layer by hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import trio
from coincurve import PrivateKey

from node.network import (
    Mesh,
    MessageFrom,
    NetworkEvent,
    NetworkLimits,
    PeerAddress,
    PeerDown,
    PeerUp,
)
from node.network.addresses import parse_endpoint
from node.network.attesting import Attestor, Statement
from node.network.channel import HandshakeStream, SecureChannel
from node.network.errors import Denied, Unproven
from node.network.frames import Hello
from node.network.handshake import Established, Handshaker, NegotiationStream
from node.network.identity import (
    NOISE_ID,
    YAMUX_ID,
    MultiselectClient,
    MultiselectCommunicator,
    NoiseTransport,
    RawConnection,
    SecurityMultistream,
    key_pair,
    new_x25519,
    peer_id_from_key,
)
from node.network.limits import PROTOCOL_VERSION
from node.network.yamux import Yamux

CLUSTER = b"\xc1" * 32
PATIENCE_S = 30.0

FAST = NetworkLimits(
    heartbeat_s=0.1,
    dead_after_s=2.0,
    dial_grace_s=0.3,
    backoff_min_s=0.05,
    backoff_max_s=0.3,
    good_link_s=0.2,
    handshakes_per_s_per_ip=1e6,
    handshake_burst_per_ip=1e6,
    handshakes_per_s_strangers=1e6,
    handshake_burst_strangers=1e6,
    half_open_per_ip_max=64,
    penalty_s=0.3,
    penalty_max_s=1.0,
    denied_linger_s=0.2,
    denied_backoff_s=0.1,
    denied_backoff_max_s=0.5,
)


def secret_of(seat: int) -> bytes:
    return bytes([seat]) * 32


def node_key(secret: bytes) -> bytes:
    return PrivateKey(secret).public_key.format()


def address(seat: int, endpoint: str = "") -> PeerAddress:
    return PeerAddress(seat, node_key(secret_of(seat)), endpoint)


class RecordingLog:
    """Remembers (level, event, fields)."""

    def __init__(self) -> None:
        self.records: list[tuple[str, str, dict[str, Any]]] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        if level not in ("debug", "info", "warning", "error"):
            raise AttributeError(level)
        return lambda event, **fields: self.records.append((level, event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for _, name, fields in self.records if name == event]


async def wait_until(condition: Callable[[], object]) -> None:
    """Poll a condition under a deadline."""
    with trio.fail_after(PATIENCE_S):
        while not condition():
            await trio.sleep(0.005)


@dataclass
class Running:
    """A mesh, its log, everything it has told so far, and a way to stop it."""

    mesh: Mesh
    log: RecordingLog
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    stopped: trio.Event = field(default_factory=trio.Event)
    seen: list[NetworkEvent] = field(default_factory=list)

    async def next(self, wanted: Callable[[NetworkEvent], bool]) -> NetworkEvent:
        """The next event that fits; the ones before it are kept in ``seen``."""
        with trio.fail_after(PATIENCE_S):
            while True:
                event = await self.mesh.events.receive()
                self.seen.append(event)
                if wanted(event):
                    return event

    async def up(self, seat: int) -> None:
        await self.next(lambda e: e == PeerUp(seat))

    async def down(self, seat: int, *, by: tuple[str, ...] = ()) -> str:
        """The reason of the next loss; a crossed dial's replacement is none unless asked for."""
        event = await self.next(
            lambda e: (
                isinstance(e, PeerDown)
                and e.seat == seat
                and (e.reason != "replaced" or "replaced" in by)
            )
        )
        assert isinstance(event, PeerDown)
        return event.reason

    async def message(self, seat: int) -> bytes:
        event = await self.next(lambda e: isinstance(e, MessageFrom) and e.seat == seat)
        assert isinstance(event, MessageFrom)
        return event.payload

    def connected(self, seat: int) -> bool:
        return any(row.connected for row in self.mesh.links() if row.seat == seat)

    async def stop(self) -> None:
        self.scope.cancel()
        await self.stopped.wait()


class Notary:
    """An attestor whose evidence is the statement itself, so it proves that and nothing else."""

    def __init__(self) -> None:
        self.boot = 1
        self.failure: Unproven | None = None  # raised instead of proving
        self.refuses: set[int] = set()  # seats that do not satisfy
        self.hold: trio.Event | None = None  # waited for before proving
        self.proven: list[Statement] = []
        self.judged: list[Statement] = []
        self.refused_by: list[tuple[int, int, bytes]] = []

    def incarnation(self) -> int:
        return self.boot

    async def prove(self, statement: Statement) -> bytes:
        self.proven.append(statement)
        if self.hold is not None:
            await self.hold.wait()
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        return repr(statement).encode()

    async def judge(self, statement: Statement, evidence: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self.judged.append(statement)
        if evidence != repr(statement).encode():
            raise Denied("attestation_not_fresh", code=7, detail="another statement")
        if statement.seat in self.refuses:
            raise Denied("attestation_compose", code=8, detail="details", attachment=b"newer")

    def told(self, seat: int, code: int, attachment: bytes) -> None:
        self.refused_by.append((seat, code, attachment))


class Network:
    """Starts meshes in a nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery

    async def start(
        self,
        seat: int,
        *,
        secret: bytes | None = None,
        cluster: bytes = CLUSTER,
        listen: str = "/ip4/127.0.0.1/tcp/0",
        members: Iterable[PeerAddress] = (),
        limits: NetworkLimits = FAST,
        attestor: Attestor | None = None,
        **changes: Any,
    ) -> Running:
        log = RecordingLog()
        mesh = Mesh(
            secret=secret or secret_of(seat),
            cluster_id=cluster,
            seat=seat,
            listen=listen,
            limits=replace(limits, **changes),
            log=log,
            attestor=attestor,
        )
        mesh.set_members(members)
        running = Running(mesh, log)

        async def serve(task_status: Any) -> None:
            try:
                with running.scope:
                    await mesh.run(task_status=task_status)
            finally:
                running.stopped.set()

        await self.nursery.start(serve)
        return running

    async def full(self, count: int, **changes: Any) -> list[Running]:
        """``count`` meshes, seats from 1, all linked."""
        nodes = [await self.start(seat, **changes) for seat in range(1, count + 1)]
        table = [address(n.mesh.seat, n.mesh.listen_address) for n in nodes]
        for node in nodes:
            node.mesh.set_members(table)
        await wait_until(lambda: settled([node.mesh for node in nodes]))
        return nodes


def settled(meshes: list[Mesh]) -> bool:
    """Every pair has one link, both ends agree who dialled it, and no handshake is under way."""
    ends = {(m.seat, p.seat): p.link for m in meshes for p in m._peers.values()}
    return all(mesh.half_open == 0 for mesh in meshes) and all(
        link is not None
        and (other := ends[seat, mine]) is not None
        and link.dialled != other.dialled
        for (mine, seat), link in ends.items()
    )


@pytest.fixture
async def network(nursery: trio.Nursery) -> Network:
    return Network(nursery)


# -- a client that speaks each layer by hand ---------------------------------------------------


async def tcp(mesh: Mesh) -> trio.SocketStream:
    target = parse_endpoint(mesh.listen_address)
    return await trio.open_tcp_stream(target.host, target.port)


async def noise(mesh: Mesh, secret: bytes) -> tuple[trio.SocketStream, Any]:
    """TCP and Noise with the library's own transport, as any libp2p node would do it."""
    stream = await tcp(mesh)
    transport = NoiseTransport(key_pair(secret), noise_privkey=new_x25519().private_key)
    raw = RawConnection(HandshakeStream(stream, 1 << 20), True)
    target = peer_id_from_key(node_key(secret_of(mesh.seat)))
    return stream, await SecurityMultistream({NOISE_ID: transport}).secure_outbound(raw, target)


async def muxed(mesh: Mesh, secret: bytes) -> tuple[SecureChannel, NegotiationStream]:
    """Up to an open Yamux stream on which nothing was negotiated yet."""
    stream, session = await noise(mesh, secret)
    await MultiselectClient().select_one_of([YAMUX_ID], MultiselectCommunicator(session))
    channel = SecureChannel(stream, session)
    yamux = Yamux(initiator=True, window_bytes=1 << 20)
    yamux.open()
    return channel, NegotiationStream(channel, yamux, 1 << 20)


async def linked(
    mesh: Mesh,
    seat: int,
    *,
    secret: bytes | None = None,
    cluster: bytes = CLUSTER,
    version: int = PROTOCOL_VERSION,
    claimed_seat: int | None = None,
    attests: bool = False,
) -> Established:
    """A complete link of a member, or all before the proofs, then in the caller's hands."""
    claimed = seat if claimed_seat is None else claimed_seat
    hello = Hello(version, cluster, claimed, os.urandom(16), attests)
    shaker = Handshaker(key_pair(secret or secret_of(seat)), hello, FAST, lambda _: None)
    target = peer_id_from_key(node_key(secret_of(mesh.seat)))
    return await shaker.outbound(await tcp(mesh), mesh.seat, target)


async def wait_closed(channel: SecureChannel | trio.SocketStream) -> None:
    """Read until the other side has closed."""
    with trio.fail_after(PATIENCE_S):
        while True:
            try:
                if isinstance(channel, SecureChannel):
                    data = await channel.receive()
                else:
                    data = await channel.receive_some(65536)
            except (Exception, trio.BrokenResourceError):
                return
            if not data:
                return


@contextmanager
def closing(*things: Any) -> Any:
    try:
        yield
    finally:
        for thing in things:
            (thing.socket if isinstance(thing, trio.SocketStream) else thing).close()
