"""Replays traces in which recoveries appear on the chain (R21). Nobody lies in them."""

from __future__ import annotations

from typing import Any

from consensus.epochs import era_of
from consensus.interface import MembershipSeen, RecoverySeen
from consensus.types import Block, Certificate, Recovery, VoteKind
from consensus.wire import SyncReply
from tests.model.ballots import CLUSTER_ID, GENESIS, Mismatch, Name
from tests.model.replay import Process, Replay
from tests.simulation.store import SimStore


class RecoveryReplay(Replay):
    """As ``Replay``; a root of the model is the block that its recovery names."""

    def __init__(self, trace: Any, *arguments: Any) -> None:
        super().__init__(trace, *arguments)
        self.recoveries: dict[Name, Recovery] = {}

    def _hash(self, name: Name) -> bytes:
        if name in self.recoveries:
            return self.recoveries[name].block_hash
        return super()._hash(name)

    # --- the chain ---

    def do_recover(self, step: Any) -> None:
        (entry,) = step["proposed"]
        name, weights = tuple(entry["block"]), dict(entry["record"])
        named = self.names.get(tuple(entry["parent"]))
        height, block_hash = (named.header.height, named.hash) if named else (0, GENESIS)
        members, chain_block = self._validators(weights), step["picks"]["i"]
        seed = self._seed(name[0], members)
        self.recoveries[name] = Recovery(name[0], height, block_hash, members, seed, chain_block)

    def _show(self, process: Process, member: Any) -> None:
        """What the member's chain shows by now."""
        shown = [r for r in self.recoveries.values() if era_of(r.epoch) <= member["shown"]]
        self._step(process, RecoverySeen(tuple(shown)))

    def do_beShown(self, step: Any) -> None:
        self._show(self._process(step), step["members"][str(step["picks"]["p"])])

    # --- on the way ---

    def do_fetch(self, step: Any) -> None:
        """Blocks from somebody who has them, without a proof."""
        process = self._process(step)
        engine = process.engine
        final = self._hash(tuple(step["members"][str(process.seat)]["final"]))
        by_hash = {block.hash: block for block in self.names.values()}
        blocks: list[Block] = []
        at = final
        while at != engine.ledger.tip.hash and at in by_hash:
            blocks.insert(0, by_hash[at])
            at = by_hash[at].header.parent
        last = blocks[-1].header
        empty = Certificate(VoteKind.FINALIZE, engine.validators.epoch, last.view, final, ())
        sender = next(s for s in self.seats if s != process.seat)
        self._give(process, sender, SyncReply(tuple(blocks), (), empty))

    def do_stopBeside(self, step: Any) -> None:
        name = tuple(step["picks"]["b"])
        certificate = self._named(VoteKind.FINALIZE, name)
        self._give_certificate(self._process(step), certificate)

    # --- restarts ---

    def _restart(self, step: Any, p: int, store: SimStore) -> None:
        super()._restart(step, p, store)
        process, member = self.processes[p], step["members"][str(p)]
        self._show(process, member)
        for view in self.views[: member["seen"]]:
            self._step(process, MembershipSeen(view, frozenset()))

    def do_startAgain(self, step: Any) -> None:
        self.do_restart(step)

    def do_wipe(self, step: Any) -> None:
        p = step["picks"]["p"]
        if self.processes[p].engine.halted is None:
            raise Mismatch("it runs on beside a recovery")
        self._restart(step, p, SimStore(CLUSTER_ID, self.processes[p].seat, GENESIS, 100))
