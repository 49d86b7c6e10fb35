"""Tells the log what the status tells whoever asks: the state, and alarms as they come and go.

A log that is kept answers later what nobody asked at the time: since when was there no quorum, and
when did that alarm end. Numbers in a reason or an alarm change all the time (an age, a height);
that alone is no news.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

import structlog
import trio

LOOK_S = 1.0


class Reports(Protocol):
    """What is looked at: ``NodeService`` is one."""

    def state(self) -> tuple[str, str]:
        """State and reason, as in the status."""
        ...

    def alarms(self) -> list[str]:
        """What an operator must look at now, one line each."""
        ...


class Lookout:
    """Looks at a node once a second and logs what is new."""

    def __init__(self, node: Reports) -> None:
        self._node = node
        self._state = "booting"
        self._reason = ""
        self._alarms: dict[str, str] = {}
        self._log = structlog.get_logger("node.lookout")

    async def run(self) -> None:
        """Looks until cancelled. A defect in what is looked at is told, and ends no node."""
        defect = ""
        while True:
            try:
                self.look()
            except Exception as error:
                if repr(error) != defect:
                    self._log.exception("look_failed")
                defect = repr(error)
            await trio.sleep(LOOK_S)

    def look(self) -> None:
        """Logs ``state``, ``alarm`` and ``alarm_over``, each only when it is news."""
        state, reason = self._node.state()
        # What a node waits for before its core runs has lines of its own.
        if state != "booting" and (state, _shape(reason)) != (self._state, self._reason):
            tell = self._log.warning if self._state == "active" else self._log.info
            tell("state", state=state, before=self._state, reason=reason)
            self._state, self._reason = state, _shape(reason)
        alarms = _by_shape(self._node.alarms())
        for shape, text in alarms.items():
            if shape not in self._alarms:
                self._log.critical("alarm", reason=text)
        for shape, text in self._alarms.items():
            if shape not in alarms:
                self._log.info("alarm_over", reason=text)
        self._alarms = alarms


def _by_shape(texts: Iterable[str]) -> dict[str, str]:
    return {_shape(text): text for text in texts}


def _shape(text: str) -> str:
    return re.sub(r"\d+", "0", text)
