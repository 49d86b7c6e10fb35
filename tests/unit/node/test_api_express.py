"""The express lane serves plain writes as the general server does, and steps aside for the rest."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
from memory_node import MemoryNode, make_config

import node.api.bounds
from node.api import serve
from node.api.express import READ_BYTES, Express, parse_head
from node.facade import Busy, OutcomeUnknown

HEAD = b"PUT /v1/kv/a%20b HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n"
GENERAL = b"te: trailers\r\n"  # a header that sends a request to the general server


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[bytes | None]:
    """What the express lane left, connection by connection."""
    left: list[bytes | None] = []
    original = Express.serve

    async def remember(self: Express) -> bytes | None:
        left.append(await original(self))
        return left[-1]

    monkeypatch.setattr(Express, "serve", remember)
    return left


@pytest.fixture
async def port(node: MemoryNode, tmp_path: Path, nursery: trio.Nursery) -> int:
    config = make_config(tmp_path, api={"listen": "127.0.0.1:0"})
    url = str(await nursery.start(serve, node, config))
    return int(url.rpartition(":")[2])


async def ask(port: int, *packets: bytes, answers: int = 1) -> list[bytes]:
    """Sends packets one by one; returns heads and bodies of the answers."""
    data = b""
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for packet in packets:
            await stream.send_all(packet)
            await trio.testing.wait_all_tasks_blocked(0.001)
        with trio.fail_after(20):
            while data.count(b"HTTP/1.1 ") < answers or not data.endswith((b"}", b"hello")):
                piece = await stream.receive_some(65536)
                if not piece:
                    break
                data += piece
    return [b"HTTP/1.1 " + part for part in data.split(b"HTTP/1.1 ")[1:]]


async def test_a_plain_write_is_answered_as_the_general_server_does(
    node: MemoryNode, port: int, handed_over: list[Any]
) -> None:
    (express,) = await ask(port, HEAD + b"\r\nhello")
    node.store.clear()
    node.revision = 0
    (general,) = await ask(port, HEAD + GENERAL + b"\r\nhello")
    assert express == general
    assert node.store[b"a b"].value == b"hello"
    assert handed_over == [None, HEAD + GENERAL + b"\r\nhello"]


@pytest.mark.parametrize("failure", [Busy("full"), OutcomeUnknown("late"), ZeroDivisionError()])
async def test_an_error_is_answered_as_the_general_server_does(
    failure: Exception, node: MemoryNode, port: int
) -> None:
    node.failure = failure
    (express,) = await ask(port, HEAD + b"\r\nhello")
    (general,) = await ask(port, HEAD + GENERAL + b"\r\nhello")
    assert express == general
    assert express.startswith((b"HTTP/1.1 429", b"HTTP/1.1 504", b"HTTP/1.1 500"))


async def test_requests_that_come_together_are_answered_in_order_by_both_lanes(
    node: MemoryNode, port: int, handed_over: list[Any]
) -> None:
    read = b"GET /v1/kv/a%20b HTTP/1.1\r\nhost: localhost\r\n\r\n"
    write = HEAD + b"\r\nhello"
    answers = await ask(port, write + write + read + write + read, answers=5)
    assert [b"revision" in answer.partition(b"\r\n\r\n")[2] for answer in answers] == [
        True, True, False, True, False,
    ]  # fmt: skip
    assert node.revision == 3
    assert handed_over == [read + write + read]


async def test_a_body_in_packets_of_its_own_is_waited_for(node: MemoryNode, port: int) -> None:
    (answer,) = await ask(port, HEAD + b"\r\n", b"hel", b"lo")
    assert answer.startswith(b"HTTP/1.1 200")
    assert node.store[b"a b"].value == b"hello"


async def test_a_connection_that_is_woken_for_nothing_goes_on(
    node: MemoryNode, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, woken = os.read, []

    def nothing_yet(fd: int, size: int) -> bytes:
        if size == READ_BYTES and not woken:
            woken.append(fd)
            raise BlockingIOError
        return read(fd, size)

    monkeypatch.setattr("node.api.express.os.read", nothing_yet)
    (answer,) = await ask(port, HEAD + b"\r\nhello")
    assert woken and answer.startswith(b"HTTP/1.1 200")


async def test_a_body_that_does_not_come_is_left_to_the_general_server(
    port: int, handed_over: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node.api.kv, "BODY_TIMEOUT_S", 0.05)
    (answer,) = await ask(port, HEAD + b"\r\nhel")
    assert answer.startswith(b"HTTP/1.1 408")
    assert handed_over == [HEAD + b"\r\nhel"]


async def test_a_client_that_resets_within_its_body_is_no_line_in_the_log(
    port: int, handed_over: list[Any]
) -> None:
    with structlog.testing.capture_logs() as lines:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(HEAD + b"\r\nhel")
        await trio.testing.wait_all_tasks_blocked(0.001)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()  # by a reset
        with trio.fail_after(20):
            while not handed_over and not lines:
                await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert lines == []


@pytest.mark.parametrize(
    "lines",
    [
        b"content-length: 5\r\n",
        b"content-length: 6\r\n",
        b"transfer-encoding: chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"expect: 100-continue\r\n",
        b"connection: close\r\n",
        b"upgrade: h2c\r\n",
        b"host: localhost\r\n",
        b" folded: line\r\n",
        b"no colon\r\n",
        b"a: b\rc: d\r\n",
        b"a: b\nc: d\r\n",
        b"a: \0\r\n",
        b": empty\r\n",
    ],
)
def test_what_could_be_read_in_two_ways_is_not_plain(lines: bytes) -> None:
    assert parse_head(HEAD + b"x-plain: yes\r\nConnection: Keep-Alive\r\n\r\n") is not None
    assert parse_head(HEAD + lines + b"\r\n") is None


@pytest.mark.parametrize(
    "head",
    [
        HEAD,  # not whole
        HEAD.replace(b"1.1", b"1.0"),
        HEAD.replace(b"PUT", b"put"),
        HEAD.replace(b"PUT", b"GET"),
        HEAD.replace(b"/v1/kv/", b"/v1/%6bv/"),
        HEAD.replace(b"%20", b"?"),
        HEAD.replace(b"%20", b"#"),
        HEAD.replace(b"%20", b" "),
        HEAD.replace(b"%20", b"\xff"),
        HEAD.replace(b"host", b"hast"),
        HEAD.replace(b": 5", b": +5"),
        HEAD.replace(b": 5", b": 70000"),
        HEAD.replace(b": 5", b": 9999999999"),
        HEAD.replace(b"\r\n", b"\n"),
    ],
)
def test_another_request_is_not_plain(head: bytes) -> None:
    assert parse_head(head if head is HEAD else head + b"\r\n") is None


def test_a_head_of_blanks_is_judged_in_one_pass() -> None:
    """It fits into a head, and trying all ways to part the blanks would take hours."""
    blanks = b" " * 7_000 + b"\t" * 7_000
    assert parse_head(HEAD + b"x:" + blanks + b"\x01\r\n\r\n") is None
    plain = parse_head(HEAD + b"idempotency-key:" + blanks + b"a b" + b" \t\r\n\r\n")
    assert plain is not None and plain.known[b"idempotency-key"] == b"a b"


@pytest.mark.parametrize(
    "path", [b"_cluster/urls/1", b"x" * 1025, b"%00" * 1025], ids=["reserved", "long", "coded"]
)
async def test_a_key_that_is_refused_is_refused_by_the_general_server(
    path: bytes, node: MemoryNode, port: int, handed_over: list[Any]
) -> None:
    request = HEAD.replace(b"a%20b", path) + b"\r\nhello"
    (answer,) = await ask(port, request)
    assert answer.startswith((b"HTTP/1.1 403", b"HTTP/1.1 400"))
    assert handed_over == [request] and node.store == {}


async def test_an_idle_connection_ends_and_one_under_way_is_answered_when_the_service_stops(
    node: MemoryNode, tmp_path: Path
) -> None:
    config = make_config(tmp_path, api={"listen": "127.0.0.1:0"})
    node.hold = trio.Event()
    async with trio.open_nursery() as nursery:
        url = str(await nursery.start(serve, node, config))
        port = int(url.rpartition(":")[2])
        async with (
            await trio.open_tcp_stream("127.0.0.1", port) as idle,
            await trio.open_tcp_stream("127.0.0.1", port) as busy,
        ):
            await busy.send_all(HEAD + b"\r\nhello")
            with trio.fail_after(10):
                while not node.held:
                    await trio.sleep(0.005)
                nursery.cancel_scope.cancel()
                assert await idle.receive_some(1) == b""
                node.hold.set()
                assert (await busy.receive_some(4096)).startswith(b"HTTP/1.1 200")
                assert await busy.receive_some(1) == b""
