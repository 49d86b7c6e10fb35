"""Fetching what others have and we lack: single candidate blocks, and stretches of final ones.

A member that is behind believes no height that a peer claims: it follows finalization
certificates only. Requests go to one member at a time, and to the next one at each retry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .digests import block_hash
from .interface import Send
from .types import Certificate, VoteKind
from .wire import BlockRequest, SyncReply, SyncRequest

WANTED_MAX = 64


class CatchUp:
    """What was asked for and not received yet."""

    def __init__(self) -> None:
        # A dict for its order: the order of a set of bytes differs from process to process.
        self.wanted: dict[bytes, None] = {}
        self.target: Certificate | None = None  # a finalization whose blocks we do not all have
        self.best_height = 0  # the highest height that a certificate proved
        self._turn = 0
        self._asked_from: int | None = None

    def _pick(self, connected: Iterable[int], preferred: int | None) -> int | None:
        seats = sorted(connected)
        if preferred in seats:
            return preferred
        if not seats:
            return None
        return seats[self._turn % len(seats)]

    def want_block(
        self, block: bytes, connected: Iterable[int], preferred: int | None
    ) -> list[Send]:
        """Asks once for a block; retries go through ``retry``."""
        if block in self.wanted or len(self.wanted) >= WANTED_MAX:
            return []
        peer = self._pick(connected, preferred)
        self.wanted[block] = None
        return [] if peer is None else [Send(peer, BlockRequest(block))]

    def follow(
        self,
        target: Certificate,
        from_height: int,
        connected: Iterable[int],
        preferred: int | None,
    ) -> list[Send]:
        """Asks for the finalized blocks up to ``target``, from ``from_height`` on."""
        if self.target is None or target.view > self.target.view:
            self.target = target
        if self._asked_from is not None and self._asked_from >= from_height:
            return []
        peer = self._pick(connected, preferred)
        if peer is None:
            return []
        self._asked_from = from_height
        return [Send(peer, SyncRequest(from_height))]

    def reached(self, certificate: Certificate) -> None:
        """The blocks up to ``certificate`` are applied."""
        self._asked_from = None
        self.wanted.clear()
        if self.target is not None and self.target.view <= certificate.view:
            self.target = None

    def retry(self, from_height: int, connected: Sequence[int]) -> list[Send]:
        """Asks somebody else for what is still missing."""
        # One step for all: were each request to take a step, three of them would go to the same
        # of three members every time, and a silent one would keep us behind for ever.
        self._turn += 1
        self._asked_from = None
        sends = []
        for block in self.wanted:
            peer = self._pick(connected, None)
            if peer is not None:
                sends.append(Send(peer, BlockRequest(block)))
        if self.target is not None:
            sends += self.follow(self.target, from_height, connected, None)
        return sends


def is_consistent(reply: SyncReply, cluster_id: bytes) -> bool:
    """True when the blocks and links of an answer form one chain that ends in its finalization.

    The finalization itself is checked by the caller.
    """
    if not reply.blocks or reply.finalization.kind is not VoteKind.FINALIZE:
        return False
    last_hash, height = reply.blocks[0].header.parent, reply.blocks[0].header.height
    for block in reply.blocks:
        if block.header.parent != last_hash or block.header.height != height:
            return False
        last_hash, height = block.hash, height + 1
    for header in reply.links:
        if header.parent != last_hash or header.height != height:
            return False
        last_hash, height = block_hash(cluster_id, header), height + 1
    return last_hash == reply.finalization.block
