"""Follows a registry: turns looks at it into views of who votes that are the same on every node.

Theory of operation. Nodes look at different finalized blocks, as often as their endpoints let them.
What they hand on must not depend on that, or members would compare different things. So a view is
named by the block of the change that made it, never by the block of the look. The registry names
the newest such change; when several lay between two looks, the events in between give each of
them, and the digest, which endpoints agreed on, proves that none is missing. A node that starts
hands on the newest view only: what was before it is for the cluster's own history to tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import structlog

from chain.errors import BadChainData, NoAgreement
from chain.membership import (
    Change,
    Membership,
    PolicyText,
    RecoveryVote,
    SetView,
    Sighting,
    Voter,
)
from chain.replay import Sets, active_members

if TYPE_CHECKING:
    from chain.evm import EvmRegistry

RECOVERIES_MAX = 1024

_log = structlog.get_logger("chain.follow")


class Follower:
    """One reader of a registry; each ``look`` tells what is new since the one before."""

    def __init__(self, registry: EvmRegistry) -> None:
        self._registry = registry
        self._told: Membership | None = None
        self._policy: PolicyText | None = None
        self._recoveries = 0

    async def look(self) -> Sighting | None:
        """What the newest finalized block shows, None when it is the one of the last look.

        Raises:
            ChainError: see ``EvmRegistry.snapshot``; the next look tells everything then.
        """
        now, told = await self._registry.snapshot(), self._told
        policy, told_policy = self._registry.policy, self._policy
        if told is not None and told.block_hash == now.block_hash:
            return None
        views = await self._views(told, now)
        recoveries = await self._opened(now)
        self._told, self._policy = now, policy
        self._recoveries = now.recoveries
        changed = told is None or _shape(told) != _shape(now) or policy != told_policy
        return Sighting(now, changed, tuple(views), tuple(recoveries), policy)

    async def _views(self, told: Membership | None, now: Membership) -> list[SetView]:
        newest = now.last_change
        if newest is None or (told is not None and told.last_change == newest):
            return []
        earlier: list[SetView] = []
        if told is not None and now.version > told.version + 1:
            try:
                earlier = await self._between(told, now)
            except NoAgreement as error:
                # Only an order of views is lost, and only on this node: the newest is what counts.
                _log.warning("views_skipped", reason=str(error))
        return [*earlier, await self._view(newest, _voters(now))]

    async def _between(self, told: Membership, now: Membership) -> list[SetView]:
        """The views of changes after one look and before the newest change of the other."""
        assert now.last_change is not None
        since = Change(told.block_number, told.version, told.digest)
        up_to = Change(now.block_number, now.version, now.digest)
        voters = {v.seat: v for v in _voters(told)}
        sets = await self._registry.history.folded(lambda: Sets(voters), since, up_to)
        steps = sets.found()
        if not steps or steps[-1] != (now.last_change, _voters(now)):
            raise BadChainData("the registry's events do not lead to the members it shows")
        return [await self._view(change, voters) for change, voters in steps[:-1]]

    async def _view(self, change: Change, voters: Sequence[Voter]) -> SetView:
        header = await self._registry.reader.header_at(change.block_number)
        if header is None:
            raise BadChainData(f"block {change.block_number} of a change is not there")
        return SetView(
            block_number=header.number,
            block_hash=header.hash,
            prev_randao=header.prev_randao,
            version=change.version,
            digest=change.digest,
            voters=tuple(voters),
        )

    async def _opened(self, now: Membership) -> list[RecoveryVote]:
        if not self._recoveries <= now.recoveries <= RECOVERIES_MAX:
            raise BadChainData(
                f"{now.recoveries} recoveries, {self._recoveries} to {RECOVERIES_MAX} expected"
            )
        new = range(self._recoveries, now.recoveries)
        return [await self._recovery(index, now) for index in new]

    async def _recovery(self, index: int, now: Membership) -> RecoveryVote:
        found = await self._registry.recovery(index)
        up_to = found.change
        if now.last_change is not None and now.last_change.version <= up_to.version:
            voters = _voters(now)  # nothing changed since
        else:
            members = active_members(await self._registry.history.seats_at(up_to))
            voters = tuple(Voter(m.seat, m.weight, m.node_key) for m in members)
        return RecoveryVote(
            found.epoch, found.height, found.block_hash, await self._view(up_to, voters)
        )


def _voters(membership: Membership) -> tuple[Voter, ...]:
    return tuple(Voter(m.seat, m.weight, m.node_key) for m in membership.active())


def _shape(membership: Membership) -> object:
    """Everything but the block, with what the passing of time alone changes."""
    m = membership
    speaking = tuple(row.seat for row in m.members if m.speaks(row.seat, row.node_key))
    return m.version, m.members, m.roots, m.recoveries, m.pending_recovery, speaking
