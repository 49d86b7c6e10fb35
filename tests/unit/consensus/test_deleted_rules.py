"""Every rule of docs/protocol.md has a planted bug that is found.

Most are found by random runs (``tests/simulation/planted.py``) and by leaders that are bad
(``tests/simulation/test_bad_leaders.py``); those whose moment is too rare for that have a story
here, which goes well with the rule and badly without.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from consensus import boot, turning
from consensus.certificates import conflict
from consensus.engine import Engine
from consensus.interface import (
    Checkpoints,
    Event,
    MembershipSeen,
    Output,
    Received,
    RecoverySeen,
    Timer,
)
from consensus.ledger import Tip
from consensus.limits import EPOCHS_PER_ERA as ERA
from consensus.types import (
    BootCertificate,
    Certificate,
    Opening,
    Reason,
    Recovery,
    View,
    Vote,
    VoteKind,
)
from consensus.wire import Certificates, EpochReply, SyncReply, VoteMessage
from tests.simulation.planted import BUGS, Directed
from tests.simulation.planted_recoveries import (
    OlderViewsFollowed,
    RecoversOnHearsay,
    RecoversWhereItIs,
    SnapshotsAround,
    VotesOn,
)
from tests.simulation.test_bad_leaders import MISSED
from tests.unit.consensus.clusters import Cluster, block, command
from tests.unit.consensus.towns import Town, chain_view

PAGE = Path(__file__).parents[3] / "docs" / "protocol.md"


# --- R15, R19: a due epoch, and who is revoked ---


class StaleEpochBorne(Engine):
    """Does not complain about who ignores a due epoch, or is revoked."""

    def _nullify(self, reason: Reason) -> None:
        if reason is not Reason.STALE_EPOCH:
            super()._nullify(reason)


class RevokedIgnored(Engine):
    """Waits for the next epoch with what the chain revoked."""

    def _apply_revocations(self) -> None:
        pass


class RevokedVotesCounted(Engine):
    """Complains about revoked leaders, and counts the single votes of revoked seats."""

    def _on_vote(self, sender: int, incarnation: int, vote: Vote) -> None:
        kept, self.revoked = self.revoked, frozenset()
        super()._on_vote(sender, incarnation, vote)
        self.revoked = kept


def _who_ignores_a_due_epoch_goes(engine: type[Engine]) -> bool:
    town = Town(engine_class=engine)
    others = tuple(s for s in town.engines if s != town.leader)
    town.change(*(town.member(s) for s in (1, 2, 3, 4, 5)), tell=others)
    town.pass_time(2)
    town.fire(Timer.EPOCH, *(s for s in others if s <= 4))
    town.pass_time()
    return set(town.epochs().values()) == {1}


def _a_revoked_leader_goes_at_once(engine: type[Engine]) -> bool:
    town = Town(4, 4, engine_class=engine)
    first = town.leader
    others = tuple(s for s in town.engines if s != first)
    town.change(*map(town.member, others), revoked=(first,), tell=others)
    town.deliver()
    return all(e.view.term > 1 or e.validators.epoch for e in town.engines.values())


def _votes_of_the_revoked_depose_nobody(engine: type[Engine]) -> bool:
    """Two of seven are revoked; with a liar's their complaints would be of join weight."""
    town = Town(7, 7, engine_class=engine)
    leader = town.leader
    first, second, liar, *rest = (s for s in town.engines if s != leader)
    view = town.change(*map(town.member, town.engines), tell=(leader,))
    for seat in (leader, *rest):
        town.step(seat, MembershipSeen(view, frozenset({first, second})))
    at = town.engines[leader].view
    for seat in (first, second, liar):
        vote = town.cluster.vote(seat, VoteKind.NULLIFY, at, reason=Reason.SLOW)
        for to in rest:
            number = town.engines[to].boot.current(seat)
            town.step(to, Received(seat, VoteMessage(number, vote)))
    town.deliver()
    return town.terms() == {at.term}


# --- R16: answers that prove themselves ---


class AnswersBelieved(Engine):
    """Applies the blocks of an answer without a look at their finalization."""

    _believing = False

    def _on_sync_reply(self, sender: int, reply: SyncReply) -> None:
        self._believing = True
        super()._on_sync_reply(sender, reply)
        self._believing = False

    def _is_genuine(self, c: Certificate) -> bool:
        return self._believing or super()._is_genuine(c)


def _only_certified_blocks_are_applied(engine: type[Engine]) -> bool:
    cluster = Cluster(engine_class=engine)
    member, _ = cluster.booted(1)
    blocks = [block(View(1, 0))]
    for index in (1, 2):
        blocks.append(block(View(1, index), blocks[-1]))
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 2), blocks[-1].hash)
    member.step(Received(2, Certificates((final,))), 5)
    forged = block(View(1, 0), commands=(command(9, 1),))
    weak = cluster.certificate(VoteKind.FINALIZE, View(1, 0), forged.hash, (2,))
    return not member.step(Received(2, SyncReply((forged,), (), weak)), 6).applied


