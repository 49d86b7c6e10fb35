"""R17: a member that is far behind takes over a certified snapshot, and believes nothing else."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass, replace

import pytest
from clusters import CLUSTER_ID, GENESIS, Cluster, act, block, sent

from consensus import limits
from consensus.catchup import RETRIES_MAX
from consensus.commands import Put
from consensus.engine import Engine
from consensus.interface import (
    Checkpoints,
    EpochRecord,
    FinalizedRecord,
    InstallRecord,
    Misbehaved,
    Output,
    Received,
    RecoverySeen,
    Restored,
    ServeSnapshot,
    Submitted,
    Timer,
    TimerFired,
)
from consensus.items import Lease, item_of, lease_item, read_item
from consensus.limits import EPOCHS_PER_ERA as ERA
from consensus.machine import Machine
from consensus.snapshots import certified_state
from consensus.transfer import export
from consensus.types import Block, Certificate, FinalHeader, Manifest, Recovery, View, VoteKind
from consensus.wire import (
    BlockRequest,
    Certificates,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
    SyncReply,
    SyncRequest,
)

LENGTH = 40
EVERY = 8
AT = 32  # the snapshot's height
cluster = Cluster()


@dataclass
class History:
    """What the other members did meanwhile."""

    blocks: list[Block]
    chunks: list[tuple[bytes, ...]]
    machine: Machine  # at the snapshot


def _history() -> History:
    machine, kept = Machine(), Machine()
    blocks: list[Block] = []
    chunks: list[tuple[bytes, ...]] = []
    for height in range(1, LENGTH + 1):
        known = max(0, height - 3)
        made = block(
            View(1, height - 1),
            blocks[-1] if blocks else GENESIS,
            commands=(act(height, 1, Put(b"key %d" % height, bytes(20))),),
            state_height=known,
            state_hash=machine.hash_at(known),
        )
        blocks.append(made)
        machine.apply(made)
        kept = machine if height < AT else kept
        if height == AT:
            chunks = _chunks(machine)
    other = Machine()
    for made in blocks[:AT]:
        other.apply(made)
    return History(blocks, chunks, other)


def _chunks(machine: Machine) -> list[tuple[bytes, ...]]:
    chunks, after = [], b""
    while True:
        items, next_ = export(machine, after, 600)
        chunks.append(tuple(items))
        if next_ is None:
            return chunks
        after = next_


PAST = _history()


def _final(height: int) -> Certificate:
    made = PAST.blocks[height - 1]
    return cluster.certificate(VoteKind.FINALIZE, made.header.view, made.hash)


HEAD = FinalHeader(PAST.blocks[-1].header, _final(LENGTH))
MANIFEST = Manifest(
    PAST.blocks[AT - 1].header,
    tuple(b.header for b in PAST.blocks[AT : AT + 4]),
    _final(AT + 4),
    len(PAST.chunks),
)


def _chunk(number: int) -> SnapshotChunk:
    return SnapshotChunk(AT, number, PAST.chunks[number])


def _behind(gap: int = 10) -> tuple[Engine, Output]:
    """A member that just learnt from member 2 how far the others are."""
    engine, _ = cluster.booted(1)
    engine.checkpoints = Checkpoints(EVERY, gap)
    engine.step(Received(2, Certificates((_final(LENGTH),))), 5)
    first = SyncReply(tuple(PAST.blocks[:4]), (), _final(4), HEAD)
    return engine, engine.step(Received(2, first), 6)


def _asked(output: Output, kind: type) -> list[int | None]:
    return [s.to for s in output.send if isinstance(s.message, kind)]


def _accused(output: Output) -> list[int]:
    return [n.seat for n in output.notices if isinstance(n, Misbehaved)]


def _offered(engine: Engine) -> int:
    """The member whose snapshot is taken over."""
    (seat,) = _asked(engine.step(TimerFired(Timer.RETRY), 7), SnapshotRequest)
    assert seat is not None
    output = engine.step(Received(seat, SnapshotOffer(MANIFEST)), 8)
    assert [s.message for s in output.send if s.to == seat] == [SnapshotRequest(AT, 0)]
    return seat


def _all_chunks(engine: Engine, seat: int) -> Output:
    output = Output()
    for number in range(len(PAST.chunks)):
        output.merge(engine.step(Received(seat, _chunk(number)), 9))
    return output


def test_a_member_far_behind_installs_a_snapshot_and_goes_on_with_blocks() -> None:
    engine, _ = _behind()
    assert len(PAST.chunks) > 3
    output = _all_chunks(engine, _offered(engine))
    (record,) = (r for r in output.persist if isinstance(r, InstallRecord))
    assert (record.tip.height, record.tip.hash) == (AT, PAST.blocks[AT - 1].hash)
    assert record.machine.state_hash == PAST.machine.state_hash
    assert output.installed
    (asked, *_) = _asked(output, SyncRequest)
    assert asked is not None
    rest = SyncReply(tuple(PAST.blocks[AT:]), (), _final(LENGTH))
    output = engine.step(Received(asked, rest), 10)
    assert [a.block.header.height for a in output.applied] == list(range(AT + 1, LENGTH + 1))
    assert engine.machine.revision == LENGTH
    assert engine.catchup.target is None and engine.fetch is None


def test_a_member_that_is_not_far_behind_fetches_blocks() -> None:
    engine, output = _behind(gap=LENGTH)
    output.merge(engine.step(TimerFired(Timer.RETRY), 7))
    assert not _asked(output, SnapshotRequest)
    assert _asked(output, SyncRequest)


def test_what_everybody_pruned_is_replaced_by_a_snapshot_however_near() -> None:
    engine, output = _behind(gap=LENGTH)
    lowest = next(
        s.to
        for s in output.send
        if isinstance(s.message, SyncRequest) and s.message.from_height == 5
    )
    assert lowest is not None
    output = engine.step(Received(lowest, SnapshotOffer(MANIFEST)), 7)
    assert [s.message for s in output.send if s.to == lowest] == [SnapshotRequest(AT, 0)]
    assert not _asked(engine.step(TimerFired(Timer.RETRY), 8), SyncRequest), "not both at once"
    assert _all_chunks(engine, lowest).installed


def _forged(items: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """One value changed."""
    key, value = read_item(items[-1])
    assert isinstance(key, bytes)
    return (*items[:-1], item_of(key, value._replace(value=b"forged")))


def _lies() -> dict[str, list[SnapshotChunk]]:
    good = [_chunk(n) for n in range(len(PAST.chunks))]
    last = good[-1]
    return {
        "a wrong entry": [*good[:-1], replace(last, items=_forged(last.items))],
        "a missing entry": [*good[:-1], replace(last, items=last.items[:-1])],
        "a missing chunk": [good[0], *(replace(c, chunk=c.chunk - 1) for c in good[2:]), last],
        "the same chunk for ever": [replace(good[0], chunk=n) for n in range(len(good))],
        "nothing in a chunk": [good[0], replace(good[1], items=())],
        "no items": [replace(good[0], items=(b"\xff" * 9,))],
    }


@pytest.mark.parametrize("lie", _lies())
def test_a_lying_server_is_dropped_and_the_next_one_asked(lie: str) -> None:
    engine, _ = _behind()
    liar = _offered(engine)
    output = Output()
    for chunk in _lies()[lie]:
        output.merge(engine.step(Received(liar, chunk), 9))
    assert _accused(output) == [liar]
    assert not output.installed and engine.machine.height == 4
    (next_,) = _asked(engine.step(TimerFired(Timer.RETRY), 10), SnapshotRequest)
    assert next_ is not None and next_ != liar
    engine.step(Received(next_, SnapshotOffer(MANIFEST)), 11)
    assert _all_chunks(engine, next_).installed


def test_endless_chunks_are_cut_off_at_the_size_that_a_state_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "STATE_BYTES_MAX", 300)
    engine, _ = _behind()
    liar = _offered(engine)
    output = _all_chunks(engine, liar)
    assert _accused(output) == [liar]
    assert engine.fetch is None


_HEADER = PAST.blocks[AT - 1].header


@pytest.mark.parametrize(
    "bad",
    [
        replace(MANIFEST, header=replace(_HEADER, height=AT + EVERY)),
        replace(MANIFEST, links=MANIFEST.links[1:]),
        replace(MANIFEST, links=()),
        replace(MANIFEST, finalization=_final(AT + 3)),
        replace(MANIFEST, finalization=replace(MANIFEST.finalization, parts=())),
        replace(MANIFEST, finalization=replace(MANIFEST.finalization, kind=VoteKind.NOTARIZE)),
        replace(
            MANIFEST,
            links=(*MANIFEST.links[:2], replace(MANIFEST.links[2], state_hash=bytes(32))),
        ),
    ],
)
def test_a_manifest_that_nothing_certifies_is_refused(bad: Manifest) -> None:
    engine, _ = _behind()
    (seat,) = _asked(engine.step(TimerFired(Timer.RETRY), 7), SnapshotRequest)
    assert seat is not None
    output = engine.step(Received(seat, SnapshotOffer(bad)), 8)
    assert _accused(output) == [seat]
    assert not _asked(output, SnapshotRequest) and engine.fetch is None


def _of(height: int) -> tuple[Manifest, SnapshotChunk]:
    """A certified snapshot at any height, in one chunk."""
    machine = Machine()
    for made in PAST.blocks[:height]:
        machine.apply(made)
    links = tuple(b.header for b in PAST.blocks[height : height + 4])
    manifest = Manifest(PAST.blocks[height - 1].header, links, _final(height + 4), 1)
    assert certified_state(manifest, CLUSTER_ID) == machine.state_hash
    return manifest, SnapshotChunk(height, 0, tuple(export(machine, b"", 10**6)[0]))


def test_a_stale_snapshot_is_not_taken() -> None:
    engine, _ = _behind()
    (seat,) = _asked(engine.step(TimerFired(Timer.RETRY), 7), SnapshotRequest)
    assert seat is not None
    engine.catchup.lost(seat)  # it owes us no blocks
    output = engine.step(Received(seat, SnapshotOffer(_of(EVERY)[0])), 8)
    assert not _asked(output, SnapshotRequest) and engine.fetch is None


def test_a_server_of_stale_snapshots_delays_us_once_only() -> None:
    """It has the whole past, and could serve the next height as a snapshot again and again."""
    engine, _ = _behind()
    taken = 0
    for height in (5, 6, 7, 8):
        engine.step(TimerFired(Timer.RETRY), 8)
        for seat in (3, 4):
            engine.catchup.lost(seat)
        engine.catchup.ask([2])
        manifest, chunk = _of(height)
        engine.step(Received(2, SnapshotOffer(manifest)), 9)
        taken += engine.step(Received(2, chunk), 10).installed
    assert taken == 1


def test_the_only_member_that_is_ahead_serves_again_when_it_pruned_more() -> None:
    """Two that are equally far behind have nothing for each other; a third has every block."""
    engine, output = _behind(gap=LENGTH)
    installed: list[int] = []
    for height in (8, 8, 16, 16, 16, 16):
        manifest, chunk = _of(height)
        for _ in range(4):  # all that are asked answer before the next retry
            asked, output = _asked(output, SyncRequest), Output()
            for seat in asked:
                nothing = SyncReply((), (), _final(4))
                answer = SnapshotOffer(manifest) if seat == 2 else nothing
                output.merge(engine.step(Received(seat or 0, answer), 8))
        if engine.step(Received(2, chunk), 9).installed:
            installed.append(height)
        output = engine.step(TimerFired(Timer.RETRY), 10)
    assert installed == [8, 16]


def test_a_snapshot_that_nobody_asked_for_is_not_even_checked() -> None:
    engine, _ = _behind(gap=LENGTH)
    checked: list[Certificate] = []
    engine._is_genuine = lambda c: bool(checked.append(c))  # type: ignore[method-assign]
    engine.step(Received(4, SnapshotOffer(MANIFEST)), 8)
    engine.step(Received(4, _chunk(0)), 8)
    if engine.catchup.is_stuck_at(4):
        return
    assert not checked and engine.fetch is None


def test_a_server_of_a_chunk_now_and_then_holds_us_for_seconds_and_not_for_a_day() -> None:
    """Chunks of one item, each just before our patience ends, as many as a manifest may name."""
    engine, _ = _behind()
    (liar,) = _asked(engine.step(TimerFired(Timer.RETRY), 7), SnapshotRequest)
    assert liar is not None
    slow = replace(MANIFEST, chunks=limits.SNAPSHOT_CHUNKS_MAX)
    engine.step(Received(liar, SnapshotOffer(slow)), 8)
    retries = 0
    for number in range(200):
        item = lease_item(number, Lease(limits.LEASE_TTL_MS_MIN, 0))
        items = (PAST.chunks[0][0],) if number == 0 else (item,)
        engine.step(Received(liar, SnapshotChunk(AT, number, items)), 9)
        for _ in range(RETRIES_MAX - 1):
            retries += 1
            engine.step(TimerFired(Timer.RETRY), 10)
            if engine.fetch is None or engine.fetch.sender != liar:
                assert not engine.catchup.paused
                assert retries < 20 * RETRIES_MAX
                return
    pytest.fail("it still waits for the liar")


def test_a_server_that_falls_silent_is_asked_again_and_then_another() -> None:
    engine, _ = _behind()
    silent = _offered(engine)
    outputs = [engine.step(TimerFired(Timer.RETRY), 9) for _ in range(RETRIES_MAX + 1)]
    asked = [seat for output in outputs for seat in _asked(output, SnapshotRequest)]
    assert asked.count(silent) >= 1
    assert asked[-1] != silent


def test_blocks_that_came_meanwhile_are_not_undone() -> None:
    engine, _ = _behind()
    seat = _offered(engine)
    engine.step(Received(3, SyncReply(tuple(PAST.blocks[4:]), (), _final(LENGTH))), 9)
    assert engine.machine.height == LENGTH
    output = _all_chunks(engine, seat)
    assert not output.installed and engine.machine.height == LENGTH
    assert engine.fetch is None


def test_an_installed_state_does_not_change_before_it_is_written() -> None:
    engine, _ = _behind()
    seat = _offered(engine)
    for made in PAST.blocks[AT:]:
        engine.ledger.blocks[made.hash] = made  # it saw them proposed
    output = _all_chunks(engine, seat)
    assert output.installed
    assert not any(
        isinstance(r, FinalizedRecord) and r.applied.block.header.height > AT
        for r in output.persist
    )
    (record,) = (r for r in output.persist if isinstance(r, InstallRecord))
    assert record.machine.height == AT


def test_a_recovery_on_an_installed_block_waits_until_it_is_written() -> None:
    engine, _ = _behind()
    seat = _offered(engine)
    members = cluster.validators.validators
    recovery = Recovery(ERA, AT, PAST.blocks[AT - 1].hash, members, bytes(32), 0)
    engine.step(RecoverySeen((recovery,)), 8)
    output = _all_chunks(engine, seat)
    assert output.installed and engine.validators.epoch == 0
    output = engine.step(TimerFired(Timer.RETRY), 10)
    assert EpochRecord(recovery) in output.persist
    assert (engine.validators.epoch, engine.view) == (ERA, View(1, 0))


def test_a_replaced_state_is_not_kept_in_memory() -> None:
    engine, _ = cluster.booted(1)
    first = weakref.ref(engine.machine)
    engine.checkpoints = Checkpoints(EVERY, 10)
    engine.step(Received(2, Certificates((_final(LENGTH),))), 5)
    engine.step(Received(2, SyncReply(tuple(PAST.blocks[:4]), (), _final(4), HEAD)), 6)
    _all_chunks(engine, _offered(engine))
    gc.collect()
    assert first() is None


def test_a_tip_that_is_final_by_a_later_block_is_no_proof_of_leadership() -> None:
    engine, _ = _behind()
    _all_chunks(engine, _offered(engine))
    assert engine.ledger.tip.finalization is None
    shown = engine.leadership()
    assert shown is not None
    assert shown.verify(cluster.validators, CLUSTER_ID, cluster.verifier)


def test_a_command_that_the_snapshot_has_waits_no_longer() -> None:
    engine, _ = _behind()
    raw = act(20, 1, Put(b"key 20", bytes(20)))
    engine.step(Submitted((raw,)), 7)
    assert len(engine.mempool) == 1
    _all_chunks(engine, _offered(engine))
    assert len(engine.mempool) == 0


def test_a_restart_after_the_install_begins_above_the_snapshot() -> None:
    engine, _ = _behind()
    output = _all_chunks(engine, _offered(engine))
    (record,) = (r for r in output.persist if isinstance(r, InstallRecord))
    again, output = cluster.booted(
        1, Restored(record.tip, record.machine, certificates=(record.manifest.finalization,))
    )
    assert again.view >= MANIFEST.finalization.view.next()
    assert record.manifest.finalization in again.ledger.justification()
    assert not any(isinstance(m, BlockRequest) for m in sent(output))
    output = again.step(Received(3, Certificates((_final(LENGTH),))), 5)
    asked = [m for m in sent(output) if isinstance(m, SyncRequest)]
    assert [m.from_height for m in asked] == [AT + 1]


def test_requests_are_served_from_the_disk() -> None:
    engine, _ = cluster.booted(1)
    output = engine.step(Received(3, SnapshotRequest(AT, 2)), 5)
    assert output.serve == [ServeSnapshot(3, AT, 2)]
