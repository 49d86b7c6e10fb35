"""When a leader proposes, and on what."""

from __future__ import annotations

from clusters import GENESIS, Cluster, block, command, sent

from consensus import limits
from consensus.interface import Restored
from consensus.ledger import genesis_tip, tip_at
from consensus.machine import Machine
from consensus.types import Block, View, VoteKind
from consensus.wire import ProposalMessage


def _notarized_chain(cluster: Cluster, length: int) -> tuple[list[Block], Restored]:
    """A term that notarized blocks, finalized none, and was then ended."""
    blocks: list[Block] = []
    for index in range(length):
        blocks.append(block(View(1, index), blocks[-1] if blocks else GENESIS))
    certificates = [
        cluster.certificate(VoteKind.NOTARIZE, b.header.view, b.hash) for b in blocks
    ]
    certificates.append(cluster.certificate(VoteKind.NULLIFY, View(1, length)))
    restored = Restored(genesis_tip(GENESIS), Machine(), blocks=blocks, certificates=certificates)
    return blocks, restored


def test_a_new_leader_proposes_however_many_blocks_its_predecessors_left_unfinalized() -> None:
    for length in (limits.UNFINALIZED_BLOCKS_MAX // 2, 2 * limits.UNFINALIZED_BLOCKS_MAX):
        cluster = Cluster()
        blocks, restored = _notarized_chain(cluster, length)
        engine, output = cluster.booted(cluster.leader(2), restored)
        proposals = [m for m in sent(output) if isinstance(m, ProposalMessage)]
        assert engine.view == View(2, 0)
        assert proposals, f"no proposal on {length} unfinalized blocks"
        assert proposals[0].proposal.block.header.parent == blocks[-1].hash


def test_a_leader_that_is_shown_a_fork_stops_instead_of_extending_it() -> None:
    """Certificates of more than a third of liars: a notarized block beside the final one."""
    cluster = Cluster()
    final, fork = block(View(1, 0)), block(View(1, 1), commands=(command(1, 1),))
    shown = [
        cluster.certificate(VoteKind.NOTARIZE, View(1, 1), fork.hash),
        cluster.certificate(VoteKind.NULLIFY, View(1, 2)),
    ]
    tip = tip_at(
        final.header, final.hash, cluster.certificate(VoteKind.FINALIZE, View(1, 0), final.hash)
    )
    machine = Machine()
    machine.apply(final)
    _, output = cluster.booted(
        cluster.leader(2), Restored(tip, machine, blocks=[fork], certificates=shown)
    )
    assert output.halt is not None and "a third is faulty" in output.halt.reason
    assert not [m for m in sent(output) if isinstance(m, ProposalMessage)]
