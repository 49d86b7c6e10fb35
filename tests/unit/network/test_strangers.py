"""Connections of people who are not members, or not what they say."""

from __future__ import annotations

import os

import pytest
import trio
from libp2p.crypto.secp256k1 import Secp256k1PublicKey
from libp2p.security.insecure.transport import PLAINTEXT_PROTOCOL_ID, InsecureTransport

from node.network import PeerAddress, PeerUp
from node.network.channel import HandshakeStream
from node.network.errors import Refused
from node.network.identity import (
    RawConnection,
    SecurityMultistream,
    key_pair,
    peer_id_from_key,
)

from .conftest import (
    FAST,
    Network,
    address,
    closing,
    linked,
    muxed,
    node_key,
    noise,
    secret_of,
    tcp,
    wait_closed,
    wait_until,
)


async def test_a_stranger_with_a_valid_key_is_cut_before_any_stream(network: Network) -> None:
    a = await network.start(1, members=[address(2)])
    stream, _session = await noise(a.mesh, secret_of(66))  # his side of Noise completes
    await wait_closed(stream)
    await wait_until(lambda: a.log.of("peer_refused"))
    (record,) = a.log.of("peer_refused")
    assert record["reason"] == "not_a_member"
    assert record["peer_id"] == peer_id_from_key(node_key(secret_of(66))).to_base58()
    assert record["address"].startswith("127.0.0.1:")
    assert a.mesh.refused["not_a_member"] == 1
    assert a.mesh.half_open == 0
    with pytest.raises(Exception):  # noqa: B017  the muxer negotiation finds a closed socket
        await muxed(a.mesh, secret_of(66))
    assert not a.mesh.links()[0].connected


async def test_a_key_that_has_no_seat_any_more_is_a_stranger(network: Network) -> None:
    a = await network.start(1, members=[address(2)])
    a.mesh.set_members([address(3)])
    with pytest.raises(Refused):
        await linked(a.mesh, 2)
    await wait_until(lambda: a.mesh.refused["not_a_member"] == 1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cluster": b"\xc2" * 32}, "wrong_cluster"),
        ({"version": 99}, "wrong_version"),
        ({"claimed_seat": 3}, "wrong_seat"),
    ],
)
async def test_a_member_with_a_wrong_hello_is_refused_with_the_reason(
    network: Network, changes: dict[str, object], reason: str
) -> None:
    a = await network.start(1, members=[address(2), address(3)])
    with pytest.raises(Refused):
        await linked(a.mesh, 2, **changes)  # type: ignore[arg-type]
    await wait_until(lambda: a.mesh.refused[reason] == 1)
    assert a.log.of("peer_refused")[0]["reason"] == reason
    assert not any(row.connected for row in a.mesh.links())


async def test_meshes_of_two_clusters_never_link(network: Network) -> None:
    a = await network.start(1, members=[address(2)])
    b = await network.start(2, cluster=b"\xc2" * 32, members=[address(1, a.mesh.listen_address)])
    await wait_until(lambda: a.mesh.refused["wrong_cluster"] >= 3)
    assert not a.connected(2) and not b.connected(1)
    assert PeerUp(2) not in a.seen


async def test_plaintext_with_the_public_key_of_a_member_is_refused(network: Network) -> None:
    a = await network.start(1, members=[address(2)])
    stream = await tcp(a.mesh)
    keys = key_pair(secret_of(66))
    forged = type(keys)(keys.private_key, Secp256k1PublicKey.from_bytes(node_key(secret_of(2))))
    spoof = SecurityMultistream({PLAINTEXT_PROTOCOL_ID: InsecureTransport(forged)})
    raw = RawConnection(HandshakeStream(stream, 1 << 20), True)
    with pytest.raises(Exception, match=r"negotiate|not supported"):
        await spoof.secure_outbound(raw, peer_id_from_key(node_key(secret_of(1))))
    stream.socket.close()
    assert not a.connected(2)


