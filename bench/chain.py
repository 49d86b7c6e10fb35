"""``python -m bench chain``: reading a registry of many seats from a local anvil, and keeping up.

Every seat has a node on it, so rows and events are as long as they get. Figures are of one daemon's
process, which asks one endpoint, and four of which three must agree (all the same anvil, so what
anvil does four times is in the wall time, not in the processor time).
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import coincurve
import structlog
import trio

from chain import Change, ContractAbi, EvmRegistry, FinalizedReader
from chain.abi import encode
from chain.eip712 import REGISTER, digest, domain_separator
from chain.history import SeatHistory
from chain.keys import address_of, keccak256, with_v27
from chain.registration import purpose_text
from chain.rpc import RpcEndpoint
from chain.storage import PROVEN
from chain.transactions import contract_address
from chain.watermark import Watermark
from contracts import artifact
from deploy.testnet.layout import find_anvil

from .cluster import BenchError

CHAIN_ID = 31337
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
OWNER = address_of(coincurve.PrivateKey(keccak256(b"owner")).public_key.format())
APP_ID = bytes(19) + b"\x0a"
APP, KMS = (coincurve.PrivateKey(keccak256(name)) for name in (b"app", b"kms"))
BATCH = 50
SEATS_PER_BLOCK = 250
GAS_PER_BLOCK = 10**9
CALL_GAS = 1_000_000
START_DEADLINE_S = 20


@dataclass(frozen=True, slots=True)
class Figures:
    """The fastest of the rounds, in milliseconds."""

    seats: int
    endpoints: str
    full_sync_wall_ms: float
    full_sync_cpu_ms: float
    founding_set_wall_ms: float
    versions: int
    versions_100k_wall_ms: float
    versions_100k_cpu_ms: float
    quiet_block_wall_ms: float
    quiet_block_cpu_ms: float
    changed_weight_wall_ms: float
    trust: dict[str, str]


def main(argv: Sequence[str]) -> int:
    """Run it; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench chain", description=__doc__)
    parser.add_argument("--seats", type=int, default=1000)
    parser.add_argument("--versions", type=int, default=5000, help="made after the seats sit")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))  # warnings
    with _anvil() as urls:
        found = trio.run(_measure, urls, options.seats, options.versions, options.rounds)
    if options.json:
        print(json.dumps([asdict(figures) for figures in found], indent=1))
        return 0
    for f in found:
        print(
            f"{f.seats} seats, {f.endpoints}: full sync {f.full_sync_wall_ms:.0f} ms"
            f" (our processor time {f.full_sync_cpu_ms:.0f}), founding set"
            f" {f.founding_set_wall_ms:.0f} ms, each 100,000 versions of the past"
            f" {f.versions_100k_wall_ms:.0f} ms ({f.versions_100k_cpu_ms:.0f}; of"
            f" {f.versions}), quiet block {f.quiet_block_wall_ms:.1f} ms"
            f" ({f.quiet_block_cpu_ms:.1f}), a changed weight {f.changed_weight_wall_ms:.0f} ms;"
            f" state {f.trust['state']}, members {f.trust['members']}"
        )
    return 0


