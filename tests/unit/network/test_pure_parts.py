"""Frames, hello, Yamux, queues and endpoints, without sockets."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.network import BadEndpoint, NetworkLimits, Priority, peer_id_of
from node.network.addresses import parse_endpoint
from node.network.errors import LinkBroken, NetworkError, Refused
from node.network.frames import FrameReader, Hello, decode_hello, encode_frame
from node.network.queues import OutboundQueues
from node.network.yamux import DATA_FRAME_BYTES_MAX, Yamux


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(c % (len(data) + 1) for c in cuts)})
    return [data[a:b] for a, b in pairwise(marks)]


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 10_000)))
def test_frames_survive_any_cutting(payloads: list[bytes], cuts: list[int]) -> None:
    reader = FrameReader(300)
    got: list[bytes] = []
    for piece in pieces(b"".join(map(encode_frame, payloads)), cuts):
        got += reader.feed(piece)
    assert got == payloads
    assert reader.buffered_bytes == 0


def test_a_frame_above_the_cap_is_refused_from_its_header_alone() -> None:
    reader = FrameReader(1000)
    assert reader.feed(encode_frame(bytes(1000))) == [bytes(1000)]
    with pytest.raises(LinkBroken, match="oversize_frame"):
        reader.feed(b"\x00\x00\x03\xe9")


@given(st.binary(max_size=400))
def test_any_bytes_as_hello_are_decoded_or_refused(data: bytes) -> None:
    try:
        decode_hello(data)
    except Refused as refusal:
        assert refusal.reason == "bad_hello"


def test_a_hello_round_trips_and_wrong_types_are_refused() -> None:
    hello = Hello(2, b"c" * 32, 5, b"n" * 16, True)
    assert decode_hello(hello.encode()) == hello
    for wrong in (
        [True, b"c" * 32, 5, b"n" * 16, True],
        [2, b"c" * 32, True, b"n" * 16, True],
        [2, "c" * 32, 5, b"n" * 16, True],
        [2, b"c" * 33, 5, b"n" * 16, True],
        [2, b"c" * 32, 5, b"n" * 15, True],
        [2, b"c" * 32, 5, b"n" * 16],
        [2, b"c" * 32, 5, b"n" * 16, 1],
        [2, b"c" * 32, 5, b"n" * 16, True, 0],
        {1: 2},
        None,
    ):
        with pytest.raises(Refused):
            decode_hello(msgpack.packb(wrong))


@given(st.lists(st.binary(min_size=1, max_size=5000), max_size=6), st.lists(st.integers(0, 50_000)))
def test_yamux_carries_bytes_through_any_cutting(chunks: list[bytes], cuts: list[int]) -> None:
    left, right = (
        Yamux(initiator=True, window_bytes=1 << 20),
        Yamux(initiator=False, window_bytes=0),
    )
    left.open()
    wire = left.take_control() + b"".join(left.wrap(c) for c in chunks)
    got = b"".join(right.receive(p) for p in pieces(wire, cuts))
    assert got == b"".join(chunks)
    assert right.accepted
    assert left.receive(right.take_control()) == b""
    assert left.receive(right.wrap(b"back")) == b"back"


def test_yamux_sends_no_more_than_the_window_until_it_is_opened_again() -> None:
    left = Yamux(initiator=True, window_bytes=0)
    right = Yamux(initiator=False, window_bytes=0)
    left.open()
    right.receive(left.take_control())
    left.receive(right.take_control())
    sent = 0
    held: list[bytes] = []
    while size := left.sendable():
        held.append(left.wrap(bytes(size)))
        assert size <= DATA_FRAME_BYTES_MAX
        sent += size
    assert sent == 256 * 1024
    received = sum(len(right.receive(frame)) for frame in held)
    assert received == sent
    left.receive(right.take_control())
    assert left.sendable() > 0
    with pytest.raises(AssertionError):
        left.wrap(bytes(DATA_FRAME_BYTES_MAX + 1))


@given(st.binary(max_size=2000), st.booleans())
def test_any_bytes_into_yamux_end_the_link_or_stay_bounded(data: bytes, initiator: bool) -> None:
    yamux = Yamux(initiator=initiator, window_bytes=1 << 20)
    if initiator:
        yamux.open()
    try:
        assert len(yamux.receive(data)) <= len(data)
    except LinkBroken:
        return
    assert len(yamux.control) <= 16 * 1024 + 12
    assert len(yamux._partial) < 12


def test_queues_serve_by_priority_and_join_up_to_the_batch() -> None:
    queues = OutboundQueues(NetworkLimits())
    for priority in (Priority.BULK, Priority.FORWARD, Priority.CONSENSUS):
        assert queues.put(bytes([priority]) * 100, priority)
        assert queues.put(bytes([priority]) * 100, priority)
    assert queues.take(250) == (b"\x00" * 200, 2)
    assert queues.take(350) == (b"\x01" * 200 + b"\x02" * 100, 3)
    assert queues.queued_bytes == 100
    assert queues.take(1) == (b"\x02" * 100, 1)  # at least one, however small the batch
    assert queues.take(1) == (b"", 0)
    assert queues.queued_bytes == 0


def test_a_full_consensus_queue_keeps_the_newest() -> None:
    queues = OutboundQueues(
        NetworkLimits(frame_bytes_max=20, queue_consensus_bytes=30, queue_forward_bytes=30)
    )
    for number in range(5):
        assert queues.put(b"%d" % number * 10, Priority.CONSENSUS)
    assert queues.take(1000)[0] == b"2" * 10 + b"3" * 10 + b"4" * 10
    assert queues.dropped == 2
    assert not queues.put(bytes(31), Priority.CONSENSUS)
    assert queues.put(bytes(30), Priority.FORWARD)
    assert not queues.put(b"x", Priority.FORWARD)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("/ip4/127.0.0.1/tcp/9001", "127.0.0.1", 9001),
        ("/ip6/::1/tcp/1", "::1", 1),
        ("/ip6/2001:DB8:0::1/tcp/1", "2001:db8::1", 1),
        ("/dns4/node-1.example.org/tcp/65535", "node-1.example.org", 65535),
        ("/dns4/node_1/tcp/9/p2p/16Uiu2HAm", "node_1", 9),
    ],
)
def test_good_endpoints(text: str, host: str, port: int) -> None:
    address = parse_endpoint(text)
    assert (address.host, address.port) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:9001",
        "/ip4/127.0.0.1/udp/9001",
        "/ip4/127.0.0.1/tcp/0",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/٣",
        "/ip4/127.0.0.1/tcp/-1",
        "/ip4/127.0.0.1/tcp/9001/",
        "/ip4/127.0.0.1/tcp/9001/ws",
        "/ip4/127.0.0.1/tcp/9001/p2p/",
        "/ip4/127.0.0.1/tcp/9001/p2p/a b",
        "/ip4/256.0.0.1/tcp/9001",
        "/ip4/::1/tcp/9001",
        "/ip6/fe80::1%eth0;x/tcp/9001",
        "/dns4/-bad/tcp/1",
        "/dns4/a b/tcp/1",
        "/dns4/a..b/tcp/1",
        "/dns4/" + "a" * 60 + ("." + "a" * 60) * 2 + "!/tcp/1",
        "/dns4/" + "a" * 300 + "/tcp/1",
        "/unix/run/x",
        "x/ip4/1.1.1.1/tcp/1",
    ],
)
def test_bad_endpoints(text: str) -> None:
    with pytest.raises(BadEndpoint):
        parse_endpoint(text)


@given(st.text(max_size=300))
def test_any_text_as_endpoint_is_parsed_or_refused(text: str) -> None:
    with suppress(BadEndpoint):
        parse_endpoint(text)


@pytest.mark.parametrize("key", [b"", b"\x02" * 32, b"\x04" + bytes(32), b"\x02" + b"\xff" * 32])
def test_bad_node_keys_are_refused(key: bytes) -> None:
    with pytest.raises(NetworkError):
        peer_id_of(key)
