"""Has nodes taken out of the registry that lost their say and do not come back: sweeps.

Theory of operation. A node whose lease, root or app ended has no say at once: every member reads
that from the same final block (``Membership.speaks``). Its weight stays in the total, though, until
somebody sweeps, which anybody may; with each such seat the cluster can do without one member less.
So members see to it themselves, in turns, the leader first. They give it time, because a node that
was only late with its lease announces itself and is back, while one that was swept has to register
anew. And they sweep nothing while those who speak are no quorum of the registry's weight, nor while
the registry is paused, when nobody can renew a lease: a cluster would sweep itself empty, seat by
seat. Then people decide.

What one node does here binds nobody: the contract judges each seat, and the cluster follows what is
final there. The contract refuses nothing, so a turn is longer than a block takes to become final.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
import trio

from chain import ChainError, Membership

GRACE_S = 600.0
TURN_S = 3600.0  # finality takes up to half an hour on a rollup
RETRY_S = 300.0
POLL_S = 5.0

_log = structlog.get_logger("node.sweeping")


@dataclass(slots=True)
class _Mute:
    """A node without a say, since when we know, and when it was last swept or tried."""

    since_s: float
    tried_s: float | None = None
    reason: str = ""


class Sweeper:
    """Looks at the registry's newest membership, and sweeps when it is our turn.

    Args:
        sweep: sends the transaction for these seats; raises ChainError.
        is_paused: whether the registry lets nobody renew a lease; raises ChainError.
        membership: the newest, None before the first.
        turn: how many members come before us, None without a vote.
        seat: our own, which we leave to others.
    """

    def __init__(
        self,
        sweep: Callable[[Sequence[int]], Awaitable[object]],
        is_paused: Callable[[], Awaitable[bool]],
        membership: Callable[[], Membership | None],
        turn: Callable[[], int | None],
        seat: int,
        *,
        grace_s: float = GRACE_S,
        turn_s: float = TURN_S,
        poll_s: float = POLL_S,
    ) -> None:
        self._sweep = sweep
        self._is_paused = is_paused
        self._membership = membership
        self._turn = turn
        self._seat = seat
        self._grace_s = grace_s
        self._turn_s = turn_s
        self._poll_s = poll_s
        self._found: dict[tuple[int, bytes], _Mute] = {}  # by seat and key

    async def run(self) -> None:
        """Sweeps until cancelled."""
        while True:
            membership = self._membership()
            if membership is not None:
                await self._look(membership)
            await trio.sleep(self._poll_s)

    async def _look(self, membership: Membership) -> None:
        now_s = trio.current_time()
        mute = {(m.seat, m.node_key) for m in membership.mute() if m.seat != self._seat}
        self._found = {key: self._found.get(key) or _Mute(now_s) for key in mute}
        due = {key[0]: row for key, row in self._found.items() if self._is_due(row, now_s)}
        if not due:
            return
        try:
            reason = await self._why_not(membership)
            if not reason:
                await self._sweep(sorted(due))
                _log.warning("swept", seats=sorted(due))
        except ChainError as error:
            reason = str(error)
        for row in due.values():
            if reason and reason != row.reason:
                _log.warning("not_swept", seats=sorted(due), reason=reason)
            row.tried_s, row.reason = now_s, reason

    async def _why_not(self, membership: Membership) -> str:
        """Why people must decide; empty when nothing speaks against a sweep."""
        total = sum(m.weight for m in membership.active())
        speaking = total - sum(m.weight for m in membership.mute())
        if 3 * speaking <= 2 * total:
            return f"those who speak hold {speaking} of {total}, which is no quorum"
        return "the registry is paused" if await self._is_paused() else ""

    def _is_due(self, row: _Mute, now_s: float) -> bool:
        turn = self._turn()
        if turn is None or now_s < row.since_s + self._grace_s + turn * self._turn_s:
            return False
        # Swept, it is gone when that is final; until a turn later nothing is wrong.
        again_s = RETRY_S if row.reason else self._turn_s
        return row.tried_s is None or now_s >= row.tried_s + again_s

    def status(self) -> list[dict[str, Any]]:
        """JSON-ready: nodes without a say, for how long, and why they are not swept yet."""
        now_s = trio.current_time()
        return [
            {"seat": seat, "mute_s": round(now_s - row.since_s), "reason": row.reason}
            for (seat, _), row in sorted(self._found.items())
        ]
