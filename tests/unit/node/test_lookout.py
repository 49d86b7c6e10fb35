"""What a node's log tells by itself: the state and the alarms, when they change."""

from __future__ import annotations

from typing import Any

import structlog
import trio
import trio.testing

from node.lookout import Lookout


class Told:
    """A node that says what the test wants."""

    def __init__(self) -> None:
        self.now = ("booting", "registering the seat")
        self.wrong: list[str] = []

    def state(self) -> tuple[str, str]:
        return self.now

    def alarms(self) -> list[str]:
        return self.wrong


def looked(lookout: Lookout) -> list[dict[str, Any]]:
    """The lines of one look, without their time."""
    with structlog.testing.capture_logs() as lines:
        lookout.look()
    return [dict(line) for line in lines]


def test_a_state_is_told_when_it_changes_and_to_leave_active_is_a_warning() -> None:
    node = Told()
    lookout = Lookout(node)
    assert looked(lookout) == []
    node.now = ("active", "")
    (line,) = looked(lookout)
    assert (line["event"], line["log_level"], line["state"]) == ("state", "info", "active")
    assert looked(lookout) == []
    node.now = ("waiting", "members of weight 5 of 9 are connected, a quorum is 7")
    (line,) = looked(lookout)
    assert (line["before"], line["log_level"]) == ("active", "warning")
    assert line["reason"] == node.now[1]
    node.now = ("waiting", "members of weight 3 of 9 are connected, a quorum is 7")
    assert looked(lookout) == []
    node.now = ("waiting", "the disk is full")
    (line,) = looked(lookout)
    assert (line["before"], line["log_level"]) == ("waiting", "info")


def test_an_alarm_is_told_when_it_comes_and_when_it_is_over_however_its_numbers_move() -> None:
    node = Told()
    lookout = Lookout(node)
    node.wrong = ["the chain's finalized block has not moved for 1801 s"]
    (line,) = looked(lookout)
    assert (line["event"], line["log_level"]) == ("alarm", "critical")
    node.wrong = ["the chain's finalized block has not moved for 1802 s", "halted: diverged"]
    (line,) = looked(lookout)
    assert line["reason"] == "halted: diverged"
    node.wrong = ["halted: diverged"]
    (line,) = looked(lookout)
    assert (line["event"], line["log_level"]) == ("alarm_over", "info")
    assert line["reason"].endswith("1802 s")


async def test_a_defect_in_what_is_looked_at_is_told_once_and_ends_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Broken(Told):
        def alarms(self) -> list[str]:
            raise ZeroDivisionError

    with structlog.testing.capture_logs() as lines, trio.move_on_after(10):
        await Lookout(Broken()).run()
    assert [line["event"] for line in lines] == ["look_failed"]
