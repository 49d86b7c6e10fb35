"""The closed loop against scripted servers: counting, refusals, broken connections, silence."""

from __future__ import annotations

import math
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import trio

from bench import failover, load
from bench.cluster import BenchError, cpu_s, spread
from bench.load import percentile
from bench.wire import request

OK_BODY = b'{"revision": 1, "existed": false}'
Answering = Callable[[int, bytes], bytes | None]  # (number, request) -> answer; None: hang up


def http(status: int, body: bytes = OK_BODY) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


class Server:
    """A scripted server on threads, for any number of connections."""

    def __init__(self, answering: Answering) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._answering = answering
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.address: tuple[str, int] = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            with self._lock:
                self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        self._answer_all(sock)
        with self._lock:
            self.connections -= 1

    def _answer_all(self, sock: socket.socket) -> None:
        with sock, sock.makefile("rb") as lines:
            while True:
                request = b""
                length = 0
                try:
                    while not request.endswith(b"\r\n\r\n"):
                        line = lines.readline()
                        if not line:
                            return
                        if line.lower().startswith(b"content-length:"):
                            length = int(line.split(b":")[1])
                        request += line
                    request += lines.read(length)
                    with self._lock:
                        self.requests.append(request)
                        answer = self._answering(len(self.requests), request)
                    if answer is None:
                        return
                    sock.sendall(answer)
                except OSError:
                    return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept
        self._listener.close()
        for sock in self._sockets:
            sock.close()


@pytest.fixture
def serve() -> Iterator[Callable[[Answering], Server]]:
    servers: list[Server] = []

    def start(answering: Answering) -> Server:
        servers.append(Server(answering))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


Serve = Callable[[Answering], Server]


def make(writer: int, count: int) -> bytes:
    return request("PUT", "/k", "h", {"idempotency-key": f"{writer}-{count}"}, 3) + b"abc"


def ids(server: Server) -> list[bytes]:
    return [r.split(b"idempotency-key: ")[1].split(b"\r\n")[0] for r in server.requests]


async def run(server: Server, writers: int = 2, seconds: float = 0.2) -> load.Measured:
    return await load.measure(
        make, [server.address] * writers, warmup_s=0.0, seconds=seconds, cpu_s=lambda: 0.0
    )


async def test_every_write_is_sent_once_and_counted_once(serve: Serve) -> None:
    server = serve(lambda number, _: http(200))
    measured = await run(server)
    assert measured.commits_total == len(server.requests) == len(set(ids(server))) > 0
    assert len(measured.latencies_s) <= measured.commits_total
    assert measured.latencies_s == sorted(measured.latencies_s)
    assert not measured.refused


async def test_a_refused_write_goes_again_with_the_same_id_and_counts_once(serve: Serve) -> None:
    server = serve(lambda number, _: http(503) if number % 3 == 0 else http(200))
    measured = await run(server)
    assert measured.refused["503"] > 0
    assert measured.commits_total == len(set(ids(server)))
    assert len(server.requests) == measured.commits_total + measured.refused["503"]


async def test_a_broken_connection_is_made_anew_for_the_same_write(serve: Serve) -> None:
    server = serve(lambda number, _: None if number % 5 == 0 else http(200))
    measured = await run(server)
    assert measured.refused["connection"] > 0
    assert measured.commits_total == len(set(ids(server)))


async def test_an_acknowledgement_that_acknowledges_nothing_is_not_counted(serve: Serve) -> None:
    server = serve(lambda number, _: http(200, b"{}") if number == 1 else http(200))
    measured = await run(server, writers=1)
    assert measured.refused == {"200": 1}
    assert measured.commits_total == len(server.requests) - 1


async def test_two_answers_to_one_request_are_a_bad_answer(serve: Serve) -> None:
    server = serve(lambda number, _: http(200) * 2 if number == 1 else http(200))
    measured = await run(server, writers=1)
    assert measured.refused["bad answer"] == 1
    assert measured.commits_total == len(server.requests) - 1


async def test_silence_ends_the_measurement_with_what_was_refused(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "SILENCE_S", 0.1)
    server = serve(lambda number, _: http(429))
    with pytest.raises(BenchError, match="429"):
        await run(server, seconds=20)


async def test_a_cancelled_measurement_stops_its_thread(serve: Serve) -> None:
    first = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def answering(number: int, _: bytes) -> bytes:
        if number == 1:
            token.run_sync_soon(first.set)
        return http(200)

    server = serve(answering)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, server, 1, 600.0)
        await first.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(10):
        while server.connections:  # they are closed when the thread has ended
            await trio.sleep(0.01)


async def test_nobody_listening_is_said() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with pytest.raises(BenchError, match="no connection"):
        await load.measure(make, [address], warmup_s=0, seconds=0.1, cpu_s=lambda: 0.0)


async def test_the_first_acknowledgement_ends_the_failover_and_the_id_stays(serve: Serve) -> None:
    deaf = serve(lambda number, _: None)
    late = serve(lambda number, _: http(200) if number > 3 else http(503))
    client = failover._Client()
    at_s, attempts = await failover._first_acknowledged(
        client, [deaf.address, late.address], make(0, 0)
    )
    client.close()
    assert at_s > 0 and attempts >= 8
    assert len(set(ids(deaf) + ids(late))) == 1


async def test_a_swallowed_attempt_does_not_hold_up_the_next(serve: Serve) -> None:
    server = serve(lambda number, _: b"" if number < 3 else http(200))
    client = failover._Client()
    _, attempts = await failover._first_acknowledged(client, [server.address], make(0, 0))
    client.close()
    assert attempts >= 3


async def test_a_cluster_that_stays_dead_is_an_error(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failover, "DEADLINE_S", 0.1)
    server = serve(lambda number, _: http(503))
    with pytest.raises(BenchError, match="no write"):
        await failover._first_acknowledged(failover._Client(), [server.address], make(0, 0))


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 50), (99, 99), (99.1, 100)])
def test_percentiles_are_by_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([float(n) for n in range(1, 101)], percent) == expected


def test_there_is_no_percentile_of_nothing() -> None:
    assert math.isnan(percentile([], 50))


def test_writers_begin_with_the_leader_and_go_round() -> None:
    node_of = spread(2, 4)
    assert [node_of(writer) for writer in range(6)] == [2, 3, 0, 1, 2, 3]


def test_a_process_that_is_gone_makes_the_cpu_figure_an_error() -> None:
    with pytest.raises(BenchError, match="ended"):
        cpu_s([2**22 + 1])


def test_a_dead_child_that_nobody_waited_for_counts_as_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert cpu_s([child.pid]) >= 0
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(BenchError, match="ended"):
        cpu_s([child.pid])
    child.communicate()
