"""The store keeps what a vote depends on, and gives it back after a crash."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from consensus.codec import make_block
from consensus.commands import Command, Put, encode_command
from consensus.interface import (
    AbstainRecord,
    AcknowledgedRecord,
    BlockRecord,
    CertificateRecord,
    FinalizedRecord,
    IncarnationRecord,
    Record,
    VoteRecord,
)
from consensus.machine import Machine
from consensus.types import (
    ZERO_HASH,
    Block,
    BootRequest,
    Certificate,
    Part,
    View,
    Vote,
    VoteKind,
)
from node import votelog
from node.storage import DATABASE_FILE, SCHEMA_VERSION, StorageError, Store
from tests.unit.node.small_cluster import CLUSTER, GENESIS

SEAT = 3


def open_store(directory: Path, **changes: object) -> Store:
    settings: dict[str, object] = {"cluster_id": CLUSTER, "seat": SEAT, "genesis": GENESIS}
    return Store(directory, **(settings | changes))  # type: ignore[arg-type]


def vote(kind: VoteKind, view: View, block: bytes = b"\1" * 32) -> Vote:
    null = kind is VoteKind.NULLIFY
    return Vote(kind, 0, view, SEAT, ZERO_HASH if null else block, int(null), bytes(65))


def finalization(block: Block) -> Certificate:
    parts = tuple(Part(seat, 0, bytes(65)) for seat in (1, 2, 3))
    return Certificate(VoteKind.FINALIZE, 0, block.header.view, block.hash, parts)


class Chain:
    """Blocks of one put each, applied to a machine, as records."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.blocks: list[Block] = []

    def extend(self, view: View, *, proven: bool = True) -> FinalizedRecord:
        height = len(self.blocks) + 1
        command = Command(bytes([height % 7]) * 16, height, Put(b"k%d" % (height % 5), b"v"))
        block = make_block(
            CLUSTER,
            epoch=0,
            view=view,
            proposer=1,
            height=height,
            parent=self.blocks[-1].hash if self.blocks else GENESIS,
            time_ms=height,
            state_height=0,
            state_hash=bytes(32),
            commands=(encode_command(command),),
            nullifications=(),
        )
        self.blocks.append(block)
        applied = self.machine.apply(block)
        return FinalizedRecord(applied, finalization(block) if proven else None)


def commit(store: Store, *records: Record) -> None:
    store.write(records)
    store.sync()


def test_what_was_synced_is_there_again_and_nothing_else(tmp_path: Path) -> None:
    store, chain = open_store(tmp_path), Chain()
    for index in range(10):
        commit(store, chain.extend(View(1, index)))
    request = BootRequest(1, 7, b"\7" * 32, bytes(65))
    mine = vote(VoteKind.NOTARIZE, View(1, 10))
    commit(store, IncarnationRecord(4, bytes(32)), AcknowledgedRecord(request), VoteRecord(mine))
    commit(store, AbstainRecord(1, 9))
    store.write([VoteRecord(vote(VoteKind.NULLIFY, View(1, 10)))])  # never synced
    store.close()

    restored = open_store(tmp_path).restore()
    assert restored.tip.height == 10 and restored.tip.finalization is not None
    assert restored.machine.state_hash == chain.machine.state_hash
    assert restored.machine.entries == chain.machine.entries
    assert list(restored.machine.sessions) == list(chain.machine.sessions)
    assert restored.machine.hash_at(8) is not None
    assert list(restored.votes) == [mine]
    assert list(restored.acknowledged) == [request]
    assert (restored.incarnation, restored.abstain_until) == (4, (1, 9))


def test_a_second_vote_for_one_view_is_refused(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, VoteRecord(vote(VoteKind.NOTARIZE, View(2, 5))))
    with pytest.raises(StorageError, match="a second NOTARIZE vote"):
        commit(store, VoteRecord(vote(VoteKind.NOTARIZE, View(2, 5), b"\2" * 32)))