@pytest.mark.parametrize(
    "protocol", [b"/tls/1.0.0", b"/plaintext/2.0.0", b"/secio/1.0.0", b"/quic-v1"]
)
async def test_only_noise_is_offered(network: Network, protocol: bytes) -> None:
    a = await network.start(1, members=[address(2)])
    stream = await tcp(a.mesh)
    with closing(stream):
        for line in (b"/multistream/1.0.0\n", protocol + b"\n"):
            await stream.send_all(bytes([len(line)]) + line)
        received = b""
        while not received.endswith(b"\n" + b"\x03na\n"):
            data = await stream.receive_some(4096)
            assert data, received
            received += data


async def test_the_dialler_refuses_a_listener_with_another_key(network: Network) -> None:
    imposter = await network.start(2, secret=secret_of(66), members=[address(1)])
    a = await network.start(1, members=[address(2, imposter.mesh.listen_address)])
    await wait_until(lambda: a.mesh.refused["wrong_peer_id"] >= 2)
    assert a.log.of("peer_refused")[0]["dialled"] is True
    assert not a.connected(2)


async def test_an_endpoint_naming_another_peer_id_is_not_dialled(network: Network) -> None:
    b = await network.start(2, members=[address(1)])
    other = peer_id_from_key(node_key(secret_of(9))).to_base58()
    a = await network.start(1)
    a.mesh.set_members(
        [PeerAddress(2, node_key(secret_of(2)), f"{b.mesh.listen_address}/p2p/{other}")]
    )
    assert a.log.of("endpoint_unusable")
    mine = peer_id_from_key(node_key(secret_of(2))).to_base58()
    a.mesh.set_members(
        [PeerAddress(2, node_key(secret_of(2)), f"{b.mesh.listen_address}/p2p/{mine}")]
    )
    await a.up(2)


GARBAGE = [
    os.urandom(2000),
    b"\x05\xff\xfe\xfd\xfc\n",
    b"\xff" * 100,
    b"\x00" * 5000,
    b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01" + b"x" * 100,  # varint of 2**63
    b"\xff\xff\xff\x7f" + b"y" * 100_000,  # announces 256 MiB
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x13/multistream/1.0.0\n\x07/noise\n" + os.urandom(3000),
    b"\x13/multistream/1.0.0\n\x07/noise\n" + b"\xff\xff" + os.urandom(70_000),
    b"\x13/multistream/1.0.0\n" + b"\x03ls\n" * 5000,
]


async def test_garbage_is_refused_and_a_member_still_comes_in(network: Network) -> None:
    a = await network.start(1, members=[address(2)], handshake_timeout_s=1.0)
    for blob in GARBAGE * 3:
        stream = await tcp(a.mesh)
        try:
            await stream.send_all(blob)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass
        await wait_closed(stream)
        stream.socket.close()
    await wait_until(lambda: a.mesh.half_open == 0)
    assert sum(a.mesh.refused.values()) == len(GARBAGE) * 3
    established = await linked(a.mesh, 2)
    await a.up(2)
    established.channel.close()


async def test_idle_and_slow_sockets_hold_bounded_slots_and_only_for_the_deadline(
    network: Network, nursery: trio.Nursery
) -> None:
    a = await network.start(
        1, members=[address(2)], half_open_per_ip_max=8, handshake_timeout_s=1.0
    )
    idle = [await tcp(a.mesh) for _ in range(100)]

    async def trickle(stream: trio.SocketStream) -> None:
        try:
            for byte in b"\x13/multistream/1.0.0\n" * 100:
                await stream.send_all(bytes([byte]))
                await trio.sleep(0.05)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    for stream in idle[:4]:
        nursery.start_soon(trickle, stream)
    await wait_until(lambda: a.mesh.refused["too_many_half_open_per_ip"] == 92)
    assert a.mesh.half_open == 8
    await wait_until(lambda: a.mesh.refused["handshake_timeout"] == 8)
    established = await linked(a.mesh, 2)
    await a.up(2)
    for stream in idle:
        stream.socket.close()
    established.channel.close()


