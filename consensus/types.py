"""The values of the protocol: views, votes, certificates, blocks.

All are frozen; what comes from outside is validated where it is decoded (``wire``), so that the
rest of the room asserts and never re-checks. Hashes are 32 bytes, signatures 65 bytes r, s, v.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import NamedTuple

from .commands import Command, decode_command
from .validators import Validator

ZERO_HASH = bytes(32)


class View(NamedTuple):
    """Position inside an epoch, ordered lexicographically.

    A term is one leader's reign; terms count from 1, indexes inside a term from 0. ``GENESIS`` is
    the view of an epoch's first parent and belongs to no leader.
    """

    term: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody needs here

    def next(self) -> View:
        """The following view of the same term."""
        return View(self.term, self.index + 1)

    def __str__(self) -> str:
        return f"{self.term}.{self.index}"


GENESIS = View(0, 0)


class VoteKind(IntEnum):
    """The three votes. The order is the one in which a member may send them in one view."""

    NOTARIZE = 1
    NULLIFY = 2
    FINALIZE = 3


class Reason(IntEnum):
    """Why a member votes to end a term; signed, and counted in finalized history."""

    NONE = 0
    NO_PROPOSAL = 1
    STALL = 2
    UNRESPONSIVE = 3
    CENSORSHIP = 4
    SLOW = 5
    STALE_EPOCH = 6
    BEHIND_CHAIN = 7
    SUPERSEDED = 8
    OPERATOR = 9
    STEP_DOWN = 10
    JOINED = 11  # weight above a third complained, so I do too (R4)


class Vote(NamedTuple):
    """One signed vote. ``block`` is zero for a nullify vote, ``reason`` for the others.

    What is signed is ``digests.vote_digest``.
    """

    kind: VoteKind
    epoch: int
    view: View
    seat: int
    block: bytes
    reason: int
    signature: bytes

    def moment(self) -> tuple[int, View, int]:
        """Where this vote stands in the order in which its signer may sign."""
        return (self.epoch, self.view, int(self.kind))


class Part(NamedTuple):
    """One member's share of a certificate."""

    seat: int
    reason: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """Votes of one kind for one view (and one block) by more than 2/3 of the weight.

    Notarization, nullification and finalization by ``kind``; ``parts`` are sorted by seat.
    """

    kind: VoteKind
    epoch: int
    view: View
    block: bytes
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two votes of one seat that no correct member signs both (R14; ``certificates.conflict``)."""

    first: Vote
    second: Vote


@dataclass(frozen=True)
class Header:
    """What a block's hash covers. ``state_hash`` is the state after ``state_height``."""

    epoch: int
    view: View
    proposer: int  # the seat that leads the term, so that a contract need not know the order
    height: int
    parent: bytes
    time_ms: int
    body_hash: bytes
    state_height: int
    state_hash: bytes


@dataclass(frozen=True, slots=True)
class ChainView:
    """The registry's finalized membership at the chain block of its last change (R15).

    ``seed`` is ``order.chain_seed`` of that block; ``validators`` are sorted by seat.
    """

    block_number: int
    block_hash: bytes
    digest: bytes
    seed: bytes
    validators: tuple[Validator, ...]


@dataclass(frozen=True, slots=True)
class NextEpoch:
    """What a boundary block says of the epoch after it (R11): the whole set.

    ``chain_block``, ``chain_hash``, ``digest``, ``seed`` are those of the ``ChainView`` that it
    comes from; ``validators`` are sorted by seat.
    """

    epoch: int
    chain_block: int
    chain_hash: bytes
    digest: bytes
    seed: bytes
    validators: tuple[Validator, ...]


@dataclass(frozen=True, slots=True)
class Recovery:
    """A finalized on-chain vote that replaces a set which lost its quorum (R21).

    The new ``epoch``, the first of an era, stands on the block of ``height`` and ``block_hash``.
    ``chain_block`` is the chain's block in which it was opened, with the members of that moment.
    """

    epoch: int
    height: int
    block_hash: bytes
    validators: tuple[Validator, ...]
    seed: bytes
    chain_block: int


def raw_command_id(raw: bytes) -> bytes:
    """The identity of an encoded command, ``Command.id``: its first 24 bytes."""
    return raw[:24]


@dataclass(frozen=True)
class Block:
    """A header with its body: encoded commands, the nullifications that led to its term, evidence.

    ``next_epoch`` makes it a boundary block (R11). ``body`` is the encoding that the header
    commits to, kept so that it is passed on unchanged.
    """

    header: Header
    hash: bytes
    body: bytes
    commands: tuple[bytes, ...]
    nullifications: tuple[Certificate, ...]
    evidence: tuple[Evidence, ...] = ()
    next_epoch: NextEpoch | None = None

    @cached_property
    def command_ids(self) -> frozenset[bytes]:
        """Identities (client and sequence) of the commands in it."""
        return frozenset(map(raw_command_id, self.commands))

    @cached_property
    def decoded(self) -> tuple[Command, ...]:
        """The commands in it as values; raises WireError when one of them is none."""
        return tuple(map(decode_command, self.commands))


@dataclass(frozen=True, slots=True)
class Proposal:
    """A leader's block with the proof of its parent.

    ``parent`` is a notarization or finalization of the parent, None on top of a genesis.
    ``signature`` is the leader's own notarize vote for the block.
    """

    block: Block
    parent: Certificate | None
    signature: bytes


@dataclass(frozen=True, slots=True)
class FinalHeader:
    """A header with the finalization of its block: proof of a height."""

    header: Header
    finalization: Certificate


@dataclass(frozen=True, slots=True)
class Boundary:
    """Proof of how an epoch ended (R11): its boundary block, and that it is final.

    ``finalization`` is that of the block itself, or of a block that stands on it; ``links`` are
    the headers from above the boundary block up to that one.
    """

    block: Block
    finalization: Certificate
    links: tuple[Header, ...]


Opening = Boundary | Recovery  # how an epoch was opened


@dataclass(frozen=True, slots=True)
class Manifest:
    """Proof of a snapshot (R17): whose state it is, and a header that certifies that state.

    ``links`` lead from ``header`` to the block of ``finalization``; one of them commits to the
    state at the height of ``header``. ``chunks`` is the sender's word only.
    """

    header: Header
    links: tuple[Header, ...]
    finalization: Certificate
    chunks: int


@dataclass(frozen=True, slots=True)
class BootRequest:
    """A booting member asks to be counted under a new incarnation (R10); signed by its node key.

    ``boot_id`` is 32 random bytes: two copies of a member may ask for the same number.
    """

    seat: int
    incarnation: int
    boot_id: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class BootAck:
    """A member's signed promise to count that incarnation only (R10), with what it knows.

    ``epoch`` is the one that the signer of the acknowledgement is in, ``last_vote`` the highest
    vote it saw the seat sign, None when it saw none, and ``tip`` proves how far the signer is.
    """

    seat: int
    incarnation: int
    boot_id: bytes
    signature: bytes
    epoch: int
    last_vote: Vote | None
    tip: Certificate | None


@dataclass(frozen=True, slots=True)
class BootCertificate:
    """Acknowledgements of more than 2/3 of the weight for one boot (R10)."""

    seat: int
    incarnation: int
    boot_id: bytes
    parts: tuple[Part, ...]
