from __future__ import annotations

import ast
import errno
import io
import json
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import chain
import node
from node import network
from node.logs import (
    REDACTED,
    TEXT_LENGTH_MAX,
    configure_command_logging,
    configure_logging,
)

SECRET = bytes(range(32))


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def lines_of(out: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.getvalue().splitlines()]


def logged(**fields: Any) -> dict[str, Any]:
    out = io.StringIO()
    configure_logging("json", "debug", seat=3, stream=out)
    structlog.get_logger().info("event_name", **fields)
    (line,) = lines_of(out)
    return line


def test_seat_is_this_nodes_own_on_every_line_and_another_members_is_called_peer() -> None:
    found = []
    for path in [*Path(node.__path__[0]).rglob("*.py"), *Path(chain.__path__[0]).rglob("*.py")]:
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                logs = ast.unparse(call.func.value).endswith("log")
                if logs and any(keyword.arg == "seat" for keyword in call.keywords):
                    found.append(f"{path}:{call.lineno}")
    assert found == []


def test_a_line_is_one_json_object_with_seat_level_and_time() -> None:
    line = logged(height=4)
    assert line["event"] == "event_name"
    assert (line["seat"], line["level"], line["height"]) == (3, "info", 4)
    assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("secret", "short"),
        ("private_key", b"\1" * 32),
        ("privkey", "0x" + "ab" * 32),
        ("signing_key", "AB" * 32),
        ("key", SECRET),
        ("key", SECRET.hex()),
        ("seed", bytearray(SECRET)),
        ("key", int.from_bytes(SECRET[::-1], "big")),
        ("password", "hunter2"),
        ("token", "abcdef"),
        ("api_token", "abcdef"),
        ("Authorization", "Bearer abc"),
        ("mnemonic", "word word"),
    ],
)
def test_secrets_never_reach_a_line(name: str, value: Any) -> None:
    assert logged(**{name: value})[name] == REDACTED
    assert logged(outer={name: value})["outer"][name] == REDACTED
    assert logged(outer=[{name: value}])["outer"][0][name] == REDACTED


def test_public_values_stay_readable() -> None:
    public = "02" + "ab" * 32
    line = logged(node_key=public, block_hash="cd" * 32, fencing_token="1.4", key="user/1")
    assert line["node_key"] == public
    assert line["block_hash"] == "cd" * 32
    assert line["fencing_token"] == "1.4"
    assert line["key"] == "user/1"


@pytest.mark.parametrize("format", ["json", "pretty"])
def test_text_from_outside_cannot_forge_a_second_line_or_grow_it(format: str) -> None:
    out = io.StringIO()
    configure_logging(format, "info", stream=out)
    forged = 'x\n{"event":"forged"}\r\x1b[2J' + "y" * 10 * TEXT_LENGTH_MAX
    structlog.get_logger().warning(forged, why=forged)
    assert out.getvalue().count("\n") == 1
    assert "\x1b[2J" not in out.getvalue() and "\r" not in out.getvalue()
    assert len(out.getvalue()) < 3 * TEXT_LENGTH_MAX


def test_depth_and_breadth_of_values_are_bounded() -> None:
    deep: Any = 1
    for _ in range(50):
        deep = {"a": deep}
    line = logged(deep=deep, wide=list(range(10_000)), thing=object())
    assert len(json.dumps(line)) < 4_000


def test_exceptions_are_logged_with_their_traceback() -> None:
    out = io.StringIO()
    configure_logging("json", "info", stream=out)
    try:
        raise ValueError("broken")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = lines_of(out)
    assert "ValueError: broken" in line["exception"] and "\n" in line["exception"]


def test_a_commands_traceback_shows_no_variables(capsys: pytest.CaptureFixture[str]) -> None:
    structlog.reset_defaults()
    configure_command_logging()

    def fail(passphrase: str) -> None:
        raise ValueError("no such account")

    try:
        fail("correct horse")
    except ValueError:
        structlog.get_logger().exception("failed")
    written = capsys.readouterr().err
    assert "no such account" in written and "Traceback" in written
    assert "correct horse" not in written.replace('fail("correct horse")', "")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE])
