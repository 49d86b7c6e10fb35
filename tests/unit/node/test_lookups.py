"""Name servers that hang, and what goes on meanwhile."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from node import lookups
from node.lookups import NameLookups


class Resolver:
    """Answers when it is let; counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.answer = threading.Event()

    def look_up(self, host: bytes, port: int, *_: Any) -> Any:
        self.asked.append(host)
        self.answer.wait(30)
        if host == b"gone.example":
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.7", port))]


@pytest.fixture
def resolver() -> Iterator[Resolver]:
    resolver = Resolver()
    yield resolver
    resolver.answer.set()  # its threads end


async def ask(host: str) -> Any:
    return await trio.socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)


async def ask_and_give_up(*hosts: str) -> None:
    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(ask, host)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_dead_name_server_takes_no_thread_that_anybody_else_needs(
    resolver: Resolver,
) -> None:
    trio.socket.set_custom_hostname_resolver(NameLookups(resolver.look_up))
    for _ in range(60):  # more than trio has threads
        await ask_and_give_up("one.example", "two.example")
    assert sorted(resolver.asked) == [b"one.example", b"two.example"]
    assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
    with trio.fail_after(10):
        assert await trio.to_thread.run_sync(lambda: "done") == "done"


async def test_all_who_ask_for_a_name_share_one_answer_and_the_next_one_asks_anew(
    resolver: Resolver,
) -> None:
    trio.socket.set_custom_hostname_resolver(NameLookups(resolver.look_up))
    found: list[Any] = []

    async def one(host: str) -> None:
        try:
            found.append((await ask(host))[0][4])
        except OSError as error:
            found.append(error.args[0])

    async with trio.open_nursery() as nursery:
        for host in ("one.example", "one.example", "gone.example", "gone.example"):
            nursery.start_soon(one, host)
        await trio.testing.wait_all_tasks_blocked()
        resolver.answer.set()
    assert sorted(map(str, found)) == ["('192.0.2.7', 443)"] * 2 + [str(socket.EAI_NONAME)] * 2
    assert len(resolver.asked) == 2
    await one("one.example")
    assert len(resolver.asked) == 3


async def test_no_more_names_than_a_bound_are_looked_up_at_once(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookups, "LOOKUPS_MAX", 2)
    trio.socket.set_custom_hostname_resolver(NameLookups(resolver.look_up))
    await ask_and_give_up("one.example", "two.example")
    with pytest.raises(OSError, match="2 names are looked up now"):
        await ask("three.example")
    assert (await ask("127.0.0.1"))[0][4] == ("127.0.0.1", 443)  # no name, no lookup
