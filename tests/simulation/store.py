"""A disk: takes the records of ``consensus.interface`` and gives them back after a crash.

``commit`` is one transaction: all of it or nothing. What is not committed does not exist. Votes,
blocks and certificates go through the encodings of ``consensus.wire``, as on a real disk. As the
interface allows, finalized blocks wait in memory for a transaction of their own, behind votes that
came after them, and a crash loses them.
"""

from __future__ import annotations

import copy
from typing import Any

from consensus import limits
from consensus.codec import (
    decode_block,
    decode_boot_request,
    decode_certificate,
    decode_opening,
    decode_vote,
    encode_block,
    encode_boot_request,
    encode_certificate,
    encode_opening,
    encode_vote,
)
from consensus.epochs import opened_set, opening_height
from consensus.interface import (
    AbstainRecord,
    AcknowledgedRecord,
    BlockRecord,
    CertificateRecord,
    EpochRecord,
    EvidenceRecord,
    FinalizedRecord,
    IncarnationRecord,
    InstallRecord,
    Record,
    Restored,
    ServeBlocks,
    ServeEpochs,
    ServeSnapshot,
    VoteRecord,
)
from consensus.items import KeyValue, Lease, Session
from consensus.ledger import Tip, begun_tip, genesis_tip, opened_tip
from consensus.machine import Machine
from consensus.types import (
    Block,
    Boundary,
    Certificate,
    Evidence,
    FinalHeader,
    Header,
    Opening,
    Recovery,
    View,
    Vote,
    VoteKind,
)
from consensus.wire import EpochReply, Message, SyncReply

from .archive import KEPT, Archive


