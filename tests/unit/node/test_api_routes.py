from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from memory_node import MemoryNode, make_config

from node.api import ApiError, serve
from node.api.bounds import CONNECTION_URL_BYTES_MAX, JSON_BODY_BYTES_MAX
from node.api.openapi import DOCUMENT
from node.facade import (
    KEY_BYTES_MAX,
    VALUE_BYTES_MAX,
    BadRequest,
    Busy,
    OutcomeUnknown,
    Unavailable,
)


@pytest.fixture
async def http(
    node: MemoryNode, tmp_path: Path, nursery: trio.Nursery
) -> AsyncIterator[httpx.AsyncClient]:
    config = make_config(tmp_path, api={"listen": "127.0.0.1:0"})
    url = await nursery.start(serve, node, config)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


def error_of(response: httpx.Response, status: int) -> str:
    """The code of an error answer, which must have the one shape."""
    assert response.status_code == status, response.text
    document = response.json()
    assert set(document) == {"error"} and set(document["error"]) == {"code", "message"}
    assert response.headers["content-type"] == "application/json"
    return str(document["error"]["code"])


# --- reading ------------------------------------------------------------------------------------


async def test_reads_answer_what_the_node_says(node: MemoryNode, http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/status")).json() == node.status()
    assert (await http.get("/v1/members")).json() == {"members": node.members()}
    assert (await http.get("/v1/leader")).json() == node.leader()
    assert (await http.get("/v1/peers")).json() == {"peers": node.peers()}
    assert (await http.get("/v1/health")).json() == {"status": "ok"}
    with_self = (await http.get("/v1/peers?self=1")).json()["peers"]
    assert [row["seat"] for row in with_self] == [1, 2]
    assert node.watching == 0


async def test_ready_is_503_with_the_reasons(node: MemoryNode, http: httpx.AsyncClient) -> None:
    assert (await http.get("/v1/ready")).json() == {"ready": True, "reasons": []}
    node.reasons = ["no quorum: 6 of 11"]
    response = await http.get("/v1/ready")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "reasons": ["no quorum: 6 of 11"]}
    assert (await http.get("/v1/health")).status_code == 200


async def test_metrics_are_served(http: httpx.AsyncClient) -> None:
    response = await http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "dstack_cluster_height 12.0" in response.text


async def test_every_documented_route_exists_and_every_route_is_documented(
    http: httpx.AsyncClient,
) -> None:
    document = (await http.get("/openapi.json")).json()
    assert document == json.loads(json.dumps(DOCUMENT))
    for path, verbs in document["paths"].items():
        real = path.replace("{key}", "k").replace("{lease}", "1")
        allowed = {verb.upper() for verb in verbs if verb != "parameters"}
        response = await http.request("OPTIONS", real)
        assert error_of(response, 405) == "wrong_method"
        assert set(re.split(r",\s*", response.headers["allow"])) - {"HEAD"} == allowed, path


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/status/", "/v2/status", "/v1/txn/", "/v1/%6bv/a"]
)
async def test_unknown_routes_are_404_in_the_same_shape(path: str, http: httpx.AsyncClient) -> None:
    assert error_of(await http.get(path), 404) == "not_found"


async def test_a_websocket_is_refused(http: httpx.AsyncClient) -> None:
    headers = {
        "connection": "upgrade",
        "upgrade": "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    assert (await http.get("/v1/status", headers=headers)).status_code == 403


# --- keys ---------------------------------------------------------------------------------------


async def test_a_key_lives_through_put_get_and_delete(http: httpx.AsyncClient) -> None:
    value = bytes(range(256))
    assert (await http.put("/v1/kv/a", content=b"old")).json() == {"revision": 1, "existed": False}
    assert (await http.put("/v1/kv/a", content=value)).json() == {"revision": 2, "existed": True}
    response = await http.get("/v1/kv/a")
    assert response.content == value
    assert response.headers["x-revision"] == "2"
    assert response.headers["x-create-revision"] == "1"
    assert response.headers["x-version"] == "2"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert (await http.delete("/v1/kv/a")).json() == {"revision": 3, "existed": True}
    assert (await http.delete("/v1/kv/a")).json() == {"revision": 3, "existed": False}
    assert error_of(await http.get("/v1/kv/a"), 404) == "no_such_key"


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("plain", b"plain"),
        ("a/b//c", b"a/b//c"),
        ("a%2Fb", b"a/b"),
        ("%00%FF%fe", b"\x00\xff\xfe"),
        ("%E2%82%AC", "€".encode()),
        ("a+b%20c", b"a+b c"),
        ("%3Fstale=1", b"?stale=1"),
        ("100%25", b"100%"),
        ("%zz", b"%zz"),
    ],
)
async def test_keys_are_percent_decoded_bytes(
    path: str, key: bytes, node: MemoryNode, http: httpx.AsyncClient
) -> None:
    url = str(http.base_url).rstrip("/")
    raw = f"PUT /v1/kv/{path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n\r\nx"
    answer = await exchange(url, raw.encode())
    assert answer.startswith(b"HTTP/1.1 200")
    assert list(node.store) == [key]


