from __future__ import annotations

import subprocess
import sys

import base58
import pytest
import trio
from libp2p.stream_muxer.yamux.yamux import Yamux as StockYamux

from node.network import (
    Mesh,
    MessageFrom,
    NetworkError,
    NetworkLimits,
    PayloadTooLarge,
    PeerAddress,
    PeerDown,
    PeerUp,
    Priority,
    peer_id_of,
)
from node.network.frames import Hello, encode_frame
from node.network.handshake import Handshaker
from node.network.identity import (
    YAMUX_ID,
    MultiselectClient,
    MultiselectCommunicator,
    TProtocol,
    key_pair,
    peer_id_from_key,
)
from node.network.limits import PROTOCOL_ID, PROTOCOL_VERSION
from node.network.yamux import Yamux

from .conftest import (
    CLUSTER,
    FAST,
    PATIENCE_S,
    Network,
    address,
    linked,
    node_key,
    noise,
    secret_of,
    tcp,
    wait_closed,
    wait_until,
)


async def test_two_members_connect_and_exchange_messages(network: Network) -> None:
    a, b = await network.full(2)
    assert a.mesh.send(2, b"ping") is True
    assert await b.message(1) == b"ping"
    assert b.mesh.send(1, b"") is True
    assert await a.message(2) == b""
    assert b.seen[0] == PeerUp(1)


async def test_four_members_form_a_full_mesh_and_a_broadcast_reaches_everybody(
    network: Network,
) -> None:
    nodes = await network.full(4)
    for node in nodes:
        assert node.mesh.broadcast(b"from %d" % node.mesh.seat) == 3
    for node in nodes:
        for other in nodes:
            if other is not node:
                await wait_until(lambda n=node: drain(n))
                assert MessageFrom(other.mesh.seat, b"from %d" % other.mesh.seat) in node.seen


def drain(node) -> bool:  # type: ignore[no-untyped-def]
    try:
        while True:
            node.seen.append(node.mesh.events.receive_nowait())
    except trio.WouldBlock:
        return sum(isinstance(e, MessageFrom) for e in node.seen) >= 3


async def test_messages_of_one_priority_arrive_in_order_whatever_their_size(
    network: Network,
) -> None:
    a, b = await network.full(2)
    sizes = [0, 1, 70_000, 3, 300_000, 1 << 20, 12, 65_536, *range(200)]
    sent = [bytes([i % 251]) * size for i, size in enumerate(sizes)]
    for payload in sent:
        assert a.mesh.send(2, payload)
    for payload in sent:
        assert await b.message(1) == payload
    row = b.mesh.links()[0]
    assert row.received_messages == len(sent)
    assert row.received_bytes == sum(sizes)


async def test_the_peer_id_is_the_identity_hash_of_the_node_key() -> None:
    key = node_key(secret_of(7))
    by_hand = base58.b58encode(b"\x00\x25\x08\x02\x12\x21" + key).decode()
    assert peer_id_of(key) == by_hand


async def test_links_report_round_trip_time_and_counters(network: Network) -> None:
    a, _ = await network.full(2)
    await wait_until(lambda: a.mesh.links()[0].rtt_ms is not None)
    a.mesh.send(2, b"x" * 10)
    await wait_until(lambda: a.mesh.links()[0].sent_messages == 1)
    (row,) = a.mesh.links()
    assert row.seat == 2
    assert row.peer_id == peer_id_of(node_key(secret_of(2)))
    assert row.connected and row.since is not None and row.last_seen_ms_ago is not None
    assert row.queued_bytes == 0 and row.down_reason == ""


async def test_an_unknown_or_unlinked_seat_is_answered_with_false(network: Network) -> None:
    a = await network.start(1, members=[address(2)])
    assert a.mesh.send(2, b"x") is False
    assert a.mesh.send(99, b"x") is False
    assert a.mesh.broadcast(b"x") == 0
    with pytest.raises(PayloadTooLarge):
        a.mesh.send(2, bytes(a.mesh.limits.frame_bytes_max + 1))


async def test_the_higher_seat_dials_when_the_lower_one_cannot(network: Network) -> None:
    a = await network.start(1, members=[address(2, "")])  # does not know where seat 2 is
    b = await network.start(2, members=[address(1, a.mesh.listen_address)])
    await a.up(2)
    await b.up(1)


async def test_who_has_just_started_dials_lower_seats_at_once(network: Network) -> None:
    a = await network.start(1, members=[address(2, "")])  # as if it sat out a backoff
    await network.start(
        2, members=[address(1, a.mesh.listen_address)], dial_grace_s=10 * PATIENCE_S
    )
    await a.up(2)


