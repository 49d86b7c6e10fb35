"""Members that break the rules: each loses its own link, the mesh goes on serving the others."""

from __future__ import annotations

import gc
import struct
from contextlib import suppress

import pytest
import trio

from node.network import MessageFrom, PeerDown, PeerUp, Priority
from node.network.frames import encode_frame
from node.network.handshake import Established
from node.network.identity import YAMUX_ID, MultiselectClient, MultiselectCommunicator
from node.network.yamux import ACK, DATA, FIN, GO_AWAY, HEADER, PING, RST, SYN, WINDOW_UPDATE

from .conftest import (
    Network,
    Running,
    address,
    linked,
    muxed,
    noise,
    secret_of,
    wait_closed,
    wait_until,
)


async def still_serves(network: Network, a: Running) -> None:
    """Seat 3 can link and talk to ``a``."""
    c = await network.start(3, members=[address(1, a.mesh.listen_address)], dial_grace_s=0.0)
    await a.up(3)
    await c.up(1)
    assert c.mesh.send(1, b"still there?")
    assert await a.message(3) == b"still there?"


MULTISTREAM_KILLS = [
    b"\x05\xff\xfe\xfd\xfc\n",  # not UTF-8: ends the process of a stock host
    b"\x13/multistream/1.0.0\n\x05\xff\xfe\xfd\xfc\n",
    b"\x00",
    b"\x01\n",
    b"\xff" * 12,
    b"\x13/multistream/1.0.0\n\x03ls\n\x0a/ipfs/id/\n",
    b"\x13/multistream/1.0.0\n" + b"\x04foo\n" * 1000,
]


@pytest.mark.parametrize("message", MULTISTREAM_KILLS)
async def test_a_malformed_stream_negotiation_ends_that_connection_only(
    network: Network, message: bytes
) -> None:
    a = await network.start(1, members=[address(2), address(3)], handshake_timeout_s=1.0)
    channel, wire = await muxed(a.mesh, secret_of(2))
    await wire.write(message)
    await wait_closed(channel)
    await wait_until(lambda: a.mesh.half_open == 0)
    assert sum(a.mesh.refused.values()) == 1
    channel.close()
    await still_serves(network, a)


@pytest.mark.parametrize("message", MULTISTREAM_KILLS)
async def test_a_malformed_muxer_negotiation_ends_that_connection_only(
    network: Network, message: bytes
) -> None:
    a = await network.start(1, members=[address(2), address(3)], handshake_timeout_s=1.0)
    stream, session = await noise(a.mesh, secret_of(2))
    await session.write(message)
    await wait_closed(stream)
    stream.socket.close()
    await still_serves(network, a)


@pytest.mark.parametrize(
    "hello",
    [
        encode_frame(b""),
        encode_frame(b"\xc1"),
        encode_frame(b"\x80"),
        encode_frame(b"\x94\x02\x01\x01\x01"),
        encode_frame(b"\xdd\xff\xff\xff\xff"),
        encode_frame(b"\x91" * 200),
        encode_frame(b"x" * 5000),
        struct.pack("!I", 0xFFFFFFFF),
        struct.pack("!I", 1 << 20) + b"z" * 40_000,
    ],
)
async def test_a_malformed_hello_is_refused(network: Network, hello: bytes) -> None:
    a = await network.start(1, members=[address(2), address(3)])
    channel, wire = await muxed(a.mesh, secret_of(2))
    line = b"/dstack-cluster/mesh/1\n"
    await wire.write(b"\x13/multistream/1.0.0\n" + bytes([len(line)]) + line)
    await wire.write(hello)
    await wait_closed(channel)
    channel.close()
    await wait_until(lambda: sum(a.mesh.refused.values()) == 1)
    assert set(a.mesh.refused) <= {"bad_hello", "oversize_frame"}
    await still_serves(network, a)


def raw(*frames: tuple[int, int, int, int], tail: bytes = b"") -> bytes:
    return b"".join(HEADER.pack(0, *frame) for frame in frames) + tail


LINK_ATTACKS: dict[str, tuple[bytes, str]] = {
    "oversize frame": (
        raw((DATA, 0, 1, 4), tail=struct.pack("!I", 0xFFFFFFFF)),
        "oversize_frame",
    ),
    "window exceeded at once": (raw((DATA, 0, 1, 1 << 30)), "window_exceeded"),
    "foreign stream data without end": (raw((DATA, 0, 7, 1 << 30)), "window_exceeded"),
    "yamux version": (b"\x01" + bytes(11), "yamux_violation"),
    "yamux type": (raw((9, 0, 1, 0)), "yamux_violation"),
    "yamux flags": (raw((WINDOW_UPDATE, 0x80, 1, 0)), "yamux_violation"),
    "second syn": (raw((WINDOW_UPDATE, SYN, 1, 0)), "yamux_violation"),
    "syn with our parity": (raw((WINDOW_UPDATE, SYN, 2, 0)), "yamux_violation"),
    "syn of stream 0": (raw((DATA, SYN, 0, 0)), "yamux_violation"),
    "window beyond bounds": (raw((WINDOW_UPDATE, 0, 1, 0xFFFFFFFF)), "yamux_violation"),
    "reset": (raw((WINDOW_UPDATE, RST, 1, 0)), "closed_by_peer"),
    "fin": (raw((DATA, FIN, 1, 0)), "closed_by_peer"),
    "go away": (raw((GO_AWAY, 0, 0, 1)), "closed_by_peer"),
    "stream flood": (
        raw(*[(WINDOW_UPDATE, SYN, 3 + 2 * i, 0) for i in range(240)]),
        "stream_flood",
    ),
    "ping flood": (raw(*[(PING, SYN, 0, i) for i in range(4000)]), "control_flood"),
}


