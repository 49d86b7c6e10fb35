"""When a leader proposes, and on what."""

from __future__ import annotations

from clusters import GENESIS, Cluster, block, command, sent
from net import Net

from consensus import limits
from consensus.interface import Durations, Restored, Timer
from consensus.ledger import genesis_tip, tip_at
from consensus.machine import Machine
from consensus.types import Block, View, VoteKind
from consensus.wire import Message, ProposalMessage, VoteMessage


def _notarized_chain(cluster: Cluster, length: int) -> tuple[list[Block], Restored]:
    """A term that notarized blocks, finalized none, and was then ended."""
    blocks: list[Block] = []
    for index in range(length):
        blocks.append(block(View(1, index), blocks[-1] if blocks else GENESIS))
    certificates = [cluster.certificate(VoteKind.NOTARIZE, b.header.view, b.hash) for b in blocks]
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


def _no_finality(_: int, __: int, message: Message) -> bool:
    return not (isinstance(message, VoteMessage) and message.vote.kind is VoteKind.FINALIZE)


def _proposed(net: Net, leader: int) -> list[Block]:
    messages = [m for seat, output in net.outputs if seat == leader for m in sent(output)]
    blocks = [m.proposal.block for m in messages if isinstance(m, ProposalMessage)]
    return list({block.hash: block for block in blocks}.values())  # some are repeated (R7)


def _leading(gather_ms: int) -> tuple[Net, int]:
    """A cluster whose leader has just proposed a command."""
    net = Net(durations=Durations(gather_ms=gather_ms))
    net.start()
    net.deliver()
    net.now_ms += 500
    leader = net.leader
    net.outputs.clear()
    net.submit(leader, command(1, 1))
    assert [b.commands for b in _proposed(net, leader)] == [(command(1, 1),)]
    return net, leader


def test_a_leader_gathers_commands_until_its_last_block_is_final() -> None:
    """R1: a block costs the same work whatever is in it."""
    net, leader = _leading(20)
    net.now_ms += 1
    net.submit(leader, command(2, 1))
    net.deliver(_no_finality)
    net.submit(leader, command(3, 1))
    assert len(_proposed(net, leader)) == 1, "the first is notarized, and not final"
    for _ in range(2):  # those whose view did not move since the last time say again
        net.fire(Timer.RETRY)
        net.deliver()
    assert [b.commands for b in _proposed(net, leader)[1:]] == [(command(2, 1), command(3, 1))]


def test_a_leader_gathers_for_a_moment_only() -> None:
    """R1: between places the next block does not wait for the finality of the last."""
    net, leader = _leading(20)
    net.submit(leader, command(2, 1))
    net.now_ms += 15
    net.deliver(_no_finality)
    assert len(_proposed(net, leader)) == 1
    assert net.delays(Timer.GATHER, leader) == [5], "what is left, and set once"
    net.now_ms += 5
    net.fire(Timer.GATHER, leader)
    assert [b.commands for b in _proposed(net, leader)[1:]] == [(command(2, 1),)]

    net, leader = _leading(20)
    net.submit(leader, command(2, 1))
    net.now_ms += 20
    net.deliver(_no_finality)
    assert len(_proposed(net, leader)) == 2, "messages alone took that long"


def test_a_heartbeat_and_a_first_block_are_not_gathered_for() -> None:
    net, leader = _leading(1000)
    net.deliver(_no_finality)
    net.submit(leader, command(2, 1))
    assert len(_proposed(net, leader)) == 1
    net.fire(Timer.HEARTBEAT, leader)
    assert len(_proposed(net, leader)) == 2
