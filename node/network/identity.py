"""The only door to py-libp2p: keys, peer ids, Noise XX, multistream-select.

We use the library's wire parts and not its host: its swarm and stream muxer let a stranger end the
process, leak a slot per connection and buffer without bound (docs/decisions/0003). Importing the
library configures logging from the environment and may write to stderr; that is kept out here.
"""

from __future__ import annotations

import logging
import os
from types import ModuleType
from typing import Any

from node.network.errors import NetworkError
from node.spared import bare


class BadNodeKey(NetworkError):
    """Not a usable secp256k1 key."""


class _RsaKey:
    """In place of the library's: reading one takes all of RSA, which is 0.1 s of a start."""

    @staticmethod
    def from_bytes(data: bytes) -> Any:
        raise BadNodeKey("members have secp256k1 keys, came one of RSA")


def _stand_in(name: str, **attributes: Any) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(attributes)
    return module


_saved_debug = os.environ.pop("LIBP2P_DEBUG", None)
try:
    # Without the code of these packages: 700 modules, 0.4 s and 30 MB less.
    with bare(
        "libp2p",
        "libp2p.network",
        "libp2p.security",
        "libp2p.transport",
        "libp2p.transport.quic",
        stand_ins=(
            _stand_in("libp2p.crypto.rsa", RSAPrivateKey=_RsaKey, RSAPublicKey=_RsaKey),
            _stand_in("libp2p.transport.quic.stream", QUICStream=object),  # a name in a type
        ),
    ):
        from libp2p.crypto.keys import KeyPair
        from libp2p.crypto.secp256k1 import Secp256k1PrivateKey, Secp256k1PublicKey
        from libp2p.crypto.x25519 import create_new_key_pair as new_x25519
        from libp2p.custom_types import TProtocol
        from libp2p.io.abc import ReadWriteCloser
        from libp2p.io.exceptions import ConnectionClosedError
        from libp2p.network.connection.raw_connection import RawConnection
        from libp2p.peer.id import ID
        from libp2p.protocol_muxer.multiselect import Multiselect
        from libp2p.protocol_muxer.multiselect_client import MultiselectClient
        from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator
        from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
        from libp2p.security.noise.transport import Transport as NoiseTransport
        from libp2p.security.security_multistream import SecurityMultistream
finally:
    if _saved_debug is not None:
        os.environ["LIBP2P_DEBUG"] = _saved_debug

__all__ = [
    "ID",
    "NOISE_ID",
    "YAMUX_ID",
    "BadNodeKey",
    "ConnectionClosedError",
    "KeyPair",
    "Multiselect",
    "MultiselectClient",
    "MultiselectCommunicator",
    "NoiseTransport",
    "RawConnection",
    "ReadWriteCloser",
    "SecurityMultistream",
    "TProtocol",
    "key_pair",
    "new_x25519",
    "peer_id_from_key",
]

YAMUX_ID = TProtocol("/yamux/1.0.0")


def silence_library() -> None:
    """Keep the library's records away from stderr and from our root logger (it has no handler of
    its own, so Python's last-resort handler would print its warnings)."""
    logger = logging.getLogger("libp2p")
    logger.propagate = False
    logger.setLevel(logging.CRITICAL + 1)
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())


silence_library()


def key_pair(secret: bytes) -> Any:
    """libp2p key pair of a 32-byte secp256k1 secret.

    Raises:
        BadNodeKey: wrong length or out of range; the text never holds the secret.
    """
    if len(secret) != 32:
        raise BadNodeKey(f"expected a secret of 32 bytes, got {len(secret)}")
    try:
        private = Secp256k1PrivateKey.from_bytes(secret)
        return KeyPair(private, private.get_public_key())
    except Exception:
        raise BadNodeKey("the secret is not a secp256k1 scalar") from None


def peer_id_from_key(node_key: bytes) -> Any:
    """libp2p ``ID`` of a 33-byte compressed key.

    Raises:
        BadNodeKey: not a point in that form.
    """
    if len(node_key) != 33 or node_key[0] not in (2, 3):
        raise BadNodeKey(f"expected a compressed key of 33 bytes, got {len(node_key)} bytes")
    try:
        return ID.from_pubkey(Secp256k1PublicKey.from_bytes(node_key))
    except Exception as error:
        raise BadNodeKey("the node key is not a point of secp256k1") from error
