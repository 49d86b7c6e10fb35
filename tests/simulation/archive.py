"""The snapshots of a simulated disk: made at checkpoints, proven later, the newest two kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from consensus.interface import ServeSnapshot
from consensus.machine import Machine
from consensus.transfer import export
from consensus.types import Block, Certificate, Manifest
from consensus.wire import SnapshotChunk, SnapshotOffer

KEPT = 2
CHUNK_BYTES = 200  # a handful of items, so that every snapshot has several chunks


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state in chunks; the manifest is None until a header certifies the state."""

    height: int
    chunks: tuple[tuple[bytes, ...], ...]
    manifest: Manifest | None = None


class Archive:
    """What one member has to offer."""

    def __init__(self) -> None:
        self.snapshots: tuple[Snapshot, ...] = ()

    def add(self, machine: Machine, manifest: Manifest | None = None) -> None:
        """A state at a checkpoint, its proof when it is known."""
        chunks, after = [], b""
        while True:
            items, next_ = export(machine, after, CHUNK_BYTES)
            chunks.append(tuple(items))
            if next_ is None:
                break
            after = next_
        if manifest is not None:
            manifest = replace(manifest, chunks=len(chunks))
        self.snapshots = (*self.snapshots, Snapshot(machine.height, tuple(chunks), manifest))

    def prove(self, chain: Sequence[tuple[Block, Certificate | None]]) -> None:
        """Completes what the chain proves by now; older ones than the newest two go."""
        self.snapshots = tuple(
            replace(s, manifest=_manifest(s, chain)) if s.manifest is None else s
            for s in self.snapshots
        )
        proven = [s for s in self.snapshots if s.manifest is not None]
        if len(proven) > KEPT:
            oldest = proven[-KEPT].height
            self.snapshots = tuple(s for s in self.snapshots if s.height >= oldest)

    @property
    def proven(self) -> list[Snapshot]:
        return [s for s in self.snapshots if s.manifest is not None]

    def serve(self, request: ServeSnapshot) -> SnapshotOffer | SnapshotChunk | None:
        """The answer to a request."""
        if request.height == 0:
            return self.offer()
        for snapshot in self.proven:
            if snapshot.height == request.height and request.chunk < len(snapshot.chunks):
                items = snapshot.chunks[request.chunk]
                return SnapshotChunk(request.height, request.chunk, items)
        return None

    def offer(self) -> SnapshotOffer | None:
        """The newest snapshot."""
        for snapshot in reversed(self.proven):
            assert snapshot.manifest is not None
            return SnapshotOffer(snapshot.manifest)
        return None


def _manifest(
    snapshot: Snapshot, chain: Sequence[tuple[Block, Certificate | None]]
) -> Manifest | None:
    headers = []
    certified = False
    for block, finalization in chain:
        if block.header.height < snapshot.height:
            continue
        headers.append(block.header)
        certified = certified or block.header.state_height == snapshot.height
        if certified and finalization is not None:
            links = tuple(headers[1:])
            return Manifest(headers[0], links, finalization, len(snapshot.chunks))
    return None