@pytest.mark.parametrize("name", LINK_ATTACKS)
async def test_a_violation_on_a_link_drops_only_that_link(network: Network, name: str) -> None:
    attack, reason = LINK_ATTACKS[name]
    a = await network.start(1, members=[address(2), address(3)])
    peer = await linked(a.mesh, 2)
    await a.up(2)
    await peer.channel.send(attack)
    assert await a.down(2) == reason
    peer.channel.close()
    await still_serves(network, a)


async def test_harmless_oddities_do_not_break_a_link(network: Network) -> None:
    a = await network.start(1, members=[address(2)])
    peer = await linked(a.mesh, 2)
    await a.up(2)
    odd = raw((PING, ACK, 0, 12345), (WINDOW_UPDATE, ACK, 1, 0), (WINDOW_UPDATE, 0, 77, 5))
    odd += raw((WINDOW_UPDATE, SYN, 3, 0), (DATA, 0, 3, 5), tail=b"12345")
    odd += raw((DATA, 0, 1, 0))
    for byte in odd + raw((DATA, 0, 1, 6), tail=encode_frame(b"ok")):
        await peer.channel.send(bytes([byte]))
    assert await a.message(2) == b"ok"
    peer.channel.close()


async def test_corrupted_ciphertext_drops_the_link_without_a_penalty(network: Network) -> None:
    a, b = await network.full(2)
    link = b.mesh._peers[1].link
    assert link is not None
    # Somebody on the path changes bytes: the member must be able to come back at once.
    await link._channel._stream.send_all(b"\x00\x20" + bytes(32))
    assert await a.down(2) == "bad_ciphertext"
    await a.up(2)
    assert a.mesh._peers[2].penalty_s == 0.0


async def test_a_member_that_broke_the_rules_waits_longer_each_time(network: Network) -> None:
    a = await network.start(1, members=[address(2)], penalty_s=0.3, penalty_max_s=100.0)
    waits = []
    for _ in range(3):
        await wait_until(lambda: trio.current_time() >= a.mesh._peers[2].refused_until)
        peer = await linked(a.mesh, 2)
        await a.up(2)
        await peer.channel.send(LINK_ATTACKS["oversize frame"][0])
        await a.down(2)
        peer.channel.close()
        waits.append(a.mesh._peers[2].penalty_s)
        stream, _ = await noise(a.mesh, secret_of(2))
        await wait_closed(stream)
        stream.socket.close()
    assert waits == [0.3, 0.6, 1.2]
    assert a.mesh.refused["penalised"] >= 1


