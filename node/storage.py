"""What must survive a crash: votes, blocks, certificates and the replicated state.

One directory, one exclusive lock, two kinds of files. What is on disk *before* a message leaves -
votes, the blocks voted for, the certificates that led there - goes into the append-only vote log,
one ``fdatasync`` for all that ``write`` took since the last one. Everything else, and finality
first of all, goes into a SQLite database in WAL mode with ``synchronous=FULL``. Finalized blocks
may lag behind the votes there (see ``FinalizedRecord``): they gather in memory, and many are
written together, what several of them changed once. What the log holds is forgotten only when a
finalized block on disk has made it superfluous.

A vote is added, never replaced: if a bug ever made a second one for the same view and kind, the
store would refuse it before it could be sent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from consensus import codec, limits
from consensus.epochs import opened_set, opening_height
from consensus.interface import (
    AbstainRecord,
    AcknowledgedRecord,
    BlockRecord,
    CertificateRecord,
    EpochRecord,
    EvidenceRecord,
    FinalizedRecord,
    IncarnationRecord,
    InstallRecord,
    Record,
    Restored,
    VoteRecord,
)
from consensus.keccak import keccak256
from consensus.ledger import Tip, genesis_tip, opened_tip, tip_at
from consensus.machine import Machine
from consensus.outcomes import Applied
from consensus.types import (
    GENESIS,
    Block,
    Certificate,
    Evidence,
    Manifest,
    Opening,
    Recovery,
    View,
    Vote,
    VoteKind,
)
from node import history, state_tables
from node.served import Served, StorageError
from node.statelock import StateLock
from node.votelog import Entry, VoteLog, VoteLogError

SCHEMA_VERSION = 5
DATABASE_FILE = "cluster.sqlite3"
SWEEP_EVERY, SWEEP_ROWS = 4, 8  # heights between removals of pruned blocks, and how many go
GATHERED_BYTES_MAX = 1024 * 1024  # of final blocks that wait to be written together

_VOTE, _BLOCK, _CERTIFICATE = 1, 2, 3  # kinds of entries of the vote log

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE finalized (
    height INTEGER PRIMARY KEY, hash BLOB NOT NULL, data BLOB NOT NULL, finalization BLOB,
    state_hash BLOB NOT NULL);
CREATE TABLE epochs (epoch INTEGER PRIMARY KEY, height INTEGER NOT NULL, data BLOB NOT NULL);
CREATE TABLE base (
    id INTEGER PRIMARY KEY CHECK (id = 1), height INTEGER, hash BLOB NOT NULL,
    header BLOB NOT NULL, state_hash BLOB NOT NULL);
CREATE TABLE acknowledged (seat INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE evidence (
    id INTEGER PRIMARY KEY, seat INTEGER NOT NULL, first BLOB NOT NULL, second BLOB NOT NULL);
"""


