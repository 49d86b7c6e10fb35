"""Closed-loop writers: each sends its next write when the last one is acknowledged.

All writers of a measurement live in one thread on one epoll, without an event loop above it: on a
machine with few cores every microsecond of the client is taken from the servers. Both sides get
exactly this code; the share of a core that it takes is reported beside the figures.

A write that is refused (busy, unavailable) or whose connection breaks is sent again, the same
request, and its latency counts from the first time.
"""

from __future__ import annotations

import gc
import select
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from .cluster import Address, BenchError, MakeWrite
from .wire import BadAnswer, read_answer

RETRY_S = 0.010
CONNECT_TIMEOUT_S = 5.0
SILENCE_S = 30.0  # without any acknowledgement: the cluster does not work
DRAIN_S = 30.0
POLL_S = 0.005  # how late a retry and the end of a window may be noticed
RECEIVE_BYTES = 64 * 1024


@dataclass(slots=True)
class Measured:
    """One window. Latencies are of the writes acknowledged in it, sorted."""

    writers: int
    seconds: float
    latencies_s: list[float]
    commits_total: int  # with the warm-up and the writes that ended after the window
    client_cpu_s: float
    server_cpu_s: float
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def commits_per_s(self) -> float:
        return len(self.latencies_s) / self.seconds

    @property
    def server_cpu_ms_per_commit(self) -> float:
        return 1000 * self.server_cpu_s / max(1, len(self.latencies_s))

    @property
    def client_cpu_share(self) -> float:
        return self.client_cpu_s / self.seconds

    def percentile_ms(self, percent: float) -> float:
        return 1000 * percentile(self.latencies_s, percent)


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Nearest rank in a sorted sequence; NaN when it is empty."""
    if not ordered:
        return float("nan")
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, min(len(ordered), int(rank)) - 1)]


async def measure(
    make: MakeWrite,
    targets: Sequence[Address],
    *,
    warmup_s: float,
    seconds: float,
    cpu_s: Callable[[], float],
) -> Measured:
    """Run one writer per target for warm-up and window; ``cpu_s`` reads the servers' CPU time.

    Raises:
        BenchError: nothing was acknowledged for ``SILENCE_S``, or writes were left without outcome.
    """
    stop = threading.Event()
    try:
        return await trio.to_thread.run_sync(
            partial(_Load(make, targets, stop).run, warmup_s, seconds, cpu_s),
            abandon_on_cancel=True,  # type: ignore[call-arg, unused-ignore]
        )
    finally:
        stop.set()


class _Writer:
    __slots__ = ("awaits", "begun_s", "buffer", "count", "number", "request", "sock", "target")

    def __init__(self, number: int, target: Address) -> None:
        self.number = number
        self.target = target
        self.sock: socket.socket | None = None
        self.buffer = b""
        self.count = 0
        self.request = b""
        self.begun_s = 0.0
        self.awaits = False  # an answer; not while it waits to send again, nor at the end


class _Load:
    def __init__(self, make: MakeWrite, targets: Sequence[Address], stop: threading.Event) -> None:
        self._make = make
        self._stop = stop
        self._writers = [_Writer(number, target) for number, target in enumerate(targets)]
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Writer] = {}
        self._retries: deque[tuple[float, _Writer]] = deque()  # all wait equally long: in order
        self._latencies_s: list[float] = []
        self._commits = 0
        self._busy = 0  # writers with a write under way
        self._going_on = True
        self._refused: Counter[str] = Counter()

    def run(self, warmup_s: float, seconds: float, cpu_s: Callable[[], float]) -> Measured:
        gc.collect()
        gc.freeze()
        gc.disable()  # a full collection in the window would show as latency of the servers
        try:
            for writer in self._writers:
                try:
                    self._connect(writer)
                except OSError as error:
                    raise BenchError(f"no connection to {writer.target}: {error}") from None
            for writer in self._writers:
                self._next(writer)
            self._until(time.perf_counter() + warmup_s)
            self._latencies_s = []
            servers_s, client_s, begin_s = cpu_s(), time.thread_time(), time.perf_counter()
            self._until(begin_s + seconds)
            window_s = time.perf_counter() - begin_s
            client_s, servers_s = time.thread_time() - client_s, cpu_s() - servers_s
            latencies_s = sorted(self._latencies_s)
            self._going_on = False
            self._until(time.perf_counter() + DRAIN_S)
            if self._busy:
                raise BenchError(
                    f"{self._busy} writes had no outcome {DRAIN_S:.0f} s after the end"
                )
            return Measured(
                writers=len(self._writers),
                seconds=window_s,
                latencies_s=latencies_s,
                commits_total=self._commits,
                client_cpu_s=client_s,
                server_cpu_s=servers_s,
                refused=self._refused,
            )
        finally:
            gc.enable()
            gc.unfreeze()
            for writer in self._writers:
                if writer.sock is not None:
                    writer.sock.close()
            self._epoll.close()

    def _until(self, end_s: float) -> None:
        """Work until that moment, or until nothing is under way."""
        heard_s = now_s = time.perf_counter()
        commits = self._commits
        while now_s < end_s and self._busy:
            if self._stop.is_set():
                raise BenchError("stopped")
            for fd, _ in self._epoll.poll(POLL_S):
                writer = self._by_fd.get(fd)
                if writer is not None:
                    self._receive(writer)
            now_s = time.perf_counter()
            while self._retries and self._retries[0][0] <= now_s:
                self._send(self._retries.popleft()[1])
            if commits != self._commits:
                commits, heard_s = self._commits, now_s
            elif now_s - heard_s > SILENCE_S:
                raise BenchError(
                    f"no write was acknowledged for {SILENCE_S:.0f} s; "
                    f"refused so far: {dict(self._refused) or 'none'}"
                )

    def _next(self, writer: _Writer) -> None:
        writer.request = self._make(writer.number, writer.count)
        writer.count += 1
        writer.begun_s = time.perf_counter()
        self._busy += 1
        self._send(writer)

    def _send(self, writer: _Writer) -> None:
        try:
            if writer.sock is None:
                self._connect(writer)
            # A request is far smaller than an empty socket buffer, so it goes at once or never.
            if writer.sock is None or writer.sock.send(writer.request) != len(writer.request):
                raise OSError("the request was not taken whole")
            writer.awaits = True
        except OSError:
            self._again(writer, "connection")

    def _receive(self, writer: _Writer) -> None:
        assert writer.sock is not None
        try:
            data = writer.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not writer.awaits:
            self._disconnect(writer)
            return
        if not data:
            self._again(writer, "connection")
            return
        buffer = writer.buffer + data if writer.buffer else data
        try:
            answer = read_answer(buffer)
        except BadAnswer:
            self._again(writer, "bad answer")
            return
        if answer is None:
            writer.buffer = buffer
            return
        writer.buffer = b""
        if len(buffer) != answer.length:
            self._again(writer, "bad answer")  # nothing was asked for that could follow
        elif answer.committed:
            self._latencies_s.append(time.perf_counter() - writer.begun_s)
            self._commits += 1
            self._busy -= 1
            writer.awaits = False
            if self._going_on:
                self._next(writer)
        else:
            self._again(writer, str(answer.status), keep=True)

    def _again(self, writer: _Writer, why: str, *, keep: bool = False) -> None:
        self._refused[why] += 1
        writer.awaits = False
        if not keep:
            self._disconnect(writer)
        self._retries.append((time.perf_counter() + RETRY_S, writer))

    def _connect(self, writer: _Writer) -> None:
        sock = socket.create_connection(writer.target, CONNECT_TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        writer.sock = sock
        self._by_fd[sock.fileno()] = writer
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _disconnect(self, writer: _Writer) -> None:
        writer.buffer = b""
        if writer.sock is not None:
            del self._by_fd[writer.sock.fileno()]
            self._epoll.unregister(writer.sock.fileno())
            writer.sock.close()
            writer.sock = None
