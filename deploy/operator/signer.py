"""A key that lives elsewhere: a signer behind a Unix socket, asked in single lines of JSON.

One question per connection, one line each way, at most 64 KiB, ended by a newline:

    -> {"method": "address"}
    <- {"address": "0x" and 40 hex digits}
    -> {"method": "sign_transaction", "address": "0x...", "transaction": "0x02..."}
    <- {"signature": "0x" and 130 hex digits: r, s, v of 27 or 28, low s}
    <- {"error": "a reason in plain words"}          (instead, to either question)

``transaction`` is the unsigned EIP-1559 transaction (its type, then the RLP of its nine fields).
The signer decodes it, so that it can show it or refuse it by its own rules, and signs its
keccak256. What comes back is used only if it is this address's signature of this transaction.
"""

from __future__ import annotations

import json
import re
import socket
import time
from pathlib import Path
from typing import Any

from attest.bounded_json import parse_json
from chain.errors import ChainConfigError, SignerError
from chain.rpc import printable

LINE_BYTES_MAX = 64 * 1024
ADDRESS_DEADLINE_S = 10.0
SIGN_DEADLINE_S = 120.0  # somebody may have to press a button
SOCKET_PATH_BYTES_MAX = 100
_SCHEME = "unix:"


class SocketSigner:
    """A signer of transactions behind a Unix socket; asks for its address when made.

    Blocks while it waits, at most until a deadline: the command that uses it has nothing else to do
    then, and a signature that comes after its transaction was given up must not be sent.

    Args:
        target: ``unix:/absolute/path``.

    Raises:
        ChainConfigError: not such a target.
        SignerError: nobody there, or no usable answer within the deadline.
    """

    def __init__(
        self,
        target: str,
        *,
        address_deadline_s: float = ADDRESS_DEADLINE_S,
        sign_deadline_s: float = SIGN_DEADLINE_S,
    ) -> None:
        path = target.removeprefix(_SCHEME)
        if not target.startswith(_SCHEME) or not Path(path).is_absolute():
            raise ChainConfigError("a signer is named as unix:/absolute/path")
        if len(path.encode()) > SOCKET_PATH_BYTES_MAX:
            raise ChainConfigError(f"a signer's path has at most {SOCKET_PATH_BYTES_MAX} bytes")
        self._path = path
        self._sign_deadline_s = sign_deadline_s
        answer = self._ask({"method": "address"}, address_deadline_s)
        self.address = _hex(answer, "address", 20)

    def __repr__(self) -> str:
        return f"SocketSigner(0x{self.address.hex()})"

    def sign_transaction(self, unsigned: bytes) -> bytes:
        """Asks for the signature; ``chain.transactions.sign`` checks it.

        Raises:
            SignerError: refused, or no usable answer.
        """
        question = {
            "method": "sign_transaction",
            "address": "0x" + self.address.hex(),
            "transaction": "0x" + unsigned.hex(),
        }
        return _hex(self._ask(question, self._sign_deadline_s), "signature", 65)

    def _ask(self, question: dict[str, str], deadline_s: float) -> dict[str, Any]:
        line = json.dumps(question).encode() + b"\n"
        if len(line) > LINE_BYTES_MAX:
            raise SignerError(f"the transaction is too long for a signer ({len(line)} bytes)")
        try:
            raw = _exchange(self._path, line, deadline_s)
        except TimeoutError:
            raise SignerError(f"the signer did not answer within {deadline_s:g} s") from None
        except OSError as error:
            raise SignerError(f"the signer cannot be asked: {error.strerror}") from None
        try:
            answer = parse_json(raw)
        except ValueError:
            raise SignerError("the signer's answer is not JSON") from None
        if not isinstance(answer, dict):
            raise SignerError("the signer's answer is not an object")
        if "error" in answer:
            raise SignerError(f"the signer refuses: {printable(answer['error'])}")
        return answer


def _exchange(path: str, line: bytes, deadline_s: float) -> bytes:
    """Sends a line and reads one, within a deadline for all of it."""
    end_s = time.monotonic() + deadline_s

    def left_s() -> float:
        left = end_s - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.settimeout(left_s())
        stream.connect(path)
        stream.sendall(line)
        raw = bytearray()
        while not raw.endswith(b"\n"):
            stream.settimeout(left_s())
            chunk = stream.recv(4096)
            if not chunk:
                raise SignerError("the signer hung up without an answer")
            raw += chunk
            if len(raw) > LINE_BYTES_MAX:
                raise SignerError(f"the signer's answer is longer than {LINE_BYTES_MAX} bytes")
        return bytes(raw)


def _hex(answer: dict[str, Any], name: str, size: int) -> bytes:
    text = answer.get(name)
    if not isinstance(text, str) or not re.fullmatch(rf"0x[0-9a-fA-F]{{{2 * size}}}", text):
        raise SignerError(f"the signer's answer has no {name} of {size} bytes")
    return bytes.fromhex(text[2:])
