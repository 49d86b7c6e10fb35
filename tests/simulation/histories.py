"""The final chain of an era, applied again by the oracle; a recovery begins another one (R21).

There is one, until the owners of seats name a block of it from which some go on. Below that block
the two are the same. Above it the first may go on too, with members who were lost only as far as
anybody could see, until they see the chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from consensus.commands import decode_command
from consensus.outcomes import Applied
from consensus.types import Block, Recovery, View, VoteKind
from tests.kv_model import Model

if TYPE_CHECKING:
    from .oracle import Oracle
    from .world import World

TERMS_SHOWN = 32  # so many terms below a block are shown ended by the block itself
ERA = 10**8  # numbers of epochs between two recoveries


def era_of(epoch: int) -> int:
    """Which history an epoch belongs to."""
    return epoch // ERA


class History:
    """What became final, in order, and what it led to; every block is judged when it is new."""

    def __init__(self, world: World, oracle: Oracle, recovery: Recovery | None = None) -> None:
        self._world = world
        self._oracle = oracle
        self._recovery = recovery  # that began it
        self.epoch = 0 if recovery is None else recovery.epoch  # the newest
        self.blocks: list[Block] = []
        self.states: list[bytes] = []
        self.executed: dict[bytes, int] = {}  # command id -> height, for exactly-once
        self._outcomes: list[tuple[tuple[Any, ...], ...]] = []
        self._replay = Model()

    def branch(self, recovery: Recovery) -> History:
        """The history that a recovery begins: this one up to its block."""
        other = History(self._world, self._oracle, recovery)
        for block, state in zip(self.blocks[: recovery.height], self.states, strict=False):
            other._take(block, state)
        return other

    def has(self, height: int, block_hash: bytes) -> bool:
        """True when that block is final at that height; height 0 is the founding."""
        if height == 0:
            return block_hash == self._world.genesis
        return height <= len(self.blocks) and self.blocks[height - 1].hash == block_hash

    def applied(self, seat: int, applied: Applied) -> bool:
        """A member applied a block of this era; False when it is another one than others did."""
        height, fail = applied.block.header.height, self._oracle.fail
        if height > len(self.blocks):
            self._extend(applied)
        known = self.blocks[height - 1]
        if known.hash != applied.block.hash:
            header = applied.block.header
            self._oracle.fork(f"two final blocks at height {height}: {known.header} {header}")
            return False
        if self.states[height - 1] != applied.state_hash:
            fail(f"seat {seat} has another state at height {height}")
        outcomes = tuple(
            (r.revision, r.existed, r.stale, r.deleted, r.refusal.name) for _, r in applied.results
        )
        if outcomes != self._outcomes[height - 1]:
            fail(f"seat {seat} answers differently at height {height}")
        return True

    def _extend(self, applied: Applied) -> None:
        """The first member to apply a height: is the block sound, and the outcome right?"""
        header, height = applied.block.header, applied.block.header.height
        fail = self._oracle.fail
        if height != len(self.blocks) + 1:
            fail(f"height {height} is final before height {len(self.blocks) + 1}")
        if self.blocks:
            last = self.blocks[-1].header
            if header.parent != self.blocks[-1].hash:
                self._oracle.fork(f"block {height} does not stand on the final block below it")
                return
            went_on = (header.epoch, header.view) > (last.epoch, last.view)
            if header.time_ms < last.time_ms or not went_on:
                fail(f"time or view goes back at height {height}")
            every = self._world.scenario.checkpoints.every
            passes_over = header.state_height > (last.state_height // every + 1) * every
            if header.epoch != last.epoch:  # its members share no older state for sure
                if header.state_height != last.height:
                    fail(f"block {height} begins an epoch, and commits to another state")
            elif passes_over:
                fail(f"block {height} commits to a state beyond the next checkpoint")
        if header.view.index > 0 and (
            not self.blocks
            or self.blocks[-1].header.view != View(header.view.term, header.view.index - 1)
        ):
            fail(f"the block of {header.view} skips views inside a term")
        if header.view.index == 0:
            self._begins_term(applied.block)
        self._in_epoch(applied.block)
        self._take(applied.block, applied.state_hash)
        if self._replay.revision != applied.revision:
            fail(f"revision {applied.revision} at {height}, not {self._replay.revision}")

    def _take(self, block: Block, state_hash: bytes) -> None:
        """Runs its commands in the model of the state machine."""
        height = block.header.height
        outcomes = []
        self._replay.begin(block.header.time_ms)
        for raw in block.commands:
            outcome, executed = self._replay.run(decode_command(raw))
            outcomes.append(outcome[:5])
            again = executed and self.executed.setdefault(raw[:24], height) != height
            if again and raw[:16] not in self._replay.forgotten:
                self._oracle.fail(f"command {raw[:24].hex()} ran twice, at {height} too")
            self.executed.setdefault(raw[:24], height)
        self._replay.end()
        self.blocks.append(block)
        self.states.append(state_hash)
        self._outcomes.append(tuple(outcomes))

    def _begins_term(self, block: Block) -> None:
        """Nothing lies between this block and the one below it but terms that a quorum ended."""
        h, fail = block.header, self._oracle.fail
        last = self.blocks[-1].header if self.blocks else None
        below = View(0, 0) if last is None or last.epoch != h.epoch else last.view
        skipped = {term: 0 for term in range(max(1, below.term), h.view.term)}
        if below.term in skipped:
            skipped[below.term] = below.index + 1
        for c in block.nullifications:
            ends = c.kind is VoteKind.NULLIFY and c.view.index <= skipped.pop(c.view.term, -1)
            if not ends:
                fail(f"{c.kind.name} {c.view} ends no term between {below} and {h.view}")
            self._oracle.certificate(c, h.proposer)
        if len(skipped) > max(0, h.view.term - max(1, below.term) - TERMS_SHOWN):
            fail(f"{below} to {h.view}: nothing shows that terms {list(skipped)} ended")

    def _in_epoch(self, block: Block) -> None:
        """Blocks are of the newest epoch; the last one of it says who votes next."""
        epoch, record, fail = self.epoch, block.next_epoch, self._oracle.fail
        sets = self._oracle.sets
        if block.header.epoch != epoch:
            fail(f"a final block of epoch {block.header.epoch} in epoch {epoch}")
        if record is None:
            return
        if record.epoch != epoch + 1 or block.commands or block.evidence:
            fail(f"a boundary block with more than the record of epoch {epoch + 1}")
        before, after = sets[epoch], {v.seat: v for v in record.validators}
        if before == after and block.header.view.term <= len(before):
            fail(f"epoch {epoch} ends in term {block.header.view.term} for nothing")
        if before != after:
            self._world.chain.check(before, after, record)
            if self._recovery is not None and record.chain_block < self._recovery.chain_block:
                fail(f"epoch {record.epoch} comes from what the registry showed before a recovery")
        self.epoch = record.epoch
        sets[record.epoch] = after
