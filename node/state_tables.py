"""The replicated state in SQLite: its tables, what a block changes in them, and a machine again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping

from consensus.items import (
    Fact,
    Head,
    KeyValue,
    Lease,
    Refusal,
    Session,
    entry_item,
    fact_item,
    head_item,
    lease_item,
    session_item,
)
from consensus.machine import Machine
from consensus.outcomes import Changes

SCHEMA = """
CREATE TABLE entries (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, create_revision INTEGER, mod_revision INTEGER,
    version INTEGER, lease INTEGER) WITHOUT ROWID;
CREATE TABLE sessions (
    used INTEGER PRIMARY KEY, client BLOB NOT NULL, sequence INTEGER, revision INTEGER,
    existed INTEGER, deleted INTEGER, refusal INTEGER);
CREATE TABLE leases (id INTEGER PRIMARY KEY, ttl_ms INTEGER, expires_ms INTEGER);
CREATE TABLE facts (name BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
"""


def write_changes(db: sqlite3.Connection, blocks: Iterable[Changes]) -> None:
    """What consecutive blocks changed; of what several of them changed, the last."""
    changes = Changes()
    for block in blocks:
        changes.entries.update(block.entries)
        changes.sessions.update(block.sessions)
        changes.leases.update(block.leases)
        changes.facts.update(block.facts)
    _write_entries(db, changes.entries)
    _write_sessions(db, changes.sessions)
    for lease_id, lease in changes.leases.items():
        if lease is None:
            db.execute("DELETE FROM leases WHERE id = ?", (lease_id,))
        else:
            _put_lease(db, lease_id, lease)
    for name, fact in changes.facts.items():
        if fact is None:
            db.execute("DELETE FROM facts WHERE name = ?", (name,))
        else:
            _put_fact(db, name, fact)


def replace_state(db: sqlite3.Connection, machine: Machine) -> None:
    """The whole state at once, in place of what was there; the caller's transaction."""
    for table in ("entries", "sessions", "leases", "facts"):
        db.execute(f"DELETE FROM {table}")
    _write_entries(db, machine.entries)
    _write_sessions(db, {s.used: (client, s) for client, s in machine.sessions.items()})
    for lease_id, lease in machine.leases.items():
        _put_lease(db, lease_id, lease)
    for name, fact in machine.facts.items():
        _put_fact(db, name, fact)


def _write_entries(db: sqlite3.Connection, entries: Mapping[bytes, KeyValue | None]) -> None:
    put = [
        (key, e.value, e.create_revision, e.mod_revision, e.version, e.lease)
        for key, e in entries.items()
        if e is not None
    ]
    if put:
        db.executemany("INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?, ?)", put)
    gone = [(key,) for key, e in entries.items() if e is None]
    if gone:
        db.executemany("DELETE FROM entries WHERE key = ?", gone)


def _write_sessions(
    db: sqlite3.Connection, sessions: Mapping[int, tuple[bytes, Session] | None]
) -> None:
    put: list[tuple[object, ...]] = []
    gone: list[tuple[int]] = []
    for used, row in sessions.items():
        if row is None:
            gone.append((used,))
        else:
            client, s = row
            refusal = int(s.refusal)
            put.append((used, client, s.sequence, s.revision, s.existed, s.deleted, refusal))
    if put:
        db.executemany("INSERT INTO sessions VALUES (?, ?, ?, ?, ?, ?, ?)", put)
    if gone:
        db.executemany("DELETE FROM sessions WHERE used = ?", gone)


def _put_lease(db: sqlite3.Connection, lease_id: int, lease: Lease) -> None:
    db.execute(
        "INSERT OR REPLACE INTO leases VALUES (?, ?, ?)",
        (lease_id, lease.ttl_ms, lease.expires_ms),
    )


def _put_fact(db: sqlite3.Connection, name: bytes, fact: bytes) -> None:
    db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, fact))


def read_machine(
    db: sqlite3.Connection,
    height: int,
    revision: int,
    time_ms: int,
    hashes: Iterable[tuple[int, bytes]],
) -> Machine:
    """The machine at the height that the tables are at. Raises ValueError, see ``restore``."""
    return Machine.restore(
        height,
        revision,
        _entries(db),
        _sessions(db),
        hashes,
        leases=_leases(db),
        facts=_facts(db),
        time_ms=time_ms,
    )


def read_items(db: sqlite3.Connection, revision: int) -> Iterator[bytes]:
    """The items of the state (``consensus.items``) in canonical order, without a machine.

    ``db`` should be in a read transaction: the tables must not change meanwhile.
    """
    yield head_item(Head(revision))
    for name, fact in _facts(db):
        yield fact_item(name, Fact(fact))
    for lease_id, lease in _leases(db):
        yield lease_item(lease_id, lease)
    for client, session in _sessions(db):
        yield session_item(client, session)
    for key, entry in _entries(db):
        yield entry_item(key, entry)


def _facts(db: sqlite3.Connection) -> Iterator[tuple[bytes, bytes]]:
    yield from db.execute("SELECT name, value FROM facts ORDER BY name")


def _leases(db: sqlite3.Connection) -> Iterator[tuple[int, Lease]]:
    for lease_id, ttl_ms, expires_ms in db.execute("SELECT * FROM leases ORDER BY id"):
        yield lease_id, Lease(ttl_ms, expires_ms)


def _sessions(db: sqlite3.Connection) -> Iterator[tuple[bytes, Session]]:
    rows = db.execute("SELECT * FROM sessions ORDER BY used")
    for used, client, sequence, revision, existed, deleted, refusal in rows:
        yield client, Session(sequence, revision, bool(existed), used, deleted, Refusal(refusal))


def _entries(db: sqlite3.Connection) -> Iterator[tuple[bytes, KeyValue]]:
    for key, *fields in db.execute("SELECT * FROM entries ORDER BY key"):
        yield key, KeyValue(*fields)
