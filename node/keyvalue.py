"""The key-value store as clients see it: commands for writes, the history for reads and watches."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from itertools import islice
from typing import Protocol

import trio

from consensus import limits
from consensus.commands import Action, Delete, Grant, KeepAlive, Put, Revoke, Txn
from consensus.items import KeyValue, Refusal
from consensus.keccak import keccak256
from consensus.outcomes import Found as MachineFound
from consensus.outcomes import Removed, Result, Written
from node.facade import (
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
    BadRequest,
    Change,
    Compacted,
    Deleted,
    Entry,
    Found,
    LeaseState,
    NotDone,
    TxnOutcome,
    Write,
)
from node.history import History

RANGE_KEYS_MAX = 10_000  # in one answer
RANGE_BYTES_MAX = 1024 * 1024  # keys and values in one answer
LEASE_CHOSEN_MAX = 2**53 - 1  # JavaScript reads no larger integer whole
WATCH_REVISIONS_MAX = 256  # looked at before other tasks have their turn

_WHY = {
    Refusal.NO_LEASE: "the lease does not exist, or its time is over",
    Refusal.LEASE_EXISTS: "a lease of this number exists",
    Refusal.TOO_MANY_LEASES: f"there are {limits.LEASES_MAX} leases already",
    Refusal.LEASE_IS_FULL: f"at most {limits.RANGE_KEYS_MAX} keys hang on a lease",
    Refusal.STATE_IS_FULL: f"the state holds at most {limits.STATE_BYTES_MAX} bytes",
    Refusal.RANGE_TOO_LARGE: f"at most {limits.RANGE_KEYS_MAX} keys are deleted at once",
}


class Host(Protocol):
    """What the store stands on: a running node."""

    async def execute(self, action: Action, request_id: bytes | None) -> Result:
        """Has a command committed. Raises NodeError."""
        ...

    async def history(self, linearizable: bool) -> History:
        """The history to read from, when it has all that ended before the call if asked."""
        ...


class KeyValues:
    """``facade.KeyValueFacade`` on a host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        # A large answer costs up to a tenth of a second, in which nothing else runs. Whoever holds
        # the lock goes on one turn of the loop later, so all other tasks have theirs in between.
        self._large = trio.Lock()

    async def _execute(self, action: Action, request_id: bytes | None) -> Result:
        result = await self._host.execute(action, request_id)
        if result.refusal is not Refusal.NONE:
            raise NotDone(_WHY[result.refusal], result.refusal.name.lower())
        return result

    # --- keys ---

    async def put(
        self, key: bytes, value: bytes, request_id: bytes | None = None, lease: int = 0
    ) -> Write:
        """See ``KeyValueFacade``."""
        _check_key(key)
        if len(value) > VALUE_BYTES_MAX:
            raise BadRequest(f"a value has at most {VALUE_BYTES_MAX} bytes")
        result = await self._execute(Put(key, value, _lease(lease, least=0)), request_id)
        return Write(result.revision, result.existed)

    async def get(
        self, key: bytes, linearizable: bool = True, revision: int | None = None
    ) -> Entry | None:
        """See ``KeyValueFacade``."""
        history = await self._host.history(linearizable)
        found = history.get(key, revision)
        return None if found is None else entry_of(found)

    async def range(
        self,
        key: bytes,
        end: bytes,
        *,
        limit: int = 0,
        revision: int | None = None,
        linearizable: bool = True,
        count_only: bool = False,
    ) -> Found:
        """See ``KeyValueFacade``."""
        _check_key(key)
        history = await self._host.history(linearizable)
        async with self._large:
            return self._range(history, key, end, limit, revision, count_only)

    @staticmethod
    def _range(
        history: History, key: bytes, end: bytes, limit: int, revision: int | None, count_only: bool
    ) -> Found:
        at = history.published if revision is None else revision
        count = history.count(key, end, at)
        found: list[tuple[bytes, Entry]] = []
        size = 0
        most = 0 if count_only else min(limit or RANGE_KEYS_MAX, RANGE_KEYS_MAX)
        for name, kept in islice(history.range(key, end, at), most):
            size += len(name) + len(kept.value)
            if found and size > RANGE_BYTES_MAX:
                break
            found.append((name, entry_of(kept)))
        return Found(at, tuple(found), count, len(found) < count)

    async def delete_range(
        self, key: bytes, end: bytes, request_id: bytes | None = None
    ) -> Deleted:
        """See ``KeyValueFacade``."""
        _check_key(key)
        result = await self._execute(Delete(key, end), request_id)
        return Deleted(result.revision, result.deleted)

    async def txn(self, txn: Txn, request_id: bytes | None = None) -> TxnOutcome:
        """See ``KeyValueFacade``."""
        result = await self._execute(txn, request_id)
        if any(isinstance(response, MachineFound) for response in result.responses or ()):
            async with self._large:
                return _outcome(result)
        return _outcome(result)

    # --- leases ---

    async def grant(
        self, ttl_ms: int, lease: int = 0, request_id: bytes | None = None
    ) -> LeaseState:
        """See ``KeyValueFacade``."""
        if not limits.LEASE_TTL_MS_MIN <= ttl_ms <= limits.LEASE_TTL_MS_MAX:
            raise BadRequest(
                f"a lease lives {limits.LEASE_TTL_MS_MIN} to {limits.LEASE_TTL_MS_MAX} ms"
            )
        number = _lease(lease, least=0) or _chosen_lease(request_id)
        await self._execute(Grant(number, ttl_ms), request_id)
        return LeaseState(number, ttl_ms, ttl_ms)

    async def keep_alive(self, lease: int) -> LeaseState:
        """See ``KeyValueFacade``."""
        await self._execute(KeepAlive(_lease(lease)), None)
        history = await self._host.history(False)
        known = history.machine.leases.get(lease)
        await history.settle()
        if known is None:  # it ran out between the commit and now
            raise NotDone(_WHY[Refusal.NO_LEASE], "no_lease")
        return LeaseState(lease, known.ttl_ms, known.ttl_ms)

    async def revoke(self, lease: int, request_id: bytes | None = None) -> Deleted:
        """See ``KeyValueFacade``."""
        result = await self._execute(Revoke(_lease(lease)), request_id)
        return Deleted(result.revision, result.deleted)

    async def lease(self, lease: int) -> LeaseState:
        """See ``KeyValueFacade``."""
        history = await self._host.history(True)
        machine = history.machine
        known = machine.leases.get(_lease(lease))
        keys = tuple(machine.keys_of_lease(lease))
        now_ms = machine.time_ms
        await history.settle()
        if known is None:
            raise NotDone(_WHY[Refusal.NO_LEASE], "no_lease")
        return LeaseState(lease, known.ttl_ms, max(0, known.expires_ms - now_ms), keys)

    async def leases(self) -> list[LeaseState]:
        """See ``KeyValueFacade``."""
        history = await self._host.history(True)
        async with self._large:
            machine = history.machine
            found = [
                LeaseState(number, known.ttl_ms, max(0, known.expires_ms - machine.time_ms))
                for number, known in sorted(machine.leases.items())
            ]
        await history.settle()
        return found

    # --- watching ---

    async def watch(
        self, key: bytes, end: bytes, after: int | None = None
    ) -> AsyncIterator[tuple[list[Change], int]]:
        """See ``KeyValueFacade``; nothing is queued: each reader has a place in the history."""
        _check_key(key)
        history = await self._host.history(False)
        at = history.published if after is None else after
        if at < history.floor:
            raise Compacted(f"revision {at + 1} is not known here any more; {history.floor + 1} is")
        yield [], at
        while True:
            changed = history.changed
            while at < history.published:
                events, at = history.events(at, key, end, WATCH_REVISIONS_MAX)
                changes = [
                    Change(e.revision, e.key, None if e.entry is None else entry_of(e.entry))
                    for e in events
                ]
                yield changes, at
                await trio.lowlevel.checkpoint()
            await changed.wait()


