"""Where an operator's key comes from: every way in, and what is refused without telling secrets."""

from __future__ import annotations

import argparse
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eth_account import Account

from chain import ChainConfigError, LocalKey, SignerError
from chain.keys import keccak256
from chain.transactions import Transaction, sign
from deploy.operator.keys import OnlyLooking, add_key_arguments, open_key
from deploy.operator.keystore import WrongPassword, decrypt
from deploy.operator.signer import LINE_BYTES_MAX, SocketSigner

SECRET = keccak256(b"an operator")
KEY = LocalKey(SECRET)
PASSWORD = "correct horse"
TRANSACTION = Transaction(31337, 1, 2, 3, 21_000, b"\x11" * 20, 0, b"\x01\x02")


def options(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_key_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def private(path: Path, content: str) -> Path:
    path.write_text(content)
    path.chmod(0o600)
    return path


def keystore(kdf: str = "scrypt", work: int = 2) -> dict[str, Any]:
    """A file as eth-account makes it, with little work."""
    found: dict[str, Any] = Account.encrypt(SECRET, PASSWORD, kdf=kdf, iterations=work)
    return found


# --- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kdf", ["scrypt", "pbkdf2"])
def test_a_keystore_of_eth_account_opens_with_its_password(tmp_path: Path, kdf: str) -> None:
    file = tmp_path / "keystore.json"
    file.write_text(json.dumps(keystore(kdf)))
    password = private(tmp_path / "password", PASSWORD + "\n")
    key = open_key(options("--keystore", file, "--password-file", password))
    assert key.address == KEY.address
    signed = sign(TRANSACTION, key)
    assert bytes.fromhex(Account.recover_transaction(signed.raw)[2:]) == KEY.address


def test_a_wrong_password_is_told_and_no_secret_is(tmp_path: Path) -> None:
    file = tmp_path / "keystore.json"
    file.write_text(json.dumps(keystore()))
    password = private(tmp_path / "password", "incorrect horse")
    with pytest.raises(WrongPassword) as refused:
        open_key(options("--keystore", file, "--password-file", password))
    assert "incorrect" not in str(refused.value) and SECRET.hex() not in str(refused.value)


def change(document: dict[str, Any], path: str, value: Any) -> bytes:
    part, *names = document, *path.split(".")
    for name in names[:-1]:
        part = part[name]
    if value is None:
        del part[names[-1]]
    else:
        part[names[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("version", 1),
        ("crypto", None),
        ("crypto", []),
        ("crypto.cipher", "aes-128-cbc"),
        ("crypto.kdf", "argon2"),
        ("crypto.mac", "00"),
        ("crypto.ciphertext", "zz" * 32),
        ("crypto.ciphertext", "00" * 1_000_000),
        ("crypto.cipherparams", {}),
        ("crypto.kdfparams.n", 3),
        ("crypto.kdfparams.n", 1 << 40),
        ("crypto.kdfparams.n", True),
        ("crypto.kdfparams.r", 1 << 40),
        ("crypto.kdfparams.p", 1 << 40),
        ("crypto.kdfparams.p", "1"),
        ("crypto.kdfparams.dklen", 16),
        ("crypto.kdfparams.salt", ""),
    ],
)
def test_a_keystore_of_another_form_or_cost_is_refused(path: str, value: Any) -> None:
    with pytest.raises(ChainConfigError, match="not usable"):
        decrypt(change(keystore(), path, value), PASSWORD.encode())


def test_a_keystore_that_names_another_address_is_refused() -> None:
    raw = change(keystore(), "address", "11" * 20)
    with pytest.raises(ChainConfigError, match="another address"):
        decrypt(raw, PASSWORD.encode())


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 9000])
def test_what_is_no_keystore_at_all_is_refused(raw: bytes) -> None:
    with pytest.raises(ChainConfigError):
        decrypt(raw, b"")


def test_files_with_secrets_must_be_closed_to_others(tmp_path: Path) -> None:
    for name, words in (
        ("key", ["--key-file"]),
        ("password", ["--keystore", tmp_path / "keystore.json", "--password-file"]),
    ):
        (tmp_path / "keystore.json").write_text(json.dumps(keystore()))
        file = private(tmp_path / name, SECRET.hex())
        file.chmod(0o640)
        with pytest.raises(ChainConfigError, match=r"open to others \(mode 640\)") as refused:
            open_key(options(*words, file))
        assert SECRET.hex() not in str(refused.value)


@pytest.mark.parametrize("content", ["", "0x12", "ff" * 32, "00" * 32, "g" * 64, "ä", "1" * 500])
def test_a_key_file_that_holds_no_key_is_refused_unquoted(tmp_path: Path, content: str) -> None:
    file = private(tmp_path / "key", content)
    with pytest.raises(ChainConfigError) as refused:
        open_key(options("--key-file", file))
    assert len(content) < 3 or content not in str(refused.value)


def test_a_key_file_with_or_without_prefix_and_newline_is_read(tmp_path: Path) -> None:
    for text in (SECRET.hex(), f"0x{SECRET.hex()}\n"):
        assert open_key(options("--key-file", private(tmp_path / "key", text))) is not None


