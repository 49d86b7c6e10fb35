"""Blocks and certificates that are not finalized yet, and the finalized tip they stand on."""

from __future__ import annotations

from dataclasses import dataclass

from .types import GENESIS, Block, Certificate, Header, View, VoteKind


@dataclass(frozen=True, slots=True)
class Tip:
    """The newest finalized block: where it is, and the proof.

    No proof at a genesis, and when a later block's finalization covers it (R17).
    """

    height: int
    hash: bytes
    view: View
    time_ms: int
    state_height: int
    finalization: Certificate | None
    header: Header | None = None  # of that block; for the leadership certificate


def tip_at(header: Header, hash_: bytes, finalization: Certificate | None) -> Tip:
    """The tip at a header; without a finalization when it is final by that of a later block."""
    return Tip(
        header.height,
        hash_,
        header.view,
        header.time_ms,
        header.state_height,
        finalization,
        header,
    )


def opened_tip(header: Header, hash_: bytes) -> Tip:
    """The tip of an epoch that stands on a block of the one before (R11)."""
    return begun_tip(tip_at(header, hash_, None))


def begun_tip(tip: Tip) -> Tip:
    """What an epoch that opens on a tip begins with.

    All of its members have the state of that block, and who came by a snapshot none below it: so
    that is what the first block commits to (R2).
    """
    return Tip(tip.height, tip.hash, GENESIS, tip.time_ms, tip.height, None)


def genesis_tip(genesis: bytes) -> Tip:
    """The tip before the first block."""
    return Tip(0, genesis, GENESIS, 0, 0, None)


class Ledger:
    """The tree of candidate blocks above the finalized tip."""

    def __init__(self, tip: Tip) -> None:
        self.tip = tip
        self.blocks: dict[bytes, Block] = {}  # by hash: those voted for, or named by a certificate
        self.notarizations: dict[View, Certificate] = {}  # above the tip
        self.nullifications: dict[int, Certificate] = {}  # by term: the one of lowest index

    def add_notarization(self, certificate: Certificate) -> bool:
        """Keeps a notarization, or a finalization in its place; False when nothing is new."""
        if certificate.view <= self.tip.view or certificate.view in self.notarizations:
            return False
        self.notarizations[certificate.view] = certificate
        return True

    def add_nullification(self, certificate: Certificate) -> bool:
        """Keeps the nullification that covers most of its term; False when nothing is new."""
        term = certificate.view.term
        known = self.nullifications.get(term)
        if term < self.tip.view.term or (known and known.view <= certificate.view):
            return False
        self.nullifications[term] = certificate
        return True

    def notarized_block(self, view: View) -> bytes | None:
        """Hash of the block that is known to be notarized (or finalized) in a view."""
        if view == self.tip.view:
            return self.tip.hash
        certificate = self.notarizations.get(view)
        return certificate.block if certificate else None

    def highest_notarized(self) -> View:
        """The highest view known to have a notarization; the tip's when there is none above."""
        return max(self.notarizations, default=self.tip.view)

    def proof_of(self, view: View) -> Certificate | None:
        """The certificate that shows a parent: a notarization, or the tip's finalization."""
        return self.tip.finalization if view == self.tip.view else self.notarizations.get(view)

    def certificate_for(self, block_hash: bytes) -> Certificate | None:
        """The certificate of a block that may be a parent; None for a genesis or an unknown one."""
        if block_hash == self.tip.hash:
            return self.tip.finalization
        return next((c for c in self.notarizations.values() if c.block == block_hash), None)

    def is_certified_candidate(self, block_hash: bytes) -> bool:
        """True for a block above the tip that is known to be notarized, be it here or not."""
        return any(c.block == block_hash for c in self.notarizations.values())

    def covering(self, parent: View, term: int) -> tuple[Certificate, ...] | None:
        """Nullifications that cover every view between ``parent`` and (term, 0) (R1).

        None when one is missing.
        """
        chain = []
        for skipped in range(max(parent.term, 1), term):
            certificate = self.nullifications.get(skipped)
            if certificate is None or certificate.view.index > covered_from(parent, skipped):
                return None
            chain.append(certificate)
        return tuple(chain)

    def header(self, block_hash: bytes) -> Header | None:
        """Header of a candidate block."""
        block = self.blocks.get(block_hash)
        return block.header if block else None

    def block_or_tip(self, block_hash: bytes) -> Header | Tip | None:
        """What a block with that parent stands on: height, time and state height; None if missing.

        Where an epoch begins the tip's count, and not those of its header.
        """
        return self.tip if block_hash == self.tip.hash else self.header(block_hash)

    def branch(self, block_hash: bytes) -> list[Block] | bytes:
        """Candidate blocks from just above the tip up to ``block_hash``, in order.

        When an ancestor is missing, its hash instead. Raises ValueError when the branch does not
        stand on the tip: impossible for a certified block unless the protocol was broken.
        """
        chain: list[Block] = []
        at = block_hash
        while at != self.tip.hash:
            block = self.blocks.get(at)
            if block is None:
                return at
            above = block.header.height - self.tip.height
            if above < 1 or (above == 1 and block.header.parent != self.tip.hash):
                raise ValueError("a branch passes beside the finalized tip")
            chain.append(block)
            at = block.header.parent
        chain.reverse()
        return chain

    def advance(self, tip: Tip) -> None:
        """Moves the tip and forgets what it leaves behind."""
        self.tip = tip
        for view in [v for v in self.notarizations if v <= tip.view]:
            del self.notarizations[view]
        for term in [t for t in self.nullifications if t < tip.view.term]:
            del self.nullifications[term]
        for hash_ in [h for h, b in self.blocks.items() if b.header.view <= tip.view]:
            del self.blocks[hash_]

    def justification(self) -> tuple[Certificate, ...]:
        """What brings another member to our view: tip, highest notarization, nullifications."""
        found = []
        if self.tip.finalization is not None:
            found.append(self.tip.finalization)
        parent = self.highest_notarized()
        if parent in self.notarizations:
            found.append(self.notarizations[parent])
        found += [c for t, c in sorted(self.nullifications.items()) if t >= parent.term]
        return tuple(found)


def covered_from(parent: View, term: int) -> int:
    """The highest index at which a nullification of ``term`` covers all views after ``parent``."""
    return parent.index + 1 if term == parent.term else 0


def is_parent_proof(certificate: Certificate) -> bool:
    """True for the kinds of certificate that show that a block may be a parent."""
    return certificate.kind in (VoteKind.NOTARIZE, VoteKind.FINALIZE)
