"""Members with simulated TDX machines: real meshes, real verification, a core of numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import trio

from attest import AgentUnavailable, keccak256
from attest.collateral_store import CollateralStore
from attest.qvl import Platform
from chain import Member, MemberStatus, PolicyText
from consensus.validators import Validator, ValidatorSet
from deploy.simulator import Faults, TdxPki, collateral, instance_id
from deploy.simulator.accepting import policy_text
from deploy.simulator.attester import Attester, NoQuotes
from deploy.simulator.faults import NO_FAULTS
from deploy.simulator.machine import Machine
from deploy.simulator.methods import DEFAULT_APP_COMPOSE
from deploy.simulator.tdx_collateral import FMSPC_FRESH, FMSPC_STALE
from node.attestation import Attestation, PolicyBook
from node.network import Mesh, NetworkLimits
from tests.unit.network.conftest import (
    CLUSTER,
    FAST,
    RecordingLog,
    address,
    node_key,
    secret_of,
    wait_until,
)

KMS_ROOT = b"\x11" * 32
APP_ID = b"\xaa" * 20
PKI = TdxPki.of_kms_root(KMS_ROOT)
LIMITS: NetworkLimits = replace(
    FAST,
    proof_timeout_s=10.0,
    penalty_s=0.05,
    penalty_max_s=0.2,
    proofs_per_s=50.0,
    proof_burst=200.0,
)


def seed_of(seat: int) -> bytes:
    return bytes([seat]) * 20


def row(seat: int) -> Member:
    """The registry's row of a seat."""
    return Member(
        seat=seat,
        weight=1,
        status=MemberStatus.ACTIVE,
        node_key=node_key(secret_of(seat)),
        instance_id=instance_id(seed_of(seat), APP_ID),
        incarnation=1,
        endpoint="",
        lease_expires_s=2**40,
        root_epoch=1,
        scheme=0,
        owner=bytes(20),
    )


def bundle() -> list[tuple[Platform, Any]]:
    """What the mock authority states now, of both families."""
    return [
        (Platform(fmspc, "platform"), collateral(PKI, fmspc, time.time()))
        for fmspc in (FMSPC_FRESH, FMSPC_STALE)
    ]


def policy(version: int, machines: Iterable[Machine], **changes: Any) -> PolicyText:
    """A policy of the registry that takes these machines."""
    text = policy_text(machines, **changes)
    return PolicyText(version, keccak256(text), text)


class Agent:
    """A guest agent without its socket. ``faults`` are its machine's; ``hold`` delays quotes."""

    def __init__(self, seat: int) -> None:
        self.faults = NO_FAULTS
        self.hold: trio.Event | None = None
        self.is_down = False
        self.asked = 0
        self.attester = Attester(
            KMS_ROOT,
            seed=seed_of(seat),
            app_id=APP_ID,
            app_compose=DEFAULT_APP_COMPOSE,
            faults=lambda: self.faults,
        )

    @property
    def machine(self) -> Machine:
        return self.attester.machine()

    async def get_quote(self, report_data: bytes) -> tuple[bytes, bytes]:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        if self.hold is not None:
            await self.hold.wait()
        if self.is_down:
            raise AgentUnavailable("nobody listens")
        try:
            given = self.attester.evidence(report_data)
        except NoQuotes as error:
            raise AgentUnavailable(str(error)) from None
        return given.quote, given.event_log.encode()


@dataclass
class Numbers:
    """The core: boots and votes as the test says."""

    boot: int = 1
    acknowledged: dict[int, int] = field(default_factory=dict)
    told: list[tuple[int, bytes]] = field(default_factory=list)
    weights: dict[int, int] = field(default_factory=dict)

    def incarnation(self) -> int:
        return self.boot

    def current(self, seat: int) -> int:
        return self.acknowledged.get(seat, 0)

    def proof(self, seat: int) -> bytes:
        return b"a newer boot of %d" % seat

    def superseded(self, seat: int, proof: bytes) -> None:
        self.told.append((seat, proof))

    def validators(self) -> ValidatorSet:
        return ValidatorSet(
            0,
            tuple(Validator(s, w, node_key(secret_of(s))) for s, w in self.weights.items()),
            CLUSTER,
        )


