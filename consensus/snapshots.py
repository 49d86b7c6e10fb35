"""Certified snapshots (R17): what proves one, and taking one over chunk by chunk.

A snapshot is the state at a checkpoint. Its manifest shows a finalized header that commits to
that state, so a quorum checked its hash (R2). The chunks prove nothing one by one: they are taken
from one member, within the bounds of any state, and believed as a whole when the hash is right. A
member whose chunks end in another hash lied, and the next one is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from . import limits
from .digests import block_hash, linked_hash
from .epochs import ends_epoch, opened_hash, opened_set, opening_height
from .errors import WireError
from .machine import Machine
from .signatures import Verifier
from .transfer import Importer
from .types import Manifest, Opening, Recovery, VoteKind
from .validators import ValidatorSet
from .wire import SnapshotChunk, SnapshotRequest


def certified_state(manifest: Manifest, cluster_id: bytes) -> bytes | None:
    """The state hash that a manifest proves for its height, None when it proves nothing.

    The finalization itself is checked by the caller.
    """
    header, links, final = manifest.header, manifest.links, manifest.finalization
    last = linked_hash(cluster_id, block_hash(cluster_id, header), header.height, links)
    if final.kind is not VoteKind.FINALIZE or final.block != last:
        return None
    hashes = [link.state_hash for link in links if link.state_height == header.height]
    return hashes[-1] if hashes else None


_OPENINGS_PER_RETRY = 8  # fewer than that prove a member slow that offers a snapshot


class Offer:
    """A snapshot that a member shows, and the sets of the epochs from ours up to its finalization.

    They are proven one by another (R11), or by a recovery vote that we saw on our own chain
    (R21), without any state.
    """

    def __init__(self, sender: int, manifest: Manifest, validators: ValidatorSet) -> None:
        self.sender = sender
        self.manifest = manifest
        self.openings: list[Opening] = []
        self.validators = validators  # the newest set that is proven
        self._from = validators.epoch  # ours
        self._retries = 0

    @property
    def lacks_epochs(self) -> bool:
        """True while the set that finalized it is not proven."""
        return self.validators.epoch < self.manifest.finalization.epoch

    def is_slow(self, retries_max: int) -> bool:
        """Counts a retry; True when its sender has had too many to prove what it did so far."""
        self._retries += 1
        return self._retries >= retries_max + len(self.openings) // _OPENINGS_PER_RETRY

    def learn(
        self,
        openings: Iterable[Opening],
        seen: Sequence[Recovery],
        cluster_id: bytes,
        verifier: Verifier,
    ) -> bool:
        """Takes proofs of how epochs ended; False when one is false.

        ``seen`` are the recoveries on our own chain that we have not come to yet, in order. Where
        the sender and our chain differ on the next one, nothing more is taken, and nobody is
        false: either may see the chain later than the other.
        """
        for opening in openings:
            following = opened_set(opening)
            if following.epoch <= self.validators.epoch or not self.lacks_epochs:
                continue
            if isinstance(opening, Recovery):
                ours = next((r for r in seen if r.epoch > self.validators.epoch), None)
                if ours is not None and opening.epoch < ours.epoch:
                    continue  # the sender stood on its block when ours took its place
                if opening != ours:
                    return True  # R21: never on a member's word, and each in its turn
                # What began above its block is of the history that it ended.
                self.openings = [o for o in self.openings if opening_height(o) <= opening.height]
            elif not ends_epoch(opening, self.validators, cluster_id, verifier):
                return False
            self.openings.append(opening)
            self.validators = following
        return True

    def is_ahead(self, height: int) -> bool:
        """True when it brings a member at that height, in its epoch, further."""
        header, final = self.manifest.header, self.manifest.finalization
        return header.height > height and final.epoch >= self._from

    def leads_around(self, recovery: Recovery) -> bool:
        """True when it is of a history that goes on where a recovery named another one."""
        manifest = self.manifest
        before = manifest.finalization.epoch < recovery.epoch
        return before and manifest.header.height > recovery.height

    def epoch_at(self, block: bytes) -> int | None:
        """The epoch in which one goes on from the snapshot, whose block has this hash.

        It is the block's own, or one that began on it, by recoveries (R21) the last of several.
        None when the proof of such an epoch names another block: a proof may name any of those
        that carry the record, but an epoch stands on the first (R11).
        """
        header, following = self.manifest.header, self.manifest.links[0]
        if following.epoch == header.epoch:
            return header.epoch
        begun = [o for o in self.openings if header.epoch < opened_set(o).epoch <= following.epoch]
        whole = self._from <= header.epoch and bool(begun)  # each is proven to follow another
        if not whole or opened_set(begun[-1]).epoch != following.epoch:
            return None
        return following.epoch if all(opened_hash(o) == block for o in begun) else None


# What an item counts at least: a chunk is full by its bytes or by its items.
_ITEM_BYTES_MIN = limits.SNAPSHOT_CHUNK_BYTES // limits.SNAPSHOT_CHUNK_ITEMS
_CHUNKS_FREE = 8  # for a small state on a bad link


class Fetch:
    """A snapshot on its way from one member.

    Nothing else is fetched meanwhile, so a full chunk may take a few retries, and a small one no
    more than its share: a liar could else keep us busy for a day with chunks of one item.
    """

    def __init__(self, offer: Offer, state_hash: bytes) -> None:
        self.offer = offer
        self.sender = offer.sender
        self.manifest = offer.manifest
        self.retries = 0  # since the last chunk
        self._waited = 0  # retries in all
        self._bytes = 0  # that came
        self._state_hash = state_hash
        self._importer = Importer()
        self._chunk = 0

    def __str__(self) -> str:
        height = self.manifest.header.height
        return f"height {height}, chunk {self._chunk} of {self.manifest.chunks}"

    @property
    def height(self) -> int:
        """Height of the state."""
        return self.manifest.header.height

    def request(self) -> SnapshotRequest:
        """Asks for the next chunk."""
        return SnapshotRequest(self.height, self._chunk)

    def is_slow(self, retries_max: int) -> bool:
        """Counts a retry; True when a full chunk takes more than ``retries_max`` of them."""
        self.retries += 1
        self._waited += 1
        allowed = retries_max * (_CHUNKS_FREE + self._bytes // limits.SNAPSHOT_CHUNK_BYTES)
        return self.retries >= retries_max or self._waited >= allowed

    def expects(self, sender: int, chunk: SnapshotChunk) -> bool:
        """True for the chunk that was asked for last."""
        asked = (self.sender, self.height, self._chunk)
        return (sender, chunk.height, chunk.chunk) == asked

    def take(self, chunk: SnapshotChunk) -> Machine | None:
        """The machine when this was the last chunk.

        Raises WireError: the sender is no correct member, or its disk is broken.
        """
        if not chunk.items:
            raise WireError("an empty chunk")
        self._importer.add(chunk.items)
        self._bytes += sum(max(len(item), _ITEM_BYTES_MIN) for item in chunk.items)
        self.retries = 0
        self._chunk += 1
        if self._chunk < self.manifest.chunks:
            return None
        header = self.manifest.header
        return self._importer.finish(header.height, header.time_ms, self._state_hash)
