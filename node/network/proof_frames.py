"""The messages with which the two ends of a connection prove what they run. Pure.

They travel as control frames (``frames``), each a msgpack array that begins with its kind:

    [1, id, nonce]                          ask: show evidence that is fresh for this nonce
    [2, id, nonce, incarnation, evidence]   show: the answer; the ``Attestor`` reads the evidence
    [3, id, code]                           cannot: no evidence now, and why
    [4, id, code, attachment]               verdict on what was shown; code 0 accepts

``id`` rises by one with each ask of a side; an answer to an earlier one is late, and ignored.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgpack

from node.network.errors import LinkBroken

NONCE_BYTES = 32
ID_MAX = 2**32 - 1
INCARNATION_MAX = 2**64 - 1
CODE_MAX = 255
ATTACHMENT_BYTES_MAX = 1024
OVERHEAD_BYTES_MAX = 64  # of a message around its evidence

ASK, SHOW, CANNOT, VERDICT = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class Ask:
    """``nonce``: 32 fresh bytes of whoever asks."""

    id: int
    nonce: bytes

    def encode(self) -> bytes:
        """The control frame's payload."""
        return _pack([ASK, self.id, self.nonce])


@dataclass(frozen=True, slots=True)
class Show:
    """``nonce``: 32 fresh bytes of whoever shows; ``incarnation``: of its present boot."""

    id: int
    nonce: bytes
    incarnation: int
    evidence: bytes

    def encode(self) -> bytes:
        """The control frame's payload."""
        return _pack([SHOW, self.id, self.nonce, self.incarnation, self.evidence])


@dataclass(frozen=True, slots=True)
class Cannot:
    """``code``: why there is no evidence."""

    id: int
    code: int

    def encode(self) -> bytes:
        """The control frame's payload."""
        return _pack([CANNOT, self.id, self.code])


@dataclass(frozen=True, slots=True)
class Verdict:
    """``code`` 0: accepted, else why not; ``attachment``: what the refused one must learn."""

    id: int
    code: int
    attachment: bytes = b""

    def encode(self) -> bytes:
        """The control frame's payload."""
        return _pack([VERDICT, self.id, self.code, self.attachment])


ProofMessage = Ask | Show | Cannot | Verdict


def _pack(fields: list[object]) -> bytes:
    packed: bytes = msgpack.packb(fields)
    return packed


def decode_proof(payload: bytes, evidence_bytes_max: int) -> ProofMessage:
    """Read and check one message; its length is bounded by ``FrameReader`` already.

    Raises:
        LinkBroken: ``bad_proof_message``.
    """
    try:
        fields = msgpack.unpackb(payload, raw=False, strict_map_key=True)
    except Exception:  # the library's own types vary; all mean the same
        raise LinkBroken("bad_proof_message", penalty=True) from None
    match fields:
        case [int(kind), int(id_), *rest] if type(kind) is int and type(id_) is int:
            if 0 < id_ <= ID_MAX:
                message = _read(kind, id_, rest, evidence_bytes_max)
                if message is not None:
                    return message
    raise LinkBroken("bad_proof_message", penalty=True)


def _read(kind: int, id_: int, rest: list[object], evidence_bytes_max: int) -> ProofMessage | None:
    match kind, rest:
        case 1, [bytes(nonce)] if len(nonce) == NONCE_BYTES:
            return Ask(id_, nonce)
        case 2, [bytes(nonce), int(incarnation), bytes(evidence)] if (
            len(nonce) == NONCE_BYTES
            and type(incarnation) is int
            and 0 <= incarnation <= INCARNATION_MAX
            and len(evidence) <= evidence_bytes_max
        ):
            return Show(id_, nonce, incarnation, evidence)
        case 3, [int(code)] if type(code) is int and 0 < code <= CODE_MAX:
            return Cannot(id_, code)
        case 4, [int(code), bytes(attachment)] if (
            type(code) is int and 0 <= code <= CODE_MAX and len(attachment) <= ATTACHMENT_BYTES_MAX
        ):
            return Verdict(id_, code, attachment)
    return None