def _outcome(result: Result) -> TxnOutcome:
    responses: list[Write | Deleted | Found] = []
    for response in result.responses or ():
        match response:
            case Written(existed):
                responses.append(Write(result.revision, existed))
            case Removed(deleted):
                responses.append(Deleted(result.revision, deleted))
            case MachineFound(entries, count, more):
                rows = tuple((key, entry_of(kept)) for key, kept in entries)
                responses.append(Found(result.revision, rows, count, more))
    shown = None if result.responses is None else tuple(responses)
    return TxnOutcome(result.revision, result.existed, shown)


def entry_of(kept: KeyValue) -> Entry:
    """An entry of the state for clients."""
    return Entry(kept.value, kept.create_revision, kept.mod_revision, kept.version, kept.lease)


def _check_key(key: bytes) -> None:
    if not 1 <= len(key) <= KEY_BYTES_MAX:
        raise BadRequest(f"a key has 1..{KEY_BYTES_MAX} bytes, this one has {len(key)}")


def _chosen_lease(request_id: bytes | None) -> int:
    """A number for a lease that asks for none; the same one when the request is sent again."""
    if request_id is None:
        return secrets.randbelow(LEASE_CHOSEN_MAX) + 1
    chosen = keccak256(b"dstack-cluster/lease/v1" + request_id)
    return int.from_bytes(chosen[:8], "big") % LEASE_CHOSEN_MAX + 1


def _lease(number: int, least: int = 1) -> int:
    if not least <= number <= limits.I64_MAX:
        raise BadRequest(f"a lease has a number {least}..{limits.I64_MAX}")
    return number
