"""O1 to O9: how elections, votes and proofs of a still older contract went wrong."""

from __future__ import annotations

import json
from pathlib import Path

import coincurve
import pytest

from consensus.types import Reason
from tests.integration.anvil_chain import APP_ID
from tests.integration.attacks.ballots import Cluster, header_bytes, launched, seated
from tests.integration.attacks.compiling import Compiled
from tests.integration.attacks.founding import flawed_contract, our_contracts
from tests.integration.attacks.proofs import point
from tests.integration.attacks.target import (
    ALICE,
    BOB,
    CAROL,
    DAN,
    GUARDIAN,
    LEASE_S,
    OWNER,
    STRANGER,
    Target,
    wallet,
)

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

BY_RECORD = (b"", bytes(32), bytes(32))  # the accused is the leader on record


async def deposed(target: Target, seat: int, term: int) -> bool:
    return bool(await target.view("lastDeposed", seat, at="certificates") == (0, term))


async def lead(cluster: Cluster, term: int, seat: int, *, without: int = 0) -> None:
    """The seat leads that term, by everybody's word, or all but one's."""
    header = cluster.header(term, seat)
    parts = cluster.finalization(header, sorted(cluster.nodes.keys() - {without}))
    call = ("recordLeader", header_bytes(header), parts)
    await cluster.target.do(STRANGER, *call, at="certificates")


async def test_O1_who_sold_the_seat_votes_no_more_and_who_bought_it_does(election: Target) -> None:
    cluster = await launched(election)
    await election.sell(DAN, STRANGER, 4)
    # By wallet, in the vote for a recovery.
    vote = ("voteRecovery", 4, 1, 77, b"h" * 32)
    await election.attack(DAN, *vote, refusal="NotSeatOwner")
    election.harm(not await election.defend(STRANGER, *vote))
    # By the key of the node that he kept, in a vote of the cluster.
    await lead(cluster, 1, 2, without=4)
    parts = cluster.nullification(1, 1, (1, 3, 4))
    await election.attack(
        DAN, "depose", 0, 1, 1, parts, *BY_RECORD, at="certificates", refusal="NoQuorum(2, 4)"
    )
    election.harm(await deposed(election, 2, 1))
    if election.sound:
        others = cluster.nullification(1, 1, (1, 2, 3))
        await election.do(DAN, "depose", 0, 1, 1, others, *BY_RECORD, at="certificates")


async def test_O2_no_registration_goes_without_its_proofs(election: Target) -> None:
    bare = (await election.proof(2, "evil")).bent(app_signature=b"", node_signature=b"")
    await election.attack(BOB, "register", *bare.call, refusal="ECDSAInvalidSignatureLength(0)")
    election.harm(await election.listed(2, bare.key_x))
    if election.sound:
        whole = await election.proof(2, "evil")
        for missing in ("app_signature", "node_signature"):
            await election.attack(
                BOB, "register", *whole.bent(**{missing: b""}).call,
                refusal="ECDSAInvalidSignatureLength(0)",
            )  # fmt: skip
        await election.do(BOB, "register", *whole.call)


async def test_O3_a_vote_counts_in_its_own_term_only(election: Target) -> None:
    cluster = await launched(election)
    # Two of four were against seat 2 in a term that nobody ended.
    first = cluster.header(1, 2)
    old = cluster.nullification(1, 0, (1, 3))
    await election.attack(
        BOB, "depose", 0, 1, 0, old, header_bytes(first), *cluster.own_proposal(first),
        at="certificates", refusal="NoQuorum(2, 4)",
    )  # fmt: skip
    # Later it leads, and one vote is enough.
    await lead(cluster, 5, 2)
    one = cluster.nullification(5, 1, (4,))
    await election.attack(
        BOB, "depose", 0, 5, 1, one, *BY_RECORD, at="certificates", refusal="NoQuorum(1, 4)"
    )
    election.harm(await deposed(election, 2, 5))
    if election.sound:
        both = cluster.nullification(1, 0, (1, 3)) + one
        await election.attack(
            BOB, "depose", 0, 5, 1, both, *BY_RECORD, at="certificates", refusal="BadSignature(1)"
        )
        fair = cluster.nullification(5, 1, (1, 3, 4))
        await election.do(BOB, "depose", 0, 5, 1, fair, *BY_RECORD, at="certificates")


async def test_O4_what_was_counted_once_counts_no_more(election: Target) -> None:
    cluster = await launched(election)
    await lead(cluster, 1, 2)
    fair = cluster.nullification(1, 1, (1, 3, 4))
    await election.do(BOB, "depose", 0, 1, 1, fair, *BY_RECORD, at="certificates")
    assert await deposed(election, 2, 1)
    # Back after its time; whoever was not among them needs nobody else.
    await lead(cluster, 9, 2)
    one = cluster.nullification(9, 1, (2,))
    await election.attack(
        BOB, "depose", 0, 9, 1, one, *BY_RECORD, at="certificates", refusal="NoQuorum(1, 4)"
    )
    election.harm(await deposed(election, 2, 9))
    if election.sound:
        # Not by saying it twice, nor with itself three times, nor by an earlier certificate.
        await election.attack(
            BOB, "depose", 0, 9, 1, one * 3, *BY_RECORD, at="certificates", refusal="BadParts"
        )
        await election.attack(
            BOB, "depose", 0, 9, 1, fair, *BY_RECORD, at="certificates", refusal="BadSignature(1)"
        )
        await election.attack(
            BOB, "depose", 0, 1, 1, fair, *BY_RECORD, at="certificates", refusal="LeaderUnknown"
        )
        # Those who voted the last time may vote again.
        again = cluster.nullification(9, 1, (1, 3, 4))
        await election.do(BOB, "depose", 0, 9, 1, again, *BY_RECORD, at="certificates")