async def test_whoever_waits_for_links_is_told_of_each_that_opens_or_closes(
    network: Network,
) -> None:
    a, b = await network.full(2)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as waiting:
            waiting.start_soon(a.mesh.wait_links)
            await trio.lowlevel.checkpoint()
            await b.stop()
        assert a.mesh.linked() == set()
        async with trio.open_nursery() as waiting:
            waiting.start_soon(a.mesh.wait_links)
            await trio.lowlevel.checkpoint()
            await network.start(2, members=[address(1, a.mesh.listen_address)])
        assert a.mesh.linked() == {2}


async def test_crossing_dials_settle_on_one_link(network: Network) -> None:
    for _ in range(5):
        a, b = await network.full(2, dial_grace_s=0.0)
        a.mesh.send(2, b"over the one link")
        assert await b.message(1) == b"over the one link"
        # Whatever crossed has settled once both ends agree who dialled.
        await wait_until(
            lambda a=a, b=b: (
                (x := a.mesh._peers[2].link) is not None
                and (y := b.mesh._peers[1].link) is not None
                and x.dialled != y.dialled
                and a.mesh.send(2, b"y")
                and b.mesh.half_open == 0
            )
        )
        await a.stop()
        await b.stop()


async def test_nobody_deals_with_events_in_the_midst_of_the_meshs_own_work(
    network: Network,
) -> None:
    """Whoever does may change the members, which the mesh is just going through."""
    a = await network.start(1, members=[address(2)])
    inside = False
    events = a.mesh.events

    def arrived() -> None:
        assert not inside
        events._wake()

    events.on_arrival = arrived
    peer = await linked(a.mesh, 2)
    await a.up(2)
    await peer.channel.send(peer.yamux.wrap(encode_frame(b"one")))
    assert await a.message(2) == b"one"
    inside = True
    a.mesh.set_members([])
    inside = False
    assert await a.down(2) == "removed"
    peer.channel.close()


async def test_a_member_that_is_removed_is_cut_and_not_let_in_again(network: Network) -> None:
    a, b = await network.full(2)
    a.mesh.set_members([])
    assert await a.down(2) == "removed"
    assert a.mesh.links() == []
    await b.down(1)
    await wait_until(lambda: a.mesh.refused["not_a_member"] > 0 or b.log.of("dial_failed"))
    assert not b.connected(1)
    a.mesh.set_members([address(2, b.mesh.listen_address)])
    await a.up(2)


async def test_a_changed_key_ends_the_old_link_and_admits_only_the_new_key(
    network: Network,
) -> None:
    a, b = await network.full(2)
    a.mesh.set_members([PeerAddress(2, node_key(secret_of(22)), "")])
    assert await a.down(2) == "removed"
    await b.down(1)
    await b.stop()
    new = await network.start(2, secret=secret_of(22), members=[address(1, a.mesh.listen_address)])
    await a.up(2)
    await new.up(1)


async def test_a_changed_endpoint_is_dialled_at_once(network: Network) -> None:
    b = await network.start(2, members=[address(1)])
    wrong = "/ip4/127.0.0.1/tcp/1"
    a = await network.start(1, members=[address(2, wrong)], backoff_max_s=1000.0)
    await wait_until(lambda: a.log.of("dial_failed"))
    assert a.mesh.links()[0].down_reason == "unreachable"
    a.mesh.set_members([address(2, b.mesh.listen_address)])
    await a.up(2)


async def test_unusable_entries_of_the_registry_do_not_keep_the_others_apart(
    network: Network,
) -> None:
    b = await network.start(2, members=[address(1)])
    a = await network.start(
        1,
        members=[
            PeerAddress(3, b"\x02" + b"\xff" * 32, ""),
            PeerAddress(4, b"short", ""),
            PeerAddress(5, node_key(secret_of(5)), "/unix/run/x"),
            PeerAddress(6, node_key(secret_of(1)), ""),
            address(2, b.mesh.listen_address),
        ],
    )
    await a.up(2)
    assert len(a.log.of("member_unusable")) == 3
    assert len(a.log.of("endpoint_unusable")) == 1


