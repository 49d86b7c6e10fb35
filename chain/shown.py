"""What the cluster can show the chain, as values: in the contract's forms, and as JSON.

Everything is signed by members, so a value needs no trust in who made it: the contract checks all
of it. As JSON it goes from a node's API to whoever pays for showing it (``read_shown``); there all
bytes are hex. The forms are those of ``ICertificates.sol``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

HEADER_BYTES = 152
PART_BYTES = 69
PARTS_MAX = 256
HEADERS_MAX = 64
BODY_BYTES_MAX = 1 << 20
_WORD_MAX = 2**64 - 1
_KINDS = {"notarize": 1, "nullify": 2, "finalize": 3}
_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_VIEW = re.compile(r"([0-9]{1,19})\.([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class SignedVote:
    """A vote as its signer signed it.

    Args:
        kind: 1 notarize, 2 nullify, 3 finalize.
        block_hash: 32 bytes, zeros for a nullify vote.
        reason: 0 unless it is a nullify vote.
        signature: 65 bytes r||s||v with v of 27 or 28 and low s.
    """

    kind: int
    epoch: int
    term: int
    index: int
    block_hash: bytes
    reason: int
    signature: bytes

    def fields(self) -> tuple[int | bytes, ...]:
        """As the contract's ``Vote`` struct has it."""
        return (
            self.kind, self.epoch, self.term, self.index, self.block_hash, self.reason,
            *compact_signature(self.signature),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ShownEpoch:
    """Which chain block an epoch's members come from.

    Args:
        boundary, body: header and body of the block that ended the epoch before.
        headers: of blocks that stand on it in the new epoch, 152 bytes each.
        parts: the finalization of the last of them, 69 bytes each.
        chain_block: the block of the registry's change that the body names, 0 for none.
    """

    KIND: ClassVar[str] = "epoch"
    boundary: bytes
    body: bytes
    headers: bytes
    parts: bytes
    chain_block: int

    def __post_init__(self) -> None:
        _check_header(self.boundary)
        count, rest = divmod(len(self.headers), HEADER_BYTES)
        if rest or not 1 <= count <= HEADERS_MAX:
            raise ValueError(f"1 to {HEADERS_MAX} headers of {HEADER_BYTES} bytes are expected")
        if not 1 <= len(self.body) <= BODY_BYTES_MAX:
            raise ValueError(f"a body has 1 to {BODY_BYTES_MAX} bytes")
        _check_parts(self.parts)

    @property
    def epoch(self) -> int:
        """The epoch that it opens."""
        return _u64(self.headers, 0)

    def values(self, version: int, following: int) -> tuple[Any, ...]:
        """Arguments of ``openEpoch``, with the registry's change and the one after it."""
        return (self.boundary, self.body, self.headers, self.parts, version, following)


@dataclass(frozen=True, slots=True)
class ShownLeader:
    """Who leads a term: the proposer of a final block (its header), and its finalization."""

    KIND: ClassVar[str] = "leader"
    header: bytes
    parts: bytes

    def __post_init__(self) -> None:
        _check_header(self.header)
        _check_parts(self.parts)

    @property
    def token(self) -> tuple[int, int]:
        """Epoch and term."""
        return (_u64(self.header, 0), _u64(self.header, 1))

    @property
    def seat(self) -> int:
        """Who leads it."""
        return _u64(self.header, 3)

    def values(self) -> tuple[Any, ...]:
        """Arguments of ``recordLeader``."""
        return (self.header, self.parts)


@dataclass(frozen=True, slots=True)
class ShownDeposal:
    """That the cluster ended a leader's term.

    Args:
        epoch, term, index: the view that was nullified.
        parts: the nullification.
        header, signature: a block that the leader proposed in that term, and its notarize vote for
            it (65 bytes); empty when that term's leadership is on record.
    """

    KIND: ClassVar[str] = "deposal"
    epoch: int
    term: int
    index: int
    parts: bytes
    header: bytes = b""
    signature: bytes = b""

    def __post_init__(self) -> None:
        _check_parts(self.parts)
        if self.header:
            _check_header(self.header)
            compact_signature(self.signature)
        elif self.signature:
            raise ValueError("a signature without the header that it is for")

    @property
    def seat(self) -> int | None:
        """Who led, as the header says; None when the contract must know."""
        return _u64(self.header, 3) if self.header else None

    def values(self) -> tuple[Any, ...]:
        """Arguments of ``depose``."""
        r, vs = compact_signature(self.signature) if self.header else (bytes(32), bytes(32))
        return (self.epoch, self.term, self.index, self.parts, self.header, r, vs)


Shown = ShownEpoch | ShownLeader | ShownDeposal
_CLASSES: dict[str, type[Shown]] = {c.KIND: c for c in (ShownEpoch, ShownLeader, ShownDeposal)}


def shown_json(shown: Shown) -> dict[str, Any]:
    """JSON-ready; the inverse of ``read_shown``."""
    row: dict[str, Any] = {"kind": shown.KIND}
    for field in fields(shown):
        value = getattr(shown, field.name)
        row[field.name] = value.hex() if isinstance(value, bytes) else value
    return row


def read_shown(row: Any) -> Shown:
    """The value in one row of ``certificates``.

    Raises:
        ValueError: it is none, or not whole.
    """
    made = _CLASSES.get(str(row.get("kind"))) if isinstance(row, Mapping) else None
    if made is None:
        raise ValueError(f"a certificate is of kind {', '.join(_CLASSES)}")
    values: dict[str, Any] = {}
    for field in fields(made):
        read: Callable[[Any], Any] = read_bytes if field.type == "bytes" else _read_u64
        try:
            values[field.name] = read(row.get(field.name))
        except ValueError as error:
            raise ValueError(f"field {field.name} of a certificate: {error}") from None
    return made(**values)


def read_evidence(rows: Any, seat: int) -> tuple[SignedVote, SignedVote]:
    """The first pair of that seat's votes in the rows of ``evidence``.

    Raises:
        ValueError: there is none, or it is malformed.
    """
    if not isinstance(rows, list):
        raise ValueError("expected the list that `dstack-cluster evidence --json` gives")
    for row in rows:
        if isinstance(row, Mapping) and row.get("seat") == seat:
            votes, epoch = row.get("votes"), _read_u64(row.get("epoch"))
            if not isinstance(votes, list) or len(votes) != 2:
                raise ValueError(f"the evidence against seat {seat} is no pair of votes")
            return _read_vote(votes[0], epoch), _read_vote(votes[1], epoch)
    raise ValueError(f"there is no evidence against seat {seat}")


def _read_vote(row: Any, epoch: int) -> SignedVote:
    kind = _KINDS.get(str(row.get("kind"))) if isinstance(row, Mapping) else None
    if kind is None:
        raise ValueError("a vote is a notarize, nullify or finalize")
    view = _VIEW.fullmatch(str(row.get("view")))
    reason = row.get("reason")
    if view is None or type(reason) is not int or not 0 <= reason < 256:
        raise ValueError("a vote has a view TERM.INDEX and a reason")
    block = read_bytes(row.get("block") or "")
    signature = read_bytes(row.get("signature"))
    if len(block) not in (0, 32):
        raise ValueError(f"expected hex of 32 bytes, came {len(block)}")
    if len(signature) == 65 and signature[64] in (0, 1):  # as a guest agent would write it
        signature = signature[:64] + bytes([27 + signature[64]])
    compact_signature(signature)
    return SignedVote(
        kind, epoch, int(view[1]), int(view[2]), block.rjust(32, b"\0"), reason,
        signature,
    )  # fmt: skip


def compact_signature(signature: bytes) -> tuple[bytes, bytes]:
    """r, and s with the parity of the nonce point in its top bit (EIP-2098).

    Raises:
        ValueError: not a signature with low s and v of 27 or 28.
    """
    if len(signature) != 65 or signature[64] not in (27, 28) or signature[32] & 0x80:
        raise ValueError("a signature is 65 bytes r, s, v with low s and v of 27 or 28")
    top = (signature[64] - 27) << 7
    return signature[:32], bytes([signature[32] | top]) + signature[33:64]


def read_bytes(value: Any) -> bytes:
    """Bytes of lower-case hex without a prefix; raises ValueError."""
    if not isinstance(value, str) or not _HEX.fullmatch(value):
        raise ValueError("expected lower-case hex")
    return bytes.fromhex(value)


def _read_u64(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _WORD_MAX:
        raise ValueError("expected a whole number of 64 bits")
    return value


def _u64(raw: bytes, place: int) -> int:
    return int.from_bytes(raw[8 * place : 8 * place + 8], "big")


def _check_header(header: bytes) -> None:
    if len(header) != HEADER_BYTES:
        raise ValueError(f"a header has {HEADER_BYTES} bytes, came {len(header)}")


def _check_parts(parts: bytes) -> None:
    count, rest = divmod(len(parts), PART_BYTES)
    if rest or not 1 <= count <= PARTS_MAX:
        raise ValueError(f"1 to {PARTS_MAX} parts of {PART_BYTES} bytes each are expected")
