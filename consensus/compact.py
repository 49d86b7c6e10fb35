"""Headers and certificates as the contract reads them: fixed width, no lengths, no names.

A header is what ``digests.header_bytes`` gives. Each part of a certificate is 69 bytes: seat (4),
reason (1), r (32), and s with v - 27 in its top bit (32, EIP-2098); they ascend by seat.
"""

from __future__ import annotations

from .errors import WireError
from .limits import MEMBERS_MAX
from .types import Part, Reason

PART_BYTES = 69
_SEAT_MAX = 2**32 - 1
_TOP = 0x80


def compact_parts(parts: tuple[Part, ...]) -> bytes:
    """The parts of a certificate. Raises ValueError for a seat above 32 bits."""
    packed = bytearray()
    for seat, reason, signature in parts:
        if seat > _SEAT_MAX:
            raise ValueError(f"seat {seat} does not fit into 32 bits")
        assert not signature[32] & _TOP  # low s: whoever verified it knows
        packed += seat.to_bytes(4, "big") + bytes((reason,)) + signature[:32]
        packed.append(signature[32] | (_TOP if signature[64] == 28 else 0))
        packed += signature[33:64]
    return bytes(packed)


def read_compact_parts(data: bytes) -> tuple[Part, ...]:
    """Inverse of ``compact_parts``; raises WireError. Signatures are not checked."""
    count, rest = divmod(len(data), PART_BYTES)
    if rest or not 1 <= count <= MEMBERS_MAX:
        raise WireError(f"{len(data)} bytes are no parts of a certificate")
    parts: list[Part] = []
    for at in range(0, len(data), PART_BYTES):
        part = data[at : at + PART_BYTES]
        seat, reason = int.from_bytes(part[:4], "big"), part[4]
        if reason > max(Reason):
            raise WireError(f"there is no reason {reason}")
        if parts and seat <= parts[-1].seat:
            raise WireError("parts that do not ascend by seat")
        s = bytes((part[37] & ~_TOP,)) + part[38:]
        v = bytes((28 if part[37] & _TOP else 27,))
        parts.append(Part(seat, reason, part[5:37] + s + v))
    return tuple(parts)
