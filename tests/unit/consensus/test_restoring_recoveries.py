"""R17 over a recovery (R21): a snapshot leads past one that this member's own chain shows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clusters import CLUSTER_ID
from towns import Town

from consensus.certificates import verify_certificate
from consensus.engine import Engine
from consensus.epochs import era_of, opened_set
from consensus.interface import (
    Alarm,
    Checkpoints,
    InstallRecord,
    Misbehaved,
    Received,
    RecoverySeen,
    Timer,
)
from consensus.limits import EPOCHS_PER_ERA as ERA
from consensus.snapshots import Offer
from consensus.types import GENESIS, Boundary, Manifest, Opening, Recovery
from consensus.wire import EpochReply, SnapshotChunk, SnapshotOffer
from tests.simulation import archive, store

NEAR = Checkpoints(every=1, gap=1)


def _recover(town: Town, era: int, *seats: int) -> Recovery:
    """The chain opens an epoch of ``seats``, which all run, on what is final."""
    first = town.engines[seats[0]]
    tip, epoch = first.ledger.tip, era * ERA + era_of(first.validators.epoch)
    members = tuple(map(town.member, seats))
    recovery = Recovery(epoch, tip.height, tip.hash, members, bytes(32), 0)
    for seat in seats:
        town.step(seat, RecoverySeen((recovery,)))
    return recovery


def _recovered(rounds: int = 4) -> tuple[Town, Recovery]:
    """Three of seven were lost, four went on, and 4 went away; what came before is pruned."""
    town = Town(7, 7, checkpoints=NEAR)
    town.commit()
    town.crash(5, 6, 7)
    town.settle()
    recovery = _recover(town, 1, 1, 2, 3, 4)
    town.pass_time()
    town.crash(4)
    for _ in range(rounds):
        town.commit(1, 2, 3)
    return town, recovery


def _wipe(town: Town, seat: int) -> None:
    town.stores[seat] = town.new_store(seat)
    town.start(seat)


def _offered(
    town: Town, seat: int, snapshot: archive.Snapshot, openings: tuple[Opening, ...]
) -> Engine:
    """Member 1 offers what it was asked for, and proves so many of the epochs up to it."""
    engine = town.engines[seat]
    assert snapshot.manifest is not None
    engine._offer_asked_of, engine.catchup.best_height = 1, snapshot.height
    town.step(seat, Received(1, SnapshotOffer(snapshot.manifest)))
    town.step(seat, Received(1, EpochReply(openings)))
    return engine


def _told(town: Town, seat: int, kind: type) -> list[object]:
    return [n for at, o in town.outputs if at == seat for n in o.notices if isinstance(n, kind)]


def _installed(town: Town, seat: int) -> list[InstallRecord]:
    records = [r for at, output in town.outputs if at == seat for r in output.persist]
    return [r for r in records if isinstance(r, InstallRecord)]


@pytest.mark.parametrize("seat", [4, 5])  # a member of the new epoch; one that observes
@pytest.mark.parametrize("late", [False, True])
def test_a_wiped_member_that_saw_the_recovery_comes_back(seat: int, late: bool) -> None:
    town, recovery = _recovered()
    assert all(town.stores[s].base > recovery.height for s in (1, 2, 3))
    town.outputs.clear()
    _wipe(town, seat)
    if late:
        town.pass_time(12)
        assert town.epochs()[seat] == 0
    town.step(seat, RecoverySeen((recovery,)))
    town.pass_time(24)
    assert town.epochs()[seat] == ERA
    (record, *_) = _installed(town, seat)
    assert record.openings == (recovery,)
    assert _told(town, seat, Alarm), "it must be loud"
    assert not _told(town, seat, Misbehaved)
    town.commit(1, 2, 3, seat)
    town.crash(seat)
    town.start(seat)
    town.step(seat, RecoverySeen((recovery,)))
    assert town.engines[seat].halted is None and town.epochs()[seat] == ERA
    town.pass_time()
    town.commit(1, 2, 3, seat)


def test_a_wiped_member_that_did_not_see_the_recovery_waits_and_accuses_nobody() -> None:
    town, _ = _recovered()
    town.outputs.clear()
    _wipe(town, 4)
    town.pass_time(24)
    assert town.epochs()[4] == 0 and not _installed(town, 4)
    assert not _told(town, 4, Misbehaved)


def test_a_snapshot_leads_over_several_recoveries_and_the_epochs_between() -> None:
    town, first = _recovered(rounds=1)
    town.change(*(town.member(s) for s in (1, 2, 3)))
    town.pass_time()
    assert town.epochs()[1] == ERA + 1
    town.crash(3)
    town.change(*(town.member(s) for s in (1, 2)))
    town.settle()
    second = _recover(town, 2, 1, 2)
    for _ in range(4):
        town.commit(1, 2)
    town.outputs.clear()
    _wipe(town, 4)
    town.step(4, RecoverySeen((first, second)))
    town.pass_time(24)
    assert town.epochs()[4] == 2 * ERA + 1
    (record, *_) = _installed(town, 4)
    before, between, after = record.openings
    assert (before, after) == (first, second) and isinstance(between, Boundary)
    assert not _told(town, 4, Misbehaved)
    town.crash(4)
    town.start(4)
    town.step(4, RecoverySeen((first, second)))
    town.pass_time()
    town.commit(1, 2, 4)


@pytest.mark.parametrize("saw", [False, True])
def test_a_forged_recovery_opens_nothing(saw: bool) -> None:
    """A liar makes itself the only member of an epoch, and shows a snapshot that it signed."""
    town, recovery = _recovered()
    forged = replace(recovery, validators=(town.member(3),))
    manifest = town.stores[3].archive.proven[-1].manifest
    assert manifest is not None
    own = tuple(part for part in manifest.finalization.parts if part.seat == 3)
    alone = replace(manifest, finalization=replace(manifest.finalization, parts=own))
    assert verify_certificate(
        alone.finalization, opened_set(forged), CLUSTER_ID, town.cluster.verifier
    )
    _wipe(town, 4)
    town.queue.clear()
    if saw:
        town.step(4, RecoverySeen((recovery,)))
    engine = town.engines[4]
    engine._offer_asked_of = 3
    engine.catchup.best_height = manifest.header.height
    town.step(4, Received(3, SnapshotOffer(alone)))
    assert engine._offer is not None
    town.step(4, Received(3, EpochReply((forged,))))
    assert engine._offer is not None and engine._offer.lacks_epochs
    assert engine.fetch is None and engine.validators.epoch == 0
    assert not _told(town, 4, Misbehaved), "its chain may be ahead of ours"
    assert not _installed(town, 4)
    town.pass_time(24)
    assert town.epochs()[4] == (ERA if saw else 0)
    assert town.members(4).keys() == ({1, 2, 3, 4} if saw else {1, 2, 3, 4, 5, 6, 7})


def test_a_member_that_saw_a_recovery_takes_no_snapshot_of_what_others_made_beyond_it() -> None:
    """Those may not see it yet; or they were lost, and their keys can still sign."""
    town = Town(5, 6, checkpoints=NEAR)
    town.commit()
    lost = town.engines[1].ledger.tip
    town.change(town.heavier(1, 2), *(town.member(s) for s in (2, 3, 4, 5)))
    town.pass_time(12)
    assert town.stores[1].archive.proven[-1].height > lost.height
    recovery = Recovery(ERA, lost.height, lost.hash, (town.member(6),), bytes(32), 0)
    _wipe(town, 6)
    town.outputs.clear()
    town.step(6, RecoverySeen((recovery,)))
    town.pass_time(12)
    assert not _told(town, 6, Misbehaved)
    assert not [r for r in _installed(town, 6) if r.tip.height > lost.height]
    town.pass_time(12)
    assert town.epochs()[6] in (0, ERA)


@pytest.mark.parametrize("most", [0, 1])
def test_a_snapshot_on_its_way_does_not_lead_around_a_recovery(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """The chain shows the recovery when the offer has learned of other epochs already."""
    monkeypatch.setattr(archive, "CHUNK_BYTES", 50)
    town = Town(5, 6, checkpoints=NEAR)
    town.commit()
    town.crash(5)
    for weight in (2, 3):
        town.change(town.heavier(1, weight), *(town.member(s) for s in (2, 3, 4, 5)))
        town.pass_time(12)
    snapshot = town.stores[1].archive.proven[-1]
    openings = tuple(town.stores[1].openings_now())
    assert len(openings) == 2
    _wipe(town, 5)
    town.queue.clear()
    engine = _offered(town, 5, snapshot, openings[: 1 + most])
    assert (engine.fetch is None, engine._offer is None) == (not most, bool(most))
    recovery = Recovery(ERA, snapshot.height - 1, bytes(32), (town.member(5),), bytes(32), 0)
    town.step(5, RecoverySeen((recovery,)))
    assert engine.fetch is None and engine._offer is None
    town.step(5, Received(1, EpochReply(openings)))
    for number, items in enumerate(snapshot.chunks):
        town.step(5, Received(1, SnapshotChunk(snapshot.height, number, items)))
    assert not _installed(town, 5)


def test_a_snapshot_of_the_block_that_a_recovery_named_begins_that_epoch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "KEPT", 10**6)  # all heights are kept, with all their snapshots
    monkeypatch.setattr(archive, "KEPT", 10**6)
    town, recovery = _recovered()
    (snapshot,) = (s for s in town.stores[1].archive.proven if s.height == recovery.height)
    assert snapshot.manifest is not None
    _wipe(town, 4)
    town.queue.clear()
    town.step(4, RecoverySeen((recovery,)))
    town.queue.clear()
    town.engines[4]._offer_asked_of = 1
    town.step(4, Received(1, SnapshotOffer(snapshot.manifest)))
    town.step(4, Received(1, EpochReply((recovery,))))
    for number, items in enumerate(snapshot.chunks):
        town.step(4, Received(1, SnapshotChunk(snapshot.height, number, items)))
    (record, *_) = (r for r in _installed(town, 4) if r.openings)
    assert (record.tip.hash, record.tip.view) == (recovery.block_hash, GENESIS)
    assert town.epochs()[4] == ERA
    town.crash(4)
    town.start(4)
    assert town.epochs()[4] == ERA
    town.pass_time(12)
    town.commit(1, 2, 3, 4)


def test_epochs_that_began_on_one_block_are_all_proven() -> None:
    town, recovery = _recovered()
    manifest = town.stores[1].archive.proven[-1].manifest
    assert manifest is not None
    header = replace(manifest.header, epoch=0)
    link = replace(manifest.links[0], epoch=2 * ERA)
    again = replace(recovery, epoch=2 * ERA)
    elsewhere = replace(recovery, block_hash=bytes(32))
    shown = Manifest(header, (link,), manifest.finalization, 1)
    for openings, epoch in (
        ((recovery, again), 2 * ERA),
        ((again,), 2 * ERA),
        ((elsewhere, again), None),
        ((recovery,), None),
        ((recovery, replace(elsewhere, epoch=2 * ERA)), None),
    ):
        offer = Offer(2, shown, town.cluster.validators)
        offer.openings.extend(openings)
        assert offer.epoch_at(recovery.block_hash) == epoch


@pytest.mark.parametrize("most", [0, 1])
def test_a_snapshot_on_its_way_does_not_lead_into_an_era_that_another_replaced(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """The newest recovery goes on from a higher block of the old history: it leads there."""
    monkeypatch.setattr(archive, "CHUNK_BYTES", 50)
    town, first = _recovered()
    town.change(*(town.member(s) for s in (1, 2, 3)))
    town.pass_time()
    town.commit(1, 2, 3)
    snapshot = town.stores[1].archive.proven[-1]
    openings = tuple(town.stores[1].openings_now())
    assert len(openings) == 2
    _wipe(town, 4)
    town.queue.clear()
    town.step(4, RecoverySeen((first,)))
    town.queue.clear()
    engine = _offered(town, 4, snapshot, openings[: 1 + most])
    assert (engine.fetch is None, engine._offer is None) == (not most, bool(most))
    second = replace(first, epoch=2 * ERA, height=snapshot.height + 1, block_hash=bytes(32))
    town.step(4, RecoverySeen((first, second)))
    assert engine.fetch is None and engine._offer is None
    town.step(4, Received(1, EpochReply(openings)))
    for number, items in enumerate(snapshot.chunks):
        town.step(4, Received(1, SnapshotChunk(snapshot.height, number, items)))
    assert not _installed(town, 4) and engine.halted is None


def test_an_epoch_that_began_above_the_named_block_is_no_part_of_the_new_history() -> None:
    """Who has its proof can put it before the recovery; it would be kept, and told to others."""
    town = Town(5, 6, checkpoints=NEAR)
    town.commit()
    named = town.engines[1].ledger.tip
    assert named.header is not None and named.finalization is not None
    town.change(town.heavier(1, 2), *(town.member(s) for s in (2, 3, 4, 5)))
    town.pass_time(12)
    (ended,) = town.stores[1].openings_now()
    recovery = Recovery(ERA, named.height, named.hash, (town.member(6),), bytes(32), 0)
    final = replace(named.finalization, epoch=ERA)
    link = replace(named.header, epoch=ERA, height=named.height + 1)
    offer = Offer(2, Manifest(named.header, (link,), final, 1), town.cluster.validators)
    assert offer.learn((ended, recovery), [recovery], CLUSTER_ID, town.cluster.verifier)
    assert offer.openings == [recovery] and offer.epoch_at(named.hash) == ERA


def test_what_was_installed_is_passed_on_when_nobody_else_is_left() -> None:
    """Its own blocks prove nothing yet: all that it has is what it was given."""
    town, first = _recovered()
    _wipe(town, 4)
    town.step(4, RecoverySeen((first,)))
    while not _installed(town, 4):
        if not town.queue:
            town.fire(Timer.RETRY)
        town.deliver_one()
    town.queue.clear()
    town.crash(1, 2, 3)
    tip, members = town.engines[4].ledger.tip, (town.member(4), town.member(5))
    second = Recovery(2 * ERA + 1, tip.height, tip.hash, members, bytes(32), 0)
    town.stores[5] = town.new_store(5)
    town.start(5)
    for seat in (4, 5):
        town.step(seat, RecoverySeen((first, second)))
    town.settle(12)
    assert set(town.epochs().values()) == {second.epoch}
    town.commit(4, 5)
