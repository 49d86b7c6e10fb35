"""Who may come in, and what hostile or broken clients get."""

from __future__ import annotations

import json
import math
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from memory_node import MemoryNode, make_config

import node.api.bounds
import node.api.changes
import node.api.kv
import node.api.server
from node.api import ApiError, serve
from node.api.bounds import READ_PIECE_BYTES
from node.api.express import READ_BYTES as FIRST_READ_BYTES
from node.api.server import read_token

node_server = node.api.server
node_kv = node.api.kv
node_changes = node.api.changes

TOKEN = "correct-horse-battery-staple"


@pytest.fixture
async def url(node: MemoryNode, tmp_path: Path, nursery: trio.Nursery) -> str:
    return str(await nursery.start(serve, node, make_config(tmp_path, api={"listen": LOCAL})))


LOCAL = "127.0.0.1:0"


async def connect(url: str) -> trio.SocketStream:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


async def read_all(stream: trio.SocketStream) -> bytes:
    """Everything until the server closes; the server must do so."""
    data = b""
    with trio.fail_after(20):
        while True:
            try:
                piece = await stream.receive_some(65536)
            except trio.BrokenResourceError:
                return data
            if not piece:
                return data
            data += piece


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():
            await trio.sleep(0.005)


# --- host, origin, token ------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9700", "127.0.0.1.evil", "[::1"])
async def test_a_rebound_name_is_refused_on_loopback(host: str, url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        for path in ("/v1/status", "/v1/health", "/metrics", "/nothing"):
            response = await http.get(path, headers={"host": host})
            assert (response.status_code, response.json()["error"]["code"]) == (403, "bad_host")
        for good in ("localhost", "LOCALHOST:1", "127.0.0.1", "[::1]:80"):
            assert (await http.get("/v1/health", headers={"host": good})).status_code == 200


async def test_a_page_of_another_origin_may_not_write(node: MemoryNode, url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        for origin in ("https://evil.example", "null", "http://127.0.0.1:1"):
            headers = {"origin": origin, "content-type": "application/json"}
            for method, path in (("PUT", "/v1/kv/a"), ("POST", "/v1/register")):
                response = await http.request(method, path, headers=headers, content=b"{}")
                assert response.json()["error"]["code"] == "bad_origin"
        own = {"origin": url}
        assert (await http.put("/v1/kv/a", headers=own, content=b"1")).status_code == 200
    assert node.revision == 1


def token_file(tmp_path: Path, text: str = TOKEN + "\n", mode: int = 0o600) -> Path:
    path = tmp_path / "token"
    path.write_text(text)
    path.chmod(mode)
    return path


async def test_the_token_opens_and_nothing_else_does(
    node: MemoryNode, tmp_path: Path, nursery: trio.Nursery
) -> None:
    api = {"listen": LOCAL, "token_file": str(token_file(tmp_path))}
    url = await nursery.start(serve, node, make_config(tmp_path, api=api))
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        wrong = [
            None,
            TOKEN,
            f"Basic {TOKEN}",
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
        ]
        for shown in wrong:
            headers = {} if shown is None else {"authorization": shown}
            for path in ("/v1/status", "/v1/kv/a", "/metrics", "/openapi.json", "/nothing"):
                response = await http.get(path, headers=headers)
                assert response.status_code == 401, (shown, path)
                assert response.headers["www-authenticate"] == "Bearer"
                assert TOKEN not in response.text
            response = await http.put("/v1/kv/a", content=b"x", headers=headers)
            assert response.status_code == 401
            for path in ("/v1/health", "/v1/ready"):
                assert (await http.get(path, headers=headers)).status_code == 200
        for shown in (f"Bearer {TOKEN}", f"bearer {TOKEN}"):
            response = await http.get("/v1/status", headers={"authorization": shown})
            assert response.status_code == 200
    assert node.store == {}


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (TOKEN, 0o644, "mode 0600"),
        (TOKEN, 0o640, "mode 0600"),
        ("short", 0o600, "16 to"),
        ("", 0o600, "16 to"),
        ("x" * 5000, 0o600, "16 to"),
        ("two words of a token", 0o600, "without blanks"),
        ("ümlaut-is-not-ascii-here", 0o600, "printable ASCII"),
    ],
)
async def test_an_unusable_token_file_stops_the_service(
    text: str, mode: int, why: str, node: MemoryNode, tmp_path: Path
) -> None:
    path = token_file(tmp_path, text, mode)
    config = make_config(tmp_path, api={"listen": LOCAL, "token_file": str(path)})
    with pytest.raises(ApiError, match=why) as caught:
        await serve(node, config)
    assert not text or text not in str(caught.value)
    with pytest.raises(ApiError, match="cannot be read"):
        read_token(tmp_path / "missing")


