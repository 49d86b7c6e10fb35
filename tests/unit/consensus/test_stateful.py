"""Four or five members under whatever hypothesis thinks of; what must hold is asked at each step.

The simulator draws whole runs from a seed; here single steps are chosen, and a failure shrinks to
the shortest story that shows it.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from consensus.interface import Received, StepDown, Timer
from consensus.types import View, VoteKind
from consensus.wire import decode
from tests.unit.consensus.clusters import CLUSTER_ID, command
from tests.unit.consensus.net import Net
from tests.unit.consensus.test_failure_catalogue import assert_votes_agree

TIMERS = (Timer.LEADER, Timer.STALL, Timer.RETRY, Timer.HEARTBEAT, Timer.SPREAD, Timer.BOOT)
SEATS = st.integers(1, 5)


class Members(RuleBasedStateMachine):
    """Messages arrive in any order, twice, or never; members die and come back at any moment."""

    net: Net
    sequence = 0

    @initialize(weights=st.sampled_from([(1, 1, 1, 1), (2, 1, 1, 1, 1), (1, 1, 1, 1, 1)]))
    def begin(self, weights: tuple[int, ...]) -> None:
        self.net = Net(*weights)
        self.net.start()

    def _seat(self, number: int) -> int:
        return self.net.seats[number % len(self.net.seats)]

    @rule()
    def everything_arrives(self) -> None:
        self.net.deliver()

    @precondition(lambda self: self.net.queue)
    @rule(at=st.integers(0, 1_000), keep=st.booleans())
    def one_message_arrives(self, at: int, keep: bool) -> None:
        """Out of order; kept, it will arrive a second time."""
        at %= len(self.net.queue)
        sender, seat, data = self.net.queue[at]
        if not keep:
            del self.net.queue[at]
        if seat in self.net.engines:
            self.net.step(seat, Received(sender, decode(data, sender, CLUSTER_ID)))

    @rule()
    def all_on_its_way_is_lost(self) -> None:
        self.net.queue.clear()

    @rule(number=SEATS, timer=st.sampled_from(TIMERS))
    def a_timer_fires(self, number: int, timer: Timer) -> None:
        self.net.now_ms += 50
        if self._seat(number) in self.net.engines:
            self.net.fire(timer, self._seat(number))

    @rule(number=SEATS)
    def a_client_writes(self, number: int) -> None:
        if self._seat(number) in self.net.engines:
            self.sequence += 1
            self.net.submit(self._seat(number), command(number, self.sequence))

    @rule(number=SEATS)
    def a_leader_resigns(self, number: int) -> None:
        if self._seat(number) in self.net.engines:
            self.net.step(self._seat(number), StepDown())

    @rule(number=SEATS)
    def a_member_dies_or_returns(self, number: int) -> None:
        seat = self._seat(number)
        if seat in self.net.engines:
            self.net.crash(seat)
        else:
            self.net.start(seat)

    @rule()
    def all_die_and_return(self) -> None:
        self.net.crash(*list(self.net.engines))
        self.net.start()

    @rule(number=SEATS, deaf=st.booleans())
    def a_member_is_deaf_or_mute_for_a_while(self, number: int, deaf: bool) -> None:
        seat = self._seat(number)
        ways = {(o, seat) if deaf else (seat, o) for o in self.net.seats if o != seat}
        self.net.cut ^= ways

    @invariant()
    def finality_is_one_chain(self) -> None:
        if hasattr(self, "net"):
            self.net.chain()

    @invariant()
    def no_member_contradicts_itself(self) -> None:
        if hasattr(self, "net"):
            for seat in self.net.seats:
                assert_votes_agree(self.net.votes(seat))

    @invariant()
    def one_block_is_certified_in_a_view(self) -> None:
        if not hasattr(self, "net"):
            return
        weights = self.net.cluster.validators.weights
        tally: dict[tuple[View, VoteKind, bytes], int] = {}
        for seat in self.net.seats:
            for vote in self.net.votes(seat):
                key = (vote.view, vote.kind, vote.block)
                tally[key] = tally.get(key, 0) + weights[seat]
        certified: dict[View, bytes] = {}
        for (view, kind, block), weight in tally.items():
            if 3 * weight > 2 * sum(weights.values()) and kind is not VoteKind.NULLIFY:
                assert certified.setdefault(view, block) == block

    @invariant()
    def nobody_stops_or_accuses(self) -> None:
        if hasattr(self, "net"):
            for _, output in self.net.outputs:
                assert output.halt is None
                assert not [n for n in output.notices if hasattr(n, "what")], output.notices
            self.net.outputs.clear()

    def teardown(self) -> None:
        """Once it is calm, everybody commits what is asked, in a bounded number of rounds."""
        if not hasattr(self, "net"):
            return
        self.net.cut.clear()
        for seat in self.net.seats:
            if seat not in self.net.engines:
                self.net.start(seat)
        for number in range(1, 12):
            self.net.settle(2)
            self.net.submit(self.net.seats[0], command(99, number))
            self.net.settle(3)
            if all(e.machine.done(command(99, number)[:24]) for e in self.net.engines.values()):
                return
            self.net.fire(Timer.LEADER)
        raise AssertionError("no progress in calm")


TestMembers = Members.TestCase
TestMembers.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
