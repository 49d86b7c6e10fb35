"""The replicated state: a key-value store with revisions, and sessions for exactly-once.

Commands carry ``(client, sequence)``. A client numbers its requests upwards and has one in flight;
the store remembers each client's last sequence and result, so that a repeated request gets the
first answer and changes nothing. At most ``SESSIONS_MAX`` clients are remembered; the one that
was silent longest is forgotten first, in the same order everywhere.

The state hash is incremental: the sum, modulo 2**4096, of a 4096-bit hash of every entry and
session (AdHash: Bellare and Micciancio, EUROCRYPT 1997, with a modulus large enough against
Wagner's generalised birthday attack, CRYPTO 2002). It depends on the content only, so a snapshot
can be checked against it.
"""

from __future__ import annotations

import hashlib
import struct
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from . import limits
from .digests import keccak256
from .standing import Standing
from .types import Block, Command, Op
from .wire import decode_command

STATE_TAG = b"dstack-cluster/state/v1"
ENTRY_TAG = b"dstack-cluster/entry/v1"
SESSION_TAG = b"dstack-cluster/session/v1"
STANDING_TAG = b"dstack-cluster/standing/v1"
_MODULUS_BYTES = 512
_MASK = (1 << (8 * _MODULUS_BYTES)) - 1


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key's value with its revisions; ``version`` counts writes since the key was created."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int


@dataclass(frozen=True, slots=True)
class Result:
    """What a command did: the revision after it, and whether the key was there before.

    ``stale`` is True for a sequence below the client's last one: it was answered before, and the
    answer is no longer known.
    """

    revision: int
    existed: bool
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Session:
    """The last request of a client."""

    sequence: int
    revision: int
    existed: bool


@dataclass(slots=True)
class Changes:
    """What one block changed, for the store; None means removed.

    ``sessions`` are in the order of their last use: a store that moves each to the end keeps the
    order that ``Machine.restore`` needs, without which members would forget different clients.
    """

    entries: dict[bytes, KeyValue | None]
    sessions: dict[bytes, Session | None]
    standing: Standing | None = None  # None when it stays as it is


@dataclass(frozen=True, slots=True)
class Applied:
    """Outcome of one block: a result per command, in order."""

    block: Block
    results: tuple[tuple[Command, Result], ...]
    changes: Changes
    revision: int
    state_hash: bytes


def _element(tag: bytes, fields: bytes) -> int:
    return int.from_bytes(hashlib.shake_128(tag + fields).digest(_MODULUS_BYTES), "big")


def _entry_element(key: bytes, entry: KeyValue) -> int:
    head = struct.pack(">QQQH", entry.create_revision, entry.mod_revision, entry.version, len(key))
    return _element(ENTRY_TAG, head + key + entry.value)


def _session_element(client: bytes, s: Session) -> int:
    return _element(SESSION_TAG, struct.pack(">16sQQ?", client, s.sequence, s.revision, s.existed))


def _standing_element(standing: Standing) -> int:
    return _element(STANDING_TAG, standing.encode()) if standing != Standing() else 0


