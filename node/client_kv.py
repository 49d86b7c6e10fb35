"""The client's side of ranges, transactions, leases and watches."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from typing import Any, TypeVar
from urllib.parse import quote

from consensus.commands import Txn
from node.facade import (
    BadRequest,
    Change,
    Deleted,
    Found,
    LeaseState,
    NodeError,
    TxnOutcome,
    Write,
)
from node.kv_json import read_bytes, read_change, read_found, read_number, show_txn

WATCH_EVENT_BYTES_MAX = 8 * 1024 * 1024  # a deletion of a thousand long keys

T = TypeVar("T")
Batch = tuple[list[Change], int]


class BadAnswer(NodeError):
    """What answered is no node of ours, or a broken one."""

    http_status = 0
    code = "bad_answer"


class KeyValueClient:
    """Mixed into ``ApiClient``; ranges are ``key`` and ``end`` as in ``consensus.commands``."""

    async def _send_json(
        self,
        method: str,
        path: str,
        body: Any = None,
        request_id: bytes | str | None = None,
    ) -> dict[str, Any]:
        raise NotImplementedError

    def _sse(
        self, path: str, headers: dict[str, str], bytes_max: int
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[str, dict[str, Any]]]]:
        raise NotImplementedError

    async def range(
        self,
        key: bytes,
        end: bytes = b"",
        *,
        limit: int = 0,
        revision: int | None = None,
        stale: bool = False,
        count_only: bool = False,
        keys_only: bool = False,
    ) -> Found:
        """Entries of a range; see ``KeyValueFacade.range``."""
        query = _span(key, end) + f"&limit={limit}"
        query += "" if revision is None else f"&revision={revision}"
        query += "&stale=1" * stale + "&count_only=1" * count_only + "&keys_only=1" * keys_only
        return _parsed(read_found, await self._send_json("GET", "/v1/kv?" + query))

    async def delete_range(
        self, key: bytes, end: bytes, *, request_id: bytes | str | None = None
    ) -> Deleted:
        """Delete a range; see ``KeyValueFacade.delete_range``."""
        path = "/v1/kv?" + _span(key, end)
        return _parsed(_deleted, await self._send_json("DELETE", path, request_id=request_id))

    async def txn(self, txn: Txn, *, request_id: bytes | str | None = None) -> TxnOutcome:
        """Compare, then or else; see ``KeyValueFacade.txn``."""
        return _parsed(
            _outcome, await self._send_json("POST", "/v1/txn", show_txn(txn), request_id)
        )

    async def txn_json(self, body: Any, *, request_id: bytes | str | None = None) -> dict[str, Any]:
        """A transaction and its outcome as JSON, see ``/v1/txn`` in the API's description."""
        row = await self._send_json("POST", "/v1/txn", body, request_id)
        _parsed(_outcome, row)
        return row

    async def grant(
        self, ttl_ms: int, lease: int = 0, *, request_id: bytes | str | None = None
    ) -> LeaseState:
        """Begin a lease; see ``KeyValueFacade.grant``."""
        body = {"ttl_ms": ttl_ms, "lease": lease}
        row = await self._send_json("POST", "/v1/leases", body, request_id)
        return LeaseState(_parsed(lambda found: read_number(found, "lease"), row), ttl_ms, ttl_ms)

    async def keep_alive(self, lease: int) -> LeaseState:
        """Let a lease run its whole time again."""
        return _parsed(_lease, await self._send_json("POST", f"/v1/leases/{lease}/keepalive"))

    async def revoke(self, lease: int, *, request_id: bytes | str | None = None) -> Deleted:
        """End a lease; its keys go."""
        path = f"/v1/leases/{lease}"
        return _parsed(_deleted, await self._send_json("DELETE", path, request_id=request_id))

    async def lease(self, lease: int) -> LeaseState:
        """A lease with its keys."""
        return _parsed(_lease, await self._send_json("GET", f"/v1/leases/{lease}"))

    async def leases(self) -> list[LeaseState]:
        """All leases, without their keys."""
        document = await self._send_json("GET", "/v1/leases")
        return _parsed(lambda found: [_lease(row) for row in found["leases"]], document)

    @asynccontextmanager
    async def watch(
        self, key: bytes, end: bytes = b"", *, after: int | None = None
    ) -> AsyncIterator[AsyncIterator[Batch]]:
        """``async with client.watch(key) as batches: async for changes, revision in batches``.

        Each batch has all changes of one revision, or none: then everything up to ``revision`` is
        told. A watch that broke goes on without a gap with ``after`` the last revision seen.

        Raises:
            Compacted: ``after`` is too long ago, or the reader too slow: read the range anew.
            NodeError: as every call; ``Unreachable`` also when the stream falls silent or ends.
        """
        headers = {} if after is None else {"last-event-id": str(after)}
        path = "/v1/watch?" + _span(key, end)
        stream = self._sse(path, headers, WATCH_EVENT_BYTES_MAX)
        async with stream as events, aclosing(_batches(events)) as batches:
            yield batches


async def _batches(events: AsyncIterator[tuple[str, dict[str, Any]]]) -> AsyncGenerator[Batch]:
    async for name, document in events:
        if name in ("changes", "progress"):
            yield _parsed(_batch, document)


def _batch(document: dict[str, Any]) -> Batch:
    rows = document.get("events", [])
    return [read_change(row) for row in rows], read_number(document, "revision")


def _parsed(read: Callable[[dict[str, Any]], T], document: dict[str, Any]) -> T:
    try:
        return read(document)
    except (BadRequest, AttributeError, KeyError, TypeError):
        raise BadAnswer("expected another JSON document from the node") from None


def _span(key: bytes, end: bytes) -> str:
    return f"key={quote(key, safe='')}" + (f"&end={quote(end, safe='')}" if end else "")


def _deleted(row: Mapping[str, Any]) -> Deleted:
    return Deleted(read_number(row, "revision"), read_number(row, "deleted"))


def _lease(row: Mapping[str, Any]) -> LeaseState:
    keys = row.get("keys", [])
    return LeaseState(
        read_number(row, "lease"),
        read_number(row, "ttl_ms"),
        read_number(row, "remaining_ms"),
        tuple(read_bytes(item, "key") for item in keys) if isinstance(keys, list) else (),
    )


def _outcome(row: dict[str, Any]) -> TxnOutcome:
    revision, shown = read_number(row, "revision"), row.get("responses")
    responses = None
    if shown is not None:
        responses = tuple(_response(item, revision) for item in shown)
    return TxnOutcome(revision, row.get("succeeded") is True, responses)


def _response(item: Any, revision: int) -> Write | Deleted | Found:
    if isinstance(item, dict) and len(item) == 1:
        ((name, row),) = item.items()
        match name, row:
            case "put", dict():
                return Write(revision, row.get("existed") is True)
            case "delete", dict():
                return Deleted(revision, read_number(row, "deleted"))
            case "range", dict():
                return read_found(row)
    raise BadRequest("a transaction's response of an unknown kind")
