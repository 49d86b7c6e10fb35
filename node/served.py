"""What a member serves to others from its store: final blocks, epochs, proofs of a state."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing

from consensus import codec, limits, wire
from consensus.types import (
    Block,
    Boundary,
    Certificate,
    FinalHeader,
    Header,
    Manifest,
    Opening,
    Recovery,
    VoteKind,
)


class StorageError(Exception):
    """The store cannot be used, or what it holds is not what this node wrote."""


class NeverProven(StorageError):
    """No header commits to that state or will: an epoch began right above it (R2)."""


class Served:
    """Reading of the finalized chain, on a connection of its own: safe beside the writer."""

    _reader: sqlite3.Connection
    _cluster_id: bytes

    def blocks_from(self, height: int, count: int) -> wire.SyncReply | None:
        """``count`` finalized and synced blocks from ``height`` on, with the proof of finality.

        At most as many as one message holds. They end at a block that is directly final, a few
        above ``count`` if need be; when none is in reach, the headers up to the next one follow.
        None when there is nothing to send, or it is pruned.
        """
        try:
            return self._blocks_from(height, min(max(count, 1), limits.SYNC_BLOCKS_MAX))
        except (sqlite3.Error, ValueError) as error:
            raise StorageError(f"cannot read blocks from {height}: {error}") from error

    def _blocks_from(self, height: int, count: int) -> wire.SyncReply | None:
        rows = self._reader.execute(
            "SELECT data, finalization FROM finalized WHERE height >= ? ORDER BY height LIMIT ?",
            (height, limits.SYNC_BLOCKS_MAX),
        )
        pruned = self._reader.execute("SELECT value FROM meta WHERE name = 'pruned'").fetchone()
        if pruned is not None and height <= pruned[0]:
            return None
        found: list[Block] = []
        proven, proof = 0, None
        size = 0
        for data, finalization in rows:
            size += len(data)
            if found and size > limits.SYNC_BYTES_MAX:
                break
            block = codec.decode_block(data, self._cluster_id)
            if found and block.header.epoch != found[0].header.epoch:
                break  # an answer proves itself to a member of one epoch
            found.append(block)
            if block.next_epoch is not None:
                return self._to_boundary(tuple(found))
            if finalization is not None:
                proven, proof = len(found), finalization
                if proven >= count:
                    break
        if not found:
            return None
        if proof is None:
            return self._with_links(tuple(found))
        final = codec.decode_certificate(proof)
        return wire.SyncReply(tuple(found[:proven]), (), final, self._head(final))

    def _to_boundary(self, blocks: tuple[Block, ...]) -> wire.SyncReply:
        """Blocks up to the last one of an epoch, with the proof that it is."""
        (data,) = self._reader.execute(
            "SELECT data FROM epochs WHERE epoch = ?", (blocks[-1].header.epoch + 1,)
        ).fetchone()
        opening = codec.decode_opening(data, self._cluster_id)
        assert isinstance(opening, Boundary)
        return wire.SyncReply(blocks, opening.links, opening.finalization, None)

    def openings_from(self, epoch: int) -> wire.EpochReply | None:
        """How ``epoch`` and those after it ended, as many as one message holds.

        Raises StorageError.
        """
        found: list[Opening] = []
        size = 0
        try:
            rows = self._reader.execute(
                "SELECT data FROM epochs WHERE epoch > ? ORDER BY epoch LIMIT ?",
                (epoch, limits.EPOCHS_PER_MESSAGE_MAX),
            )
            for (data,) in rows:
                size += len(data)
                if found and size > limits.SYNC_BYTES_MAX:
                    break
                found.append(codec.decode_opening(data, self._cluster_id))
        except (sqlite3.Error, ValueError) as error:
            raise StorageError(f"cannot read epochs from {epoch}: {error}") from error
        return wire.EpochReply(tuple(found)) if found else None

    def _with_links(self, blocks: tuple[Block, ...]) -> wire.SyncReply | None:
        links: list[Header] = []
        rows: Iterable[tuple[bytes, bytes | None]] = self._reader.execute(
            "SELECT data, finalization FROM finalized WHERE height > ? ORDER BY height LIMIT ?",
            (blocks[-1].header.height, limits.SYNC_LINKS_MAX),
        )
        for data, proof in rows:
            block = codec.decode_block(data, self._cluster_id)
            if block.header.epoch != blocks[0].header.epoch:
                break
            links.append(block.header)
            if block.next_epoch is not None:
                end = self._to_boundary((block,))
                return wire.SyncReply(blocks, (*links, *end.links), end.finalization, None)
            if proof is not None:
                final = codec.decode_certificate(proof)
                return wire.SyncReply(blocks, tuple(links), final, self._head(final))
        return self._to_recovery(blocks, tuple(links))

    def _to_recovery(
        self, blocks: tuple[Block, ...], links: tuple[Header, ...]
    ) -> wire.SyncReply | None:
        """Blocks up to one that a recovery named: whoever sees it on its chain needs no proof.

        What proved them final was above them, and dropped. None when no recovery stands there.
        """
        last = links[-1] if links else blocks[-1].header
        row = self._reader.execute(
            "SELECT data FROM epochs WHERE epoch > ? ORDER BY epoch LIMIT 1", (last.epoch,)
        ).fetchone()
        ended = None if row is None else codec.decode_opening(row[0], self._cluster_id)
        if not isinstance(ended, Recovery) or ended.height != last.height:
            return None
        named = Certificate(VoteKind.FINALIZE, last.epoch, last.view, ended.block_hash, ())
        return wire.SyncReply(blocks, links, named, None)

    def _head(self, shown: Certificate) -> FinalHeader | None:
        """Our newest finalized header, None when ``shown`` is its finalization."""
        row = self._reader.execute(
            "SELECT data, finalization FROM finalized"
            " WHERE finalization IS NOT NULL ORDER BY height DESC LIMIT 1"
        ).fetchone()
        if row is None:
            return None
        data, proof = row
        final = codec.decode_certificate(proof)
        if final == shown:
            return None
        return FinalHeader(codec.decode_block(data, self._cluster_id).header, final)

    def manifest(self, height: int) -> Manifest | None:
        """Proof of the state at ``height`` (R17), None while no finalized header commits to it.

        Raises NeverProven when none ever will, StorageError when the blocks are gone.
        """
        try:
            return self._manifest(height)
        except (sqlite3.Error, ValueError) as error:
            raise StorageError(f"cannot read the proof of height {height}: {error}") from error

    def _manifest(self, height: int) -> Manifest | None:
        rows = self._reader.execute(
            "SELECT data, finalization FROM finalized WHERE height >= ? ORDER BY height LIMIT ?",
            (height, limits.SYNC_LINKS_MAX + 1),
        )
        # Closed also when an error ends it: as long as somebody keeps that, an open cursor would
        # keep all readers at what the store held then, and members that ask without new blocks.
        with closing(rows):
            return self._proof(height, rows)

    def _proof(self, height: int, rows: Iterable[tuple[bytes, bytes | None]]) -> Manifest | None:
        headers: list[Header] = []
        certified = False
        for data, finalization in rows:
            header = codec.decode_block(data, self._cluster_id).header
            if header.height != height + len(headers):  # pruned, or a snapshot was taken over
                raise StorageError(f"no proof of the state at height {height}")
            headers.append(header)
            certified = certified or header.state_height == height
            if header.state_height > height and not certified:
                raise NeverProven(f"no header commits to the state at height {height}")
            if certified and finalization is not None:
                final = codec.decode_certificate(finalization)
                return Manifest(headers[0], tuple(headers[1:]), final, 0)
        if not headers or len(headers) > limits.SYNC_LINKS_MAX:
            raise StorageError(f"no proof of the state at height {height}")
        return None
