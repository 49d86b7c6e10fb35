"""A bound on what each member can make us do in a time (R10, R12)."""

from __future__ import annotations


class TokenBuckets:
    """How often a member may make us do something that costs: one bucket for each seat.

    ``burst`` at once, and one more every ``refill_ms``.
    """

    def __init__(self, burst: int, refill_ms: int) -> None:
        self._burst = burst
        self._refill_ms = refill_ms
        self._full_at: dict[int, int] = {}  # when a seat's bucket is full again, ms

    def take(self, seat: int, now_ms: int) -> bool:
        """Takes a token of a seat; False when it has none left."""
        full_at = max(self._full_at.get(seat, 0), now_ms)
        if full_at - now_ms > (self._burst - 1) * self._refill_ms:
            return False
        self._full_at[seat] = full_at + self._refill_ms
        return True

    def keep(self, seats: set[int]) -> None:
        """Forgets all other seats."""
        self._full_at = {s: at for s, at in self._full_at.items() if s in seats}
