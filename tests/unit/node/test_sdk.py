"""The SDK against the real API server, under trio and under asyncio.

The server runs in a trio thread of its own; each story runs in a second thread under the loop it
is about, so that neither loop can help the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingUnixStreamServer
from typing import Any

import anyio
import pytest
import trio
from eth_abi.abi import encode
from eth_utils.abi import function_signature_to_4byte_selector
from memory_node import CONTRACT, INSTANCE_ID, MemoryNode, make_config

from dstack_cluster import (
    ClusterError,
    DaemonUnreachable,
    DStackP2PSDK,
    NotReady,
    OutcomeUnknown,
    RequestFailed,
    SeatNotActive,
    WrongCluster,
    WrongInstance,
)
from node.api import serve
from node.facade import BadRequest, Busy, Unavailable
from node.facade import OutcomeUnknown as NodeOutcomeUnknown

URL = "https://me.example"
MEMBER = (
    "(uint256,address,uint32,uint8,uint16,uint8,bool,uint40,uint48,bytes20,bytes32,address,string)"
)


class Daemon:
    """The real API over a memory node, in a thread of its own."""

    def __init__(self, tmp_path: Path) -> None:
        self.node = MemoryNode()
        self.api = f"unix:{tmp_path}/api.sock"
        self._config = make_config(tmp_path, api={"listen": self.api})
        self._thread: threading.Thread | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._scope: trio.CancelScope | None = None

    def start(self) -> None:
        up = threading.Event()

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, self.node, self._config)
                self._token = trio.lowlevel.current_trio_token()
                self._scope = nursery.cancel_scope
                up.set()

        self._thread = threading.Thread(target=trio.run, args=(run,))
        self._thread.start()
        assert up.wait(10)

    def stop(self) -> None:
        if self._thread is None:
            return
        assert self._token is not None and self._scope is not None
        self._token.run_sync_soon(self._scope.cancel)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._thread = None

    def do(self, what: Callable[[], None]) -> None:
        """Run something in the daemon's thread."""
        assert self._token is not None
        trio.from_thread.run_sync(what, trio_token=self._token)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    one = Daemon(tmp_path)
    one.start()
    yield one
    one.stop()