def test_a_nullify_vote_of_the_final_term_survives_pruning(tmp_path: Path) -> None:
    """It closes the gate of the whole term: without it a restart would open the gate again."""
    store, chain = open_store(tmp_path), Chain()
    commit(store, VoteRecord(vote(VoteKind.NULLIFY, View(1, 3))))
    commit(store, VoteRecord(vote(VoteKind.NOTARIZE, View(1, 3))))
    for index in range(300):
        commit(store, chain.extend(View(1, index)))
    store.close()
    votes = open_store(tmp_path).restore().votes
    assert [v.kind for v in votes] == [VoteKind.NULLIFY]


def test_the_highest_vote_is_never_forgotten(tmp_path: Path) -> None:
    """Else a log that was rolled back could not be told from one that was superseded."""
    store, chain = open_store(tmp_path), Chain()
    commit(store, VoteRecord(vote(VoteKind.NOTARIZE, View(1, 2))))
    commit(store, VoteRecord(vote(VoteKind.NOTARIZE, View(1, 3))))
    for index in range(300):
        commit(store, chain.extend(View(2, index)))
    store.close()
    votes = open_store(tmp_path).restore().votes
    assert [v.view for v in votes] == [View(1, 3)]


def test_candidates_below_the_final_view_are_swept(tmp_path: Path) -> None:
    store, chain, other = open_store(tmp_path), Chain(), Chain()
    rival = other.extend(View(7, 0)).applied.block
    commit(store, BlockRecord(rival))
    for index in range(300):
        commit(store, chain.extend(View(8, index)))
    high = make_block(
        CLUSTER, epoch=0, view=View(9, 0), proposer=1, height=301,
        parent=chain.blocks[-1].hash, time_ms=999,
        state_height=0, state_hash=bytes(32), commands=(), nullifications=(),
    )  # fmt: skip
    commit(store, BlockRecord(high))
    store.close()
    assert [b.hash for b in open_store(tmp_path).restore().blocks] == [high.hash]


def test_a_start_reads_few_of_the_votes_of_an_idle_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(votelog, "ENTRIES_MAX", 16)
    store, chain = open_store(tmp_path), Chain()
    for index in range(100):
        final = chain.extend(View(1, index))
        mine = vote(VoteKind.NOTARIZE, View(1, index), final.applied.block.hash)
        commit(store, BlockRecord(final.applied.block), VoteRecord(mine), final)
    store.close()
    read: list[int] = []
    real = votelog.VoteLog.__init__

    def counting(log: votelog.VoteLog, *arguments: object) -> None:
        real(log, *arguments)  # type: ignore[arg-type]
        read.append(len(log.entries))

    monkeypatch.setattr(votelog.VoteLog, "__init__", counting)
    restored = open_store(tmp_path).restore()
    assert [v.view for v in restored.votes] == [View(1, 99)]
    assert read[0] <= 16 + 4


def test_blocks_are_served_with_the_proof_that_they_are_final(tmp_path: Path) -> None:
    store, chain = open_store(tmp_path), Chain()
    for index in range(20):
        commit(store, chain.extend(View(1, index), proven=index in (3, 19)))
    first = store.blocks_from(1, 512)
    assert first is not None
    # As many as there are, cut where one is directly final.
    assert [b.header.height for b in first.blocks] == list(range(1, 21)) and first.links == ()
    assert first.finalization.block == chain.blocks[19].hash
    assert store.blocks_from(21, 512) is None


def test_a_stretch_without_a_proof_of_its_own_comes_with_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, chain = open_store(tmp_path), Chain()
    for index in range(20):
        commit(store, chain.extend(View(1, index), proven=index == 19))
    monkeypatch.setattr("consensus.limits.SYNC_BYTES_MAX", 1)
    reply = store.blocks_from(5, 512)
    assert reply is not None
    assert [b.header.height for b in reply.blocks] == [5]
    assert [h.height for h in reply.links] == list(range(6, 21))
    assert reply.finalization.block == chain.blocks[19].hash


