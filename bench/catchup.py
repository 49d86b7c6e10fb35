"""``python -m bench catchup``: a node that missed many blocks, by a snapshot and by all blocks.

Real engine, real signatures, real stores, one process: the node that was away talks to one member
through encoded messages, and its steps, its disk and the other's are all in the figures. What is
missing is the network: on a slow one add the time of the bytes, which are given.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from consensus.codec import make_block
from consensus.commands import Command, Put, encode_command
from consensus.digests import genesis_hash, vote_digest
from consensus.engine import Engine
from consensus.interface import (
    Checkpoints,
    Event,
    FinalizedRecord,
    PeerConnected,
    Received,
    Started,
    Timer,
    TimerFired,
)
from consensus.keccak import keccak256
from consensus.machine import Machine
from consensus.types import Block, Certificate, Part, View, VoteKind
from consensus.validators import Validator, ValidatorSet
from consensus.wire import (
    Certificates,
    Message,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
    SyncRequest,
    decode,
    encode,
)
from node import snapshots, state_tables
from node.signing import NodeSigner, RecoveringVerifier
from node.snapshots import SnapshotFile
from node.storage import Store

from .core import RawSecret

CLUSTER = keccak256(b"a cluster that goes on")
GENESIS = genesis_hash(CLUSTER, 0, bytes(32))
SEATS = (1, 2, 3, 4)
AWAY, THERE = 1, 2
EVERY = Checkpoints().every
FINAL_EVERY = 8  # blocks between stored finalizations
WRITE_BATCH = 64


@dataclass(slots=True)
class Past:
    """What the others did: their store, their newest snapshot, the newest finalization."""

    store: Store
    snapshot: SnapshotFile
    final: Certificate
    machine: Machine


@dataclass(frozen=True, slots=True)
class Figures:
    """What it took to come back."""

    way: str
    blocks: int
    keys: int
    wall_s: float
    cpu_s: float
    received_bytes: int
    requests: int


class _Members:
    """Four members with real keys."""

    def __init__(self) -> None:
        self.secrets = {seat: RawSecret(seat) for seat in SEATS}
        self.validators = ValidatorSet(
            0, tuple(Validator(s, 1, self.secrets[s].public) for s in SEATS), bytes(32)
        )

    def finalize(self, block: Block) -> Certificate:
        view = block.header.view
        digest = vote_digest(CLUSTER, VoteKind.FINALIZE, 0, *view, block.hash, 0)
        parts = tuple(
            Part(seat, 0, NodeSigner(self.secrets[seat]).sign(digest))
            for seat in SEATS[1:]
        )
        return Certificate(VoteKind.FINALIZE, 0, view, block.hash, parts)


def history(directory: Path, members: _Members, blocks: int, keys: int, value: int) -> Past:
    """A chain of blocks with one put each, as the members that went on have it."""
    store = Store(directory, cluster_id=CLUSTER, seat=THERE, genesis=GENESIS)
    machine, parent = Machine(), GENESIS
    newest = blocks // EVERY * EVERY - EVERY
    store.pin_when(lambda height: height == newest)
    records: list[FinalizedRecord] = []
    final = None
    for height in range(1, blocks + 1):
        known = max(0, height - 3)
        state_hash = machine.hash_at(known)
        assert state_hash is not None
        client = keccak256(b"%d" % (height % 1000))[:16]
        put = Put(b"key %d" % (height % keys), height.to_bytes(8, "big") * (value // 8))
        block = make_block(
            CLUSTER,
            epoch=0,
            view=View(1, height - 1),
            proposer=THERE,
            height=height,
            parent=parent,
            time_ms=height,
            state_height=known,
            state_hash=state_hash,
            commands=(encode_command(Command(client, height, put)),),
            nullifications=(),
        )
        parent = block.hash
        proven = height % FINAL_EVERY == 0 or height == blocks
        final = members.finalize(block) if proven else None
        records.append(FinalizedRecord(machine.apply(block), final))
        if len(records) == WRITE_BATCH or height == blocks:
            store.write(records)
            store.sync()
            records = []
    pinned, manifest = store.take_pinned(), store.manifest(newest)
    assert pinned is not None and manifest is not None and final is not None
    items = state_tables.read_items(pinned.db, pinned.revision)
    draft = snapshots.write_state(directory / snapshots.DIRECTORY, newest, items)
    pinned.db.close()
    path = snapshots.complete(draft, manifest)
    return Past(store, SnapshotFile(path), final, machine)


class Newcomer:
    """The member that was away; the other one answers it from its disk."""

    def __init__(self, directory: Path, members: _Members, past: Past, gap: int) -> None:
        self._past = past
        self._store = Store(directory, cluster_id=CLUSTER, seat=AWAY, genesis=GENESIS)
        self.engine = Engine(
            cluster_id=CLUSTER,
            validators=members.validators,
            seat=AWAY,
            signer=NodeSigner(members.secrets[AWAY]),
            verifier=RecoveringVerifier(),
            restored=self._store.restore(),
            boot_id=bytes(32),
            checkpoints=Checkpoints(gap=gap),
        )
        self.received = self.requests = 0
        self._asked: deque[Message] = deque()

    def come_back(self) -> None:
        """Until the newest block is applied and on disk."""
        self._step(Started())
        self._step(PeerConnected(THERE))
        self._step(Received(THERE, Certificates((self._past.final,))))
        while self.engine.ledger.tip.finalization != self._past.final:
            if not self._asked:
                self._step(TimerFired(Timer.RETRY))
                continue
            reply = self._answer(decode(encode(self._asked.popleft()), AWAY, CLUSTER))
            if reply is not None:
                data = encode(reply)
                self.received += len(data)
                self._step(Received(THERE, decode(data, THERE, CLUSTER)))
        self._store.sync()
        assert self.engine.machine.state_hash == self._past.machine.state_hash

    def close(self) -> None:
        self._store.close()

    def _step(self, event: Event) -> None:
        output = self.engine.step(event, 10**12)
        self._store.write(output.persist)
        self._store.sync()
        self._asked.extend(send.message for send in output.send)

    def _answer(self, message: Message) -> Message | None:
        match message:
            case SyncRequest(height, count):
                self.requests += 1
                return self._past.store.blocks_from(height, count)
            case SnapshotRequest(0, _):
                self.requests += 1
                return SnapshotOffer(self._past.snapshot.manifest)
            case SnapshotRequest(height, chunk):
                self.requests += 1
                return SnapshotChunk(height, chunk, self._past.snapshot.chunk(chunk))
        return None


def measure(blocks: int, keys: int, value: int) -> list[Figures]:
    """Both ways back, from the same past."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        directory, members = Path(name), _Members()
        past = history(directory / "there", members, blocks, keys, value)
        for way, gap in (("snapshot", Checkpoints().gap), ("all blocks", blocks)):
            node = Newcomer(directory / way, members, past, gap)
            wall, cpu = time.perf_counter(), time.process_time()
            node.come_back()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            found.append(Figures(way, blocks, keys, wall, cpu, node.received, node.requests))
            node.close()
        past.snapshot.close()
        past.store.close()
    return found


def main(argv: Sequence[str]) -> int:
    """Prints a table, or JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench catchup", description=__doc__)
    parser.add_argument("--blocks", type=int, default=100_000, help="that were missed")
    parser.add_argument("--keys", type=int, default=10_000, help="in the state")
    parser.add_argument("--value", type=int, default=256, help="bytes of each value")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    if options.blocks < 2 * Checkpoints().gap:
        parser.error(f"a snapshot is asked for from {2 * Checkpoints().gap} blocks on")
    found = measure(options.blocks, options.keys, options.value)
    if options.json:
        print(json.dumps([asdict(f) for f in found]))
        return 0
    print(f"{options.blocks} blocks missed, {options.keys} keys of {options.value} bytes")
    for f in found:
        print(
            f"{f.way:>10}: {f.wall_s:7.2f} s, processor {f.cpu_s:7.2f} s, "
            f"{f.received_bytes / 1e6:7.1f} MB in {f.requests} answers"
        )
    return 0
