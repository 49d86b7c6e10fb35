"""R17 over the edges of epochs: the sets are proven one by another, without any state."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clusters import CLUSTER_ID
from towns import Town

from consensus import limits
from consensus.catchup import RETRIES_MAX
from consensus.interface import Checkpoints, InstallRecord, Received, Timer
from consensus.snapshots import Offer
from consensus.types import GENESIS, Boundary, Manifest
from consensus.wire import EpochReply, EpochRequest, SnapshotChunk, SnapshotOffer
from tests.simulation import archive, store

NEAR = Checkpoints(every=1, gap=1)


def _town_that_moved_on(changes: int = 3, rounds: int = 4) -> Town:
    """Seat 5 is away while epochs pass, and what it needs is pruned."""
    town = Town(5, 6, checkpoints=NEAR)
    town.commit()
    town.crash(5)
    town.commit(1, 2, 3, 4)
    for number in range(changes):
        town.change(town.heavier(1, 2 + number % 2), *(town.member(s) for s in (2, 3, 4, 5)))
        town.pass_time(rounds)
    return town


def _installs(town: Town, seat: int) -> list[InstallRecord]:
    return [
        record
        for at, output in town.outputs
        for record in output.persist
        if at == seat and isinstance(record, InstallRecord)
    ]


@pytest.mark.parametrize("wiped", [False, True])
def test_a_member_that_missed_epochs_whose_blocks_are_pruned_comes_back(wiped: bool) -> None:
    town = _town_that_moved_on(rounds=12)
    assert town.epochs()[1] >= 3
    assert all(town.stores[s].base > town.stores[5].height for s in (1, 2, 3, 4))
    if wiped:
        town.stores[5] = town.new_store(5)
    town.start(5)
    town.pass_time(12)
    assert town.epochs()[5] == town.epochs()[1]
    (record, *_) = _installs(town, 5)
    assert len(record.openings) >= 2
    town.commit(1, 2, 3, 4, 5)
    town.crash(5)
    town.start(5)
    assert town.epochs()[5] == town.epochs()[1]
    town.pass_time()
    town.commit(1, 2, 3, 4, 5)


def test_the_proofs_of_many_epochs_may_take_many_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "EPOCHS_PER_MESSAGE_MAX", 1)
    town = _town_that_moved_on(rounds=12)
    town.stores[5] = town.new_store(5)
    town.start(5)
    town.settle(12)
    assert town.epochs()[5] == town.epochs()[1] >= 3
    town.pass_time()
    town.commit(1, 2, 3, 4, 5)


def test_an_offer_whose_proofs_do_not_come_makes_way_for_another() -> None:
    town = _town_that_moved_on(rounds=12)
    town.start(5)
    town.queue.clear()
    engine = town.engines[5]
    manifest = town.stores[1].archive.proven[-1].manifest
    assert manifest is not None
    for sender in (1, 2):
        engine._offer_asked_of = sender
        town.step(5, Received(sender, SnapshotOffer(manifest)))
        assert engine._offer is not None and engine._offer.sender == sender
        for _ in range(RETRIES_MAX):
            assert engine._offer is not None
            town.step(5, Received(sender, EpochReply(())))
            town.fire(Timer.RETRY, 5)
        assert engine._offer is None


def test_a_snapshot_of_the_block_that_an_epoch_stands_on_begins_that_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "KEPT", 10**6)  # all heights are kept, with all their snapshots
    monkeypatch.setattr(archive, "KEPT", 10**6)
    town = _town_that_moved_on(changes=1, rounds=12)
    disk = town.stores[1]
    (opening,) = disk.openings_now()
    assert isinstance(opening, Boundary)
    boundary = opening.block
    (snapshot,) = (s for s in disk.archive.proven if s.height == boundary.header.height)
    assert snapshot.manifest is not None
    town.start(5)
    town.queue.clear()
    engine = town.engines[5]
    engine._offer_asked_of = 1
    town.step(5, Received(1, SnapshotOffer(snapshot.manifest)))
    reply = disk.serve_epochs(0)
    assert reply is not None
    town.step(5, Received(1, reply))
    for number, items in enumerate(snapshot.chunks):
        town.step(5, Received(1, SnapshotChunk(snapshot.height, number, items)))
    (record,) = _installs(town, 5)
    assert (record.tip.hash, record.tip.view) == (boundary.hash, GENESIS)
    assert town.epochs()[5] == 1
    town.crash(5)
    town.start(5)
    assert town.epochs()[5] == 1
    assert town.engines[5].order == town.engines[1].order
    town.pass_time(12)
    town.commit(1, 2, 3, 4, 5)


def test_a_proof_of_an_epoch_that_names_a_later_block_is_not_taken_for_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Any block with the record proves the set; the epoch stands on the first one only."""
    monkeypatch.setattr(store, "KEPT", 10**6)
    town = Town(5, 6)
    disk = town.stores[1]
    town.change(town.heavier(1, 2), *(town.member(s) for s in (2, 3, 4, 5)))
    town.pass_time(12)
    (opening,) = disk.openings_now()
    assert isinstance(opening, Boundary)
    at = opening.block.header.height
    headers = [b.header for b, _ in disk.chain]
    finals = [c for _, c in disk.chain]
    last = next(i for i in range(at + 3, len(finals)) if finals[i] is not None)
    final = finals[last]
    assert final is not None and final.epoch == 1
    manifest = Manifest(headers[at - 1], tuple(headers[at : last + 1]), final, 1)
    later_one = replace(opening.block, hash=bytes(32))
    for named, epoch in ((opening, 1), (replace(opening, block=later_one), None)):
        offer = Offer(2, manifest, town.cluster.validators)
        assert offer.lacks_epochs
        offer.openings.append(named)
        assert offer.epoch_at(opening.block.hash) == epoch
    later = replace(manifest, header=headers[at], links=manifest.links[1:])
    ordinary = Offer(2, later, offer.validators)
    assert ordinary.epoch_at(disk.chain[at][0].hash) == 1


def test_false_proofs_of_epochs_end_an_offer() -> None:
    town = _town_that_moved_on(rounds=12)
    openings = town.stores[1].openings_now()
    good = [o for o in openings if isinstance(o, Boundary)]
    manifest = town.stores[1].archive.proven[-1].manifest
    assert manifest is not None and len(good) >= 2
    verifier = town.cluster.verifier

    def learns(*shown: Boundary) -> tuple[bool, bool]:
        offer = Offer(1, manifest, town.cluster.validators)
        taken = offer.learn(shown, (), CLUSTER_ID, verifier)
        return taken, offer.lacks_epochs

    assert learns(*good) == (True, False)
    assert learns(good[0]) == (True, True)
    assert learns(*good[1:]) == (False, True)
    forged = replace(good[0], finalization=good[1].finalization)
    assert learns(forged, *good[1:]) == (False, True)


def test_an_offer_from_a_later_epoch_waits_for_the_proof_of_its_sets() -> None:
    town = _town_that_moved_on(rounds=12)
    town.start(5)
    town.queue.clear()
    engine = town.engines[5]
    manifest = town.stores[1].archive.proven[-1].manifest
    assert manifest is not None
    engine._offer_asked_of = 1
    output = engine.step(Received(1, SnapshotOffer(manifest)), town.now_ms)
    assert engine.fetch is None
    assert [s.message for s in output.send if s.to == 1][-1] == EpochRequest(0)
    reply = town.stores[1].serve_epochs(0)
    assert isinstance(reply, EpochReply)
    engine.step(Received(1, reply), town.now_ms)
    assert engine.fetch is not None and engine.fetch.height == manifest.header.height
