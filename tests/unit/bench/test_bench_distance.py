"""Relays between nodes that are far from each other."""

import contextlib
import socket
import threading

import pytest

from bench.cluster import BenchError
from bench.distance import Relays

TIMEOUT_S = 30.0


def _listener() -> socket.socket:
    """On a port above which the relay's is free as well."""
    while True:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1] + Relays([], 1.0).offset
        if port < 2**16:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)):
                    return listener
        listener.close()


def _answer_once(listener: socket.socket) -> None:
    peer, _ = listener.accept()
    with peer, contextlib.suppress(ConnectionResetError):
        while data := peer.recv(4096):
            peer.sendall(data.upper())


def test_what_nodes_say_comes_through_whole_and_in_order_both_ways() -> None:
    with _listener() as listener:
        port = listener.getsockname()[1]
        relays = Relays([port], delay_ms=2.0)
        relays.start()
        node = threading.Thread(target=_answer_once, args=(listener,))
        node.start()
        try:
            address = ("127.0.0.1", port + relays.offset)
            with socket.create_connection(address, TIMEOUT_S) as dialled:
                said = b"".join(b"piece %d," % number for number in range(3000))
                dialled.sendall(said)
                heard = b""
                while len(heard) < len(said):
                    more = dialled.recv(65536)
                    assert more, "the relay ended the link"
                    heard += more
                assert heard == said.upper()
            node.join(TIMEOUT_S)
            assert not node.is_alive(), "the end of a link comes through too"
        finally:
            relays.stop()


def test_links_end_with_the_relays_and_the_port_is_free_again() -> None:
    with _listener() as listener:
        port = listener.getsockname()[1]
        for _ in range(2):
            relays = Relays([port], delay_ms=2.0)
            relays.start()
            node = threading.Thread(target=_answer_once, args=(listener,))
            node.start()
            with socket.create_connection(("127.0.0.1", port + relays.offset), TIMEOUT_S) as link:
                link.sendall(b"a")
                assert link.recv(1) == b"A"
                relays.stop()
                with contextlib.suppress(ConnectionResetError):
                    assert link.recv(1) == b""
            node.join(TIMEOUT_S)
            assert not node.is_alive()


def test_a_node_that_is_down_ends_the_link_and_a_taken_port_is_told() -> None:
    with _listener() as listener:
        port = listener.getsockname()[1]
        relays = Relays([port], delay_ms=2.0)
        relays.start()
        listener.close()
        try:
            address = ("127.0.0.1", port + relays.offset)
            with socket.create_connection(address, TIMEOUT_S) as dialled:
                assert dialled.recv(1) == b""
            with pytest.raises(BenchError, match="cannot listen"):
                Relays([port], delay_ms=2.0).start()
        finally:
            relays.stop()


def test_without_a_delay_there_is_no_relay() -> None:
    relays = Relays([1], delay_ms=0.0)
    relays.start()
    relays.stop()
    assert relays.offset == 0
