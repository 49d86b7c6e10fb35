"""Catching up: what we ask others for, and what we give them."""

from __future__ import annotations

from .catchup import is_consistent
from .types import Block
from .voting import Voting
from .wire import BlockReply, Certificates, SyncReply


class Syncing(Voting):
    """Blocks that members ask each other for."""

    def _on_block_request(self, sender: int, hash_: bytes) -> None:
        block = self.ledger.blocks.get(hash_)
        if block is not None:
            self._send(sender, BlockReply(block))
        elif self.ledger.tip.finalization is not None:
            # Final already, or unknown to us: with the finalization it can ask for the stretch.
            self._send(sender, Certificates((self.ledger.tip.finalization,)))

    def _on_sync_reply(self, sender: int, reply: SyncReply) -> None:
        final = reply.finalization
        if final.epoch != self.validators.epoch or final.view <= self.ledger.tip.view:
            return
        if self.catchup.target is None:
            return  # nothing was asked for
        if not reply.blocks or self._floats(reply.blocks[0]):
            return  # blocks far above ours would only fill memory
        if not is_consistent(reply, self.cluster_id) or not self._is_genuine(final):
            self._accuse(sender, "blocks that its finalization does not certify")
            return
        for block in reply.blocks:
            if block.header.height > self.ledger.tip.height:
                self.ledger.blocks[block.hash] = block
        last = reply.blocks[-1].header.height
        self.catchup.best_height = max(self.catchup.best_height, last + len(reply.links))
        if reply.links:
            target = self.catchup.target
            self._out.send += self.catchup.follow(target, last + 1, self.connected, sender)
            return
        if final.view > self.catchup.target.view:
            self._take_certificate(final, checked=True)
        else:
            self._commit(final, sender)
        if self.catchup.target is not None and self.halted is None:
            self._commit(self.catchup.target, sender)

    def _floats(self, block: Block) -> bool:
        """True when a block stands neither on a block that we have nor among the final ones."""
        header, tip = block.header, self.ledger.tip
        return header.height > tip.height + 1 and header.parent not in self.ledger.blocks
