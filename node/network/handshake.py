"""From a TCP connection to an authenticated, multiplexed stream with both hellos exchanged.

    TCP -> multistream /noise -> Noise XX -> [member?] -> multistream /yamux/1.0.0
        -> one Yamux stream -> multistream our protocol -> hello, hello -> Established
        -> (``proving``) evidence both ways

Everything here runs under one deadline and one byte budget, and any exception of the library's
parsers (they raise what they like on bad bytes) becomes ``Refused``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from node.network.attesting import Attesting
from node.network.channel import HandshakeStream, SecureChannel, close_now
from node.network.errors import LinkBroken, NetworkError, Refused
from node.network.frames import HELLO_BYTES_MAX, FrameReader, Hello, decode_hello, encode_frame
from node.network.identity import (
    ID,
    NOISE_ID,
    YAMUX_ID,
    ConnectionClosedError,
    Multiselect,
    MultiselectClient,
    MultiselectCommunicator,
    NoiseTransport,
    RawConnection,
    ReadWriteCloser,
    SecurityMultistream,
    TProtocol,
    new_x25519,
)
from node.network.limits import PROTOCOL_ID, PROTOCOL_VERSION, NetworkLimits
from node.network.proof_frames import OVERHEAD_BYTES_MAX
from node.network.yamux import Yamux

FindMember = Callable[[Any], int | None]  # libp2p ID -> seat of a present member


@dataclass(slots=True)
class Established:
    """A finished handshake."""

    seat: int
    peer_id: str
    boot_nonce: bytes
    dialled: bool
    channel: SecureChannel
    yamux: Yamux
    frames: FrameReader
    early_payloads: list[bytes] = field(default_factory=list)
    attesting: Attesting | None = None  # set by ``proving``


class MemberNoise(NoiseTransport):
    """Noise that admits members only: strangers are cut before any further byte is exchanged."""

    def __init__(self, key_pair: Any, find_member: FindMember) -> None:
        super().__init__(key_pair, noise_privkey=new_x25519().private_key)
        self._find_member = find_member

    async def secure_inbound(self, conn: Any) -> Any:
        session = await super().secure_inbound(conn)
        peer = session.get_remote_peer()
        if self._find_member(peer) is None:
            raise Refused("not_a_member", peer_id=peer.to_base58())
        return session


class NegotiationStream(ReadWriteCloser):
    """The Yamux stream as libp2p's negotiation wants it, until the link's own tasks take over."""

    def __init__(self, channel: SecureChannel, yamux: Yamux, bytes_max: int) -> None:
        self._channel = channel
        self._yamux = yamux
        self._bytes_left = bytes_max
        self._writing = trio.Lock()  # who reads also writes: control frames of the muxer
        self.buffer = bytearray()

    async def pump(self) -> None:
        """Read the connection once."""
        data = await self._channel.receive()
        if not data:
            raise ConnectionClosedError("closed during the handshake", transport="tcp")
        self._bytes_left -= len(data)
        if self._bytes_left < 0:
            raise Refused("handshake_too_large", penalty=True)
        self.buffer += self._yamux.receive(data)
        if self._yamux.ended and not self.buffer:
            raise ConnectionClosedError("stream closed during the handshake", transport="tcp")
        if self._yamux.control:
            async with self._writing:
                await self._channel.send(self._yamux.take_control())

    async def read(self, n: int | None = None) -> bytes:
        while not self.buffer:
            await self.pump()
        size = len(self.buffer) if n is None else min(n, len(self.buffer))
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    async def write(self, data: bytes) -> None:
        async with self._writing:
            while data:
                size = min(len(data), self._yamux.sendable())
                if not size:  # all that is said before payloads fits the first window
                    raise Refused("window_shut", penalty=True)
                piece, data = data[:size], data[size:]
                await self._channel.send(self._yamux.take_control() + self._yamux.wrap(piece))

    async def close(self) -> None:
        self._channel.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


class Handshaker:
    """Runs handshakes for one node.

    Args:
        key_pair: libp2p key pair of the node key.
        hello: what we say first.
        limits: deadlines and byte budgets.
        find_member: asked after Noise, with the authenticated peer id.
    """

    def __init__(
        self, key_pair: Any, hello: Hello, limits: NetworkLimits, find_member: FindMember
    ) -> None:
        self._hello = hello
        self._limits = limits
        self._find_member = find_member
        self._security = SecurityMultistream({NOISE_ID: MemberNoise(key_pair, find_member)})

    async def inbound(self, stream: trio.SocketStream) -> Established:
        """Serve the listener's side.

        Raises:
            Refused: with the reason; the socket is closed then.
        """
        return await self._bounded(stream, self._inbound, None, None)

    async def outbound(self, stream: trio.SocketStream, seat: int, peer: Any) -> Established:
        """Run the dialler's side towards one expected member.

        Raises:
            Refused: with the reason; the socket is closed then.
        """
        return await self._bounded(stream, self._outbound, seat, peer)

    async def _bounded(
        self, stream: trio.SocketStream, run: Any, seat: int | None, peer: Any
    ) -> Established:
        done = False
        known = peer.to_base58() if peer is not None else ""
        try:
            with trio.fail_after(self._limits.handshake_timeout_s):
                established: Established = await run(stream, seat, peer)
            done = True
            return established
        except Refused:
            raise
        except trio.TooSlowError:
            raise Refused("handshake_timeout", peer_id=known) from None
        except LinkBroken as error:
            raise Refused(error.reason, peer_id=known, penalty=error.penalty) from error
        except Exception as error:
            name = type(error).__name__
            reason = "wrong_peer_id" if name == "PeerIDMismatchesPubkey" else "handshake_failed"
            raise Refused(reason, peer_id=known, detail=name) from error
        finally:
            if not done:
                close_now(stream)

    async def _inbound(self, stream: trio.SocketStream, seat: None, peer: None) -> Established:
        raw = RawConnection(HandshakeStream(stream, self._limits.handshake_bytes_max), False)
        session = await self._security.secure_inbound(raw)
        remote: ID = session.get_remote_peer()
        member = self._find_member(remote)
        if member is None:
            raise Refused("not_a_member", peer_id=remote.to_base58())
        try:
            return await self._inbound_member(stream, session, member, remote.to_base58())
        except NetworkError as error:
            raise _named(error, remote.to_base58()) from error
        except Exception as error:
            # No penalty: whoever sits on the path can break a member's handshake too.
            raise Refused(
                "handshake_failed", peer_id=remote.to_base58(), detail=type(error).__name__
            ) from error

    async def _inbound_member(
        self, stream: trio.SocketStream, session: Any, seat: int, peer_id: str
    ) -> Established:
        # Inner time limits of the negotiation are longer than ours; the outer deadline rules.
        await Multiselect({YAMUX_ID: None}).negotiate(MultiselectCommunicator(session))
        channel = SecureChannel(stream, session)
        yamux = Yamux(initiator=False, window_bytes=self._limits.window_bytes)
        wire = NegotiationStream(channel, yamux, self._limits.handshake_bytes_max)
        while not yamux.accepted:
            await wire.pump()
        await Multiselect({TProtocol(PROTOCOL_ID): None}).negotiate(MultiselectCommunicator(wire))
        frames = self._frame_reader()
        hello, early = await self._read_hello(wire, frames)
        self._check(hello, seat, peer_id)
        await wire.write(encode_frame(self._hello.encode()))
        return Established(seat, peer_id, hello.boot_nonce, False, channel, yamux, frames, early)

    async def _outbound(self, stream: trio.SocketStream, seat: int, peer: Any) -> Established:
        raw = RawConnection(HandshakeStream(stream, self._limits.handshake_bytes_max), True)
        session = await self._security.secure_outbound(raw, peer)
        if session.get_remote_peer() != peer:
            raise Refused("wrong_peer_id", peer_id=session.get_remote_peer().to_base58())
        await MultiselectClient().select_one_of([YAMUX_ID], MultiselectCommunicator(session))
        channel = SecureChannel(stream, session)
        yamux = Yamux(initiator=True, window_bytes=self._limits.window_bytes)
        yamux.open()
        wire = NegotiationStream(channel, yamux, self._limits.handshake_bytes_max)
        await MultiselectClient().select_one_of(
            [TProtocol(PROTOCOL_ID)], MultiselectCommunicator(wire)
        )
        await wire.write(encode_frame(self._hello.encode()))
        frames = self._frame_reader()
        hello, early = await self._read_hello(wire, frames)
        self._check(hello, seat, peer.to_base58())
        return Established(
            seat, peer.to_base58(), hello.boot_nonce, True, channel, yamux, frames, early
        )

    def _frame_reader(self) -> FrameReader:
        limits = self._limits
        if self._hello.attests:
            return FrameReader(
                limits.frame_bytes_max, limits.evidence_bytes_max + OVERHEAD_BYTES_MAX
            )
        return FrameReader(limits.frame_bytes_max)

    async def _read_hello(
        self, wire: NegotiationStream, frames: FrameReader
    ) -> tuple[Hello, list[bytes]]:
        while True:
            # A first frame longer than a hello never becomes one: do not collect it.
            payloads = frames.feed(await wire.read())
            if payloads:
                return decode_hello(payloads[0]), payloads[1:]
            if frames.buffered_bytes > HELLO_BYTES_MAX + 4:
                raise Refused("bad_hello", detail="too long", penalty=True)

    def _check(self, hello: Hello, seat: int, peer_id: str) -> None:
        if hello.version != PROTOCOL_VERSION:
            raise Refused(
                "wrong_version", peer_id=peer_id, detail=f"{PROTOCOL_VERSION}, got {hello.version}"
            )
        if hello.cluster_id != self._hello.cluster_id:
            raise Refused("wrong_cluster", peer_id=peer_id, detail=hello.cluster_id.hex())
        if hello.attests != self._hello.attests:
            # Said by name: neither side could tell from the silence of the other.
            raise Refused(
                "attests_no_quotes" if self._hello.attests else "wants_quotes", peer_id=peer_id
            )
        if hello.seat != seat:
            raise Refused("wrong_seat", peer_id=peer_id, detail=f"{seat}, got {hello.seat}")


def _named(error: NetworkError, peer_id: str) -> Refused:
    reason = getattr(error, "reason", "handshake_failed")
    return Refused(
        reason,
        peer_id=peer_id,
        detail=getattr(error, "detail", ""),
        penalty=getattr(error, "penalty", False),
    )
