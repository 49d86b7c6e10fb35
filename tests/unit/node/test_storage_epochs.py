"""The store over epochs: what a real engine wrote comes back, at the edge and after it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from consensus.catchup import is_consistent
from consensus.epochs import ends_epoch, opened_set
from consensus.interface import (
    Checkpoints,
    EpochRecord,
    FinalizedRecord,
    InstallRecord,
    Output,
    Record,
    RecoverySeen,
)
from consensus.limits import EPOCHS_PER_ERA as ERA
from consensus.types import GENESIS, Boundary, Recovery
from node.storage import Store
from tests.unit.consensus.clusters import CLUSTER_ID
from tests.unit.consensus.clusters import GENESIS as PARENT
from tests.unit.consensus.towns import Town

SEAT = 2


def _town() -> Town:
    """Two epochs after the first, with blocks in between."""
    town = Town(4, 5)
    town.commit()
    for members in ((1, 2, 3, 4, 5), (1, 2, 3, 4)):
        town.change(*map(town.member, members))
        town.pass_time()
        town.commit()
    assert set(town.epochs().values()) == {2}
    return town


def _outputs(town: Town) -> list[Output]:
    return [output for seat, output in town.outputs if seat == SEAT]


def _store(directory: Path, outputs: list[Output]) -> Store:
    store = Store(directory, cluster_id=CLUSTER_ID, seat=SEAT, genesis=PARENT)
    for output in outputs:
        store.write(output.persist)
    store.sync()
    return store


def _reopened(store: Store, directory: Path) -> Store:
    store.close()
    return Store(directory, cluster_id=CLUSTER_ID, seat=SEAT, genesis=PARENT)


def test_a_store_gives_back_the_epoch_that_it_is_in(tmp_path: Path) -> None:
    town = _town()
    store = _reopened(_store(tmp_path, _outputs(town)), tmp_path)
    found, engine = store.restore(), town.engines[SEAT]
    assert opened_set(found.openings[-1]) == engine.validators
    assert found.tip == engine.ledger.tip
    assert found.machine.state_hash == engine.machine.state_hash
    assert found.machine.standing == engine.machine.standing
    assert {v.epoch for v in found.votes} == {2}
    assert set(found.votes) >= set(engine._mine.values())
    store.close()


def test_at_the_edge_the_tip_is_the_boundary_block_and_nothing_is_voted_yet(
    tmp_path: Path,
) -> None:
    town = _town()
    outputs = _outputs(town)
    last = max(
        n for n, o in enumerate(outputs) if any(isinstance(r, EpochRecord) for r in o.persist)
    )
    edge = next(n for n, r in enumerate(outputs[last].persist) if isinstance(r, EpochRecord))
    outputs[last].persist = outputs[last].persist[: edge + 1]
    store = _reopened(_store(tmp_path, outputs[: last + 1]), tmp_path)
    found = store.restore()
    opening = found.openings[-1]
    assert isinstance(opening, Boundary)
    assert (found.tip.view, found.tip.finalization) == (GENESIS, None)
    assert (found.tip.height, found.tip.hash) == (opening.block.header.height, opening.block.hash)
    assert len(found.votes) == 1 and found.votes[0].epoch < opened_set(opening).epoch
    assert not found.blocks
    assert not found.certificates
    store.close()


def test_no_crash_parts_a_boundary_at_a_checkpoint_from_the_epoch_that_it_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stood on a boundary block in its epoch could not get out of it any more."""
    outputs = _outputs(_town())
    records = [r for output in outputs for r in output.persist]
    (opening, *_) = (r.opening for r in records if isinstance(r, EpochRecord))
    assert isinstance(opening, Boundary)
    edge = opening.block.header.height
    store, synced = _store(tmp_path / "node", []), []
    store.pin_when(lambda height: height == edge)
    sync = store.sync

    def sync_and_be_killed() -> None:
        sync()
        copy = tmp_path / f"copy {len(synced)}"
        shutil.copytree(tmp_path / "node", copy)
        found = Store(copy, cluster_id=CLUSTER_ID, seat=SEAT, genesis=PARENT)
        restored = found.restore()
        epoch = opened_set(restored.openings[-1]).epoch if restored.openings else 0
        synced.append((restored.tip.height, epoch))
        found.close()

    monkeypatch.setattr(store, "sync", sync_and_be_killed)
    for output in outputs:
        store.write(output.persist)
    pinned = store.take_pinned()
    assert pinned is not None and pinned.height == edge
    pinned.db.close()
    assert synced == [(edge, 1)]
    store.close()