@contextmanager
def _anvil() -> Iterator[list[str]]:
    """A chain that mines when told to; four URLs of it."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [str(find_anvil()), "--port", "0", "--no-mining", "--hardfork", "prague"]
        command += ["--gas-limit", str(GAS_PER_BLOCK), "--slots-in-an-epoch", "1"]
        command += ["--host", ",".join(HOSTS)]
        with open(log, "wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            deadline = time.monotonic() + START_DEADLINE_S
            while len(found := re.findall(r"127\.0\.0\.\d:\d+", log.read_text())) < len(HOSTS):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise BenchError(f"anvil did not start: {log.read_text()[-500:]}")
                time.sleep(0.02)
            yield [f"http://{each}" for each in found]
        finally:
            process.kill()
            process.wait()


async def _measure(urls: Sequence[str], seats: int, versions: int, rounds: int) -> list[Figures]:
    rpc = RpcEndpoint(urls[0], timeout_s=60)
    bench = _Bench(rpc, ContractAbi(artifact("Registry").abi))
    await bench.fill(seats)
    await bench.make_versions(versions)
    found = [await bench.figures(urls[:1], 1, rounds)]
    found.append(await bench.figures(urls, 3, rounds))
    await rpc.aclose()
    return found


class _Bench:
    """A registry full of nodes, written without waiting, and read as a daemon reads it."""

    def __init__(self, rpc: RpcEndpoint, abi: ContractAbi) -> None:
        self._rpc = rpc
        self._abi = abi
        self._contract = bytes(20)
        self._deploy_block = 0
        self._seats = 0
        self._weight = 1

    async def fill(self, seats: int) -> None:
        """Deploys, grants, registers, launches."""
        compiled = artifact("Registry")
        self._seats = seats
        wallets = [keccak256(b"wallet %d" % seat)[12:] for seat in range(1, seats + 1)]
        await self._rpc.call("anvil_autoImpersonateAccount", [True])
        await self._batch(
            [("anvil_setBalance", ["0x" + a.hex(), hex(10**21)]) for a in [OWNER, *wallets]]
        )
        roots = ["0x" + OWNER.hex(), "0x" + OWNER.hex(), "0x" + address_of(_public(KMS)).hex()]
        arguments = encode(self._abi.constructor_types, [*roots, max(seats, 1), 86_400, 86_400])
        nonce = int(
            await self._rpc.call("eth_getTransactionCount", ["0x" + OWNER.hex(), "latest"]), 16
        )
        self._contract = contract_address(OWNER, nonce)
        await self._send([(OWNER, None, compiled.bytecode + arguments)], gas=16_000_000)
        self._deploy_block = int(await self._rpc.call("eth_blockNumber", []), 16)
        app = _point(APP)
        claim = keccak256(b"dstack-kms-issued:" + APP_ID + _public(APP))
        signed = with_v27(KMS.sign_recoverable(claim, hasher=None))
        await self._call_all(
            [
                (OWNER, "allowApp", (APP_ID, True)),
                (OWNER, "certifyAppKey", (APP_ID, app[1:33], app[33:], signed, 1)),
                *((OWNER, "grantSeat", ("0x" + wallet.hex(), 1)) for wallet in wallets),
            ]
        )
        block = await self._rpc.call("eth_getBlockByNumber", ["latest", False])
        deadline_s = int(block["timestamp"], 16) + 40_000
        await self._call_all(
            [
                (wallet, "register", self._registration(seat, deadline_s))
                for seat, wallet in enumerate(wallets, 1)
            ]
        )
        await self._call_all([(OWNER, "launch", (await self._founders(),))])
        await self._mine(4)

    async def make_versions(self, count: int) -> None:
        """Versions whose events a fresh node has to read, whatever is left of them."""
        weights = range(self._weight + 1, self._weight + count + 1)
        await self._call_all([(OWNER, "setWeight", (1, weight)) for weight in weights])
        self._weight += count
        await self._mine(4)

    async def _founders(self) -> bytes:
        """The digest by which the launch knows whom it founds the cluster with."""
        view = self._abi.function("lastChange")
        call = {"to": "0x" + self._contract.hex(), "data": "0x" + view.encode().hex()}
        answer = await self._rpc.call("eth_call", [call, "latest"])
        _block, _version, digest = view.decode(bytes.fromhex(answer[2:]))
        return bytes(digest)

    def _registration(self, seat: int, deadline_s: int) -> tuple[Any, ...]:
        node = coincurve.PrivateKey(keccak256(b"node %d" % seat))
        instance = keccak256(b"instance %d" % seat)[:20]
        endpoint = f"/dns4/node-{seat}.cluster.example/tcp/9600"
        purpose = purpose_text(CHAIN_ID, self._contract, seat, instance)
        point = _point(node)
        claim = keccak256(purpose.encode() + b":" + _public(node).hex().encode())
        odd = point[64] % 2 == 1
        struct = digest(
            domain_separator(CHAIN_ID, self._contract), REGISTER,
            seat, point[1:33], odd, instance, 0, 1, deadline_s, endpoint,
        )  # fmt: skip
        return (
            (seat, point[1:33], point[33:], instance, 0, 1, deadline_s, endpoint),
            with_v27(APP.sign_recoverable(claim, hasher=None)),
            with_v27(node.sign_recoverable(struct, hasher=None)),
            b"",
        )

    # --- reading ---

    async def figures(self, urls: Sequence[str], quorum: int, rounds: int) -> Figures:
        """The fastest of some rounds with these endpoints."""
        sync: list[tuple[float, float]] = []
        founding, past, quiet, changed = [], [], [], []
        trust: dict[str, str] = {}
        versions = 0
        for _ in range(rounds):
            async with self._registry(urls, quorum) as registry:
                sync.append(await _timed(registry.snapshot))
                self._check(registry)
                founding.append(await _timed(registry.genesis))
                newest = await registry.snapshot()
                fresh = SeatHistory(registry.reader, self._abi, self._deploy_block)
                at = Change(newest.block_number, newest.version, newest.digest)
                past.append(await _timed(partial(fresh.seats_at, at)))
                versions = newest.version
                for _ in range(3):
                    await self._mine(1)
                    quiet.append(await _timed(registry.snapshot))
                self._weight += 1
                await self._call_all([(OWNER, "setWeight", (1, self._weight))])
                await self._mine(3)
                changed.append(await _timed(registry.snapshot))
                self._check(registry)
                trust = registry.status()["trust"]
        return Figures(
            seats=self._seats,
            endpoints=f"{quorum} of {len(urls)} endpoints",
            full_sync_wall_ms=min(wall for wall, _ in sync),
            full_sync_cpu_ms=min(cpu for _, cpu in sync),
            founding_set_wall_ms=min(wall for wall, _ in founding),
            versions=versions,
            versions_100k_wall_ms=min(wall for wall, _ in past) * 100_000 / versions,
            versions_100k_cpu_ms=min(cpu for _, cpu in past) * 100_000 / versions,
            quiet_block_wall_ms=min(wall for wall, _ in quiet),
            quiet_block_cpu_ms=min(cpu for _, cpu in quiet),
            changed_weight_wall_ms=min(wall for wall, _ in changed),
            trust=trust,
        )

    def _check(self, registry: EvmRegistry) -> None:
        newest = registry.newest
        assert newest is not None
        weights = [member.weight for member in newest.active()]
        if weights != [self._weight, *[1] * (self._seats - 1)]:
            raise BenchError(f"{len(weights)} active members were read, or with wrong weights")
        if set(registry.status()["trust"].values()) != {PROVEN}:
            raise BenchError(f"not everything is proven: {registry.status()['trust']}")

    @asynccontextmanager
    async def _registry(self, urls: Sequence[str], quorum: int) -> AsyncIterator[EvmRegistry]:
        reader = FinalizedReader(
            [RpcEndpoint(url, timeout_s=30) for url in urls],
            quorum,
            Watermark(None, chain_id=CHAIN_ID, contract=self._contract),
            single_rpc_insecure=quorum == 1,
        )
        try:
            yield EvmRegistry(reader, self._abi, deploy_block=self._deploy_block)
        finally:
            await reader.aclose()

    # --- writing ---

    async def _call_all(self, calls: Sequence[tuple[bytes, str, tuple[Any, ...]]]) -> None:
        for at in range(0, len(calls), SEATS_PER_BLOCK):
            some = calls[at : at + SEATS_PER_BLOCK]
            await self._send(
                [
                    (sender, self._contract, self._abi.function(name).encode(*values))
                    for sender, name, values in some
                ]
            )

    async def _send(
        self, calls: Sequence[tuple[bytes, bytes | None, bytes]], gas: int = CALL_GAS
    ) -> None:
        """Sends all, mines them, and raises BenchError when one failed."""
        requests: list[tuple[str, Sequence[Any]]] = []
        for sender, to, data in calls:
            fields = {"from": "0x" + sender.hex(), "data": "0x" + data.hex(), "gas": hex(gas)}
            if to is not None:
                fields["to"] = "0x" + to.hex()
            requests.append(("eth_sendTransaction", [fields]))
        hashes = await self._batch(requests)
        await self._mine(1)
        receipts = await self._batch([("eth_getTransactionReceipt", [h]) for h in hashes])
        if not all(isinstance(r, dict) and r["status"] == "0x1" for r in receipts):
            raise BenchError("a transaction of the set-up failed")

    async def _batch(self, requests: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        answers: list[Any] = []
        for at in range(0, len(requests), BATCH):
            answers += await self._rpc.batch(requests[at : at + BATCH])
        return answers

    async def _mine(self, blocks: int) -> None:
        await self._rpc.call("anvil_mine", [hex(blocks)])


async def _timed(read: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Wall and processor time of a read, in milliseconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    await read()
    return 1000 * (time.perf_counter() - wall), 1000 * (time.process_time() - cpu)


def _public(key: coincurve.PrivateKey) -> bytes:
    return key.public_key.format()


def _point(key: coincurve.PrivateKey) -> bytes:
    return key.public_key.format(compressed=False)
