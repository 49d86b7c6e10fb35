"""What must survive a crash: votes, blocks, certificates and the replicated state, in SQLite.

One directory, one exclusive lock, one database in WAL mode with ``synchronous=FULL``: when
``sync`` returns, everything given to ``write`` before is on disk. What lies between two syncs is
one transaction, so that several protocol steps share one fsync. ``write`` fills memory, ``sync``
waits for the disk: the driver calls it in a thread. Blocks are read on a connection of their own.

A vote is inserted, never replaced: if a bug ever made a second one for the same view and kind,
the database would refuse it before it could be sent.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

from consensus import limits, wire
from consensus.interface import (
    AbstainRecord,
    AcknowledgedRecord,
    BlockRecord,
    CertificateRecord,
    EvidenceRecord,
    FinalizedRecord,
    IncarnationRecord,
    Record,
    Restored,
    VoteRecord,
)
from consensus.ledger import Tip, genesis_tip
from consensus.machine import Applied, Machine
from consensus.types import Block, Certificate, FinalHeader, Header, View, VoteKind
from node import state_tables

SCHEMA_VERSION = 2
PRUNE_EVERY = 128  # heights between sweeps of what finality made superfluous

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE votes (
    epoch INTEGER, term INTEGER, idx INTEGER, kind INTEGER, data BLOB NOT NULL,
    PRIMARY KEY (epoch, term, idx, kind)) WITHOUT ROWID;
CREATE TABLE certificates (
    epoch INTEGER, term INTEGER, idx INTEGER, kind INTEGER, data BLOB NOT NULL,
    PRIMARY KEY (epoch, term, idx, kind)) WITHOUT ROWID;
CREATE TABLE blocks (id INTEGER PRIMARY KEY, hash BLOB UNIQUE NOT NULL, data BLOB NOT NULL);
CREATE TABLE candidates (
    hash BLOB PRIMARY KEY, term INTEGER NOT NULL, idx INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE finalized (
    height INTEGER PRIMARY KEY, hash BLOB NOT NULL, finalization BLOB, state_hash BLOB NOT NULL);
CREATE TABLE acknowledged (seat INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY, seat INTEGER NOT NULL, first BLOB NOT NULL, second BLOB NOT NULL);
"""


class StorageError(Exception):
    """The store cannot be used, or what it holds is not what this node wrote."""


