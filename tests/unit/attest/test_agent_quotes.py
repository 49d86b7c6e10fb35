"""Quotes from the agent: v0 or v1, whichever it serves, and only over what was asked."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from dstack_containers import scale
from evidence_world import ENTRIES, EVENT_LOG, QUOTE, REPORT_DATA, with_byte

from attest import AgentProtocolError, AgentRefused, AgentTimeout, GuestAgent, parse_event_log

V0 = {"quote": QUOTE.hex(), "event_log": EVENT_LOG.decode(), "report_data": REPORT_DATA.hex()}
V1 = {"attestation": scale().hex()}
Script = Callable[[trio.SocketStream], Awaitable[None]]


def serving(asked: list[tuple[str, Any]], **replies: tuple[int, bytes]) -> Script:
    """An agent that answers by method: ``GetQuote`` of v0, ``Attest`` of v1."""

    async def script(stream: trio.SocketStream) -> None:
        received = await stream.receive_some(65536)
        head, _, body = received.partition(b"\r\n\r\n")
        target = head.split()[1].decode()
        asked.append((target, json.loads(body)))
        status, answer = replies.get(target.rsplit("/")[-1], (404, b"<html>"))
        await stream.send_all(
            f"HTTP/1.1 {status} x\r\nContent-Length: {len(answer)}\r\n\r\n".encode() + answer
        )

    return script


async def test_a_released_agent_is_asked_for_a_v0_quote(fake_agents: Any) -> None:
    asked: list[tuple[str, Any]] = []
    script = serving(asked, GetQuote=(200, json.dumps(V0).encode()))
    async with fake_agents.running(script) as path:
        quote, event_log = await GuestAgent(path).get_quote(REPORT_DATA)
    assert (quote, event_log) == (QUOTE, EVENT_LOG)
    assert asked == [("/GetQuote", {"report_data": REPORT_DATA.hex()})]


@pytest.mark.parametrize("v0", [(404, b"no such page"), (404, b'{"error": "Service not found"}')])
async def test_where_v0_is_gone_v1_attests(fake_agents: Any, v0: tuple[int, bytes]) -> None:
    asked: list[tuple[str, Any]] = []
    script = serving(asked, GetQuote=v0, Attest=(200, json.dumps(V1).encode()))
    async with fake_agents.running(script) as path:
        quote, event_log = await GuestAgent(path).get_quote(REPORT_DATA)
    assert quote == QUOTE
    assert parse_event_log(event_log) == parse_event_log(EVENT_LOG)
    assert [target for target, _ in asked] == ["/GetQuote", "/v1/Attest"]


async def test_a_stripped_log_is_passed_on_as_it_came(fake_agents: Any) -> None:
    stripped = json.dumps([{**entry, "digest": ""} for entry in ENTRIES])
    async with fake_agents.answering(json.dumps({**V0, "event_log": stripped}).encode()) as path:
        _, event_log = await GuestAgent(path).get_quote(REPORT_DATA)
    assert parse_event_log(event_log) == parse_event_log(EVENT_LOG)


@pytest.mark.parametrize(
    "reply",
    [
        {**V0, "quote": ""},
        {**V0, "quote": "zz"},
        {**V0, "quote": 7},
        {**V0, "quote": QUOTE.hex()[:-2]},
        {**V0, "quote": with_byte(QUOTE, 600).hex()},
        {**V0, "quote": "00" * 20_000},
        {**V0, "event_log": "x" * 200_000},
        {**V0, "event_log": None, "quote": None},
    ],
)
async def test_an_answer_that_is_no_quote_over_these_bytes_is_refused(
    fake_agents: Any, reply: dict[str, Any]
) -> None:
    async with fake_agents.answering(json.dumps(reply).encode()) as path:
        with pytest.raises(AgentProtocolError, match="field"):
            await GuestAgent(path).get_quote(REPORT_DATA)


async def test_a_bad_container_of_v1_is_refused(fake_agents: Any) -> None:
    script = serving([], Attest=(200, json.dumps({"attestation": "00ff"}).encode()))
    async with fake_agents.running(script) as path:
        with pytest.raises(AgentProtocolError, match="attestation"):
            await GuestAgent(path).get_quote(REPORT_DATA)


async def test_the_agents_own_words_are_kept_when_it_refuses(fake_agents: Any) -> None:
    body = b'{"error": "quote generation failed: no TDX"}'
    async with fake_agents.answering(body, status=400) as path:
        with pytest.raises(AgentRefused, match="no TDX"):
            await GuestAgent(path).get_quote(REPORT_DATA)


async def test_quotes_have_a_deadline_of_their_own(
    fake_agents: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async def silent(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await trio.sleep_forever()

    async with fake_agents.running(silent) as path:
        agent = GuestAgent(path, deadline_s=1, quote_deadline_s=40)
        with pytest.raises(AgentTimeout, match="within 40 s"):
            await agent.get_quote(REPORT_DATA)


async def test_report_data_is_whole(fake_agents: Any) -> None:
    for size in (0, 32, 65):
        with pytest.raises(ValueError, match="64"):
            await GuestAgent("/nowhere").get_quote(bytes(size))