# --- broken and hostile clients -----------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /v1/status HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: -5\r\n\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n"
        b"content-length: 2\r\n\r\nxx",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: gzip\r\n\r\n",
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/status HTTP/1.1\r\nx: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 100_000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0" * 100,
        os.urandom(5000),
    ],
)
async def test_garbage_costs_the_stranger_only_its_own_connection(
    raw: bytes, node: MemoryNode, url: str
) -> None:
    async with await connect(url) as stream:
        try:
            await stream.send_all(raw)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass
        answer = await read_all(stream)
    assert b"HTTP/1.1 200" not in answer
    assert node.store == {}
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        assert (await http.get("/v1/health")).status_code == 200


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The connection holders of the services that the test starts."""
    holders: list[Any] = []
    original = node_server._Connections.__init__

    def remember(self: Any, *arguments: Any) -> None:
        holders.append(self)
        original(self, *arguments)

    monkeypatch.setattr(node_server._Connections, "__init__", remember)
    return holders


@pytest.mark.parametrize("path", ["/v1/kv/a", "/nothing", "/v1/status", "/v1/kv/_cluster/x"])
async def test_a_huge_unread_body_is_answered_and_its_connection_is_let_go(
    path: str, node: MemoryNode, tmp_path: Path, connections: list[Any]
) -> None:
    async with trio.open_nursery() as nursery:
        config = make_config(tmp_path, api={"listen": LOCAL})
        url = await nursery.start(serve, node, config)
        async with await connect(url) as stream:
            head = f"PUT {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999999\r\n\r\n"
            await stream.send_all(head.encode())
            with trio.move_on_after(10):
                try:
                    while True:
                        await stream.send_all(b"x" * 65536)
                except trio.BrokenResourceError:
                    pass
        await until(lambda: not connections[0]._open)
        nursery.cancel_scope.cancel()
    assert node.store == {}


async def test_an_offer_of_http2_is_not_taken_up_and_the_request_is_answered(url: str) -> None:
    offer = (
        b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, http2-settings\r\n"
        b"upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
    )
    last = b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    async with await connect(url) as stream:
        await stream.send_all(offer + offer + last)
        answers = await read_all(stream)
    assert answers.count(b"HTTP/1.1 200") == 3 and b" 101" not in answers


async def test_of_a_body_that_nobody_reads_yet_only_some_pieces_are_taken(
    node: MemoryNode, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = 0
    receive = node_server._BoundedStream.receive_some

    async def counted(self: Any, bytes_max: int | None = None) -> Any:
        nonlocal taken
        data = await receive(self, bytes_max)
        taken += len(data)
        return data

    monkeypatch.setattr(node_server._BoundedStream, "receive_some", counted)
    node.hold = trio.Event()  # the read that the body came with waits
    async with await connect(url) as stream, trio.open_nursery() as nursery:

        async def send() -> None:
            await stream.send_all(
                b"GET /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9999999\r\n\r\n"
                + 9_000_000 * b"x"
            )

        nursery.start_soon(send)
        await until(lambda: taken > 0)
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert taken <= FIRST_READ_BYTES + 4 * READ_PIECE_BYTES
        nursery.cancel_scope.cancel()


async def test_large_bodies_wait_for_a_place_and_small_ones_do_not(
    node: MemoryNode, tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_server, "LARGE_BODIES_MAX", 0)
    monkeypatch.setattr(node_kv, "BODY_TIMEOUT_S", 0.05)
    config = make_config(tmp_path, api={"listen": LOCAL})
    url = str(await nursery.start(serve, node, config))
    large = json.dumps({"compare": [], "then": [], "else": []}) + 65536 * " "

    async def chunks() -> AsyncIterator[bytes]:
        yield large.encode()

    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        headers = {"content-type": "application/json"}
        for body in (large, chunks()):
            response = await http.post("/v1/txn", content=body, headers=headers)
            assert (response.status_code, response.json()["error"]["code"]) == (503, "busy")
            assert response.headers["retry-after"] == "1"
        response = await http.post("/v1/txn", content=large.strip(), headers=headers)
        assert response.json()["error"]["code"] != "busy"


async def test_a_slowly_dripping_body_is_given_up(
    node: MemoryNode, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_kv, "BODY_TIMEOUT_S", 0.05)
    async with await connect(url) as stream:
        await stream.send_all(
            b"PUT /v1/kv/a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\nx"
        )
        answer = await read_all(stream)
    assert answer.startswith(b"HTTP/1.1 408")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "too_slow"
    assert node.store == {}


async def test_a_client_that_never_reads_its_answers_is_cut(
    node: MemoryNode, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_server, "SEND_TIMEOUT_S", 0.1)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        await http.put("/v1/kv/a", content=b"x" * 65536)
    stream = await connect(url)
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with stream:
        with pytest.raises(trio.BrokenResourceError), trio.fail_after(20):
            while True:  # asks again and again and reads nothing
                await stream.send_all(b"GET /v1/kv/a HTTP/1.1\r\nhost: localhost\r\n\r\n" * 100)
                await trio.sleep(0.01)


async def test_a_client_that_leaves_with_requests_in_flight_leaves_nothing_behind(
    connections: list[Any], node: MemoryNode, url: str
) -> None:
    node.hold = trio.Event()
    for _ in range(5):
        stream = await connect(url)
        await stream.send_all(b"GET /v1/kv/a HTTP/1.1\r\nhost: localhost\r\n\r\n" * 20)
        await until(lambda: node.held == 1)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()  # a reset
        node.held = 0
    node.hold.set()
    await until(lambda: not connections[0]._open)


def short_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (node.api.bounds, node_server):
        monkeypatch.setattr(module, "IDLE_TIMEOUT_S", 0.05)


async def test_a_connection_that_asks_nothing_is_closed_in_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_idle(monkeypatch)
    async with await connect(url) as silent, await connect(url) as dripping:
        await dripping.send_all(b"GET /v1/health HTTP/1.1\r\nhost: loc")
        assert await read_all(silent) == b""
        assert await read_all(dripping) == b""


async def test_a_slow_command_is_not_idleness_but_the_time_after_it_is(
    connections: list[Any], node: MemoryNode, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.hold = trio.Event()
    async with await connect(url) as stream:
        await stream.send_all(b"DELETE /v1/kv/a HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await until(lambda: node.held == 1)
        (connection,) = connections[0]._open
        assert connection._scope.deadline == math.inf
        short_idle(monkeypatch)
        node.hold.set()
        assert (await read_all(stream)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("few", ["connections", "files"])
async def test_connections_beyond_the_limit_are_told_so(
    url: str, monkeypatch: pytest.MonkeyPatch, few: str
) -> None:
    if few == "connections":
        monkeypatch.setattr(node_server, "CONNECTIONS_MAX", 2)
    else:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (11, 11))
    async with await connect(url) as one, await connect(url) as two:
        for stream in (one, two):
            await stream.send_all(b"GET /v1/health HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert (await stream.receive_some(4096)).startswith(b"HTTP/1.1 200")
        async with await connect(url) as three:
            answer = await read_all(three)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert json.loads(body)["error"]["code"] == "busy"


async def test_event_streams_are_limited(
    node: MemoryNode, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_changes, "WATCHERS_MAX", 1)
    accept = {"accept": "text/event-stream"}
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        async with http.stream("GET", "/v1/peers?watch=1", headers=accept):
            second = await http.get("/v1/peers?watch=1", headers=accept)
            assert second.status_code == 429
        await until(lambda: node.watching == 0)
        async with http.stream("GET", "/v1/peers?watch=1", headers=accept) as third:
            assert third.status_code == 200


async def test_an_idle_event_stream_shows_signs_of_life(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_changes, "WATCH_KEEPALIVE_S", 0.01)
    accept = {"accept": "text/event-stream"}
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False) as http,
        http.stream("GET", "/v1/peers?watch=1", headers=accept) as response,
    ):
        async for line in response.aiter_lines():
            if line == ": still here":
                break


# --- stopping and sockets -----------------------------------------------------------------------


async def test_stopping_lets_a_request_under_way_end_and_ends_streams(
    node: MemoryNode, tmp_path: Path
) -> None:
    config = make_config(tmp_path, api={"listen": LOCAL})
    node.hold = trio.Event()
    answers: list[int] = []
    ended = trio.Event()

    async def write(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
            answers.append((await http.put("/v1/kv/a", content=b"1")).status_code)

    async def watch(url: str) -> None:
        accept = {"accept": "text/event-stream"}
        async with (
            httpx.AsyncClient(base_url=url, trust_env=False) as http,
            http.stream("GET", "/v1/peers?watch=1", headers=accept) as response,
        ):
            async for _ in response.aiter_bytes():
                pass
        ended.set()

    async with trio.open_nursery() as outer, trio.open_nursery() as inner:
        url = await inner.start(serve, node, config)
        outer.start_soon(write, url)
        outer.start_soon(watch, url)
        await until(lambda: node.held == 1 and node.watching == 1)
        inner.cancel_scope.cancel()
        node.hold.set()
    assert answers == [200]
    assert ended.is_set() and node.watching == 0
    with pytest.raises(OSError):
        await connect(url)


async def test_stopping_does_not_wait_for_a_request_that_never_ends(
    node: MemoryNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_server, "STOP_GRACE_S", 0.05)
    node.hold = trio.Event()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            url = await nursery.start(serve, node, make_config(tmp_path, api={"listen": LOCAL}))
            async with await connect(url) as stream:
                await stream.send_all(b"GET /v1/kv/a HTTP/1.1\r\nhost: localhost\r\n\r\n")
                await until(lambda: node.held == 1)
                nursery.cancel_scope.cancel()


async def test_a_unix_socket_serves_closes_to_others_and_is_removed(
    node: MemoryNode, tmp_path: Path
) -> None:
    path = tmp_path / "api.sock"
    config = make_config(tmp_path, api={"listen": f"unix:{path}"})
    async with trio.open_nursery() as nursery:
        assert await nursery.start(serve, node, config) == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o660
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://any.name") as http:
            assert (await http.get("/v1/status")).json()["seat"] == 1
        with pytest.raises(ApiError, match="cannot be bound"):
            await serve(node, config)
        assert path.is_socket()
        nursery.cancel_scope.cancel()
    assert not path.exists()


async def test_a_dead_socket_is_replaced_but_a_file_is_not(
    node: MemoryNode, tmp_path: Path, nursery: trio.Nursery
) -> None:
    dead = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(dead))
    config = make_config(tmp_path, api={"listen": f"unix:{dead}"})
    assert await nursery.start(serve, node, config) == f"unix:{dead}"
    file = tmp_path / "file"
    file.write_text("precious")
    with pytest.raises(ApiError, match="cannot be bound"):
        await serve(node, make_config(tmp_path, api={"listen": f"unix:{file}"}))
    assert file.read_text() == "precious"
