"""Bad leaders go within a bounded time; good ones stay, whatever the network and liars do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.commands import Command, Put, encode_command
from consensus.engine import Engine
from consensus.health import Fairness
from consensus.interface import Complain, Durations
from consensus.mempool import Mempool
from consensus.types import Reason, View, Vote, VoteKind
from consensus.wire import Commands, Message, ProbeReply
from tests.simulation.adversaries import Liar
from tests.simulation.bad_leaders import BAD_FROM_MS, VICTIM
from tests.simulation.planted import Directed, NoStallTimer
from tests.simulation.reign import DEFAULTS, Reign, Writer, replaced_after

# What the daemon runs with by default (``node.config``), where it differs from the core's.
DAEMON = Durations(leader_ms=2000, heartbeat_ms=300, gather_ms=50, stall_ms=2500)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("durations", [DEFAULTS, DAEMON], ids=["core", "daemon"])
@pytest.mark.parametrize(
    "kind",
    ["proposes_nothing", "client_censor", "member_censor", "last_millisecond", "favours"],
)
def test_a_bad_leader_is_replaced_within_three_seconds(
    kind: str, durations: Durations, busy: bool
) -> None:
    elapsed = replaced_after(kind, durations, busy=busy)
    assert elapsed is not None and elapsed <= 3000.0


def test_a_leader_that_answers_no_challenge_or_withholds_finality_is_replaced_soon() -> None:
    for kind in ("answers_nothing", "withholds_finality"):
        elapsed = replaced_after(kind, DAEMON, busy=True)
        assert elapsed is not None and elapsed <= 4000.0, kind


@pytest.mark.parametrize("kind", ["favours_a_quorum", "withholds_finality"])
def test_who_is_left_out_by_a_leader_that_still_has_a_quorum_loses_nothing(kind: str) -> None:
    reign = Reign(kind)
    reign.run_for(BAD_FROM_MS)
    victim = Writer(reign, reign.victim, VICTIM, 100.0)
    reign.run_for(6000.0)
    assert victim.done >= 5 and victim.slowest_ms < 1500.0


def test_a_leader_that_leaves_clients_out_behind_old_commands_of_its_own_is_replaced() -> None:
    elapsed = replaced_after("decoy_censor", DEFAULTS, busy=True)
    assert elapsed is not None and elapsed <= 3500.0


def test_a_leader_that_follows_the_chain_no_more_is_replaced() -> None:
    durations = replace(DEFAULTS, behind_chain_ms=5000)
    elapsed = replaced_after("ignores_the_chain", durations, limit_ms=12_000.0)
    assert elapsed is not None and 5000.0 <= elapsed <= 10_000.0


@pytest.mark.parametrize("kind", [None, "proposes_nothing"], ids=["dead", "mute"])
def test_a_leader_goes_though_each_answer_comes_after_the_next_challenge(kind: str | None) -> None:
    """Who is slow is not silent: else all would hold each other up, and none accuse anybody."""
    reign = Reign(kind, durations=DAEMON, delay_ms=(600.0, 640.0))
    reign.run_for(BAD_FROM_MS if kind else 10_000.0)
    assert reign.changes == 0
    if kind is None:
        reign.members[reign.order[0]].crash()
    assert reign.run_until(lambda: reign.changes, 20_000.0) is not None


# --- good leaders stay ---


def test_no_leader_is_deposed_under_load_over_a_bad_network() -> None:
    reign = Reign(delay_ms=(0.5, 120.0))
    for number in range(24):
        Writer(reign, 1 + number % 4, b"writer %2d" % number, 5.0, size=8 * 1024)
    reign.run_for(20_000.0)
    assert reign.changes == 0
    assert all(w.done > 10 for w in reign.writers.values()), "everybody is served"


def test_no_leader_is_deposed_when_members_pause_for_a_moment() -> None:
    reign = Reign()
    for seat in sorted(reign.members):
        Writer(reign, seat, b"writer %d" % seat, 100.0)
    for n in range(20):
        at, seat = 1000.0 * (n + 1), 1 + n % 4
        reign.after(at, reign.members[seat].pause, 900.0)
    reign.run_for(20_000.0)
    assert reign.changes == 0


def _stays_when_a_busy_member_is_given_a_command_alone(engine_class: type[Engine]) -> bool:
    """A liar gives it to the one whose clients keep all blocks full, and complains itself."""
    reign = Reign(delay_ms=(20.0, 60.0), engine_class=engine_class)
    _, busy, other, liar = reign.order
    for number in range(200):
        Writer(reign, busy, b"heavy %d" % number, 1.0, size=32 * 1024)
    Writer(reign, other, b"light", 20.0)
    reign.run_for(4000.0)
    late = encode_command(Command(b"late".ljust(16), 1, Put(b"key", b"")))
    reign.members[busy].receive(liar, Commands((late,)))
    reign.run_for(3000.0)
    return not any(v.kind is VoteKind.NULLIFY for v in reign.members[busy].store.votes_ever)


def _a_term_without_finality_ends(engine_class: type[Engine]) -> bool:
    """Proposals flow, no command waits; with one gate closed the leader's votes are missed."""
    reign = Reign("clings_on", engine_class=engine_class)
    reign.run_for(BAD_FROM_MS)
    reign.members[reign.order[1]].handle(Complain())
    return reign.run_until(lambda: reign.changes, 3200.0) is not None


