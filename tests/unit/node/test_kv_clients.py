"""Ranges, transactions, leases and watches through the SDK and the command line."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
from kv_node import KvNode
from memory_node import CONTRACT
from test_sdk import Daemon

from dstack_cluster import (
    Change,
    Compare,
    Delete,
    DStackP2PSDK,
    Found,
    Put,
    Range,
    Relation,
    RequestFailed,
    Target,
    Txn,
)
from node import cli_kv, history
from node.cli import main
from node.client import ApiClient, Unreachable
from node.facade import Busy, LeaseState, NodeError, NotDone, OutcomeUnknown, Unavailable


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """The real API over a node with the real machine, in a thread of its own."""
    one = Daemon(tmp_path)
    one.node = KvNode()
    one.start()
    yield one
    one.stop()


def sdk_of(daemon: Daemon) -> DStackP2PSDK:
    return DStackP2PSDK(CONTRACT, "https://me.example", api_url=daemon.api)


@pytest.mark.parametrize("loop", [trio.run, asyncio.run], ids=["trio", "asyncio"])
def test_an_application_uses_ranges_transactions_and_leases(daemon: Daemon, loop: Any) -> None:
    async def story() -> None:
        with anyio.fail_after(30):
            async with sdk_of(daemon) as sdk:
                lease = await sdk.grant_lease(10)
                mine = Txn(
                    (Compare(b"jobs/\xff", Target.CREATE, Relation.EQUAL, 0),),
                    (Put(b"jobs/\xff", b"\0me", lease), Range(b"jobs/\xff")),
                    (Delete(b"none", b"nonf"),),
                )
                won = await sdk.txn(mine)
                assert won.succeeded and won.responses is not None
                read = won.responses[1]
                assert isinstance(read, Found) and read.entries[0][1].value == b"\0me"
                assert not (await sdk.txn(mine)).succeeded
                await sdk.put("jobs/2", b"x")
                found = await sdk.list_keys("jobs/")
                assert [key for key, _ in found.entries] == [b"jobs/2", b"jobs/\xff"]
                assert found.entries[1][1].lease == lease
                await sdk.keep_alive(lease)
                assert await sdk.revoke_lease(lease) == 1
                assert await sdk.get(b"jobs/\xff") is None
                assert await sdk.get(b"jobs/\xff", revision=1) == b"\0me"
                with pytest.raises(RequestFailed) as caught:
                    await sdk.keep_alive(lease)
                assert caught.value.code == "no_lease"
                assert await sdk.delete_prefix("jobs/") == 1

    loop(story) if loop is trio.run else loop(story())


@pytest.mark.parametrize(
    ("txn", "what"),
    [
        (Txn((), (Put("lock", b"me"),)), "key: expected bytes; came str"),  # type: ignore[arg-type]
        (Txn((), (Put(b"lock", None),)), "value: expected bytes; came NoneType"),  # type: ignore[arg-type]
        (Txn((Compare(Target.VERSION, b"lock", Relation.EQUAL, 0),), ()), "key: .*came Target"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_bytes_is_told_at_once_and_nothing_is_sent(txn: Txn, what: str) -> None:
    sdk = DStackP2PSDK(CONTRACT, "https://me.example", api_url="http://127.0.0.1:1")
    with pytest.raises(TypeError, match=what):
        trio.run(sdk.txn, txn)
    with pytest.raises(TypeError, match="value: expected bytes; came NoneType"):
        trio.run(sdk.put, "lock", None)


@pytest.mark.parametrize("loop", [trio.run, asyncio.run], ids=["trio", "asyncio"])
def test_a_monitor_of_keys_has_no_gap_over_restarts(daemon: Daemon, loop: Any) -> None:
    told: list[tuple[int, bytes]] = []

    async def story() -> None:
        sdk = sdk_of(daemon)

        def on_changes(changes: list[Change], revision: int) -> None:
            told.extend((revision, c.key) for c in changes)
            if len(told) == 3 and not stopped.is_set():
                stopped.set()
            if len(told) == 6:
                raise StopIteration_

        class StopIteration_(Exception):
            pass

        with anyio.fail_after(40):
            await sdk.put("other", b"")
            for n in range(3):
                await sdk.put(f"k/{n}", b"")
            with pytest.raises(StopIteration_):
                await sdk.monitor_keys("k/", on_changes, after=0)

    stopped = threading.Event()

    def restart() -> None:
        assert stopped.wait(20)
        daemon.stop()
        for n in range(3, 6):  # while the API is away
            trio.run(daemon.node.kv.put, b"k/%d" % n, b"")
        daemon.start()

    thread = threading.Thread(target=restart)
    thread.start()
    loop(story) if loop is trio.run else loop(story())
    thread.join(20)
    assert told == [(n + 2, b"k/%d" % n) for n in range(6)]


def test_a_monitor_of_a_forgotten_past_says_so(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "REVISIONS_MAX", 4)

    async def story() -> None:
        sdk = sdk_of(daemon)
        for n in range(20):
            await sdk.put("k", b"%d" % n)
        with pytest.raises(RequestFailed) as caught, anyio.fail_after(20):
            await sdk.monitor_keys("k", lambda changes, revision: None, after=1)
        assert caught.value.code == "compacted"

    trio.run(story)


# --- the command line ---------------------------------------------------------------------------


def run(daemon: Daemon, capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Exit status and output of ``kv`` with these words."""
    status = main(["kv", *words, "--api", daemon.api])
    return status, capfd.readouterr().out


