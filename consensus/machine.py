"""The replicated state: a key-value store with revisions, leases, and sessions for exactly-once.

``apply`` is the only way to change it, one finalized block at a time: first the leases that are
over at the block's time end, then its commands run in order. A command changes all or nothing,
and whatever it changes has one revision.

Commands carry ``(client, sequence)``. A client numbers its requests upwards and has one in flight;
the state remembers each client's last sequence and outcome, so that a repeated request gets the
first answer and changes nothing. At most ``SESSIONS_MAX`` clients are remembered; the one that
was silent longest is forgotten first, in the same order everywhere.

What it does, for those who use it, is in ``docs/state-machine.md``.

Time is block time: it never goes back, and voters bound how far a leader may be off (R2). A lease
is over at the first block whose time has reached its end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Iterator

from sortedcontainers import SortedList

from . import limits
from .commands import (
    FROM_KEY,
    Barrier,
    Command,
    Compare,
    Delete,
    Grant,
    KeepAlive,
    Put,
    Range,
    Relation,
    Revoke,
    Target,
    Txn,
    TxnOp,
)
from .items import (
    SUM_MASK,
    Fact,
    Head,
    KeyValue,
    Lease,
    Refusal,
    Session,
    element,
    entry_item,
    fact_item,
    lease_item,
    session_item,
    state_hash,
)
from .outcomes import Applied, Changes, Event, Found, Removed, Response, Result, Written
from .standing import Standing, decode_standing
from .types import Block

STANDING = b"standing"  # the name of a fact
ELEMENTS_KEPT = 8192  # half a kilobyte each
_NOTHING = KeyValue(b"", 0, 0, 0)


def _room(key: bytes) -> int:
    return limits.ENTRY_BYTES + len(key)


def _remembered(known: OrderedDict[bytes, int], key: bytes, added: int) -> int:
    known[key] = added
    if len(known) > ELEMENTS_KEPT:
        known.popitem(last=False)
    return added


class Machine:
    """The state at one height. ``apply`` is the only way to change it."""

    def __init__(self) -> None:
        self.height = 0
        self.revision = 0
        self.time_ms = 0
        self.entries: dict[bytes, KeyValue] = {}
        self.sessions: OrderedDict[bytes, Session] = OrderedDict()
        self.standing = Standing()
        self.leases: dict[int, Lease] = {}
        self.facts: dict[bytes, bytes] = {}
        self.bytes = 0  # of entries, as ``limits.STATE_BYTES_MAX`` counts them
        self._keys = SortedList()
        self._ends = SortedList()  # (expires_ms, lease)
        self._lease_keys: dict[int, dict[bytes, None]] = {}
        self._used = 0
        self._sum = 0
        # Elements of what was written last, which is what is mostly replaced next.
        self._entry_elements: OrderedDict[bytes, int] = OrderedDict()
        self._session_elements: OrderedDict[bytes, int] = OrderedDict()
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
        *,
        leases: Iterable[tuple[int, Lease]] = (),
        facts: Iterable[tuple[bytes, bytes]] = (),
        time_ms: int = 0,
    ) -> Machine:
        """The state as the store kept it; sessions in the order of their last use.

        ``hashes`` are the state hashes of recent heights, ascending; ``time_ms`` is the time of
        the block at ``height``. Raises ValueError when the hash recorded for ``height`` is not
        that of the content, or the content is none that a machine can have.
        """
        machine = cls()
        machine.height, machine.revision, machine.time_ms = height, revision, time_ms
        for name, fact in facts:
            machine._set_fact(name, fact)
        for lease_id, lease in leases:
            machine._set_lease(lease_id, lease)
        for client, session in sessions:
            machine._set_session(client, session)
        machine._load_entries(entries)
        machine._sum &= SUM_MASK
        # The hash at height 0 is in no record of the store, and the first blocks refer to it.
        for recent, recent_hash in hashes:
            machine._hashes[recent] = recent_hash
        recorded = machine._hashes.pop(height, None)
        machine._note_hash()
        if recorded not in (None, machine.state_hash):
            raise ValueError(f"the stored state at height {height} does not match its hash")
        return machine

    def _load_entries(self, entries: Iterable[tuple[bytes, KeyValue]]) -> None:
        """Many entries into an empty state: the index is built once."""
        assert not self.entries
        for key, entry in entries:
            if entry.lease and entry.lease not in self.leases:
                raise ValueError(f"an entry hangs on lease {entry.lease}, which does not exist")
            self._set_entry(key, entry, index=False)
        self._keys.update(self.entries)

    # --- reading ---

    @property
    def state_hash(self) -> bytes:
        """Hash of the state at the current height."""
        return self._hashes[self.height]

    def hash_at(self, height: int) -> bytes | None:
        """The state hash at a recent height, None when it is no longer (or not yet) known."""
        return self._hashes.get(height)

    def _note_hash(self) -> None:
        # Not the height: an idle cluster keeps its hash, so members are compared by it at any time.
        self._hashes[self.height] = state_hash(Head(self.revision), self._sum)
        while len(self._hashes) > limits.STATE_HASHES_KEPT:
            self._hashes.popitem(last=False)

    def done(self, command_id: bytes) -> bool:
        """True when a command with this identity would change nothing any more."""
        session = self.sessions.get(command_id[:16])
        sequence = int.from_bytes(command_id[16:24], "big")
        return session is not None and sequence <= session.sequence

    def answer(self, command_id: bytes) -> Result | None:
        """The known outcome of a command that was applied before, None when it was not."""
        return self._answer(command_id[:16], int.from_bytes(command_id[16:24], "big"))

    def _answer(self, client: bytes, sequence: int) -> Result | None:
        session = self.sessions.get(client)
        if session is None or sequence > session.sequence:
            return None
        return Result(
            session.revision,
            session.existed,
            sequence < session.sequence,
            session.deleted,
            session.refusal,
        )

    def keys(self, key: bytes, end: bytes) -> Iterator[bytes]:
        """The keys of a range (see ``commands``), ascending."""
        if not end:
            return iter((key,) if key in self.entries else ())
        found: Iterator[bytes] = self._keys.irange(
            key, None if end == FROM_KEY else end, inclusive=(True, False)
        )
        return found

    def count(self, key: bytes, end: bytes) -> int:
        """How many keys a range has."""
        if not end:
            return int(key in self.entries)
        last: int = len(self._keys) if end == FROM_KEY else self._keys.bisect_left(end)
        found: int = last - self._keys.bisect_left(key)
        return max(0, found)

    def keys_of_lease(self, lease_id: int) -> list[bytes]:
        """The keys that go when a lease ends, ascending."""
        return sorted(self._lease_keys.get(lease_id, ()))

    def _is_alive(self, lease_id: int) -> bool:
        lease = self.leases.get(lease_id)
        return lease is not None and lease.expires_ms > self.time_ms

    # --- applying ---

    def apply(
        self, block: Block, deposed: Iterable[int] = (), wanted: Container[bytes] = ()
    ) -> Applied:
        """Applies the next finalized block; ``deposed`` are the leaders whose terms it ended.

        ``wanted`` are the ids of commands whose ``responses`` somebody here waits for: reads
        change nothing, so the other members need not do them.
        """
        assert block.header.height == self.height + 1, (block.header.height, self.height)
        changes = Changes()
        self.time_ms = max(self.time_ms, block.header.time_ms)
        self._expire(changes)
        results = tuple(
            (command, self._apply_command(command, wanted, changes)) for command in block.decoded
        )
        while len(self.sessions) > limits.SESSIONS_MAX:
            client, oldest = next(iter(self.sessions.items()))
            self._set_session(client, None)
            changes.sessions[oldest.used] = None
        self._judge_members(block, deposed, changes)
        self._sum &= SUM_MASK
        self.height = block.header.height
        self._note_hash()
        return Applied(block, results, changes, self.revision, self.state_hash)

    def _judge_members(self, block: Block, deposed: Iterable[int], changes: Changes) -> None:
        standing = self.standing.after(deposed, (e.first.seat for e in block.evidence))
        if block.next_epoch is not None:
            standing = standing.next_epoch(v.seat for v in block.next_epoch.validators)
        if standing != self.standing:
            changes.facts[STANDING] = fact = standing.encode()
            self._set_fact(STANDING, fact)

    def _expire(self, changes: Changes) -> None:
        """Ends leases that are over; what exceeds the bound of a block waits for the next."""
        ended = removed = 0
        while self._ends and ended < limits.EXPIRIES_MAX and removed < limits.EXPIRIES_MAX:
            expires_ms, lease_id = self._ends[0]
            if expires_ms > self.time_ms:
                return
            ended += 1
            removed += self._end_lease(lease_id, changes)

    def _apply_command(
        self, command: Command, wanted: Container[bytes], changes: Changes
    ) -> Result:
        client, sequence, action = command
        if isinstance(action, Barrier):
            return Result(self.revision)
        known = self._answer(client, sequence)
        if known is not None:
            return known
        result = self._run(command, wanted, changes)
        revision, existed, _, deleted, refusal, _ = result
        self._used += 1
        session = Session(sequence, revision, existed, self._used, deleted, refusal)
        before = self._set_session(client, session)
        if before is not None:
            changes.sessions[before.used] = None
        changes.sessions[session.used] = client, session
        return result

    def _run(self, command: Command, wanted: Container[bytes], changes: Changes) -> Result:
        action = command.action
        match action:
            case Put():
                return self._one(action, changes)
            case Delete():
                return self._one(action, changes)
            case Txn():
                return self._transact(action, command.id in wanted, changes)
            case Grant(lease_id, ttl_ms):
                if lease_id in self.leases:
                    return self._refused(Refusal.LEASE_EXISTS)
                if len(self.leases) >= limits.LEASES_MAX:
                    return self._refused(Refusal.TOO_MANY_LEASES)
                self._renew(lease_id, ttl_ms, changes)
            case KeepAlive(lease_id):
                if not self._is_alive(lease_id):
                    return self._refused(Refusal.NO_LEASE)
                self._renew(lease_id, self.leases[lease_id].ttl_ms, changes)
            case Revoke(lease_id):
                if not self._is_alive(lease_id):
                    return self._refused(Refusal.NO_LEASE)
                deleted = self._end_lease(lease_id, changes)
                return Result(self.revision, deleted > 0, deleted=deleted)
            case Barrier():
                pass
        return Result(self.revision)

    def _refused(self, refusal: Refusal, existed: bool = False) -> Result:
        return Result(self.revision, existed, refusal=refusal)

    # --- writes of entries ---

    def _one(self, op: Put | Delete, changes: Changes) -> Result:
        refusal = self._refuse((op,))
        if refusal is not Refusal.NONE:
            return self._refused(refusal)
        existed, deleted = self._do(op, self.revision + 1, changes)
        if deleted or isinstance(op, Put):
            self.revision += 1
        return Result(self.revision, existed, deleted=deleted)

    def _transact(self, txn: Txn, read: bool, changes: Changes) -> Result:
        held = all(self._holds(c) for c in txn.compare)
        branch = txn.then if held else txn.otherwise
        refusal = self._refuse(branch)
        if refusal is not Refusal.NONE:
            return self._refused(refusal, held)
        responses: list[Response] = []
        revision, deleted = self.revision + 1, 0
        events = len(changes.events)
        rows, size = limits.RANGE_KEYS_MAX, limits.RANGE_BYTES_MAX
        for op in branch:
            if isinstance(op, Range):
                if read:
                    found = self._read(op, rows, size)
                    rows -= len(found.entries)
                    size -= sum(len(key) + len(entry.value) for key, entry in found.entries)
                    responses.append(found)
                continue
            existed, gone = self._do(op, revision, changes)
            deleted += gone
            responses.append(Written(existed) if isinstance(op, Put) else Removed(gone))
        if len(changes.events) > events:
            self.revision = revision
        shown = tuple(responses) if read else None
        return Result(self.revision, held, deleted=deleted, responses=shown)

    def _holds(self, c: Compare) -> bool:
        entry = self.entries.get(c.key)
        if entry is None and c.target is Target.VALUE:
            return False
        entry = entry or _NOTHING
        match c.target:
            case Target.VALUE:
                assert isinstance(c.operand, bytes)
                order = (entry.value > c.operand) - (entry.value < c.operand)
            case _:
                assert isinstance(c.operand, int)
                value = {
                    Target.VERSION: entry.version,
                    Target.CREATE: entry.create_revision,
                    Target.MOD: entry.mod_revision,
                    Target.LEASE: entry.lease,
                }[c.target]
                order = (value > c.operand) - (value < c.operand)
        match c.relation:
            case Relation.EQUAL:
                return order == 0
            case Relation.GREATER:
                return order > 0
            case Relation.LESS:
                return order < 0
            case Relation.NOT_EQUAL:
                return order != 0

    def _refuse(self, branch: tuple[TxnOp, ...]) -> Refusal:
        """Why these operations cannot be done together; asked before any of them is."""
        grows = removed = 0
        joining: dict[int, int] = {}
        for op in branch:
            match op:
                case Put(key, value, lease_id):
                    before = self.entries.get(key)
                    grows += len(value)
                    grows += _room(key) if before is None else -len(before.value)
                    if lease_id:
                        if not self._is_alive(lease_id):
                            return Refusal.NO_LEASE
                        if before is None or before.lease != lease_id:
                            joining[lease_id] = joining.get(lease_id, 0) + 1
                case Delete(key, end):
                    removed += self.count(key, end)
        if removed > limits.RANGE_KEYS_MAX:
            return Refusal.RANGE_TOO_LARGE
        for lease_id, more in joining.items():
            if len(self._lease_keys.get(lease_id, ())) + more > limits.RANGE_KEYS_MAX:
                return Refusal.LEASE_IS_FULL
        if grows > 0 and self.bytes + grows > limits.STATE_BYTES_MAX:
            return Refusal.STATE_IS_FULL
        return Refusal.NONE

    def _do(self, op: Put | Delete, revision: int, changes: Changes) -> tuple[bool, int]:
        """Writes at a revision; whether a key was there before, and how many were removed."""
        if isinstance(op, Put):
            before = self.entries.get(op.key)
            created = before.create_revision if before else revision
            version = before.version + 1 if before else 1
            entry = KeyValue(op.value, created, revision, version, op.lease)
            self._change(op.key, entry, revision, changes)
            return before is not None, 0
        keys = list(self.keys(op.key, op.end))
        for key in keys:
            self._change(key, None, revision, changes)
        return bool(keys), len(keys)

    def _read(self, op: Range, rows: int, size: int) -> Found:
        """A range as it is now, cut at a number of keys and (after the first) of bytes."""
        most = min(rows, op.limit or rows)
        found: list[tuple[bytes, KeyValue]] = []
        count = self.count(op.key, op.end)
        for key in self.keys(op.key, op.end):
            entry = self.entries[key]
            size -= len(key) + len(entry.value)
            if len(found) == most or size < 0:
                break
            found.append((key, entry))
        return Found(tuple(found), count, len(found) < count)

    def _change(self, key: bytes, entry: KeyValue | None, revision: int, changes: Changes) -> None:
        before = self.entries.get(key)
        self._set_entry(key, entry)
        changes.entries[key] = entry
        changes.events.append(Event(revision, key, entry, before))

    # --- leases ---

    def _renew(self, lease_id: int, ttl_ms: int, changes: Changes) -> None:
        lease = Lease(ttl_ms, self.time_ms + ttl_ms)
        self._set_lease(lease_id, lease)
        changes.leases[lease_id] = lease

    def _end_lease(self, lease_id: int, changes: Changes) -> int:
        """Removes a lease and its keys, in one revision; how many keys went."""
        keys = self.keys_of_lease(lease_id)
        for key in keys:
            self._change(key, None, self.revision + 1, changes)
        if keys:
            self.revision += 1
        self._set_lease(lease_id, None)
        changes.leases[lease_id] = None
        return len(keys)

    # --- the items, with the sum of their elements and the indexes over them ---

    def _set_entry(self, key: bytes, entry: KeyValue | None, *, index: bool = True) -> None:
        before = self.entries.get(key)
        if before is not None:
            known = self._entry_elements.pop(key, None)
            self._sum -= known or element(entry_item(key, before))
            self.bytes -= _room(key) + len(before.value)
            if before.lease:
                del self._lease_keys[before.lease][key]
        if entry is None:
            del self.entries[key]
            self._keys.remove(key)
            return
        self.entries[key] = entry
        self._sum += _remembered(self._entry_elements, key, element(entry_item(key, entry)))
        self.bytes += _room(key) + len(entry.value)
        if entry.lease:
            self._lease_keys[entry.lease][key] = None
        if before is None and index:
            self._keys.add(key)

    def _set_session(self, client: bytes, session: Session | None) -> Session | None:
        """Gives the one that it replaces."""
        before = self.sessions.pop(client, None)
        if before is not None:
            known = self._session_elements.pop(client, None)
            self._sum -= known or element(session_item(client, before))
        if session is not None:
            self.sessions[client] = session
            added = element(session_item(client, session))
            if before is not None:  # of clients that come again: many make one request only
                _remembered(self._session_elements, client, added)
            self._sum += added
            self._used = max(self._used, session.used)
        return before

    def _set_lease(self, lease_id: int, lease: Lease | None) -> None:
        before = self.leases.pop(lease_id, None)
        if before is not None:
            self._sum -= element(lease_item(lease_id, before))
            self._ends.remove((before.expires_ms, lease_id))
        if lease is not None:
            self.leases[lease_id] = lease
            self._sum += element(lease_item(lease_id, lease))
            self._ends.add((lease.expires_ms, lease_id))
            self._lease_keys.setdefault(lease_id, {})
        else:
            self._lease_keys.pop(lease_id, None)

    def _set_fact(self, name: bytes, fact: bytes | None) -> None:
        before = self.facts.pop(name, None)
        if before is not None:
            self._sum -= element(fact_item(name, Fact(before)))
        if name == STANDING:
            self.standing = Standing() if fact is None else decode_standing(fact)
        if fact is not None:
            self.facts[name] = fact
            self._sum += element(fact_item(name, Fact(fact)))