async def test_a_stale_read_is_asked_for_explicitly(
    node: MemoryNode, http: httpx.AsyncClient
) -> None:
    await http.get("/v1/kv/a")
    await http.get("/v1/kv/a?stale=1")
    await http.get("/v1/kv/a?stale=0")
    assert node.reads == [True, False, True]


async def test_key_and_value_limits_are_exact(node: MemoryNode, http: httpx.AsyncClient) -> None:
    key, value = "k" * KEY_BYTES_MAX, b"v" * VALUE_BYTES_MAX
    assert (await http.put(f"/v1/kv/{key}", content=value)).status_code == 200
    assert error_of(await http.put(f"/v1/kv/{key}k", content=b""), 400) == "bad_request"
    assert error_of(await http.put("/v1/kv/", content=b"x"), 400) == "bad_request"
    assert error_of(await http.get("/v1/kv/"), 400) == "bad_request"
    assert error_of(await http.put("/v1/kv/a", content=value + b"v"), 413) == "too_large"
    assert list(node.store) == [key.encode()]
    encoded = "%41" * KEY_BYTES_MAX
    assert (await http.put(f"/v1/kv/{encoded}", content=b"x")).status_code == 200


async def test_an_empty_value_is_a_value(node: MemoryNode, http: httpx.AsyncClient) -> None:
    assert (await http.put("/v1/kv/a")).status_code == 200
    assert node.store[b"a"].value == b""


async def test_a_chunked_value_is_cut_as_soon_as_it_is_too_long(
    node: MemoryNode, http: httpx.AsyncClient
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 4096

    try:
        response = await http.put("/v1/kv/a", content=endless())
    except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
        pass  # cut while still sending: the answer may be lost, the value is refused all the same
    else:
        assert error_of(response, 413) == "too_large"
    assert node.store == {}
    assert (await http.get("/v1/health")).status_code == 200


async def test_the_same_request_id_is_applied_once(
    node: MemoryNode, http: httpx.AsyncClient
) -> None:
    headers = {"idempotency-key": "once"}
    first = await http.put("/v1/kv/a", content=b"1", headers=headers)
    second = await http.put("/v1/kv/a", content=b"1", headers=headers)
    assert first.json() == second.json()
    assert node.revision == 1


@pytest.mark.parametrize(
    "headers",
    [
        [("idempotency-key", "")],
        [("idempotency-key", "x" * 129)],
        [("idempotency-key", "a"), ("idempotency-key", "b")],
    ],
)
async def test_a_malformed_request_id_is_refused_and_nothing_is_written(
    headers: list[tuple[str, str]], node: MemoryNode, http: httpx.AsyncClient
) -> None:
    for method in ("PUT", "DELETE"):
        response = await http.request(method, "/v1/kv/a", headers=headers)
        assert error_of(response, 400) == "bad_request"
    assert node.revision == 0


@pytest.mark.parametrize("path", ["_cluster/x", "_cluster%2Fx", "%5Fcluster/x"])
async def test_the_clusters_own_keys_can_be_read_but_not_written(
    path: str, node: MemoryNode, http: httpx.AsyncClient
) -> None:
    assert error_of(await http.put(f"/v1/kv/{path}", content=b"x"), 403) == "reserved_key"
    assert error_of(await http.delete(f"/v1/kv/{path}"), 403) == "reserved_key"
    assert error_of(await http.get(f"/v1/kv/{path}"), 404) == "no_such_key"
    assert node.store == {}


@pytest.mark.parametrize("kind", [BadRequest, Busy, Unavailable, OutcomeUnknown])
async def test_errors_of_the_node_keep_status_code_and_text(
    kind: type[Any], node: MemoryNode, http: httpx.AsyncClient
) -> None:
    node.failure = kind("this is why")
    for method, path in (("GET", "/v1/kv/a"), ("PUT", "/v1/kv/a"), ("DELETE", "/v1/kv/a")):
        response = await http.request(method, path)
        assert error_of(response, kind.http_status) == kind.code
        assert response.json()["error"]["message"] == "this is why"
        assert ("retry-after" in response.headers) == (kind.http_status in (429, 503))


async def test_an_unexpected_exception_tells_nothing_of_our_insides(
    node: MemoryNode, http: httpx.AsyncClient
) -> None:
    node.failure = RuntimeError("path /secret/place")
    response = await http.put("/v1/kv/a", content=b"x")
    assert error_of(response, 500) == "internal"
    assert "secret" not in response.text and "RuntimeError" not in response.text
    node.failure = None
    assert (await http.put("/v1/kv/a", content=b"x")).status_code == 200


# --- registration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url", ["https://app.example/x?y=1", "http://[::1]:80", "ws://a", "wss://a", "tcp://a:9000"]
)
async def test_a_connection_url_is_announced(
    url: str, node: MemoryNode, http: httpx.AsyncClient
) -> None:
    response = await http.post("/v1/register", json={"connection_url": url})
    assert response.status_code == 200
    assert node.announced == [url]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"no json",
        b"[" * 2000,
        b"[]",
        b"{}",
        b'{"connection_url": 5}',
        b'{"connection_url": ""}',
        b'{"connection_url": "ftp://a"}',
        b'{"connection_url": "javascript:alert(1)"}',
        b'{"connection_url": "https://"}',
        b'{"connection_url": "https://user:pw@a"}',
        b'{"connection_url": "https://a b"}',
        b'{"connection_url": "https://a\\n"}',
        b'{"connection_url": "https://\xc3\xa9"}',
        b'{"connection_url": "https://a:99999"}',
        b'{"connection_url": "https://a:0"}',
        b'{"connection_url": "tcp://a"}',
        b'{"connection_url": "https://[::1"}',
        b'{"connection_url": "https://a", "more": 1}',
        b'{"connection_url": "https://' + b"a" * CONNECTION_URL_BYTES_MAX + b'"}',
        b"\xff",
    ],
)
async def test_anything_else_is_refused_and_not_announced(
    document: bytes, node: MemoryNode, http: httpx.AsyncClient
) -> None:
    headers = {"content-type": "application/json"}
    response = await http.post("/v1/register", content=document, headers=headers)
    assert error_of(response, 400) == "bad_request"
    assert node.announced == []