async def test_a_stock_libp2p_yamux_peer_is_understood(
    network: Network, nursery: trio.Nursery
) -> None:
    a = await network.start(1, members=[address(2)])
    _, session = await noise(a.mesh, secret_of(2))
    await MultiselectClient().select_one_of([YAMUX_ID], MultiselectCommunicator(session))
    stock = StockYamux(session, peer_id_of(node_key(secret_of(1))), is_initiator=True)
    nursery.start_soon(stock.start)
    await stock.event_started.wait()
    stream = await stock.open_stream()
    await MultiselectClient().select_one_of(
        [TProtocol(PROTOCOL_ID)], MultiselectCommunicator(stream)
    )
    hello = Hello(PROTOCOL_VERSION, CLUSTER, 2, bytes(16))
    await stream.write(encode_frame(hello.encode()))
    await a.up(2)
    payload = bytes(range(256)) * 3000
    await stream.write(encode_frame(payload))
    assert await a.message(2) == payload
    a.mesh.send(2, payload)
    received = b""
    with trio.fail_after(PATIENCE_S):
        while not received.endswith(payload):
            received += await stream.read(65536)
    # It answers our pings, so the link lives on.
    await wait_until(lambda: a.mesh.links()[0].rtt_ms is not None)
    await session.close()
    await a.down(2)


async def test_a_dialler_that_does_not_wait_for_answers_is_understood(network: Network) -> None:
    # Everything up to the first payload in one Noise message behind the muxer's negotiation.
    a = await network.start(1, members=[address(2)])
    _, session = await noise(a.mesh, secret_of(2))
    mine = Yamux(initiator=True, window_bytes=0)
    mine.open()

    def line(text: str) -> bytes:
        return bytes([len(text) + 1]) + text.encode() + b"\n"

    hello = Hello(PROTOCOL_VERSION, CLUSTER, 2, bytes(16))
    inner = line("/multistream/1.0.0") + line(PROTOCOL_ID) + encode_frame(hello.encode())
    inner += encode_frame(b"first") + encode_frame(b"second")[:5]
    outer = line("/multistream/1.0.0") + line(str(YAMUX_ID)) + mine.take_control()
    await session.write(outer + mine.wrap(inner))
    await a.up(2)
    assert await a.message(2) == b"first"
    await session.write(mine.wrap(encode_frame(b"second")[5:]))
    assert await a.message(2) == b"second"
    await session.close()


async def test_draining_waits_for_the_queues_but_not_for_ever(network: Network) -> None:
    a, b = await network.full(2)
    for number in range(200):
        assert a.mesh.send(2, b"%d" % number * 1000, Priority.BULK)
    await a.mesh.drain(PATIENCE_S)
    assert a.mesh.links()[0].queued_bytes == 0
    await a.stop()
    assert [await b.message(1) for _ in range(200)] == [b"%d" % n * 1000 for n in range(200)]
    c = await network.start(3, members=[address(4)], write_stall_s=PATIENCE_S)
    silent = await linked(c.mesh, 4)  # never reads
    await c.up(4)
    while c.mesh.send(4, bytes(60_000), Priority.BULK):
        await trio.lowlevel.checkpoint()
    await c.mesh.drain(0.05)
    assert c.mesh.links()[0].queued_bytes > 0
    silent.channel.close()


def test_a_mesh_can_be_made_and_given_members_before_trio_runs() -> None:
    mesh = Mesh(secret=secret_of(1), cluster_id=CLUSTER, seat=1, listen="/ip4/127.0.0.1/tcp/0")
    mesh.set_members([address(1), address(2)])
    mesh.set_members([address(3)])
    assert mesh.send(3, b"x") is False
    assert mesh.peer_id == peer_id_of(node_key(secret_of(1)))
    with pytest.raises(NetworkError):
        Mesh(secret=b"short", cluster_id=CLUSTER, seat=1, listen="/ip4/127.0.0.1/tcp/0")
    with pytest.raises(NetworkError):
        Mesh(secret=secret_of(1), cluster_id=CLUSTER, seat=1, listen="127.0.0.1:0")
    with pytest.raises(ValueError, match="heartbeat_s"):
        NetworkLimits(heartbeat_s=5.0)


async def test_a_full_consensus_queue_drops_the_oldest_and_others_refuse(
    network: Network,
) -> None:
    a = await network.start(
        1,
        members=[address(2)],
        frame_bytes_max=50_000,
        queue_consensus_bytes=100_000,
        queue_forward_bytes=100_000,
        queue_bulk_bytes=100_000,
        dead_after_s=PATIENCE_S,
        write_stall_s=PATIENCE_S,
    )
    peer = await linked(a.mesh, 2)  # never reads
    await a.up(2)
    payload = bytes(10_000)
    with trio.fail_after(PATIENCE_S):
        while a.mesh.send(2, payload, Priority.BULK):
            await trio.lowlevel.checkpoint()
        while a.mesh.send(2, payload, Priority.FORWARD):
            await trio.lowlevel.checkpoint()
    dropped = a.mesh.links()[0].dropped_messages
    for _ in range(50):
        assert a.mesh.send(2, payload, Priority.CONSENSUS) is True
    row = a.mesh.links()[0]
    assert row.dropped_messages > dropped
    assert row.queued_bytes <= 300_000 + a.mesh.limits.write_batch_bytes
    peer.channel.close()