@pytest.mark.parametrize(
    "changes", [{"cluster_id": b"\1" * 32}, {"seat": 4}, {"genesis": b"\1" * 32}]
)
def test_a_store_of_somebody_else_is_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    open_store(tmp_path).close()
    with pytest.raises(StorageError, match="another"):
        open_store(tmp_path, **changes)


def test_a_store_of_another_release_says_of_which_schema_it_is(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / DATABASE_FILE)) as db:
        db.execute("UPDATE meta SET value = 4 WHERE name = 'schema'")
        db.commit()
    with pytest.raises(StorageError, match=f"has schema 4, this release has {SCHEMA_VERSION}"):
        open_store(tmp_path)


def test_what_an_earlier_run_left_in_the_log_of_the_database_is_written_into_it_at_the_start(
    tmp_path: Path,
) -> None:
    """Its sync may have failed, after which no later one would write it."""
    store, chain = open_store(tmp_path / "killed"), Chain()
    commit(store, chain.extend(View(1, 0)))
    shutil.copytree(tmp_path / "killed", tmp_path / "again")
    store.close()
    again = open_store(tmp_path / "again")
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "again" / DATABASE_FILE, tmp_path / "copy")  # without the log
    again.close()
    with closing(sqlite3.connect(tmp_path / "copy" / DATABASE_FILE)) as db:
        assert db.execute("SELECT COUNT(*) FROM finalized").fetchone() == (1,)


def test_two_processes_cannot_share_a_directory(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(StorageError, match="in use"):
        open_store(tmp_path)
    store.close()
    open_store(tmp_path).close()


def test_votes_are_on_disk_before_finalized_blocks_and_are_kept_for_them(tmp_path: Path) -> None:
    """A crash takes what is final but not synced; what makes it final again must be there."""
    store, chain = open_store(tmp_path), Chain()
    commit(store, chain.extend(View(1, 0)))
    lost = chain.extend(View(1, 1))
    block = lost.applied.block
    before = [vote(VoteKind.NOTARIZE, View(1, 1)), vote(VoteKind.FINALIZE, View(1, 1))]
    after = vote(VoteKind.NOTARIZE, View(1, 2))
    notarization = replace(finalization(block), kind=VoteKind.NOTARIZE)
    for records in (
        [BlockRecord(block), VoteRecord(before[0])],
        [CertificateRecord(notarization), VoteRecord(before[1])],
        [lost, VoteRecord(after)],
    ):
        store.write(records)
        store.sync_votes()
    store.close()

    restored = open_store(tmp_path).restore()
    assert restored.tip.height == 1
    assert list(restored.votes) == [*before, after]
    assert list(restored.certificates) == [notarization]
    assert [b.hash for b in restored.blocks] == [block.hash]


def test_a_vote_log_that_was_taken_away_is_noticed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, VoteRecord(vote(VoteKind.NOTARIZE, View(2, 5))))
    store.close()
    (tmp_path / votelog.NAMES[0]).unlink()
    with pytest.raises(StorageError, match="missing"):
        open_store(tmp_path)


def test_a_full_disk_is_an_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    store, chain = open_store(tmp_path), Chain()
    commit(store, chain.extend(View(1, 0)))
    store._db.execute("PRAGMA max_page_count=40")
    with pytest.raises(StorageError, match="full"):
        for index in range(1, 2000):
            commit(store, chain.extend(View(1, index)))
    store.close()
    restored = open_store(tmp_path).restore()
    assert 1 <= restored.tip.height < 2000


def test_a_damaged_database_is_refused_and_not_guessed_at(tmp_path: Path) -> None:
    store, chain = open_store(tmp_path), Chain()
    for index in range(5):
        commit(store, chain.extend(View(1, index)))
    store._db.execute("UPDATE entries SET value = x'ff'")
    store.close()
    with pytest.raises(StorageError, match="does not match its hash"):
        open_store(tmp_path).restore()
