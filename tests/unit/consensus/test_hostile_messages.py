"""Whatever one member sends, ``step`` gives an output: it never raises, halts or breaks a rule."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from clusters import CLUSTER_ID, Cluster, block, command, proposal

from consensus import limits
from consensus.engine import Engine
from consensus.errors import WireError
from consensus.interface import Output, Received, Submitted, Timer, TimerFired
from consensus.types import ZERO_HASH, Certificate, NextEpoch, Reason, View, VoteKind
from consensus.wire import (
    Certificates,
    ProposalMessage,
    SyncRequest,
    VoteMessage,
    decode,
    encode,
)

NUMBERS = (0, 1, 2, 3, 31, 33, 255, 256, 2**16, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
HOSTILE = 2


class Talk:
    """Four engines that talk at once; every message is kept as material."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.engines: dict[int, Engine] = {}
        self.material: list[bytes] = []
        for seat in self.cluster.validators.seats:
            self.engines[seat], output = self.cluster.booted(seat)
            self._collect(output)
        self.now_ms = 10

    def _collect(self, output: Output) -> list[tuple[int | None, bytes]]:
        encoded = [(send.to, encode(send.message)) for send in output.send]
        self.material += [data for _, data in encoded]
        return encoded

    def carry(self, seat: int, output: Output, drop: frozenset[int] = frozenset()) -> None:
        """Delivers an output and all that follows from it."""
        queue = [(seat, to, data) for to, data in self._collect(output)]
        while queue:
            sender, to, data = queue.pop(0)
            for receiver in [to] if to is not None else [s for s in self.engines if s != sender]:
                if receiver in drop or sender in drop:
                    continue
                message = decode(data, sender, CLUSTER_ID)
                answer = self.engines[receiver].step(Received(sender, message), self.now_ms)
                queue += [(receiver, t, d) for t, d in self._collect(answer)]

    def proceed(self, rounds: int, rng: random.Random) -> None:
        for number in range(rounds):
            self.now_ms += 100
            seat = rng.choice(sorted(self.engines))
            event = rng.choice(
                (
                    TimerFired(Timer.HEARTBEAT),
                    TimerFired(Timer.RETRY),
                    TimerFired(rng.choice(list(Timer))),
                    Submitted((command(seat, number + 1),)),
                )
            )
            self.carry(seat, self.engines[seat].step(event, self.now_ms))


def _spoilt(value: Any, rng: random.Random, chance: float) -> Any:
    """A copy of unpacked fields with some leaves replaced."""
    if isinstance(value, list):
        items = [_spoilt(v, rng, chance) for v in value]
        if items and rng.random() < chance:
            items.insert(rng.randrange(len(items) + 1), rng.choice(items))
        if items and rng.random() < chance:
            items.pop(rng.randrange(len(items)))
        return items
    if rng.random() > chance:
        return value
    if isinstance(value, int):
        return rng.choice((*NUMBERS, min(value + 1, limits.U64_MAX), max(0, value - 1)))
    if isinstance(value, bytes) and value:
        return rng.choice((bytes(len(value)), rng.randbytes(len(value)), b""))
    return value


def _signed_nonsense(talk: Talk, rng: random.Random) -> bytes:
    """A vote for any view at all, with a good signature."""
    kind = rng.choice(list(VoteKind))
    now = talk.engines[1].view
    view = rng.choice(
        (
            View(rng.choice(NUMBERS), rng.choice(NUMBERS)),
            View(now.term, max(0, now.index + rng.randint(-3, 3))),
            View(now.term + rng.randint(0, 2), rng.randint(0, 3)),
        )
    )
    block = ZERO_HASH if kind is VoteKind.NULLIFY else rng.randbytes(32)
    reason = rng.choice(list(Reason)) if kind is VoteKind.NULLIFY else 0
    incarnation = rng.choice((1, 1, 1, rng.choice(NUMBERS)))
    vote = talk.cluster.vote(HOSTILE, kind, view, block, int(reason))
    return encode(VoteMessage(incarnation, vote))


def _resigned(talk: Talk, message: ProposalMessage) -> ProposalMessage:
    """A spoilt proposal with the hostile member's signature on it."""
    made = message.proposal.block
    vote = talk.cluster.vote(HOSTILE, VoteKind.NOTARIZE, made.header.view, made.hash)
    proposal = message.proposal.__class__(made, message.proposal.parent, vote.signature)
    return ProposalMessage(message.incarnation, proposal)


@pytest.mark.parametrize("seed", range(6))
def test_one_hostile_member_never_makes_another_raise_or_halt(seed: int) -> None:
    rng = random.Random(seed)
    talk = Talk()
    talk.proceed(30, rng)
    honest = [s for s in talk.engines if s != HOSTILE]
    accepted = 0
    for step in range(1500):
        data = rng.choice(talk.material)
        if rng.random() < 0.3:
            data = _signed_nonsense(talk, rng)
        elif rng.random() < 0.7:
            data = msgpack.packb(_spoilt(msgpack.unpackb(data), rng, rng.choice((0.02, 0.1, 0.5))))
        try:
            message = decode(data, HOSTILE, CLUSTER_ID)
        except (WireError, OverflowError):
            continue
        if isinstance(message, ProposalMessage) and rng.random() < 0.5:
            message = _resigned(talk, message)
        accepted += 1
        target = rng.choice(honest)
        output = talk.engines[target].step(Received(HOSTILE, message), talk.now_ms)
        assert output.halt is None, output.halt
        talk.carry(target, output)
        if step % 50 == 0:
            talk.proceed(2, rng)
    assert accepted > 300
    assert len({talk.engines[s].machine.hash_at(1) for s in honest} - {None}) == 1
    before = {s: talk.engines[s].ledger.tip.height for s in honest}
    for _ in range(12):
        for seat in talk.engines:  # a member whose own clock stood still complains about nobody
            talk.carry(seat, talk.engines[seat].step(TimerFired(Timer.HEALTH), talk.now_ms))
        talk.proceed(10, rng)
    assert all(talk.engines[s].ledger.tip.height > before[s] for s in honest), "they are stuck"