@pytest.mark.parametrize("count", [1, 3, 64])
def test_answers_end_at_the_edge_of_an_epoch_and_prove_themselves_in_it(
    tmp_path: Path, count: int
) -> None:
    town = _town()
    store = _store(tmp_path, _outputs(town))
    for height in range(1, town.engines[SEAT].machine.height + 1):
        reply = store.blocks_from(height, count)
        assert reply is not None and not isinstance(reply, bytes)
        assert is_consistent(reply, CLUSTER_ID)
        epochs = {b.header.epoch for b in reply.blocks} | {reply.finalization.epoch}
        assert len(epochs) == 1
        assert reply.blocks[0].header.height == height
    store.close()


def test_the_openings_prove_every_set_from_the_founders_on(tmp_path: Path) -> None:
    town = _town()
    store = _store(tmp_path, _outputs(town))
    reply = store.openings_from(0)
    assert reply is not None
    validators = town.cluster.validators
    for opening in reply.openings:
        assert isinstance(opening, Boundary)
        assert ends_epoch(opening, validators, CLUSTER_ID, town.cluster.verifier)
        validators = opened_set(opening)
    assert validators == town.engines[SEAT].validators
    later = store.openings_from(1)
    assert later is not None
    assert later.openings == reply.openings[1:]
    assert store.openings_from(2) is None
    store.close()


def test_a_snapshot_that_led_over_a_recovery_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = Town(7, 7, checkpoints=Checkpoints(every=1, gap=1))
    town.commit()
    town.crash(5, 6, 7)
    town.settle()
    tip = town.engines[1].ledger.tip
    four = tuple(map(town.member, (1, 2, 3, 4)))
    recovery = Recovery(ERA, tip.height, tip.hash, four, bytes(32), 0)
    for seat in (1, 2, 3, 4):
        town.step(seat, RecoverySeen((recovery,)))
    town.pass_time()
    town.crash(SEAT)
    for _ in range(4):
        town.commit(1, 3, 4)
    disk = town.stores[SEAT] = town.new_store(SEAT)
    store, commit, openings = _store(tmp_path, []), disk.commit, []

    def commit_to_both(records: list[Record]) -> None:
        # At once: an installed machine changes with the next block.
        store.write(records)
        openings.extend(r.openings for r in records if isinstance(r, InstallRecord))
        commit(records)

    monkeypatch.setattr(disk, "commit", commit_to_both)
    town.start(SEAT)
    town.step(SEAT, RecoverySeen((recovery,)))
    town.pass_time(12)
    assert (recovery,) in openings
    store.sync()
    store = _reopened(store, tmp_path)
    found, engine = store.restore(), town.engines[SEAT]
    assert found.openings == [recovery]
    assert found.tip == engine.ledger.tip
    assert found.machine.state_hash == engine.machine.state_hash
    reply = store.openings_from(0)
    assert reply is not None and reply.openings == (recovery,)
    store.close()


@pytest.mark.parametrize("count", [1, 3, 64])
def test_answers_end_at_the_block_of_a_recovery(tmp_path: Path, count: int) -> None:
    town = Town(4, 4)
    town.commit()
    town.crash(3, 4)
    town.settle()
    tip = town.engines[1].ledger.tip
    two = tuple(map(town.member, (1, 2)))
    recovery = Recovery(ERA, tip.height, tip.hash, two, bytes(32), 0)
    for seat in (1, 2):
        town.step(seat, RecoverySeen((recovery,)))
    town.pass_time()
    town.commit()
    store = _store(tmp_path, _outputs(town))
    for height in range(1, town.engines[SEAT].machine.height + 1):
        reply = store.blocks_from(height, count)
        assert reply is not None and not isinstance(reply, bytes)
        assert is_consistent(reply, CLUSTER_ID)
        epochs = {b.header.epoch for b in reply.blocks} | {reply.finalization.epoch}
        assert len(epochs) == 1
    store.close()


def test_blocks_whose_proof_a_recovery_dropped_are_served_for_who_sees_it(tmp_path: Path) -> None:
    """The member that it lost had gone on; this one took over blocks and the proof above them."""
    town = Town(7, 7)
    town.crash(2, 3)
    town.commit()
    tip = town.engines[1].ledger.tip
    three = tuple(map(town.member, (1, 2, 3)))
    town.commit()
    town.start(SEAT)
    town.step(SEAT, RecoverySeen((Recovery(ERA, tip.height, tip.hash, three, bytes(32), 0),)))
    town.pass_time()
    outputs = _outputs(town)
    for output in outputs:
        output.persist = [
            replace(r, finalization=None) if isinstance(r, FinalizedRecord) else r
            for r in output.persist
        ]
    store = _store(tmp_path, outputs)
    reply = store.blocks_from(1, 1)
    assert reply is not None and not reply.finalization.parts
    assert is_consistent(reply, CLUSTER_ID) and reply.finalization.block == tip.hash
    assert store.blocks_from(tip.height + 1, 1) is None
    store.close()
