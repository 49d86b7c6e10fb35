"""One hostile member says anything at all while epochs change and others crash and restart.

``test_hostile_messages`` is about four members in one epoch; here the disks, catch-up and the way
from epoch to epoch take part, with everything that was ever said as the liar's material.
"""

from __future__ import annotations

import random

import msgpack
import pytest
from test_hostile_messages import _spoilt

from consensus.digests import vote_digest
from consensus.errors import WireError
from consensus.interface import (
    Checkpoints,
    Event,
    Output,
    PeerConnected,
    Received,
    Timer,
)
from consensus.types import ZERO_HASH, Reason, View, Vote, VoteKind
from consensus.wire import Message, ProposalMessage, VoteMessage, decode, encode
from tests.unit.consensus.clusters import CLUSTER_ID, command
from tests.unit.consensus.towns import Town

HOSTILE = 2
STEPS = 600
MATERIAL_MAX = 6000


class Street(Town):
    """A town whose seat ``HOSTILE`` is good too, but also says what ``mischief`` comes up with."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.material: list[bytes] = []
        super().__init__(4, 6, checkpoints=Checkpoints(8, 20))

    def step(self, seat: int, event: Event) -> Output:
        output = super().step(seat, event)
        assert output.halt is None or seat == HOSTILE, output.halt
        self.material += [encode(send.message) for send in output.send]
        if len(self.material) > MATERIAL_MAX:
            self.material = self.rng.sample(self.material, MATERIAL_MAX // 2)
        return output

    def mischief(self) -> None:
        """One message of the liar to one honest member."""
        rng = self.rng
        seat = rng.choice([s for s in self.engines if s != HOSTILE])
        message = self._vote(seat) if rng.random() < 0.15 else self._said_before(seat)
        if message is not None:
            self.step(seat, Received(HOSTILE, message))

    def _said_before(self, seat: int) -> Message | None:
        rng = self.rng
        data = rng.choice(self.material)
        if rng.random() < 0.6:
            chance = rng.choice((0.01, 0.03, 0.1))
            data = msgpack.packb(_spoilt(msgpack.unpackb(data), rng, chance))
        try:
            message = decode(data, HOSTILE, CLUSTER_ID)
        except WireError:
            return None
        if isinstance(message, ProposalMessage) and rng.random() < 0.7:
            block = message.proposal.block
            signed = self._signed(
                VoteKind.NOTARIZE, block.header.epoch, block.header.view, block.hash
            )
            made = message.proposal.__class__(block, message.proposal.parent, signed)
            return ProposalMessage(self.engines[seat].boot.current(HOSTILE), made)
        return message

    def _vote(self, seat: int) -> Message:
        """For a view near that of the one who gets it, really signed."""
        rng, engine = self.rng, self.engines[seat]
        kind = rng.choice(list(VoteKind))
        term, index = engine.view
        view = View(term + rng.choice((0, 0, 0, 1, 2)), max(0, index + rng.randint(-3, 3)))
        block, reason = ZERO_HASH, 0
        if kind is VoteKind.NULLIFY:
            reason = int(rng.choice(list(Reason)))
        else:
            block = rng.choice([*engine.ledger.blocks, bytes(32)])
        epoch = engine.validators.epoch
        signature = self._signed(kind, epoch, view, block, reason)
        vote = Vote(kind, epoch, view, HOSTILE, block, reason, signature)
        return VoteMessage(engine.boot.current(HOSTILE), vote)

    def _signed(
        self, kind: VoteKind, epoch: int, view: View, block: bytes, reason: int = 0
    ) -> bytes:
        digest = vote_digest(CLUSTER_ID, kind, epoch, *view, block, reason)
        return self.cluster.signers[HOSTILE].sign(digest)

    def something_happens(self) -> None:
        """The liar speaks, a client asks, time passes, messages come or are lost, ..."""
        rng = self.rng
        (what,) = rng.choices("mctdrs", (62, 10, 12, 10, 1.5, 1))
        match what:
            case "m":
                self.mischief()
            case "c":
                self.sequence += 1
                self.submit(rng.choice(list(self.engines)), command(9, self.sequence))
            case "t":
                self.now_ms += rng.choice((50, 250, 600))
                self.fire(rng.choice(list(Timer)), rng.choice(list(self.engines)))
            case "d":
                for _ in range(min(len(self.queue), rng.randrange(40))):
                    self.deliver_one(lambda *_: rng.random() < 0.97)
            case "r":
                seat = rng.choice(list(self.engines))
                self.crash(seat)
                self.deliver(most=50_000)
                self.start(seat)
            case "s":
                others = rng.sample((3, 4, 5, 6), rng.choice((2, 3)))
                self.change(*map(self.member, (1, HOSTILE, *others)))

    def calm(self) -> None:
        """All are linked and hear each other; the liar says no more than a good member."""
        self.queue.clear()
        for seat in self.engines:
            for other in self.engines:
                if other != seat:
                    self.step(seat, PeerConnected(other))
        for round_ in range(40):
            self.now_ms += 300
            for timer in (Timer.HEARTBEAT, Timer.HEALTH):
                self.fire(timer)
            self.settle(1)
            if round_ % 8 == 7:
                self.fire(Timer.LEADER)
                self.fire(Timer.EPOCH)
                self.settle(1)


@pytest.mark.parametrize("seed", range(5))
def test_a_hostile_member_stops_parts_and_convicts_nobody_over_epochs_and_restarts(
    seed: int,
) -> None:
    street = Street(random.Random(seed))
    for _ in range(STEPS):
        street.something_happens()
    before = {seat: engine.ledger.tip.height for seat, engine in street.engines.items()}
    street.calm()
    for seat, engine in street.engines.items():
        assert engine.ledger.tip.height > before[seat], f"seat {seat} is stuck: {engine.status()}"
        assert set(engine.machine.standing.convicted) <= {HOSTILE}
    street.chain()
    assert max(street.epochs().values()) > 0