class Store:
    """The state directory of one node.

    Args:
        directory: created with mode 0700 when missing.
        cluster_id: 32 bytes; a store of another cluster is refused.
        seat: a store of another seat is refused.
        genesis: 32-byte parent hash of the first block; another one is refused.
    """

    def __init__(self, directory: Path, *, cluster_id: bytes, seat: int, genesis: bytes) -> None:
        self._cluster_id = cluster_id
        self._seat = seat
        self._genesis = genesis
        self._last_pruned = 0
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StorageError(f"{directory} is in use by another process") from None
        try:
            self._db = self._open(directory / "cluster.sqlite3")
            self._reader = sqlite3.connect(
                directory / "cluster.sqlite3", isolation_level=None, check_same_thread=False
            )
        except (sqlite3.Error, StorageError) as error:
            os.close(self._lock)
            raise StorageError(f"{directory}: {error}") from error

    def _open(self, file: Path) -> sqlite3.Connection:
        db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA wal_autocheckpoint=4000")
        identity = {
            "schema": SCHEMA_VERSION,
            "cluster": self._cluster_id,
            "seat": self._seat,
            "genesis": self._genesis,
        }
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            for statement in filter(str.strip, (_SCHEMA + state_tables.SCHEMA).split(";")):
                db.execute(statement)
            db.executemany("INSERT INTO meta VALUES (?, ?)", identity.items())
        found = dict(db.execute("SELECT name, value FROM meta"))
        db.execute("COMMIT")
        for name, value in identity.items():
            if found.get(name) != value:
                raise StorageError(f"the store belongs to another {name}")
        return db

    def close(self) -> None:
        """Gives the directory free."""
        self._reader.close()
        self._db.close()
        os.close(self._lock)

    # --- writing ---

    def write(self, records: Sequence[Record]) -> None:
        """Adds records to the open transaction; they are not durable before ``sync``.

        Raises StorageError: the store must not be used any more.
        """
        try:
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            for record in records:
                self._write(record)
        except sqlite3.Error as error:
            raise StorageError(f"cannot write: {error}") from error

    def sync(self) -> None:
        """Makes everything written so far durable, or nothing of it. Raises StorageError."""
        try:
            if self._db.in_transaction:
                self._db.execute("COMMIT")
        except sqlite3.Error as error:
            raise StorageError(f"cannot write: {error}") from error

    def _write(self, record: Record) -> None:
        db = self._db
        match record:
            case VoteRecord(vote):
                db.execute(
                    "INSERT INTO votes VALUES (?, ?, ?, ?, ?)",
                    (vote.epoch, *vote.view, int(vote.kind), wire.encode_vote(vote)),
                )
            case BlockRecord(block):
                self._put_block(block)
                db.execute(
                    "INSERT OR IGNORE INTO candidates VALUES (?, ?, ?)",
                    (block.hash, *block.header.view),
                )
            case CertificateRecord(c):
                db.execute(
                    "INSERT OR REPLACE INTO certificates VALUES (?, ?, ?, ?, ?)",
                    (c.epoch, *c.view, int(c.kind), wire.encode_certificate(c)),
                )
            case FinalizedRecord(applied, finalization):
                self._put_finalized(applied, finalization)
            case IncarnationRecord(incarnation, boot_id):
                self._put_meta("incarnation", incarnation)
                self._put_meta("boot_id", boot_id)
            case AbstainRecord(term):
                self._put_meta("abstain_until_term", term)
            case AcknowledgedRecord(request):
                db.execute(
                    "INSERT OR REPLACE INTO acknowledged VALUES (?, ?)",
                    (request.seat, wire.encode_boot_request(request)),
                )
            case EvidenceRecord(evidence):
                db.execute(
                    "INSERT INTO evidence (seat, first, second) VALUES (?, ?, ?)",
                    (
                        evidence.first.seat,
                        wire.encode_vote(evidence.first),
                        wire.encode_vote(evidence.second),
                    ),
                )

    def _put_meta(self, name: str, value: int | bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _put_block(self, block: Block) -> None:
        self._db.execute(
            "INSERT OR IGNORE INTO blocks (hash, data) VALUES (?, ?)",
            (block.hash, wire.encode_block(block)),
        )

    def _put_finalized(self, applied: Applied, finalization: Certificate | None) -> None:
        db, block = self._db, applied.block
        self._put_block(block)
        db.execute("DELETE FROM candidates WHERE hash = ?", (block.hash,))
        proof = None if finalization is None else wire.encode_certificate(finalization)
        db.execute(
            "INSERT INTO finalized VALUES (?, ?, ?, ?)",
            (block.header.height, block.hash, proof, applied.state_hash),
        )
        state_tables.write_changes(db, applied.changes)
        self._put_meta("revision", applied.revision)
        height = block.header.height
        if finalization is not None and height - self._last_pruned >= PRUNE_EVERY:
            self._prune(block.header.view)
            self._last_pruned = height

    def _prune(self, tip: View) -> None:
        """What lies below the final view is never needed again, but for the gate of its term."""
        db = self._db
        db.execute(
            "DELETE FROM votes WHERE (term, idx) < (?1, ?2) AND NOT (term = ?1 AND kind = ?3)",
            (*tip, int(VoteKind.NULLIFY)),
        )
        db.execute("DELETE FROM certificates WHERE (term, idx) <= (?, ?)", tip)
        db.execute(
            "DELETE FROM blocks WHERE hash IN"
            " (SELECT hash FROM candidates WHERE (term, idx) <= (?, ?))",
            tip,
        )
        db.execute("DELETE FROM candidates WHERE (term, idx) <= (?, ?)", tip)

    # --- reading ---

    def restore(self) -> Restored:
        """Everything the core needs to take up where it left off. Raises StorageError."""
        try:
            return self._restore()
        except (sqlite3.Error, ValueError) as error:  # WireError is a ValueError
            raise StorageError(f"the store does not hold what was written: {error}") from error

    def _restore(self) -> Restored:
        db, cluster = self._db, self._cluster_id
        meta = dict(db.execute("SELECT name, value FROM meta"))
        tip, machine = self._restore_state(int(meta.get("revision", 0)))
        # A nullify vote of the final term closes the gate for all of it, however old it is (R4).
        votes = db.execute(
            "SELECT data FROM votes"
            " WHERE (term, idx) >= (?1, ?2) OR (term = ?1 AND kind = ?3)",
            (*tip.view, int(VoteKind.NULLIFY)),
        )
        certificates = db.execute(
            "SELECT data FROM certificates WHERE (term, idx) > (?, ?)", tip.view
        )
        blocks = db.execute(
            "SELECT blocks.data FROM candidates JOIN blocks USING (hash)"
            " WHERE (term, idx) > (?, ?)",
            tip.view,
        )
        acknowledged = db.execute("SELECT data FROM acknowledged")
        return Restored(
            tip=tip,
            machine=machine,
            votes=[wire.decode_vote(data, self._seat) for (data,) in votes],
            blocks=[wire.decode_block(data, cluster) for (data,) in blocks],
            certificates=[wire.decode_certificate(data) for (data,) in certificates],
            incarnation=int(meta.get("incarnation", 0)),
            acknowledged=[wire.decode_boot_request(data) for (data,) in acknowledged],
            abstain_until_term=int(meta.get("abstain_until_term", 0)),
        )

    def _restore_state(self, revision: int) -> tuple[Tip, Machine]:
        db = self._db
        newest = db.execute(
            "SELECT height, hash, finalization FROM finalized ORDER BY height DESC LIMIT 1"
        ).fetchone()
        if newest is None:
            return genesis_tip(self._genesis), Machine()
        height, hash_, finalization = newest
        block = self._block(hash_)
        tip = Tip(
            height,
            hash_,
            block.header.view,
            block.header.time_ms,
            block.header.state_height,
            wire.decode_certificate(finalization),
            block.header,
        )
        hashes = db.execute(
            "SELECT height, state_hash FROM finalized WHERE height > ? ORDER BY height",
            (height - limits.STATE_HASHES_KEPT,),
        )
        return tip, state_tables.read_machine(db, height, revision, tip.time_ms, hashes)

    def _block(self, hash_: bytes) -> Block:
        row = self._db.execute("SELECT data FROM blocks WHERE hash = ?", (hash_,)).fetchone()
        if row is None:
            raise ValueError(f"block {hash_.hex()} is missing")
        return wire.decode_block(row[0], self._cluster_id)

    def blocks_from(self, height: int, count: int) -> wire.SyncReply | None:
        """``count`` finalized blocks from ``height`` on with the proof that they are final.

        At most as many as one message holds. They end at a block that is directly final, a few
        above ``count`` if need be; when none is in reach, the headers up to the next one follow.
        None when there is nothing to send.
        """
        try:
            return self._blocks_from(height, min(max(count, 1), limits.SYNC_BLOCKS_MAX))
        except (sqlite3.Error, ValueError) as error:
            raise StorageError(f"cannot read blocks from {height}: {error}") from error

    def _blocks_from(self, height: int, count: int) -> wire.SyncReply | None:
        rows = self._reader.execute(
            "SELECT blocks.data, finalization FROM finalized JOIN blocks USING (hash)"
            " WHERE height >= ? ORDER BY height LIMIT ?",
            (height, limits.SYNC_BLOCKS_MAX),
        )
        found: list[Block] = []
        proven, proof = 0, None
        size = 0
        for data, finalization in rows:
            size += len(data)
            if found and size > limits.SYNC_BYTES_MAX:
                break
            found.append(wire.decode_block(data, self._cluster_id))
            if finalization is not None:
                proven, proof = len(found), finalization
                if proven >= count:
                    break
        if not found:
            return None
        if proof is None:
            return self._with_links(tuple(found))
        final = wire.decode_certificate(proof)
        return wire.SyncReply(tuple(found[:proven]), (), final, self._head(final))

    def _with_links(self, blocks: tuple[Block, ...]) -> wire.SyncReply | None:
        links: list[Header] = []
        rows: Iterable[tuple[bytes, bytes | None]] = self._reader.execute(
            "SELECT blocks.data, finalization FROM finalized JOIN blocks USING (hash)"
            " WHERE height > ? ORDER BY height LIMIT ?",
            (blocks[-1].header.height, limits.SYNC_LINKS_MAX),
        )
        for data, proof in rows:
            links.append(wire.decode_block(data, self._cluster_id).header)
            if proof is not None:
                final = wire.decode_certificate(proof)
                return wire.SyncReply(blocks, tuple(links), final, self._head(final))
        return None

    def _head(self, shown: Certificate) -> FinalHeader | None:
        """Our newest finalized header, None when ``shown`` is its finalization."""
        data, proof = self._reader.execute(
            "SELECT blocks.data, finalization FROM finalized JOIN blocks USING (hash)"
            " WHERE finalization IS NOT NULL ORDER BY height DESC LIMIT 1"
        ).fetchone()
        final = wire.decode_certificate(proof)
        if final == shown:
            return None
        return FinalHeader(wire.decode_block(data, self._cluster_id).header, final)
