"""What the finalized registry shows, handed on: to the core as views, to the mesh as addresses.

The core compares views with other members', so it gets them as ``chain`` made them: the same on
every node. Only three things here are this node's own and decide nothing by themselves: whom to
keep links with, whose single votes not to count any more, and what to tell the operator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

import structlog
import trio

from chain import Membership, RecoveryVote, SetView, Sighting
from consensus import limits
from consensus.epochs import counted, era_of, next_set, recovery_epoch, way_to_newest
from consensus.interface import (
    ChainHead,
    EpochOpened,
    Event,
    MembershipSeen,
    RecoverySeen,
)
from consensus.order import chain_seed
from consensus.types import ChainView, Recovery
from consensus.validators import Validator, ValidatorSet
from node.network import PeerAddress


class Links(Protocol):
    """What is needed of the mesh."""

    def set_members(self, members: Iterable[PeerAddress]) -> None: ...


class MembershipFeed:
    """Between the registry and the core.

    Args:
        cluster_id: 32 bytes.
        seat: our own.
        links: gets everybody to link with: whoever the registry shows as active, and the members
            of the current and the previous set, who may have to serve what others miss.
        on_change: called after each change of what the operator sees.
    """

    def __init__(
        self,
        cluster_id: bytes,
        seat: int,
        links: Links,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self.newest: Membership | None = None
        self.view: ChainView | None = None
        self.revoked: frozenset[int] = frozenset()
        self._cluster_id = cluster_id
        self._seat = seat
        self._links = links
        self._on_change = on_change
        self._recoveries: list[Recovery] = []
        self._told = 0  # how many of them the core knows
        self._newest_number = 0  # that a recovery used up, also one that nobody can follow
        self._seen = trio.Event()  # the chain has answered
        self._current: ValidatorSet | None = None
        self._previous: ValidatorSet | None = None
        self._tell: Callable[[Event], None] | None = None
        self._unusable = ""  # why the registry's newest set cannot be followed
        self._log = structlog.get_logger("node.membership")

    # --- in ---

    def remember(self, membership: Membership) -> None:
        """What an earlier run saw last: good enough to find the others, until the chain answers."""
        if self.newest is None:
            self.newest = membership
            self._apply()

    def saw(self, seen: Sighting) -> None:
        """A new finalized block of the chain."""
        self.newest = seen.membership
        for found in seen.views:
            view = chain_view(found, self._cluster_id)
            if view is None:
                self._unusable = (
                    f"the registry's set of block {found.block_number} cannot be followed: it has"
                    f" {len(found.voters)} voters, 1 to {limits.MEMBERS_MAX} are possible"
                )
                continue
            self.view, self._unusable = view, ""
            self._log.info(
                "membership_changed",
                block=view.block_number,
                seats=[v.seat for v in view.validators],
                weight=sum(v.weight for v in view.validators),
            )
            if self._tell is not None:
                self._tell(MembershipSeen(view, self.revoked))
        for vote in seen.recoveries:
            self._recovery(vote)
        self._tell_recoveries()
        if seen.changed:
            self._apply()
        if self._tell is not None:
            self._tell(_head(seen.membership))
        self._seen.set()

    async def see_again(self, recovery: int, epoch: int, say: Callable[[str], None]) -> None:
        """Waits for the chain, when an earlier run saw it open an era that ``epoch`` is not in.

        Until the core sees that recovery too (R21), it would vote in epochs that are over, and of
        which it knows nothing if its disk was emptied.
        """
        if era_of(recovery) > era_of(epoch) and not self._seen.is_set():
            say(f"waiting for the chain, which showed a recovery that opens epoch {recovery}")
            await self._seen.wait()

    def attach(
        self,
        tell: Callable[[Event], None],
        current: ValidatorSet,
        previous: ValidatorSet | None = None,
    ) -> None:
        """The core runs: ``tell`` gives it an event. It gets at once what is known by now."""
        self._tell = tell
        self._current, self._previous = current, previous
        self._tell_recoveries()
        if self.view is not None:
            tell(MembershipSeen(self.view, self.revoked))
        self._apply()
        if self.newest is not None:
            tell(_head(self.newest))

    def opened(self, notice: EpochOpened) -> None:
        """Another epoch began."""
        self._previous, self._current = self._current, notice.validators
        self._log.warning(
            "epoch_opened",
            epoch=notice.validators.epoch,
            height=notice.height,
            seats=list(notice.validators.seats),
            weight_total=notice.validators.total,
            member=notice.member,
        )
        self._apply()

    @property
    def newest_recovery(self) -> int:
        """The epoch of the recovery that counts by what the chain showed; 0: there is none."""
        way = way_to_newest(self._recoveries)
        return way[-1].epoch if way else 0

    # --- out ---

    def _recovery(self, vote: RecoveryVote) -> None:
        view = chain_view(vote.view, self._cluster_id)
        self._log.critical(
            "recovery_opened",
            epoch=vote.epoch,
            height=vote.height,
            block_hash=vote.block_hash.hex(),
            usable=view is not None,
        )
        self._newest_number = max(self._newest_number, vote.epoch)
        if view is None:
            return
        recovery = Recovery(
            vote.epoch,
            vote.height,
            vote.block_hash,
            view.validators,
            view.seed,
            view.block_number,
        )
        self._recoveries.append(recovery)

    def _tell_recoveries(self) -> None:
        """Gives the core each once, as soon as it runs, and all of them at its start.

        One that it is beyond must stop it, unless a later one has taken its place.
        """
        new = tuple(self._recoveries[self._told :])
        if self._tell is not None and new:
            self._told = len(self._recoveries)
            self._tell(RecoverySeen(new))

    def _apply(self) -> None:
        """Whatever follows from the newest membership and the set that votes."""
        revoked = self._find_revoked()
        if revoked != self.revoked:
            self._log.warning("revoked", seats=sorted(revoked))
            self.revoked = revoked
            if self._tell is not None and self.view is not None:
                self._tell(MembershipSeen(self.view, revoked))
        self._links.set_members(self._addresses())
        self._on_change()

    def _find_revoked(self) -> frozenset[int]:
        """Members of the set whose node the newest membership does not speak for any more."""
        if self._current is None or self.newest is None:
            return frozenset()
        speaks = self.newest.speaks
        return frozenset(v.seat for v in self._current.validators if not speaks(v.seat, v.node_key))

    def _addresses(self) -> list[PeerAddress]:
        """One per seat: the node that the registry shows, else the one that had a vote last.

        A node whose key was replaced is cut off at once. One that merely left still serves, until
        it is in neither set.
        """
        if self.newest is None:
            return []
        found: dict[int, PeerAddress] = {}
        for member in self.newest.active():
            found[member.seat] = PeerAddress(member.seat, member.node_key, member.endpoint)
        for validators in (self._current, self._previous):
            for v in validators.validators if validators is not None else ():
                row = self.newest.member(v.seat)
                endpoint = row.endpoint if row is not None and row.node_key == v.node_key else ""
                found.setdefault(v.seat, PeerAddress(v.seat, v.node_key, endpoint))
        found.pop(self._seat, None)
        return [address for _, address in sorted(found.items())]

    # --- for the operator ---

    def pending(self) -> dict[str, list[int]] | None:
        """Seats that the registry's newest view changes against the set that votes, or None."""
        if self.view is None or self._current is None:
            return None
        want = {v.seat: v for v in self.view.validators}
        have = {v.seat: v for v in self._current.validators}
        if want == have:
            return None
        both = want.keys() & have.keys()
        return {
            "joining": sorted(want.keys() - have.keys()),
            "leaving": sorted(have.keys() - want.keys()),
            "changing": sorted(seat for seat in both if want[seat] != have[seat]),
        }

    def alarms(self) -> list[str]:
        """What an operator must look at now, one line each; empty when all is well."""
        found = [self._unusable] if self._unusable else []
        current = self._current
        if current is not None and self.view is not None:
            step = next_set(current.validators, self.view.validators)
            if step != self.view.validators:
                seats = ", ".join(str(v.seat) for v in step)
                found.append(
                    "the registry changes more than one epoch may; the next set is seats"
                    f" {seats}, the rest follows after it"
                )
        if current is not None and self.revoked:
            left = current.total - sum(current.weights[seat] for seat in self.revoked)
            if not current.is_quorum(left):
                seats = ", ".join(map(str, sorted(self.revoked)))
                found.append(
                    f"revoked but needed for the quorum: seats {seats} (without them weight {left}"
                    f" of {current.total}, a quorum is {current.quorum_weight})"
                )
        waiting = self.newest.pending_recovery if self.newest is not None else None
        if waiting is not None:
            found.append(
                f"a recovery is announced on the chain: epoch {waiting.epoch} on height"
                f" {waiting.height}, block {waiting.block_hash.hex()}, from {waiting.ready_at_s}"
                " (Unix seconds) on; guardian and contract owner may veto it"
            )
            announced = Recovery(waiting.epoch, waiting.height, waiting.block_hash, (), b"", 0)
            if announced not in counted([*self._recoveries, announced]):
                found.append(
                    f"no node will open epoch {waiting.epoch} by that recovery: on a block of this"
                    f" node seat owners must vote for epoch {self._recovery_epoch()}"
                )
        return found

    def status(self) -> dict[str, Any]:
        """JSON-ready: what changes, who is revoked, at which block of the chain we are."""
        return {
            "chain_block": None if self.view is None else self.view.block_number,
            "pending": self.pending(),
            "revoked": sorted(self.revoked),
            "recoveries": len(self._recoveries),
            "recovery_epoch": self._recovery_epoch(),
        }

    def _recovery_epoch(self) -> int:
        """What a recovery on a block of this node would have to name now (R21)."""
        current = self._current.epoch if self._current is not None else 0
        return recovery_epoch(current, self._newest_number)


def chain_view(view: SetView, cluster_id: bytes) -> ChainView | None:
    """A view as the core takes it; None when no set can be made of it (nobody, or too many)."""
    if not 1 <= len(view.voters) <= limits.MEMBERS_MAX:
        return None
    if any(not 1 <= voter.weight <= limits.WEIGHT_MAX for voter in view.voters):
        return None
    return ChainView(
        block_number=view.block_number,
        block_hash=view.block_hash,
        digest=view.digest,
        seed=chain_seed(cluster_id, view.block_hash, view.prev_randao),
        validators=tuple(Validator(v.seat, v.weight, v.node_key) for v in view.voters),
    )


def _head(membership: Membership) -> ChainHead:
    return ChainHead(membership.block_number, membership.block_time_s * 1000)