@dataclass
class Node:
    """One member of the test."""

    seat: int
    agent: Agent
    core: Numbers
    attestation: Attestation
    mesh: Mesh
    log: RecordingLog
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def linked(self, seat: int) -> bool:
        return any(link.connected for link in self.mesh.links() if link.seat == seat)

    def member(self, seat: int) -> dict[str, Any]:
        return self.attestation.member(seat) or {}

    def refused(self, seat: int) -> str:
        """The word for which this node refused that seat last, or ""."""
        return (
            (self.member(seat).get("refused") or {}).get("reason", "").removeprefix("attestation_")
        )

    def refused_by(self, seat: int) -> str:
        """The word for which that seat says it refused this node, or ""."""
        told = self.member(seat).get("refused_us") or {}
        return str(told.get("reason", "")).removeprefix("attestation_")


class World:
    """Starts members; a policy is everybody's unless a test says otherwise."""

    def __init__(self, nursery: trio.Nursery, folder: Path) -> None:
        self.nodes: dict[int, Node] = {}
        self.rows = {seat: row(seat) for seat in range(1, 8)}
        self.weights = {1: 1, 2: 1, 3: 1}
        self._nursery = nursery
        self._folder = folder

    async def start(
        self,
        seat: int,
        *,
        faults: Faults = NO_FAULTS,
        policy_: PolicyText | None = None,
        boot: int = 1,
        store: CollateralStore | None = None,
        renewal_s_max: float = 3600.0,
        change: Callable[[Node], None] = lambda _: None,
    ) -> Node:
        folder = self._folder / f"{seat}-{len(list(self._folder.iterdir()))}"
        folder.mkdir()
        agent, core = Agent(seat), Numbers(boot, weights=self.weights)
        agent.faults = faults
        book = PolicyBook(folder / "policy.json")
        attestation = Attestation(
            agent,
            cluster_id=CLUSTER,
            seat=seat,
            app_id=APP_ID,
            collateral=store or CollateralStore([], bundle=bundle()),
            policies=book,
            row_of=self.rows.get,
            evidence_bytes_max=LIMITS.evidence_bytes_max,
            root_ca_der=PKI.root_der,
            renewal_s_max=renewal_s_max,
        )
        if policy_ is not None:
            await book.saw(policy_)
        log = RecordingLog()
        mesh = Mesh(
            secret=secret_of(seat),
            cluster_id=CLUSTER,
            seat=seat,
            listen="/ip4/127.0.0.1/tcp/0",
            limits=LIMITS,
            log=log,
            attestor=attestation,
        )
        node = Node(seat, agent, core, attestation, mesh, log)
        attestation.attach(mesh, core)
        change(node)
        self.nodes[seat] = node
        await self._nursery.start(self._run, node)
        table = [address(n.seat, n.mesh.listen_address) for n in self.nodes.values()]
        for other in self.nodes.values():
            other.mesh.set_members(table)
        return node

    async def _run(self, node: Node, task_status: Any) -> None:
        with node.scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.attestation.run)
                await node.mesh.run(task_status=task_status)

    async def stop(self, seat: int) -> None:
        node = self.nodes.pop(seat)
        node.scope.cancel()
        await wait_until(lambda: not any(n.linked(seat) for n in self.nodes.values()))

    async def full(self, count: int, policy_: PolicyText, **changes: Any) -> list[Node]:
        """Members 1 to ``count`` of weight 1, all linked."""
        self.weights.clear()
        self.weights.update(dict.fromkeys(range(1, count + 1), 1))
        nodes = [await self.start(seat, policy_=policy_, **changes) for seat in range(1, count + 1)]
        await self.all_linked()
        return nodes

    async def all_linked(self) -> None:
        nodes = list(self.nodes.values())
        await wait_until(
            lambda: (
                all(n.linked(o.seat) for n in nodes for o in nodes if o is not n)
                and all(
                    n.attestation.own() and n.attestation.own()["policy_version"] for n in nodes
                )
            )
        )

    async def set_policy(self, policy_: PolicyText) -> None:
        """Everybody sees it finalized."""
        for node in self.nodes.values():
            await node.attestation.policies.saw(policy_)


def machine(seat: int, faults: Faults = NO_FAULTS) -> Machine:
    """The machine of a seat, as it would be with these faults."""
    agent = Agent(seat)
    agent.faults = faults
    return agent.machine
