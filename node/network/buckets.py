"""Token bucket on trio's clock."""

from __future__ import annotations

import trio


class TokenBucket:
    """Allows ``rate_per_s`` on average and ``burst`` at once."""

    __slots__ = ("_burst", "_rate_per_s", "_time", "tokens")

    def __init__(self, rate_per_s: float, burst: float) -> None:
        self._rate_per_s = rate_per_s
        self._burst = burst
        self.tokens = burst
        self._time = trio.current_time()

    def _refill(self, now: float) -> None:
        self.tokens = min(self._burst, self.tokens + (now - self._time) * self._rate_per_s)
        self._time = now

    def try_take(self, amount: float = 1.0) -> bool:
        """Take if there is enough."""
        self._refill(trio.current_time())
        if self.tokens < amount:
            return False
        self.tokens -= amount
        return True

    def charge(self, amount: float, now: float) -> float:
        """Take in any case; give back the seconds to pause until the debt is paid."""
        self._refill(now)
        self.tokens -= amount
        return -self.tokens / self._rate_per_s if self.tokens < 0 else 0.0
