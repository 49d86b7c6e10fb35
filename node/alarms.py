"""What an operator must look at now: the alarms of ``status``, each explained in docs/alarms.md."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from node.service import NodeService

FINALITY_STALL_S = 1800  # Ethereum finalizes every six minutes, what stands on it a little later
UNREAD_S = 60  # endpoints may be away or disagree for a moment
# Votes wait for a block that is 2 s ahead of their member's clock, and a commit takes its time.
CLOCK_OFF_MS = 4_000
CLOCK_OFF_S = 10  # a node that stood still takes up what was final meanwhile


class ClockWatch:
    """This node's clock beside block time, which more than a third of correct weight stands for."""

    def __init__(self) -> None:
        self.ahead_ms: int | None = None  # as the newest block was applied
        self._off_since_s: float | None = None
        self._off_until_s = 0.0

    def saw(self, block_time_ms: int) -> None:
        """A block was applied, just now."""
        self.ahead_ms = time.time_ns() // 1_000_000 - block_time_ms
        self._off_until_s = time.monotonic()
        if abs(self.ahead_ms) < CLOCK_OFF_MS:
            self._off_since_s = None
        elif self._off_since_s is None:
            self._off_since_s = self._off_until_s

    def alarm(self) -> str | None:
        """What is wrong with the clock, if all blocks of a while say so: one alone may be what was
        under way when the cluster stood still, and became final late."""
        if self.ahead_ms is None or self._off_since_s is None:
            return None
        if self._off_until_s - self._off_since_s < CLOCK_OFF_S:
            return None
        where = "ahead of" if self.ahead_ms > 0 else "behind"
        return f"this node's clock is {abs(self.ahead_ms) // 1000} s {where} the cluster's time"


def alarms_of(service: NodeService) -> list[str]:
    """One line each; nothing while all is well."""
    keeper, registry, driver = service.keeper, service.registry, service.driver
    found = [f"halted: {service.halted}"] if service.halted else []
    if keeper is not None and keeper.alarm:
        found.append(f"the chain must not be followed any further: {keeper.alarm}")
    age_s = registry.reader.finalized_age_s() if registry is not None else None
    if age_s is not None and age_s > FINALITY_STALL_S:
        found.append(f"the chain's finalized block has not moved for {age_s:.0f} s")
    unread_s = registry.failing_s() if registry is not None else None
    if registry is not None and unread_s is not None and unread_s > UNREAD_S:
        found.append(
            f"the registry is not followed: for {unread_s:.0f} s nothing new could be read "
            f"from it: {registry.last_error or 'a look does not end'}"
        )
    if driver is not None and keeper is not None and keeper.trouble:
        what = "the registry does not show this node on its seat"
        if (left_s := keeper.lease_left_s()) is not None:
            what = f"this node's lease or endpoint cannot be renewed, {left_s} s are left"
        found.append(f"{what}: {keeper.trouble}")
    off = service.clock.alarm()
    if off is not None and driver is not None and not driver.engine.status().lag:
        found.append(off)
    for part in (service.feed, service.attestation):
        found += part.alarms() if part is not None else []
    return found