class Machine:
    """The state at one height. ``apply`` is the only way to change it."""

    def __init__(self) -> None:
        self.height = 0
        self.revision = 0
        self.entries: dict[bytes, KeyValue] = {}
        self.sessions: OrderedDict[bytes, Session] = OrderedDict()
        self.standing = Standing()
        self._sum = 0
        self._hashes: OrderedDict[int, bytes] = OrderedDict()
        self._note_hash()

    @classmethod
    def restore(
        cls,
        height: int,
        revision: int,
        entries: Iterable[tuple[bytes, KeyValue]],
        sessions: Iterable[tuple[bytes, Session]],
        hashes: Iterable[tuple[int, bytes]],
        standing: Standing = Standing(),  # noqa: B008 - frozen
    ) -> Machine:
        """The state as the store kept it; sessions in the order of their last use.

        ``hashes`` are the state hashes of recent heights, ascending. Raises ValueError when the
        hash recorded for ``height`` is not that of the content.
        """
        machine = cls()
        machine.height, machine.revision = height, revision
        for key, entry in entries:
            machine.entries[key] = entry
            machine._sum += _entry_element(key, entry)
        for client, session in sessions:
            machine.sessions[client] = session
            machine._sum += _session_element(client, session)
        machine.standing = standing
        machine._sum += _standing_element(standing)
        machine._sum &= _MASK
        # The hash at height 0 is in no record of the store, and the first blocks refer to it.
        for recent, state_hash in hashes:
            machine._hashes[recent] = state_hash
        recorded = machine._hashes.pop(height, None)
        machine._note_hash()
        if recorded not in (None, machine.state_hash):
            raise ValueError(f"the stored state at height {height} does not match its hash")
        return machine

    @property
    def state_hash(self) -> bytes:
        """Hash of the state at the current height."""
        return self._hashes[self.height]

    def hash_at(self, height: int) -> bytes | None:
        """The state hash at a recent height, None when it is no longer (or not yet) known."""
        return self._hashes.get(height)

    def _note_hash(self) -> None:
        # Not the height: an idle cluster keeps its hash, so members are compared by it at any time.
        head = STATE_TAG + struct.pack(">Q", self.revision)
        self._hashes[self.height] = keccak256(head + self._sum.to_bytes(_MODULUS_BYTES, "big"))
        while len(self._hashes) > limits.STATE_HASHES_KEPT:
            self._hashes.popitem(last=False)

    def done(self, command_id: bytes) -> bool:
        """True when a command with this identity would change nothing any more."""
        session = self.sessions.get(command_id[:16])
        sequence = int.from_bytes(command_id[16:24], "big")
        return session is not None and sequence <= session.sequence

    def answer(self, command_id: bytes) -> Result | None:
        """The known outcome of a command that was applied before, None when it was not."""
        session = self.sessions.get(command_id[:16])
        if session is None:
            return None
        sequence = int.from_bytes(command_id[16:24], "big")
        if sequence > session.sequence:
            return None
        if sequence < session.sequence:
            return Result(session.revision, session.existed, stale=True)
        return Result(session.revision, session.existed)

    def apply(self, block: Block, deposed: Iterable[int] = ()) -> Applied:
        """Applies the next finalized block; ``deposed`` are the leaders whose terms it ended."""
        assert block.header.height == self.height + 1, (block.header.height, self.height)
        changes = Changes({}, {})
        results = tuple(
            (command, self._apply_command(command, changes))
            for command in map(decode_command, block.commands)
        )
        while len(self.sessions) > limits.SESSIONS_MAX:
            client, session = self.sessions.popitem(last=False)
            self._sum -= _session_element(client, session)
            changes.sessions[client] = None
        self._judge_members(block, deposed, changes)
        self._sum &= _MASK
        self.height = block.header.height
        self._note_hash()
        return Applied(block, results, changes, self.revision, self.state_hash)

    def _judge_members(self, block: Block, deposed: Iterable[int], changes: Changes) -> None:
        standing = self.standing.after(deposed, (e.first.seat for e in block.evidence))
        if block.next_epoch is not None:
            standing = standing.next_epoch(v.seat for v in block.next_epoch.validators)
        if standing != self.standing:
            self._sum += _standing_element(standing) - _standing_element(self.standing)
            self.standing = changes.standing = standing

    def _apply_command(self, command: Command, changes: Changes) -> Result:
        if command.op is Op.BARRIER:
            return Result(self.revision, False)
        known = self.answer(command.id)
        if known is not None:
            return known
        before = self.entries.get(command.key)
        if command.op is Op.PUT:
            self.revision += 1
            created = before.create_revision if before else self.revision
            version = before.version + 1 if before else 1
            self._set(command.key, KeyValue(command.value, created, self.revision, version))
            changes.entries[command.key] = self.entries[command.key]
        elif before is not None:
            self.revision += 1
            self._set(command.key, None)
            changes.entries[command.key] = None
        session = Session(command.sequence, self.revision, before is not None)
        self._remember(command.client, session)
        changes.sessions.pop(command.client, None)  # the order is that of last use
        changes.sessions[command.client] = session
        return Result(self.revision, before is not None)

    def _set(self, key: bytes, entry: KeyValue | None) -> None:
        before = self.entries.pop(key, None)
        if before is not None:
            self._sum -= _entry_element(key, before)
        if entry is not None:
            self.entries[key] = entry
            self._sum += _entry_element(key, entry)

    def _remember(self, client: bytes, session: Session) -> None:
        before = self.sessions.pop(client, None)
        if before is not None:
            self._sum -= _session_element(client, before)
        self.sessions[client] = session
        self._sum += _session_element(client, session)