async def test_consensus_overtakes_waiting_bulk(network: Network) -> None:
    a = await network.start(1, members=[address(2)], dead_after_s=PATIENCE_S)
    b = await network.start(2, members=[address(1, a.mesh.listen_address)])
    await a.up(2)
    with a.mesh.burst():
        for _ in range(200):
            assert a.mesh.send(2, b"bulk" * 2000, Priority.BULK)
        assert a.mesh.send(2, b"vote", Priority.CONSENSUS)
    order = [await b.message(1) for _ in range(201)]
    assert order.index(b"vote") == 0


async def test_stopping_a_mesh_closes_its_sockets_and_frees_the_port(network: Network) -> None:
    a, b = await network.full(2)
    port = a.mesh.listen_address
    await a.stop()
    assert await b.down(1) in ("closed_by_peer", "connection_lost")
    again = await network.start(1, listen=port, members=[address(2, b.mesh.listen_address)])
    await again.up(2)
    await b.up(1)


async def test_a_defect_in_a_link_costs_the_link_and_not_the_mesh(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = await network.full(2)
    link = a.mesh._peers[2].link
    assert link is not None

    def defect(payloads: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(link, "_deliver_all", defect)
    b.mesh.send(1, b"x")
    assert await a.down(2) == "crashed_ZeroDivisionError"
    await a.up(2)
    b_up = [e for e in b.seen if e == PeerUp(1)]
    while len(b_up) < 1:
        await b.up(1)
        b_up.append(PeerUp(1))
    assert PeerDown(2, "crashed_ZeroDivisionError") in a.seen


async def test_a_crashing_accept_loop_is_opened_again_on_the_same_port(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = trio.Event()
    real = trio.serve_listeners

    async def defect(*args: object, **kwargs: object) -> None:
        if not crashed.is_set():
            crashed.set()
            raise RuntimeError("defect")
        await real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr("node.network.mesh.trio.serve_listeners", defect)
    a = await network.start(1, members=[address(2)])
    await crashed.wait()
    b = await network.start(2, members=[address(1, a.mesh.listen_address)])
    await b.up(1)
    assert a.log.of("network_task_crashed")[0]["task"] == "listener"


def test_importing_the_room_keeps_the_librarys_log_to_itself() -> None:
    program = (
        "import logging; before = (logging.root.level, list(logging.root.handlers));"
        "import node.network;"
        "logging.getLogger('libp2p.network').error('noise');"
        "logging.getLogger('libp2p').critical('noise');"
        "assert before == (logging.root.level, list(logging.root.handlers))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        env={"LIBP2P_DEBUG": "DEBUG", "PYTHONPATH": ":".join(p for p in sys.path if p)},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(("mine", "theirs"), [(1, 2), (2, 1)])
async def test_of_two_crossed_dials_the_lower_seats_stays(
    network: Network, mine: int, theirs: int
) -> None:
    # The peer is played by hand: it takes the mesh's dial, then dials too, both in one boot.
    hello = Hello(PROTOCOL_VERSION, CLUSTER, theirs, b"one boot of them")
    peer = Handshaker(key_pair(secret_of(theirs)), hello, FAST, lambda _: mine)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    a = await network.start(
        mine, members=[address(theirs, f"/ip4/127.0.0.1/tcp/{port}")], dial_grace_s=0.0
    )
    first = await peer.inbound(await listener.accept())
    await a.up(theirs)
    target = peer_id_from_key(node_key(secret_of(mine)))
    second = await peer.outbound(await tcp(a.mesh), mine, target)
    kept, cut = (first, second) if mine < theirs else (second, first)
    await wait_closed(cut.channel)
    link = a.mesh._peers[theirs].link
    assert link is not None and link.dialled is (mine < theirs)
    await kept.channel.send(kept.yamux.wrap(encode_frame(b"over the one that stays")))
    assert await a.message(theirs) == b"over the one that stays"
    assert a.mesh.refused["duplicate"] == (1 if mine < theirs else 0)
    kept.channel.close()
    listener.socket.close()
