"""Makes snapshots while the node runs, offers them to others, and lets old blocks go.

At a checkpoint far enough from the last snapshot the store pins its state (``Store.pin_when``). A
thread writes that to a file; when later blocks prove it, the file is complete. Of the newest two,
blocks up to the older one may go: a member that is only a little behind still gets blocks.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

import structlog
import trio

from consensus.types import Manifest
from consensus.wire import SnapshotChunk, SnapshotOffer
from node import snapshots, state_tables
from node.served import NeverProven, StorageError
from node.snapshots import Draft, SnapshotError, SnapshotFile
from node.storage import Pinned, Store

PROOF_POLL_S = 0.2
BLOCK_BYTES_MAX = 256 * 1024 * 1024  # so many bytes of blocks ask for a snapshot earlier


class Archivist:
    """The snapshots of one node.

    Args:
        store: of this node; what is pruned there follows the snapshots here.
        directory: the state directory; the files are in a folder of it.
        checkpoint: the distance of heights whose state is certified.
        every: heights between snapshots.
    """

    def __init__(self, store: Store, directory: Path, *, checkpoint: int, every: int) -> None:
        self._store = store
        self._directory = directory / snapshots.DIRECTORY
        self._checkpoint = checkpoint
        self._every = every
        self._busy = False
        self._lock = threading.Lock()
        self._open: dict[int, SnapshotFile] = {}
        self._log = structlog.get_logger("node.snapshots")
        self._directory.mkdir(mode=0o700, exist_ok=True)
        snapshots.sync_directory(directory)  # blocks go only behind what a power cut leaves
        snapshots.tidy_drafts(self._directory)
        for _, path in snapshots.listing(self._directory):
            self._take_in(path)
        self._bytes = store.block_bytes
        self._let_blocks_go()
        store.pin_when(self._wants)

    @property
    def heights(self) -> list[int]:
        """Heights of the snapshots on offer, oldest first."""
        return sorted(self._open)

    def close(self) -> None:
        """Closes the files."""
        for file in self._open.values():
            file.close()

    def _take_in(self, path: Path) -> None:
        try:
            file = SnapshotFile(path)
        except SnapshotError as error:
            self._log.error("snapshot_damaged", reason=str(error))
            path.unlink(missing_ok=True)
            return
        except OSError as error:  # of the disk or of us, not of the file: it stays
            self._log.error("snapshot_unreadable", reason=str(error))
            return
        if (old := self._open.get(file.height)) is not None:
            old.close()
        self._open[file.height] = file

    def _wants(self, height: int) -> bool:
        if self._busy or height % self._checkpoint:
            return False
        far = height - max(self._open, default=0) >= self._every
        big = self._store.block_bytes - self._bytes >= BLOCK_BYTES_MAX
        self._busy = far or big  # until ``make`` is done
        return self._busy

    # --- making ---

    async def make(self, pinned: Pinned) -> None:
        """Writes a snapshot of a pinned state; closes it."""
        try:
            await self._make(pinned, None)
        finally:
            self._busy = False

    async def keep(self, pinned: Pinned, manifest: Manifest) -> None:
        """Writes one that was installed, to pass it on: its giver may be lost; closes the state."""
        await self._make(pinned, manifest)

    async def _make(self, pinned: Pinned, manifest: Manifest | None) -> None:
        self._bytes = self._store.block_bytes
        try:
            draft = await trio.to_thread.run_sync(self._write, pinned)
            while manifest is None:
                await trio.sleep(PROOF_POLL_S)  # until later blocks are final
                manifest = await trio.to_thread.run_sync(self._store.manifest, draft.height)
            await trio.to_thread.run_sync(self._complete, draft, manifest)
        except (SnapshotError, StorageError, OSError) as error:
            # Not worth stopping for: the next one comes, and no block goes before it.
            if isinstance(error, NeverProven):
                self._log.info("snapshot_unproven", height=pinned.height)
            else:
                self._log.error("snapshot_failed", height=pinned.height, reason=str(error))
            # But the votes need the space that it took, if that was what failed.
            with suppress(OSError):
                snapshots.draft_path(self._directory, pinned.height).unlink(missing_ok=True)

    def _write(self, pinned: Pinned) -> Draft:
        try:
            items = state_tables.read_items(pinned.db, pinned.revision)
            return snapshots.write_state(self._directory, pinned.height, items)
        except sqlite3.Error as error:
            raise StorageError(f"cannot read the state: {error}") from error
        finally:
            pinned.db.close()

    def _complete(self, draft: Draft, manifest: Manifest) -> None:
        path = snapshots.complete(draft, manifest)
        with self._lock:
            self._take_in(path)
            for old in self.heights[: -snapshots.KEPT]:
                self._open.pop(old).close()
            snapshots.tidy(self._directory)
        self._let_blocks_go()
        self._log.info("snapshot", height=draft.height, bytes=path.stat().st_size)

    def _let_blocks_go(self) -> None:
        heights = self.heights
        if len(heights) == snapshots.KEPT:
            self._store.prune(heights[0])

    # --- serving, in threads ---

    def offer(self) -> SnapshotOffer | None:
        """The newest snapshot."""
        with self._lock:
            heights = self.heights
            return SnapshotOffer(self._open[heights[-1]].manifest) if heights else None

    def chunk(self, height: int, number: int) -> SnapshotChunk | None:
        """A chunk, None when there is no such one. Damaged files are given up."""
        with self._lock:
            file = self._open.get(height)
            if file is None or number >= file.manifest.chunks:
                return None
            try:
                return SnapshotChunk(height, number, file.chunk(number))
            except (SnapshotError, OSError) as error:
                self._log.error("snapshot_damaged", reason=str(error))
                self._open.pop(height).close()
                if isinstance(error, SnapshotError):
                    file.path.unlink(missing_ok=True)
                return None
