"""The replicated state: exactly-once, revisions, hashes, and what a store gives back."""

from __future__ import annotations

import pytest
from clusters import block, command

from consensus import limits
from consensus.commands import Tag
from consensus.items import Session
from consensus.machine import Machine
from consensus.outcomes import Applied
from consensus.types import Block, View

TURNS = (Tag.PUT, Tag.PUT, Tag.DELETE)


class Disk:
    """What a store keeps of the machine: it sees nothing but ``Applied``."""

    def __init__(self) -> None:
        self.entries: dict[bytes, object] = {}
        self.sessions: dict[int, tuple[bytes, Session]] = {}
        self.hashes: list[tuple[int, bytes]] = []
        self.last: Applied | None = None

    def take(self, applied: Applied) -> None:
        for key, entry in applied.changes.entries.items():
            self.entries.pop(key, None)
            if entry is not None:
                self.entries[key] = entry
        for used, row in applied.changes.sessions.items():
            self.sessions.pop(used, None)
            if row is not None:
                self.sessions[used] = row
        self.hashes.append((applied.block.header.height, applied.state_hash))
        self.last = applied

    def machine(self) -> Machine:
        assert self.last is not None
        return Machine.restore(
            self.last.block.header.height,
            self.last.revision,
            self.entries.items(),  # type: ignore[arg-type]
            [self.sessions[used] for used in sorted(self.sessions)],
            self.hashes,
        )


def play(
    machine: Machine, *batches: tuple[bytes, ...], times: list[int] | None = None
) -> list[Applied]:
    """Applies one block for each batch of commands."""
    done = []
    for commands, time_ms in zip(batches, times or [0] * len(batches), strict=True):
        height = machine.height + 1
        parent: Block | bytes = done[-1].block if done else bytes(32)
        made = block(View(1, height), parent, commands=commands, time_ms=time_ms)
        if made.header.height != height:
            made = Block(
                made.header.__class__(**{**vars(made.header), "height": height}),
                made.hash,
                made.body,
                made.commands,
                made.nullifications,
            )
        done.append(machine.apply(made))
    return done


def test_a_restored_machine_still_knows_the_hash_before_the_first_block() -> None:
    machine, disk = Machine(), Disk()
    genesis = machine.state_hash
    for applied in play(machine, (command(1, 1),)):
        disk.take(applied)
    assert disk.machine().hash_at(0) == genesis


def test_a_store_that_applies_changes_in_order_keeps_the_order_of_last_use() -> None:
    machine, disk = Machine(), Disk()
    batches = (
        (command(1, 1), command(2, 1), command(1, 2)),
        (command(3, 1), command(2, 2), command(3, 2)),
    )
    for applied in play(machine, *batches):
        disk.take(applied)
    assert list(disk.machine().sessions) == list(machine.sessions)


def test_members_forget_the_same_clients_whether_they_were_restarted_or_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_MAX", 3)
    machine, disk = Machine(), Disk()
    for applied in play(machine, (command(1, 1), command(2, 1), command(1, 2), command(3, 1))):
        disk.take(applied)
    again = disk.machine()
    for number in range(4, 8):
        play(machine, (command(number, 1),))
        play(again, (command(number, 1),))
        assert list(again.sessions) == list(machine.sessions)
        assert again.state_hash == machine.state_hash
        assert len(machine.sessions) == 3


def test_a_repeated_command_gets_the_first_answer_and_changes_nothing() -> None:
    machine = Machine()
    first, *_, again = play(
        machine, (command(1, 1),), (command(2, 1, key=b"other"),), (command(1, 1),)
    )
    assert again.results[0][1] == first.results[0][1]
    assert again.state_hash != first.state_hash  # another height
    assert again.revision == 2
    assert not again.changes.entries
    assert not again.changes.sessions


def test_a_command_older_than_the_clients_last_is_stale_and_changes_nothing() -> None:
    machine = Machine()
    *_, late = play(machine, (command(1, 5, value=b"new"),), (command(1, 4, value=b"old"),))
    assert late.results[0][1].stale
    assert machine.entries[b"k"].value == b"new"
    assert machine.revision == 1


def test_the_same_command_twice_in_one_block_runs_once() -> None:
    machine = Machine()
    (applied,) = play(machine, (command(1, 1), command(1, 1)))
    assert applied.revision == 1
    assert applied.results[0][1] == applied.results[1][1]


def test_revisions_count_changes_and_versions_count_writes_since_creation() -> None:
    machine = Machine()
    play(
        machine,
        (command(1, 1), command(1, 2), command(1, 3, Tag.DELETE), command(1, 4)),
        (command(1, 5, Tag.DELETE, key=b"missing"), command(1, 6, Tag.BARRIER)),
    )
    entry = machine.entries[b"k"]
    assert (entry.create_revision, entry.mod_revision, entry.version) == (4, 4, 1)
    assert machine.revision == 4


def test_a_barrier_changes_nothing_however_often_it_comes() -> None:
    machine = Machine()
    before, *after = play(
        machine, (command(1, 1),), (command(1, 2, Tag.BARRIER),), (command(1, 2, Tag.BARRIER),)
    )
    for applied in after:
        assert applied.revision == before.revision
        assert not applied.changes.sessions
        assert applied.results[0][1].revision == before.revision


def test_the_incremental_hash_is_the_hash_of_the_content() -> None:
    machine, disk = Machine(), Disk()
    batches = [
        tuple(
            command(client, height, TURNS[(client + height) % 3], b"%d" % k)
            for client, k in ((1, height % 3), (2, height % 5), (3, height % 2))
        )
        for height in range(1, 30)
    ]
    for applied in play(machine, *batches):
        disk.take(applied)
    assert disk.machine().state_hash == machine.state_hash


def test_a_store_with_another_content_is_refused() -> None:
    machine, disk = Machine(), Disk()
    for applied in play(machine, (command(1, 1), command(1, 2, key=b"two"))):
        disk.take(applied)
    del disk.entries[b"two"]
    with pytest.raises(ValueError, match="does not match its hash"):
        disk.machine()


def test_only_recent_state_hashes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "STATE_HASHES_KEPT", 4)
    machine = Machine()
    play(machine, *[() for _ in range(10)])
    assert machine.hash_at(10) == machine.state_hash
    assert machine.hash_at(7) is not None
    assert machine.hash_at(6) is None
