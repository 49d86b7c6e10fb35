"""The agent client: right against a real conversation, bounded and typed against any other."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from attest import (
    AgentError,
    AgentProtocolError,
    AgentRefused,
    AgentTimeout,
    AgentUnavailable,
    AgentVersion,
    ApiNotMounted,
    GuestAgent,
    MethodMissing,
    SecretKey,
)
from attest.strict_json import hex_bytes, parse_object
from deploy.simulator import instance_id
from deploy.simulator.kms import get_key_v0, get_key_v1

SEED = b"\x07" * 20
SECRET_HEX = "7c019ee7f279e47ef73ebf7dcb6844f398db2e06ea0dc4e45e528483ab924b57"
KEY_REPLY = {"key": SECRET_HEX, "signature_chain": ["01" * 65, "02" * 65]}


def body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


@pytest.fixture
async def agent(tmp_path: Path, world: Any, simulate: Any) -> GuestAgent:
    path = str(tmp_path / "agent.sock")
    await simulate(world, {path: SEED})
    return GuestAgent(path)


async def test_the_simulator_is_read_like_an_agent(agent: GuestAgent, world: Any) -> None:
    info = await agent.info()
    assert info.app_id == world.app_id
    assert info.instance_id == instance_id(SEED, world.app_id)
    assert len(info.compose_hash) == len(info.device_id) == 32
    assert len(info.os_image_hash) == len(info.mr_aggregated) == 32
    assert await agent.version() == AgentVersion("0.6.0", "simulator")
    assert await agent.supports_v1()


async def test_keys_come_with_their_public_half_and_chain(agent: GuestAgent, world: Any) -> None:
    key = await agent.get_key_v0("a/path", "a purpose")
    expected = get_key_v0(world.app, "a/path", "a purpose", "")
    assert key.secret.reveal() == expected.key
    assert key.public_key == expected.public_key
    assert (key.app_signature, key.kms_signature) == expected.signature_chain

    key = await agent.get_key_v1("a domain")
    expected = get_key_v1(world.app, "a domain", "secp256k1")
    assert key.secret.reveal() == expected.key
    assert key.public_key == expected.public_key
    assert (key.app_signature, key.kms_signature) == expected.signature_chain


async def test_v1_is_not_seen_where_it_is_not_mounted(
    tmp_path: Path, world: Any, simulate: Any
) -> None:
    path = str(tmp_path / "agent.sock")
    await simulate(world, {path: SEED}, serves_v1=False)
    agent = GuestAgent(path)
    assert not await agent.supports_v1()
    assert await agent.version() == AgentVersion("0.5.11", "simulator")
    with pytest.raises(ApiNotMounted) as caught:
        await agent.get_key_v1("domain")
    assert caught.value.status == 404


async def test_info_comes_from_v1_where_v0_is_gone(
    tmp_path: Path, world: Any, simulate: Any
) -> None:
    path = str(tmp_path / "agent.sock")
    await simulate(world, {path: SEED}, serves_v0=False)
    info = await GuestAgent(path).info()
    assert info.app_id == world.app_id
    assert info.app_compose and not info.tcb_info


async def test_an_agent_from_before_the_version_method_has_no_version(fake_agents: Any) -> None:
    async with fake_agents.answering(body(error="Service not found: Version"), 404) as path:
        assert await GuestAgent(path).version() is None
        assert not await GuestAgent(path).supports_v1()
        with pytest.raises(MethodMissing):
            await GuestAgent(path).get_key_v0("p", "p")


async def test_the_agents_error_text_is_kept(fake_agents: Any) -> None:
    async with fake_agents.answering(body(error="KMS is unreachable"), 400) as path:
        with pytest.raises(AgentRefused) as caught:
            await GuestAgent(path).get_key_v0("p", "p")
    assert caught.value.agent_text == "KMS is unreachable"
    assert caught.value.status == 400
    assert "/GetKey: the agent answered 400: KMS is unreachable" in str(caught.value)


@pytest.mark.parametrize("status", [400, 404, 500])
async def test_hostile_error_text_is_made_harmless(fake_agents: Any, status: int) -> None:
    text = f"\x1b[2J\r\nfake log line\0 \u202e key={SECRET_HEX} " + "x" * 100_000
    async with fake_agents.answering(body(error=text), status) as path:
        with pytest.raises(AgentRefused) as caught:
            await GuestAgent(path).get_key_v0("p", "p")
    for shown in (str(caught.value), repr(caught.value), caught.value.agent_text):
        assert shown.isprintable()
        assert len(shown) < 500
        assert SECRET_HEX not in shown
        assert SECRET_HEX[:32] not in shown


@pytest.mark.parametrize(
    "answer", [b"", b"<html>", b"[]", body(error=5), body(), b"\xff", b"[" * 9]
)
async def test_an_error_without_a_text_is_still_an_error(fake_agents: Any, answer: bytes) -> None:
    async with fake_agents.answering(answer, 500) as path:
        with pytest.raises(AgentRefused) as caught:
            await GuestAgent(path).info()
    assert caught.value.agent_text == ""
    assert "500" in str(caught.value)


BAD_JSON = {
    "empty": b"",
    "html": b"<html>hello</html>",
    "list": b"[]",
    "text": b'"x"',
    "null": b"null",
    "truncated": b'{"key": "',
    "trailing": body(**KEY_REPLY) + b"{}",
    "two keys": b'{"key": "00", ' + body(**KEY_REPLY)[1:],
    "not utf-8": b'{"key": "\xff\xfe"}',
    "utf-16": json.dumps(KEY_REPLY).encode("utf-16"),
    "nan": b'{"x": NaN, ' + body(**KEY_REPLY)[1:],
    "deep": b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b", " + body(**KEY_REPLY)[1:],
    "long number": b'{"x": ' + b"9" * 10_000 + b", " + body(**KEY_REPLY)[1:],
}


@pytest.mark.parametrize("case", BAD_JSON)
async def test_anything_but_one_json_object_is_refused(fake_agents: Any, case: str) -> None:
    async with fake_agents.answering(BAD_JSON[case]) as path:
        with pytest.raises(AgentProtocolError) as caught:
            await GuestAgent(path).get_key_v0("p", "p")
    assert SECRET_HEX not in str(caught.value)
    assert caught.value.__cause__ is None


BAD_KEYS = {
    "no key": {"key": None},
    "number": {"key": 5},
    "list": {"key": [SECRET_HEX]},
    "short": {"key": SECRET_HEX[:-2]},
    "long": {"key": SECRET_HEX + "00"},
    "odd": {"key": SECRET_HEX[:-1]},
    "prefixed": {"key": "0x" + SECRET_HEX[2:]},
    "spaced": {"key": " " + SECRET_HEX[:-2] + " "},
    "not hex": {"key": SECRET_HEX[:-1] + "g"},
    "other digits": {"key": SECRET_HEX[:-1] + "\u0663"},
    "surrogate": {"key": SECRET_HEX[:-1] + "\ud800"},
    "zero": {"key": "00" * 32},
    "above the order": {"key": "ff" * 32},
    "no chain": {"signature_chain": None},
    "empty chain": {"signature_chain": []},
    "one signature": {"signature_chain": ["01" * 65]},
    "three signatures": {"signature_chain": ["01" * 65] * 3},
    "short signature": {"signature_chain": ["01" * 64, "02" * 65]},
    "signature not hex": {"signature_chain": ["zz" * 65, "02" * 65]},
    "signature with spaces": {"signature_chain": [" " + "01" * 64 + " ", "02" * 65]},
    "typed signature": {"signature_chain": ["01" * 65, 7]},
    "mapped chain": {"signature_chain": {"0": "01" * 65, "1": "02" * 65}},
}


@pytest.mark.parametrize("case", BAD_KEYS)
async def test_a_key_answer_with_a_wrong_field_is_refused(fake_agents: Any, case: str) -> None:
    async with fake_agents.answering(body(**(KEY_REPLY | BAD_KEYS[case]))) as path:
        with pytest.raises(AgentProtocolError, match="field") as caught:
            await GuestAgent(path).get_key_v0("p", "p")
    assert SECRET_HEX[:16] not in str(caught.value)


async def test_a_v1_key_must_fit_the_public_key_beside_it(fake_agents: Any) -> None:
    other = SecretKey(b"\x01" * 32).public_key().hex()
    async with fake_agents.answering(body(**KEY_REPLY, public_key=other)) as path:
        with pytest.raises(AgentProtocolError, match="public_key"):
            await GuestAgent(path).get_key_v1("domain")


BAD_INFOS = {
    "no app": {"app_id": ""},
    "short app": {"app_id": "aa" * 19},
    "instance of 32 bytes": {"instance_id": "aa" * 32},
    "compose hash of 20 bytes": {"compose_hash": "aa" * 20},
    "name is a list": {"app_name": ["x"]},
    "long name": {"app_name": "x" * 10_000},
    "tcb_info is no JSON": {"tcb_info": "{"},
    "tcb_info is an object": {"tcb_info": {}},
    "tcb_info holds a wrong hash": {"tcb_info": '{"device_id": "zz"}'},
    "tcb_info holds half a character": {"tcb_info": "\ud800"},
}


@pytest.mark.parametrize("case", BAD_INFOS)
async def test_an_info_answer_with_a_wrong_field_is_refused(fake_agents: Any, case: str) -> None:
    good = {"app_id": "aa" * 20, "instance_id": "bb" * 20, "tcb_info": "{}"}
    async with fake_agents.answering(body(**(good | BAD_INFOS[case]))) as path:
        with pytest.raises(AgentProtocolError):
            await GuestAgent(path).info()


async def test_older_and_newer_info_answers_are_read(fake_agents: Any) -> None:
    reply = {
        "app_id": "AA" * 20,
        "app_name": "evil\nname",
        "tcb_info": json.dumps({"compose_hash": "cc" * 32, "device_id": ""}),
        "a_field_of_the_future": {"x": [1]},
    }
    async with fake_agents.answering(body(**reply)) as path:
        info = await GuestAgent(path).info()
    assert info.instance_id == b""
    assert info.compose_hash == b"\xcc" * 32
    assert info.app_name == "evil?name"


HTTP_GARBAGE = {
    "not http": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "http 0.9": b"hello\n",
    "bad status": b"HTTP/1.1 abc\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
    "negative length": b"HTTP/1.1 200 x\r\nContent-Length: -2\r\n\r\n{}",
    "huge length": b"HTTP/1.1 200 x\r\nContent-Length: " + b"9" * 4000 + b"\r\n\r\n{}",
    "length above limit": b"HTTP/1.1 200 x\r\nContent-Length: 1048577\r\n\r\n",
    "bad chunk": b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    "unknown coding": b"HTTP/1.1 200 x\r\nTransfer-Encoding: gzip\r\n\r\n{}",
    "header without end": b"HTTP/1.1 200 x\r\nX: " + b"x" * 100_000,
    "headers without end": b"HTTP/1.1 200 x\r\n" + b"X: y\r\n" * 10_000,
    "control byte in header": b"HTTP/1.1 200 x\r\nX: \0\r\n\r\n{}",
    "binary": bytes(range(256)) * 4,
}


@pytest.mark.parametrize("case", HTTP_GARBAGE)
async def test_what_is_not_http_is_refused(fake_agents: Any, case: str) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(HTTP_GARBAGE[case])

    async with fake_agents.running(script) as path:
        with pytest.raises(AgentProtocolError) as caught:
            await GuestAgent(path).info()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


async def test_a_body_without_end_is_cut_off_at_the_limit(fake_agents: Any) -> None:
    sent = 0

    async def script(stream: trio.SocketStream) -> None:
        nonlocal sent
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 x\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65536)
            sent += 65536

    async with fake_agents.running(script) as path:
        with pytest.raises(AgentProtocolError, match="exceeds 1048576 bytes"):
            await GuestAgent(path).info()
    assert sent < 4 * 1024 * 1024


@pytest.mark.parametrize(
    ("head", "flood"),
    [
        (b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000),
        (b"", b"HTTP/1.1 100 x\r\n\r\n" * 3_000),
    ],
    ids=["tiny chunks", "informational answers"],
)
async def test_framing_without_content_is_cut_off_too(
    fake_agents: Any, head: bytes, flood: bytes
) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(head)
        while True:
            await stream.send_all(flood)

    async with fake_agents.running(script) as path:
        with pytest.raises(AgentProtocolError, match="exceeds"):
            await GuestAgent(path, body_bytes_max=100_000).info()


async def test_a_slow_drip_ends_at_the_deadline(fake_agents: Any, autojump_clock: Any) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(b"HTTP/1.1 200 x\r\nContent-Length: 100000\r\n\r\n{")
        while True:
            await trio.sleep(1)
            await stream.send_all(b" ")

    async with fake_agents.running(script) as path:
        with pytest.raises(AgentTimeout, match="/Info: no whole answer within 10 s"):
            await GuestAgent(path).info()


async def test_a_silent_agent_ends_at_the_deadline(fake_agents: Any, autojump_clock: Any) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with fake_agents.running(script) as path:
        with pytest.raises(AgentTimeout):
            await GuestAgent(path, deadline_s=3).get_key_v0("p", "p")


CUTS = {
    "at once": b"",
    "inside the body": b"HTTP/1.1 200 x\r\nContent-Length: 100\r\n\r\n{",
    "inside a chunk": b"HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
}


@pytest.mark.parametrize("case", CUTS)
async def test_an_agent_that_dies_while_answering_is_unavailable(
    fake_agents: Any, case: str
) -> None:
    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        await stream.send_all(CUTS[case])

    async with fake_agents.running(script) as path:
        with pytest.raises(AgentUnavailable):
            await GuestAgent(path).info()


async def test_no_socket_and_no_listener_are_unavailable(tmp_path: Path) -> None:
    missing, plain, long = tmp_path / "missing", tmp_path / "plain", tmp_path / ("x" * 200)
    plain.write_text("")
    for path in (missing, plain, long):
        with pytest.raises(AgentUnavailable) as caught:
            await GuestAgent(str(path)).info()
        assert str(path) in str(caught.value)


async def test_without_a_configured_path_the_first_living_socket_is_taken(
    tmp_path: Path, world: Any, simulate: Any
) -> None:
    new, old, third = (str(tmp_path / name) for name in ("new", "old", "third"))
    agent = GuestAgent(default_sockets=(new, old, third))
    with pytest.raises(AgentUnavailable) as caught:
        await agent.info()
    assert new in str(caught.value) and third in str(caught.value)
    await simulate(world, {third: b"\x03" * 20})
    assert (await agent.info()).instance_id == instance_id(b"\x03" * 20, world.app_id)
    await simulate(world, {old: b"\x02" * 20})
    assert (await agent.info()).instance_id == instance_id(b"\x02" * 20, world.app_id)


async def test_environment_variables_cannot_redirect_the_client(
    tmp_path: Path, world: Any, simulate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "other")
    await simulate(world, {path: SEED})
    for name in ("DSTACK_SIMULATOR_ENDPOINT", "DSTACK_AGENT_ADDRESS"):
        monkeypatch.setenv(name, path)
    with pytest.raises(AgentUnavailable):
        await GuestAgent(default_sockets=(str(tmp_path / "none"),)).info()


async def test_waiting_ends_when_the_agent_comes_up(
    tmp_path: Path, world: Any, simulate: Any, nursery: trio.Nursery
) -> None:
    path = str(tmp_path / "agent.sock")
    attempts: list[tuple[int, AgentError]] = []
    failed_twice = trio.Event()

    def note(attempt: int, error: AgentError) -> None:
        attempts.append((attempt, error))
        if attempt == 2:
            failed_twice.set()

    async def come_up() -> None:
        await failed_twice.wait()
        await simulate(world, {path: SEED})

    nursery.start_soon(come_up)
    info = await GuestAgent(path).wait_ready(on_attempt=note, backoff_s=0.01)
    assert info.app_id == world.app_id
    assert [number for number, _ in attempts] == list(range(1, len(attempts) + 1))
    assert all(isinstance(error, AgentUnavailable) for _, error in attempts)


async def test_waiting_outlasts_refusals_and_silence(fake_agents: Any, autojump_clock: Any) -> None:
    good = body(app_id="aa" * 20)

    async def script(stream: trio.SocketStream) -> None:
        await stream.receive_some(65536)
        if fake_agents.connections == 1:
            await stream.send_all(b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n")
        elif fake_agents.connections == 2:
            await trio.sleep_forever()
        else:
            await stream.send_all(
                b"HTTP/1.1 200 x\r\nContent-Length: %d\r\n\r\n" % len(good) + good
            )

    kinds: list[type] = []
    async with fake_agents.running(script) as path:
        await GuestAgent(path).wait_ready(on_attempt=lambda _, error: kinds.append(type(error)))
    assert kinds == [AgentRefused, AgentTimeout]


async def test_waiting_can_be_cancelled(tmp_path: Path) -> None:
    with trio.move_on_after(0.05) as scope:
        await GuestAgent(str(tmp_path / "never")).wait_ready(backoff_s=0.01)
    assert scope.cancelled_caught


async def test_waiting_does_not_hope_for_another_protocol(fake_agents: Any) -> None:
    async with fake_agents.answering(b"<html>", 404) as path:
        with pytest.raises(ApiNotMounted):
            await GuestAgent(path).wait_ready()
    os.unlink(path)
    async with fake_agents.answering(b"hello") as path:
        with pytest.raises(AgentProtocolError):
            await GuestAgent(path).wait_ready()


async def test_many_calls_at_once_do_not_mix(agent: GuestAgent, world: Any) -> None:
    keys: dict[str, bytes] = {}

    async def ask(path: str) -> None:
        keys[path] = (await agent.get_key_v0(path, path)).public_key

    async with trio.open_nursery() as nursery:
        for index in range(30):
            nursery.start_soon(ask, f"path/{index}")
    assert keys == {path: get_key_v0(world.app, path, path, "").public_key for path in keys}
    assert len(set(keys.values())) == 30


async def test_names_too_long_for_the_agent_are_not_sent(tmp_path: Path) -> None:
    agent = GuestAgent(str(tmp_path / "none"))
    for call in (agent.get_key_v1("x" * 1025), agent.get_key_v0("x" * 1025, "p")):
        with pytest.raises(ValueError):
            await call


@given(st.binary(max_size=200))
def test_the_json_reader_gives_an_object_or_its_one_error(data: bytes) -> None:
    with suppress(AgentProtocolError):
        assert isinstance(parse_object(data), dict)


@given(st.binary(max_size=40))
def test_hex_round_trips(data: bytes) -> None:
    assert hex_bytes(data.hex(), "x", len(data)) == data
    assert hex_bytes(data.hex().upper(), "x", len(data)) == data
    with pytest.raises(AgentProtocolError):
        hex_bytes(data.hex(), "x", len(data) + 1)