async def test_a_registration_is_json_and_short(node: MemoryNode, http: httpx.AsyncClient) -> None:
    body = b'{"connection_url": "https://a"}'
    response = await http.post("/v1/register", content=body, headers={"content-type": "text/plain"})
    assert error_of(response, 415) == "wrong_type"
    headers = {"content-type": "application/json"}
    long = body + b" " * JSON_BODY_BYTES_MAX
    assert error_of(await http.post("/v1/register", content=long, headers=headers), 413)
    assert node.announced == []


# --- event stream -------------------------------------------------------------------------------


async def test_changes_of_the_peers_are_streamed_at_once_and_live(
    node: MemoryNode, http: httpx.AsyncClient
) -> None:
    headers = {"accept": "text/event-stream"}
    async with http.stream("GET", "/v1/peers?watch=1", headers=headers) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()

        async def rows() -> list[dict[str, Any]]:
            async for line in lines:
                if line.startswith("data: "):
                    return list(json.loads(line[6:])["peers"])
            raise AssertionError("the stream ended")

        assert [row["connected"] for row in await rows()] == [True, True]
        node.change(connected=False)
        assert [row["connected"] for row in await rows()] == [True, False]
    with trio.fail_after(5):
        while node.watching:
            await trio.lowlevel.checkpoint()


async def test_a_watch_needs_the_right_accept_header_and_a_clear_switch(
    http: httpx.AsyncClient,
) -> None:
    for path in ("/v1/peers", "/v1/leader"):
        assert error_of(await http.get(path + "?watch=1"), 406) == "not_acceptable"
        assert error_of(await http.get(path + "?watch=yes"), 400) == "bad_request"


async def exchange(url: str, request: bytes) -> bytes:
    """Send raw bytes and return the first piece of the answer."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(request)
        with trio.fail_after(10):
            return bytes(await stream.receive_some(65536))


async def test_a_taken_address_is_an_error_that_names_it(
    node: MemoryNode, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    listen = f"127.0.0.1:{http.base_url.port}"
    with pytest.raises(ApiError, match=f"api.listen {listen}: cannot be bound"):
        await serve(node, make_config(tmp_path, api={"listen": listen}))
