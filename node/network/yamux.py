"""Yamux for exactly one stream per connection, without I/O.

Theory of operation. A pair of members needs one stream, so this end of Yamux (hashicorp/yamux
spec.md, the protocol ``/yamux/1.0.0`` of libp2p) opens one or accepts the first one offered and
resets any other. Bytes go in through ``receive`` and come out as stream bytes; control frames to be
sent pile up in ``control``; ``wrap`` cuts outgoing bytes into DATA frames within the peer's window.
A body is passed on as it arrives, never collected, so an announced length allocates nothing. What
the spec calls an error, and every attempt to make us do unpaid work, ends the connection.
"""

from __future__ import annotations

import struct

from node.network.errors import LinkBroken

HEADER = struct.Struct("!BBHII")
HEADER_BYTES = 12
DATA, WINDOW_UPDATE, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8
INITIAL_WINDOW_BYTES = 256 * 1024
SEND_WINDOW_BYTES_MAX = 1 << 30
DATA_FRAME_BYTES_MAX = 64 * 1024 - HEADER_BYTES  # what go-yamux and py-libp2p send at most
CONTROL_BYTES_MAX = 16 * 1024
FOREIGN_STREAMS_MAX = 64
FOREIGN_BYTES_MAX = 1024 * 1024


class Yamux:
    """One connection's state.

    Args:
        initiator: whether we dialled.
        window_bytes: receive window to grant, at least the 256 KiB that Yamux starts with.
    """

    __slots__ = (
        "_body_bytes",
        "_body_mine",
        "_foreign_bytes",
        "_foreign_streams",
        "_initiator",
        "_partial",
        "_recv_window",
        "_window_bytes",
        "accepted",
        "control",
        "ended",
        "frames",
        "pong",
        "send_window",
        "stream_id",
    )

    def __init__(self, *, initiator: bool, window_bytes: int) -> None:
        self._initiator = initiator
        self._window_bytes = max(window_bytes, INITIAL_WINDOW_BYTES)
        self._recv_window = INITIAL_WINDOW_BYTES
        self._partial = b""
        self._body_bytes = 0
        self._body_mine = False
        self._foreign_streams = 0
        self._foreign_bytes = 0
        self.stream_id = 0
        self.accepted = False
        self.send_window = INITIAL_WINDOW_BYTES
        self.control = bytearray()
        self.frames = 0  # received, for the caller's rate limit: empty ones cost work too
        self.pong: int | None = None  # value of the last answered ping
        self.ended = ""  # why no more stream bytes will come

    def open(self) -> None:
        """Open the stream (initiator)."""
        assert self._initiator and self.stream_id == 0
        self.stream_id = 1
        self.accepted = True
        self._grant(SYN)

    def ping(self, value: int) -> None:
        """Queue a ping; the answer appears in ``pong``."""
        self._queue(PING, SYN, 0, value)

    def wrap(self, data: bytes | memoryview) -> bytes:
        """DATA frame of at most ``sendable()`` bytes of ``data``."""
        size = len(data)
        assert 0 < size <= self.sendable()
        self.send_window -= size
        return HEADER.pack(0, DATA, 0, self.stream_id, size) + data

    def sendable(self) -> int:
        """How many bytes the next DATA frame may hold."""
        return min(self.send_window, DATA_FRAME_BYTES_MAX) if self.stream_id else 0

    def take_control(self) -> bytes:
        """Control frames to be sent now."""
        control = bytes(self.control)
        self.control.clear()
        return control

    def receive(self, data: bytes) -> bytes:
        """Take bytes of the connection, give back bytes of our stream.

        Raises:
            LinkBroken: ``yamux_violation``, ``window_exceeded`` or ``control_flood``.
        """
        if self._partial:
            data = self._partial + data
        pieces: list[bytes] = []
        position, end = 0, len(data)
        while position < end:
            if self._body_bytes:
                size = min(self._body_bytes, end - position)
                if self._body_mine:
                    pieces.append(data[position : position + size])
                self._body_bytes -= size
                position += size
                continue
            if end - position < HEADER_BYTES:
                break
            self._header(*HEADER.unpack_from(data, position))
            position += HEADER_BYTES
        self._partial = data[position:] if position < end else b""
        # Credit is given back in halves of the window: one update frame per many reads.
        if self.stream_id and self._recv_window * 2 < self._window_bytes:
            self._grant(0)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _header(self, version: int, kind: int, flags: int, stream_id: int, value: int) -> None:
        if version != 0 or kind > GO_AWAY or flags & ~(SYN | ACK | FIN | RST):
            raise LinkBroken("yamux_violation", penalty=True)
        self.frames += 1
        if kind == PING:
            self._on_ping(flags, value)
            return
        if kind == GO_AWAY:
            self.ended = self.ended or "closed_by_peer"
            return
        if flags & SYN:
            self._on_syn(stream_id)
        mine = stream_id == self.stream_id and self.stream_id != 0
        if kind == DATA:
            self._on_data(mine, value)
        elif mine:
            self.send_window += value
            if self.send_window > SEND_WINDOW_BYTES_MAX:
                raise LinkBroken("yamux_violation", penalty=True)
        if mine and flags & (FIN | RST):
            self.ended = self.ended or "closed_by_peer"

    def _on_data(self, mine: bool, size: int) -> None:
        if mine:
            if size > self._recv_window:
                raise LinkBroken("window_exceeded", penalty=True)
            self._recv_window -= size
        else:
            # A reset stream may still have a window's worth in flight, not more.
            self._foreign_bytes += size
            if self._foreign_bytes > FOREIGN_BYTES_MAX:
                raise LinkBroken("window_exceeded", penalty=True)
        self._body_mine = mine
        self._body_bytes = size

    def _on_syn(self, stream_id: int) -> None:
        remote_parity = 0 if self._initiator else 1
        if stream_id == 0 or stream_id % 2 != remote_parity or stream_id == self.stream_id:
            raise LinkBroken("yamux_violation", penalty=True)
        if not self._initiator and self.stream_id == 0:
            self.stream_id = stream_id
            self.accepted = True
            self._grant(ACK)
            return
        self._foreign_streams += 1
        if self._foreign_streams > FOREIGN_STREAMS_MAX:
            raise LinkBroken("stream_flood", penalty=True)
        self._queue(WINDOW_UPDATE, RST, stream_id, 0)

    def _on_ping(self, flags: int, value: int) -> None:
        if flags & SYN:
            self._queue(PING, ACK, 0, value)
        elif flags & ACK:
            self.pong = value

    def _grant(self, flags: int) -> None:
        delta = self._window_bytes - self._recv_window
        self._recv_window = self._window_bytes
        self._queue(WINDOW_UPDATE, flags, self.stream_id, delta)

    def _queue(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        if len(self.control) >= CONTROL_BYTES_MAX:
            raise LinkBroken("control_flood", penalty=True)
        self.control += HEADER.pack(0, kind, flags, stream_id, value)
