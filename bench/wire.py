"""The HTTP/1.1 that the load needs: whole requests as bytes, and a reader of small answers.

A general client costs several times what either server spends on a request; on a machine with few
cores it would be measured instead of them. What comes is still bounded and checked.
"""

from __future__ import annotations

from typing import NamedTuple

HEAD_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 1024 * 1024
REVISION = b'"revision"'  # in the answer to every committed write, of both sides


class BadAnswer(Exception):
    """What came is no answer of HTTP/1.1 within our bounds."""


class Answer(NamedTuple):
    """A whole answer at the begin of a buffer; ``length`` bytes of the buffer are its."""

    status: int
    body: bytes
    length: int

    @property
    def committed(self) -> bool:
        """Whether this acknowledges a write."""
        return self.status == 200 and REVISION in self.body


def request(method: str, path: str, host: str, headers: dict[str, str], body_bytes: int) -> bytes:
    """The head of a request, up to and with the empty line."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {host}", f"content-length: {body_bytes}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii")


def read_answer(data: bytes | bytearray) -> Answer | None:
    """The answer that ``data`` begins with; None while it is not whole.

    Raises:
        BadAnswer: it is none, or too large.
    """
    end = data.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
    if end < 0:
        if len(data) >= HEAD_BYTES_MAX:
            raise BadAnswer("the head of the answer does not end")
        return None
    head = bytes(data[:end]).lower()
    if not head.startswith(b"http/1.1 ") or not head[9:12].isdigit():
        raise BadAnswer(f"expected HTTP/1.1, came {head[:40]!r}")
    status = int(head[9:12])
    begin = end + 4
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        if b"\r\ntransfer-encoding: chunked" in head:
            return _read_chunks(status, data, begin)
        raise BadAnswer("an answer without its length")
    text = head[at + 17 :].split(b"\r\n", 1)[0].strip()
    if not text.isdigit() or len(text) > 9 or int(text) > BODY_BYTES_MAX:
        raise BadAnswer(f"a length of {text[:20]!r} bytes")
    stop = begin + int(text)
    return None if len(data) < stop else Answer(status, bytes(data[begin:stop]), stop)


def _read_chunks(status: int, data: bytes | bytearray, at: int) -> Answer | None:
    body = b""
    while True:
        line = data.find(b"\r\n", at, at + 18)
        if line < 0:
            if len(data) >= at + 18:
                raise BadAnswer("a chunk without its length")
            return None
        try:
            size = int(bytes(data[at:line]), 16)
        except ValueError:
            raise BadAnswer("a chunk without its length") from None
        if size < 0 or len(body) + size > BODY_BYTES_MAX:
            raise BadAnswer("an answer that is too large")
        begin, stop = line + 2, line + 2 + size
        if len(data) < stop + 2:
            return None
        if data[stop : stop + 2] != b"\r\n":
            raise BadAnswer("a chunk that is longer than it says")
        if size == 0:
            return Answer(status, body, stop + 2)
        body += bytes(data[begin:stop])
        at = stop + 2
