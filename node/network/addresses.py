"""Who a peer is and where: node key to peer id, multiaddr text to a TCP address."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from node.network.errors import BadEndpoint
from node.network.identity import ID, peer_id_from_key

__all__ = [
    "BadEndpoint",
    "PeerAddress",
    "TcpAddress",
    "parse_endpoint",
    "peer_id_bytes",
    "peer_id_of",
]

ENDPOINT_CHARS_MAX = 256
_HOST_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
HOST_NAME_CHARS_MAX = 253


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """A member as the registry knows it: 33-byte compressed secp256k1 key, multiaddr or ""."""

    seat: int
    node_key: bytes
    endpoint: str


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A dialable address; ``peer_id`` is what the text claimed after ``/p2p/``, or ""."""

    host: str
    port: int
    literal: bool  # an IP address, not a name
    peer_id: str = ""


def parse_endpoint(text: str, *, port_zero: bool = False) -> TcpAddress:
    """Read ``/ip4|ip6|dns4|dns6|dns/<host>/tcp/<port>[/p2p/<peer id>]``.

    Args:
        text: multiaddr, at most 256 characters.
        port_zero: allow port 0 (for listening).

    Raises:
        BadEndpoint: anything else.
    """
    if len(text) > ENDPOINT_CHARS_MAX:
        raise BadEndpoint(f"endpoint of {len(text)} characters, at most {ENDPOINT_CHARS_MAX}")
    parts = text.split("/")
    if len(parts) not in (5, 7) or parts[0] != "" or parts[3] != "tcp":
        raise BadEndpoint(f"expected /ip4/<address>/tcp/<port>, got {text!r}")
    kind, host, port_text = parts[1], parts[2], parts[4]
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5):
        raise BadEndpoint(f"bad port in {text!r}")
    port = int(port_text)
    if port > 65535 or (port == 0 and not port_zero):
        raise BadEndpoint(f"bad port in {text!r}")
    try:
        if kind == "ip4":
            host = str(ipaddress.IPv4Address(host))
        elif kind == "ip6":
            if "%" in host:
                raise BadEndpoint(f"a zone means nothing to other hosts: {text!r}")
            host = str(ipaddress.IPv6Address(host))
        elif kind not in ("dns", "dns4", "dns6") or not _is_host_name(host):
            raise BadEndpoint(f"expected ip4, ip6 or dns4 with a host, got {text!r}")
    except ValueError as error:
        raise BadEndpoint(f"bad address in {text!r}") from error
    peer_id = ""
    if len(parts) == 7:
        if parts[5] != "p2p" or not parts[6].isalnum():
            raise BadEndpoint(f"expected /p2p/<peer id> at the end of {text!r}")
        peer_id = parts[6]
    return TcpAddress(host, port, kind in ("ip4", "ip6"), peer_id)


def _is_host_name(text: str) -> bool:
    # Label by label: one expression for all of it backtracks exponentially on a long bad name.
    return len(text) <= HOST_NAME_CHARS_MAX and all(map(_HOST_LABEL.match, text.split(".")))


def endpoint_text(host: str, port: int) -> str:
    """Multiaddr of a socket address."""
    kind = "ip6" if ":" in host else "ip4"
    return f"/{kind}/{host}/tcp/{port}"


def peer_id_of(node_key: bytes) -> str:
    """libp2p peer id of a node key, base58 text.

    Args:
        node_key: 33 bytes, compressed secp256k1 point.

    Raises:
        BadNodeKey: not such a key.

    Source: libp2p specs, peer-ids/peer-ids.md (identity multihash of the protobuf key).
    """
    return str(peer_id_from_key(node_key).to_base58())


def peer_id_bytes(text: str) -> bytes:
    """The bytes of a base58 peer id that this mesh made."""
    return bytes(ID.from_base58(text).to_bytes())
