"""Members with disks whose registry changes: ``Net`` with seats that come and go."""

from __future__ import annotations

from dataclasses import replace

from consensus.engine import Engine
from consensus.interface import Checkpoints, Durations, MembershipSeen, Timer
from consensus.keccak import keccak256
from consensus.types import ChainView
from consensus.validators import Validator, ValidatorSet
from tests.simulation.signing import keys_for
from tests.unit.consensus.clusters import Cluster, command
from tests.unit.consensus.net import Net

NEW_KEY = 100  # seat s + NEW_KEY has the key that seat s may change to


def chain_view(number: int, *validators: Validator) -> ChainView:
    """What the registry shows since a block."""
    hash_ = keccak256(b"chain %d" % number)
    ordered = tuple(sorted(validators, key=lambda v: v.seat))
    digest = keccak256(repr(ordered).encode())
    return ChainView(number, hash_, digest, keccak256(b"seed" + hash_), ordered)


class Town(Net):
    """``seats`` that run, of which the first ``founders`` are the set of epoch 0."""

    def __init__(
        self,
        founders: int = 4,
        seats: int = 6,
        settle_ms: int = 0,
        checkpoints: Checkpoints = Checkpoints(),  # noqa: B008
        engine_class: type[Engine] = Engine,
    ) -> None:
        super().__init__(
            *(1,) * seats,
            durations=Durations(epoch_settle_ms=settle_ms),
            checkpoints=checkpoints,
            engine_class=engine_class,
        )
        everyone = [*self.seats, *(s + NEW_KEY for s in self.seats)]
        self.keys, self.signers, self.cluster.verifier = keys_for(everyone)
        self.cluster.keys, self.cluster.signers = self.keys, dict(self.signers)
        members = tuple(self.member(s) for s in range(1, founders + 1))
        self.cluster.validators = ValidatorSet(0, members, bytes(32))
        self.number = 100
        self.sequence = 0
        self.start()
        self.settle()

    def member(self, seat: int, weight: int = 1, *, rekeyed: bool = False) -> Validator:
        return Validator(seat, weight, self.keys[seat + NEW_KEY * rekeyed])

    def change(
        self, *members: Validator, revoked: tuple[int, ...] = (), tell: tuple[int, ...] = ()
    ) -> ChainView:
        """The registry shows these members; all that run (or ``tell``) see it."""
        self.number += 1
        view = chain_view(self.number, *members)
        for seat in tell or tuple(self.engines):
            self.step(seat, MembershipSeen(view, frozenset(revoked)))
        return view

    def pass_time(self, rounds: int = 8) -> None:
        """Rounds in which leaders beat, nothing times out, and what is lost is sent again."""
        for _ in range(rounds):
            self.now_ms += 300
            self.fire(Timer.HEARTBEAT)
            self.settle(1)
            for seat, engine in self.engines.items():
                if engine.leader(engine.view.term) not in self.engines:
                    self.fire(Timer.LEADER, seat)  # its link is lost

    def commit(self, *seats: int) -> None:
        """A command of each of ``seats`` (all that run by default) is applied by all that run."""
        raws = []
        for seat in seats or tuple(self.engines):
            self.sequence += 1
            raws.append(command(seat, self.sequence))
            self.submit(seat, raws[-1])
        self.pass_time(4)
        for seat, engine in self.engines.items():
            missing = [raw for raw in raws if not engine.machine.done(raw[:24])]
            assert not missing, f"seat {seat} lacks {len(missing)}: {engine.status()}"

    def epochs(self) -> dict[int, int]:
        return {seat: engine.validators.epoch for seat, engine in self.engines.items()}

    def members(self, seat: int) -> dict[int, int]:
        """Seats and weights of the epoch that a member is in."""
        return self.engines[seat].validators.weights

    def rekey(self, seat: int) -> None:
        """Another instance with another key takes a seat; it starts with an empty disk."""
        self.crash(seat)
        self.stores[seat] = self.new_store(seat)
        self.cluster.signers[seat] = self.signers[seat + NEW_KEY]

    def heavier(self, seat: int, weight: int) -> Validator:
        return replace(self.member(seat), weight=weight)


__all__ = ["Cluster", "Town", "chain_view"]
