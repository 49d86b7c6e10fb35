"""Engines with a rule of the way from epoch to epoch broken (R11, R15, R18); see ``planted``."""

from __future__ import annotations

from dataclasses import replace

from consensus.codec import make_block
from consensus.engine import Engine
from consensus.proposals import Verdict
from consensus.types import Block, Certificate, NextEpoch, VoteKind

from .adversaries import HEADER_FIELDS


class EpochOpenedAtNotarization(Engine):
    """Opens the next epoch when the boundary block is notarized, not when it is final (R11)."""

    def _take_certificate(
        self, c: Certificate, *, checked: bool = False, sender: int | None = None
    ) -> bool:
        block = self.ledger.blocks.get(c.block)
        taken = super()._take_certificate(c, checked=checked, sender=sender)
        ends = block is not None and block.next_epoch is not None
        if ends and c.kind is VoteKind.NOTARIZE and c.epoch == self.validators.epoch:
            self._commit(c, sender)
        return taken


class LastBoundaryOpens(Engine):
    """Lets the finalized block open the epoch, not the first of the chain with the record (R11)."""

    def _apply(self, branch: list[Block], *rest: object) -> None:
        ends = [b for b in branch if b.next_epoch is not None]
        super()._apply([b for b in branch if b not in ends[:-1]], *rest)  # type: ignore[arg-type]


class RecordUnchecked(Engine):
    """Accepts any next epoch that a leader proposes (R15)."""

    def _accepts(self, record: NextEpoch, term: int) -> bool:
        return True


class CommandsAfterTheBoundary(Engine):
    """Goes on with commands on a boundary block, and votes for who does (R11)."""

    def _build(self) -> tuple[Block, Certificate | None] | None:
        built = super()._build()
        if built is None or not self._is_ending():
            return built
        (instead, parent), header = built, built[0].header
        block = make_block(
            self.cluster_id,
            **{f: getattr(header, f) for f in HEADER_FIELDS},
            commands=self.mempool.batch(frozenset()),
            nullifications=instead.nullifications,
            evidence=(),
            next_epoch=None,
        )
        return block, parent

    def _fits(self, block: Block) -> Verdict | str:
        return Verdict.VALID


class ThirdMayChangeAtOnce(Engine):
    """Steps to the registry's set in one epoch, however much changes (R18)."""

    def _note_due(self) -> None:
        super()._note_due()
        newest = self._chain_views.newest
        if self._due is not None and newest is not None:
            self._due = replace(self._due, validators=newest.validators)

    def _accepts(self, record: NextEpoch, term: int) -> bool:
        view = self._chain_views.at(record.chain_block)
        whole = view is not None and record.validators == view.validators
        return whole or super()._accepts(record, term)