class Store(Served):
    """The state directory of one node.

    Args:
        directory: created with mode 0700 when missing.
        cluster_id: 32 bytes; a store of another cluster is refused.
        seat: a store of another seat is refused.
        genesis: 32-byte parent hash of the first block; another one is refused.
        lock: of the directory, when the caller holds it already.
    """

    def __init__(
        self,
        directory: Path,
        *,
        cluster_id: bytes,
        seat: int,
        genesis: bytes,
        lock: StateLock | None = None,
    ) -> None:
        self._cluster_id = cluster_id
        self._seat = seat
        self._genesis = genesis
        self._final = (0, GENESIS)  # epoch and view of the newest finalized block, durable or not
        self._live: dict[object, _Live] = {}  # what the vote log must not lose
        self.block_bytes = 0  # of all final blocks written since the start
        self._prune_to = 0  # blocks up to here may go; they do, a few with each new block
        self._wants_pin: Callable[[int], bool] = lambda _: False
        self._to_pin: Applied | None = None  # with what is written together with it
        self._pinned: Pinned | None = None
        self._gathered: list[tuple[Applied, tuple[object, ...]]] = []  # final, not written yet
        self._gathered_bytes = 0
        self._urgent = False  # the open transaction has more than finalized blocks
        assert lock is None or lock.directory == directory
        self._own_lock = StateLock(directory) if lock is None else None
        try:
            self._file = directory / DATABASE_FILE
            self._db = self._open(self._file)
            self._reader = sqlite3.connect(
                self._file, isolation_level=None, check_same_thread=False
            )
            self._open_log(directory)
        except (sqlite3.Error, StorageError, VoteLogError, ValueError) as error:
            self._unlock()
            raise StorageError(f"{directory}: {error}") from error

    def _open(self, file: Path) -> sqlite3.Connection:
        db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA wal_autocheckpoint=4000")
        # After a sync that failed, Linux shows the log of an earlier run as if it were on disk:
        # what it says is written into the database itself before anything is built on it.
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        identity = {
            "schema": SCHEMA_VERSION,
            "cluster": self._cluster_id,
            "seat": self._seat,
            "genesis": self._genesis,
        }
        db.execute("BEGIN IMMEDIATE")
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone():
            schema = _SCHEMA + state_tables.SCHEMA + history.SCHEMA
            for statement in filter(str.strip, schema.split(";")):
                db.execute(statement)
            db.executemany("INSERT INTO meta VALUES (?, ?)", identity.items())
        found = dict(db.execute("SELECT name, value FROM meta"))
        db.execute("COMMIT")
        if found.get("schema") != SCHEMA_VERSION:
            was = found.get("schema")
            raise StorageError(f"the store has schema {was!r}, this release has {SCHEMA_VERSION}")
        for name, value in identity.items():
            if found.get(name) != value:
                raise StorageError(f"the store belongs to another {name}")
        self.history = history.HistoryTable(db)
        return db

    def _open_log(self, directory: Path) -> None:
        row = self._db.execute("SELECT value FROM meta WHERE name = 'log_generation'").fetchone()
        identity = log_identity(self._cluster_id, self._seat, self._genesis)
        self._log = VoteLog(directory, identity, row[0] if row else 0)
        for entry in self._log.entries:
            kind, data = entry
            if kind == _VOTE:
                self._keep_vote(codec.decode_vote(data, self._seat), entry)
            elif kind == _BLOCK:
                self._keep_block(codec.decode_block(data, self._cluster_id), entry)
            elif kind == _CERTIFICATE:
                self._keep_certificate(codec.decode_certificate(data), entry)
            else:
                raise StorageError(f"an entry of kind {kind} in the vote log")
        self._log.entries = []
        self._put_meta("log_generation", self._log.generation)

    def close(self) -> None:
        """Gives the directory free; what was not synced is lost, as in a crash."""
        if self._pinned is not None:
            self._pinned.db.close()
        self._log.close()
        self._reader.close()
        self._db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._own_lock is not None:
            self._own_lock.release()

    # --- writing ---

    def write(self, records: Sequence[Record]) -> None:
        """Takes records; they are not durable before ``sync``.

        Raises StorageError: the store must not be used any more.
        """
        try:
            for record in records:
                if isinstance(record, FinalizedRecord | InstallRecord):
                    self._pin_wanted()
                self._write(record)
            self._pin_wanted()
        except sqlite3.Error as error:
            raise StorageError(f"cannot write: {error}") from error

    def sync_votes(self) -> None:
        """Makes everything written so far durable except finalized blocks, which may wait.

        Raises StorageError.
        """
        if self._urgent:
            self.sync()
            return
        try:
            self._log.sync()
        except VoteLogError as error:
            raise StorageError(f"the vote log {error}") from error

    def sync(self) -> None:
        """Makes everything written so far durable. Raises StorageError."""
        try:
            # In this order: what is final rests on votes, and must not be on disk without them.
            self._log.sync()
            self._put_gathered()
            if self._db.in_transaction:
                self._db.execute("COMMIT")
                self._urgent = False
                self._forget()
        except (sqlite3.Error, VoteLogError) as error:
            raise StorageError(f"cannot write: {error}") from error

    def _forget(self) -> None:
        """What lies below the final view is never needed again, but for the gate of its term."""
        last = self._last_vote()
        self._live = {k: v for k, v in self._live.items() if v.value is last or self._is_live(v)}
        kept = [live.entry for live in self._live.values()]
        if self._log.outgrows(kept):
            self._log.rewrite(kept)
            self._put_meta("log_generation", self._log.generation)

    def _last_vote(self) -> Vote | None:
        """Our highest vote, which is never forgotten: it shows that the log is whole (R10)."""
        votes = (v.value for v in self._live.values() if isinstance(v.value, Vote))
        return max(votes, key=Vote.moment, default=None)

    def _is_live(self, live: _Live) -> bool:
        epoch, final = self._final
        if live.epoch != epoch:
            return live.epoch > epoch
        if isinstance(live.value, Vote):
            gate = live.view.term == final.term and live.value.kind is VoteKind.NULLIFY
            return live.view >= final or gate
        return live.view > final

    def _keep_vote(self, vote: Vote, entry: Entry) -> None:
        key = (vote.epoch, vote.view, vote.kind)
        if key in self._live:
            raise StorageError(f"a second {vote.kind.name} vote for view {vote.view}")
        self._live[key] = _Live(vote.epoch, vote.view, vote, entry)

    def _keep_block(self, block: Block, entry: Entry) -> None:
        self._live[block.hash] = _Live(block.header.epoch, block.header.view, block, entry)

    def _keep_certificate(self, c: Certificate, entry: Entry) -> None:
        self._live[c.kind, c.epoch, c.view] = _Live(c.epoch, c.view, c, entry)

    def _write(self, record: Record) -> None:
        match record:
            case VoteRecord(vote):
                entry = (_VOTE, codec.encode_vote(vote))
                self._keep_vote(vote, entry)
                self._log.append(*entry)
            case BlockRecord(block):
                entry = (_BLOCK, codec.encode_block(block))
                self._keep_block(block, entry)
                self._log.append(*entry)
            case CertificateRecord(c):
                entry = (_CERTIFICATE, codec.encode_certificate(c))
                self._keep_certificate(c, entry)
                self._log.append(*entry)
            case FinalizedRecord(applied, finalization):
                self._gather(applied, finalization)
                if finalization is not None and self._wants_pin(applied.block.header.height):
                    self._to_pin = applied
            case InstallRecord():
                self._put_gathered()
                self._begin()
                self._urgent = True
                self._install(record)
            case _:
                self._put_gathered()
                self._begin()
                self._urgent = True
                self._write_rare(record)

    def _write_rare(self, record: Record) -> None:
        db = self._db
        match record:
            case IncarnationRecord(incarnation, boot_id):
                self._put_meta("incarnation", incarnation)
                self._put_meta("boot_id", boot_id)
            case AbstainRecord(epoch, term):
                self._put_meta("abstain_until_epoch", epoch)
                self._put_meta("abstain_until_term", term)
            case EpochRecord(opening):
                self._put_opening(opening)
                self._final = (opened_set(opening).epoch, GENESIS)
            case AcknowledgedRecord(request):
                db.execute(
                    "INSERT OR REPLACE INTO acknowledged VALUES (?, ?)",
                    (request.seat, codec.encode_boot_request(request)),
                )
            case EvidenceRecord(evidence):
                db.execute(
                    "INSERT INTO evidence (seat, first, second) VALUES (?, ?, ?)",
                    (
                        evidence.first.seat,
                        codec.encode_vote(evidence.first),
                        codec.encode_vote(evidence.second),
                    ),
                )

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")

    def _put_meta(self, name: str, value: int | bytes) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def _gather(self, applied: Applied, finalization: Certificate | None) -> None:
        """Keeps a final block until more are written with it: what they change again and again,
        sessions above all, is written once."""
        block = applied.block
        known = self._live.get(block.hash)
        data = known.entry[1] if known else codec.encode_block(block)
        self.block_bytes += len(data)
        proof = None if finalization is None else codec.encode_certificate(finalization)
        row = (block.header.height, block.hash, data, proof, applied.state_hash)
        self._gathered.append((applied, row))
        self._gathered_bytes += len(data)
        if finalization is not None:
            self._final = (block.header.epoch, block.header.view)
        if self._gathered_bytes > GATHERED_BYTES_MAX:
            self._put_gathered()

    def _put_gathered(self) -> None:
        """Writes the final blocks that wait, into the open transaction."""
        if not self._gathered:
            return
        gathered, self._gathered, self._gathered_bytes = self._gathered, [], 0
        self._begin()
        self._db.executemany(
            "INSERT INTO finalized VALUES (?, ?, ?, ?, ?)", [row for _, row in gathered]
        )
        blocks = [applied for applied, _ in gathered]
        state_tables.write_changes(self._db, [applied.changes for applied in blocks])
        for applied in blocks:
            self.history.write(applied.changes.events)
        self._put_meta("revision", blocks[-1].revision)
        first, last = blocks[0].block.header.height, blocks[-1].block.header.height
        sweeps = last // SWEEP_EVERY - (first - 1) // SWEEP_EVERY
        if sweeps:
            self._sweep(last, sweeps * SWEEP_ROWS)

    def _put_opening(self, opening: Opening) -> None:
        self._db.execute(
            "INSERT INTO epochs VALUES (?, ?, ?)",
            (opened_set(opening).epoch, opening_height(opening), codec.encode_opening(opening)),
        )

    def _install(self, record: InstallRecord) -> None:
        """The blocks that are there stay until they are swept, but are not served any more."""
        tip, header = record.tip, record.manifest.header
        assert record.machine.height == tip.height == header.height
        state_tables.replace_state(self._db, record.machine)
        self._put_meta("revision", record.machine.revision)
        self._db.execute(
            "INSERT OR REPLACE INTO base VALUES (1, ?, ?, ?, ?)",
            (tip.height, tip.hash, codec.encode_header(header), record.machine.state_hash),
        )
        for opening in record.openings:
            self._put_opening(opening)
        self.prune(tip.height)
        self._put_meta("pruned", self._prune_to)
        self._put_meta("taken_over", codec.encode_manifest(record.manifest))
        c = record.manifest.finalization
        entry = (_CERTIFICATE, codec.encode_certificate(c))
        self._keep_certificate(c, entry)
        self._log.append(*entry)
        epoch = opened_set(record.openings[-1]).epoch if record.openings else header.epoch
        self._final = (epoch, tip.view)

    # --- snapshots and pruning ---

    def pin_when(self, wanted: Callable[[int], bool]) -> None:
        """From now on the state of heights that are ``wanted`` is kept readable (``take_pinned``).

        Of heights that have a finalization of their own: nearly all, and others end a step.
        """
        self._wants_pin = wanted

    def _pin_wanted(self) -> None:
        """Not before the epoch that a block opens is written: that is one transaction (R11)."""
        applied, self._to_pin = self._to_pin, None
        if applied is not None and self._pinned is None:
            self._pinned = self.pin(applied.block.header.height, applied.revision)

    def pin(self, height: int, revision: int) -> Pinned:
        """The state of now, which is that at ``height``; the caller closes it.

        Raises StorageError.
        """
        self.sync()
        try:
            db = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
            db.execute("BEGIN")
            db.execute("SELECT 1 FROM meta").fetchone()  # from here on it sees no later commit
        except sqlite3.Error as error:
            raise StorageError(f"cannot read the state: {error}") from error
        return Pinned(height, revision, db)

    def taken_over(self) -> Manifest | None:
        """What proves the state of now, while that is the one of a snapshot of other members.

        Raises StorageError.
        """
        try:
            row = self._db.execute(
                "SELECT value FROM meta WHERE name = 'taken_over' AND (SELECT height FROM base)"
                " > (SELECT COALESCE(MAX(height), 0) FROM finalized)"
            ).fetchone()
            return None if row is None else codec.decode_manifest(row[0])
        except (sqlite3.Error, ValueError) as error:  # WireError is a ValueError
            raise StorageError(f"no manifest of the snapshot taken over: {error}") from error

    def take_pinned(self) -> Pinned | None:
        """The state at a wanted height, once; the caller closes it."""
        pinned, self._pinned = self._pinned, None
        return pinned

    def prune(self, height: int) -> None:
        """From some later block on, those up to ``height`` are not served, and go bit by bit."""
        self._prune_to = max(height, self._prune_to)

    def _sweep(self, height: int, rows: int) -> None:
        self._put_meta("pruned", self._prune_to)
        # The state hashes of the last heights are still compared with those in headers.
        last = min(self._prune_to, height - limits.STATE_HASHES_KEPT)
        self._db.execute(
            "DELETE FROM finalized WHERE height IN"
            " (SELECT height FROM finalized WHERE height <= ? ORDER BY height LIMIT ?)",
            (last, rows),
        )

    # --- reading ---

    def restore(self) -> Restored:
        """Everything the core needs to take up where it left off. Raises StorageError."""
        try:
            return self._restore()
        except (sqlite3.Error, ValueError) as error:  # WireError is a ValueError
            raise StorageError(f"the store does not hold what was written: {error}") from error

    def _restore(self) -> Restored:
        db = self._db
        meta = dict(db.execute("SELECT name, value FROM meta"))
        self._prune_to = int(meta.get("pruned", 0))
        openings = self._restore_openings()
        tip, machine = self._restore_state(int(meta.get("revision", 0)), openings)
        # Of a term that a final block is in, an old nullify vote still closes the gate (R4).
        last = self._last_vote()
        found = self._live.values()
        live = [entry.value for entry in found if entry.value is last or self._is_live(entry)]
        acknowledged = db.execute("SELECT data FROM acknowledged")
        return Restored(
            tip=tip,
            machine=machine,
            votes=[value for value in live if isinstance(value, Vote)],
            blocks=[value for value in live if isinstance(value, Block)],
            certificates=[value for value in live if isinstance(value, Certificate)],
            incarnation=int(meta.get("incarnation", 0)),
            acknowledged=[codec.decode_boot_request(data) for (data,) in acknowledged],
            abstain_until=(
                int(meta.get("abstain_until_epoch", 0)),
                int(meta.get("abstain_until_term", 0)),
            ),
            openings=openings,
            evidence=[
                Evidence(codec.decode_vote(first, seat), codec.decode_vote(second, seat))
                for seat, first, second in db.execute("SELECT seat, first, second FROM evidence")
            ],
        )

    def _restore_openings(self) -> list[Opening]:
        """The last two, and recoveries; they are few."""
        rows = self._db.execute("SELECT data FROM epochs ORDER BY epoch").fetchall()
        openings = [codec.decode_opening(data, self._cluster_id) for (data,) in rows]
        return [o for o in openings[:-2] if isinstance(o, Recovery)] + openings[-2:]

    def _restore_state(self, revision: int, openings: Sequence[Opening]) -> tuple[Tip, Machine]:
        db = self._db
        tip = self._restore_tip(openings)
        if tip.height == 0:
            return tip, Machine()
        height = tip.height
        hashes = db.execute(
            "SELECT height, state_hash FROM (SELECT height, state_hash FROM finalized"
            " UNION SELECT height, state_hash FROM base) WHERE height > ? ORDER BY height",
            (height - limits.STATE_HASHES_KEPT,),
        )
        return tip, state_tables.read_machine(db, height, revision, tip.time_ms, hashes)

    def _restore_tip(self, openings: Sequence[Opening]) -> Tip:
        newest = self._db.execute(
            "SELECT height, hash, data, finalization FROM finalized ORDER BY height DESC LIMIT 1"
        ).fetchone()
        base = self._db.execute("SELECT height, hash, header FROM base").fetchone()
        if base is not None and (newest is None or newest[0] < base[0]):
            hash_, header, proof = base[1], codec.decode_header(base[2]), None
        elif newest is None:
            return genesis_tip(self._genesis)
        else:
            _, hash_, data, proof = newest
            header = codec.decode_block(data, self._cluster_id).header
        if openings and opening_height(openings[-1]) == header.height:
            # The epoch that stands on this block has no final block of its own yet.
            self._final = (opened_set(openings[-1]).epoch, GENESIS)
            return opened_tip(header, hash_)
        self._final = (header.epoch, header.view)
        return tip_at(header, hash_, None if proof is None else codec.decode_certificate(proof))


@dataclass(frozen=True, slots=True)
class Pinned:
    """The state at a height, in a read transaction that later commits do not change."""

    height: int
    revision: int
    db: sqlite3.Connection


@dataclass(frozen=True, slots=True)
class _Live:
    """An entry of the vote log that finality has not superseded, decoded and encoded."""

    epoch: int
    view: View
    value: Vote | Block | Certificate
    entry: Entry


def log_identity(cluster_id: bytes, seat: int, genesis: bytes) -> bytes:
    """32 bytes that bind a vote log to its store."""
    return keccak256(cluster_id + seat.to_bytes(32, "big") + genesis)
