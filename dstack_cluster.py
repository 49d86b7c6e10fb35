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
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import anyio
import httpx

from attest.bounded_json import parse_json
from consensus.commands import Compare, Delete, Put, Range, Relation, Target, Txn, prefix_end
from node.client import (
    DEFAULT_URL,
    ApiClient,
    Unreachable,
    check_url,
    is_passing,
    read_token_file,
)
from node.facade import Change, Entry, Found, NodeError, TxnOutcome
from node.facade import OutcomeUnknown as _NodeOutcomeUnknown

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
PeersCallback = Callable[[list[str]], Awaitable[None] | None]

ANSWER_BYTES_MAX = 256 * 1024
BACKOFF_S_MIN = 0.2
BACKOFF_S_MAX = 5.0
POLL_S = 0.25
EXTERNAL_TIMEOUT_S = 10.0
ACTIVE = 1  # MemberStatus of the registry
_MEMBER_ABI = (
    "(uint256,address,uint32,uint8,uint16,uint8,bool,uint40,uint48,bytes20,bytes32,address,string)"
)


class ClusterError(Exception):
    """Anything that keeps the SDK from doing what was asked."""


class DaemonUnreachable(ClusterError):
    """No daemon answers at the API address, or it went away before it did.

    What was asked of it may have been done then: send it again with the same request id.
    """


class NotReady(ClusterError):
    """The daemon did not become ready in time; the text carries its reasons."""


class WrongCluster(ClusterError):
    """The daemon serves another contract than the application asked for."""


class SeatNotActive(ClusterError):
    """The chain does not show the daemon's seat as a live member."""


class WrongInstance(ClusterError):
    """The guest agent belongs to another instance than the daemon's."""


class RequestFailed(ClusterError):
    """The cluster refused or could not carry out a request; ``code`` is the API's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class OutcomeUnknown(RequestFailed):
    """A write was accepted but not seen committed: send it again with the same request id."""


class DStackP2PSDK:
    """An application's hold on its cluster.

    Each call opens a connection of its own; ``async with sdk:`` keeps connections open instead,
    within one event loop.

    Args:
        contract_address: registry contract, ``0x`` and 40 hex digits; the daemon must serve it.
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
        self._contract = _address(contract_address)
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
            await self._check_instance(status, self._dstack_socket)
        if self._rpc_url is not None:
            await self._check_seat(status, self._rpc_url)
        while True:
            try:
                async with _Borrowed(self) as client:
                    return await client.register(self._connection_url)
            except NodeError as error:
                if not is_passing(error) or anyio.current_time() >= until_s:
                    raise _mapped(error) from None
            await anyio.sleep(POLL_S)

    async def _wait_ready(self, timeout_s: float) -> dict[str, Any]:
        reasons: list[str] | None = None
        last = ""
        with anyio.move_on_after(timeout_s):
            while True:
                try:
                    async with _Borrowed(self) as client:
                        status = await client.status()
                        self._check_contract(status)
                        reasons = await client.ready()
                        if not reasons:
                            return status
                except Unreachable as error:
                    last = str(error)
                except NodeError as error:
                    raise _mapped(error) from None
                await anyio.sleep(POLL_S)
        if reasons is None:
            raise DaemonUnreachable(f"no daemon within {timeout_s:g} s: {last or self._api_url}")
        raise NotReady(f"the daemon is not ready after {timeout_s:g} s: {'; '.join(reasons)}")

    def _check_contract(self, status: dict[str, Any]) -> None:
        chain = status.get("chain")
        contract = chain.get("contract") if isinstance(chain, dict) else None
        try:
            served = _address(str(contract))
        except ValueError:
            raise WrongCluster("the daemon does not say which contract it serves") from None
        if served != self._contract:
            raise WrongCluster(
                f"the daemon serves contract 0x{served.hex()}; expected 0x{self._contract.hex()}"
            )

    async def _check_instance(self, status: dict[str, Any], socket: str) -> None:
        transport = httpx.AsyncHTTPTransport(uds=socket, verify=False, trust_env=False)
        body = await _post_json(transport, "http://localhost/Info", {}, WrongInstance, "agent")
        mine, daemons = body.get("instance_id"), status.get("instance_id")
        if not _same_hex(mine, daemons):
            raise WrongInstance(
                f"the guest agent is instance {str(mine)[:64]!r}, the daemon {str(daemons)[:64]!r}"
            )

    async def _check_seat(self, status: dict[str, Any], rpc_url: str) -> None:
        seat = status.get("seat")
        if type(seat) is not int or not 0 < seat < 2**256:
            raise SeatNotActive("the daemon does not say which seat it holds")
        call = {
            "to": "0x" + self._contract.hex(),
            "data": "0x" + (_selector("member(uint256)") + seat.to_bytes(32, "big")).hex(),
        }
        request = {"jsonrpc": "2.0", "id": 1, "method": "eth_call", "params": [call, "latest"]}
        transport = httpx.AsyncHTTPTransport(verify=rpc_url.startswith("https://"), trust_env=False)
        body = await _post_json(transport, rpc_url, request, SeatNotActive, "RPC endpoint")
        if "error" in body or body.get("id") != 1 or not isinstance(body.get("result"), str):
            raise SeatNotActive(
                f"the chain does not know seat {seat} of 0x{self._contract.hex()} "
                f"(answer: {str(body.get('error', 'none'))[:200]})"
            )
        state, instance = _decode_member(body["result"], seat)
        if state != ACTIVE:
            raise SeatNotActive(f"seat {seat} is not active on the chain (status {state})")
        if not _same_hex(instance.hex(), status.get("instance_id")):
            raise SeatNotActive(f"seat {seat} is held on the chain by instance {instance.hex()}")

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
        pause_s = BACKOFF_S_MIN
        while True:
            failure: Exception | None = None
            try:
                async with _Borrowed(self) as client, client.watch_peers() as changes:
                    async for rows in changes:
                        pause_s = BACKOFF_S_MIN
                        urls = _urls(rows)
                        if urls == told:
                            continue
                        told = urls
                        try:
                            outcome = callback(list(urls))
                            if inspect.isawaitable(outcome):
                                await outcome
                        except Exception as error:
                            # kept out of the handlers below: it is the caller's, whatever it is
                            failure = error
                            break
            except NodeError as error:
                if 400 <= error.http_status < 500 and error.http_status != 429:
                    raise _mapped(error) from None
            if failure is not None:
                raise failure
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_S_MAX)

    async def leader(self) -> tuple[int | None, str]:
        """Seat of the leader (None while there is none) and the fencing token ``epoch.term``."""
        document = await self._call(lambda client: client.leader())
        seat, token = document.get("leader"), document.get("fencing_token")
        if not (seat is None or type(seat) is int) or not isinstance(token, str):
            raise RequestFailed("bad_answer", "the daemon's leader document is malformed")
        return seat, token

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
        pause_s = BACKOFF_S_MIN
        while True:
            try:
                async with _Borrowed(self) as client, client.watch(key, end, after=after) as told:
                    async for changes, revision in told:
                        pause_s = BACKOFF_S_MIN
                        with _CallbackFailure.marks():
                            result = callback(changes, revision)
                            if inspect.isawaitable(result):
                                await result
                        after = revision
            except _CallbackFailure as failure:
                raise failure.cause from None
            except NodeError as error:
                if 400 <= error.http_status < 500 and error.http_status != 429:
                    raise _mapped(error) from None
            await anyio.sleep(pause_s)
            pause_s = min(2 * pause_s, BACKOFF_S_MAX)

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
            raise _mapped(error) from None
        return ApiClient(self._api_url, token=token)

    async def _call(self, ask: Callable[[ApiClient], Awaitable[Any]]) -> Any:
        try:
            async with _Borrowed(self) as client:
                return await ask(client)
        except NodeError as error:
            raise _mapped(error) from None


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


