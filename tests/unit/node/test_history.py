"""The window over the past: every retained revision, exactly; what is gone is said to be gone."""

from __future__ import annotations

import sqlite3
from itertools import pairwise
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.codec import make_block
from consensus.commands import Command, Delete, Put, contains, encode_command
from consensus.machine import Machine
from consensus.outcomes import Applied
from consensus.types import View
from node import history as module
from node.facade import Compacted, FutureRevision
from node.history import SCHEMA, History, HistoryTable
from tests.unit.node.small_cluster import CLUSTER

KEYS = (b"a", b"aa", b"b", b"c")
RANGES = ((b"a", b""), (b"a", b"b"), (b"\0", b"\0"), (b"b", b"\0"), (b"b", b"a"))


def apply(machine: Machine, *actions: Put | Delete) -> Applied:
    """One block with these commands."""
    height = machine.height + 1
    raws = tuple(
        encode_command(Command(b"%8d%8d" % (height, n), 1, action))
        for n, action in enumerate(actions)
    )
    return machine.apply(
        make_block(
            CLUSTER,
            epoch=0,
            view=View(1, height),
            proposer=1,
            height=height,
            parent=bytes(32),
            time_ms=0,
            state_height=0,
            state_hash=bytes(32),
            commands=raws,
            nullifications=(),
        )
    )


class Past:
    """A history with its table, beside a copy of every revision there ever was."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        self.db.execute(SCHEMA)
        self.machine = Machine()
        self.history = History(self.machine)
        self.table = HistoryTable(self.db)
        self.all = [dict(self.machine.entries)]
        self.events: list[tuple[int, bytes]] = []

    def block(self, *actions: Put | Delete, publish: bool = True) -> None:
        applied = apply(self.machine, *actions)
        self.history.note(self.machine, applied)
        self.table.write(applied.changes.events)
        for event in applied.changes.events:
            if event.revision == len(self.all):
                self.all.append(dict(self.all[-1]))
            self.events.append((event.revision, event.key))
            if event.entry is None:
                del self.all[-1][event.key]
            else:
                self.all[-1][event.key] = event.entry
        if publish:
            self.history.publish(applied.revision)

    def restart(self) -> None:
        self.table = HistoryTable(self.db)
        self.history = History(self.machine, self.table.rows())

    def check(self) -> None:
        """Every retained revision is shown as it was, and no other."""
        history = self.history
        for revision in range(history.floor, history.published + 1):
            then = self.all[revision]
            assert {k: history.get(k, revision) for k in KEYS} == {k: then.get(k) for k in KEYS}
            for key, end in RANGES:
                expected = sorted((k, v) for k, v in then.items() if contains(key, end, k))
                assert list(history.range(key, end, revision)) == expected
                assert history.count(key, end, revision) == len(expected)
            told, reached = history.events(revision, b"\0", b"\0", 10**6)
            assert reached == history.published
            expected_events = [e for e in self.events if revision < e[0] <= history.published]
            assert [(e.revision, e.key) for e in told] == expected_events
            for event in told:
                assert event.entry == self.all[event.revision].get(event.key)


def test_a_full_window_is_cut_bit_by_bit() -> None:
    """A cut holds up every node at the same block: it is to be about as long as what is added."""
    past, floors = Past(), [0]
    with mock.patch.multiple(module, REVISIONS_MAX=64):
        for number in range(30):
            past.block(*(Put(KEYS[n % 4], b"%d" % number, 0) for n in range(number, number + 7)))
            floors.append(past.history.floor)
            past.check()
    assert floors[-1] == 30 * 7 - 64
    assert max(b - a for a, b in pairwise(floors)) <= 7


actions = st.builds(Put, st.sampled_from(KEYS), st.binary(max_size=3), st.just(0)) | st.builds(
    Delete, st.sampled_from(KEYS), st.sampled_from([b"", b"b", b"\0"])
)


@settings(max_examples=60)
@given(st.lists(st.lists(actions, max_size=4), max_size=14), st.integers(0, 14), st.booleans())
def test_any_retained_revision_is_shown_as_it_was(
    blocks: list[list[Put | Delete]], restart_at: int, small: bool
) -> None:
    bounds = {"REVISIONS_MAX": 5, "BYTES_MAX": 1700} if small else {"REVISIONS_MAX": 65_536}
    with mock.patch.multiple(module, **bounds):
        past = Past()
        for number, made in enumerate(blocks):
            past.block(*made, publish=number % 3 < 2)
            if number == restart_at:
                past.restart()
            past.check()
        past.restart()
        past.check()
        if not small:
            assert past.history.floor == 0


def test_what_is_not_published_is_not_shown() -> None:
    past = Past()
    past.block(Put(b"a", b"old"))
    past.block(Put(b"a", b"new"), Put(b"b", b"new"), publish=False)
    shown = past.history.get(b"a")
    assert shown is not None and shown.value == b"old"
    assert past.history.get(b"b") is None
    assert past.history.count(b"\0", b"\0") == 1
    assert past.history.events(0, b"\0", b"\0", 99)[1] == 1
    with pytest.raises(FutureRevision):
        past.history.get(b"a", 2)


def test_a_revision_below_the_window_is_compacted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REVISIONS_MAX", 4)
    past = Past()
    for n in range(20):
        past.block(Put(b"a", b"%d" % n))
    assert 4 <= past.history.published - past.history.floor <= 6
    assert len(past.table.rows()) == 4
    below = past.history.floor - 1
    for ask in (
        lambda: past.history.get(b"a", below),
        lambda: list(past.history.range(b"a", b"b", below)),
        lambda: past.history.count(b"a", b"b", below),
        lambda: past.history.events(below, b"a", b"b", 9),
    ):
        with pytest.raises(Compacted):
            ask()


def test_rows_that_do_not_lead_to_the_state_are_left_out() -> None:
    """After a snapshot the old rows say nothing of how the state came about."""
    past = Past()
    past.block(Put(b"a", b"1"))
    rows = past.table.rows()
    past.block(Put(b"a", b"2"))
    past.block(Put(b"a", b"3"))
    assert History(past.machine, rows).floor == 3
    newer = [*rows, *past.table.rows()[2:]]
    assert History(past.machine, newer).floor == 2


def test_a_new_machine_begins_a_new_window() -> None:
    past, other = Past(), Machine()
    past.block(Put(b"a", b"1"))
    for n in range(5):
        applied = apply(other, Put(b"x", b"%d" % n))
    past.history.note(other, applied)
    past.history.publish(5)
    assert past.history.floor == 5
    found = past.history.get(b"x")
    assert found is not None and found.value == b"4" and past.history.get(b"a") is None