class SimStore:
    """One member's disk."""

    def __init__(
        self,
        cluster_id: bytes,
        seat: int,
        genesis: bytes,
        serve_blocks: int,
        every: int = limits.CHECKPOINT_HEIGHTS,
    ) -> None:
        self._cluster_id = cluster_id
        self._seat = seat
        self._serve_blocks = serve_blocks
        self.tip: Tip = genesis_tip(genesis)
        self._every = every  # the distance of checkpoints
        self.chain: list[tuple[Block, Certificate | None]] = []  # of the heights above ``base``
        self.base = 0
        self.installed = 0  # height of the snapshot that was installed last
        self.genesis = genesis
        self.archive = Archive()
        self.entries: dict[bytes, KeyValue] = {}
        self.sessions: dict[int, tuple[bytes, Session]] = {}  # by the number of their last use
        self.leases: dict[int, Lease] = {}
        self.facts: dict[bytes, bytes] = {}
        self.hashes: dict[int, bytes] = {}
        self.revision = 0
        self.votes: dict[tuple[int, View, VoteKind], bytes] = {}
        self.blocks: dict[bytes, tuple[int, View, bytes]] = {}
        self.certificates: list[tuple[int, VoteKind, View, bytes]] = []
        self.incarnation = 0
        self.acknowledged: dict[int, bytes] = {}
        self.abstain_until = (0, 0)
        self.openings: list[bytes] = []
        self.evidence: list[Evidence] = []
        self.waiting: list[Record] = []  # in memory only
        self.votes_ever: set[Vote] = set()  # for the oracle: never pruned

    def commit(self, records: list[Record]) -> None:
        """Makes the records of one output durable, but lets finalized blocks wait."""
        for record in records:
            if isinstance(record, FinalizedRecord):
                self.waiting.append(record)
                continue
            if isinstance(record, EpochRecord | InstallRecord):
                self.sync()  # they stand on what came before
            self.transact([record])

    def sync(self) -> None:
        """Makes durable what waits."""
        batch, self.waiting = self.waiting, []
        self.transact(batch)

    def transact(self, records: list[Record]) -> None:
        """One transaction on the disk."""
        for record in records:
            match record:
                case VoteRecord(vote):
                    self.votes[vote.epoch, vote.view, vote.kind] = encode_vote(vote)
                    self.votes_ever.add(vote)
                case BlockRecord(block):
                    self.blocks[block.hash] = (
                        block.header.epoch,
                        block.header.view,
                        encode_block(block),
                    )
                case CertificateRecord(c):
                    self.certificates.append((c.epoch, c.kind, c.view, encode_certificate(c)))
                case FinalizedRecord():
                    self._finalize(record)
                case InstallRecord():
                    self._install(record)
                case IncarnationRecord(incarnation, _):
                    self.incarnation = incarnation
                case AcknowledgedRecord(request):
                    self.acknowledged[request.seat] = encode_boot_request(request)
                case EpochRecord(opening):
                    self._open_epoch(opening)
                case AbstainRecord(epoch, term):
                    self.abstain_until = (epoch, term)
                case EvidenceRecord(evidence):
                    self.evidence.append(evidence)

    def _finalize(self, record: FinalizedRecord) -> None:
        applied, header = record.applied, record.applied.block.header
        assert header.height == self.height + 1, "a gap in the finalized chain"
        self.chain.append((applied.block, record.finalization))
        self.revision = applied.revision
        self.hashes[header.height] = applied.state_hash
        self.hashes.pop(header.height - limits.STATE_HASHES_KEPT, None)
        changes = applied.changes
        _update(self.entries, changes.entries)
        _update(self.sessions, changes.sessions)
        _update(self.leases, changes.leases)
        _update(self.facts, changes.facts)
        if header.height % self._every == 0:
            self.archive.add(self._machine(header.height, header.time_ms))
        if record.finalization is None:
            return
        self.tip = Tip(
            header.height,
            applied.block.hash,
            header.view,
            header.time_ms,
            header.state_height,
            record.finalization,
            header,
        )
        self._prune(header.epoch, header.view)
        self._prune_blocks()

    @property
    def height(self) -> int:
        """The highest final block, here or in the snapshot that was installed."""
        return self.base + len(self.chain)

    def _prune_blocks(self) -> None:
        """Blocks below the older of two snapshots go."""
        self.archive.prove(self.chain)
        if len(self.archive.proven) == KEPT:
            lowest = self.archive.proven[0].height
            del self.chain[: max(0, lowest - self.base)]
            self.base = max(self.base, lowest)

    def _install(self, record: InstallRecord) -> None:
        machine, tip = record.machine, record.tip
        assert machine.height == tip.height > self.height, "not written before the next step"
        self.base, self.tip, self.revision = tip.height, tip, machine.revision
        self.installed = tip.height
        self.chain = []
        self.archive = Archive()
        self.archive.add(machine, record.manifest)
        self.entries = dict(machine.entries)
        self.sessions = {s.used: (client, s) for client, s in machine.sessions.items()}
        self.leases, self.facts = dict(machine.leases), dict(machine.facts)
        self.hashes[tip.height] = machine.state_hash
        self.openings += map(encode_opening, record.openings)
        epochs = [record.manifest.header.epoch, *(opened_set(o).epoch for o in record.openings)]
        self._prune(max(epochs), tip.view)
        c = record.manifest.finalization
        self.certificates.append((c.epoch, c.kind, c.view, encode_certificate(c)))

    def _open_epoch(self, opening: Opening) -> None:
        """Everything voted so far was in an epoch that is over."""
        assert opening_height(opening) == self.height, "not on the last block"
        self.openings.append(encode_opening(opening))
        if self.chain:
            block = self.chain[-1][0]
            self.tip = opened_tip(block.header, block.hash)
        else:
            self.tip = begun_tip(self.tip)
        epoch = opened_set(opening).epoch
        last = max(self.votes, default=None)  # shows that the log is whole (R10)
        self.votes = {k: raw for k, raw in self.votes.items() if k[0] >= epoch or k == last}
        self.blocks = {h: b for h, b in self.blocks.items() if b[0] >= epoch}
        self.certificates = [c for c in self.certificates if c[0] >= epoch]

    def openings_now(self) -> list[Opening]:
        return [decode_opening(raw, self._cluster_id) for raw in self.openings]

    def answer(self, request: ServeBlocks | ServeEpochs | ServeSnapshot) -> Message | None:
        """What the engine asked to be sent from the store."""
        if isinstance(request, ServeEpochs):
            return self.serve_epochs(request.epoch)
        if isinstance(request, ServeSnapshot):
            return self.archive.serve(request)
        if request.from_height <= self.base:
            return self.archive.offer()
        return self.serve(request.from_height, request.count)

    def serve_epochs(self, epoch: int) -> EpochReply | None:
        """How an epoch and those after it ended."""
        later = [o for o in self.openings_now() if opened_set(o).epoch > epoch]
        return EpochReply(tuple(later[: limits.EPOCHS_PER_MESSAGE_MAX])) if later else None

    def _prune(self, epoch: int, final: View) -> None:
        """Forgets what finality superseded; the nullify votes of the final term keep its gate."""
        last = max(self.votes, default=None)
        self.votes = {
            (e, view, kind): raw
            for (e, view, kind), raw in self.votes.items()
            if (e, view) >= (epoch, final)
            or (e, view, kind) == last
            or (kind is VoteKind.NULLIFY and (e, view.term) == (epoch, final.term))
        }
        self.blocks = {h: b for h, b in self.blocks.items() if b[:2] > (epoch, final)}
        self.certificates = [
            (e, kind, view, raw)
            for e, kind, view, raw in self.certificates
            if (
                (e, view.term) >= (epoch, final.term)
                if kind is VoteKind.NULLIFY
                else (e, view) > (epoch, final)
            )
        ]

    def restored(self) -> Restored:
        """What a restarted engine is given."""
        self.waiting = []
        assert self.tip.height == self.height, "a half-written finalization"
        openings = self.openings_now()
        return Restored(
            tip=self.tip,
            machine=self._machine(self.height, self.tip.time_ms) if self.height else Machine(),
            votes=[decode_vote(raw, self._seat) for raw in self.votes.values()],
            blocks=[decode_block(raw, self._cluster_id) for _, _, raw in self.blocks.values()],
            certificates=[decode_certificate(raw) for _, _, _, raw in self.certificates],
            incarnation=self.incarnation,
            acknowledged=[decode_boot_request(raw) for raw in self.acknowledged.values()],
            abstain_until=self.abstain_until,
            openings=[o for o in openings[:-2] if isinstance(o, Recovery)] + openings[-2:],
            evidence=self.evidence,
        )

    def _machine(self, height: int, time_ms: int) -> Machine:
        return Machine.restore(
            height,
            self.revision,
            self.entries.items(),
            [self.sessions[used] for used in sorted(self.sessions)],
            sorted(self.hashes.items()),
            leases=self.leases.items(),
            facts=self.facts.items(),
            time_ms=time_ms,
        )

    def serve(self, from_height: int, count: int) -> SyncReply | None:
        """Blocks, with links when they end below a finalization."""
        blocks: list[Block] = []
        links: list[Header] = []
        most = min(count, self._serve_blocks)
        head = next(
            (FinalHeader(b.header, c) for b, c in reversed(self.chain) if c is not None), None
        )
        for block, finalization in self.chain[from_height - 1 - self.base :]:
            if blocks and block.header.epoch != blocks[0].header.epoch:
                break
            if len(blocks) < most and not links:
                blocks.append(block)
            else:
                links.append(block.header)
            if block.next_epoch is not None:
                after = block.header.epoch + 1
                end = next(o for o in self.openings_now() if opened_set(o).epoch == after)
                assert isinstance(end, Boundary)
                return SyncReply(tuple(blocks), (*links, *end.links), end.finalization, None)
            if finalization is not None and (len(blocks) == most or links):
                return SyncReply(tuple(blocks), tuple(links), finalization, head)
        # A recovery ended the epoch; what proves its block may be above it, and dropped.
        kept = blocks.copy()
        while blocks and not links:
            final = self.chain[blocks[-1].header.height - 1 - self.base][1]
            if final is not None:
                return SyncReply(tuple(blocks), (), final, None)
            blocks.pop()
        last = links[-1] if links else kept[-1].header if kept else None
        later = (o for o in self.openings_now() if last and opened_set(o).epoch > last.epoch)
        ended = next(later, None)
        if last is None or not isinstance(ended, Recovery) or ended.height != last.height:
            return None
        named = Certificate(VoteKind.FINALIZE, last.epoch, last.view, ended.block_hash, ())
        return SyncReply(tuple(kept), tuple(links), named, None)

    def copy(self) -> SimStore:
        """The disk as it is now, for a later rollback."""
        clone = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (dict, list, set)):
                setattr(clone, name, value.copy())
        clone.archive = copy.copy(self.archive)
        clone.waiting = []
        return clone


def _update(table: dict[Any, Any], changes: dict[Any, Any]) -> None:
    """Changed rows move to the end, as sessions must."""
    for key, value in changes.items():
        table.pop(key, None)
        if value is not None:
            table[key] = value
