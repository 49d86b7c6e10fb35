"""Under which URL a member's application serves, as the replicated state keeps it.

Any member can have any command committed, so the state alone does not tell who wrote a key. The
value carries the signature of the seat's node key (EIP-712, in the registry's domain), and whoever
reads it checks that. A liar can show an older URL of the same key again, and nothing else.
"""

from __future__ import annotations

from functools import lru_cache

from chain.eip712 import digest
from node.signing import NodeSigner, recover

URLS_PREFIX = b"_cluster/urls/"
URL_BYTES_MAX = 2048
_URL = "ConnectionUrl(uint256 seat,string url)"
_SIGNATURE_BYTES = 65


def url_key(seat: int) -> bytes:
    """The key under which a seat's URL lies."""
    return URLS_PREFIX + str(seat).encode()


def signed_url(signer: NodeSigner, cluster_id: bytes, seat: int, url: str) -> bytes:
    """The value: 65 bytes of signature, then the URL."""
    return signer.sign(digest(cluster_id, _URL, seat, url)) + url.encode()


@lru_cache(maxsize=1024)  # status and watches ask for all members again and again
def read_url(value: bytes, node_key: bytes, cluster_id: bytes, seat: int) -> str | None:
    """The URL, None when the key on the seat (33 bytes) did not sign it."""
    signature, text = value[:_SIGNATURE_BYTES], value[_SIGNATURE_BYTES:]
    try:
        url = text.decode()
    except UnicodeDecodeError:
        return None
    return url if recover(digest(cluster_id, _URL, seat, url), signature) == node_key else None