# --- R20: the right to vote at the edge of an epoch ---


class NumbersOfNoEpoch(Engine):
    """Counts its incarnations on, whatever the epoch."""

    def __init__(self, **arguments: object) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(boot, "NUMBERS_PER_EPOCH", 0)
            super().__init__(**arguments)  # type: ignore[arg-type]
        self.boot._is_of_now = lambda incarnation: True  # type: ignore[method-assign]

    def _open_epoch(self, opening: Opening, tip: Tip) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(boot, "NUMBERS_PER_EPOCH", 0)
            super()._open_epoch(opening, tip)


class AbstentionForgotten(Engine):
    """Votes in the next epoch, though it does not know what it forgot there."""

    def _open_epoch(self, opening: Opening, tip: Tip) -> None:
        self._abstain_until = (0, 0)
        super()._open_epoch(opening, tip)


class RightLostAtTheEdge(Engine):
    """Boots anew in each epoch."""

    def _open_epoch(self, opening: Opening, tip: Tip) -> None:
        self.boot.done = False
        super()._open_epoch(opening, tip)


def _a_number_has_one_certificate(engine: type[Engine]) -> bool:
    """A copy of an old disk boots when all who knew of the other one have left."""
    town = Town(4, 7, engine_class=engine)
    old = town.stores[4].copy()
    town.crash(5, 6, 7)
    for _ in range(8):
        town.crash(4)
        town.start(4)
        town.settle(2)
    town.crash(4)
    town.start(5, 6, 7)
    for members in ((2, 3, 4, 5), (3, 4, 5, 6), (4, 5, 6, 7)):
        town.change(*map(town.member, members))
        town.pass_time(12)
    assert town.epochs()[5] == 3
    town.crash(1, 2, 3)
    town.stores[4] = old
    town.start(4)
    town.pass_time(12)
    assert town.engines[4].boot.done
    holders: dict[tuple[int, int], set[bytes]] = defaultdict(set)
    for _, output in town.outputs:
        for send in output.send:
            if isinstance(c := send.message, BootCertificate):
                holders[c.seat, c.incarnation].add(c.boot_id)
    return all(len(boots) == 1 for boots in holders.values())


def _who_was_rolled_back_abstains_in_the_next_epoch_too(engine: type[Engine]) -> bool:
    town = Town(4, 4, engine_class=engine)
    old = town.stores[3].copy()
    town.commit()
    town.crash(3)
    town.stores[3] = old
    town.start(3)
    town.settle()
    assert town.engines[3].is_abstaining
    town.change(town.heavier(1, 2), *map(town.member, (2, 3, 4)))
    town.pass_time()
    assert town.epochs()[3] == 1
    return town.engines[3].is_abstaining


def _who_stays_keeps_its_number(engine: type[Engine]) -> bool:
    town = Town(engine_class=engine)
    before = {s: town.engines[s].boot.incarnation for s in (1, 2, 3, 4)}
    town.change(*(town.member(s) for s in (1, 2, 3, 4, 5)))
    town.pass_time()
    assert set(town.epochs().values()) == {1}
    return before == {s: town.engines[s].boot.incarnation for s in before}


# --- R21: break-glass ---


class NumbersUsedAgain(Engine):
    """Opens a recovery as the epoch after its own, whatever the lost members called theirs."""

    def step(self, event: Event, now_ms: int) -> Output:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(turning, "counted", list)
            patch.setattr(turning, "left_era", lambda recovery: recovery.epoch - 1)
            patch.setattr(turning, "era_of", lambda epoch: epoch)
            patch.setattr(turning, "way_to_newest", list)
            return super().step(event, now_ms)

    def _on_recoveries(self, recoveries: tuple[Recovery, ...]) -> None:
        super()._on_recoveries(tuple(replace(r, epoch=r.epoch - ERA + 1) for r in recoveries))


def _stuck(engine: type[Engine], block_hash: bytes | None = None) -> tuple[Town, Recovery]:
    """Four of seven are gone for good; a recovery on our tip, or on another block."""
    town = Town(7, 7, engine_class=engine)
    town.commit()
    town.crash(4, 5, 6, 7)
    tip = town.engines[1].ledger.tip
    members = tuple(map(town.member, (1, 2, 3)))
    return town, Recovery(ERA, tip.height, block_hash or tip.hash, members, bytes(32), 0)


def _a_recovery_on_another_block_opens_nothing(engine: type[Engine]) -> bool:
    town, recovery = _stuck(engine, bytes(32))
    town.step(1, RecoverySeen((recovery,)))
    return town.epochs()[1] == 0


def _only_the_chain_tells_of_a_recovery(engine: type[Engine]) -> bool:
    town, recovery = _stuck(engine)
    town.step(1, Received(2, EpochReply((recovery,))))
    return town.epochs()[1] == 0


