"""X01, X12 to X21: attacks on certificates, recoveries, roots and what stands beside them.

On ours alone. X01, X19 and X20 worked until they were tried here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from chain import CallReverted
from consensus.compact import compact_parts
from consensus.digests import block_hash, header_bytes
from consensus.types import Part, View, VoteKind
from tests.integration.anvil_chain import address
from tests.integration.attacks.ballots import Cluster, compact, launched, seated
from tests.integration.attacks.proofs import key
from tests.integration.attacks.target import (
    ABIS,
    ALICE,
    BOB,
    CAROL,
    DAN,
    GUARDIAN,
    LEASE_S,
    OWNER,
    RECOVERY_DELAY_S,
    STRANGER,
    Target,
    certificate,
    hexed,
    wallet,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

BLOCK = b"h" * 32
BY_RECORD = (b"", bytes(32), bytes(32))  # the accused is the leader on record


async def show_epoch(
    cluster: Cluster, chain_block: int, seats: tuple[int, ...], version: int, following: int
) -> tuple[Any, ...]:
    """Arguments of ``openEpoch`` for epoch 1, made up by those seats alone."""
    boundary, body, parent = cluster.boundary(chain_block)
    first = cluster.header(1, seats[0], epoch=1, parent=parent)
    parts = cluster.finalization(first, seats)
    return boundary, body, header_bytes(first), parts, version, following


async def test_X01_nobody_owns_an_epoch_for_having_been_alone_before_the_founding(
    ours: Target,
) -> None:
    nodes = {1: await seated(ours, 1)}
    alone = await ours.view("version")
    (block_then, _, _) = await ours.view("changeOf", alone)
    nodes |= {seat: await seated(ours, seat) for seat in (2, 3, 4)}
    await ours.launch()
    cluster = Cluster(ours, nodes)
    shown = await show_epoch(cluster, block_then, (1,), alone, alone + 1)
    await ours.attack(ALICE, "openEpoch", *shown, at="certificates", refusal="NotOwner")
    # The state at the founding: by its quorum, and nobody else.
    founded = await ours.view("version")
    (block_then, _, _) = await ours.view("changeOf", founded)
    shown = await show_epoch(cluster, block_then, (1, 2), founded, 0)
    await ours.attack(ALICE, "openEpoch", *shown, at="certificates", refusal="NoQuorum(2, 4)")
    shown = await show_epoch(cluster, block_then, (1, 2, 3), founded, 0)
    await ours.do(STRANGER, "openEpoch", *shown, at="certificates")


async def test_X19_nobody_owns_an_epoch_for_having_swept_all_others_away(ours: Target) -> None:
    cluster = await launched(ours)
    await ours.do(GUARDIAN, "pause")  # so nobody can renew, and nobody does wrong
    await ours.at_time(await ours.now() + LEASE_S)
    await ours.do(ALICE, "sweep", [2, 3, 4])
    version = await ours.view("version")
    (block_then, weight, _) = await ours.view("changeOf", version)
    assert weight == 1
    shown = await show_epoch(cluster, block_then, (1,), version, 0)
    await ours.attack(ALICE, "openEpoch", *shown, at="certificates", refusal="NotOwner")
    # If that is what became of the cluster, its owner says so.
    await ours.do(OWNER, "openEpoch", *shown, at="certificates")


async def recovered(ours: Target, *seats: int) -> None:
    """Epoch 1, by the votes of those seats."""
    vote = (1, 77, BLOCK)
    holders = {1: ALICE, 2: BOB, 3: CAROL, 4: DAN}
    for seat in seats:
        await ours.do(holders[seat], "voteRecovery", seat, *vote)
    await ours.do(STRANGER, "recover", *vote, list(seats))
    await ours.at_time(await ours.now() + RECOVERY_DELAY_S)
    await ours.do(STRANGER, "recover", *vote, list(seats))


async def test_X12_a_recovery_ends_what_was_certified_before_it(ours: Target) -> None:
    cluster = await launched(ours)
    before = await ours.view("version")
    (block_then, _, _) = await ours.view("changeOf", before)
    for seat, holder in ((3, CAROL), (4, DAN)):
        await ours.do(holder, "deactivate", seat)
    await recovered(ours, 1, 2, 3)
    # By the keys of the launch, in its epoch, or in one that stands on it.
    header = cluster.header(5, 3)
    parts = cluster.finalization(header, (1, 2, 3, 4))
    await ours.attack(
        STRANGER, "recordLeader", header_bytes(header), parts, at="certificates",
        refusal="UnknownEpoch(0)",
    )  # fmt: skip
    shown = await show_epoch(cluster, block_then, (1, 2, 3, 4), before, before + 1)
    await ours.attack(STRANGER, "openEpoch", *shown, at="certificates", refusal="UnknownEpoch(1)")
    boundary, body, parent = cluster.boundary(block_then, epoch=2)
    first = cluster.header(1, 1, epoch=2, parent=parent)
    shown = (
        boundary, body, header_bytes(first), cluster.finalization(first, (1, 2, 3, 4)), before,
        before + 1,
    )  # fmt: skip
    await ours.attack(STRANGER, "openEpoch", *shown, at="certificates", refusal="NoQuorum(2, 4)")
    # The two who are left are the cluster now.
    led = cluster.header(1, 2, epoch=1)
    fair = cluster.finalization(led, (1, 2))
    await ours.do(STRANGER, "recordLeader", header_bytes(led), fair, at="certificates")


async def test_X13_a_recovery_needs_a_majority_that_stands_for_the_whole_time(
    ours: Target,
) -> None:
    await launched(ours)
    await ours.leave(CAROL, 3)
    vote = (1, 77, BLOCK)
    for seat, holder in ((1, ALICE), (2, BOB), (3, CAROL)):
        await ours.do(holder, "voteRecovery", seat, *vote)

    async def refused(*call: Any, refusal: str) -> None:
        await ours.attack(STRANGER, "recover", *call, refusal=refusal)

    # Half, one seat three times, seats that did not vote, another block than they voted for.
    await refused(*vote, [1, 2], refusal="NoMajority(2, 4)")
    await refused(*vote, [1, 1, 1], refusal="NotAscending")
    await refused(*vote, [3, 2, 1], refusal="NotAscending")
    await refused(*vote, [1, 2, 4, 2**200], refusal="NoMajority(2, 4)")
    await refused(1, 78, BLOCK, [1, 2, 3], refusal="NoMajority(0, 4)")
    await refused(0, 77, BLOCK, [1, 2, 3], refusal="StaleEpoch(0)")
    await ours.do(STRANGER, "recover", *vote, [1, 2, 3])
    _, _, _, ready_s, _, _ = await ours.view("pendingRecovery")
    await refused(*vote, [1, 2, 3], refusal=f"TooEarly({ready_s})")

    # Sold while it waits, burnt, weighed down: what a vote weighs is what the seat does now.
    await ours.do(OWNER, "setTransfersAllowed", True)
    await ours.do(CAROL, "transferFrom", wallet(CAROL), wallet(STRANGER), 3)
    await ours.at_time(ready_s)
    await refused(*vote, [1, 2, 3], refusal="NoMajority(2, 4)")
    await ours.attack(CAROL, "voteRecovery", 3, *vote, refusal="NotSeatOwner")
    await ours.do(OWNER, "setWeight", 4, 2)
    await ours.do(STRANGER, "voteRecovery", 3, *vote)
    await ours.do(OWNER, "setWeight", 4, 3)
    await refused(*vote, [1, 2, 3], refusal="NoMajority(3, 6)")
    await ours.do(OWNER, "burnSeat", 4)
    # A veto voids all of it, what was voted and what was announced.
    await ours.do(GUARDIAN, "vetoRecovery")
    await refused(*vote, [1, 2, 3], refusal="NoMajority(0, 3)")
    for seat, holder in ((1, ALICE), (2, BOB)):
        await ours.do(holder, "voteRecovery", seat, *vote)
    await ours.do(STRANGER, "recover", *vote, [1, 2])
    await refused(*vote, [1, 2], refusal=f"TooEarly({await ours.now() + RECOVERY_DELAY_S})")
    await ours.at_time(await ours.now() + RECOVERY_DELAY_S)
    await ours.do(STRANGER, "recover", *vote, [1, 2])
    # Opened once. Its votes open nothing again, and no epoch that is not after it.
    await refused(*vote, [1, 2], refusal="StaleEpoch(1)")
    await refused(2, 77, BLOCK, [1, 2], refusal="NoMajority(0, 3)")
    await ours.attack(ALICE, "voteRecovery", 1, *vote, refusal="StaleEpoch(1)")


async def test_X14_a_third_of_the_weight_certifies_nothing_however_it_signs(
    ours: Target,
) -> None:
    cluster = await launched(ours, 6)
    header = cluster.header(1, 2)
    raw = header_bytes(header)

    async def refused(parts: bytes, refusal: str, shown: bytes = raw) -> None:
        call = ("recordLeader", shown, parts)
        await ours.attack(STRANGER, *call, at="certificates", refusal=refusal)

    bad = cluster.finalization(header, (1, 2))
    await refused(bad, "NoQuorum(2, 6)")
    await refused(cluster.finalization(header, (1, 2, 3, 4)), "NoQuorum(4, 6)")  # exactly 2/3
    await refused(bad + bad, "BadParts")
    await refused(bad[69:] + bad[:69] * 4, "BadParts")
    # The same signatures under the numbers of others, or of seats that are nobody's.
    named = b"".join(seat.to_bytes(4, "big") + bad[4:69] for seat in range(1, 7))
    await refused(named, "BadSignature(2)")
    nobodys = b"".join(seat.to_bytes(4, "big") + bad[4:69] for seat in range(7, 250))
    await refused(bad + nobodys, "NoQuorum(2, 6)")
    await refused(bad + b"".join(bytes(69) for _ in range(300)), "BadParts")
    # Votes for the same block of another kind or reason, or of the same view for another block.
    others = (1, 2, 3, 4, 5)
    notarized = replace_kind(cluster, header, others, VoteKind.NOTARIZE)
    await refused(notarized, "BadSignature(1)")
    await refused(cluster.nullification(1, 0, others, 0), "BadSignature(1)")
    await refused(cluster.nullification(1, 0, others), "BadParts")
    await refused(cluster.finalization(cluster.header(1, 3), others), "BadSignature(1)")
    fair = cluster.finalization(header, others)
    await refused(fair, "BadHeader", raw[:-1])
    await refused(fair, "BadHeader", raw + b"\0")
    elsewhere = Cluster(replace(ours, at=ours.at | {"registry": bytes(20)}), cluster.nodes)
    await refused(elsewhere.finalization(header, others), "BadSignature(1)")
    await ours.do(STRANGER, "recordLeader", raw, fair, at="certificates")
    # Nor do two of six depose it, with whatever they have of the others.
    mixed = cluster.nullification(1, 1, (1, 2)) + fair[2 * 69 :]
    await ours.attack(
        STRANGER, "depose", 0, 1, 1, mixed, *BY_RECORD, at="certificates",
        refusal="BadSignature(3)",
    )  # fmt: skip


def replace_kind(cluster: Cluster, header: Any, seats: tuple[int, ...], kind: VoteKind) -> bytes:
    """Parts of a vote of another kind for the same block."""
    block = block_hash(cluster.id, header)
    return compact_parts(
        tuple(
            Part(s, 0, cluster.vote(cluster.nodes[s].node, kind, header.view, block)) for s in seats
        )
    )


async def test_X15_nobody_honest_is_convicted_and_a_liar_that_left_is_when_it_returns(
    ours: Target,
) -> None:
    cluster = await launched(ours)
    first, second = cluster.conflict(2)
    show = ("proveConflict", 2)

    async def refused(a: Any, b: Any, refusal: str, seat: int = 2) -> None:
        call = ("proveConflict", seat, a, b)
        await ours.attack(STRANGER, *call, at="certificates", refusal=refusal)

    await refused(first, first, "NoConflict")
    await refused(first, second[:4] + first[4:5] + second[5:], "NoConflict")
    await refused(first, (*second[:3], 5, *second[4:]), "NoConflict")
    await refused(first, (4, *second[1:]), "NoConflict")
    await refused(first, (*second[:4], b"c" * 32, *second[5:]), "BadSignature(2)")
    await refused(first, cluster.conflict(3)[1], "BadSignature(2)")
    await refused(first, second, "NotSeated(3)", seat=3)
    await refused(first, second, "NotSeated(9)", seat=9)
    high = 2**32 + 2
    await refused(first, second, f"NotSeated({high})", seat=high)
    node = cluster.nodes[2].node
    # What an honest member signs in its time: one block, its finalization, then a complaint.
    honest = [
        (kind, 0, 1, index, block, reason, *compact(
            cluster.vote(node, VoteKind(kind), View(1, index), block, reason)
        ))
        for kind, index, block, reason in (
            (1, 4, b"a" * 32, 0), (3, 4, b"a" * 32, 0), (2, 5, bytes(32), 1), (2, 5, bytes(32), 11),
        )
    ]  # fmt: skip
    for a in honest:
        for b in honest:
            await refused(a, b, "NoConflict")
    # It sees what comes and steps aside, with another machine on its seat: put out all the same.
    await ours.do(BOB, "deactivate", 2)
    await ours.enlist(2, "another machine", incarnation=2)
    await ours.do(STRANGER, *show, first, second, at="certificates")
    assert (await ours.row(2))["status"] == 2
    # Forgiven is forgiven: nobody puts the other machine out again. But the key that lied, yes.
    await ours.do(OWNER, "liftSuspension", 2)
    await ours.enlist(2, "another machine", incarnation=3)
    await refused(first, second, "AlreadyMarked")
    await seated(ours, 2, incarnation=4)
    await ours.do(STRANGER, *show, first, second, at="certificates")
    assert (await ours.row(2))["status"] == 2


async def test_X21_no_seat_is_sold_before_it_answers_for_nobody(ours: Target) -> None:
    cluster = await launched(ours)
    await ours.do(OWNER, "setTransfersAllowed", True)
    sale = ("transferFrom", wallet(BOB), wallet(STRANGER), 2)
    await ours.attack(BOB, *sale, refusal=f"StillAnswers({2**40 - 1})")
    await ours.do(BOB, "deactivate", 2)
    until_s = await ours.now() + await ours.view("evidenceWindow")
    await ours.attack(BOB, *sale, refusal=f"StillAnswers({until_s})")
    await ours.at_time(until_s)
    await ours.do(BOB, *sale)
    await ours.enlist(2, "the buyer's machine", STRANGER, incarnation=2)
    shown = ("proveConflict", 2, *cluster.conflict(2))
    await ours.attack(GUARDIAN, *shown, at="certificates", refusal="NotSeated(2)")
    assert (await ours.row(2))["status"] == 1


async def test_X16_a_dead_root_stays_dead_and_an_older_one_takes_no_key_over(
    ours: Target,
) -> None:
    now_s = await ours.now()
    new_root = key("new root")
    await ours.do(OWNER, "rotateRoot", hexed(address(new_root)), now_s + 1000)
    await ours.do(STRANGER, "certifyAppKey", *certificate(kms=new_root, epoch=2))
    # In its grace the old root still certifies; it takes this key neither back nor to another app.
    await ours.do(STRANGER, "certifyAppKey", *certificate())
    taken = certificate(app_id=b"\xbb" * 20)
    await ours.attack(STRANGER, "certifyAppKey", *taken, refusal="BadAppKey")
    node = await ours.enlist(1, "alice")
    assert (await ours.row(1))["root_epoch"] == 2
    await ours.do(GUARDIAN, "revokeRoot", 1)
    await ours.attack(GUARDIAN, "revokeRoot", 1, refusal="RootNotLive(1)")
    await ours.attack(STRANGER, "certifyAppKey", *certificate(), refusal="RootNotLive(1)")
    # A rotation, with whatever grace, brings none back; nor does an epoch that never was.
    await ours.do(OWNER, "rotateRoot", hexed(address(key("third root"))), 2**40 - 1)
    assert (await ours.view("root", 1))[1] == 0
    for epoch in (0, 4, 2**16 - 1):
        await ours.attack(
            STRANGER, "certifyAppKey", *certificate(epoch=epoch), refusal=f"RootNotLive({epoch})"
        )
    await ours.do(GUARDIAN, "revokeRoot", 2)
    await ours.do(GUARDIAN, "revokeRoot", 3)
    renewed = node.announcement(2, node.endpoint, now_s + 3600)
    await ours.attack(STRANGER, "announce", *renewed, refusal="RootNotLive(2)")
    other = await ours.proof(2, "bob")
    await ours.attack(BOB, "register", *other.call, refusal="RootNotLive(2)")


async def test_X17_the_annex_and_replaced_companions_have_no_power_of_their_own(
    ours: Target,
) -> None:
    await launched(ours)
    before = await ours.state()
    abi = ABIS["registry"]
    annex = bytes.fromhex((await ours.view("annex"))[2:])
    for function, values in (
        ("voteRecovery", (1, 1, 77, BLOCK)), ("recover", (1, 77, BLOCK, [1, 2, 3])),
        ("vetoRecovery", ()), ("grantSeat", (wallet(STRANGER), 1)), ("launch", (bytes(32),)),
    ):  # fmt: skip
        for who in (OWNER, ALICE, GUARDIAN):
            data = abi.function(function).encode(*values)
            done = await ours.transact(who.address, annex, data)
            assert isinstance(done, CallReverted), function
    assert await ours.state() == before
    # What neither half knows is refused, money is, and so is nothing at all.
    for data in (b"\xde\xad\xbe\xef", b"\xde", b""):
        await ours.attack_raw(OWNER, data, refusal="unknown")
    vote = abi.function("voteRecovery").encode(1, 1, 77, BLOCK)
    await ours.attack_raw(ALICE, vote, value_wei=1, refusal="unknown")
    # A court that was replaced, or is another registry's, puts nobody out.
    court = ours.at["certificates"]
    await ours.do(OWNER, "setCompanions", hexed(ours.at["rules"]), hexed(address(key("court"))))
    suspend = abi.function("suspend").encode(1, 2**40 - 1)
    done = await ours.transact(court, ours.contract, suspend)
    assert isinstance(done, CallReverted) and done.name == "NotCertificates"
    await ours.do_as(address(key("court")), "suspend", 1, 2**40 - 1)
    # With none there is nobody who could be taken for it.
    await ours.do(OWNER, "setCompanions", hexed(bytes(20)), hexed(bytes(20)))
    for who in (court, address(key("court")), ours.contract):
        done = await ours.transact(who, ours.contract, abi.function("suspend").encode(2, 1))
        assert isinstance(done, CallReverted) and done.name == "NotCertificates"


async def test_X18_whoever_pauses_stops_entries_and_no_exit(ours: Target) -> None:
    cluster = await launched(ours)
    node = cluster.nodes[1]
    await ours.do(GUARDIAN, "pause")
    again = await ours.proof(1, "node 1", incarnation=2)
    await ours.attack(ALICE, "register", *again.call, refusal="EnforcedPause")
    renewed = node.announcement(2, node.endpoint, again.deadline)
    await ours.attack(ALICE, "announce", *renewed, refusal="EnforcedPause")
    await ours.attack(GUARDIAN, "unpause", refusal="OwnableUnauthorizedAccount")
    await ours.do(STRANGER, "proveConflict", 4, *cluster.conflict(4), at="certificates")
    await ours.do(ALICE, "deactivate", 1)
    await ours.do(BOB, "deactivate", 2)
    await ours.do(CAROL, "voteRecovery", 3, 1, 77, BLOCK)
    await ours.do(STRANGER, "sweep", [3])
    await ours.do(OWNER, "burnSeat", 3)
    assert await ours.view("activeWeight") == 0
    await ours.do(OWNER, "unpause")
    await ours.do(ALICE, "register", *again.call)
    await ours.do(GUARDIAN, "pause")
    await ours.sell(ALICE, STRANGER, 1)


async def test_X20_no_recovery_opens_with_a_set_that_nobody_could_object_to(ours: Target) -> None:
    await launched(ours)
    vote = (1, 77, BLOCK)
    for seat, holder in ((1, ALICE), (2, BOB), (3, CAROL)):
        await ours.do(holder, "voteRecovery", seat, *vote)
    await ours.do(STRANGER, "recover", *vote, [1, 2, 3])
    _, _, _, ready_s, _, _ = await ours.view("pendingRecovery")
    # In the last moment whoever has the guardian's key puts all out but the seat of a friend.
    for seat in (1, 2, 3):
        await ours.do(GUARDIAN, "deactivate", seat)
    await ours.at_time(ready_s)
    await ours.do(DAN, "recover", *vote, [1, 2, 3])
    *_, opened = await ours.view("pendingRecovery")
    assert opened == 0
    # It is announced anew, with all its time: the owner lifts what the guardian did.
    _, _, _, again_s, _, _ = await ours.view("pendingRecovery")
    assert again_s == await ours.now() + RECOVERY_DELAY_S
    for seat in (1, 2, 3):
        await ours.do(OWNER, "liftSuspension", seat)
        await seated(ours, seat, incarnation=2)
    await ours.at_time(again_s)
    await ours.do(STRANGER, "recover", *vote, [1, 2, 3])
    assert await ours.view("founding", 1) == (1, await ours.view("version"), 4)
