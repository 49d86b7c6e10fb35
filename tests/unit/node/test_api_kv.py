"""Ranges, transactions, leases and watches over the real API, machine and history."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from kv_node import KvNode
from memory_node import make_config
from starlette.responses import Response
from test_api_routes import error_of

from consensus.commands import Range, Txn
from node import history, keyvalue
from node.api import serve, watch
from node.api.answers import LargeAnswer


@pytest.fixture
def node() -> KvNode:
    return KvNode()


@pytest.fixture
async def http(
    node: KvNode, tmp_path: Path, nursery: trio.Nursery
) -> AsyncIterator[httpx.AsyncClient]:
    config = make_config(tmp_path, api={"listen": "127.0.0.1:0"})
    url = await nursery.start(serve, node, config)
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        yield client


async def fill(http: httpx.AsyncClient, *keys: str) -> None:
    for key in keys:
        assert (await http.put(f"/v1/kv/{key}", content=key.encode())).status_code == 200


def names(response: httpx.Response) -> list[str]:
    assert response.status_code == 200, response.text
    return [row["key"] for row in response.json()["entries"]]


# --- ranges -------------------------------------------------------------------------------------


async def test_a_range_is_read_by_prefix_by_ends_and_in_parts(http: httpx.AsyncClient) -> None:
    await fill(http, "a", "app/1", "app/2", "app/3", "b")
    assert names(await http.get("/v1/kv?prefix=app/")) == ["app/1", "app/2", "app/3"]
    assert names(await http.get("/v1/kv?prefix=")) == ["a", "app/1", "app/2", "app/3", "b"]
    assert names(await http.get("/v1/kv?key=app/2&end=b")) == ["app/2", "app/3"]
    assert names(await http.get("/v1/kv?key=app/2&end=%00")) == ["app/2", "app/3", "b"]
    assert names(await http.get("/v1/kv?key=b")) == ["b"]
    part = (await http.get("/v1/kv?prefix=app/&limit=2")).json()
    assert (part["count"], part["more"], len(part["entries"])) == (3, True, 2)
    count = (await http.get("/v1/kv?prefix=app/&count_only=1")).json()
    assert (count["count"], count["entries"]) == (3, [])
    (row,) = (await http.get("/v1/kv?key=b&keys_only=1")).json()["entries"]
    assert row == {"key": "b", "create_revision": 5, "mod_revision": 5, "version": 1, "lease": 0}


async def test_the_past_can_be_read_and_what_is_forgotten_is_said_to_be(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(http, "a", "b")
    await http.put("/v1/kv/a", content=b"new")
    await http.delete("/v1/kv/b")
    assert (await http.get("/v1/kv/a?revision=1")).content == b"a"
    assert (await http.get("/v1/kv/a?revision=3")).content == b"new"
    assert error_of(await http.get("/v1/kv/b?revision=1"), 404) == "no_such_key"
    assert (await http.get("/v1/kv/b?revision=3")).content == b"b"
    past = (await http.get("/v1/kv?prefix=&revision=2")).json()
    assert [(r["key"], r["value"]) for r in past["entries"]] == [("a", "a"), ("b", "b")]
    assert past["revision"] == 2
    assert error_of(await http.get("/v1/kv/a?revision=9"), 400) == "future_revision"
    monkeypatch.setattr(history, "REVISIONS_MAX", 8)
    await fill(http, *"abcdefghijkl")
    assert error_of(await http.get("/v1/kv/a?revision=1"), 410) == "compacted"
    assert error_of(await http.get("/v1/kv?prefix=&revision=1"), 410) == "compacted"


async def test_a_range_is_deleted_in_one_revision(http: httpx.AsyncClient) -> None:
    await fill(http, "a", "app/1", "app/2", "b")
    gone = await http.delete("/v1/kv?prefix=app/", headers={"idempotency-key": "x"})
    assert gone.json() == {"revision": 5, "deleted": 2}
    again = await http.delete("/v1/kv?prefix=app/", headers={"idempotency-key": "x"})
    assert again.json() == gone.json()
    assert names(await http.get("/v1/kv?prefix=")) == ["a", "b"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?prefix=a&key=b",
        "?end=b",
        "?key=",
        "?prefix=a&limit=-1",
        "?prefix=a&limt=1",
        "?key=a&key=b",
    ],
)
async def test_a_query_that_is_not_understood_is_refused(
    query: str, http: httpx.AsyncClient
) -> None:
    assert error_of(await http.get("/v1/kv" + query), 400) == "bad_request"


@pytest.mark.parametrize(
    "query", ["prefix=", "prefix=_cluster/urls", "key=_&end=a", "key=a&end=%00", "prefix=_c"]
)
async def test_a_range_with_keys_of_the_cluster_is_not_deleted(
    query: str, http: httpx.AsyncClient
) -> None:
    expected = 403 if query != "key=a&end=%00" else 200  # that one begins above them
    assert (await http.delete("/v1/kv?" + query)).status_code == expected


# --- transactions -------------------------------------------------------------------------------


async def txn(http: httpx.AsyncClient, body: Any, **headers: str) -> httpx.Response:
    return await http.post("/v1/txn", json=body, headers=headers)


async def test_a_transaction_runs_one_branch_in_one_revision(http: httpx.AsyncClient) -> None:
    take = {
        "compare": [{"key": "lock", "target": "version", "number": 0}],
        "then": [
            {"put": {"key": "lock", "value": "me"}},
            {"put": {"key": "count", "value_base64": "/w=="}},
        ],
        "else": [{"range": {"key": "lock"}}],
    }
    first = (await txn(http, take)).json()
    written = {"put": {"existed": False}}
    assert first == {"revision": 1, "succeeded": True, "responses": [written, written]}
    second = (await txn(http, take)).json()
    (found,) = second["responses"]
    assert (second["succeeded"], second["revision"]) == (False, 1)
    assert found["range"]["entries"][0]["value"] == "me"
    row = (await http.get("/v1/kv?key=count")).json()["entries"][0]
    assert row["value_base64"] == "/w==" and row["mod_revision"] == 1


async def test_a_repeated_transaction_is_applied_once(http: httpx.AsyncClient) -> None:
    body = {"then": [{"put": {"key": "a", "value": ""}}, {"delete": {"prefix": "b"}}]}
    first = (await txn(http, body, **{"idempotency-key": "1"})).json()
    assert first["responses"] == [{"put": {"existed": False}}, {"delete": {"deleted": 0}}]
    again = (await txn(http, body, **{"idempotency-key": "1"})).json()
    assert again == {**first, "responses": None}


async def test_values_are_compared_and_reads_see_earlier_writes(http: httpx.AsyncClient) -> None:
    await fill(http, "a")
    body = {
        "compare": [
            {"key": "a", "target": "value", "relation": ">", "value": "Z"},
            {"key": "a", "target": "mod_revision", "relation": "<", "number": 2},
            {"key": "none", "target": "lease", "relation": "!=", "number": 5},
        ],
        "then": [{"put": {"key": "a", "value": "b"}}, {"range": {"prefix": "a"}}],
    }
    outcome = (await txn(http, body)).json()
    assert outcome["succeeded"]
    assert outcome["responses"][1]["range"]["entries"][0]["value"] == "b"


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"if": []},
        {"then": {}},
        {"then": [{}]},
        {"then": [{"put": {"key": "a"}}]},
        {"then": [{"put": {"key": "", "value": ""}}]},
        {"then": [{"put": {"key": "a", "value": "b", "value_base64": ""}}]},
        {"then": [{"put": {"key": "a", "value_base64": "%%"}}]},
        {"then": [{"put": {"key": "a", "value": "b"}, "delete": {"key": "a"}}]},
        {"then": [{"put": {"key": "a", "value": "1"}}, {"put": {"key": "a", "value": "2"}}]},
        {"then": [{"put": {"key": "a", "value": "1"}}, {"delete": {"prefix": ""}}]},
        {"then": [{"range": {"key": "a", "prefix": "a"}}]},
        {"then": [{"range": {"key": "a"}}] * 129},
        {"compare": [{"key": "a", "target": "size", "number": 1}]},
        {"compare": [{"key": "a", "target": "version", "relation": "~", "number": 1}]},
        {"compare": [{"key": "a", "target": "version", "number": True}]},
        {"compare": [{"key": "a", "target": "value", "number": 1}]},
        {"then": [{"delete": {"prefix": "a" * 65_536}}]},
        {"else": [{"range": {"key": "a", "end": "b" * 65_536}}]},
    ],
    ids=lambda body: json.dumps(body)[:80],
)
async def test_a_transaction_that_is_not_understood_changes_nothing(
    body: Any, http: httpx.AsyncClient, node: KvNode
) -> None:
    response = await txn(http, body)
    assert response.status_code in (400, 403), response.text
    assert node.machine.height == 0


async def test_a_transaction_cannot_write_the_clusters_keys(http: httpx.AsyncClient) -> None:
    for op in ({"put": {"key": "_cluster/x", "value": ""}}, {"delete": {"key": "_", "end": "a"}}):
        assert error_of(await txn(http, {"else": [op]}), 403) == "reserved_key"


async def test_many_large_answers_leave_all_other_tasks_their_turns(
    node: KvNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn, turns = 0, []
    count, outcome = node.past.count, keyvalue._outcome

    def noted(made: Any) -> Any:
        def make(*arguments: Any) -> Any:
            turns.append(turn)
            return made(*arguments)

        return make

    monkeypatch.setattr(node.past, "count", noted(count))
    monkeypatch.setattr(keyvalue, "_outcome", noted(outcome))

    async def tick() -> None:
        nonlocal turn
        while True:
            turn += 1
            await trio.lowlevel.checkpoint()

    async def ask() -> None:
        await node.kv.range(b"\0", b"\0")

    async def transact() -> None:
        await node.kv.txn(Txn((), (Range(b"\0", b"\0", 0),), ()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tick)
        async with trio.open_nursery() as asking:
            for number in range(20):
                asking.start_soon(ask if number % 2 else transact)
        nursery.cancel_scope.cancel()
    # Two, where one task had its turn last and the other first.
    assert len(turns) == 20 and max(Counter(turns).values()) <= 2


async def test_a_crowd_that_does_not_read_large_answers_has_few_of_them_made() -> None:
    places, sent, made = trio.Semaphore(2), trio.Event(), 0

    class Slow(Response):
        async def __call__(self, *_: Any) -> None:
            await sent.wait()

    async def make() -> Response:
        nonlocal made
        made += 1
        return Slow()

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(LargeAnswer(places, make), {}, None, None)
        await trio.testing.wait_all_tasks_blocked()
        assert made == 2
        sent.set()
    assert made == 5


# --- leases -------------------------------------------------------------------------------------


async def test_a_grant_that_is_sent_again_is_answered_with_the_lease_that_there_is(
    http: httpx.AsyncClient, node: KvNode
) -> None:
    headers = {"idempotency-key": "once"}
    first, again = [
        (await http.post("/v1/leases", json={"ttl_ms": 6000}, headers=headers)).json()["lease"]
        for _ in range(2)
    ]
    assert first == again and list(node.machine.leases) == [first]
    other = {"idempotency-key": "twice"}
    granted = (await http.post("/v1/leases", json={"ttl_ms": 6000}, headers=other)).json()
    assert granted["lease"] != first


async def test_keys_of_a_lease_go_when_nobody_keeps_it_alive(
    http: httpx.AsyncClient, node: KvNode
) -> None:
    granted = (await http.post("/v1/leases", json={"ttl_ms": 6000})).json()
    lease = granted["lease"]
    assert granted["ttl_ms"] == 6000 and 0 < lease < 2**53
    put = await http.put(f"/v1/kv/here?lease={lease}", content=b"x")
    assert put.status_code == 200
    assert (await http.get("/v1/kv/here")).headers["x-lease"] == str(lease)
    node.now_ms += 5000
    kept = (await http.post(f"/v1/leases/{lease}/keepalive")).json()
    assert kept == {"lease": lease, "ttl_ms": 6000, "remaining_ms": 6000}
    node.now_ms += 5000
    node.block()
    shown = (await http.get(f"/v1/leases/{lease}")).json()
    assert shown == {**kept, "remaining_ms": 1000, "keys": [{"key": "here"}]}
    assert (await http.get("/v1/leases")).json()["leases"][0]["lease"] == lease
    node.now_ms += 1000
    node.block()
    assert error_of(await http.get("/v1/kv/here"), 404) == "no_such_key"
    for ask in (http.get, http.delete):
        assert error_of(await ask(f"/v1/leases/{lease}"), 404) == "no_lease"
    keep = await http.post(f"/v1/leases/{lease}/keepalive")
    assert error_of(keep, 404) == "no_lease"
    put = await http.put(f"/v1/kv/here?lease={lease}", content=b"x")
    assert error_of(put, 404) == "no_lease"


async def test_a_lease_is_revoked_with_its_keys(http: httpx.AsyncClient) -> None:
    assert (await http.post("/v1/leases", json={"ttl_ms": 9000, "lease": 7})).status_code == 200
    for key in "ab":
        await http.put(f"/v1/kv/{key}?lease=7", content=b"")
    again = await http.post("/v1/leases", json={"ttl_ms": 9000, "lease": 7})
    assert error_of(again, 409) == "lease_exists"
    assert (await http.delete("/v1/leases/7")).json() == {"revision": 3, "deleted": 2}
    assert names(await http.get("/v1/kv?prefix=")) == []


@pytest.mark.parametrize(
    "body", [{}, {"ttl_ms": 4999}, {"ttl_ms": 10**15}, {"ttl_ms": "9"}, {"ttl_ms": 9000, "id": 1}]
)
async def test_a_lease_out_of_bounds_is_refused(body: Any, http: httpx.AsyncClient) -> None:
    assert error_of(await http.post("/v1/leases", json=body), 400) == "bad_request"


# --- watches ------------------------------------------------------------------------------------

Told = tuple[str, int | None, dict[str, Any]]


@asynccontextmanager
async def watching(
    http: httpx.AsyncClient, query: str, last: int | None = None
) -> AsyncIterator[AsyncIterator[Told]]:
    headers = {"accept": "text/event-stream"}
    if last is not None:
        headers["last-event-id"] = str(last)
    async with http.stream("GET", f"/v1/watch?{query}", headers=headers) as response:
        assert response.status_code == 200

        async def events() -> AsyncIterator[Told]:
            fields: dict[str, str] = {}
            async for line in response.aiter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                elif fields:
                    id_ = int(fields["id"]) if "id" in fields else None
                    yield fields["event"], id_, json.loads(fields["data"])
                    fields = {}

        yield events()


async def test_changes_of_a_prefix_are_told_from_any_revision_on(http: httpx.AsyncClient) -> None:
    await fill(http, "app/1", "other", "app/2")
    async with watching(http, "prefix=app/&revision=1") as events:
        name, id_, data = await anext(events)
        assert (name, id_, data) == ("progress", 0, {"revision": 0})
        for revision, key in ((1, "app/1"), (3, "app/2")):
            name, id_, data = await anext(events)
            assert (name, id_, data["revision"]) == ("changes", revision, revision)
            (event,) = data["events"]
            assert (event["type"], event["key"], event["value"]) == ("put", key, key)
        await http.delete("/v1/kv/app/1")
        _, id_, data = await anext(events)
        assert data["events"] == [{"type": "delete", "key": "app/1", "mod_revision": 4}]
    await http.put("/v1/kv/app/9", content=b"while away")
    async with watching(http, "prefix=app/&revision=1", last=4) as events:
        await anext(events)
        _, id_, data = await anext(events)
        assert id_ == 5 and data["events"][0]["value"] == "while away"


async def test_a_watch_without_a_revision_begins_now(http: httpx.AsyncClient) -> None:
    await fill(http, "a")
    async with watching(http, "key=a") as events:
        assert await anext(events) == ("progress", 1, {"revision": 1})
        await fill(http, "b", "a")
        assert (await anext(events))[1] == 3


async def test_a_transaction_is_told_whole(http: httpx.AsyncClient) -> None:
    async with watching(http, "prefix=") as events:
        await anext(events)
        puts = [{"put": {"key": key, "value": ""}} for key in "cab"]
        await txn(http, {"then": puts})
        _, id_, data = await anext(events)
        assert id_ == 1 and [e["key"] for e in data["events"]] == ["c", "a", "b"]


async def test_progress_is_told_when_nothing_matches(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "WATCH_KEEPALIVE_S", 0.02)
    async with watching(http, "key=quiet") as events:
        await fill(http, "a", "b")
        async for name, id_, _ in events:
            assert name == "progress"
            if id_ == 2:
                break


async def test_a_watch_from_a_forgotten_revision_is_refused(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "REVISIONS_MAX", 4)
    await fill(http, *"abcdefghij")
    headers = {"accept": "text/event-stream"}
    response = await http.get("/v1/watch?prefix=&revision=2", headers=headers)
    assert error_of(response, 410) == "compacted"
    # what is watched on from is the revision of a read
    revision = (await http.get("/v1/kv?prefix=")).json()["revision"]
    async with watching(http, f"prefix=&revision={revision + 1}") as events:
        await anext(events)
        await fill(http, "k")
        assert (await anext(events))[1] == revision + 1


async def test_a_reader_that_is_too_slow_is_told_so_and_queues_nothing(
    http: httpx.AsyncClient, node: KvNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "REVISIONS_MAX", 8)
    value = bytes(60_000)
    async with watching(http, "prefix=a") as events:
        assert (await anext(events))[0] == "progress"
        for _ in range(400):  # far more than sockets hold
            await node.kv.put(b"a", value)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(40):
            await node.kv.put(b"a", value)
        told = [(name, id_, data) async for name, id_, data in events]
    name, _, data = told[-1]
    assert name == "error" and data["error"]["code"] == "compacted"
    ids = [id_ for name, id_, _ in told if name == "changes"]
    assert ids == list(range(1, len(ids) + 1)) and len(ids) < 440


async def test_a_watch_needs_the_right_accept_header(http: httpx.AsyncClient) -> None:
    assert error_of(await http.get("/v1/watch?key=a"), 406) == "not_acceptable"
    headers = {"accept": "text/event-stream", "last-event-id": "x"}
    assert error_of(await http.get("/v1/watch?key=a", headers=headers), 400) == "bad_request"
