"""Members with simulated TDX machines over real links: whom they take, refuse, hold and cut."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
from attested_world import APP_ID, Node, World, bundle, machine, policy, seed_of

from attest import CollateralUnavailable, keccak256
from attest.collateral_store import CollateralStore
from chain import PolicyText
from deploy.simulator import Faults
from node.attestation.codes import reason
from tests.unit.network.conftest import wait_until

ALL = policy(1, [machine(1)])  # all machines measure alike
ANOTHER = Faults(compose="another")
ONLY_ANOTHER = policy(2, [machine(1, ANOTHER)])
BOTH = policy(3, [machine(1), machine(1, ANOTHER)])


@pytest.fixture
async def world(nursery: trio.Nursery, tmp_path: Path) -> World:
    return World(nursery, tmp_path)


def due(node: Node, seat: int) -> bool:
    """Lets the node ask that member again now. A crossed dial may have put it off meanwhile."""
    node.attestation._records[seat].renew_at = 0.0
    return True


async def test_genuine_members_link_and_show_what_they_run(world: World) -> None:
    one, two = await world.full(2, ALL)
    shown = one.member(2)
    assert shown["attested"] and shown["tcb_status"] == "UpToDate" and not shown["held"]
    assert (shown["policy_version"], shown["incarnation"], shown["quote_age_s"]) == (1, 1, 0)
    assert shown["compose_hash"] == two.agent.machine.compose_hash.hex()
    assert one.attestation.own()["policy_version"] == 1
    assert one.attestation.alarms() == []
    status = one.attestation.status()
    assert status["policy_digest"] == ALL.digest.hex() and status["accepted"] == 1
    assert status["verified"] >= 2 and status["agent"] is None


REFUSED = {
    "another compose": (ANOTHER, "compose_hash"),
    "another kernel": (Faults(measurement="rtmr1"), "measurement"),
    "another firmware": (Faults(measurement="mrtd"), "measurement"),
    "a debug machine": (Faults(is_debug=True), "debug"),
    "an old TCB": (Faults(tcb_status="OutOfDate"), "tcb_status"),
    "a revoked TCB": (Faults(tcb_status="Revoked"), "tcb_revoked"),
    "a revoked certificate": (Faults(is_revoked=True), "tcb_revoked"),
    "a quote of another session": (Faults(replays=True), "report_data"),
    "a quote over something else": (Faults(wrong_report_data=True), "report_data"),
    "a quote of another seat": (Faults(quote_of=seed_of(1).hex()), "report_data"),
    "another instance": (Faults(clone_of=seed_of(1).hex()), "instance_id"),
    "stale collateral": (Faults(has_stale_collateral=True), "collateral_stale"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_a_member_with_a_fault_is_refused_for_it_and_the_others_go_on(
    world: World, name: str
) -> None:
    faults, expected = REFUSED[name]
    one, two = await world.full(2, ALL)
    bad = await world.start(4, policy_=ALL, faults=faults)
    await wait_until(lambda: one.refused(4) and two.refused(4))
    assert {one.refused(4), two.refused(4)} == {expected}
    await wait_until(lambda: bad.refused_by(1) == expected)
    assert not one.linked(4) and not bad.linked(1)
    assert one.linked(2) and two.linked(1)
    assert one.attestation.refused[f"attestation_{expected}"] >= 1
    assert one.member(4)["refused"]["detail"]
    # It knows by itself what is wrong, except where only the others can tell.
    if expected not in ("report_data",):
        await wait_until(lambda: any(expected in alarm for alarm in bad.attestation.alarms()))


async def test_a_quote_that_another_machine_makes_for_it_is_refused(world: World) -> None:
    # Genuine, fresh, and over the right session: but the machine of another seat lent it.
    one, two = await world.full(2, ALL)

    def helped(node: Node) -> None:
        node.agent.attester = two.agent.attester

    bad = await world.start(4, policy_=ALL, change=helped)
    await wait_until(lambda: one.refused(4) and two.refused(4))
    assert {one.refused(4), two.refused(4)} == {"instance_id"}
    await wait_until(lambda: bad.refused_by(1) == "instance_id")
    assert one.linked(2) and not one.linked(4)


async def test_a_copy_with_an_old_boot_is_refused_and_learns_of_the_newer_one(
    world: World,
) -> None:
    one, two = await world.full(2, ALL)
    one.core.acknowledged[3] = 5
    copy = await world.start(3, policy_=ALL, boot=4)
    await wait_until(lambda: copy.core.told)
    assert one.refused(3) == "stale_incarnation" and copy.refused_by(1) == "stale_incarnation"
    assert copy.core.told[0] == (1, b"a newer boot of 3")
    await wait_until(lambda: two.linked(3))  # it knows of no newer boot
    copy.core.boot = 6
    await wait_until(lambda: one.linked(3))
    assert one.member(3)["incarnation"] == 6


async def test_a_copy_whose_seat_booted_anew_elsewhere_is_asked_again_and_cut(
    world: World,
) -> None:
    one, two = await world.full(2, ALL)
    one.core.acknowledged[2] = 2
    await wait_until(lambda: one.refused(2) == "stale_incarnation")
    await wait_until(lambda: not one.linked(2))
    # Its link ended with the verdict; should that have been lost, it is told when it comes back.
    await wait_until(lambda: two.core.told)
    assert two.core.told[0][0] == 1


async def test_quotes_are_renewed_on_the_live_link(world: World) -> None:
    one, two = await world.full(2, ALL, renewal_s_max=0.2)
    link = one.mesh._peers[2].link
    first = one.attestation.accepted
    await wait_until(lambda: one.attestation.accepted >= first + 2)
    await wait_until(lambda: two.attestation.accepted >= 2)
    assert one.mesh._peers[2].link is link
    assert one.linked(2) and not one.log.of("peer_down")


async def test_a_machine_that_went_bad_is_cut_at_the_next_renewal(world: World) -> None:
    one, two, three = await world.full(3, ALL, renewal_s_max=0.2)
    two.agent.faults = Faults(tcb_status="OutOfDate")
    await wait_until(lambda: not one.linked(2) and not three.linked(2))
    assert one.refused(2) == three.refused(2) == "tcb_status"
    assert one.mesh.links()[0].down_reason == "attestation_tcb_status"
    assert one.linked(3)
    two.agent.faults = Faults()
    await world.all_linked()


async def test_an_agent_that_is_down_costs_no_link_before_the_quote_is_too_old(
    world: World,
) -> None:
    one, two = await world.full(2, ALL, renewal_s_max=0.2)
    two.agent.is_down = True
    record = one.attestation._records[2]
    await wait_until(lambda: record.failures)
    assert one.linked(2)
    assert record.accepted is not None
    record.accepted = replace(record.accepted, at=record.accepted.at - 3601)
    record.renew_at = 0.0
    await wait_until(lambda: not one.linked(2))
    assert one.refused(2) == "quote_age"
    # Without a quote it does not come back; with one it does.
    two.agent.is_down = False
    await world.all_linked()


async def test_a_new_policy_cuts_whom_it_shuts_out_and_nobody_else(world: World) -> None:
    nodes = await world.full(4, BOTH)
    nodes[3].agent.faults = ANOTHER
    for node in nodes[:3]:
        node.mesh.cut(4, "the machine restarts")
    another = nodes[3].agent.machine.compose_hash.hex()
    await wait_until(
        lambda: all(n.linked(4) and n.member(4)["compose_hash"] == another for n in nodes[:3])
    )
    only_first = policy(4, [machine(1)])
    links = {node.seat: node.mesh._peers[node.seat % 3 + 1].link for node in nodes[:3]}
    await world.set_policy(only_first)
    await wait_until(lambda: not any(node.linked(4) for node in nodes[:3]))
    for node in nodes[:3]:
        assert node.refused(4) == "compose_hash"
        assert node.mesh._peers[node.seat % 3 + 1].link is links[node.seat]
        assert node.attestation.alarms() == []
        assert node.member(node.seat % 3 + 1)["policy_version"] == 4
    # It comes back when the policy takes it again, at once.
    await world.set_policy(replace(BOTH, version=5))
    await world.all_linked()


async def test_a_policy_that_would_end_the_quorum_is_not_enforced_but_alarmed(
    world: World,
) -> None:
    nodes = await world.full(4, ALL)
    one, two, three, _four = nodes
    await world.set_policy(ONLY_ANOTHER)
    await wait_until(lambda: all(n.attestation.status()["held"] for n in nodes))
    for node in nodes:
        (alarm,) = [a for a in node.attestation.alarms() if "NOT enforced" in a]
        assert "weigh 0 of 4, a quorum is 3" in alarm
    assert all(n.linked(o.seat) for n in nodes for o in nodes if n is not o)
    assert one.member(2)["held"] and one.member(2)["policy_version"] == 1
    # Whoever is held may come back: a link that breaks must not end the cluster.
    one.mesh.cut(2, "a fault of the network")
    await wait_until(lambda: one.linked(2) and two.linked(1))
    # A newcomer is judged by the new policy alone.
    stranger = await world.start(5, policy_=ONLY_ANOTHER)
    await wait_until(lambda: one.refused(5) == "compose_hash")
    assert not one.linked(5)
    await world.stop(5)
    assert not stranger.linked(1)
    # One after the other is brought to what the policy demands; the third makes it a quorum.
    for node in (two, three):
        node.agent.faults = ANOTHER
    await wait_until(
        lambda: due(one, 2) and due(one, 3) and one.attestation.status()["held"] == [4]
    )
    assert one.member(3)["policy_version"] == 2
    assert one.linked(4)  # as long as we do not satisfy it ourselves, two are no quorum
    one.agent.faults = ANOTHER
    await one.attestation.check_self()
    await wait_until(lambda: not one.linked(4))
    assert one.refused(4) == "compose_hash"
    assert not [a for a in one.attestation.alarms() if "NOT enforced" in a]


async def test_fresh_evidence_of_whom_we_hold_must_still_satisfy_the_old_policy(
    world: World,
) -> None:
    one, _two, three, _four = await world.full(4, ALL)
    await world.set_policy(ONLY_ANOTHER)
    await wait_until(lambda: one.member(3)["held"])
    three.agent.faults = Faults(is_debug=True)
    await wait_until(lambda: due(one, 3) and not one.linked(3))
    assert one.refused(3) in ("debug", "compose_hash")


async def test_a_policy_that_nobody_can_read_holds_the_members_and_takes_nobody_new(
    world: World,
) -> None:
    one, two, _three = await world.full(3, ALL)
    text = b"not a policy"
    await world.set_policy(PolicyText(2, keccak256(text), text))
    await wait_until(lambda: one.member(2)["held"] and one.member(3)["held"])
    assert any("policy 2 cannot be read" in alarm for alarm in one.attestation.alarms())
    await world.start(4, policy_=ALL)
    await wait_until(lambda: one.refused(4) == "no_policy")
    assert two.linked(3) and not one.linked(4)


async def test_without_a_policy_nobody_is_taken_and_nobody_is_punished(world: World) -> None:
    one = await world.start(1)
    two = await world.start(2, policy_=ALL)
    await wait_until(lambda: one.refused(2) == "no_policy")
    await one.attestation.policies.saw(None)
    assert any("names no attestation policy" in alarm for alarm in one.attestation.alarms())
    assert one.mesh._peers[2].penalty_s == 0.0
    await one.attestation.policies.saw(ALL)
    await wait_until(lambda: one.linked(2) and two.linked(1))


class Down:
    """A source of collateral that does not answer."""

    name = "pccs.example"
    asked = 0

    async def fetch(self, platform: object) -> object:
        self.asked += 1
        await trio.lowlevel.checkpoint()
        raise CollateralUnavailable("pccs.example: no whole answer within 30 s")


async def test_collateral_that_the_peer_carries_will_do_and_none_is_named(
    world: World,
) -> None:
    down = Down()
    source = [down]
    one = await world.start(1, policy_=ALL, store=CollateralStore(source))  # type: ignore[arg-type]
    two = await world.start(2, policy_=ALL)
    await wait_until(lambda: one.linked(2) and two.linked(1))
    empty = CollateralStore(source)  # type: ignore[arg-type]
    three = await world.start(3, policy_=ALL, store=empty)
    four = await world.start(4, policy_=ALL, store=CollateralStore(source))  # type: ignore[arg-type]
    await wait_until(lambda: three.refused(4) or four.refused(3) or three.linked(4))
    assert down.asked


async def test_without_any_collateral_the_refusal_says_so(world: World) -> None:
    down = Down()
    one = await world.start(1, policy_=ALL, store=CollateralStore([down]))  # type: ignore[arg-type]
    await world.start(2, policy_=ALL, store=CollateralStore([down]))  # type: ignore[list-item]
    await wait_until(lambda: one.refused(2) == "collateral_missing")
    detail = one.member(2)["refused"]["detail"]
    assert "pccs.example: no whole answer" in detail
    assert one.mesh._peers[2].penalty_s == 0.0


async def test_collateral_on_disk_serves_while_every_source_is_down(
    world: World, tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    folder.mkdir()
    filled = CollateralStore([], folder=folder)
    for platform, found in bundle():
        await filled.remember(platform, found)
    down = Down()
    for seat in (1, 2):
        store = CollateralStore([down], folder=folder)  # type: ignore[list-item]
        await world.start(seat, policy_=ALL, store=store)
    await world.all_linked()
    assert down.asked == 0


async def test_a_node_that_the_registry_does_not_show_is_refused(world: World) -> None:
    world.rows[2] = replace(world.rows[2], node_key=world.rows[3].node_key)
    one = await world.start(1, policy_=ALL)
    await world.start(2, policy_=ALL)
    await wait_until(lambda: one.refused(2) == "not_registered")
    world.rows[2] = replace(world.rows[2], node_key=b"")
    world.rows.pop(3)
    await wait_until(lambda: one.attestation.refused[reason(201)] >= 2)
    assert APP_ID and not one.linked(2)


async def test_a_member_whose_row_is_gone_stays_the_machine_that_it_was(world: World) -> None:
    one, two = await world.full(2, ALL)
    world.rows.pop(2)
    accepted = one.attestation.accepted
    await wait_until(lambda: due(one, 2) and one.attestation.accepted > accepted)
    two.agent.faults = Faults(clone_of=seed_of(3).hex())
    await wait_until(lambda: due(one, 2) and one.refused(2) == "instance_id")
    await wait_until(lambda: not one.linked(2))
