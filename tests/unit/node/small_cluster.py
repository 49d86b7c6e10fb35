"""Members in one process: real engines, drivers, stores and signatures over an in-memory mesh."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import coincurve
import trio

from attest import SecretKey
from consensus import codec, wire
from consensus.digests import genesis_hash
from consensus.engine import Engine
from consensus.interface import Checkpoints, Durations
from consensus.keccak import keccak256
from consensus.validators import Validator, ValidatorSet
from node.archivist import Archivist
from node.driver import Driver
from node.network import (
    MessageFrom,
    NetworkEvent,
    NetworkLimits,
    PeerDown,
    PeerUp,
    Priority,
)
from node.network.inbox import EventQueue, Inbox
from node.signing import NodeSigner, RecoveringVerifier
from node.storage import Store, log_identity
from node.votelog import VoteLog

CLUSTER = keccak256(b"a cluster of the tests")
GENESIS = genesis_hash(CLUSTER, 0, bytes(32))
QUICK = Durations(leader_ms=400, heartbeat_ms=50, stall_ms=1000, retry_ms=60, boot_ms=40)
# For tests in which one leads until told otherwise: a lack of processor time deposes nobody.
STEADY = replace(QUICK, leader_ms=60_000, stall_ms=120_000)


def secret(seat: int) -> bytes:
    return keccak256(b"seat %d" % seat)


def validator_set(weights: dict[int, int]) -> ValidatorSet:
    return ValidatorSet(
        0,
        tuple(
            Validator(s, w, coincurve.PrivateKey(secret(s)).public_key.format())
            for s, w in weights.items()
        ),
        CLUSTER,
    )


@dataclass
class Member:
    """One node; ``watch_send`` sees every payload before it leaves."""

    seat: int
    directory: Path
    mesh: MemoryMesh
    store: Store
    driver: Driver
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    ended: trio.Event = field(default_factory=trio.Event)

    def votes_on_disk(self) -> set[tuple[int, int, int]]:
        """(term, index, kind) of the votes that another process would find."""
        log = VoteLog(self.directory, log_identity(CLUSTER, self.seat, GENESIS), 1)
        log.close()
        votes = [codec.decode_vote(data, self.seat) for kind, data in log.entries if kind == 1]
        return {(*vote.view, int(vote.kind)) for vote in votes}


class MemoryMesh:
    """The part of ``Mesh`` that the driver uses, between members of one process."""

    def __init__(self, cluster: Cluster, seat: int) -> None:
        self._cluster = cluster
        self.seat = seat
        self.watch_send: Callable[[bytes], None] = lambda payload: None
        self.events = EventQueue()
        self._inbox = Inbox(NetworkLimits(), self.events)

    def deliver(self, event: NetworkEvent) -> None:
        self._inbox.put(event)

    def burst(self) -> AbstractContextManager[None]:
        return nullcontext()

    def send(self, seat: int, payload: bytes, priority: Priority = Priority.CONSENSUS) -> bool:
        self.watch_send(payload)
        other = self._cluster.members.get(seat)
        if other is None:
            return False
        other.mesh.deliver(MessageFrom(self.seat, payload))
        return True

    def broadcast(self, payload: bytes, priority: Priority = Priority.CONSENSUS) -> int:
        others = [seat for seat in self._cluster.members if seat != self.seat]
        return sum(self.send(seat, payload, priority) for seat in others)


class Cluster:
    """Starts and kills members; links form and break at once."""

    def __init__(
        self,
        directory: Path,
        weights: dict[int, int],
        nursery: trio.Nursery,
        checkpoints: Checkpoints,
        durations: Durations,
    ) -> None:
        self._checkpoints = checkpoints
        self._durations = durations
        self.validators = validator_set(weights)
        self.members: dict[int, Member] = {}
        self._directory = directory
        self._nursery = nursery

    async def start(self, seat: int) -> Member:
        """A member on its directory; the store is read as after a crash."""
        directory = self._directory / f"seat-{seat}"
        store = Store(directory, cluster_id=CLUSTER, seat=seat, genesis=GENESIS)
        engine = Engine(
            cluster_id=CLUSTER,
            validators=self.validators,
            seat=seat,
            signer=NodeSigner(SecretKey(secret(seat))),
            verifier=RecoveringVerifier(),
            restored=store.restore(),
            boot_id=os.urandom(32),
            durations=self._durations,
            checkpoints=self._checkpoints,
        )
        mesh = MemoryMesh(self, seat)
        every = self._checkpoints.every
        archivist = Archivist(store, directory, checkpoint=every, every=every)
        driver = Driver(engine, store, mesh, cluster_id=CLUSTER, archivist=archivist)  # type: ignore[arg-type]
        member = Member(seat, directory, mesh, store, driver)
        for other in self.members.values():
            other.mesh.deliver(PeerUp(seat))
            mesh.deliver(PeerUp(other.seat))
        self.members[seat] = member
        self._nursery.start_soon(self._run, member)
        return member

    async def _run(self, member: Member) -> None:
        try:
            with member.scope:
                await member.driver.run()
        finally:
            member.store.close()
            member.ended.set()

    async def kill(self, seat: int) -> None:
        """The member ends between two instructions; what it had not synced is gone."""
        member = self.members.pop(seat)
        member.scope.cancel()
        for other in self.members.values():
            other.mesh.deliver(PeerDown(seat, "killed"))
        await member.ended.wait()

    async def wait(self, condition: Callable[[], bool]) -> None:
        with trio.fail_after(30):
            while not condition():
                await trio.sleep(0.005)

    async def wait_active(self) -> None:
        await self.wait(
            lambda: all(m.driver.engine.status().state == "active" for m in self.members.values())
        )


@asynccontextmanager
async def small_cluster(
    directory: Path,
    weights: dict[int, int],
    checkpoints: Checkpoints | None = None,
    durations: Durations = QUICK,
) -> AsyncIterator[Cluster]:
    """All members started and active."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(directory, weights, nursery, checkpoints or Checkpoints(), durations)
        for seat in weights:
            await cluster.start(seat)
        await cluster.wait_active()
        yield cluster
        nursery.cancel_scope.cancel()


def decoded(payload: bytes, sender: int) -> wire.Message:
    return wire.decode(payload, sender, CLUSTER)