async def pour(peer: Established, megabytes: int, payload_bytes: int = 60_000) -> None:
    """Send valid frames without any regard to the window."""
    frame = encode_frame(bytes(payload_bytes))
    packed = HEADER.pack(0, DATA, 0, 1, len(frame)) + frame
    try:
        for _ in range(megabytes * 1_000_000 // payload_bytes):
            await peer.channel.send(packed)
    except Exception:
        pass


async def test_a_flood_that_nobody_reads_is_held_in_bounds_and_blocks_no_other_peer(
    network: Network, nursery: trio.Nursery
) -> None:
    a = await network.start(
        1,
        members=[address(2), address(3)],
        inbox_bytes_max=1 << 20,
        dead_after_s=20.0,
        write_stall_s=20.0,
    )
    peer = await linked(a.mesh, 2)
    nursery.start_soon(pour, peer, 200)
    inbox = a.mesh._peers[2].inbox
    await wait_until(lambda: inbox.full)
    c = await network.start(3, members=[address(1, a.mesh.listen_address)], dead_after_s=20.0)
    await wait_until(lambda: c.connected(1))
    for number in range(50):
        assert c.mesh.send(1, b"%d" % number)
    # All of seat 3's messages were read although seat 2 has filled the shared channel.
    await wait_until(lambda: a.mesh._peers[3].counters.received_messages == 50)
    gc.collect()
    held = inbox._waiting_bytes + a.mesh._peers[2].link._frames.buffered_bytes
    assert held <= (1 << 20) + 2 * 64 * 1024
    assert [await a.message(3) for _ in range(50)] == [b"%d" % n for n in range(50)]
    peer.channel.close()


async def test_a_peer_over_its_rate_is_slowed_down_and_cut_if_it_goes_on(
    network: Network, nursery: trio.Nursery
) -> None:
    a = await network.start(
        1,
        members=[address(2), address(3)],
        messages_per_s=2000.0,
        message_burst=500.0,
        strikes_max=1,
    )
    peer = await linked(a.mesh, 2)
    await a.up(2)
    nursery.start_soon(pour, peer, 20, 100)
    assert await a.down(2) == "flooding"
    received = sum(isinstance(e, MessageFrom) for e in a.seen)
    assert 500 <= received < 200_000
    peer.channel.close()
    await still_serves(network, a)


async def test_slowing_down_loses_nothing(network: Network) -> None:
    a = await network.start(
        1, members=[address(2)], messages_per_s=5000.0, message_burst=100.0, strikes_max=1000
    )
    b = await network.start(2, members=[address(1, a.mesh.listen_address)])
    await b.up(1)
    for number in range(1500):
        assert b.mesh.send(1, b"%d" % number, Priority.FORWARD)
    assert [await a.message(2) for _ in range(1500)] == [b"%d" % n for n in range(1500)]


async def test_a_frozen_peer_is_noticed(network: Network) -> None:
    a = await network.start(1, members=[address(2)], dead_after_s=0.4)
    peer = await linked(a.mesh, 2)  # answers no ping from now on
    await a.up(2)
    assert await a.down(2) == "silent"
    await wait_closed(peer.channel)


async def test_a_peer_that_talks_but_never_reads_loses_its_link(
    network: Network, nursery: trio.Nursery
) -> None:
    a = await network.start(1, members=[address(2)], write_stall_s=0.5, queue_bulk_bytes=16 << 20)
    peer = await linked(a.mesh, 2)
    await a.up(2)

    async def talk() -> None:
        try:
            while True:
                await peer.channel.send(raw((PING, ACK, 0, 0)))
                await trio.sleep(0.05)
        except Exception:
            pass

    nursery.start_soon(talk)
    while a.mesh.send(2, bytes(60_000), Priority.BULK):
        await trio.lowlevel.checkpoint()
    assert await a.down(2) == "not_reading"


async def test_a_restarted_peer_replaces_its_stale_link_at_once(network: Network) -> None:
    a = await network.start(1, members=[address(2)], dead_after_s=1000.0)
    stale = await linked(a.mesh, 2)
    await a.up(2)
    b = await network.start(2, members=[address(1, a.mesh.listen_address)], dial_grace_s=0.0)
    assert await a.down(2, by=("replaced",)) == "replaced"
    await a.up(2)
    await wait_closed(stale.channel)
    b.mesh.send(1, b"I am back")
    assert await a.message(2) == b"I am back"


async def test_a_killed_peer_is_noticed_by_its_closed_socket_and_dialled_again(
    network: Network,
) -> None:
    a, b = await network.full(2, dead_after_s=1000.0)
    endpoint = b.mesh.listen_address
    link = b.mesh._peers[1].link
    assert link is not None
    linger = struct.pack("ii", 1, 0)  # the kernel answers for a dead process with a reset
    link._channel._stream.setsockopt(1, 13, linger)
    await b.stop()
    assert await a.down(2) in ("connection_lost", "closed_by_peer")
    assert not a.mesh.send(2, b"x")
    again = await network.start(2, listen=endpoint, members=[address(1)])
    await a.up(2)
    await again.up(1)


async def test_up_and_down_alternate_for_every_seat(network: Network) -> None:
    a = await network.start(1, members=[address(2)])
    for _ in range(10):
        peer = await linked(a.mesh, 2)
        await a.up(2)
        second = await linked(a.mesh, 2)
        peer.channel.close()
        await a.down(2, by=("replaced",))
        await a.up(2)
        second.channel.close()
        await a.down(2)
    states = [isinstance(e, PeerUp) for e in a.seen if isinstance(e, (PeerUp, PeerDown))]
    assert states == [True, False] * 20


async def test_removal_while_a_handshake_runs_lets_nobody_in(network: Network) -> None:
    a = await network.start(1, members=[address(2)])
    stream, session = await noise(a.mesh, secret_of(2))
    a.mesh.set_members([])
    with pytest.raises(Exception):  # noqa: B017  anything but success
        with trio.fail_after(5):
            await complete(stream, session)
    assert a.mesh.links() == []
    assert PeerUp(2) not in a.seen


async def complete(stream: trio.SocketStream, session: object) -> None:
    await MultiselectClient().select_one_of([YAMUX_ID], MultiselectCommunicator(session))
    await wait_closed(stream)
    raise ConnectionError("closed")


async def test_frames_of_the_muxer_without_anything_in_them_count_as_well(
    network: Network, nursery: trio.Nursery
) -> None:
    limits = {"messages_per_s": 2000.0, "message_burst": 500.0, "strikes_max": 1}
    a = await network.start(1, members=[address(2)], **limits)
    peer = await linked(a.mesh, 2)
    await a.up(2)

    async def empty() -> None:
        with suppress(Exception):
            for _ in range(200):
                await peer.channel.send(raw(*[(DATA, 0, 1, 0)] * 500))

    nursery.start_soon(empty)
    assert await a.down(2) == "flooding"
    peer.channel.close()