def _mapped(error: NodeError) -> ClusterError:
    if isinstance(error, Unreachable):
        return DaemonUnreachable(str(error))
    if isinstance(error, _NodeOutcomeUnknown):
        return OutcomeUnknown(error.code, str(error))
    return RequestFailed(error.code, str(error))


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


async def _post_json(
    transport: httpx.AsyncHTTPTransport,
    url: str,
    body: dict[str, Any],
    kind: type[ClusterError],
    who: str,
) -> dict[str, Any]:
    """POST JSON, bounded; failures become ``kind`` and never tell the URL (it may hold a key)."""
    try:
        with anyio.fail_after(EXTERNAL_TIMEOUT_S):
            async with (
                httpx.AsyncClient(transport=transport, trust_env=False) as http,
                http.stream("POST", url, json=body, timeout=EXTERNAL_TIMEOUT_S) as response,
            ):
                raw = b""
                async for piece in response.aiter_bytes():
                    raw += piece
                    if len(raw) > ANSWER_BYTES_MAX:
                        raise kind(f"the {who} answers more than {ANSWER_BYTES_MAX} bytes")
                status = response.status_code
    except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
        raise kind(f"the {who} cannot be asked: {type(error).__name__}") from None
    try:
        document = parse_json(raw)
    except ValueError:
        document = None
    if status != 200 or not isinstance(document, dict):
        raise kind(f"the {who} answers HTTP status {status}; expected 200 and a JSON object")
    return document


def _address(text: str) -> bytes:
    raw = text.removeprefix("0x") if isinstance(text, str) else ""
    if len(raw) != 40 or not all(c in "0123456789abcdefABCDEF" for c in raw):
        raise ValueError("contract_address: expected 0x and 40 hex digits")
    return bytes.fromhex(raw)


def _same_hex(one: Any, other: Any) -> bool:
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    one, other = one.lower().removeprefix("0x"), other.lower().removeprefix("0x")
    return bool(one) and one == other


def _selector(signature: str) -> bytes:
    from Crypto.Hash import keccak  # only applications that give an rpc_url need it

    return keccak.new(digest_bits=256, data=signature.encode()).digest()[:4]


def _decode_member(result: str, seat: int) -> tuple[int, bytes]:
    """Status and instance id (20 bytes) of the registry's ``member(seat)`` answer."""
    from eth_abi.abi import decode
    from eth_abi.exceptions import DecodingError

    try:
        (member,) = decode([_MEMBER_ABI], bytes.fromhex(result.removeprefix("0x")))
    except (DecodingError, ValueError, OverflowError):
        raise SeatNotActive(
            f"the chain's answer for seat {seat} is no member of a registry"
        ) from None
    if member[0] != seat:
        raise SeatNotActive(f"the chain answered for seat {member[0]}; expected {seat}")
    return member[3], bytes(member[9])
