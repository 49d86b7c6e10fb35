"""A quorum that is lost for good, and what the owners of its seats do about it (R21).

They do as ``docs/membership.md`` says: take the lost seats off the registry, look at what those who
are left have, vote for a block of theirs. A member that stops over it is started again; when it
stops again its disk is emptied, and it begins anew.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from consensus.epochs import opened_set

from .histories import era_of
from .scenario import Loss
from .store import SimStore

if TYPE_CHECKING:
    from .members import Member
    from .world import World

REVIEW_MS = 6_000.0  # when every member that runs has seen the vote


class Losses:
    """The losses of a scenario. ``down`` are seats whose machines do not run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.down: set[int] = set()
        self.prompt: set[int] = set()  # those that wait for the chain before they start
        self.lost: set[int] = set()  # given up by the owners
        self.outdated: set[int] = set()  # came back with the disk of a while ago
        self._voted: set[Loss] = set()
        self._last: Loss | None = None  # that was voted on
        self._stops: dict[int, int] = {}  # seat -> recoveries that there were when it stopped
        self._old: dict[int, SimStore] = {}

    def plan(self) -> None:
        """Puts what will happen on the heap."""
        world = self._world
        for loss in world.scenario.losses:
            world.after(loss.at_ms, self._strike, loss)
            world.after(loss.vote_ms, self._vote, loss)
            if loss.how != "gone":
                world.after(loss.back_ms, self._back, loss)
            if loss.how == "old":
                for seat in loss.seats:
                    world.after(world.rng.uniform(0.0, loss.at_ms), self._remember, seat)

    def _remember(self, seat: int) -> None:
        self._old[seat] = self._world.members[seat].store.copy()

    def _strike(self, loss: Loss) -> None:
        world = self._world
        world.note(f"lost {loss.seats}: {loss.how}")
        self.lost |= set(loss.seats)
        if loss.how == "cut":
            world.network.separate(loss.seats)
            return
        for seat in loss.seats:
            if not world.members[seat].correct:  # they do not crash
                world.network.separate((seat,))
                continue
            self.down.add(seat)
            if world.members[seat].up:
                world.members[seat].crash()

    # --- the owners ---

    def _vote(self, loss: Loss) -> None:
        """A block is named that its holder will not lose: it is on a disk that stays as it is."""
        world = self._world
        found = [
            member.store
            for member in world.correct
            if member.seat not in self.lost and self._stays(member) and _is_at_rest(member)
        ]
        members = {s: v for s, v in world.chain.members.items() if s not in self.lost}
        if not found or not members:
            world.after(200.0, self._vote, loss)
            return
        if members != world.chain.members:
            world.chain.change(members)
        best = max(found, key=_how_far)
        self._last = replace(loss, names="highest")
        if loss.names == "none":
            world.chain.recover(_epoch_of(best), best.tip.height, world.rng.randbytes(32))
        else:
            named = world.rng.choice(found) if loss.names == "any" else best
            world.chain.recover(_epoch_of(named), named.tip.height, named.tip.hash)
            self._voted.add(replace(loss, names=""))
            if world.rng.random() < 0.3:
                self._lose_one_disk(named)
        world.after(REVIEW_MS, self._review, replace(loss, names="highest"))

    def _review(self, loss: Loss) -> None:
        """All have seen it, and nobody went on: nobody had its block, or all were beyond it."""
        if loss == self._last and not self._went_on():
            self._vote(loss)

    def _went_on(self) -> bool:
        """True when a member of the new set, which keeps its disk, has the named block."""
        recovery = self._world.chain.recoveries[-1]
        era, seats = era_of(recovery.epoch), {v.seat for v in recovery.validators}
        return any(
            era_of(_epoch_of(member.store)) == era
            for member in self._world.correct
            if member.seat in seats and self._stays(member)
        )

    def _stays(self, member: Member) -> bool:
        return member.seat not in self._world.scenario.fragile

    def _lose_one_disk(self, named: SimStore) -> None:
        """Of those who are left, one has its machine, and nothing of what was on its disk."""
        world = self._world
        seats = [
            m.seat
            for m in world.correct
            if m.seat not in self.lost and m.store is not named and m.store.tip.height
        ]
        if seats:
            member = world.members[world.rng.choice(seats)]
            world.note(f"emptied {member.seat}")
            if member.up:
                member.crash()
            self._empty(member.seat)
            member.halted = None
            world.boot(member.seat)

    # --- whoever comes back ---

    def _back(self, loss: Loss) -> None:
        """Not before the vote: a third and more that forgot what they signed could do anything."""
        world = self._world
        if replace(loss, names="") not in self._voted:
            world.after(300.0, self._back, loss)
            return
        world.note(f"back {loss.seats}")
        if loss.how == "cut":
            world.network.join(loss.seats)
        for seat in loss.seats:
            if not world.members[seat].correct:
                world.network.join((seat,))
                continue
            self.down.discard(seat)
            if loss.how == "old" and seat in self._old:
                world.members[seat].store = self._old[seat]
                self.outdated.add(seat)
                world.oracle.rolled_back(seat)
                self.prompt.add(seat)
            elif loss.how == "empty":
                self._empty(seat)
            world.boot(seat)
        if not world.calm and world.rng.random() < 0.5:
            world.after(world.rng.uniform(0.0, 1000.0), self._take_in, loss)

    def _take_in(self, loss: Loss) -> None:
        """Correct ones get their vote back, by an epoch of the new era."""
        world = self._world
        members = dict(world.chain.members)
        for seat in loss.seats:
            if world.members[seat].correct and seat not in world.scenario.fragile:
                self.lost.discard(seat)
                members[seat] = world.registrable[seat]
        if members != world.chain.members:
            world.chain.change(members)

    def stopped(self, member: Member) -> None:
        """What is final on it is not what the chain named."""
        world, count = self._world, len(self._world.chain.recoveries)
        again = self._stops.get(member.seat) == count
        self._stops[member.seat] = count
        world.note(f"stopped {member.seat}")
        world.after(world.rng.uniform(100.0, 2000.0), self._start_again, member, again, count)

    def _start_again(self, member: Member, again: bool, count: int) -> None:
        """With an empty disk only when others went on: it may have what is to be named yet."""
        voted_anew = count != len(self._world.chain.recoveries)
        empty = again and not voted_anew and self._went_on()
        member.halted = None
        if member.up:
            member.crash()
        if empty:
            self._empty(member.seat)
        self._world.boot(member.seat)

    def _empty(self, seat: int) -> None:
        world = self._world
        world.members[seat].store = world.new_store(seat)
        world.oracle.emptied(seat)
        self.prompt.add(seat)


def _how_far(store: SimStore) -> tuple[int, int]:
    """Epoch and height, as ``status`` tells them."""
    return _epoch_of(store), store.tip.height


def _epoch_of(store: SimStore) -> int:
    openings = store.openings_now()
    return opened_set(openings[-1]).epoch if openings else 0


def _is_at_rest(member: Member) -> bool:
    """True when all that is final on it is on its disk."""
    return member.engine is None or member.engine.ledger.tip.height == member.store.tip.height