@pytest.fixture(params=["asyncio", "trio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """Run an async function under the loop of the parameter; deadline 20 s."""

    def runner(story: Callable[[], Awaitable[Any]]) -> Any:
        async def bounded() -> Any:
            with anyio.fail_after(20):
                return await story()

        if request.param == "trio":
            return trio.run(bounded)
        return asyncio.run(bounded())

    return runner


def sdk_of(daemon: Daemon, **more: Any) -> DStackP2PSDK:
    return DStackP2PSDK(CONTRACT, URL, api_url=daemon.api, **more)


Run = Callable[[Callable[[], Awaitable[Any]]], Any]


def test_three_lines_join_and_list_the_live_members(daemon: Daemon, run: Run) -> None:
    async def story() -> list[str]:
        sdk = sdk_of(daemon)
        await sdk.register()
        return await sdk.get_peers()

    assert run(story) == [URL, "https://two.example"]
    assert daemon.node.announced == [URL]


def test_members_that_are_away_or_have_no_url_are_not_listed(daemon: Daemon, run: Run) -> None:
    sdk = sdk_of(daemon)
    assert run(sdk.get_peers) == ["https://two.example"]  # this one has not registered
    daemon.do(lambda: daemon.node.change(connection_url=None))
    assert run(sdk.get_peers) == []
    daemon.do(lambda: daemon.node.change(connection_url="https://two", connected=False))
    assert run(sdk.get_peers) == []


def test_keys_leader_and_errors(daemon: Daemon, run: Run) -> None:
    async def story() -> None:
        async with sdk_of(daemon) as sdk:
            assert await sdk.leader() == (1, "1.4")
            assert await sdk.is_leader()
            for key in ("a", b"\xff/..", "..", ".", "a/../b", "ü ?#%"):
                assert await sdk.get(key) is None
                await sdk.put(key, b"v")
                assert await sdk.get(key, stale=True) == b"v"
                assert await sdk.delete(key) and not await sdk.delete(key)
            assert await sdk.put("k", b"1", request_id="r") == await sdk.put(
                "k", b"1", request_id="r"
            )
            with pytest.raises(RequestFailed, match="reserved_key"):
                await sdk.put("_cluster/x", b"")
            with pytest.raises(RequestFailed, match="too_large"):
                await sdk.put("k", b"x" * 70_000)
            daemon.node.failure = NodeOutcomeUnknown("no commit seen")
            with pytest.raises(OutcomeUnknown, match="no commit seen"):
                await sdk.put("k", b"2")
            daemon.node.failure = Unavailable("no quorum")
            with pytest.raises(RequestFailed) as caught:
                await sdk.get("k")
            assert caught.value.code == "unavailable"

    run(story)
    assert list(daemon.node.store) == [b"k"]


def test_a_daemon_that_starts_knows_no_leader_and_is_asked_again_later(
    daemon: Daemon, run: Run
) -> None:
    booting = {"epoch": None, "term": None, "leader": None, "self": False, "fencing_token": None}
    daemon.node.leader = lambda: booting  # type: ignore[method-assign]
    with pytest.raises(RequestFailed) as caught:
        run(sdk_of(daemon).leader)
    assert caught.value.code == "unavailable"
    assert run(sdk_of(daemon).is_leader) is False


def test_a_daemon_of_another_contract_is_refused(daemon: Daemon, run: Run) -> None:
    sdk = DStackP2PSDK("0x" + "99" * 20, URL, api_url=daemon.api)
    with pytest.raises(WrongCluster, match="serves contract 0x5fbdb"):
        run(sdk.register)
    assert daemon.node.announced == []


def test_register_waits_for_readiness_and_says_what_it_waited_for(daemon: Daemon, run: Run) -> None:
    daemon.node.reasons = ["no quorum: 6 of 11"]
    sdk = sdk_of(daemon)
    with pytest.raises(NotReady, match="no quorum: 6 of 11"):
        run(lambda: sdk.register(timeout_s=2))
    assert daemon.node.announced == []

    async def story() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sdk.register)
            daemon.node.reasons = []

    run(story)
    assert daemon.node.announced == [URL]


def test_register_waits_for_a_leader_that_is_replaced_while_it_announces(
    daemon: Daemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    announce = daemon.node.announce_url
    failures: list[Exception] = [Unavailable("no quorum"), NodeOutcomeUnknown("not seen"), Busy("")]

    async def announce_url(url: str) -> None:
        if failures:
            raise failures.pop(0)
        await announce(url)

    monkeypatch.setattr(daemon.node, "announce_url", announce_url)
    run(sdk_of(daemon).register)
    assert daemon.node.announced == [URL] and failures == []
    failures.append(BadRequest("no such URL"))
    with pytest.raises(RequestFailed, match="no such URL"):
        run(sdk_of(daemon).register)
    failures += 100 * [Unavailable("no quorum")]
    with pytest.raises(RequestFailed, match="no quorum"):
        run(lambda: sdk_of(daemon).register(timeout_s=2))


def test_no_daemon_is_a_clear_error(tmp_path: Path, run: Run) -> None:
    for api in (f"unix:{tmp_path}/none.sock", "http://127.0.0.1:1"):
        sdk = DStackP2PSDK(CONTRACT, URL, api_url=api)
        with pytest.raises(DaemonUnreachable):
            run(lambda sdk=sdk: sdk.register(timeout_s=0.2))  # type: ignore[misc]
        with pytest.raises(DaemonUnreachable):
            run(sdk.get_peers)


def test_monitor_tells_each_change_once_and_survives_a_restart(daemon: Daemon, run: Run) -> None:
    heard: list[list[str]] = []

    async def story() -> None:
        sdk = sdk_of(daemon)
        arrived = anyio.Event()

        async def callback(urls: list[str]) -> None:
            nonlocal arrived
            heard.append(urls)
            arrived.set()
            arrived = anyio.Event()

        async def change(**values: Any) -> None:
            await anyio.to_thread.run_sync(lambda: daemon.do(lambda: daemon.node.change(**values)))

        async def until(count: int) -> None:
            while len(heard) < count:
                await arrived.wait()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sdk.monitor_peers, callback)
            await until(1)
            await change(rtt_ms=9)  # nothing that the list shows
            await change(connection_url="https://new")
            await until(2)
            await anyio.to_thread.run_sync(daemon.stop)
            daemon.node.other["connected"] = False
            await anyio.to_thread.run_sync(daemon.start)
            await until(3)
            tasks.cancel_scope.cancel()

    run(story)
    assert heard == [["https://two.example"], ["https://new"], []]


def test_a_monitor_of_the_leader_tells_each_change_and_nobody_while_the_daemon_is_away(
    daemon: Daemon, run: Run
) -> None:
    led = {"epoch": 1, "term": 4, "leader": 1, "self": True, "fencing_token": "1.4"}
    booting = dict.fromkeys(led) | {"self": False}
    said = [led]
    daemon.node.leader = lambda: said[-1]  # type: ignore[method-assign]
    told: list[tuple[int | None, str, bool]] = []

    async def story() -> None:
        arrived = anyio.Event()

        async def on_change(seat: int | None, token: str, mine: bool) -> None:
            nonlocal arrived
            told.append((seat, token, mine))
            arrived.set()
            arrived = anyio.Event()

        async def seen(count: int) -> None:
            while len(told) < count:
                await arrived.wait()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(sdk_of(daemon).monitor_leader, on_change)
            await seen(1)
            said.append(led | {"term": 5, "leader": 2, "self": False, "fencing_token": "1.5"})
            await seen(2)
            await anyio.to_thread.run_sync(daemon.stop)
            await seen(3)
            said.append(booting)
            daemon.start()
            said.append(led | {"epoch": 2, "fencing_token": "2.4"})
            await seen(4)
            tasks.cancel_scope.cancel()

    run(story)
    assert told == [(1, "1.4", True), (2, "1.5", False), (None, "1.5", False), (1, "2.4", True)]


def test_an_exception_of_a_leaders_callback_reaches_the_caller(daemon: Daemon, run: Run) -> None:
    def on_change(seat: int | None, token: str, mine: bool) -> None:
        raise LookupError(token)

    with pytest.raises(LookupError, match=r"1\.4"):
        run(lambda: sdk_of(daemon).monitor_leader(on_change))


def test_exceptions_of_the_callback_reach_the_caller(daemon: Daemon, run: Run) -> None:
    def callback(urls: list[str]) -> None:
        raise Unavailable("mine")  # even one that looks like the node's

    with pytest.raises(Unavailable, match="mine"):
        run(lambda: sdk_of(daemon).monitor_peers(callback))


@pytest.mark.parametrize("address", ["", "0x12", "0x" + "zz" * 20, None, "0x" + "11" * 21])
def test_a_malformed_contract_address_is_refused_at_once(address: Any) -> None:
    with pytest.raises(ValueError, match="contract_address"):
        DStackP2PSDK(address, URL)
    with pytest.raises(ValueError, match="expected http"):
        DStackP2PSDK(CONTRACT, URL, api_url="ftp://x")


# --- the checks of register ---------------------------------------------------------------------


@contextlib.contextmanager
def answering(reply: bytes, status: int = 200, socket: Path | None = None) -> Iterator[Any]:
    """An HTTP server that gives one reply to all and keeps what it was asked."""
    asked: list[tuple[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append((self.path, json.loads(body)))
            self.send_response(status)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(reply)

        def log_message(self, *_: Any) -> None:
            pass

        def address_string(self) -> str:
            return "test"

    if socket is None:
        server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    else:
        server = ThreadingUnixStreamServer(str(socket), Handler)
        server.daemon_threads = True
    server.asked = asked
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def member_reply(seat: int = 1, status: int = 1, instance: str = INSTANCE_ID) -> bytes:
    zero = "0x" + "00" * 20
    values = (
        *(seat, zero, 3, status, 1, 0, True, 99, 5),
        *(bytes.fromhex(instance), b"\1" * 32, zero, "/ip4/10.0.0.1/tcp/9600"),
    )
    result = "0x" + encode([MEMBER], [values]).hex()
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": result}).encode()


def test_an_active_seat_on_the_chain_is_confirmed_by_one_call(daemon: Daemon, run: Run) -> None:
    with answering(member_reply()) as rpc:
        run(sdk_of(daemon, rpc_url=f"http://127.0.0.1:{rpc.server_port}/key").register)
    ((path, request),) = rpc.asked
    assert path == "/key" and request["method"] == "eth_call"
    selector = function_signature_to_4byte_selector("member(uint256)")
    call, block = request["params"]
    assert call["to"] == CONTRACT and block == "latest"
    assert call["data"] == "0x" + selector.hex() + f"{1:064x}"
    assert daemon.node.announced == [URL]


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (member_reply(status=0), 200),
        (member_reply(status=2), 200),
        (member_reply(seat=2), 200),
        (member_reply(instance="22" * 20), 200),
        (b'{"jsonrpc":"2.0","id":1,"result":"0x"}', 200),
        (b'{"jsonrpc":"2.0","id":1,"result":"zz"}', 200),
        (b'{"jsonrpc":"2.0","id":2,"result":"0x00"}', 200),
        (b'{"jsonrpc":"2.0","id":1,"error":{"code":3,"message":"execution reverted"}}', 200),
        (b"[" * 100_000, 200),
        (b"x" * 300_000, 200),
        (b"", 200),
        (member_reply(), 500),
    ],
)
def test_whatever_else_the_chain_answers_nothing_is_announced(
    reply: bytes, status: int, daemon: Daemon, run: Run
) -> None:
    with answering(reply, status) as rpc, pytest.raises(SeatNotActive) as caught:
        run(sdk_of(daemon, rpc_url=f"http://127.0.0.1:{rpc.server_port}/HIDDEN").register)
    assert "HIDDEN" not in str(caught.value)
    assert daemon.node.announced == []


@pytest.mark.parametrize(
    ("info", "error"),
    [
        ({"instance_id": INSTANCE_ID}, None),
        ({"instance_id": "0x" + INSTANCE_ID.upper()}, None),
        ({"instance_id": "22" * 20}, WrongInstance),
        ({"instance_id": ""}, WrongInstance),
        ({"instance_id": None}, WrongInstance),
        ({}, WrongInstance),
        ([], WrongInstance),
    ],
)
def test_the_guest_agent_must_be_that_of_the_daemon(
    info: Any, error: type[ClusterError] | None, daemon: Daemon, tmp_path: Path, run: Run
) -> None:
    path = tmp_path / "agent.sock"
    with answering(json.dumps(info).encode(), socket=path) as agent:
        sdk = sdk_of(daemon, dstack_socket=str(path))
        if error is None:
            run(sdk.register)
        else:
            with pytest.raises(error):
                run(sdk.register)
    assert [asked for asked, _ in agent.asked] == ["/Info"]
    assert daemon.node.announced == ([URL] if error is None else [])


def test_a_missing_guest_agent_is_an_error(daemon: Daemon, tmp_path: Path, run: Run) -> None:
    with pytest.raises(WrongInstance, match="cannot be asked"):
        run(sdk_of(daemon, dstack_socket=str(tmp_path / "none")).register)


def test_the_address_comes_from_the_environment_when_not_given(
    daemon: Daemon, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DSTACK_CLUSTER_API", daemon.api)
    run(DStackP2PSDK(CONTRACT, URL).register)
    assert daemon.node.announced == [URL]
