"""The reader of answers: what both sides really send, cut anywhere, and what nobody should send."""

from __future__ import annotations

import pytest

from bench.wire import BadAnswer, read_answer, request

PLAIN = (
    b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nContent-Length: 14\r\n\r\n{"revision":1}'
)
CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    b'5\r\n{"rev\r\n9\r\nision":1}\r\n0\r\n\r\n'
)


@pytest.mark.parametrize("whole", [PLAIN, CHUNKED])
def test_an_answer_cut_anywhere_is_not_whole_before_its_last_byte(whole: bytes) -> None:
    for cut in range(len(whole)):
        assert read_answer(whole[:cut]) is None
    answer = read_answer(whole)
    assert answer is not None
    assert (answer.status, answer.body, answer.length) == (200, b'{"revision":1}', len(whole))
    assert answer.committed


def test_what_follows_an_answer_is_not_part_of_it() -> None:
    answer = read_answer(PLAIN + b"HTTP/1.1 500")
    assert answer is not None and answer.length == len(PLAIN)


def test_a_status_or_body_without_a_revision_acknowledges_nothing() -> None:
    refused = read_answer(PLAIN.replace(b" 200 ", b" 503 "))
    empty = read_answer(PLAIN.replace(b"revision", b"nothing!"))
    assert refused is not None and not refused.committed
    assert empty is not None and not empty.committed


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 abc\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nfffffff\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"0" * 40,
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nabc\r\n",
        b"x" * (16 * 1024),
    ],
)
def test_what_is_no_answer_or_too_large_is_refused(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        read_answer(data)


def test_a_request_head_carries_the_length_and_ends_with_an_empty_line() -> None:
    head = request("PUT", "/v1/kv/a", "127.0.0.1", {"idempotency-key": "x-1"}, 7)
    assert head == (
        b"PUT /v1/kv/a HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 7\r\n"
        b"idempotency-key: x-1\r\n\r\n"
    )
