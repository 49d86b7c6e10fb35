"""Many deadlines and one sleeping task: moving one to later, what most do, costs a dict entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, TypeVar

import trio

K = TypeVar("K")


class Deadlines(Generic[K]):
    """Named deadlines on trio's clock."""

    def __init__(self) -> None:
        self._at: dict[K, float] = {}
        self._sleep = trio.CancelScope()

    def set(self, key: K, at: float) -> None:
        """Sets or moves a deadline."""
        self._at[key] = at
        if at < self._sleep.deadline:
            self._sleep.deadline = at

    def cancel(self, key: K) -> None:
        """Forgets a deadline, if it is set."""
        self._at.pop(key, None)

    async def run(self, fire: Callable[[K], None]) -> None:
        """Calls ``fire`` once for each deadline that passes, and forgets it. Until cancelled."""
        while True:
            earliest = min(self._at.values(), default=math.inf)
            with trio.CancelScope(deadline=earliest) as self._sleep:
                await trio.sleep_forever()
            # After a standstill the tasks that read have their turn first: what they bring may
            # move a deadline, and often does.
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()
            now = trio.current_time()
            for key in [key for key, at in self._at.items() if at <= now]:
                del self._at[key]
                fire(key)
