"""Modest campaigns; the long ones are run with ``python -m tests.simulation``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from consensus import limits
from consensus.engine import Engine
from consensus.interface import Event, Output, PeerConnected, PeerLost
from tests.simulation import campaign, scenario
from tests.simulation.adversaries import GALLERY
from tests.simulation.campaign import Report
from tests.simulation.impostors import IMPOSTORS
from tests.simulation.planted import BUGS, Planted
from tests.simulation.scenario import FAULTS, Settings
from tests.simulation.world import World


def _hold(report: Report) -> None:
    assert not report.failures, "\n".join(f"{o.seed}: {o.failure}" for o in report.failures)


def test_a_cluster_without_faults_commits_at_once() -> None:
    report = campaign.run(range(5), Settings(faults=()))
    _hold(report)
    assert all(o.terms == 0 and o.recovery_ms < 2_000 for o in report.outcomes)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4, 5])
def test_correct_members_survive_every_fault(nodes: int) -> None:
    _hold(campaign.run(range(100, 115), Settings(nodes=nodes)))


def test_a_member_whose_only_peer_pruned_again_takes_another_snapshot_from_it() -> None:
    _hold(campaign.run((102, 112), Settings(nodes=2)))


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_breaks_nothing(fault: str) -> None:
    _hold(campaign.run(range(200, 204), Settings(faults=("delay", fault))))


@pytest.mark.parametrize("liar", sorted(GALLERY | IMPOSTORS))
def test_a_liar_below_a_third_neither_splits_nor_stops_the_cluster(liar: str) -> None:
    _hold(campaign.run(range(300, 308), Settings(byzantine=1, adversaries=(liar,))))


def test_liars_of_two_seats_in_seven_break_nothing() -> None:
    _hold(campaign.run(range(400, 404), Settings(nodes=7, byzantine=2, chaos_ms=4_000)))


def test_above_a_third_every_fork_convicts_a_third_and_nobody_honest() -> None:
    settings = Settings(
        byzantine=2, above_third=True, adversaries=("twin", "promiscuous"), calm_ms=5_000
    )
    report = campaign.run(range(630, 655), settings)
    _hold(report)
    assert any(o.forked for o in report.outcomes), "no fork at all: the liars are too tame"


def test_members_forget_the_same_clients_whatever_crashes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_MAX", 3)
    faults = ("delay", "crash", "crash_all", "partition")
    _hold(campaign.run(range(600, 612), Settings(faults=faults, clients=8)))


@pytest.mark.parametrize("liars", [0, 1])
def test_members_that_were_away_for_long_come_back_by_snapshots(liars: int) -> None:
    settings = Settings(absences=1, clients=6, byzantine=liars, adversaries=("snapshots",))
    report = campaign.run(range(700, 715), settings)
    _hold(report)
    assert sum(o.snapshots for o in report.outcomes) >= 8


@pytest.mark.parametrize(("nodes", "times"), [(7, 1), (7, 2), (5, 3)])
def test_survivors_of_a_lost_quorum_go_on_by_a_vote_on_the_chain(nodes: int, times: int) -> None:
    report = campaign.run(range(800, 815), Settings(nodes=nodes, recoveries=times))
    _hold(report)
    assert sum(o.recoveries for o in report.outcomes) >= 15


@pytest.mark.parametrize("liar", ["false_recovery", "false_registry", "replayer", "twin"])
def test_a_liar_makes_nothing_of_a_recovery(liar: str) -> None:
    settings = Settings(nodes=5, recoveries=2, byzantine=1, adversaries=(liar,))
    _hold(campaign.run(range(820, 832), settings))


def test_recoveries_that_were_hard_to_come_over_are() -> None:
    """A block whose proof was dropped; a snapshot over a recovery that another one replaced, and
    one of the named block itself."""
    _hold(campaign.run((1269, 2017, 7272), Settings(nodes=7, byzantine=1, recoveries=2)))


def test_members_who_came_to_a_recovered_block_by_different_ways_agree_on_the_next() -> None:
    """One has the states below it, the other a snapshot of it; another stops beside it at once."""
    _hold(campaign.run((739948001183,), Settings(nodes=7, byzantine=1, recoveries=2)))


def test_small_clusters_that_lose_a_quorum_again_and_again_come_back() -> None:
    """Those who are left came by snapshots; signed before as the leader that they are again; have
    a seat's number from before it was away."""
    seeds = (51009, 52150, 52843, 55472, 56182, 57548)
    _hold(campaign.run(seeds, Settings(nodes=5, byzantine=1, recoveries=3)))


def test_a_member_whose_next_blocks_only_one_has_gets_a_second_snapshot_from_it() -> None:
    """The others have nothing for it, and do not say so."""
    _hold(campaign.run((11,), Settings(nodes=4, recoveries=1)))


def test_the_same_seed_gives_the_same_run_in_another_process() -> None:
    command = [sys.executable, "-m", "tests.simulation", "--byzantine", "1", "--seeds", "7..9"]
    digests = {
        subprocess.run(
            [*command, "--json"], capture_output=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout.split(b'"digest"')[1]
        for seed in ("1", "2")
    }
    assert len(digests) == 1


@pytest.mark.parametrize("bug", BUGS, ids=lambda b: b.engine.__name__)
def test_a_planted_bug_is_found(bug: Planted) -> None:
    seeds = range(1, bug.seeds + 1)
    found = campaign.first_failure(seeds, bug.settings, bug.engine)
    assert found is not None, f"{bug.engine.__doc__} was not noticed in {bug.seeds} seeds"


def test_a_paused_process_meets_what_happened_meanwhile_in_its_order() -> None:
    heard: list[Event] = []

    class Listens(Engine):
        def step(self, event: Event, now_ms: int) -> Output:
            heard.append(event)
            return super().step(event, now_ms)

    world = World(scenario.build(1, Settings(nodes=3, faults=()), ()), Listens)
    member = world.members[1]
    member.start()
    member.pause(1_000.0)
    del heard[:]
    expected: list[Event] = []
    for number in range(50):
        world.now_ms = 0.1 * number
        event = PeerLost(2) if number % 2 else PeerConnected(2)
        expected.append(event)
        member.handle(event)
    assert not heard
    member.resume()
    assert heard == expected
    member.pause(1_000.0)
    member.handle(PeerLost(2))
    member.crash()  # what it did not handle dies with it
    member.start()
    member.resume()
    assert PeerLost(2) not in heard[len(expected) :]
