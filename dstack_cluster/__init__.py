"""The three-line SDK: join a cluster from an application and follow who else is in it.

    sdk = DStackP2PSDK(contract_address, "https://me.example", dstack_socket="/var/run/dstack.sock")
    await sdk.register()
    peers = await sdk.get_peers()

It runs under asyncio and under trio. It speaks to the cluster's daemon on the same machine, which
does the work: keys, attestation, chain and consensus live there and never in the application.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

import anyio

from consensus.commands import Compare, Delete, Put, Range, Relation, Target, Txn, prefix_end
from node.client import (
    DEFAULT_URL,
    ApiClient,
    Unreachable,
    check_url,
    is_passing,
    read_token_file,
)
from node.client_checks import check_contract, check_instance, check_seat, contract_bytes
from node.client_errors import (
    ClusterError,
    DaemonUnreachable,
    NotReady,
    OutcomeUnknown,
    RequestFailed,
    SeatNotActive,
    WrongCluster,
    WrongInstance,
    mapped,
)
from node.facade import Change, Entry, Found, NodeError, TxnOutcome

__all__ = [
    "Change",
    "ClusterError",
    "Compare",
    "DStackP2PSDK",
    "DaemonUnreachable",
    "Delete",
    "Entry",
    "Found",
    "NotReady",
    "OutcomeUnknown",
    "Put",
    "Range",
    "Relation",
    "RequestFailed",
    "SeatNotActive",
    "Target",
    "Txn",
    "TxnOutcome",
    "WrongCluster",
    "WrongInstance",
]

KeysCallback = Callable[[list[Change], int], Awaitable[None] | None]
T = TypeVar("T")
LeaderCallback = Callable[[int | None, str, bool], Awaitable[None] | None]
PeersCallback = Callable[[list[str]], Awaitable[None] | None]

BACKOFF_S_MIN = 0.2
BACKOFF_S_MAX = 5.0
POLL_S = 0.25

# They are this module's to whoever meets one in a traceback.
for _kind in (
    ClusterError, DaemonUnreachable, NotReady, OutcomeUnknown, RequestFailed, SeatNotActive,
    WrongCluster, WrongInstance,
):  # fmt: skip
    _kind.__module__ = __name__


class DStackP2PSDK:
    """An application's hold on its cluster.

    Each call opens a connection of its own; ``async with sdk:`` keeps connections open instead,
    within one event loop.

    Args:
        contract_address: registry contract, ``0x`` and 40 hex digits; the daemon must serve it,
            which ``register`` checks.
        connection_url: where peers reach this application (http, https, ws, wss or tcp URL).
        rpc_url: when given, ``register`` asks this JSON-RPC endpoint itself whether the daemon's
            seat is active, so that the application need not believe the daemon.
        dstack_socket: when given, ``register`` asks the guest agent on this Unix socket which
            instance this is, and refuses a daemon of another one.
        api_url: the daemon's API; default: environment ``DSTACK_CLUSTER_API``, then
            ``http://127.0.0.1:9700``. A token is read from ``DSTACK_CLUSTER_TOKEN_FILE``.

    Raises:
        ValueError: the contract address or the API URL is malformed.
    """

    def __init__(
        self,
        contract_address: str,
        connection_url: str,
        *,
        rpc_url: str | None = None,
        dstack_socket: str | None = None,
        api_url: str | None = None,
    ) -> None:
        self._contract = contract_bytes(contract_address)
        self._connection_url = connection_url
        self._rpc_url = rpc_url
        self._dstack_socket = dstack_socket
        self._api_url = api_url or os.environ.get("DSTACK_CLUSTER_API") or DEFAULT_URL
        self._kept: ApiClient | None = None
        check_url(self._api_url)

    async def __aenter__(self) -> Self:
        self._kept = self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.aclose()

    # --- joining --------------------------------------------------------------------------------

    async def register(self, timeout_s: float = 60.0) -> None:
        """Wait for the daemon, check that it is the right one, announce the connection URL.

        Args:
            timeout_s: how long the daemon may take to become ready, and to be told; a restart or a
                change of leader meanwhile is waited for.

        Raises:
            DaemonUnreachable, NotReady: not within ``timeout_s``.
            WrongCluster, WrongInstance, SeatNotActive: a check failed; nothing was announced.
            RequestFailed: the cluster refused the announcement.
        """
        until_s = anyio.current_time() + timeout_s
        status = await self._wait_ready(timeout_s)
        if self._dstack_socket is not None:
            await check_instance(status, self._dstack_socket)
        if self._rpc_url is not None:
            await check_seat(status, self._contract, self._rpc_url)
        while True:
            try:
                async with _Borrowed(self) as client:
                    return await client.register(self._connection_url)
            except NodeError as error:
                if not is_passing(error) or anyio.current_time() >= until_s:
                    raise mapped(error) from None
            await anyio.sleep(POLL_S)

    async def _wait_ready(self, timeout_s: float) -> dict[str, Any]:
        reasons: list[str] | None = None
        last = ""
        with anyio.move_on_after(timeout_s):
            while True:
                try:
                    async with _Borrowed(self) as client:
                        status = await client.status()
                        check_contract(status, self._contract)
                        reasons = await client.ready()
                        if not reasons:
                            return status
                except Unreachable as error:
                    last = str(error)
                except NodeError as error:
                    raise mapped(error) from None
                await anyio.sleep(POLL_S)
        if reasons is None:
            raise DaemonUnreachable(f"no daemon within {timeout_s:g} s: {last or self._api_url}")
        raise NotReady(f"the daemon is not ready after {timeout_s:g} s: {'; '.join(reasons)}")

    # --- the others -----------------------------------------------------------------------------

    async def get_peers(self) -> list[str]:
        """Connection URLs of live members.

        Live is who is connected to this daemon now, and itself; a member whose application has
        not registered has no URL and is left out. Sorted by seat, without repetition.

        Raises:
            DaemonUnreachable, RequestFailed: as every call.
        """
        return _urls(await self._call(lambda client: client.peers(include_self=True)))

    async def monitor_peers(self, callback: PeersCallback) -> None:
        """Call ``callback(urls)`` at once and whenever the list changes, until cancelled.

        A daemon that restarts or is away for a while is waited for with backoff; meanwhile the
        callback hears nothing. Exceptions of the callback end the call and reach the caller.

        Args:
            callback: plain or async function of the same list that ``get_peers`` returns.

        Raises:
            RequestFailed: the daemon refuses (wrong token), so that waiting is no use.
        """
        told: list[str] | None = None

        async def tell(rows: list[dict[str, Any]]) -> None:
            nonlocal told
            urls = _urls(rows)
            if urls != told:
                told = urls
                await _called(callback(list(urls)))

        await self._follow(lambda client: client.watch_peers(), tell)

    async def leader(self) -> tuple[int | None, str]:
        """Seat of the leader (None while there is none) and the fencing token ``epoch.term``.

        Tokens are compared as two integers: ``0.10`` is newer than ``0.9``.

        Raises:
            RequestFailed: ``unavailable`` while the daemon starts and knows of no term.
        """
        seat, token, _ = _leadership(await self._call(lambda client: client.leader()))
        if token is None:
            raise RequestFailed("unavailable", "the daemon starts and knows of no term yet")
        return seat, token

    async def monitor_leader(self, callback: LeaderCallback) -> None:
        """Call ``callback(seat, token, mine)`` at once and whenever it changes, until cancelled.

        ``seat`` and ``token`` are those of ``leader``; ``mine`` is true while this daemon's seat
        leads. ``seat`` is None while nobody is known to lead: no quorum is heard, or the daemon is
        away, which is waited for with backoff. Exceptions of the callback end the call and reach
        the caller.

        Args:
            callback: plain or async function.

        Raises:
            RequestFailed: the daemon refuses (wrong token), so that waiting is no use.
        """
        told: tuple[int | None, str, bool] | None = None

        async def tell(document: dict[str, Any]) -> None:
            nonlocal told
            seat, token, mine = _leadership(document)
            if token is not None and (seat, token, mine) != told:
                told = seat, token, mine
                await _called(callback(seat, token, mine))

        async def lost() -> None:
            nonlocal told
            if told is not None and told[0] is not None:
                told = None, told[1], False
                await _called(callback(*told))

        await self._follow(lambda client: client.watch_leader(), tell, lost)

    async def is_leader(self) -> bool:
        """Whether this daemon's seat leads now; act on it only together with the fencing token."""
        return (await self._call(lambda client: client.leader())).get("self") is True

    # --- keys -----------------------------------------------------------------------------------

    async def put(
        self, key: bytes | str, value: bytes, *, request_id: str | None = None, lease: int = 0
    ) -> int:
        """Write a key through consensus, on a lease if not 0, and return its revision.

        Raises:
            OutcomeUnknown: send it again with the same ``request_id`` (1..128 bytes).
            RequestFailed, DaemonUnreachable: as every call.
        """
        write = await self._call(
            lambda client: client.put(key, value, request_id=request_id, lease=lease)
        )
        return int(write.revision)

    async def get(
        self, key: bytes | str, *, stale: bool = False, revision: int | None = None
    ) -> bytes | None:
        """The key's value, None if absent; linearizable unless ``stale``.

        With a ``revision`` as it was then; RequestFailed ``compacted`` when that is too long ago.
        """
        entry: Entry | None = await self._call(
            lambda client: client.get(key, stale=stale, revision=revision)
        )
        return None if entry is None else entry.value

    async def delete(self, key: bytes | str, *, request_id: str | None = None) -> bool:
        """Delete a key through consensus; whether it was there. Errors as ``put``."""
        write = await self._call(lambda client: client.delete(key, request_id=request_id))
        return bool(write.existed)

    async def list_keys(self, prefix: bytes | str, *, limit: int = 0) -> Found:
        """All entries whose keys begin with ``prefix``, by key, at one revision.

        ``more`` is true when they are not all; watch on with ``monitor_keys(after=revision)``.
        """
        key, end = _prefix(prefix)
        found: Found = await self._call(lambda client: client.range(key, end, limit=limit))
        return found

    async def delete_prefix(self, prefix: bytes | str, *, request_id: str | None = None) -> int:
        """Delete all keys that begin with ``prefix`` in one revision; how many there were."""
        key, end = _prefix(prefix)
        gone = await self._call(lambda client: client.delete_range(key, end, request_id=request_id))
        return int(gone.deleted)

    async def txn(self, txn: Txn, *, request_id: str | None = None) -> TxnOutcome:
        """Compare, then or else, in one revision: ``Txn((Compare(...),), (Put(...),), ())``."""
        outcome: TxnOutcome = await self._call(
            lambda client: client.txn(txn, request_id=request_id)
        )
        return outcome

    async def monitor_keys(
        self, prefix: bytes | str, callback: KeysCallback, *, after: int | None = None
    ) -> None:
        """Call ``callback(changes, revision)`` for every revision that changes such keys.

        In order and without gaps, also across restarts of the daemon, until cancelled. ``changes``
        is empty now and then: everything up to ``revision`` was told. An exception of the callback
        ends the call and reaches the caller.

        Args:
            prefix: of the keys.
            callback: plain or async function.
            after: the revision after which to begin; None is now.

        Raises:
            RequestFailed: ``compacted`` when ``after`` is too long ago or the callback too slow.
        """
        key, end = _prefix(prefix)

        async def tell(batch: tuple[list[Change], int]) -> None:
            nonlocal after
            changes, revision = batch
            await _called(callback(changes, revision))
            after = revision

        await self._follow(lambda client: client.watch(key, end, after=after), tell)

    # --- leases ---------------------------------------------------------------------------------

    async def grant_lease(self, ttl_s: float) -> int:
        """Begin a lease of at least 5 s: keys that were put on it go when it is not kept alive."""
        lease = await self._call(lambda client: client.grant(round(ttl_s * 1000)))
        return int(lease.lease)

    async def keep_alive(self, lease: int) -> None:
        """Let a lease run its whole time again. RequestFailed ``no_lease`` when it is over."""
        await self._call(lambda client: client.keep_alive(lease))

    async def revoke_lease(self, lease: int) -> int:
        """End a lease now; how many keys went with it."""
        gone = await self._call(lambda client: client.revoke(lease))
        return int(gone.deleted)

    # --- beneath --------------------------------------------------------------------------------

    def _open(self) -> ApiClient:
        token_file = os.environ.get("DSTACK_CLUSTER_TOKEN_FILE")
        try:
            token = read_token_file(token_file) if token_file else None
        except NodeError as error:
            raise mapped(error) from None
        return ApiClient(self._api_url, token=token)

    async def _follow(
        self,
        watch: Callable[[ApiClient], AbstractAsyncContextManager[AsyncIterator[T]]],
        tell: Callable[[T], Awaitable[None]],
        lost: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Tells what a watch gives, and opens it again when it ends, until cancelled."""
        pause_s = BACKOFF_S_MIN
        try:
            while True:
                try:
                    async with _Borrowed(self) as client, watch(client) as items:
                        async for item in items:
                            pause_s = BACKOFF_S_MIN
                            with _CallbackFailure.marks():
                                await tell(item)
                except NodeError as error:
                    if 400 <= error.http_status < 500 and error.http_status != 429:
                        raise mapped(error) from None
                if lost is not None:
                    with _CallbackFailure.marks():
                        await lost()
                await anyio.sleep(pause_s)
                pause_s = min(2 * pause_s, BACKOFF_S_MAX)
        except _CallbackFailure as failure:
            raise failure.cause from None

    async def _call(self, ask: Callable[[ApiClient], Awaitable[Any]]) -> Any:
        try:
            async with _Borrowed(self) as client:
                return await ask(client)
        except NodeError as error:
            raise mapped(error) from None


class _Borrowed:
    """The SDK's kept client, or one for this call alone."""

    def __init__(self, sdk: DStackP2PSDK) -> None:
        self._sdk = sdk
        self._own: ApiClient | None = None

    async def __aenter__(self) -> ApiClient:
        if self._sdk._kept is not None:
            return self._sdk._kept
        self._own = self._sdk._open()
        return self._own

    async def __aexit__(self, *_: object) -> None:
        if self._own is not None:
            await self._own.aclose()


class _CallbackFailure(Exception):
    """An exception of the application's callback, told apart from those of the daemon."""

    def __init__(self, cause: Exception) -> None:
        self.cause = cause

    @classmethod
    @contextmanager
    def marks(cls) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise cls(error) from error


async def _called(outcome: Awaitable[None] | None) -> None:
    """Waits for what an application's callback gave, if that is to be waited for."""
    if inspect.isawaitable(outcome):
        await outcome


def _leadership(document: dict[str, Any]) -> tuple[int | None, str | None, bool]:
    seat, token = document.get("leader"), document.get("fencing_token")
    known = type(seat) is int and isinstance(token, str)
    if not known and not (seat is None and (token is None or isinstance(token, str))):
        raise RequestFailed("bad_answer", "the daemon's leader document is malformed")
    return seat, token, known and document.get("self") is True


def _prefix(prefix: bytes | str) -> tuple[bytes, bytes]:
    raw = prefix.encode() if isinstance(prefix, str) else prefix
    return raw or b"\0", prefix_end(raw)


def _urls(rows: list[dict[str, Any]]) -> list[str]:
    live = [
        (seat if type(seat := row.get("seat")) is int else 0, url)
        for row in rows
        if isinstance(url := row.get("connection_url"), str)
        and url
        and (row.get("connected") is True or row.get("self") is True)
    ]
    return list(dict.fromkeys(url for _, url in sorted(live)))