async def test_strangers_do_not_use_up_the_slots_of_addresses_that_members_announced(
    network: Network,
) -> None:
    # Two loopback addresses stand for two hosts: members announced 127.0.0.1, strangers are at .2
    a = await network.start(
        1,
        listen="/ip4/0.0.0.0/tcp/0",
        members=[address(2, "/ip4/127.0.0.1/tcp/1")],
        half_open_max=4,
        handshake_timeout_s=20.0,
    )
    port = int(a.mesh.listen_address.rpartition("/")[2])
    strangers = [
        await trio.open_tcp_stream("127.0.0.1", port, local_address="127.0.0.2") for _ in range(8)
    ]
    await wait_until(lambda: a.mesh.refused["too_many_half_open"] == 4)
    a.mesh.listen_address = f"/ip4/127.0.0.1/tcp/{port}"
    established = await linked(a.mesh, 2)
    await a.up(2)
    for stream in strangers:
        stream.socket.close()
    established.channel.close()


async def test_handshakes_of_one_address_are_limited_in_rate(network: Network) -> None:
    a = await network.start(
        1, members=[address(2)], handshakes_per_s_per_ip=0.001, handshake_burst_per_ip=5.0
    )
    for _ in range(9):
        stream = await tcp(a.mesh)
        stream.socket.close()
    await wait_until(lambda: a.mesh.refused["too_many_handshakes_per_ip"] == 4)


async def test_members_that_share_an_address_share_a_larger_allowance(network: Network) -> None:
    endpoint = "/ip4/127.0.0.1/tcp/1"
    a = await network.start(
        1,
        members=[address(seat, endpoint) for seat in range(2, 6)],
        half_open_per_ip_max=2,
        handshake_timeout_s=20.0,
    )
    sockets = [await tcp(a.mesh) for _ in range(10)]
    await wait_until(lambda: a.mesh.refused["too_many_half_open_per_ip"] == 2)
    assert a.mesh.half_open == 8
    for stream in sockets:
        stream.socket.close()
    await wait_until(lambda: a.mesh.half_open == 0)


async def test_handshakes_of_all_strangers_together_are_limited_in_rate(
    network: Network,
) -> None:
    a = await network.start(
        1, members=[address(2)], handshakes_per_s_strangers=0.001, handshake_burst_strangers=3.0
    )
    for _ in range(5):
        stream = await tcp(a.mesh)
        stream.socket.close()
    await wait_until(lambda: a.mesh.refused["too_many_handshakes"] == 2)
    a.mesh.set_members([address(2, "/ip4/127.0.0.1/tcp/1")])  # announced: not a stranger's
    established = await linked(a.mesh, 2)
    await a.up(2)
    established.channel.close()


async def test_a_flood_of_refusals_is_counted_in_full_and_logged_in_part(
    network: Network,
) -> None:
    a = await network.start(1, members=[address(2)])
    for _ in range(120):
        stream = await tcp(a.mesh)
        await stream.send_all(b"\x00")
        stream.socket.close()
    await wait_until(lambda: sum(a.mesh.refused.values()) == 120)
    assert 1 <= len(a.log.of("peer_refused")) < 120


async def test_connecting_and_leaving_many_times_leaks_nothing(network: Network) -> None:
    a = await network.start(1, members=[address(2)])
    first = await linked(a.mesh, 2)
    await a.up(2)
    first.channel.close()
    await a.down(2)
    before = trio.lowlevel.current_statistics().tasks_living
    for _ in range(300):
        established = await linked(a.mesh, 2)
        established.channel.close()
    await wait_until(lambda: a.mesh.half_open == 0 and not a.connected(2))
    await wait_until(lambda: trio.lowlevel.current_statistics().tasks_living <= before)
    assert sum(a.mesh.refused.values()) == 0
    last = await linked(a.mesh, 2)
    await wait_until(lambda: a.connected(2))
    last.channel.close()


async def test_the_secret_is_in_no_log_record_and_no_repr(network: Network) -> None:
    a, b = await network.full(2)
    a.mesh.set_members([])
    await b.down(1)
    text = repr(a.log.records) + repr(b.log.records) + repr(vars(a.mesh)) + repr(a.mesh)
    for form in (secret_of(1).hex(), repr(secret_of(1))[2:-1]):
        assert form not in text
    assert FAST.handshake_timeout_s == 3.0
