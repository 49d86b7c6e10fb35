"""The registry on a simulated chain: who belongs, since which block, and who knows it already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.interface import MembershipSeen, RecoverySeen
from consensus.keccak import keccak256
from consensus.types import ChainView, NextEpoch, Recovery
from consensus.validators import Validator

from .histories import ERA, era_of

if TYPE_CHECKING:
    from .members import Member
    from .world import World

Members = dict[int, Validator]


class SimChain:
    """A registry whose changes reach each member in its own time, and at every restart.

    ``change`` is the way in: for faults and tests.
    """

    def __init__(self, world: World, founders: Members) -> None:
        self._world = world
        self.views: list[tuple[ChainView, frozenset[int]]] = []
        self.recoveries: list[Recovery] = []
        self._told: dict[tuple[int, int], int] = {}  # how many of them, by seat and life
        self._view(founders, frozenset())

    @property
    def members(self) -> Members:
        """Who belongs now."""
        return {v.seat: v for v in self.views[-1][0].validators}

    def change(self, members: Members, revoked: frozenset[int] = frozenset()) -> None:
        """The registry shows other members from now on, of whom some may be revoked at once."""
        self._view(members, revoked)
        world = self._world
        world.note(f"registry {sorted((v.seat, v.weight) for v in members.values())}")
        for member in world.members.values():
            if member.up:
                self._tell_later(member)

    def recover(self, epoch: int, height: int, block_hash: bytes) -> Recovery:
        """The owners' vote is carried out: those of now go on from a block of ``epoch``."""
        world, last = self._world, self.recoveries[-1] if self.recoveries else None
        era = (era_of(last.epoch) if last else 0) + world.rng.choice((1, 1, 3))
        block = max(self.views[-1][0].block_number, last.chain_block if last else 0) + 1
        members = self.views[-1][0].validators
        seed = keccak256(b"recovery %d %d" % (era, world.scenario.seed))
        named = era * ERA + era_of(epoch)
        recovery = Recovery(named, height, block_hash, members, seed, block)
        self.recoveries.append(recovery)
        seats = [v.seat for v in members]
        world.note(f"recovery {recovery.epoch} at {height} {block_hash[:4].hex()} of {seats}")
        lagging = world.rng.choice(self.views) if world.rng.random() < 0.4 else None
        for member in world.members.values():
            if member.up:
                self._look_later(member)
                if lagging is not None:  # endpoints may show what was, for once
                    world.after(2 * self._lag_ms(), self._tell, member, member.life, *lagging)
        return recovery

    def starting(self, member: Member) -> None:
        """As the daemon does, one with an empty disk waits for the chain before it starts."""
        if self.recoveries and member.seat in self._world.losses.prompt:
            self._look(member, member.life, *self._now(), starts=True)

    def started(self, member: Member) -> None:
        """A member that starts reads the registry; an endpoint may show it what was long ago."""
        world = self._world
        if self.recoveries and member.seat in world.losses.prompt:
            return
        if self.recoveries:
            if world.rng.random() < 0.25:
                self._tell(member, member.life, *world.rng.choice(self.views))
            self._look_later(member)
        if len(self.views) > 1:
            self._tell_later(member)

    def check(self, before: Members, after: Members, record: NextEpoch) -> None:
        """For the oracle: each seat of the next set is as it was or as the registry says.

        In other words than the engine's: nobody else, from a block that exists, and with so little
        changed that the old quorum and the new one share what they need, or one seat only.
        """
        fail = self._world.oracle.fail
        known = {view.block_number: view for view, _ in self.views}
        view = known.get(record.chain_block)
        if view is None or (view.block_hash, view.digest, view.seed) != (
            record.chain_hash,
            record.digest,
            record.seed,
        ):
            fail(f"epoch {record.epoch} comes from a chain block that does not exist")
            return
        target = {v.seat: v for v in view.validators}
        changed = []
        for seat in before.keys() | after.keys():
            if after.get(seat) == before.get(seat):
                continue
            changed.append(seat)
            if after.get(seat) != target.get(seat):
                fail(f"epoch {record.epoch} has seat {seat} as nobody else does")
        old, new = _weights(before), _weights(after)
        lost = sum(max(0, old.get(s, 0) - new.get(s, 0)) for s in changed)
        gained = sum(max(0, new.get(s, 0) - old.get(s, 0)) for s in changed)
        steady = 3 * lost < sum(old.values()) and 3 * gained < sum(new.values())
        if len(changed) != 1 and not steady:
            fail(f"epoch {record.epoch} changes too much at once: {before} {after}")

    def _view(self, members: Members, revoked: frozenset[int]) -> None:
        number = 100 + 7 * len(self.views)
        ordered = tuple(members[seat] for seat in sorted(members))
        told = repr([(v.seat, v.weight, v.node_key) for v in ordered]).encode()
        hash_ = keccak256(b"chain block %d %d" % (number, self._world.scenario.seed))
        view = ChainView(number, hash_, keccak256(told), keccak256(b"seed" + hash_), ordered)
        self.views.append((view, revoked))

    def _lag_ms(self) -> float:
        rng = self._world.rng
        return rng.choice((50.0, 500.0, 1500.0, 5000.0)) * rng.random()

    def _tell_later(self, member: Member) -> None:
        self._world.after(self._lag_ms(), self._tell, member, member.life, *self.views[-1])

    def _now(self) -> tuple[int, ChainView, frozenset[int]]:
        return (len(self.recoveries), *self.views[-1])

    def _look_later(self, member: Member) -> None:
        self._world.after(self._lag_ms(), self._look, member, member.life, *self._now())

    def _look(
        self,
        member: Member,
        life: int,
        count: int,
        view: ChainView,
        revoked: frozenset[int],
        *,
        starts: bool = False,
    ) -> None:
        """As the daemon tells what a look shows: recoveries first when the core starts with it."""
        told = self._told.get((member.seat, life), 0)
        if member.life != life or count <= told:
            return
        self._told[member.seat, life] = count
        if not starts:
            member.handle(MembershipSeen(view, revoked))
        if member.life == life:
            member.handle(RecoverySeen(tuple(self.recoveries[told:count])))
        if starts:
            self._tell(member, life, view, revoked)

    def _tell(self, member: Member, life: int, view: ChainView, revoked: frozenset[int]) -> None:
        if member.life == life:
            member.handle(MembershipSeen(view, revoked))


def _weights(members: Members) -> dict[int, int]:
    return {v.seat: v.weight for v in members.values()}
