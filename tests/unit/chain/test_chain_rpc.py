"""One endpoint that misbehaves in every way we could think of."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from faulty_chain import PATIENCE_S, FakeChain, Fault, Server, http

from chain.errors import (
    ChainConfigError,
    EndpointError,
    EndpointTimeout,
    EndpointTooLong,
    RpcFault,
)
from chain.rpc import RpcEndpoint


async def start(serve) -> tuple[Server, RpcEndpoint]:
    (server,) = await serve(FakeChain())
    return server, RpcEndpoint(server.url, timeout_s=PATIENCE_S, body_bytes_max=100_000)


@contextmanager
def deadline_s(endpoint: RpcEndpoint, timeout_s: float) -> Iterator[None]:
    """A short deadline, for a call that is to miss it and for no other."""
    before, endpoint._timeout_s = endpoint._timeout_s, timeout_s
    yield
    endpoint._timeout_s = before


async def test_a_call_gives_its_result_and_reuses_the_connection(serve) -> None:
    server, endpoint = await start(serve)
    assert await endpoint.call("eth_chainId", []) == "0x7"
    assert await endpoint.call("eth_chainId", []) == "0x7"
    assert server.requests == 2
    assert server.connections == 1
    await endpoint.aclose()


async def test_a_batch_is_matched_by_id_whatever_the_order(serve) -> None:
    server, endpoint = await start(serve)
    answers = await endpoint.batch(
        [("eth_chainId", []), ("nonsense", []), ("eth_getBlockByNumber", ["0x3", False])]
    )
    assert answers[0] == "0x7" and answers[2]["number"] == "0x3"
    assert isinstance(answers[1], RpcFault) and answers[1].code == -32601
    assert server.requests == 1
    await endpoint.aclose()


async def test_a_flood_is_cut_off_at_the_limit(serve) -> None:
    server, endpoint = await start(serve)
    server.flood()
    with pytest.raises(EndpointTooLong, match="longer than 100000 bytes"):
        await endpoint.call("eth_chainId", [])
    await endpoint.aclose()


async def test_a_hanger_is_left_at_the_deadline(autojump_clock) -> None:
    endpoint = RpcEndpoint("http://127.0.0.1:9", timeout_s=5)

    async def never(request: object, body_bytes_max: int) -> bytes:
        await trio.sleep_forever()
        return b""

    endpoint._send = never  # type: ignore[method-assign,assignment]
    with pytest.raises(EndpointTimeout):
        await endpoint.call("eth_chainId", [])


async def test_a_real_hanger_is_left_and_the_next_call_works(serve) -> None:
    server, endpoint = await start(serve)
    server.hang()
    with deadline_s(endpoint, 0.2), pytest.raises(EndpointTimeout):
        await endpoint.call("eth_chainId", [])
    server.respond = None
    assert await endpoint.call("eth_chainId", []) == "0x7"
    await endpoint.aclose()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (http(b'{"jsonrpc":"2.0","id":999,"result":"0x7"}'), "id nobody asked for"),
        (http(b'{"jsonrpc":"2.0","id":true,"result":"0x7"}'), "id nobody asked for"),
        (http(b'{"jsonrpc":"2.0","id":"1","result":"0x7"}'), "id nobody asked for"),
        (http(b'{"jsonrpc":"2.0","id":1}'), "neither result nor error"),
        (http(b'{"jsonrpc":"2.0","id":1,"error":"no"}'), "not an object"),
        (http(b'["0x7"]'), "not a JSON-RPC object"),
        (http(b"<html>"), "not JSON"),
        (http(b"[" * 90_000), "not JSON"),
        (http(b""), "not JSON"),
        (http(b"\xff\xfe"), "not JSON"),
        (http(b"", "301 Moved", "Location: http://127.0.0.1:1/\r\n"), "redirects"),
        (http(b"", "500 Oops"), "status 500"),
        (http(gzip.compress(b"0" * 10**6), extra="Content-Encoding: gzip\r\n"), "compressed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n", "cannot ask"),
        (b"\x00\x01\x02\r\n\r\n", "cannot ask"),
    ],
)
async def test_an_answer_that_is_none_is_an_error(serve, raw: bytes, message: str) -> None:
    server, endpoint = await start(serve)
    server.say(raw)
    with pytest.raises(EndpointError, match=message):
        await endpoint.call("eth_chainId", [])
    await endpoint.aclose()


@pytest.mark.parametrize(
    "items",
    [
        [{"id": 1, "result": 1}, {"id": 1, "result": 2}],
        [{"id": 1, "result": 1}, {"id": 3, "result": 2}],
        [{"id": 1, "result": 1}],
        [1, 2],
    ],
)
async def test_a_batch_with_wrong_ids_is_an_error(serve, items: list[object]) -> None:
    server, endpoint = await start(serve)
    server.say(http(json.dumps(items).encode()))
    with pytest.raises(EndpointError):
        await endpoint.batch([("a", []), ("b", [])])
    await endpoint.aclose()


async def test_an_error_that_repeats_the_key_of_its_url_is_told_without_it(serve) -> None:
    (server,) = await serve(FakeChain())
    host = server.url.removeprefix("http://").rstrip("/")
    url = f"http://user:letmein-pass@{host}/v2/execution/abcdef0123456789?project=p4321%2D8765"
    endpoint = RpcEndpoint(url, timeout_s=PATIENCE_S)
    server.chain.methods["eth_call"] = Fault(
        3, "execution reverted: abcdef0123456789 of p4321-8765 (letmein-pass) is over its quota"
    )
    with pytest.raises(RpcFault) as raised:
        await endpoint.call("eth_call", [])
    assert raised.value.message == "execution reverted: *** of *** (***) is over its quota"
    await endpoint.aclose()


async def test_a_fault_carries_code_text_and_revert_data(serve) -> None:
    server, endpoint = await start(serve)
    server.chain.methods["eth_call"] = Fault(
        3, "execution reverted\n\x1b[31m" + "x" * 500, "0x0a0b"
    )
    with pytest.raises(RpcFault) as raised:
        await endpoint.call("eth_call", [])
    assert raised.value.code == 3 and raised.value.data == b"\x0a\x0b"
    assert "\n" not in str(raised.value) and "\x1b" not in str(raised.value)
    assert len(str(raised.value)) < 300
    await endpoint.aclose()


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/",
        "file:///etc/passwd",
        "http://",
        "host:1",
        "http://a:b:c/",
        "http://a..b/",
        "http://" + 64 * "a" + ".example/",
    ],
)
def test_only_http_urls_are_taken(url: str) -> None:
    with pytest.raises(ChainConfigError):
        RpcEndpoint(url)


async def test_secrets_of_a_url_are_used_but_never_shown(serve, caplog) -> None:
    (server,) = await serve(FakeChain())
    caplog.set_level(logging.DEBUG)
    url = server.url.replace("http://", "http://user:hunter2@") + "/v3/apikey123?token=hidden456"
    endpoint = RpcEndpoint(url, timeout_s=PATIENCE_S)
    assert await endpoint.call("eth_chainId", []) == "0x7"
    assert server.heads[0].startswith(b"POST /v3/apikey123?token=hidden456 ")
    assert b"Authorization: Basic dXNlcjpodW50ZXIy" in server.heads[0]
    shown = [repr(endpoint), endpoint.name]
    for break_it in (server.hang, lambda: server.say(b"garbage\r\n\r\n")):
        break_it()
        with deadline_s(endpoint, 0.3), pytest.raises(EndpointError) as raised:
            await endpoint.call("eth_chainId", [])
        shown += [str(raised.value), repr(raised.value.__cause__)]
        assert raised.value.__cause__ is None
    await endpoint.aclose()
    refused = RpcEndpoint("http://user:hunter2@127.0.0.1:1/apikey123", timeout_s=1)
    with pytest.raises(EndpointError) as raised:
        await refused.call("eth_chainId", [])
    shown += [str(raised.value), caplog.text]
    for secret in ("hunter2", "apikey123", "hidden456", "user", "dXNlcjpodW50ZXIy"):
        assert not any(secret in text for text in shown), secret
