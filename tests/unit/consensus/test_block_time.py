"""Block time (R2): leases run on it, so no single member may push it ahead or hold it back."""

from __future__ import annotations

import pytest
from clusters import Cluster, act, block, proposal, sent
from test_machine import play

from consensus import limits
from consensus.commands import Delete, Grant, KeepAlive, Put
from consensus.interface import Received, Timer, TimerFired
from consensus.items import Refusal
from consensus.machine import Machine
from consensus.outcomes import Applied
from consensus.types import View, VoteKind
from consensus.wire import ProposalMessage, VoteMessage

NOW = 1_700_000_000_000
cluster = Cluster()


def votes_for(time_ms: int, *clocks: int) -> list[bool]:
    """Whether a voter voted for a block of ``time_ms``, after a retry at each of its clocks."""
    voter = next(s for s in cluster.validators.seats if s != cluster.leader())
    engine, _ = cluster.booted(voter)
    made = proposal(cluster, block(View(1, 0), time_ms=time_ms), None)
    message = ProposalMessage(engine.boot.current(cluster.leader()), made)
    output = engine.step(Received(cluster.leader(), message), clocks[0])
    found, voted = [], False
    for clock in clocks:
        output.merge(engine.step(TimerFired(Timer.RETRY), clock))
        voted = voted or any(
            isinstance(m, VoteMessage) and m.vote.kind is VoteKind.NOTARIZE for m in sent(output)
        )
        found.append(voted)
    return found


def test_a_block_ahead_of_the_clock_waits_until_the_clock_is_near() -> None:
    ahead = limits.CLOCK_AHEAD_MS_MAX
    assert votes_for(NOW + ahead, NOW) == [True]
    assert votes_for(NOW + ahead + 500, NOW, NOW + 499, NOW + 500) == [False, False, True]


def test_a_leader_that_pushes_time_far_ahead_gets_no_vote() -> None:
    assert votes_for(NOW + 3_600_000, NOW, NOW + 1000, NOW + 60_000) == [False, False, False]


def test_a_leader_that_holds_time_back_gets_no_vote() -> None:
    behind = limits.CLOCK_BEHIND_MS_MAX
    assert votes_for(NOW - behind, NOW) == [True]
    assert votes_for(NOW - behind - 1, NOW, NOW + 60_000) == [False, False]


def test_a_clock_that_was_put_back_is_believed_again() -> None:
    """Else one wrong second at the start of a host would silence its member until a restart."""
    voter = next(s for s in cluster.validators.seats if s != cluster.leader())
    engine, _ = cluster.booted(voter)
    engine.step(TimerFired(Timer.RETRY), NOW + 3_600_000)
    made = proposal(cluster, block(View(1, 0), time_ms=NOW), None)
    message = ProposalMessage(engine.boot.current(cluster.leader()), made)
    output = engine.step(Received(cluster.leader(), message), NOW)
    assert any(isinstance(m, VoteMessage) for m in sent(output))


def at(machine: Machine, *times: int | tuple[int, bytes]) -> list[Applied]:
    """Blocks at these times, each with at most one command."""
    pairs = [(t, ()) if isinstance(t, int) else (t[0], t[1:]) for t in times]
    return play(machine, *(commands for _, commands in pairs), times=[t for t, _ in pairs])


def test_a_lease_ends_at_the_first_block_whose_time_has_reached_its_end() -> None:
    machine = Machine()
    at(machine, (1000, act(1, 1, Grant(7, 5000))), (1001, act(2, 1, Put(b"k", b"v", 7))))
    (before, after) = at(machine, 5999, 6000)
    assert before.changes.leases == {} and before.changes.entries == {}
    assert after.changes.leases == {7: None} and after.changes.entries == {b"k": None}
    assert after.revision == before.revision + 1


def test_a_lease_that_is_kept_alive_runs_its_whole_time_again() -> None:
    machine = Machine()
    at(machine, (1000, act(1, 1, Grant(7, 5000))), (4000, act(2, 1, KeepAlive(7))))
    (early, late) = at(machine, 8999, 9000)
    assert not early.changes.leases and late.changes.leases == {7: None}


def test_time_never_goes_back_for_leases() -> None:
    machine = Machine()
    at(machine, (9000, act(1, 1, Grant(7, 5000))), (2000, act(2, 1, KeepAlive(7))))
    assert machine.leases[7].expires_ms == 14_000 and machine.time_ms == 9000


def test_a_lease_that_is_over_takes_no_key_even_while_its_removal_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "EXPIRIES_MAX", 1)
    machine = Machine()
    grants = [(1000, act(n, 1, Grant(n, 5000))) for n in range(1, 4)]
    at(machine, *grants, (1000, act(9, 1, Put(b"k", b"v", 3))))
    one, two, three = at(
        machine,
        (6000, act(4, 1, Put(b"x", b"", 3))),
        (6000, act(5, 1, KeepAlive(3))),
        (6000, act(6, 1, Delete(b"none"))),
    )
    assert [a.results[0][1].refusal for a in (one, two)] == [Refusal.NO_LEASE] * 2
    assert (one.changes.leases, two.changes.leases) == ({1: None}, {2: None})
    assert three.changes.leases == {3: None} and b"k" not in machine.entries
