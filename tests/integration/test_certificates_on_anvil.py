"""What the cluster signs, shown to the contract of certificates on a real chain."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from chain import (
    CallReverted,
    Certificates,
    NotDeployed,
    ShownDeposal,
    ShownEpoch,
    ShownLeader,
    TransactionSender,
    TxState,
    certificates_abi,
    open_reader,
)
from chain.eip712 import domain_separator
from chain.errors import BadChainData
from consensus.codec import pack_body
from consensus.compact import compact_parts
from consensus.digests import block_hash, body_hash, digest_of, header_bytes
from consensus.types import (
    Evidence,
    Header,
    NextEpoch,
    Part,
    Reason,
    View,
    Vote,
    VoteKind,
)
from consensus.validators import Validator
from node.showing import signed_vote
from node.witness import Witness
from tests.integration.anvil_chain import (
    CHAIN_ID,
    OWNER,
    POLICY,
    Chain,
    Cluster,
    TestIdentity,
    bind,
    cluster,
    endpoint,
    identity,
    until,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@dataclass
class Court:
    """A launched registry with two members (weights 1 and 2), and its contract of certificates."""

    found: Cluster
    members: dict[int, TestIdentity]
    certificates: Certificates
    cluster_id: bytes
    owner: TransactionSender

    def vote(
        self, seat: int, kind: VoteKind, view: View, block: bytes, reason: int = 0, epoch: int = 0
    ) -> Vote:
        unsigned = Vote(kind, epoch, view, seat, block, reason, b"")
        raw = self.members[seat].secret.sign_recoverable(digest_of(self.cluster_id, unsigned))
        return unsigned._replace(signature=raw[:64] + bytes([27 + raw[64]]))

    def parts(
        self, kind: VoteKind, view: View, block: bytes, reason: int = 0, epoch: int = 0
    ) -> bytes:
        votes = [self.vote(s, kind, view, block, reason, epoch) for s in sorted(self.members)]
        return compact_parts(tuple(Part(v.seat, v.reason, v.signature) for v in votes))


async def nothing_on_disk(epoch: int) -> None:
    return None


async def open_court(chain: Chain) -> Court:
    found = await cluster(chain, seats=3)
    members = {}
    for seat in (1, 2):
        await bind(found, seat, f"node{seat}")
        members[seat] = identity(found.deployment, seat, f"node{seat}")
        await found.registrar.register(
            members[seat], seat, endpoint(seat), 1, until=TxState.INCLUDED
        )
    reader = open_reader(
        [chain.url], 1, chain_id=CHAIN_ID, contract=bytes(20), single_rpc_insecure=True
    )
    chain.closers.append(reader.aclose)
    sender = TransactionSender(
        reader, OWNER, journal_path=None, abi=certificates_abi(), policy=POLICY
    )
    contract, registry = found.deployment.contract, found.registry
    launch = registry.abi.function("launch").encode(await found.founders())
    await sender.send("launch", contract, launch, until=TxState.FINAL)
    await registry.snapshot()
    certificates = Certificates(registry, sender)
    assert certificates.named
    return Court(found, members, certificates, domain_separator(CHAIN_ID, contract), sender)


async def test_two_votes_that_exclude_each_other_convict_their_signer_once(chain: Chain) -> None:
    court = await open_court(chain)
    first, other, later = (
        court.vote(2, VoteKind.NOTARIZE, view, block)
        for view, block in (
            (View(1, 4), b"a" * 32), (View(1, 4), b"b" * 32), (View(1, 5), b"b" * 32)
        )
    )  # fmt: skip
    show, key = court.certificates.prove_conflict, court.members[2].node_key
    for seat, second, name in (
        (2, later, "NoConflict"),
        (1, other, "NotSeated"),
        (2, replace_block(other), "BadSignature"),
        (7, other, "NotSeated"),
    ):
        with pytest.raises(CallReverted) as refused:
            await show(seat, signed_vote(first), signed_vote(second))
        assert refused.value.name == name
    assert not await court.certificates.convicted(key)
    await show(2, signed_vote(first), signed_vote(other))
    assert await court.certificates.convicted(key)
    assert not await court.certificates.convicted(court.members[1].node_key)
    with pytest.raises(CallReverted, match="AlreadyMarked"):
        await show(2, signed_vote(other), signed_vote(first))


def replace_block(vote: Vote) -> Vote:
    return vote._replace(block=b"c" * 32)


async def test_a_leader_is_recorded_by_a_final_block_and_marked_when_it_was_deposed(
    chain: Chain,
) -> None:
    court = await open_court(chain)
    header = Header(0, View(1, 3), 2, 9, b"p" * 32, 1000, b"o" * 32, 8, b"s" * 32)
    block = block_hash(court.cluster_id, header)
    final = court.parts(VoteKind.FINALIZE, header.view, block)
    record, depose = court.certificates.record_leader, court.certificates.depose
    with pytest.raises(CallReverted, match="NoQuorum"):
        await record(ShownLeader(header_bytes(header), final[:69]))
    wrong = court.parts(VoteKind.FINALIZE, View(1, 4), block)
    with pytest.raises(CallReverted, match="BadSignature"):
        await record(ShownLeader(header_bytes(header), wrong))
    with pytest.raises(ValueError, match="152 bytes"):
        ShownLeader(header_bytes(header)[1:], final)

    nullified = View(1, 4)
    against = court.parts(VoteKind.NULLIFY, nullified, bytes(32), Reason.NO_PROPOSAL)
    with pytest.raises(CallReverted, match="LeaderUnknown"):
        await depose(ShownDeposal(0, 1, 4, against))
    await record(ShownLeader(header_bytes(header), final))
    with pytest.raises(CallReverted, match="StaleLeader"):
        await record(ShownLeader(header_bytes(header), final))
    await depose(ShownDeposal(0, 1, 4, against))
    with pytest.raises(CallReverted, match="AlreadyMarked"):
        await depose(ShownDeposal(0, 1, 4, against))

    # Of a term that is not on record, the leader's own proposal shows who led it.
    later = replace(header, view=View(3, 0), proposer=1)
    own = court.vote(1, VoteKind.NOTARIZE, later.view, block_hash(court.cluster_id, later))
    parts = court.parts(VoteKind.NULLIFY, View(3, 1), bytes(32), Reason.STALL)
    await depose(
        ShownDeposal(0, 3, 1, parts, header_bytes(later), own.signature), until=TxState.INCLUDED,
    )  # fmt: skip


async def test_an_epoch_that_is_bound_to_its_members_may_have_its_leader_recorded(
    chain: Chain,
) -> None:
    court = await open_court(chain)
    registry, newest = court.found.registry, court.found.registry.newest
    assert newest is not None and newest.last_change is not None
    # Its members come from the change before the newest one.
    await bind(court.found, 3, "node3")
    third = identity(court.found.deployment, 3, "node3")
    await court.found.registrar.register(third, 3, endpoint(3), 1)
    await registry.snapshot()
    change = newest.last_change
    members = tuple(Validator(m.seat, m.weight, m.node_key) for m in newest.active())
    record = NextEpoch(1, change.block_number, b"h" * 32, change.digest, b"s" * 32, members)
    body = pack_body((), (), (), record)
    boundary = Header(0, View(1, 5), 2, 9, b"p" * 32, 1000, body_hash(body), 8, b"s" * 32)
    first = Header(
        1, View(1, 0), 1, 10, block_hash(court.cluster_id, boundary), 1001, b"o" * 32, 9, b"s" * 32
    )
    block = block_hash(court.cluster_id, first)
    final = court.parts(VoteKind.FINALIZE, first.view, block, epoch=1)
    with pytest.raises(CallReverted, match="UnknownEpoch"):
        await court.certificates.record_leader(ShownLeader(header_bytes(first), final))
    show = court.certificates.open_epoch
    with pytest.raises(BadChainData, match="no change of who votes"):
        await show(ShownEpoch(header_bytes(boundary), body, header_bytes(first), final, 1))
    shown = ShownEpoch(
        header_bytes(boundary), body, header_bytes(first), final, change.block_number
    )
    assert not await court.certificates.knows_epoch(1)
    await show(shown)
    assert await court.certificates.knows_epoch(1)
    with pytest.raises(CallReverted, match="EpochKnown"):
        await show(shown)


async def test_a_seat_answers_for_the_key_that_it_replaced(chain: Chain) -> None:
    court = await open_court(chain)
    old = court.members[2].node_key
    pair = [court.vote(2, VoteKind.NOTARIZE, View(1, 4), block) for block in (b"a" * 32, b"b" * 32)]
    await bind(court.found, 2, "another machine")
    machine = identity(court.found.deployment, 2, "another machine")
    await court.found.registrar.register(machine, 2, endpoint(2), 2, until=TxState.FINAL)
    registry = court.found.registry
    assert (await registry.member(2)).node_key == machine.node_key != old
    await court.certificates.prove_conflict(2, *map(signed_vote, pair))
    assert await court.certificates.convicted(old)
    assert not await court.certificates.convicted(machine.node_key)


async def test_a_member_shows_what_a_final_block_convicts_and_pays_for_it(chain: Chain) -> None:
    court = await open_court(chain)
    pair = Evidence(
        *(court.vote(2, VoteKind.FINALIZE, View(2, 0), block) for block in (b"a" * 32, b"b" * 32))
    )
    engine: Any = SimpleNamespace(
        validators=SimpleNamespace(seats=(1, 2), epoch=0),
        view=View(2, 1),
        leader=lambda term: 1,
        evidence=(),
        cluster_id=court.cluster_id,
        previous=None,
    )
    newest = court.found.registry.newest
    assert newest is not None
    sender = chain.sender(await chain.funded_key("a member"))
    witness = Witness(
        Certificates(court.found.registry, sender), 1, engine, nothing_on_disk,
        evidence=True, leaders=False, deposals=False,
    )  # fmt: skip
    final: Any = SimpleNamespace(
        evidence=(pair,),
        nullifications=(),
        next_epoch=None,
        header=SimpleNamespace(epoch=0, view=View(2, 1)),
    )
    witness.saw(final)

    async def convicted() -> bool:
        return await court.certificates.convicted(court.members[2].node_key)

    engine.machine = SimpleNamespace(standing=SimpleNamespace(convicted=(2,)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(witness.run)
        await until(convicted)
        nursery.cancel_scope.cancel()
    assert [row["state"] for row in witness.status()] == ["shown"]

    # Without a contract of certificates there is nobody to show it to.
    registry = court.found.registry
    (rules,) = await registry.call("rules")
    data = registry.abi.function("setCompanions").encode(rules, "0x" + bytes(20).hex())
    await court.owner.send("none", court.found.deployment.contract, data)
    await registry.snapshot()
    assert not court.certificates.named
    with pytest.raises(NotDeployed, match="names no contract"):
        await court.certificates.convicted(court.members[2].node_key)
