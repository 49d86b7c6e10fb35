"""What a quote is made to say: the report data that ties it to one session of one member.

The guest agent puts any 64 bytes into a quote, for any code in the machine, without a tag of its
own. All that makes the quote *this session's* is therefore in what is hashed here: whose cluster,
who proves to whom, both sides' fresh nonces, on which encrypted session, and as which seat and
boot. The session matters because node keys are no secret from other machines of the same app: one
that stands between two members under their own names could otherwise pass a genuine machine's
quote on as its own.
"""

from __future__ import annotations

import hashlib

PROTOCOL_TAG = b"dstack-cluster/attested-session/v1"
NONCE_BYTES = 32
SESSION_BYTES = 32
PEER_ID_BYTES_MAX = 128
CLUSTER_ID_BYTES_MAX = 64


def report_data(
    *,
    cluster_id: bytes,
    prover_peer: bytes,
    verifier_peer: bytes,
    prover_nonce: bytes,
    verifier_nonce: bytes,
    session: bytes,
    seat: int,
    incarnation: int,
) -> bytes:
    """The 64 bytes that the prover's quote must carry: SHA-512 over length-prefixed fields.

    Every field is preceded by its length (4 bytes, big-endian), so no two lists of fields give the
    same text; prover and verifier stand in fixed places, so a quote sent back to its sender is
    not one of his. ``seat`` (below 2**256) and ``incarnation`` (below 2**64) are the prover's.
    Nonces are 32 bytes, peer ids the bytes of the libp2p peer id, ``session`` is the 32-byte
    hash of the Noise handshake (its section 11.2), which no two connections share.

    Raises:
        ValueError: a field of the wrong size.
    """
    if len(prover_nonce) != NONCE_BYTES or len(verifier_nonce) != NONCE_BYTES:
        raise ValueError(f"a nonce has {NONCE_BYTES} bytes")
    if len(session) != SESSION_BYTES:
        raise ValueError(f"a session's hash has {SESSION_BYTES} bytes")
    if not (0 < len(prover_peer) <= PEER_ID_BYTES_MAX):
        raise ValueError(f"a peer id has 1 to {PEER_ID_BYTES_MAX} bytes")
    if not (0 < len(verifier_peer) <= PEER_ID_BYTES_MAX):
        raise ValueError(f"a peer id has 1 to {PEER_ID_BYTES_MAX} bytes")
    if not (0 < len(cluster_id) <= CLUSTER_ID_BYTES_MAX):
        raise ValueError(f"a cluster id has 1 to {CLUSTER_ID_BYTES_MAX} bytes")
    if not (0 <= seat < 1 << 256 and 0 <= incarnation < 1 << 64):
        raise ValueError("seat is below 2**256, incarnation below 2**64, neither is negative")
    fields = (
        PROTOCOL_TAG,
        cluster_id,
        prover_peer,
        verifier_peer,
        prover_nonce,
        verifier_nonce,
        session,
        seat.to_bytes(32, "big"),
        incarnation.to_bytes(8, "big"),
    )
    digest = hashlib.sha512()
    for value in fields:
        digest.update(len(value).to_bytes(4, "big"))
        digest.update(value)
    return digest.digest()


def tagged_report_data(tag: str, content: bytes) -> bytes:
    """dstack's own convention (64 bytes): SHA-512 over tag, colon, content.

    Tags in use: ``ratls-cert`` (content: SubjectPublicKeyInfo in DER), ``app-data``.
    """
    return hashlib.sha512(tag.encode() + b":" + content).digest()