async def test_O5_a_seat_whose_node_was_taken_off_is_good_for_another(election: Target) -> None:
    await election.enlist(1, "alice")
    await election.do(ALICE, "deactivate", 1)
    another = await election.proof(1, "alice", incarnation=2)
    back = await election.defend(ALICE, "register", *another.call)
    election.harm(not back)
    if election.sound:
        # Put out by others it takes a lease, or the owner's word.
        await election.do(GUARDIAN, "deactivate", 1)
        third = await election.proof(1, "alice", incarnation=3)
        assert "CoolingDown" in await election.refused(ALICE, "register", *third.call)
        await election.do(OWNER, "liftSuspension", 1)
        await election.do(ALICE, "register", *third.call)
        await election.do(OWNER, "deactivate", 1)
        await election.at_time(await election.now() + LEASE_S)
        await election.enlist(1, "alice", incarnation=4)


async def test_O6_a_majority_is_no_quorum_and_none_comes_about_by_members_leaving(
    election: Target,
) -> None:
    cluster = await launched(election, 7)
    await lead(cluster, 1, 2)
    four = cluster.nullification(1, 1, (1, 3, 4, 5))
    await election.attack(
        BOB, "depose", 0, 1, 1, four, *BY_RECORD, at="certificates", refusal="NoQuorum(4, 7)"
    )
    election.harm(await deposed(election, 2, 1))
    # Three leave, as is their right: three of those who are left are no quorum of seven.
    await lead(cluster, 2, 3)
    for seat in (5, 6, 7):
        await election.do_as(seat.to_bytes(20, "big"), "deactivate", seat)
    three = cluster.nullification(2, 1, (1, 2, 4))
    await election.attack(
        BOB, "depose", 0, 2, 1, three, *BY_RECORD, at="certificates", refusal="NoQuorum(3, 7)"
    )
    election.harm(await deposed(election, 3, 2))
    if election.sound:
        all_left = cluster.nullification(2, 1, (1, 2, 3, 4))
        await election.attack(
            BOB, "depose", 0, 2, 1, all_left, *BY_RECORD, at="certificates",
            refusal="NoQuorum(4, 7)",
        )  # fmt: skip
        # With all their old keys a quorum of seven they are no more, either.
        gone = cluster.nullification(2, 1, (1, 2, 4, 5, 6, 7))
        await election.attack(
            BOB, "depose", 0, 2, 1, gone, *BY_RECORD, at="certificates", refusal="NoQuorum(3, 7)"
        )


async def test_O7_nobody_becomes_leader_by_calling_first(election: Target) -> None:
    cluster = await launched(election)
    header = cluster.header(1, 3)
    await election.attack(
        CAROL, "recordLeader", header_bytes(header), b"", at="certificates",
        refusal="NoQuorum(0, 4)",
    )  # fmt: skip
    *_, seat, _ = await election.view("leader", at="certificates")
    election.harm(seat == 3)
    if election.sound:
        own = cluster.finalization(header, (3,))
        await election.attack(
            CAROL, "recordLeader", header_bytes(header), own, at="certificates",
            refusal="NoQuorum(1, 4)",
        )  # fmt: skip
        follower = cluster.nullification(1, 1, (1, 2, 4), int(Reason.JOINED))
        await lead(cluster, 1, 3)
        await election.attack(
            CAROL, "depose", 0, 1, 1, follower, *BY_RECORD, at="certificates",
            refusal="NotAccused(0, 4)",
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["ours", "flawed"])
async def test_O8_a_genuine_chain_of_dstacks_verifies(
    kind: str, ours: Target, compiled: Compiled
) -> None:
    """Keys and signatures that dstack itself made; its root is trusted for this test alone."""
    vectors = Path(__file__).parents[2] / "vectors" / "dstack.json"
    for genuine in json.loads(vectors.read_text())["simulators"].values():
        root = bytes.fromhex(genuine["kms_root_address"][2:])
        if kind == "ours":
            target = await our_contracts(ours.rpc, root)
        else:
            target = await flawed_contract(ours.rpc, compiled, "FlawedChain", root)
        app_id = bytes.fromhex(genuine["app_id"])
        app = coincurve.PrivateKey(bytes.fromhex(genuine["app_root_private_key"]))
        signature = bytes.fromhex(genuine["k256_signature"])
        signature = signature[:64] + bytes([27 + signature[64] % 27])
        call = ("certifyAppKey", app_id, *point(app), signature, 1)
        target.harm(not await target.defend(STRANGER, *call))
        if target.sound:
            await target.do(OWNER, "allowApp", app_id, True)
            await target.do(OWNER, "grantSeat", wallet(ALICE), 1)
            for scheme in (0, 1):
                proof = await target.proof(
                    1, "alice", app=app, scheme=scheme, incarnation=scheme + 1
                )
                await target.do(ALICE, "register", *proof.call)


async def test_O9_registering_costs_the_same_however_many_members_there_are(
    election: Target,
) -> None:
    await launched(election, 4)
    few = await cost_of_seat(election, 5)
    for seat in range(6, 25):
        await election.do(OWNER, "grantSeat", f"0x{seat:040x}", 1)
        await seated(election, seat)
    many = await cost_of_seat(election, 25)
    election.harm(many > few + 20_000)
    if election.sound:
        assert abs(many - few) < few // 100
    assert await election.view("allowedApp", APP_ID)


async def cost_of_seat(target: Target, seat: int) -> int:
    """Gas of one more registration."""
    await target.do(OWNER, "grantSeat", f"0x{seat:040x}", 1)
    proof = await target.proof(seat, f"node {seat}")
    receipt = await target.do_as(seat.to_bytes(20, "big"), "register", *proof.call)
    return receipt.gas_used
