"""A node whose clock differs from block time says so, and not because it stood still."""

from __future__ import annotations

import time

import pytest

from node.alarms import ClockWatch


class Clocks:
    """The machine's two clocks, as the test sets them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wall_ms, self.monotonic_s = 1_000_000, 50.0
        monkeypatch.setattr(time, "time_ns", lambda: self.wall_ms * 1_000_000)
        monkeypatch.setattr(time, "monotonic", lambda: self.monotonic_s)

    def passes(self, seconds: float) -> None:
        self.wall_ms += round(seconds * 1000)
        self.monotonic_s += seconds


@pytest.mark.parametrize(
    ("ahead_ms", "told"), [(12_500, "12 s ahead of"), (-5_000, "5 s behind"), (3_000, None)]
)
def test_a_clock_that_no_block_agrees_with_is_an_alarm(
    monkeypatch: pytest.MonkeyPatch, ahead_ms: int, told: str | None
) -> None:
    clocks = Clocks(monkeypatch)
    watch = ClockWatch()
    assert watch.alarm() is None
    for _ in range(12):
        clocks.passes(1)
        watch.saw(clocks.wall_ms - ahead_ms)
    assert watch.ahead_ms == ahead_ms
    expected = None if told is None else f"this node's clock is {told} the cluster's time"
    assert watch.alarm() == expected
    watch.saw(clocks.wall_ms - 100)
    assert watch.alarm() is None


def test_old_blocks_that_come_at_once_and_a_cluster_that_stands_still_are_no_alarm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = Clocks(monkeypatch)
    watch = ClockWatch()
    watch.saw(clocks.wall_ms - 100)
    clocks.passes(3600)
    assert watch.alarm() is None  # nothing was decided meanwhile
    watch.saw(clocks.wall_ms - 9_000)  # it was proposed when all members ended, and is final now
    clocks.passes(3600)
    assert watch.alarm() is None
    watch.saw(clocks.wall_ms - 100)
    for behind_s in (60, 40, 5):  # it was stopped, and takes up what came then
        watch.saw(clocks.wall_ms - behind_s * 1000)
        assert watch.alarm() is None
        clocks.passes(3)
    watch.saw(clocks.wall_ms - 100)
    clocks.passes(60)
    assert watch.alarm() is None
