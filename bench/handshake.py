"""``python -m bench handshake``: how long two members take from the TCP connection to a link.

Both ends, and the simulated guest agent behind a Unix socket from which each has its quote, run in
one process on one core, so this is more than either end waits in reality; real agents take longer
for a quote than the simulated one. First without evidence, then with: a quote each way, verified.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio
from coincurve import PrivateKey

from attest import GuestAgent, SecretKey, keccak256
from attest.collateral_store import CollateralStore
from attest.pccs import CollateralSource
from attest.qvl import Platform
from chain import Member, MemberStatus, PolicyText
from consensus.validators import Validator, ValidatorSet
from deploy.simulator import Node, Serving, SimulatorConfig, serve
from deploy.simulator.accepting import policy_text
from deploy.simulator.attester import Attester
from deploy.simulator.methods import DEFAULT_APP_COMPOSE
from deploy.simulator.tdx_collateral import FMSPC_FRESH
from node.attestation import Attestation, PolicyBook
from node.logs import configure_command_logging
from node.network import Mesh, NetworkLimits, PeerAddress
from node.network.addresses import parse_endpoint
from node.network.attesting import Attesting, Pair
from node.network.buckets import TokenBucket
from node.network.frames import Hello
from node.network.handshake import Handshaker
from node.network.identity import key_pair, peer_id_from_key
from node.network.limits import PROTOCOL_VERSION
from node.network.proving import Proving

TARGET_MS = 50.0
_CLUSTER = b"\xc1" * 32
_KMS_ROOT = b"\x11" * 32
_APP_ID = b"\xaa" * 20
_LISTENS, _DIALS = 1, 2  # seats
_LIMITS = NetworkLimits(
    handshakes_per_s_per_ip=1e6, handshake_burst_per_ip=1e6, proofs_per_s=1e6, proof_burst=1e6
)


def _secret(seat: int) -> bytes:
    return bytes([seat]) * 32


def _key(seat: int) -> bytes:
    return PrivateKey(_secret(seat)).public_key.format()


class _Core:
    """Both members are of the set, in their first boot."""

    def incarnation(self) -> int:
        return 1

    def current(self, seat: int) -> int:
        return 1

    def proof(self, seat: int) -> bytes:
        return b""

    def superseded(self, seat: int, proof: bytes) -> None: ...

    def validators(self) -> ValidatorSet:
        voters = tuple(Validator(seat, 1, _key(seat)) for seat in (_LISTENS, _DIALS))
        return ValidatorSet(0, voters, _CLUSTER)


@dataclass(frozen=True, slots=True)
class _Bench:
    folder: Path
    serving: Serving

    def socket(self, seat: int) -> str:
        return str(self.folder / f"{seat}.sock")

    async def attestation(self, seat: int) -> Attestation:
        """A member that takes the simulated machines, and has their collateral at hand."""
        folder = self.folder / str(seat)
        folder.mkdir()
        rows = {
            s: Member(
                seat=s,
                weight=1,
                status=MemberStatus.ACTIVE,
                node_key=_key(s),
                instance_id=self.serving.instances[self.socket(s)],
                incarnation=1,
                endpoint="",
                lease_expires_s=2**40,
                root_epoch=1,
                scheme=0,
                owner=bytes(20),
            )
            for s in (_LISTENS, _DIALS)
        }
        assert self.serving.pccs_url is not None
        store = CollateralStore([CollateralSource(self.serving.pccs_url)])
        await store.get(Platform(FMSPC_FRESH, "platform"), now_s=int(time.time()), age_s_max=10**7)
        policies = PolicyBook(folder / "policy.json")
        found = Attestation(
            GuestAgent(self.socket(seat)),
            cluster_id=_CLUSTER,
            seat=seat,
            app_id=_APP_ID,
            collateral=store,
            policies=policies,
            row_of=rows.get,
            evidence_bytes_max=_LIMITS.evidence_bytes_max,
            root_ca_der=self.serving.tdx_root,
        )
        machine = Attester(
            _KMS_ROOT, seed=_seed(seat), app_id=_APP_ID, app_compose=DEFAULT_APP_COMPOSE
        ).machine()
        text = policy_text([machine])
        await policies.saw(PolicyText(1, keccak256(text), text))
        return found


def _seed(seat: int) -> bytes:
    return bytes([seat]) * 20


async def _times_ms(
    listener: Attestation | None, dialler: Attestation | None, turns: int
) -> list[float]:
    """From before the TCP connection until the dialler may send its first payload."""
    mesh = Mesh(
        secret=_secret(_LISTENS),
        cluster_id=_CLUSTER,
        seat=_LISTENS,
        listen="/ip4/127.0.0.1/tcp/0",
        limits=_LIMITS,
        attestor=listener,
    )
    mesh.set_members([PeerAddress(_DIALS, _key(_DIALS), "")])
    hello = Hello(PROTOCOL_VERSION, _CLUSTER, _DIALS, bytes(16), dialler is not None)
    shaker = Handshaker(key_pair(_secret(_DIALS)), hello, _LIMITS, lambda _: None)
    target, own = peer_id_from_key(_key(_LISTENS)), peer_id_from_key(_key(_DIALS))
    for attestation in (listener, dialler):
        if attestation is not None:
            attestation.attach(mesh, _Core())
    costs = []
    async with trio.open_nursery() as nursery:
        await nursery.start(mesh.run)
        address = parse_endpoint(mesh.listen_address)
        for _ in range(turns):
            begun = time.perf_counter()
            stream = await trio.open_tcp_stream(address.host, address.port)
            made = await shaker.outbound(stream, _LISTENS, target)
            if dialler is not None:
                pair = Pair(
                    _CLUSTER,
                    _DIALS,
                    own.to_base58(),
                    _LISTENS,
                    mesh.peer_id,
                    made.channel.session_hash,
                )
                asked = TokenBucket(1e6, 1e6)
                await Proving(made, Attesting(pair, dialler, _LIMITS, asked), _LIMITS).run()
            costs.append((time.perf_counter() - begun) * 1000)
            made.channel.close()
        nursery.cancel_scope.cancel()
    return costs


async def _measure(turns: int) -> dict[str, dict[str, float]]:
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="dc-bench-") as name:
        folder = Path(name)
        nodes = tuple(
            Node(str(folder / f"{seat}.sock"), _seed(seat)) for seat in (_LISTENS, _DIALS)
        )
        config = SimulatorConfig(SecretKey(_KMS_ROOT), _APP_ID, nodes, pccs_port=0)
        async with trio.open_nursery() as nursery:
            serving = await nursery.start(serve, config)
            bench = _Bench(folder, serving)
            found["without evidence"] = await _times_ms(None, None, turns)
            members = [await bench.attestation(seat) for seat in (_LISTENS, _DIALS)]
            found["with evidence both ways"] = await _times_ms(members[0], members[1], turns)
            nursery.cancel_scope.cancel()
    return {
        name: {
            "median_ms": round(statistics.median(costs), 2),
            "least_ms": round(min(costs), 2),
        }
        for name, costs in found.items()
    }


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench handshake", description=__doc__)
    parser.add_argument("--turns", type=int, default=50, help="connections of each kind")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    configure_command_logging("error")
    costs = trio.run(_measure, arguments.turns)
    if arguments.json:
        print(json.dumps({"target_ms": TARGET_MS, "costs": costs}))
        return 0
    print(f"from TCP to a link on loopback, target {TARGET_MS:g} ms with evidence:")
    for name, cost in costs.items():
        print(f"  {name:24} median {cost['median_ms']:.1f} ms, least {cost['least_ms']:.1f} ms")
    return 0
