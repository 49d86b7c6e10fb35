"""The command line as a user meets it: real processes for the frame, calls for the rest."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import trio
from memory_node import MemoryNode, make_config

import node.cli
from node.api import serve
from node.cli import main
from node.cli_talk import DEFAULT_API
from node.client import DEFAULT_URL, ApiClient, Refused
from node.facade import Busy


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[tuple[str, MemoryNode]]:
    """A node in memory behind the real API in a thread."""
    api = f"unix:{tmp_path}/api.sock"
    config = make_config(tmp_path, api={"listen": api})
    memory = MemoryNode()
    up = threading.Event()
    handles: list[Any] = []

    async def run() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve, memory, config)
            handles.extend((trio.lowlevel.current_trio_token(), nursery.cancel_scope))
            up.set()

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    assert up.wait(10)
    yield api, memory
    handles[0].run_sync_soon(handles[1].cancel)
    thread.join(10)
    assert not thread.is_alive()


def written(tmp_path: Path, **sections: dict[str, Any]) -> str:
    path = tmp_path / "node.toml"
    path.write_text(make_config(tmp_path, **sections).to_toml())
    return str(path)


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line on stderr of a command that has status 1."""
    assert main(list(argv)) == 1
    err = capsys.readouterr().err
    assert err.startswith("dstack-cluster: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


# --- the frame ----------------------------------------------------------------------------------


def test_help_is_quick_because_nothing_heavy_is_imported() -> None:
    code = (
        "import sys; from node.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as stop: assert stop.code == 0\n"
        "heavy = {'trio', 'httpx', 'libp2p', 'rich', 'starlette', 'hypercorn', 'structlog'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for command in ("run", "status", "kv", "config", "leader"):
        assert command in done.stdout


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"dstack-cluster {metadata.version('dstack-cluster')}\n"


@pytest.mark.parametrize("argv", [[], ["nothing"], ["kv"], ["kv", "put", "a"], ["run"]])
def test_a_wrong_command_line_has_status_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2


class Entry:
    def __init__(self, name: str, plugin: Any) -> None:
        self.name = name
        self._plugin = plugin

    def load(self) -> Any:
        if isinstance(self._plugin, Exception):
            raise self._plugin
        return self._plugin


def test_commands_of_other_packages_join_by_entry_point(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[list[str]] = []

    def plugin(argv: list[str]) -> int:
        calls.append(argv)
        return 3

    entries = [Entry("testnet", plugin), Entry("broken", ImportError("no such module"))]

    def entry_points(*, group: str) -> list[Entry]:
        assert group == "dstack_cluster.commands"
        return entries

    monkeypatch.setattr(node.cli.metadata, "entry_points", entry_points)
    assert main(["testnet", "up", "--nodes", "4", "--json"]) == 3
    assert calls == [["up", "--nodes", "4", "--json"]]
    assert "no such module" in failure(capsys, "broken")
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "broken, testnet" in capsys.readouterr().out


# --- questions to a node ------------------------------------------------------------------------


@pytest.mark.parametrize("question", ["status", "members", "peers", "leader"])
def test_every_question_has_a_readable_and_a_json_answer(
    question: str, daemon: tuple[str, MemoryNode], capsys: pytest.CaptureFixture[str]
) -> None:
    api, memory = daemon
    assert main([question, "--api", api]) == 0
    plain = capsys.readouterr().out
    assert "seat" in plain or "leader" in plain
    assert main([question, "--api", api, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    expected: Any = getattr(memory, question)()
    assert document == ({question: expected} if isinstance(expected, list) else expected)


def test_what_is_inside_of_a_status_is_on_lines_of_its_own_and_whole(
    daemon: tuple[str, MemoryNode],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api, memory = daemon
    monkeypatch.setenv("COLUMNS", "60")
    inside = {
        "reason": "",
        "node_key": 33 * "ab",
        "alarms": ["halted: one", "another"],
        "chain": {"alarm": None, "endpoints": [{"endpoint": "one", "ok": True}]},
        "attestation": {"members": {"1": {"attested": True}}, "held": []},
    }
    monkeypatch.setattr(memory, "status", lambda: inside)
    assert main(["status", "--api", api]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "reason                 -",
        "node key               " + 33 * "ab",
        "alarms                 halted: one",
        "alarms                 another",
        "chain.alarm            -",
        "chain.endpoints.1      endpoint=one, ok=yes",
        "attestation.members.1  attested=yes",
        "attestation.held       -",
    ]


def test_a_table_has_a_line_for_each_row_however_narrow_the_terminal(
    daemon: tuple[str, MemoryNode],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api, memory = daemon
    monkeypatch.setenv("COLUMNS", "20")
    row = {"seat": 2, "endpoint": "/dns4/" + 40 * "a" + ".example/tcp/9600", "connected": True}
    monkeypatch.setattr(memory, "peers", lambda: [row, row | {"seat": 30}])
    assert main(["peers", "--api", api]) == 0
    heads, *lines = capsys.readouterr().out.splitlines()
    assert heads.split() == ["seat", "endpoint", "connected"]
    assert [line.split() for line in lines] == [
        ["2", row["endpoint"], "yes"],
        ["30", row["endpoint"], "yes"],
    ]
    monkeypatch.setattr(memory, "evidence", lambda: [])
    assert main(["evidence", "--api", api]) == 0
    assert capsys.readouterr() == ("", "none\n")


@pytest.mark.parametrize(
    ("attestation", "shown"),
    [
        (None, "-"),
        ({"attested": True, "held": False, "refused": None}, "yes"),
        ({"attested": True, "held": True, "refused": None}, "held"),
        ({"attested": False, "held": False, "refused": {"reason": "old_quote"}}, "old_quote"),
    ],
)
def test_peers_say_in_a_word_what_their_evidence_came_to(
    daemon: tuple[str, MemoryNode],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    attestation: dict[str, Any] | None,
    shown: str,
) -> None:
    api, memory = daemon
    monkeypatch.setattr(memory, "peers", lambda: [{"seat": 2, "attestation": attestation}])
    assert main(["peers", "--api", api]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["2"] + [shown] * (
        attestation is not None
    )


def test_text_from_the_network_cannot_drive_the_terminal(
    daemon: tuple[str, MemoryNode], capsys: pytest.CaptureFixture[str]
) -> None:
    api, memory = daemon
    memory.other["endpoint"] = "\x1b[2J[bold]x"
    assert main(["peers", "--api", api]) == 0
    out = capsys.readouterr().out
    assert "\x1b[2J" not in out and "[bold]" in out


def test_keys_are_written_read_and_deleted(
    daemon: tuple[str, MemoryNode], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    api, memory = daemon
    at = ["--api", api]
    assert main(["kv", "put", "a/b", "wört", *at]) == 0
    assert capfdbinary.readouterr().out == b"revision 1 (the key was not there)\n"
    assert main(["kv", "get", "a/b", *at]) == 0
    assert capfdbinary.readouterr().out == "wört".encode()
    assert main(["kv", "get", "a/b", "--stale", "--json", *at]) == 0
    document = json.loads(capfdbinary.readouterr().out)
    assert document == {
        "key": "a/b",
        "value": "wört",
        "create_revision": 1,
        "mod_revision": 1,
        "version": 1,
        "lease": 0,
    }
    assert memory.reads == [True, False]
    assert main(["kv", "put", "a", "x", "--request-id", "r", "--json", *at]) == 0
    assert main(["kv", "put", "a", "x", "--request-id", "r", *at]) == 0
    assert memory.revision == 2
    assert main(["kv", "delete", "a", *at]) == 0
    assert list(memory.store) == [b"a/b"]


def test_a_value_may_come_from_stdin_and_need_not_be_text(
    daemon: tuple[str, MemoryNode],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    api, memory = daemon
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\x00")))
    assert main(["kv", "put", "a", "-", "--api", api]) == 0
    assert memory.store[b"a"].value == b"\xff\x00"
    capsys.readouterr()
    assert main(["kv", "get", "a", "--json", "--api", api]) == 0
    assert json.loads(capsys.readouterr().out)["value_base64"] == "/wA="


def test_failures_have_status_1_and_one_line(
    daemon: tuple[str, MemoryNode], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api, memory = daemon
    assert "no such key: none" in failure(capsys, "kv", "get", "none", "--api", api)
    assert "reserved_key" in failure(capsys, "kv", "put", "_cluster/a", "x", "--api", api)
    memory.failure = Busy("too many\ncommands")
    assert "busy: too many" in failure(capsys, "kv", "put", "a", "x", "--api", api)
    away = failure(capsys, "status", "--api", f"unix:{tmp_path}/none")
    assert "unreachable" in away and "DSTACK_CLUSTER_API" not in away
    assert "--api: expected http(s)" in failure(capsys, "status", "--api", "ftp://x")
    assert "cannot be read" in failure(
        capsys, "status", "--api", api, "--token-file", str(tmp_path / "none")
    )


def test_who_did_not_say_where_the_node_or_its_token_is_is_told_where_to_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert DEFAULT_API == DEFAULT_URL
    monkeypatch.delenv("DSTACK_CLUSTER_API", raising=False)
    monkeypatch.setattr("node.cli_talk.DEFAULT_API", "http://127.0.0.1:1")
    assert "--api, or the variable DSTACK_CLUSTER_API" in failure(capsys, "status")
    refused = Refused("expected Authorization: Bearer <token>")
    refused.code = "unauthorized"

    async def status(client: ApiClient) -> None:
        raise refused

    monkeypatch.setattr(ApiClient, "status", status)
    assert "--token-file, or the variable" in failure(capsys, "status")
    token = tmp_path / "token"
    token.write_text("a-wrong-token-of-enough-bytes")
    assert "--token-file, or" not in failure(capsys, "status", "--token-file", str(token))


# --- configuration and daemon -------------------------------------------------------------------


def test_config_show_prints_values_and_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path)
    monkeypatch.setenv("DSTACK_CLUSTER_LOG_LEVEL", "debug")
    argv = ["config", "show", "--config", file, "--set", "timing.heartbeat_ms=123"]
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert any("heartbeat_ms = 123" in line and "# flag" in line for line in out.splitlines())
    assert any('"debug"' in line and "# environment" in line for line in out.splitlines())
    assert main([*argv, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["timing"]["heartbeat_ms"] == {"value": 123, "source": "flag"}
    assert document["node"]["seat"]["source"] == file


def test_config_check_tells_dangers_and_refuses_what_would_not_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = written(tmp_path)
    assert main(["config", "check", "--config", file, "--insecure-simulator"]) == 0
    assert capsys.readouterr().out == "good; insecure: simulator, single_rpc, no_attestation\n"
    file = written(tmp_path, insecure={"no_attestation": False})
    assert "no_attestation" in failure(capsys, "config", "check", "--config", file)
    assert "cannot be read" in failure(
        capsys, "config", "check", "--config", str(tmp_path / "none")
    )
    for flag in ("chain.contract=0x00", "nothing", "x.y=1"):
        failure(capsys, "config", "check", "--config", file, "--set", flag)


def test_config_check_reads_the_files_that_a_daemon_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    file = written(tmp_path, api={"token_file": str(token)})
    argv = ["config", "check", "--config", file]
    assert "api.token_file" in failure(capsys, *argv)
    token.write_text("a-token-of-some-length")
    assert "mode 0600" in failure(capsys, *argv)
    token.chmod(0o600)
    assert main(argv) == 0
    capsys.readouterr()
    policy = tmp_path / "policy.json"
    argv[-1] = written(tmp_path, attestation={"policy_file": str(policy)})
    assert "attestation.policy_file" in failure(capsys, *argv)
    policy.write_text("{}")
    assert "expected a policy" in failure(capsys, *argv)


def test_run_starts_the_daemon_with_the_checked_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[Any] = []

    async def run_daemon(config: Any) -> int:
        await trio.lowlevel.checkpoint()
        seen.append(config)
        (tmp_path / "kept").touch()
        return 7

    module = ModuleType("node.daemon")
    module.run_daemon = run_daemon  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "node.daemon", module)
    monkeypatch.setattr("node.logs.configure_logging", lambda *_: None)
    mask = os.umask(0o022)
    try:
        assert main(["run", "--config", written(tmp_path), "--set", "node.seat=9"]) == 7
    finally:
        os.umask(mask)
    assert seen[0].node.seat == 9
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o600
    file = written(tmp_path, insecure={"no_attestation": False})
    assert "no_attestation" in failure(capsys, "run", "--config", file)
    assert len(seen) == 1
