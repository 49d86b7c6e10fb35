"""What members of a cluster sign about leaders, as the contract of certificates takes it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from chain.eip712 import domain_separator
from consensus.codec import pack_body
from consensus.compact import compact_parts
from consensus.digests import block_hash, body_hash, header_bytes, vote_digest
from consensus.types import Header, NextEpoch, Part, Reason, View, VoteKind
from consensus.validators import Validator
from tests.integration.anvil_chain import CHAIN_ID
from tests.integration.attacks.proofs import Key, Proof, signed
from tests.integration.attacks.target import HOLDERS, OWNER, Target

NO_PROPOSAL = int(Reason.NO_PROPOSAL)


@dataclass
class Cluster:
    """A launched registry and the nodes that sit on it."""

    target: Target
    nodes: dict[int, Proof]

    @property
    def id(self) -> bytes:
        return domain_separator(CHAIN_ID, self.target.contract)

    def header(
        self, term: int, proposer: int, *, index: int = 0, epoch: int = 0, parent: bytes = b"p" * 32
    ) -> Header:
        view = View(term, index)
        return Header(epoch, view, proposer, 9, parent, 1000, b"o" * 32, 8, b"s" * 32)

    def vote(
        self, signer: Key, kind: VoteKind, view: View, block: bytes, reason: int = 0, epoch: int = 0
    ) -> bytes:
        """65 bytes."""
        return signed(signer, vote_digest(self.id, kind, epoch, *view, block, reason))

    def finalization(self, header: Header, seats: Iterable[int]) -> bytes:
        block = block_hash(self.id, header)
        return self._parts(seats, VoteKind.FINALIZE, header.view, block, 0, header.epoch)

    def nullification(
        self, term: int, index: int, seats: Iterable[int], reason: int = NO_PROPOSAL, epoch: int = 0
    ) -> bytes:
        view = View(term, index)
        return self._parts(seats, VoteKind.NULLIFY, view, bytes(32), reason, epoch)

    def _parts(
        self,
        seats: Iterable[int],
        kind: VoteKind,
        view: View,
        block: bytes,
        reason: int,
        epoch: int,
    ) -> bytes:
        return compact_parts(
            tuple(
                Part(s, reason, self.vote(self.nodes[s].node, kind, view, block, reason, epoch))
                for s in seats
            )
        )

    def conflict(self, seat: int, kind: VoteKind = VoteKind.NOTARIZE) -> tuple[Any, Any]:
        """Two votes that exclude each other, as ``proveConflict`` takes them."""
        node = self.nodes[seat].node
        pair = []
        for block in (b"a" * 32, b"b" * 32):
            raw = self.vote(node, kind, View(1, 4), block)
            pair.append((int(kind), 0, 1, 4, block, 0, *compact(raw)))
        return pair[0], pair[1]

    def own_proposal(self, header: Header) -> tuple[bytes, bytes]:
        """r and vs of the proposer's own vote for its block."""
        node = self.nodes[header.proposer].node
        block = block_hash(self.id, header)
        return compact(self.vote(node, VoteKind.NOTARIZE, header.view, block, 0, header.epoch))

    def boundary(self, chain_block: int, *, epoch: int = 1) -> tuple[bytes, bytes, bytes]:
        """Header and body of a block that ends the epoch before, and that header's hash."""
        members = tuple(
            Validator(seat, 1, proof.node.public_key.format()) for seat, proof in self.nodes.items()
        )
        record = NextEpoch(epoch, chain_block, b"h" * 32, b"d" * 32, b"s" * 32, members)
        body = pack_body((), (), (), record)
        header = Header(epoch - 1, View(1, 5), 1, 9, b"p" * 32, 1000, body_hash(body), 8, b"s" * 32)
        return header_bytes(header), body, block_hash(self.id, header)


def compact(signature: bytes) -> tuple[bytes, bytes]:
    """r and vs of a signature of 65 bytes (EIP-2098)."""
    top = 0x80 if signature[64] == 28 else 0
    return signature[:32], bytes([signature[32] | top]) + signature[33:64]


async def launched(target: Target, nodes: int = 4) -> Cluster:
    """That many seats of weight 1 with honest nodes, launched."""
    found = {}
    for seat in range(1, nodes + 1):
        if seat > len(HOLDERS):
            await target.do(OWNER, "grantSeat", f"0x{seat:040x}", 1)
        found[seat] = await seated(target, seat)
    await target.launch()
    return Cluster(target, found)


async def seated(target: Target, seat: int, **changes: Any) -> Proof:
    """An honest node on a seat, sent by whoever holds it."""
    proof = await target.proof(seat, f"node {seat}", **changes)
    holder = bytes.fromhex((await target.view("ownerOf", seat))[2:])
    await target.do_as(holder, "register", *proof.call)
    return proof


__all__ = ["Cluster", "compact", "header_bytes", "launched", "seated"]
