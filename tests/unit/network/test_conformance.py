"""The mesh's own messages are a contract between versions: their bytes are committed.

When a change is meant, run with ``REWRITE=1``, raise ``limits.PROTOCOL_VERSION``, and say it in the
change log: members of both versions cannot talk.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from node.network.frames import FrameReader, Hello, decode_hello, encode_control, encode_frame
from node.network.limits import PROTOCOL_VERSION
from node.network.proof_frames import Ask, Cannot, Show, Verdict, decode_proof

FILE = Path(__file__).parents[2] / "vectors" / "mesh_conformance.json"
NONCE = bytes(range(32))
PROOFS: dict[str, Any] = {
    "ask": Ask(1, NONCE),
    "ask, last id": Ask(2**32 - 1, NONCE),
    "show": Show(2, NONCE, 3, b"evidence"),
    "show, largest boot": Show(300, NONCE, 2**64 - 1, b""),
    "show, long evidence": Show(1, NONCE, 1, bytes(70_000)),
    "cannot": Cannot(1, 202),
    "verdict, accepted": Verdict(1, 0),
    "verdict, refused": Verdict(65536, 200, b"newer boot"),
}


def found() -> dict[str, str]:
    """Hex of each, long ones by length and ends."""
    hello = Hello(PROTOCOL_VERSION, b"\xc1" * 32, 70_000, bytes(range(16)), True)
    samples = {
        "hello": encode_frame(hello.encode()),
        "hello, asks for no evidence": encode_frame(
            Hello(PROTOCOL_VERSION, b"\xc1" * 32, 1, bytes(16)).encode()
        ),
        **{name: encode_control(message.encode()) for name, message in PROOFS.items()},
    }
    return {name: _shown(data) for name, data in samples.items()}


def _shown(data: bytes) -> str:
    if len(data) <= 200:
        return data.hex()
    return f"{data[:60].hex()}...{data[-4:].hex()} ({len(data)} bytes)"


def test_the_bytes_of_every_message_are_what_was_agreed() -> None:
    if os.environ.get("REWRITE"):
        committed = {"version": PROTOCOL_VERSION, "messages": found()}
        FILE.write_text(json.dumps(committed, indent=1) + "\n")
    committed = json.loads(FILE.read_text())
    assert committed == {"version": PROTOCOL_VERSION, "messages": found()}


@pytest.mark.parametrize("name", PROOFS)
def test_every_message_is_read_back_from_its_frame(name: str) -> None:
    reader = FrameReader(100, 80_000)
    data = encode_frame(b"before") + encode_control(PROOFS[name].encode()) + encode_frame(b"after")
    payloads = [p for i in range(0, len(data), 1000) for p in reader.feed(data[i : i + 1000])]
    assert payloads == [b"before", b"after"]
    (control,) = reader.controls
    assert decode_proof(control, 80_000) == PROOFS[name]


def test_a_hello_is_read_back() -> None:
    hello = Hello(PROTOCOL_VERSION, b"\xc1" * 32, 5, bytes(16), True)
    assert decode_hello(hello.encode()) == hello