def _who_awaits_a_recovery_votes_no_more(engine: type[Engine]) -> bool:
    town, recovery = _stuck(engine)
    town.step(1, RecoverySeen((replace(recovery, height=recovery.height + 9),)))
    before = set(town.votes(1))
    town.fire(Timer.LEADER, 1)
    return town.votes(1) == before


def _a_view_of_before_a_recovery_leads_nowhere(engine: type[Engine]) -> bool:
    town, recovery = _stuck(engine)
    old = chain_view(town.number, *(town.member(s) for s in (1, 2, 3, 4)))
    for seat in (1, 2, 3):
        town.step(seat, RecoverySeen((replace(recovery, chain_block=town.number + 1),)))
    town.pass_time()
    for seat in (1, 2, 3):
        town.step(seat, MembershipSeen(old, frozenset()))
    town.pass_time()
    return town.members(1).keys() == {1, 2, 3}


def _no_snapshot_leads_around_a_recovery(engine: type[Engine]) -> bool:
    town = Town(5, 6, checkpoints=Checkpoints(every=1, gap=1), engine_class=engine)
    town.commit()
    tip = town.engines[1].ledger.tip
    town.commit()
    town.stores[6] = town.new_store(6)
    town.crash(6)
    town.start(6)
    recovery = Recovery(ERA, tip.height, tip.hash, (town.member(6),), bytes(32), 0)
    town.step(6, RecoverySeen((recovery,)))
    town.pass_time(12)
    engine_6 = town.engines[6]
    return engine_6.halted is None and engine_6.ledger.tip.height <= tip.height


def _who_is_wiped_as_the_page_says_is_not_convicted(engine: type[Engine]) -> bool:
    """3 voted in an epoch that those who are left never saw; it stops, and begins anew."""
    town = Town(7, 7, engine_class=engine)
    town.crash(1, 2)
    town.change(town.heavier(3, 2), *(town.member(s) for s in (1, 2, 4, 5, 6, 7)))
    town.pass_time()
    assert town.epochs()[3] == 1
    town.commit()
    town.crash(3, 4, 5, 6, 7)
    town.start(1, 2)
    town.settle()
    tip = town.engines[1].ledger.tip
    members = tuple(map(town.member, (1, 2, 3)))
    seen = RecoverySeen((Recovery(ERA, tip.height, tip.hash, members, bytes(32), town.number),))
    for seat in (1, 2):
        town.step(seat, seen)
    town.start(3)
    town.step(3, seen)
    town.crash(3)
    votes = set(town.votes(3))
    town.stores[3] = town.new_store(3)
    town.start(3)
    town.step(3, seen)
    town.pass_time(24)
    town.commit()
    votes |= town.votes(3)
    return not any(conflict(one, two) for one in votes for two in votes)


STORIES: tuple[Directed, ...] = (
    Directed(StaleEpochBorne, ("R15",), _who_ignores_a_due_epoch_goes),
    Directed(AnswersBelieved, ("R16",), _only_certified_blocks_are_applied),
    Directed(StaleEpochBorne, ("R19",), _a_revoked_leader_goes_at_once),
    Directed(RevokedIgnored, ("R19",), _a_revoked_leader_goes_at_once),
    Directed(RevokedVotesCounted, ("R19",), _votes_of_the_revoked_depose_nobody),
    Directed(NumbersOfNoEpoch, ("R20",), _a_number_has_one_certificate),
    Directed(AbstentionForgotten, ("R20",), _who_was_rolled_back_abstains_in_the_next_epoch_too),
    Directed(RightLostAtTheEdge, ("R20",), _who_stays_keeps_its_number),
    Directed(RecoversWhereItIs, ("R21",), _a_recovery_on_another_block_opens_nothing),
    Directed(RecoversOnHearsay, ("R21",), _only_the_chain_tells_of_a_recovery),
    Directed(VotesOn, ("R21",), _who_awaits_a_recovery_votes_no_more),
    Directed(OlderViewsFollowed, ("R15", "R21"), _a_view_of_before_a_recovery_leads_nowhere),
    Directed(SnapshotsAround, ("R17", "R21"), _no_snapshot_leads_around_a_recovery),
    Directed(NumbersUsedAgain, ("R21",), _who_is_wiped_as_the_page_says_is_not_convicted),
)


@pytest.mark.parametrize("bug", STORIES, ids=lambda b: f"{b.engine.__name__}-{b.rules[0]}")
def test_a_story_goes_badly_without_its_rule(bug: Directed) -> None:
    assert bug.story(Engine)
    assert not bug.story(bug.engine)


def test_every_rule_has_a_planted_bug() -> None:
    page = PAGE.read_text()
    rules = set(re.findall(r"^\*\*(R\d+)\.", page, re.MULTILINE))
    parts = set(re.findall(r"^(?:\*\*|## \d\. )(Words|Order of duties)", page, re.MULTILINE))
    broken = {rule for bug in (*BUGS, *MISSED, *STORIES) for rule in bug.rules}
    assert not rules - broken, "rules that could be deleted unnoticed"
    assert broken <= rules | parts, "rules that the page does not have"
