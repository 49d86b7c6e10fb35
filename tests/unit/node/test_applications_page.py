"""The code of docs/applications.md does what the page says, under asyncio and trio."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import anyio
import pytest
from kv_node import KvNode
from memory_node import CONTRACT
from test_sdk import Daemon, Run
from test_sdk import run as run

from dstack_cluster import ClusterError, DStackP2PSDK, RequestFailed

PAGE = (Path(__file__).parents[3] / "docs" / "applications.md").read_text()
URL = "https://me.example"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """The real API over a node with the real machine, in a thread of its own."""
    one = Daemon(tmp_path)
    one.node = KvNode()
    one.start()
    yield one
    one.stop()


@pytest.fixture
def page() -> dict[str, Any]:
    """Everything that the page defines."""
    names: dict[str, Any] = {"__name__": "page"}
    exec("\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S)), names)
    return names


def sdk_of(daemon: Daemon) -> DStackP2PSDK:
    return DStackP2PSDK(CONTRACT, URL, api_url=daemon.api)


@pytest.mark.parametrize("package", ["dstack_cluster", "node", "consensus", "attest", "chain"])
def test_type_checkers_of_applications_are_told_that_there_are_types(package: str) -> None:
    assert resources.files(package).joinpath("py.typed").is_file()  # PEP 561


def test_the_first_lines_join_the_cluster_and_agree(
    daemon: Daemon, page: dict[str, Any], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    run(lambda: page["main"](CONTRACT, URL, daemon.api))
    out = capsys.readouterr().out
    assert f"peers ['{URL}', 'https://two.example']" in out and "leader (1, '1.4')" in out
    assert "b'hello'" in out


def test_code_that_is_not_asynchronous_reads(daemon: Daemon, page: dict[str, Any]) -> None:
    sdk = sdk_of(daemon)
    asyncio.run(sdk.put("a", b"1"))
    assert page["read_now"](sdk, "a") == b"1" and page["read_now"](sdk, "none") is None


def test_a_token_of_an_earlier_leader_is_refused_also_where_text_would_sort_it_later(
    page: dict[str, Any],
) -> None:
    guarded = page["Guarded"]()
    for token in ("0.9", "0.10", "0.10", "1.1"):
        guarded.write(token, token.encode())
        assert guarded.value == token.encode()
    for token in ("0.11", "1.0"):
        with pytest.raises(PermissionError):
            guarded.write(token, b"late")


def test_a_leader_writes_when_it_is_told_that_it_leads(
    daemon: Daemon, page: dict[str, Any], run: Run
) -> None:
    guarded = page["Guarded"]()

    async def story() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(page["lead_while_mine"], sdk_of(daemon), guarded)
            while not guarded.value:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    run(story)
    assert guarded.newest == (1, 4)


def test_all_get_the_value_that_was_proposed_first(
    daemon: Daemon, page: dict[str, Any], run: Run
) -> None:
    async def story() -> None:
        assert await page["agree"](sdk_of(daemon), "name", b"one") == b"one"
        assert await page["agree"](sdk_of(daemon), "name", b"two") == b"one"

    run(story)


def test_a_lock_has_one_holder_at_a_time_and_its_token_rises(
    daemon: Daemon, page: dict[str, Any], run: Run
) -> None:
    tokens: list[int] = []
    inside = 0

    async def work(name: bytes) -> None:
        nonlocal inside
        async with sdk_of(daemon) as sdk, page["locked"](sdk, "lock", name) as token:
            inside += 1
            assert inside == 1 and await sdk.get("lock") == name
            assert await page["write_as_holder"](sdk, "lock", token, "work", name)
            if tokens:
                assert not await page["write_as_holder"](sdk, "lock", tokens[-1], "work", b"late")
            tokens.append(token)
            inside -= 1

    async def story() -> None:
        async with anyio.create_task_group() as tasks:
            for n in range(4):
                tasks.start_soon(work, b"%d" % n)
        assert await sdk_of(daemon).get("lock") is None

    run(story)
    assert len(tokens) == 4 and tokens == sorted(set(tokens))


def test_who_loses_the_lock_is_cancelled(daemon: Daemon, page: dict[str, Any], run: Run) -> None:
    page["TTL_S"] = 6.0

    async def story() -> None:
        sdk, reached = sdk_of(daemon), False
        try:
            async with page["locked"](sdk, "lock", b"me"):
                entry = (await sdk.list_keys("lock")).entries[0][1]
                await sdk.revoke_lease(entry.lease)  # as if its time were over
                await anyio.sleep(30)
                reached = True
        except (BaseExceptionGroup, ClusterError) as error:
            assert "no_lease" in repr(error)
        assert not reached

    run(story)


def test_a_follower_of_a_configuration_sees_what_is_there_and_each_change(
    daemon: Daemon, page: dict[str, Any], run: Run
) -> None:
    async def story() -> None:
        sdk = sdk_of(daemon)
        known: dict[bytes, bytes] = {}
        await sdk.put("conf/a", b"1")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(page["follow"], sdk, "conf/", known)
            await sdk.put("conf/b", b"2")
            await sdk.delete("conf/a")
            await sdk.put("other", b"3")
            while known != {b"conf/b": b"2"}:
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()

    run(story)


def test_the_table_of_failures_names_exceptions_and_codes_that_there_are(
    daemon: Daemon, run: Run
) -> None:
    import dstack_cluster
    from node.client import _BY_CODE, _NOT_DONE

    table = PAGE.partition("| exception |")[2].partition("\n\n")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    names = set(re.findall(r"`([A-Z]\w+)`", "".join(first)))
    mistakes = {ClusterError.__name__}
    assert names | mistakes == {
        name
        for name in dstack_cluster.__all__
        if isinstance(kind := getattr(dstack_cluster, name), type)
        and issubclass(kind, ClusterError)
    }
    codes = set(re.findall(r"`([a-z_]+)`", "".join(first)))
    assert codes <= {*_BY_CODE, *_NOT_DONE} and issubclass(RequestFailed, ClusterError)
