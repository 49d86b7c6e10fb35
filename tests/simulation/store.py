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
from consensus.interface import (
    AbstainRecord,
    AcknowledgedRecord,
    BlockRecord,
    CertificateRecord,
    EvidenceRecord,
    FinalizedRecord,
    IncarnationRecord,
    Record,
    Restored,
    VoteRecord,
)
from consensus.items import KeyValue, Lease, Session
from consensus.ledger import Tip, genesis_tip
from consensus.machine import Machine
from consensus.types import Block, Certificate, Evidence, FinalHeader, Header, View, Vote, VoteKind
from consensus.wire import (
    SyncReply,
    decode_block,
    decode_boot_request,
    decode_certificate,
    decode_vote,
    encode_block,
    encode_boot_request,
    encode_certificate,
    encode_vote,
)


class SimStore:
    """One member's disk."""

    def __init__(self, cluster_id: bytes, seat: int, genesis: bytes, serve_blocks: int) -> None:
        self._cluster_id = cluster_id
        self._seat = seat
        self._serve_blocks = serve_blocks
        self.tip: Tip = genesis_tip(genesis)
        self.chain: list[tuple[Block, Certificate | None]] = []
        self.entries: dict[bytes, KeyValue] = {}
        self.sessions: dict[bytes, Session] = {}  # least recently used first
        self.leases: dict[int, Lease] = {}
        self.facts: dict[bytes, bytes] = {}
        self.hashes: dict[int, bytes] = {}
        self.revision = 0
        self.votes: dict[tuple[View, VoteKind], bytes] = {}
        self.blocks: dict[bytes, tuple[View, bytes]] = {}
        self.certificates: list[tuple[VoteKind, View, bytes]] = []
        self.incarnation = 0
        self.acknowledged: dict[int, bytes] = {}
        self.abstain_until_term = 0
        self.evidence: list[Evidence] = []
        self.waiting: list[Record] = []  # in memory only
        self.votes_ever: set[Vote] = set()  # for the oracle: never pruned

    def commit(self, records: list[Record]) -> None:
        """Makes the records of one output durable, but lets finalized blocks wait."""
        self.waiting += [r for r in records if isinstance(r, FinalizedRecord)]
        self.transact([r for r in records if not isinstance(r, FinalizedRecord)])

    def sync(self) -> None:
        """Makes durable what waits."""
        batch, self.waiting = self.waiting, []
        self.transact(batch)

    def transact(self, records: list[Record]) -> None:
        """One transaction on the disk."""
        for record in records:
            match record:
                case VoteRecord(vote):
                    self.votes[vote.view, vote.kind] = encode_vote(vote)
                    self.votes_ever.add(vote)
                case BlockRecord(block):
                    self.blocks[block.hash] = (block.header.view, encode_block(block))
                case CertificateRecord(c):
                    self.certificates.append((c.kind, c.view, encode_certificate(c)))
                case FinalizedRecord():
                    self._finalize(record)
                case IncarnationRecord(incarnation, _):
                    self.incarnation = incarnation
                case AcknowledgedRecord(request):
                    self.acknowledged[request.seat] = encode_boot_request(request)
                case AbstainRecord(term):
                    self.abstain_until_term = term
                case EvidenceRecord(evidence):
                    self.evidence.append(evidence)

    def _finalize(self, record: FinalizedRecord) -> None:
        applied, header = record.applied, record.applied.block.header
        assert header.height == len(self.chain) + 1, "a gap in the finalized chain"
        self.chain.append((applied.block, record.finalization))
        self.revision = applied.revision
        self.hashes[header.height] = applied.state_hash
        self.hashes.pop(header.height - limits.STATE_HASHES_KEPT, None)
        changes = applied.changes
        _update(self.entries, changes.entries)
        _update(self.sessions, changes.sessions)
        _update(self.leases, changes.leases)
        _update(self.facts, changes.facts)
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
        self._prune(header.view)

    def _prune(self, final: View) -> None:
        """Forgets what finality superseded; the nullify votes of the final term keep its gate."""
        self.votes = {
            (view, kind): raw
            for (view, kind), raw in self.votes.items()
            if view >= final or (kind is VoteKind.NULLIFY and view.term == final.term)
        }
        self.blocks = {h: b for h, b in self.blocks.items() if b[0] > final}
        self.certificates = [
            c
            for c in self.certificates
            if (c[1].term >= final.term if c[0] is VoteKind.NULLIFY else c[1] > final)
        ]

    def restored(self) -> Restored:
        """What a restarted engine is given."""
        self.waiting = []
        assert self.tip.height == len(self.chain), "a half-written finalization"
        machine = Machine()
        if self.chain:
            machine = Machine.restore(
                len(self.chain),
                self.revision,
                self.entries.items(),
                self.sessions.items(),
                sorted(self.hashes.items()),
                leases=self.leases.items(),
                facts=self.facts.items(),
                time_ms=self.tip.time_ms,
            )
        return Restored(
            tip=self.tip,
            machine=machine,
            votes=[decode_vote(raw, self._seat) for raw in self.votes.values()],
            blocks=[decode_block(raw, self._cluster_id) for _, raw in self.blocks.values()],
            certificates=[decode_certificate(raw) for _, _, raw in self.certificates],
            incarnation=self.incarnation,
            acknowledged=[decode_boot_request(raw) for raw in self.acknowledged.values()],
            abstain_until_term=self.abstain_until_term,
            evidence=self.evidence,
        )

    def serve(self, from_height: int, count: int) -> SyncReply | None:
        """The answer to a request for blocks, with links when it ends below a finalization."""
        blocks: list[Block] = []
        links: list[Header] = []
        most = min(count, self._serve_blocks)
        head = next(
            (FinalHeader(b.header, c) for b, c in reversed(self.chain) if c is not None), None
        )
        for block, finalization in self.chain[from_height - 1 :]:
            if len(blocks) < most and not links:
                blocks.append(block)
            else:
                links.append(block.header)
            if finalization is not None and (len(blocks) == most or links):
                return SyncReply(tuple(blocks), tuple(links), finalization, head)
        if blocks and not links:
            final = self.chain[-1][1]
            assert final is not None
            return SyncReply(tuple(blocks), (), final, None)
        return None

    def copy(self) -> SimStore:
        """The disk as it is now, for a later rollback."""
        clone = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (dict, list, set)):
                setattr(clone, name, value.copy())
        clone.waiting = []
        return clone


def _update(table: dict[Any, Any], changes: dict[Any, Any]) -> None:
    """Changed rows move to the end, as sessions must."""
    for key, value in changes.items():
        table.pop(key, None)
        if value is not None:
            table[key] = value