def test_of_forged_certificates_in_a_message_one_is_looked_at() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    good = cluster.certificate(VoteKind.FINALIZE, View(1, 3), bytes(32))
    forged = replace(good, parts=(*good.parts[:-1], good.parts[0]._replace(seat=4)))
    message = Certificates((forged,) * limits.NULLIFICATIONS_MAX)
    output = engine.step(Received(HOSTILE, message), 10)
    assert len(output.notices) == 1


def test_strangers_and_echoes_of_oneself_are_ignored() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(1)
    for sender in (1, 99, 0):
        output = engine.step(Received(sender, SyncRequest(1)), 5)
        assert output == Output()
    vote = VoteMessage(1, cluster.vote(2, VoteKind.NOTARIZE, View(1, 0), bytes(32)))
    engine.step(Received(99, vote), 5)
    assert not engine.book._ballots


def test_the_nullifications_in_a_repeated_proposal_are_not_checked_again() -> None:
    """Those of 32 terms with many members: a leader could keep us busy with nothing else."""
    cluster = Cluster()
    engine, _ = cluster.booted(cluster.leader(1))
    ended = cluster.certificate(VoteKind.NULLIFY, View(1, 0))
    engine.step(Received(cluster.leader(2), Certificates((ended,))), 2)
    again = cluster.certificate(VoteKind.NULLIFY, View(1, 0), seats=(1, 2, 3))
    made = proposal(cluster, block(View(2, 0), nullifications=(again,)), None)
    checked: list[Certificate] = []
    genuine = engine._is_genuine
    engine._is_genuine = lambda c: bool(checked.append(c)) or genuine(c)  # type: ignore[method-assign]
    for _ in range(3):
        engine.step(Received(cluster.leader(2), ProposalMessage(1, made)), 3)
    assert checked == [again]
    assert (View(2, 0), VoteKind.NOTARIZE) in engine._mine


def test_forged_nullifications_of_a_leader_are_looked_at_once_and_none_where_none_belongs() -> None:
    """A leader that floods us with them has us check signatures, and its term never ends."""
    cluster = Cluster()
    engine, _ = cluster.booted(cluster.leader(1))
    ended = cluster.certificate(VoteKind.NULLIFY, View(1, 0))
    engine.step(Received(cluster.leader(2), Certificates((ended,))), 2)
    checked: list[Certificate] = []
    genuine = engine._is_genuine
    engine._is_genuine = lambda c: bool(checked.append(c)) or genuine(c)  # type: ignore[method-assign]
    part = ended.parts[0]._replace(signature=ended.parts[1].signature)
    forged = replace(ended, parts=(part, *ended.parts[1:]))
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 0), bytes(32))
    other = cluster.certificate(VoteKind.NULLIFY, View(1, 0), seats=(1, 2, 3))
    shown = [(View(2, 0), s) for s in ((forged,), (final,), (other, other), (forged,))]
    shown += [(View(2, 1), (other,))] * 2
    for view, nullifications in shown:
        made = proposal(cluster, block(view, nullifications=nullifications), None)
        engine.step(Received(cluster.leader(2), ProposalMessage(1, made)), 3)
    assert checked == [forged]
    assert engine.view == View(2, 0) and max(engine._mine)[0] == View(1, 0)


def test_a_proposal_that_waits_makes_nobody_ask_for_a_block_that_nothing_certifies() -> None:
    cluster = Cluster()
    engine, _ = cluster.booted(cluster.leader(2))
    early = block(View(1, 0), time_ms=3_600_000)
    output = engine.step(
        Received(cluster.leader(1), ProposalMessage(1, proposal(cluster, early, None))), 1
    )
    assert not output.send and not engine.catchup.wanted, "we have what it stands on"


def test_a_proposal_that_ends_the_epoch_by_what_it_carries_is_not_kept_in_the_next() -> None:
    cluster = Cluster()
    leader = cluster.leader()
    seat = next(s for s in cluster.validators.seats if s != leader)
    engine, _ = cluster.booted(seat)
    members = cluster.validators.validators
    ending = block(View(1, 0), next_epoch=NextEpoch(1, 0, *[bytes(32)] * 3, members))
    engine.ledger.blocks[ending.hash] = ending
    final = cluster.certificate(VoteKind.FINALIZE, View(1, 0), ending.hash)
    late = block(View(1, 1), ending)
    message = ProposalMessage(1, proposal(cluster, late, final))
    engine.step(Received(leader, message), 2)
    assert engine.validators.epoch == 1
    assert not engine._proposals and not engine.book._ballots