def test_ranges_and_the_past_on_the_command_line(
    daemon: Daemon, capfd: pytest.CaptureFixture[str]
) -> None:
    for key in ("a/1", "a/2", "b"):
        assert run(daemon, capfd, "put", key, f"v{key}")[0] == 0
    assert run(daemon, capfd, "put", "b", "new")[0] == 0
    assert run(daemon, capfd, "get", "a/", "--prefix") == (0, "a/1 = va/1\na/2 = va/2\n")
    assert run(daemon, capfd, "get", "", "--prefix", "--keys-only", "--limit", "2") == (
        0,
        "a/1\na/2\n",
    )
    assert run(daemon, capfd, "get", "b", "--rev", "3") == (0, "vb")
    assert run(daemon, capfd, "del", "a/", "--prefix") == (0, "revision 5, 2 keys deleted\n")
    _, shown = run(daemon, capfd, "get", "", "--prefix", "--json")
    (row,) = json.loads(shown)["entries"]
    assert (row["key"], row["value"], row["version"]) == ("b", "new", 2)


def test_a_transaction_on_the_command_line(
    daemon: Daemon, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "txn.json"
    compare = [{"key": "lock", "target": "version", "number": 0}]
    then = [{"put": {"key": "lock", "value": "me"}}]
    file.write_text(json.dumps({"compare": compare, "then": then}))
    status, out = run(daemon, capfd, "txn", str(file))
    assert (status, out) == (0, 'revision 1, then\n{"put": {"existed": false}}\n')
    assert run(daemon, capfd, "txn", str(file)) == (1, "revision 1, else\n")
    file.write_text("{")
    assert run(daemon, capfd, "txn", str(file))[0] == 1


def test_leases_on_the_command_line(daemon: Daemon, capfd: pytest.CaptureFixture[str]) -> None:
    _, number = run(daemon, capfd, "lease", "grant", "30")
    lease = number.strip()
    assert run(daemon, capfd, "put", "here", "x", "--lease", lease)[0] == 0
    kept = (0, f"lease {lease} runs for 30 s\n")
    assert run(daemon, capfd, "lease", "keepalive", lease, "--once") == kept
    assert run(daemon, capfd, "lease", "list") == (0, f"{lease}  30 s of 30 s\n")
    assert run(daemon, capfd, "lease", "show", lease) == (0, f"{lease}  30 s of 30 s\nhere\n")
    _, shown = run(daemon, capfd, "lease", "show", lease, "--json")
    assert json.loads(shown)["keys"] == [{"key": "here"}]
    assert run(daemon, capfd, "lease", "revoke", lease) == (0, "revision 2, 1 key deleted\n")
    assert run(daemon, capfd, "lease", "revoke", lease)[0] == 1
    assert run(daemon, capfd, "lease", "grant", "1")[0] == 1


@pytest.mark.parametrize("seconds", ["2", "1e11"])
def test_a_lease_that_is_too_short_or_long_is_refused_in_seconds(
    daemon: Daemon, seconds: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["kv", "lease", "grant", seconds, "--api", daemon.api]) == 1
    assert "a lease lives 5 to 316224000 s; came " in capfd.readouterr().err


def test_a_number_of_seconds_that_is_none_is_a_wrong_command_line(daemon: Daemon) -> None:
    for text in ("nan", "inf", "-1", "soon"):
        with pytest.raises(SystemExit, match="2"):
            main(["kv", "lease", "grant", "--api", daemon.api, "--", text])


def test_a_lease_is_kept_alive_through_restarts_and_changes_of_leader_until_it_ends(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_kv, "RECONNECT_S", 0.001)
    monkeypatch.setattr(cli_kv, "KEEP_ALIVE_PARTS", 1_000_000)
    kept = LeaseState(7, 30_000, 30_000)
    answers: list[LeaseState | NodeError] = [
        kept, Unreachable("x"), Unavailable("booting"), Busy("x"), kept, OutcomeUnknown("x"),
        NotDone("its time is over", "no_lease"),
    ]  # fmt: skip

    async def keep_alive(_: ApiClient, lease: int) -> LeaseState:
        answer = answers.pop(0)
        if isinstance(answer, NodeError):
            raise answer
        return answer

    monkeypatch.setattr(ApiClient, "keep_alive", keep_alive)
    assert main(["kv", "lease", "keepalive", "7"]) == 1
    assert "no_lease: its time is over" in capfd.readouterr().err and answers == []
    answers[:] = [Unreachable("nobody is there"), kept]
    assert main(["kv", "lease", "keepalive", "7"]) == 1, "the first time it is told at once"
    assert "nobody is there" in capfd.readouterr().err and answers == [kept]


def test_a_watch_on_the_command_line_waits_for_a_node_that_boots(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli_kv, "RECONNECT_S", 0.001)
    begun_after: list[int | None] = []

    @asynccontextmanager
    async def watch(
        _: ApiClient, key: bytes, end: bytes, after: int | None
    ) -> AsyncIterator[AsyncIterator[Any]]:
        begun_after.append(after)
        match len(begun_after):
            case 2:
                raise Unreachable("it is gone")
            case 3:
                raise Unavailable("registering the seat")

        async def batches() -> AsyncIterator[Any]:
            yield [Change(len(begun_after) + 4, key, None)], len(begun_after) + 4
            if len(begun_after) == 4:
                raise KeyboardInterrupt

        yield batches()

    monkeypatch.setattr(ApiClient, "watch", watch)
    assert main(["kv", "watch", "k"]) == 130
    assert begun_after == [None, 5, 5, 5]
    assert capfd.readouterr().out == "5 delete k\n8 delete k\n"


def test_a_watch_on_the_command_line_prints_what_it_missed(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for words in (("put", "a/1", "x\n"), ("put", "b", ""), ("delete", "a/1")):
        assert run(daemon, capfd, *words)[0] == 0
    count = 0
    tell = cli_kv._tell

    def interrupted(options: Any, change: Change) -> None:
        nonlocal count
        tell(options, change)
        count += 1
        if count == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_kv, "_tell", interrupted)
    status, out = run(daemon, capfd, "watch", "a/", "--prefix", "--rev", "1")
    assert (status, out) == (130, "1 put a/1 = x\\n\n3 delete a/1\n")
