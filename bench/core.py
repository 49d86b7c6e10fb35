"""``python -m bench core``: processor time of the core for each slot, with real signatures.

A whole cluster runs in one process in lockstep: every message is delivered in the order in which
it was sent, nothing is lost. Two members are measured, the leader and one other: the thread's
processor time inside ``Engine.step`` (the rules, signing, checking), and that of encoding what
they send and decoding what they receive. The others sign really and check nothing, so that a large
cluster can be measured at all. A slot is one final block with one command. The two vote digests of
a slot, which a member alone in its process must make itself, are added. The least is what the
member costs on a core that nobody else disturbs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from coincurve import PrivateKey

from consensus.commands import Command, Put, encode_command
from consensus.digests import genesis_hash, vote_digest
from consensus.engine import Engine
from consensus.interface import (
    Event,
    Output,
    PeerConnected,
    Received,
    Restored,
    Started,
    Submitted,
)
from consensus.keccak import keccak256
from consensus.ledger import genesis_tip
from consensus.machine import Machine
from consensus.order import leader_order
from consensus.signatures import Verifier
from consensus.types import VoteKind
from consensus.validators import Validator, ValidatorSet
from consensus.wire import decode, encode
from node.signing import NodeSigner, RecoveringVerifier

CLUSTER = keccak256(b"a cluster under measurement")
TARGETS_MS = {4: 0.35, 100: 6.0}
VALUE_BYTES = 256
STEP_MS = 1


@dataclass(slots=True)
class Cost:
    """Milliseconds of processor time of one member, a value for each slot."""

    name: str
    core_ms: list[float] = field(default_factory=list)
    wire_ms: list[float] = field(default_factory=list)
    slot_core_ns: int = 0
    slot_wire_ns: int = 0

    def close_slot(self) -> None:
        self.core_ms.append(self.slot_core_ns / 1e6)
        self.wire_ms.append(self.slot_wire_ns / 1e6)
        self.slot_core_ns = self.slot_wire_ns = 0


class RawSecret:
    """A secret for ``NodeSigner``."""

    def __init__(self, number: int) -> None:
        self._key = PrivateKey(keccak256(b"secret %d" % number))
        self.public = self._key.public_key.format()

    def sign_recoverable(self, digest: bytes) -> bytes:
        return self._key.sign_recoverable(digest, hasher=None)


class _Trusting:
    """Believes everybody: for the members that are not measured."""

    def verify(self, node_key: bytes, digest: bytes, signature: bytes) -> bool:
        return True


class Lockstep:
    """A cluster without faults in one process."""

    def __init__(self, nodes: int) -> None:
        secrets = {seat: RawSecret(seat) for seat in range(1, nodes + 1)}
        self.validators = ValidatorSet(
            0, tuple(Validator(s, 1, k.public) for s, k in secrets.items()), bytes(32)
        )
        order = leader_order(self.validators)
        self.leader = order[0]
        self.costs = {order[0]: Cost("leader"), order[1]: Cost("other member")}
        self.now_ms = 1_700_000_000_000
        self._queue: deque[tuple[int, int, bytes | Event]] = deque()
        genesis = genesis_hash(CLUSTER, 0, bytes(32))
        self.engines = {
            seat: Engine(
                cluster_id=CLUSTER,
                validators=self.validators,
                seat=seat,
                signer=NodeSigner(secret),
                verifier=self._verifier(seat),
                restored=Restored(tip=genesis_tip(genesis), machine=Machine()),
                boot_id=bytes(32),
            )
            for seat, secret in secrets.items()
        }
        self.height = 0
        self._decoded: dict[tuple[int, bytes], Event] = {}
        for seat in self.engines:
            self._queue.append((0, seat, Started()))
        self._drain()
        for seat in self.engines:
            for peer in self.engines:
                if peer != seat:
                    self._queue.append((0, seat, PeerConnected(peer)))
        self._drain()

    def _verifier(self, seat: int) -> Verifier:
        return RecoveringVerifier() if seat in self.costs else _Trusting()

    def slot(self, command: bytes) -> None:
        """One command at the leader, until everybody has the block that carries it."""
        self.now_ms += STEP_MS
        before = self.height
        self._decoded.clear()
        self._queue.append((0, self.leader, Submitted((command,))))
        self._drain()
        assert self.height > before, "no block became final"
        digests_ns = self._digests_ns()
        for cost in self.costs.values():
            cost.slot_core_ns += digests_ns
            cost.close_slot()

    def _digests_ns(self) -> int:
        """What two vote digests cost: here all engines share those that the first one made."""
        began = time.thread_time_ns()
        for kind in (VoteKind.NOTARIZE, VoteKind.FINALIZE):
            vote_digest.__wrapped__(CLUSTER, kind, 0, 1, self.height, CLUSTER, 0)
        return time.thread_time_ns() - began

    def _drain(self) -> None:
        while self._queue:
            sender, seat, what = self._queue.popleft()
            event = self._received(sender, seat, what) if isinstance(what, bytes) else what
            output = self._step(seat, event)
            for applied in output.applied:
                self.height = max(self.height, applied.block.header.height)
            for send in output.send:
                data = self._encoded(seat, send.message)
                for to in self.engines if send.to is None else (send.to,):
                    if to != seat:
                        self._queue.append((seat, to, data))

    def _step(self, seat: int, event: Event) -> Output:
        cost = self.costs.get(seat)
        began = time.thread_time_ns()
        output = self.engines[seat].step(event, self.now_ms)
        if cost is not None:
            cost.slot_core_ns += time.thread_time_ns() - began
        return output

    def _encoded(self, seat: int, message: object) -> bytes:
        began = time.thread_time_ns()
        data = encode(message)  # type: ignore[arg-type]
        if seat in self.costs:
            self.costs[seat].slot_wire_ns += time.thread_time_ns() - began
        return data

    def _received(self, sender: int, seat: int, data: bytes) -> Event:
        if seat in self.costs:
            began = time.thread_time_ns()
            event: Event = Received(sender, decode(data, sender, CLUSTER))
            self.costs[seat].slot_wire_ns += time.thread_time_ns() - began
            return event
        known = self._decoded.get((sender, data))
        if known is None:
            known = self._decoded[sender, data] = Received(sender, decode(data, sender, CLUSTER))
        return known


def measure(nodes: int, slots: int, warmup: int) -> dict[str, object]:
    """Figures for one size of cluster."""
    cluster = Lockstep(nodes)
    for number in range(1, warmup + slots + 1):
        if number == warmup + 1:
            for cost in cluster.costs.values():
                cost.core_ms.clear()
                cost.wire_ms.clear()
        put = Put(b"key %d" % (number % 100), bytes(VALUE_BYTES))
        cluster.slot(encode_command(Command(b"benchmark client", number, put)))
    return {
        "nodes": nodes,
        "slots": slots,
        "target_ms": TARGETS_MS.get(nodes),
        **{
            cost.name: {
                "core_ms_median": round(statistics.median(cost.core_ms), 3),
                "core_ms_least": round(min(cost.core_ms), 3),
                "wire_ms_median": round(statistics.median(cost.wire_ms), 3),
            }
            for cost in cluster.costs.values()
        },
    }


def signature_costs_us(turns: int = 200) -> dict[str, float]:
    """What one signature and one check cost on this machine, in microseconds."""
    secret, digest = RawSecret(1), keccak256(b"digest")
    signer, verifier = NodeSigner(secret), RecoveringVerifier()
    signature = signer.sign(digest)
    return {
        "sign": _least_us(lambda: signer.sign(digest), turns),
        "verify": _least_us(lambda: verifier.verify(secret.public, digest, signature), turns),
    }


def _least_us(work: Callable[[], object], turns: int) -> float:
    costs = []
    for _ in range(turns):
        began = time.thread_time_ns()
        work()
        costs.append(time.thread_time_ns() - began)
    return round(min(costs) / 1000, 1)


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench core", description=__doc__)
    parser.add_argument("--nodes", default="4,100", metavar="N,N,...")
    parser.add_argument("--slots", type=int, default=100, help="measured, of each size")
    parser.add_argument("--warmup", type=int, default=10, help="slots before, not counted")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    report: dict[str, object] = {"signatures_us": signature_costs_us()}
    report["sizes"] = sizes = [
        measure(int(nodes), arguments.slots, arguments.warmup)
        for nodes in arguments.nodes.split(",")
    ]
    if arguments.json:
        print(json.dumps(report))
        return 0
    print("one signature and one check, in microseconds:", report["signatures_us"])
    for size in sizes:
        print(f"{size['nodes']} members, {size['slots']} slots, target {size['target_ms']} ms:")
        for name in ("leader", "other member"):
            print(f"  {name}: {size[name]}")
    return 0