def test_a_full_disk_or_a_reader_that_left_costs_lines_and_nothing_else(number: int) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(number, "gone")

        def flush(self) -> None:
            raise OSError(number, "gone")

    configure_logging(stream=Gone())
    structlog.get_logger("node").critical("a line")


def test_a_process_without_standard_error_logs_nowhere_and_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    configure_logging("pretty")
    structlog.get_logger("node").critical("a line")


def pipe() -> tuple[int, int]:
    return os.pipe()


def unix_sockets() -> tuple[int, int]:
    reader, writer = socket.socketpair()
    return reader.detach(), writer.detach()


def read_now(fd: int) -> list[str]:
    os.set_blocking(fd, False)
    data = b""
    try:
        while piece := os.read(fd, 65536):
            data += piece
    except BlockingIOError:
        pass
    os.set_blocking(fd, True)
    return data.decode().splitlines()


@pytest.mark.parametrize("make", [pipe, unix_sockets])
@pytest.mark.parametrize("library", [False, True])
def test_a_reader_of_the_log_that_stands_still_costs_lines_and_nothing_else(
    make: Callable[[], tuple[int, int]], library: bool
) -> None:
    reader, writer = make()
    write: Callable[[str], None]
    with os.fdopen(writer, "w") as out:
        configure_logging("json", "info", stream=out)
        if library:
            write = logging.getLogger("asyncio").warning
        else:
            write = structlog.get_logger("node").info
        writing = threading.Thread(
            target=lambda: [write(f"{n} " + 3000 * "x") for n in range(500)], daemon=True
        )
        writing.start()
        writing.join(20)
        assert not writing.is_alive(), "who logs waits for who reads"
        kept = read_now(reader)
        write("it reads again")
        told, newest = (json.loads(line) for line in read_now(reader)[-2:])
        os.close(reader)
    whole = [line for line in kept if line.endswith("}")]
    assert [json.loads(line)["event"].split()[0] for line in whole] == [
        str(n) for n in range(len(whole))
    ]
    assert (told["event"], told["level"]) == ("log_lines_lost", "warning")
    assert told["count"] == 500 - len(whole) and newest["event"] == "it reads again"


def test_a_line_longer_than_a_pipe_takes_at_once_is_whole_when_somebody_reads() -> None:
    reader, writer = os.pipe()
    found: list[bytes] = []

    def read() -> None:
        while piece := os.read(reader, 1000):
            found.append(piece)

    reading = threading.Thread(target=read, daemon=True)
    reading.start()
    with os.fdopen(writer, "w") as out:
        configure_logging("json", "info", stream=out)
        fields = {f"field{n}": 4000 * "y" for n in range(4)}
        structlog.get_logger("node").info("long", **fields)
    reading.join(20)
    os.close(reader)
    line = json.loads(b"".join(found))
    assert {name: line[name] for name in fields} == fields


def test_chatty_libraries_are_quiet_but_their_warnings_come_through_clean() -> None:
    out = io.StringIO()
    configure_logging("json", "debug", seat=2, stream=out)
    for name in ("httpx", "hypercorn.error"):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("trouble %s", "a\nb")
    lines = lines_of(out)
    assert [line["event"] for line in lines] == ["trouble a\\nb"] * 2
    assert {line["seat"] for line in lines} == {2}


def test_what_a_stranger_makes_the_handshake_library_say_is_no_line_of_ours() -> None:
    out = io.StringIO()
    configure_logging("json", "debug", stream=out)
    assert network.PeerUp  # the room is open: the library is imported
    for name in ("libp2p", "libp2p.protocol_muxer.multiselect_client"):
        logging.getLogger(name).error("handshake: %s", "whatever came")
    assert lines_of(out) == []


def test_levels_below_the_configured_one_are_not_written() -> None:
    out = io.StringIO()
    configure_logging("pretty", "warning", stream=out)
    structlog.get_logger().info("quiet")
    assert out.getvalue() == ""
