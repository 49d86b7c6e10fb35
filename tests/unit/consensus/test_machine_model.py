"""The machine against a slow model of itself, under limits so small that all of them are met."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

from clusters import block
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from consensus import limits
from consensus.commands import (
    Action,
    Command,
    Grant,
    Put,
    encode_command,
)
from consensus.items import KeyValue
from consensus.machine import Machine
from consensus.outcomes import Applied, Found, Removed, Result, Written
from consensus.transfer import Importer, export
from consensus.types import View
from tests.kv_model import Model, Outcome, Row
from tests.kv_strategies import keys, requests, values

SMALL = {
    "SESSIONS_MAX": 4,
    "STATE_BYTES_MAX": 30,
    "ENTRY_BYTES": 1,
    "RANGE_KEYS_MAX": 3,
    "RANGE_BYTES_MAX": 12,
    "LEASES_MAX": 3,
    "EXPIRIES_MAX": 2,
    "STATE_HASHES_KEPT": 8,
}

def row(entry: KeyValue | None) -> Row | None:
    """An entry in the model's words."""
    if entry is None:
        return None
    return (
        entry.value,
        entry.create_revision,
        entry.mod_revision,
        entry.version,
        entry.lease,
    )


def outcome(result: Result) -> Outcome:
    """A result in the model's words."""
    shown = None
    if result.responses is not None:
        shown = tuple(map(_response, result.responses))
    return (
        result.revision,
        result.existed,
        result.stale,
        result.deleted,
        result.refusal.name,
        shown,
    )


def _response(response: Written | Removed | Found) -> object:
    match response:
        case Written(existed):
            return existed
        case Removed(deleted):
            return deleted
        case Found(entries, count, more):
            return (tuple((key, row(entry)) for key, entry in entries), count, more)


class Everything:
    """A container of all command ids: whoever applies with it wants every answer."""

    def __contains__(self, command_id: object) -> bool:
        return True


def apply(machine: Machine, time_ms: int, batch: list[Command]) -> Applied:
    """One block of commands at the machine's next height."""
    raws = tuple(map(encode_command, batch))
    made = block(View(1, machine.height), time_ms=time_ms, commands=raws)
    made = replace(made, header=replace(made.header, height=machine.height + 1))
    return machine.apply(made, wanted=Everything())


class MachineAndModel(RuleBasedStateMachine):
    """Blocks of random commands at random times, to both; now and then through a transfer."""

    @initialize()
    def begin(self) -> None:
        self.limits = mock.patch.multiple(limits, **SMALL)
        self.limits.start()
        self.machine, self.model, self.number = Machine(), Model(), 0
        self.log: list[tuple[int, bytes, Row | None]] = []

    def teardown(self) -> None:
        if hasattr(self, "limits"):
            self.limits.stop()

    @rule(
        delay_ms=st.sampled_from([0, 0, 1, 700, 5000, 9000]),
        asked=st.lists(requests, max_size=6),
    )
    def a_block(self, delay_ms: int, asked: list[tuple[bytes, int, Action]]) -> None:
        batch = []
        for client, back, action in asked:
            self.number += 1
            batch.append(Command(client, max(1, self.number - back * 6), action))
        time_ms = self.machine.time_ms + delay_ms
        applied = apply(self.machine, time_ms, batch)
        said = self.model.block(time_ms, batch)
        assert [outcome(result) for _, result in applied.results] == said
        self.log += [(e.revision, e.key, row(e.entry)) for e in applied.changes.events]
        last = {e.key: e.entry for e in applied.changes.events}
        assert applied.changes.entries == last

    @rule(written=st.lists(st.tuples(keys, values, st.integers(0, 2)), min_size=3, max_size=8))
    def a_block_of_writes(self, written: list[tuple[bytes, bytes, int]]) -> None:
        """So that keys are many, and hang on leases that exist."""
        grants: list[Action] = [Grant(1, 9000), Grant(2, 9000)]
        self.a_block(0, [(bytes(16), 0, a) for a in (*grants, *(Put(*w) for w in written))])

    @rule(size=st.integers(1, 200))
    def it_moves_to_another_machine(self, size: int) -> None:
        importer, after = Importer(), b""
        while after is not None:
            items, after = export(self.machine, after, size)
            importer.add(items)
        m = self.machine
        self.machine = importer.finish(m.height, m.time_ms, m.state_hash)

    @invariant()
    def they_agree(self) -> None:
        if not hasattr(self, "model"):
            return
        machine, model = self.machine, self.model
        assert {key: row(entry) for key, entry in machine.entries.items()} == model.rows
        assert list(machine.keys(b"\0", b"\0")) == sorted(model.rows)
        assert {n: (x.ttl_ms, x.expires_ms) for n, x in machine.leases.items()} == model.leases
        assert list(machine.sessions) == list(model.clients)
        assert machine.revision == model.revision
        assert machine.bytes == model.size()
        assert self.log == model.log


MachineAndModel.TestCase.settings = settings(
    max_examples=100, stateful_step_count=20
)
test_the_machine_does_what_the_model_says = MachineAndModel.TestCase