class Impatient(Engine):
    """Learns nothing from complaints that proved false (R13 removed)."""

    def _is_well(self, view: View, *, final: bool = False) -> None:
        pass


def _changes_with_a_flaky_member(engine_class: type[Engine], duration_ms: float) -> int:
    """Leader changes while a liar complains all the time and one hears hardly anything."""
    reign = Reign(others={3: "nuller"}, engine_class=engine_class)
    flaky = reign.members[reign.order[2]]
    hears = flaky.receive

    def hears_badly(sender: int, message: Message) -> None:
        if isinstance(message, ProbeReply):  # else the others would be the ones who are silent
            hears(sender, message)

    def cut() -> None:
        flaky.receive = hears_badly  # type: ignore[method-assign]
        reign.after(1800.0, setattr, flaky, "receive", hears)
        reign.after(5000.0, cut)

    reign.after(2000.0, cut)
    reign.run_for(duration_ms)
    return reign.changes


# --- evidence ---


def _convicted_after(engine_class: type[Engine]) -> float | None:
    """Milliseconds until a member that signs everything is convicted in everybody's state."""
    reign = Reign(others={2: "promiscuous"}, engine_class=engine_class)
    liar = reign.order[2]
    # Two blocks for a view make it sign both.
    reign.run_for(1000.0)
    engine = reign.members[reign.order[0]].engine
    assert engine is not None
    other = reign.members[liar]
    assert isinstance(other, Liar)
    view = View(1, engine.view.index + 1)
    for block in (b"a" * 32, b"b" * 32):
        other.tell(reign.order[1], other.vote(VoteKind.FINALIZE, view, block))

    def done() -> bool:
        engines = [m.engine for m in reign.correct]
        return all(e is not None and liar in e.machine.standing.convicted for e in engines)

    return reign.run_until(done, 4000.0)


class EvidenceKeptToOneself(Engine):
    """Finds evidence and puts it into no block (R14 removed)."""

    def _evidence_for(self, branch: object) -> tuple[()]:
        return ()


def test_evidence_survives_a_restart() -> None:
    reign = Reign("equivocator")
    reign.run_for(4000.0)
    member = next(m for m in reign.correct if m.engine and len(m.engine.evidence))
    assert member.engine is not None
    known = set(_votes(member.engine))
    member.crash()
    member.start()
    assert set(_votes(member.engine)) == known


def _votes(engine: Engine) -> list[Vote]:
    return [v for e in engine.evidence for v in (e.first, e.second)]


# --- planted bugs ---


class BlindToCensorship(Engine):
    """Never looks at what a block leaves out."""

    def _saw_proposal(self, block: object) -> None:
        pass


class _OneAtATime(Fairness):
    """Minds no command but the one that waits longest."""

    def remind(self, mempool: Mempool, now: int, patience: int) -> bytes | None:
        raw = super().remind(mempool, now, patience)
        oldest = min(self.suspicions, key=lambda s: self.suspicions[s].front.since, default=None)
        self.suspicions = {s: why for s, why in self.suspicions.items() if s == oldest}
        return raw


class BlindToAllButTheOldest(Engine):
    """A leader can hide the one whom it leaves out behind an older command of its own."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.fairness = _OneAtATime()


class _AsAnyOther(Mempool):
    """Takes a reminder for one more command."""

    def remind(self, raw: bytes, source: int, now: int) -> None:
        self.add(raw, source, now)


class DeafToReminders(Engine):
    """Lets a command of which it is reminded wait behind what else the member gave it."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self.mempool = _AsAnyOther(self.seat)


class BlindToPace(Engine):
    """Lets a leader take its time."""

    def _cause(self, leader: int) -> Reason | None:
        cause = super()._cause(leader)
        return None if cause in (Reason.SLOW, Reason.STALL) else cause


MISSED: tuple[Directed, ...] = (
    Directed(
        BlindToCensorship,
        ("R12",),
        lambda e: replaced_after("client_censor", DEFAULTS, engine_class=e) is not None,
    ),
    Directed(
        BlindToAllButTheOldest,
        ("R12",),
        lambda e: replaced_after("decoy_censor", DEFAULTS, engine_class=e) is not None,
    ),
    Directed(DeafToReminders, ("R12",), _stays_when_a_busy_member_is_given_a_command_alone),
    Directed(
        BlindToPace,
        ("R12",),
        lambda e: replaced_after("last_millisecond", DEFAULTS, engine_class=e) is not None,
    ),
    Directed(NoStallTimer, ("R9",), _a_term_without_finality_ends),
    # A flaky member and a third of liars cannot change leaders at will.
    Directed(Impatient, ("R13",), lambda e: _changes_with_a_flaky_member(e, 60_000.0) <= 5),
    # Who contradicts itself is convicted in the state of everybody.
    Directed(EvidenceKeptToOneself, ("R14",), lambda e: _convicted_after(e) is not None),
)


@pytest.mark.parametrize("bug", MISSED, ids=lambda b: b.engine.__name__)
def test_a_rule_that_is_taken_out_is_missed(bug: Directed) -> None:
    assert bug.story(Engine)
    assert not bug.story(bug.engine)
