"""A running command shows its key to nobody: not in the process list, not in what it prints."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from eth_account import Account

from chain.deployment import FORMAT
from chain.keys import keccak256
from deploy.operator.cli import _parser

SECRET = keccak256(b"a secret of the process list")
PASSWORD = "a password that nobody types"
API_KEY = "of-a-paid-endpoint"


@pytest.fixture
def silent_rpc() -> Iterator[tuple[str, threading.Event, threading.Event]]:
    """An endpoint that answers nothing; when it was asked, and what makes it hang up."""
    asked, enough = threading.Event(), threading.Event()
    kept: list[socket.socket] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            kept.append(stream)
            asked.set()
            enough.wait()
            stream.close()

    threading.Thread(target=run, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked, enough
    enough.set()
    listener.shutdown(socket.SHUT_RDWR)
    for stream in [listener, *kept]:
        stream.close()


def deployment(path: Path) -> Path:
    path.write_text(
        f'{{"format": {FORMAT}, "chain_id": 31337, "contract": "0x{"11" * 20}",'
        f' "deploy_block": 1, "code_hash": "0x{"22" * 32}", "kms_roots": ["0x{"33" * 20}"],'
        ' "insecure": [], "others": []}'
    )
    return path


def test_an_rpc_url_with_an_api_key_may_stand_in_a_file(tmp_path: Path) -> None:
    words = tmp_path / "chain.args"
    words.write_text("--rpc\nhttps://one.example/v2/an-api-key\n--rpc\nhttps://two.example\n")
    options = _parser().parse_args(["root", "revoke", f"@{words}", "--key-file", "k", "3"])
    assert options.rpc == ["https://one.example/v2/an-api-key", "https://two.example"]
    assert (options.epoch, options.yes) == (3, False)


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        ("https://one.example/an-api-key\n", 0o600, ""),
        ("https://one.example/an-api-key\n", 0o644, "open to others"),
        ("one.example/an-api-key", 0o600, "does not hold one http(s) URL"),
        ("https://one.example/an-api-key https://two.example", 0o600, "does not hold one"),
        ("https://one.example/an-api-key" + 3000 * "y", 0o600, "longer than"),
    ],
)
def test_an_rpc_url_may_stand_in_a_file_of_its_own_that_is_closed_to_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, mode: int, expected: str
) -> None:
    file = tmp_path / "rpc.url"
    file.write_text(text)
    file.chmod(mode)
    words = ["root", "revoke", "--rpc", f"file:{file}", "--key-file", "k", "3"]
    if not expected:
        assert _parser().parse_args(words).rpc == [text.strip()]
        return
    with pytest.raises(SystemExit):
        _parser().parse_args(words)
    said = capsys.readouterr().err
    assert expected in said and "an-api-key" not in said


def test_an_rpc_url_may_stand_in_a_variable(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["root", "revoke", "--rpc", "env:CHAIN_URL", "--key-file", "k", "3"]
    monkeypatch.setenv("CHAIN_URL", "https://one.example/an-api-key")
    assert _parser().parse_args(words).rpc == ["https://one.example/an-api-key"]
    monkeypatch.delenv("CHAIN_URL")
    with pytest.raises(SystemExit):
        _parser().parse_args(words)
    assert "no variable CHAIN_URL" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["keystore", "key-file", "environment"])
def test_no_key_or_password_in_process_list_or_output(
    tmp_path: Path, silent_rpc: tuple[str, threading.Event, threading.Event], source: str
) -> None:
    url, asked, enough = silent_rpc
    private = {
        "key": SECRET.hex(),
        "password": PASSWORD,
        "keystore": str(Account.encrypt(SECRET, PASSWORD, iterations=2)).replace("'", '"'),
    }
    for name, text in private.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    words = {
        "keystore": ["--keystore", str(tmp_path / "keystore"),
                     "--password-file", str(tmp_path / "password")],
        "key-file": ["--key-file", str(tmp_path / "key")],
        "environment": ["--insecure-env-key", "OPERATOR_KEY"],
    }[source]  # fmt: skip
    environment = dict(os.environ, CHAIN_URL=f"{url}/v2/{API_KEY}")
    (tmp_path / "url").write_text(f"{url}/v2/{API_KEY}")
    (tmp_path / "url").chmod(0o600)
    endpoint = "env:CHAIN_URL" if source == "environment" else f"file:{tmp_path / 'url'}"
    if source == "environment":
        environment["OPERATOR_KEY"] = SECRET.hex()
    process = subprocess.Popen(
        [sys.executable, "-m", "deploy.operator.cli", "pause", "--yes", "--single-rpc-insecure",
         "--rpc", endpoint, "--deployment", str(deployment(tmp_path / "deployment.json")), *words],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    try:
        assert asked.wait(60), "it asks the chain, with the key in its memory"
        line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        enough.set()
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 1 and b"127.0.0.1" in output
    for secret in (SECRET.hex(), PASSWORD, API_KEY):
        assert secret.encode() not in line + output
