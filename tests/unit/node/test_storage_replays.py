"""A real store that crashes at any time gives back a state that the machine was in."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from consensus.codec import make_block
from consensus.commands import Action, Command, encode_command
from consensus.interface import FinalizedRecord, Record
from consensus.machine import Machine
from consensus.transfer import items_of
from consensus.types import Block, Certificate, Part, View, VoteKind
from node import state_tables
from node.history import History
from node.storage import Store
from tests.kv_strategies import requests
from tests.unit.node.small_cluster import CLUSTER, GENESIS

Step = tuple[int, list[tuple[bytes, int, Action]], str]
steps = st.tuples(
    st.sampled_from([0, 700, 5000]),
    st.lists(requests, max_size=5),
    st.sampled_from(["", "", "sync", "crash"]),
)


def open_store(directory: Path) -> Store:
    return Store(directory, cluster_id=CLUSTER, seat=1, genesis=GENESIS)


def final(block: Block) -> Certificate:
    parts = tuple(Part(seat, 0, bytes(65)) for seat in (1, 2, 3))
    return Certificate(VoteKind.FINALIZE, 0, block.header.view, block.hash, parts)


def make(height: int, time_ms: int, commands: tuple[bytes, ...]) -> Block:
    return make_block(
        CLUSTER,
        epoch=0,
        view=View(1, height),
        proposer=1,
        height=height,
        parent=bytes(32),
        time_ms=time_ms,
        state_height=0,
        state_hash=bytes(32),
        commands=commands,
        nullifications=(),
    )


@settings(max_examples=40)
@given(st.lists(steps, max_size=12))
def test_what_a_crash_leaves_is_the_state_after_the_last_synced_block(script: list[Step]) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        store, machine = open_store(directory), Machine()
        blocks: list[Block] = []
        synced, number, time_ms = 0, 0, 1000
        for delay_ms, asked, then in script:
            time_ms += delay_ms
            commands = []
            for client, back, action in asked:
                number += 1
                commands.append(encode_command(Command(client, max(1, number - 6 * back), action)))
            blocks.append(make(len(blocks) + 1, time_ms, tuple(commands)))
            applied = machine.apply(blocks[-1])
            record: Record = FinalizedRecord(applied, final(blocks[-1]))
            store.write([record])
            if then == "sync":
                store.sync()
                synced = len(blocks)
            elif then == "crash":
                store.close()
                store = open_store(directory)
                machine = check(store, blocks[:synced])
                del blocks[synced:]
        store.sync()
        store.close()
        store = open_store(directory)
        check(store, blocks)
        store.close()


def check(store: Store, blocks: list[Block]) -> Machine:
    """The restored machine, found to be the one that ``blocks`` lead to."""
    expected = Machine()
    events = [event for block in blocks for event in expected.apply(block).changes.events]
    restored = store.restore().machine
    assert restored.height == len(blocks)
    assert restored.state_hash == expected.state_hash
    assert list(items_of(restored)) == list(items_of(expected))
    assert list(state_tables.read_items(store._db, restored.revision)) == list(items_of(expected))
    assert restored.time_ms == expected.time_ms
    history = History(restored, store.history.rows())
    assert history.floor == 0
    assert history.events(0, b"\0", b"\0", 10**6)[0] == events
    return restored
