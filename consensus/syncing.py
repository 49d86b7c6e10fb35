"""Catch-up in one member: what it asks (by ``catchup``), checks and applies; what it serves."""

from __future__ import annotations

from dataclasses import replace

from . import limits
from .catchup import is_consistent, is_final
from .interface import ServeBlocks
from .proposing import Proposing
from .types import ZERO_HASH, Boundary, FinalHeader, VoteKind
from .wire import BlockReply, Certificates, SyncReply, SyncRequest


class Syncing(Proposing):
    """The rules, and the way back for a member that missed something (R16)."""

    def _on_block_request(self, sender: int, hash_: bytes) -> None:
        """A candidate block, or what shows the sender how far the chain is final."""
        block = self.ledger.blocks.get(hash_)
        if block is not None:
            self._send(sender, BlockReply(block))
        elif self.ledger.tip.finalization is not None:
            # Final already, or unknown to us: with the finalization it can ask for the stretch.
            self._send(sender, Certificates((self.ledger.tip.finalization,)))
        elif self.validators.epoch > 0:
            self._tell_epoch(sender, self.validators.epoch - 1)

    def _on_sync_request(self, sender: int, request: SyncRequest) -> None:
        """Final blocks from the store; for heights above ours our finalization alone."""
        tip = self.ledger.tip
        if 0 < request.from_height <= tip.height:
            self._out.serve.append(ServeBlocks(sender, request.from_height, request.count))
        elif tip.finalization is not None:
            self._send(sender, SyncReply((), (), tip.finalization, None))

    def _ask_what_is_final(self) -> None:
        """R7: views pass and nothing becomes final here: ask a member, another one each time.

        A liar can withhold its vote from us alone, or sign a pair of which we keep the other
        one. The others are final then and have no reason to repeat anything.
        """
        peer = self.catchup.turn(self.connected)
        if peer is not None:  # blocks that nobody has: the answer is the finalization alone
            self._send(peer, SyncRequest(limits.U64_MAX, 1))

    def _on_sync_reply(self, sender: int, reply: SyncReply) -> None:
        """Blocks that prove themselves: checked when they come, applied when it is their turn."""
        if not reply.finalization.parts:
            self.catchup.has_nothing(sender)
            self._take_named(sender, reply)
            return
        if self.catchup.target is None:
            if reply.finalization.kind is VoteKind.FINALIZE:
                self._take_certificate(reply.finalization, sender=sender)
            return
        if not reply.blocks or reply.finalization.epoch != self.validators.epoch:
            self.catchup.has_nothing(sender)
        elif self.catchup.useful(sender, *_heights(reply)):
            if not is_consistent(reply, self.cluster_id) or not self._is_genuine(
                reply.finalization
            ):
                self._accuse(sender, "blocks that its finalization does not certify")
                self.catchup.bar(sender, most=True)
            else:
                self._take_reply(sender, reply)
        else:
            self.catchup.unneeded(sender, reply.blocks[0].header.height)
        self._out.send += self.catchup.ask(self.connected)

    def _take_named(self, sender: int, reply: SyncReply) -> None:
        """R21: what leads to the block that our own chain names needs no finalization."""
        if not self._awaited or not is_consistent(reply, self.cluster_id):
            return
        named, last = self._awaited[0], _heights(reply)[1]
        shown = (last + len(reply.links), reply.finalization.block)
        if shown != (named.height, named.block_hash):
            return  # it may see what we do not see yet, and owners may name a wrong height
        for block in reply.blocks:
            is_ours = block.header.epoch == self.validators.epoch
            if block.header.height > self.ledger.tip.height and is_ours:
                self.ledger.blocks[block.hash] = block
        branch = self._branch(named.block_hash)
        if isinstance(branch, bytes):
            self._send(sender, SyncRequest(last + 1, limits.SYNC_BLOCKS_MAX))
        elif branch is not None and not any(block.next_epoch for block in branch):
            # The end of an epoch needs its own proof, for others too (R11).
            nothing = replace(reply.finalization, block=ZERO_HASH)  # certifies no block of these
            self._apply(branch, nothing, ())

    def _take_reply(self, sender: int, reply: SyncReply) -> None:
        if reply.head is not None:
            self._take_head(reply.head)
        last = reply.blocks[-1]
        if last.next_epoch is not None:
            # Nobody has what stood on it any more: this proof is the target.
            self._ahead = Boundary(last, reply.finalization, reply.links)
            self.catchup.target = reply.finalization
        self.catchup.take(sender, reply)
        while self.halted is None and (stretch := self.catchup.next_stretch()) is not None:
            for block in stretch.blocks:
                if block.header.height > self.ledger.tip.height:
                    self.ledger.blocks[block.hash] = block
            target = self.catchup.target
            if not stretch.direct or target is None:
                continue
            if stretch.final.view > target.view:
                self._take_certificate(stretch.final, checked=True)
            else:
                self._commit(stretch.final, sender)
        if self.catchup.target is not None and self.halted is None:
            self._commit(self.catchup.target, sender)

    def _follow_boundary(self, boundary: Boundary, sender: int) -> None:
        """The proof of how our epoch ended: fetch what is missing up to there, and go on."""
        self._ahead = boundary
        self.catchup.target = boundary.finalization
        self.ledger.blocks[boundary.block.hash] = boundary.block
        header = boundary.block.header
        self.catchup.best_height = max(self.catchup.best_height, header.height)
        self._commit(boundary.finalization, sender)

    def _take_head(self, head: FinalHeader) -> None:
        """How far the chain goes; believed only with its finalization."""
        if (
            head.header.height > self.catchup.best_height
            and is_final(head, self.cluster_id)
            and self._is_genuine(head.finalization)
        ):
            self.catchup.prove(head)


def _heights(reply: SyncReply) -> tuple[int, int]:
    return reply.blocks[0].header.height, reply.blocks[-1].header.height
