"""Snapshot files: whole or not there, checked when read; and what a store forgets behind them."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NoReturn

import msgpack
import pytest
import structlog.testing
import trio

from consensus import codec, limits
from consensus.codec import make_block
from consensus.commands import Command, Put, encode_command
from consensus.interface import Checkpoints, FinalizedRecord, InstallRecord, Output
from consensus.ledger import tip_at
from consensus.machine import Machine
from consensus.transfer import export
from consensus.types import Block, Certificate, Manifest, Part, View, VoteKind
from node import snapshots, state_tables
from node.archivist import Archivist
from node.driver import Driver
from node.network.inbox import EventQueue
from node.served import NeverProven
from node.snapshots import SnapshotError, SnapshotFile
from node.storage import DATABASE_FILE, Pinned, StorageError, Store
from tests.unit.node.small_cluster import CLUSTER, GENESIS, Cluster, small_cluster

AT = 8


def _finalization(block: Block) -> Certificate:
    parts = tuple(Part(seat, 0, bytes(65)) for seat in (1, 2, 3))
    return Certificate(VoteKind.FINALIZE, 0, block.header.view, block.hash, parts)


class Past:
    """A chain whose headers commit to true states."""

    def __init__(self, puts: int = 1) -> None:
        self._puts = puts  # in each block
        self.machine = Machine()
        self.blocks: list[Block] = []

    def extend(self, *, proven: bool = True, lag: int = 3) -> FinalizedRecord:
        height = len(self.blocks) + 1
        known = max(0, height - lag)
        commands = tuple(
            encode_command(Command(n.to_bytes(16, "big"), height, Put(b"k%d" % n, bytes(100))))
            for n in range(height * self._puts, (height + 1) * self._puts)
        )
        state_hash = self.machine.hash_at(known)
        assert state_hash is not None
        block = make_block(
            CLUSTER,
            epoch=0,
            view=View(1, height - 1),
            proposer=1,
            height=height,
            parent=self.blocks[-1].hash if self.blocks else GENESIS,
            time_ms=height,
            state_height=known,
            state_hash=state_hash,
            commands=commands,
            nullifications=(),
        )
        self.blocks.append(block)
        final = _finalization(block) if proven else None
        return FinalizedRecord(self.machine.apply(block), final)

    def manifest(self) -> Manifest:
        links = tuple(b.header for b in self.blocks[AT : AT + 3])
        final = _finalization(self.blocks[AT + 2])
        return Manifest(self.blocks[AT - 1].header, links, final, 0)

    def install(self) -> InstallRecord:
        """The snapshot at ``AT`` as a member takes it over."""
        machine = Machine()
        for block in self.blocks[:AT]:
            machine.apply(block)
        header = self.blocks[AT - 1].header
        tip = tip_at(header, self.blocks[AT - 1].hash, None)
        return InstallRecord(tip, self.manifest(), machine, ())


def _past(length: int = 12) -> Past:
    past = Past()
    for _ in range(length):
        past.extend()
    return past


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = _open(tmp_path)
    yield store
    store.close()


def _open(directory: Path) -> Store:
    return Store(directory / "node", cluster_id=CLUSTER, seat=1, genesis=GENESIS)


def _items(machine: Machine) -> list[bytes]:
    return export(machine, b"", 10**9)[0]


def snapshot_file(directory: Path) -> Path:
    """A complete snapshot."""
    past = _past()
    draft = snapshots.write_state(directory, AT, _items(past.install().machine))
    return snapshots.complete(draft, past.manifest())


def test_a_snapshot_is_read_back_and_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SNAPSHOT_CHUNK_ITEMS", 4)
    file = SnapshotFile(snapshot_file(tmp_path))
    assert file.height == AT and file.manifest.chunks > 2
    machine = file.verify(CLUSTER)
    assert machine.state_hash == _past().install().machine.state_hash
    with pytest.raises(SnapshotError, match="prove no state"):
        file.verify(bytes(32))
    file.close()


def test_a_file_cut_anywhere_is_no_snapshot(tmp_path: Path) -> None:
    path = snapshot_file(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        with pytest.raises(SnapshotError):
            SnapshotFile(path)


def test_a_bit_that_the_disk_turned_is_noticed(tmp_path: Path) -> None:
    path = snapshot_file(tmp_path)
    whole = path.read_bytes()
    for place in range(len(snapshots.MAGIC), len(whole), 41):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        path.write_bytes(damaged)
        with pytest.raises(SnapshotError):
            SnapshotFile(path).verify(CLUSTER)


def test_a_file_that_somebody_made_up_is_refused_and_no_defect(tmp_path: Path) -> None:
    path = snapshot_file(tmp_path)
    whole = path.read_bytes()
    file = SnapshotFile(path)
    place, manifest, places = file._places[0], codec.encode_manifest(file.manifest), file._places
    file.close()

    def frame(value: object) -> bytes:
        packed = msgpack.packb(value)
        return struct.pack(">II", len(packed), zlib.crc32(packed)) + packed

    def ended(body: bytes, trailer: bytes, at: int | None = None) -> bytes:
        at = len(body) if at is None else at
        return body + trailer + struct.pack(f">Q{len(snapshots.MAGIC)}s", at, snapshots.MAGIC)

    trailers: list[object] = [None, 5, (manifest,), ({}, places)]
    trailers += [(manifest, p) for p in (5, None, (-1,), (2**63,), ("x",), (1.5,))]
    made_up = [ended(whole, frame(trailer)) for trailer in trailers]
    made_up += [ended(whole, b"", at) for at in (2**64 - 1, 2**63, 2**62, 0)]
    right = frame((manifest, (place,)))
    made_up += [
        ended(snapshots.MAGIC + frame(chunk), right)
        for chunk in (5, None, [5], ["x"], [b""], {}, [[1]], [None])
    ]
    for content in made_up:
        path.write_bytes(content)
        with pytest.raises(SnapshotError):
            SnapshotFile(path).verify(CLUSTER)


def test_a_state_that_is_not_the_certified_one_is_refused(tmp_path: Path) -> None:
    past = _past()
    draft = snapshots.write_state(tmp_path, AT, _items(past.machine))
    with pytest.raises(SnapshotError, match="hash"):
        SnapshotFile(snapshots.complete(draft, past.manifest())).verify(CLUSTER)


def test_what_a_crash_left_is_no_snapshot_and_goes(store: Store, tmp_path: Path) -> None:
    directory = tmp_path / snapshots.DIRECTORY
    snapshots.write_state(directory, AT, _items(_past().machine))
    (directory / "16.snapshot").write_bytes(b"damaged by somebody else")
    assert len(list(directory.iterdir())) == 2
    archivist = Archivist(store, tmp_path, checkpoint=AT, every=AT)
    assert archivist.heights == [] and archivist.offer() is None
    assert list(directory.iterdir()) == []


def test_a_snapshot_that_cannot_be_read_now_is_not_thrown_away(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / snapshots.DIRECTORY
    past = _past()
    path = snapshots.complete(
        snapshots.write_state(directory, AT, _items(past.machine)), past.manifest()
    )

    def no_file_left(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(SnapshotFile, "__init__", no_file_left)
        assert Archivist(store, tmp_path, checkpoint=AT, every=AT).heights == []
    archivist = Archivist(store, tmp_path, checkpoint=AT, every=AT)
    assert archivist.heights == [AT] and archivist.chunk(AT, 0) is not None
    with monkeypatch.context() as patched:
        patched.setattr(SnapshotFile, "chunk", no_file_left)
        assert archivist.chunk(AT, 0) is None
    assert path.exists()


@pytest.mark.trio
async def test_a_snapshot_that_did_not_fit_on_the_disk_gives_back_what_it_took(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archivist = Archivist(store, tmp_path, checkpoint=AT, every=AT)
    past = Past()
    store.write([past.extend() for _ in range(AT)])
    pinned = store.take_pinned()
    assert pinned is not None
    write, written = snapshots._write_frame, []

    def full(file: BinaryIO, payload: bytes) -> None:
        write(file, payload)
        written.extend((tmp_path / snapshots.DIRECTORY).iterdir())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(snapshots, "_write_frame", full)
    await archivist.make(pinned)
    assert written and not list((tmp_path / snapshots.DIRECTORY).iterdir())


@pytest.mark.trio
@pytest.mark.parametrize("damage", ["UPDATE finalized SET data = x'00'", "DROP TABLE entries"])
async def test_a_database_that_gives_no_snapshot_costs_that_snapshot_and_not_the_node(
    store: Store, tmp_path: Path, damage: str
) -> None:
    archivist = Archivist(store, tmp_path, checkpoint=AT, every=AT)
    past = Past()
    store.write([past.extend() for _ in range(AT)])
    pinned = store.take_pinned()
    assert pinned is not None
    pinned.db.execute("COMMIT")  # it is to see the damage
    store._db.execute(damage)
    with structlog.testing.capture_logs() as logs:
        await archivist.make(pinned)
    assert [line["event"] for line in logs] == ["snapshot_failed"]
    assert not list((tmp_path / snapshots.DIRECTORY).iterdir())


@pytest.mark.trio
async def test_a_state_right_below_a_new_epoch_is_dropped_for_that_of_the_next_checkpoint(
    store: Store, tmp_path: Path
) -> None:
    archivist = Archivist(store, tmp_path, checkpoint=AT, every=AT)
    past = Past()
    store.write([past.extend() for _ in range(AT + 1)])
    pinned = store.take_pinned()
    assert pinned is not None and pinned.height == AT
    store.write([past.extend(lag=1)])  # the first block of an epoch
    store.sync()
    with structlog.testing.capture_logs() as logs:
        await archivist.make(pinned)
    assert [(line["event"], line["log_level"]) for line in logs] == [("snapshot_unproven", "info")]
    assert not list((tmp_path / snapshots.DIRECTORY).iterdir())
    store.write([past.extend() for _ in range(AT + 2)])
    store.sync()
    pinned = store.take_pinned()
    assert pinned is not None and pinned.height == 2 * AT
    await archivist.make(pinned)
    assert archivist.heights == [2 * AT]


def test_a_proof_that_there_is_not_leaves_readers_with_what_comes_after(store: Store) -> None:
    past = Past()
    store.write([past.extend() for _ in range(AT + 1)] + [past.extend(lag=1)])
    store.write([past.extend() for _ in range(2)])
    store.sync()
    with pytest.raises(NeverProven) as kept:  # as long as the collector has not found it
        store.manifest(AT)
    store.write([past.extend()])
    store.sync()
    assert store.blocks_from(AT + 5, 1) is not None and kept.value is not None


@pytest.mark.trio
async def test_an_installed_snapshot_is_passed_on_with_its_own_proof(
    store: Store, tmp_path: Path
) -> None:
    archivist = Archivist(store, tmp_path, checkpoint=AT, every=AT)
    record = _past().install()
    store.write([record])
    store.sync_votes()
    pinned = store.pin(record.tip.height, record.machine.revision)
    await archivist.keep(pinned, record.manifest)
    offer = archivist.offer()
    assert offer is not None
    assert replace(offer.manifest, chunks=0) == record.manifest
    machine = SnapshotFile(tmp_path / snapshots.DIRECTORY / f"{AT}.snapshot").verify(CLUSTER)
    assert machine.state_hash == record.machine.state_hash


@pytest.mark.trio
async def test_a_snapshot_that_was_installed_by_a_run_that_was_killed_is_passed_on_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    past = Past()
    records = [past.extend() for _ in range(AT + 4)]
    store = _open(tmp_path)
    assert store.taken_over() is None
    record = past.install()
    store.write([record])
    store.sync_votes()
    store.close()
    store = _open(tmp_path)
    assert store.taken_over() == record.manifest
    archivist = Archivist(store, tmp_path, checkpoint=AT, every=AT)
    kept, keep = trio.Event(), archivist.keep

    async def keep_and_tell(pinned: Pinned, manifest: Manifest) -> None:
        await keep(pinned, manifest)
        kept.set()

    monkeypatch.setattr(archivist, "keep", keep_and_tell)
    engine: Any = SimpleNamespace(machine=record.machine, step=lambda *_: Output())
    mesh: Any = SimpleNamespace(events=EventQueue())
    driver = Driver(engine, store, mesh, cluster_id=CLUSTER, archivist=archivist)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await kept.wait()
        nursery.cancel_scope.cancel()
    assert archivist.heights == [AT]
    store.write([records[AT]])
    store.sync()
    assert store.taken_over() is None
    archivist.close()
    store.close()


def test_a_damaged_manifest_of_a_snapshot_that_was_taken_over_is_told(store: Store) -> None:
    store.write([_past().install()])
    store.sync()
    for damage in (b"", b"\xc1", b"\x93\x01\x02\x03"):
        store._db.execute("UPDATE meta SET value = ? WHERE name = 'taken_over'", (damage,))
        with pytest.raises(StorageError, match="manifest"):
            store.taken_over()


def test_blocks_above_a_snapshot_that_was_taken_over_prove_no_state_below_it(store: Store) -> None:
    past = Past()
    records = [past.extend(proven=False, lag=1) for _ in range(AT)]
    records += [past.extend() for _ in range(4)]
    store.write(records[:3])
    store.sync()
    assert store.manifest(1) is None, "no block above it has a finalization of its own yet"
    store.write([past.install(), records[AT]])
    store.sync()
    with pytest.raises(StorageError):
        store.manifest(1)


def test_a_pinned_state_does_not_follow_what_comes_after(store: Store) -> None:
    past = Past()
    store.pin_when(lambda height: height == AT)
    for _ in range(12):
        store.write([past.extend()])
    store.sync()
    pinned = store.take_pinned()
    assert pinned is not None and pinned.height == AT and store.take_pinned() is None
    items = list(state_tables.read_items(pinned.db, pinned.revision))
    pinned.db.close()
    assert items == _items(past.install().machine)


def test_the_proof_of_a_state_comes_from_the_blocks_that_follow(store: Store) -> None:
    past = Past()
    for _ in range(AT + 2):
        store.write([past.extend()])
    store.sync()
    assert store.manifest(AT) is None, "no header commits to it yet"
    store.write([past.extend(proven=False)])
    store.sync()
    assert store.manifest(AT) is None, "the header that does is not final by itself"
    store.write([past.extend()])
    store.sync()
    manifest = store.manifest(AT)
    assert manifest is not None and len(manifest.links) == 4
    with pytest.raises(StorageError):
        store.manifest(99)


def test_pruned_blocks_are_not_served_and_go_little_by_little(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STATE_HASHES_KEPT", 4)
    past = Past()
    for _ in range(40):
        store.write([past.extend()])
    store.sync()
    store.prune(30)
    rows = [_rows(store)]
    for _ in range(20):
        store.write([past.extend()])
        store.sync()
        rows.append(_rows(store))
    assert rows[0] == 40 and rows[-1] == 30
    assert max(a - b for a, b in itertools.pairwise(rows)) < 8, "never many at once"
    assert store.blocks_from(30, 5) is None
    reply = store.blocks_from(31, 5)
    assert reply is not None and reply.blocks[0].header.height == 31


def _rows(store: Store) -> int:
    count: int = store._db.execute("SELECT count(*) FROM finalized").fetchone()[0]
    return count


def test_an_installed_snapshot_is_there_after_a_restart_or_not_at_all(tmp_path: Path) -> None:
    past = Past()
    store = _open(tmp_path)
    store.write([past.extend() for _ in range(3)])
    store.sync()
    while len(past.blocks) < 12:
        past.extend()
    record = past.install()
    for synced in (False, True):
        store.write([record])
        if synced:
            store.sync_votes()
        store.close()  # as a kill: what was not synced is gone
        store = _open(tmp_path)
        restored = store.restore()
        assert restored.tip.height == (AT if synced else 3)
        assert restored.machine.height == restored.tip.height
    assert restored.tip == record.tip
    assert restored.machine.state_hash == record.machine.state_hash
    assert list(restored.certificates) == [record.manifest.finalization]
    assert store.blocks_from(1, 9) is None, "its blocks have a gap now"
    again = Past()
    records = [again.extend() for _ in range(12)]
    store.write(records[AT:])
    store.sync()
    assert store.restore().machine.state_hash == past.machine.state_hash
    reply = store.blocks_from(AT + 1, 9)
    assert reply is not None and reply.blocks[0].header.height == AT + 1
    store.close()


@pytest.mark.parametrize("part", range(10))
def test_a_process_killed_while_it_installs_leaves_the_old_state_or_the_new_one(
    tmp_path: Path, part: int
) -> None:
    past = Past(puts=500)
    store = _open(tmp_path)
    store.write([past.extend() for _ in range(3)])
    store.sync()
    store.close()
    while len(past.blocks) < 12:
        past.extend()
    record = past.install()
    # Not forked: other tests' threads may hold locks now.
    child = multiprocessing.get_context("spawn").Process(target=_install, args=(tmp_path, record))
    child.start()
    log = tmp_path / "node" / f"{DATABASE_FILE}-wal"
    while not log.exists() or log.stat().st_size < part * 150_000:
        if child.exitcode is not None:
            assert child.exitcode == 0
            break
    child.kill()
    child.join()
    store = _open(tmp_path)
    restored = store.restore()
    assert restored.tip.height in (3, AT)
    assert len(restored.machine.entries) == 500 * restored.tip.height
    assert restored.machine.height == restored.tip.height
    store.close()


def _install(directory: Path, record: InstallRecord) -> NoReturn:
    """In a child: installs and ends as after a kill."""
    store = _open(directory)
    store.write([record])
    store.sync_votes()
    os._exit(0)


# --- members in one process, with real files ---

SHORT = Checkpoints(every=AT, gap=16)


async def _write(cluster: Cluster, seat: int, first: int, count: int) -> None:
    for number in range(first, first + count):
        command = Command(b"client of sixtee", number + 1, Put(b"key %d" % (number % 50), b"v"))
        await cluster.members[seat].driver.execute(command, 10)


def _height(cluster: Cluster, seat: int) -> int:
    return cluster.members[seat].driver.engine.ledger.tip.height


def _hash(cluster: Cluster, seat: int) -> Callable[[], bytes]:
    return lambda: cluster.members[seat].driver.engine.machine.state_hash


@pytest.mark.parametrize("wiped", [False, True])
@pytest.mark.trio
async def test_a_member_that_missed_what_the_others_pruned_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wiped: bool
) -> None:
    monkeypatch.setattr(limits, "STATE_HASHES_KEPT", 16)
    weights = {1: 1, 2: 1, 3: 1, 4: 1}
    async with small_cluster(tmp_path, weights, SHORT) as cluster:
        await _write(cluster, 1, 0, 10)
        away = cluster.members[3]
        left_at = _height(cluster, 3)
        await cluster.kill(3)
        await _write(cluster, 1, 10, 150)
        stores = [cluster.members[seat].store for seat in (1, 2, 4)]
        await cluster.wait(lambda: all(s.blocks_from(left_at + 1, 1) is None for s in stores))
        if wiped:
            away.directory.rename(away.directory.with_name("lost"))
        back = await cluster.start(3)
        # A wiped member abstains until the term is two higher (R10); it follows all the same.
        caught_up = "abstaining" if wiped else "active"
        await cluster.wait(lambda: back.driver.engine.status().state == caught_up)
        await _write(cluster, 1, 160, 5)
        await cluster.wait(lambda: _hash(cluster, 3)() == _hash(cluster, 1)())
        assert back.store._db.execute("SELECT height FROM base").fetchone()[0] > left_at
        await _write(cluster, 3, 165, 5)
