"""Noise-encrypted bytes over a TCP socket, after libp2p's handshake has made the keys.

The handshake reads exactly what it needs (``HandshakeStream``); afterwards ``SecureChannel`` reads
the socket in large pieces, opens all Noise messages in them at once, and writes in one call, at
once when the socket takes it: it goes to the descriptor itself, since trio's streams cost several
times what the system call does. Reading may be cancelled at any time; a cancelled write leaves
half a message on the wire, so whoever cancels one must close the socket (links do).
Format: libp2p specs, noise/README.md (2-byte big-endian length, at most 65535 bytes).
"""

from __future__ import annotations

import os
from typing import Any

import trio
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from node.network.errors import LinkBroken, Refused
from node.network.identity import ConnectionClosedError, ReadWriteCloser

READ_BYTES = 64 * 1024
PLAINTEXT_BYTES_MAX = 65535 - 16
NONCE_MAX = 2**64 - 1  # reserved by Noise


class HandshakeStream(ReadWriteCloser):
    """What libp2p's handshake code reads and writes: bounded in single reads and in total."""

    def __init__(self, stream: trio.SocketStream, bytes_max: int) -> None:
        self._stream = stream
        self._bytes_left = bytes_max

    async def read(self, n: int | None = None) -> bytes:
        size = min(READ_BYTES if n is None else n, self._bytes_left)
        if size <= 0:
            if n == 0:
                return b""
            raise Refused("handshake_too_large")
        # Never more than 4 KiB at once: the length came from the other side, and the socket call
        # allocates what it asks for.
        data = await self._stream.receive_some(min(size, 4096))
        if not data:
            raise ConnectionClosedError("closed during the handshake", transport="tcp")
        self._bytes_left -= len(data)
        return bytes(data)

    async def write(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def close(self) -> None:
        close_now(self._stream)

    def get_remote_address(self) -> tuple[str, int] | None:
        return None


class CipherState:
    """One direction's key and nonce after the handshake (Noise, section 5.1; ChaChaPoly: 12.3).

    Args:
        made: the handshake library's object, which must not be used any more.
    """

    __slots__ = ("_cipher", "_nonce")

    def __init__(self, made: Any) -> None:
        self._cipher = ChaCha20Poly1305(made.k)
        self._nonce: int = made.n

    def encrypt(self, plaintext: bytes) -> bytes:
        """Ciphertext with its tag."""
        sealed = self._cipher.encrypt(self._next(), plaintext, None)
        self._nonce += 1
        return sealed

    def decrypt(self, ciphertext: bytes) -> bytes:
        """Plaintext; raises InvalidTag."""
        plaintext = self._cipher.decrypt(self._next(), ciphertext, None)
        self._nonce += 1
        return plaintext

    def _next(self) -> bytes:
        assert self._nonce < NONCE_MAX
        return b"\0\0\0\0" + self._nonce.to_bytes(8, "little")


class SecureChannel:
    """Encrypted byte stream of an authenticated peer.

    Args:
        stream: the socket; from now on only this object uses it.
        session: libp2p's ``SecureSession`` of the finished handshake.
    """

    def __init__(self, stream: trio.SocketStream, session: Any) -> None:
        self._stream = stream
        self._fd = stream.socket.fileno()
        noise = session.conn.noise_state.noise_protocol
        # The same on both ends, and of this connection alone (Noise, section 11.2).
        self.session_hash: bytes = noise.handshake_hash
        self._seal = CipherState(noise.cipher_state_encrypt)
        self._unseal = CipherState(noise.cipher_state_decrypt)
        # Plaintext that came in one Noise message with the end of the muxer negotiation.
        self._early: bytes = session._drain(None)
        self._sealed = b""
        self.unsent = b""  # sealed, but not taken by the socket yet
        self.opened_messages = 0
        self.sealed_bytes_received = 0

    async def receive(self) -> bytes:
        """Next plaintext bytes, b"" when the peer closed.

        Raises:
            LinkBroken: ``bad_ciphertext`` or ``connection_lost``.
        """
        if self._early:
            early, self._early = self._early, b""
            return early
        while True:
            try:
                await trio.lowlevel.wait_readable(self._descriptor())
                data = os.read(self._descriptor(), READ_BYTES)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                raise LinkBroken("connection_lost") from None
            if not data:
                return b""
            self.sealed_bytes_received += len(data)
            plaintext = self._open(data)
            if plaintext:
                return plaintext

    def _open(self, data: bytes) -> bytes:
        if self._sealed:
            data = self._sealed + data
        pieces: list[bytes] = []
        position, end = 0, len(data)
        try:
            while end - position >= 2:
                next_position = position + 2 + (data[position] << 8 | data[position + 1])
                if next_position > end:
                    break
                pieces.append(self._unseal.decrypt(data[position + 2 : next_position]))
                position = next_position
        except Exception:  # the cipher's own exception types vary; all mean the same
            raise LinkBroken("bad_ciphertext") from None
        self._sealed = data[position:] if position < end else b""
        self.opened_messages += len(pieces)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def send(self, plaintext: bytes) -> None:
        """Encrypt and write everything.

        Raises:
            LinkBroken: ``connection_lost``.
        """
        self.send_now(plaintext)
        await self.drain()

    def send_now(self, plaintext: bytes) -> None:
        """Encrypt everything, write what the socket takes at once; the rest is ``unsent``.

        Raises:
            LinkBroken: ``connection_lost``.
        """
        assert not self.unsent, "drain first"
        if len(plaintext) <= PLAINTEXT_BYTES_MAX:
            sealed = self._seal.encrypt(plaintext)
            self.unsent = len(sealed).to_bytes(2, "big") + sealed
        else:
            pieces: list[bytes] = []
            for start in range(0, len(plaintext), PLAINTEXT_BYTES_MAX):
                sealed = self._seal.encrypt(plaintext[start : start + PLAINTEXT_BYTES_MAX])
                pieces += (len(sealed).to_bytes(2, "big"), sealed)
            self.unsent = b"".join(pieces)
        self._write()

    def _write(self) -> None:
        try:
            written = os.write(self._descriptor(), self.unsent)
        except BlockingIOError:
            return
        except OSError:
            raise LinkBroken("connection_lost") from None
        self.unsent = self.unsent[written:]

    async def drain(self) -> None:
        """Wait until the socket has taken everything.

        Raises:
            LinkBroken: ``connection_lost``.
        """
        while self.unsent:
            try:
                await trio.lowlevel.wait_writable(self._descriptor())
            except (OSError, trio.ClosedResourceError):
                raise LinkBroken("connection_lost") from None
            self._write()

    def _descriptor(self) -> int:
        """The socket's; a closed one's number may belong to somebody else already."""
        if self._fd < 0:
            raise LinkBroken("connection_lost")
        return self._fd

    def close(self) -> None:
        """Close the socket now; whoever waits on it wakes with ``LinkBroken``."""
        self._fd = -1
        close_now(self._stream)


def close_now(stream: trio.SocketStream) -> None:
    """Close without ceremony and without waiting."""
    stream.socket.close()
