"""The daemon's store beside the simulated disk: after every crash both give the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from consensus.catchup import is_consistent
from consensus.codec import make_block
from consensus.interface import Checkpoints, FinalizedRecord, Record, Restored, VoteRecord
from consensus.machine import Machine
from consensus.types import Certificate, Part, View, Vote, VoteKind
from node import votelog
from node.storage import Store
from tests.simulation import scenario
from tests.simulation.adversaries import GALLERY
from tests.simulation.scenario import Settings
from tests.simulation.store import SimStore
from tests.simulation.world import World

NULLIFY = VoteKind.NULLIFY
SETTINGS = Settings(
    faults=("delay", "loss", "reorder", "partition", "crash", "crash_all"), chaos_ms=6_000
)
# Somebody misses so much that it takes a snapshot over, and may die at that.
AWAY = replace(SETTINGS, absences=1, clients=6, chaos_ms=8_000)
INSTALLING = (2, 3, 6, 7, 8, 11, 14)  # seeds


class PairedStore(SimStore):
    """Writes everything to both, and reopens the real one at every start."""

    directory: Path
    real: Store | None = None

    def open(self) -> Store:
        if self.real is not None:
            self.real.close()
        self.real = Store(
            self.directory / str(self._seat),
            cluster_id=self._cluster_id,
            seat=self._seat,
            genesis=self.genesis,
        )
        return self.real

    def transact(self, records: list[Record]) -> None:
        super().transact(records)
        assert self.real is not None
        self.real.write(records)
        self.real.sync()

    def restored(self) -> Restored:
        mine, real = super().restored(), self.open().restore()
        assert real.tip == mine.tip
        assert set(real.votes) == set(mine.votes), "votes"
        assert {b.hash for b in real.blocks} == {b.hash for b in mine.blocks}
        assert set(real.certificates) == set(mine.certificates)
        assert real.incarnation == mine.incarnation
        assert set(real.acknowledged) == set(mine.acknowledged)
        assert real.abstain_until == mine.abstain_until
        assert real.machine.state_hash == mine.machine.state_hash
        assert list(real.machine.sessions) == list(mine.machine.sessions)
        assert dict(real.machine._hashes) == dict(mine.machine._hashes)
        return real


class PairedWorld(World):
    """A world whose correct members keep real files."""

    directory: Path

    def new_store(self, seat: int) -> SimStore:
        every = self.scenario.checkpoints.every
        store = PairedStore(self.cluster_id, seat, self.genesis, 3, every)
        store.directory = self.directory
        return store


@pytest.fixture
def world(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[PairedWorld]:
    monkeypatch.setattr(votelog, "BYTES_MAX", 4096)
    PairedWorld.directory = tmp_path
    seed, settings = request.param
    plan = scenario.build(seed, settings, tuple(GALLERY))
    plan.checkpoints = Checkpoints(2, 3)
    world = PairedWorld(plan)
    yield world
    for member in world.members.values():
        if isinstance(member.store, PairedStore) and member.store.real is not None:
            member.store.real.close()


@pytest.mark.parametrize(
    "world",
    [(seed, SETTINGS) for seed in range(1, 9)] + [(seed, AWAY) for seed in INSTALLING],
    indirect=True,
    ids=lambda p: f"{'away' if p[1].absences else 'short'}-{p[0]}",
)
def test_the_real_store_gives_back_what_the_simulated_one_does(world: PairedWorld) -> None:
    world.run()
    assert world.oracle.installs or not world.scenario.settings.absences
    for member in world.correct:
        assert isinstance(member.store, PairedStore)
        assert member.store.real is not None
        for height in range(member.store.installed + 1, member.store.tip.height + 1):
            reply = member.store.real.blocks_from(height, 4)
            assert reply is not None
            assert reply.blocks[0].header.height == height
            assert is_consistent(reply, world.cluster_id)


def test_a_complaint_below_the_final_view_keeps_the_gate_of_its_term_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(votelog, "BYTES_MAX", 0)
    cluster_id, genesis, zero = bytes(32), bytes(32), bytes(32)
    signature = bytes(65)
    complaints = [Vote(NULLIFY, 0, View(t, 1), 1, zero, 1, signature) for t in (1, 2, 3)]
    machine, parent, records = Machine(), genesis, []
    for height, view in enumerate((View(2, 0), View(2, 3)), 1):
        block = make_block(
            cluster_id,
            epoch=0,
            view=view,
            proposer=1,
            height=height,
            parent=parent,
            time_ms=0,
            state_height=0,
            state_hash=zero,
            commands=(),
            nullifications=(),
        )
        final = Certificate(VoteKind.FINALIZE, 0, view, block.hash, (Part(1, 0, signature),))
        records.append(FinalizedRecord(machine.apply(block), final))
        parent = block.hash
    store = Store(tmp_path / "node", cluster_id=cluster_id, seat=1, genesis=genesis)
    try:
        store.write([*map(VoteRecord, complaints), *records])
        store.sync()
        assert set(store.restore().votes) == set(complaints[1:])
    finally:
        store.close()
