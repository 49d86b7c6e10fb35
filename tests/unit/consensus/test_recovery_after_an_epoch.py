"""R21 at the end of an epoch: a recovery names the block of a boundary, or one right above it."""

from __future__ import annotations

import pytest

from consensus.codec import make_block
from consensus.interface import EpochRecord, Output, Received, RecoverySeen
from consensus.limits import EPOCHS_PER_ERA as ERA
from consensus.machine import Machine
from consensus.types import Block, Certificate, NextEpoch, Recovery, View, VoteKind
from consensus.wire import Certificates, SyncReply
from tests.unit.consensus.clusters import CLUSTER_ID, Cluster, block


class Ending:
    """Seat 1 in epoch 0, of which ``old`` are the blocks: the second ends it, the last is dropped.

    ``new`` stand on the second, in epoch 1.
    """

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.engine, _ = self.cluster.booted(1)
        members = self.cluster.validators.validators
        record = NextEpoch(1, 0, bytes(32), bytes(32), bytes(32), members)
        first = block(View(1, 0))
        boundary = block(View(1, 1), first, next_epoch=record)
        self.old = (first, boundary, block(View(1, 2), boundary, next_epoch=record))
        self.new: tuple[Block, ...] = ()
        for index in range(2):
            self.new += (self._follows(index, (boundary, *self.new)[-1]),)
        self.final = self.cluster.certificate(VoteKind.FINALIZE, View(1, 2), self.old[-1].hash)

    @staticmethod
    def _follows(index: int, parent: Block) -> Block:
        return make_block(
            CLUSTER_ID,
            epoch=1,
            view=View(1, index),
            proposer=1,
            height=parent.header.height + 1,
            parent=parent.hash,
            time_ms=0,
            state_height=2,
            state_hash=Machine().state_hash,
            commands=(),
            nullifications=(),
            evidence=(),
            next_epoch=None,
        )

    def names(self, named: Block) -> Recovery:
        """The chain opens an era on a block."""
        members = self.cluster.validators.validators
        recovery = Recovery(ERA, named.header.height, named.hash, members, bytes(32), 0)
        self.engine.step(RecoverySeen((recovery,)), 5)
        return recovery

    def is_shown(self, blocks: tuple[Block, ...], shown: Certificate) -> Output:
        """Another member gives it blocks, and what proves them."""
        return self.engine.step(Received(2, SyncReply(blocks, (), shown)), 6)


def test_what_is_dropped_behind_a_boundary_is_not_beside_the_recovery() -> None:
    """The named block has the height that a repetition of the boundary had, which is nobody's."""
    ending = Ending()
    ending.names(ending.new[0])
    engine = ending.engine
    engine.step(Received(2, Certificates((ending.final,))), 5)
    ending.is_shown(ending.old, ending.final)
    assert engine.halted is None
    assert (engine.validators.epoch, engine.ledger.tip.height) == (1, 2)
    named = Certificate(VoteKind.FINALIZE, 1, View(1, 0), ending.new[0].hash, ())
    ending.is_shown(ending.new[:1], named)
    assert (engine.validators.epoch, engine.ledger.tip.height) == (ERA, 3)


@pytest.mark.parametrize("what", ["above the boundary", "the boundary", "a repetition"])
def test_no_epoch_opens_on_a_boundary_that_only_a_recovery_above_it_shows_final(what: str) -> None:
    """Its proof is kept for ever and given to others: it must be one."""
    ending = Ending()
    named = {"above the boundary": ending.new[-1], "the boundary": ending.old[1]}.get(
        what, ending.old[-1]
    )
    ending.names(named)
    engine = ending.engine
    for made in ending.old:
        engine.ledger.blocks[made.hash] = made  # candidates that it voted for
    shown = Certificate(VoteKind.FINALIZE, named.header.epoch, named.header.view, named.hash, ())
    blocks = ending.new if named in ending.new else ending.old[: named.header.height]
    output = ending.is_shown(blocks, shown)
    assert not [r for r in output.persist if isinstance(r, EpochRecord)]
    assert engine.validators.epoch == 0 and engine.halted is None
    if named in (ending.old[1], ending.new[-1]):
        engine.step(Received(2, Certificates((ending.final,))), 7)
        assert engine.validators.epoch == (ERA if what == "the boundary" else 1)