def test_the_environment_is_used_only_when_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPERATOR_KEY", SECRET.hex())
    assert open_key(options("--insecure-env-key", "OPERATOR_KEY")).address == KEY.address
    monkeypatch.setenv("OPERATOR_KEY", "not a key")
    with pytest.raises(ChainConfigError, match="OPERATOR_KEY") as refused:
        open_key(options("--insecure-env-key", "OPERATOR_KEY"))
    assert "not a key" not in str(refused.value)
    with pytest.raises(ChainConfigError, match="no variable"):
        open_key(options("--insecure-env-key", "OTHER_KEY"))


def test_without_a_terminal_there_is_nobody_to_ask_for_a_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keystore.json").write_text(json.dumps(keystore()))
    monkeypatch.setattr("sys.stdin", (tmp_path / "keystore.json").open())
    with pytest.raises(ChainConfigError, match="--password-file"):
        open_key(options("--keystore", tmp_path / "keystore.json"))


def test_one_key_must_be_named_and_only_one(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--key-file", "a", "--signer", "unix:/b"]):
        with pytest.raises(SystemExit):
            options(*words)
    assert "required" in capsys.readouterr().err
    with pytest.raises(ChainConfigError, match="belongs to --keystore"):
        open_key(options("--key-file", "a", "--password-file", "b"))


def test_an_address_alone_signs_nothing() -> None:
    key = open_key(options("--from", "0x" + "11" * 20))
    assert isinstance(key, OnlyLooking)
    with pytest.raises(SignerError, match="no key"):
        sign(TRANSACTION, key)


# --- a signer behind a socket -----------------------------------------------------------------

Serve = Callable[[Callable[[dict[str, Any]], Any]], str]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """A signer that answers each question with what a function makes of it, one a connection."""
    listeners: list[socket.socket] = []

    def start(answer: Callable[[dict[str, Any]], Any]) -> str:
        path = tmp_path / f"signer-{len(listeners)}.sock"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen()
        listeners.append(listener)

        def run() -> None:
            while True:
                try:
                    stream, _ = listener.accept()
                except OSError:
                    return
                with stream, stream.makefile("rb") as lines:
                    found = answer(json.loads(lines.readline()))
                    if isinstance(found, dict):
                        found = json.dumps(found).encode() + b"\n"
                    try:
                        if found is not None:
                            stream.sendall(found)
                        else:
                            stream.recv(1)  # until the other side gives up
                    except OSError:
                        pass

        threading.Thread(target=run, daemon=True).start()
        return f"unix:{path}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def faithful(question: dict[str, Any]) -> dict[str, Any]:
    """A signer as it should be, with eth-account's decoder: it looks at what it signs."""
    if question["method"] == "address":
        return {"address": "0x" + KEY.address.hex()}
    assert question["method"] == "sign_transaction"
    assert question["address"] == "0x" + KEY.address.hex()
    unsigned = bytes.fromhex(question["transaction"][2:])
    assert unsigned[0] == 2
    return {"signature": "0x" + KEY.sign(keccak256(unsigned)).hex()}


def test_a_signer_behind_a_socket_signs_what_it_is_shown(serve: Serve) -> None:
    key = open_key(options("--signer", serve(faithful)))
    assert key.address == KEY.address
    assert sign(TRANSACTION, key) == sign(TRANSACTION, KEY)


def test_a_signer_may_refuse_and_its_words_are_made_printable(serve: Serve) -> None:
    def refuse(question: dict[str, Any]) -> dict[str, Any]:
        return faithful(question) if question["method"] == "address" else {"error": "no\n\x1b[31m"}

    with pytest.raises(SignerError, match=r"refuses: no\?\?\[31m$"):
        sign(TRANSACTION, SocketSigner(serve(refuse)))


@pytest.mark.parametrize(
    "answer",
    [
        {"signature": "0x" + "00" * 65},
        {"signature": "0x" + KEY.sign(keccak256(b"something else")).hex()},
        {"signature": "0x" + LocalKey(keccak256(b"other")).sign(bytes(32)).hex()},
        {"signature": "0x1234"},
        {"signature": 5},
        {},
        b"nonsense\n",
        b"[1]\n",
        b"",
        b"x" * (LINE_BYTES_MAX + 4096),
    ],
)
def test_a_signer_that_gives_something_else_is_not_used(serve: Serve, answer: Any) -> None:
    target = serve(lambda q: faithful(q) if q["method"] == "address" else answer)
    with pytest.raises(SignerError):
        sign(TRANSACTION, SocketSigner(target))


def test_a_signer_that_keeps_silent_is_given_up_at_the_deadline(serve: Serve) -> None:
    target = serve(lambda q: faithful(q) if q["method"] == "address" else None)
    with pytest.raises(SignerError, match="did not answer within"):
        sign(TRANSACTION, SocketSigner(target, sign_deadline_s=0.05))


def test_a_signer_that_is_not_there_or_not_named_well_is_told(tmp_path: Path) -> None:
    with pytest.raises(SignerError, match="cannot be asked"):
        SocketSigner(f"unix:{tmp_path}/none.sock")
    for target in ("/a/path", "unix:relative", "tcp:1.2.3.4:5", "unix:/" + "a" * 200):
        with pytest.raises(ChainConfigError):
            SocketSigner(target)
