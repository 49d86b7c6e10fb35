"""Frames on the stream (4-byte big-endian length, payload) and the hello before them. Pure.

The highest bit of the length marks a control frame: it is for the mesh itself (``proof_frames``).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import msgpack

from node.network.errors import LinkBroken, Refused
from node.network.limits import PROTOCOL_VERSION

LENGTH = struct.Struct("!I")
CONTROL_BIT = 0x8000_0000
HELLO_BYTES_MAX = 256
BOOT_NONCE_BYTES = 16


def encode_frame(payload: bytes) -> bytes:
    """Length prefix and payload."""
    return LENGTH.pack(len(payload)) + payload


def encode_control(payload: bytes) -> bytes:
    """A control frame."""
    return LENGTH.pack(CONTROL_BIT | len(payload)) + payload


class FrameReader:
    """Cuts a byte stream into payloads; an announced length above the cap ends the link at once,
    before anything is allocated for it.

    Control frames pile up in ``controls``, for the caller to take after each ``feed``. Their cap is
    -1 where none are expected.
    """

    __slots__ = ("_buffer", "control_bytes_max", "controls", "payload_bytes_max")

    def __init__(self, payload_bytes_max: int, control_bytes_max: int = -1) -> None:
        self.payload_bytes_max = payload_bytes_max
        self.control_bytes_max = control_bytes_max
        self.controls: list[bytes] = []
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Take stream bytes, give back the payloads completed by them.

        Raises:
            LinkBroken: ``oversize_frame``.
        """
        buffer = self._buffer
        buffer += data
        payloads: list[bytes] = []
        position, end = 0, len(buffer)
        while end - position >= 4:
            (length,) = LENGTH.unpack_from(buffer, position)
            target = payloads
            if length > self.payload_bytes_max:
                length ^= CONTROL_BIT  # what lacks the bit gets it, and is too large
                if length > self.control_bytes_max:
                    raise LinkBroken("oversize_frame", penalty=True)
                target = self.controls
            if end - position - 4 < length:
                break
            position += 4
            target.append(bytes(buffer[position : position + length]))
            position += length
        if position:
            del buffer[:position]
        return payloads

    @property
    def buffered_bytes(self) -> int:
        """Bytes held of an incomplete frame."""
        return len(self._buffer)


@dataclass(frozen=True, slots=True)
class Hello:
    """First frame of either side.

    ``boot_nonce`` tells two lives of the same member apart. ``attests``: each side asks the other
    for evidence before the first payload (``attesting``).
    """

    version: int
    cluster_id: bytes
    seat: int
    boot_nonce: bytes
    attests: bool = False

    def encode(self) -> bytes:
        """msgpack array of the fields in order."""
        packed: bytes = msgpack.packb(
            [self.version, self.cluster_id, self.seat, self.boot_nonce, self.attests]
        )
        return packed


def decode_hello(payload: bytes) -> Hello:
    """Decode and validate the shape of a hello.

    Raises:
        Refused: ``bad_hello``.
    """
    if len(payload) > HELLO_BYTES_MAX:
        raise Refused("bad_hello", detail=f"{len(payload)} bytes", penalty=True)
    try:
        value = msgpack.unpackb(payload, raw=False)
    except Exception as error:
        raise Refused("bad_hello", detail=type(error).__name__, penalty=True) from error
    match value:
        case [int(version), bytes(cluster_id), int(seat), bytes(nonce), bool(attests)] if (
            not isinstance(version, bool)
            and not isinstance(seat, bool)
            and len(cluster_id) <= 32
            and len(nonce) == BOOT_NONCE_BYTES
        ):
            return Hello(version, cluster_id, seat, nonce, attests)
        case [int(version), *_] if not isinstance(version, bool) and version != PROTOCOL_VERSION:
            # Another protocol version may have other fields: let the version check speak.
            return Hello(version, b"", 0, bytes(BOOT_NONCE_BYTES))
    raise Refused("bad_hello", detail="fields", penalty=True)
