"""The driver carries out the core's effects in order, and answers clients exactly once."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
import trio
import trio.testing

from consensus import wire
from consensus.codec import make_block
from consensus.commands import Action, Command, Put, encode_command
from consensus.interface import (
    EpochRecord,
    Event,
    FinalizedRecord,
    Halt,
    Output,
    PeerConnected,
    Received,
    Record,
    Rejected,
    ServeBlocks,
    ServeEpochs,
    Started,
    Submitted,
    Timer,
    TimerFired,
    VoteRecord,
)
from consensus.machine import Machine
from consensus.outcomes import Result
from consensus.types import Block, View
from node import votelog
from node.driver import SERVED_AT_ONCE_MAX, Driver, SafetyStop, _Disk
from node.facade import Busy, OutcomeUnknown
from node.history import History
from node.keyvalue import KeyValues
from node.network import NetworkLimits, PeerUp
from node.network.inbox import EventQueue, Inbox
from tests.unit.node.small_cluster import decoded, small_cluster

FOUR = {1: 1, 2: 1, 3: 1, 4: 1}


def put(number: int, client: bytes = bytes(16)) -> Command:
    return Command(client, number, Put(b"key", b"%d" % number))


@pytest.mark.parametrize("inline_s", [1.0, 0.0], ids=["quick disk", "slow disk"])
async def test_no_vote_leaves_before_it_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline_s: float
) -> None:
    monkeypatch.setattr("node.driver.SYNC_INLINE_S", inline_s)
    async with small_cluster(tmp_path, FOUR) as cluster:
        sent: list[tuple[int, int, int]] = []
        unsaved: list[wire.Message] = []

        def watch(seat: int, payload: bytes) -> None:
            message = decoded(payload, seat)
            match message:
                case wire.VoteMessage(_, vote):
                    position = (*vote.view, int(vote.kind))
                case wire.ProposalMessage(_, proposal):
                    position = (*proposal.block.header.view, 1)
                case _:
                    return
            sent.append(position)
            if position not in cluster.members[seat].votes_on_disk():
                unsaved.append(message)

        for member in cluster.members.values():
            member.mesh.watch_send = lambda payload, seat=member.seat: watch(seat, payload)
        for number in range(1, 11):
            await cluster.members[1].driver.execute(put(number), 10)
        assert len(sent) > 40
        assert unsaved == []


async def test_a_disk_that_stalls_holds_up_everybody_once_and_not_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waits = [0.001, 2.0, 2.0, 2.0, 0.001, 0.001]
    waited: list[float] = []
    in_place: list[bool] = []

    def sync() -> None:
        waited.append(waits[len(waited)])
        in_place.append(trio.lowlevel.in_trio_run())

    monkeypatch.setattr("node.driver.time.perf_counter", lambda: sum(waited))
    disk = _Disk(sync)
    for _ in waits:
        await disk.sync()
    assert in_place == [True, True, False, False, False, True]


async def test_a_repeated_request_is_answered_and_applied_once(tmp_path: Path) -> None:
    async with small_cluster(tmp_path, FOUR) as cluster:
        first = await cluster.members[1].driver.execute(put(1), 10)
        again = await cluster.members[3].driver.execute(put(1), 10)
        assert first == again == Result(1, False)
        results: list[Result] = []

        async def race(seat: int) -> None:
            results.append(await cluster.members[seat].driver.execute(put(2), 10))

        async with trio.open_nursery() as nursery:
            for seat in FOUR:
                nursery.start_soon(race, seat)
        assert set(results) == {Result(2, True)}


def _block(command: Command) -> Block:
    """The first block of a chain, with one command."""
    return make_block(
        bytes(32),
        epoch=0,
        view=View(1, 0),
        proposer=1,
        height=1,
        parent=bytes(32),
        time_ms=1,
        state_height=0,
        state_hash=bytes(32),
        commands=(encode_command(command),),
        nullifications=(),
    )


async def test_an_outcome_counts_more_than_a_refusal_in_the_same_turn() -> None:
    """Another member had the command committed, and the core finds its own copy superfluous."""
    command = put(1)
    block = _block(command)

    def step(event: Event, _: int) -> Output:
        if not isinstance(event, Submitted):
            return Output()
        applied = Machine().apply(block)
        return Output(applied=[applied], rejected=[Rejected(command.id, "superfluous")])

    engine = SimpleNamespace(step=step, machine=Machine())
    store = SimpleNamespace(
        sync_votes=lambda: None, sync=lambda: None, history=SimpleNamespace(rows=tuple)
    )
    mesh = SimpleNamespace(events=_NoEvents())
    driver = Driver(engine, store, mesh, cluster_id=bytes(32))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        assert (await driver.execute(command, 10)).revision == 1
        nursery.cancel_scope.cancel()


async def test_nothing_of_a_block_is_told_before_the_votes_under_it_are_on_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Our own vote may have made it final: a crash before it is on disk could take it all back."""
    monkeypatch.setattr("node.driver.SYNC_INLINE_S", 0.0)  # a slow disk, which a thread waits for
    machine, command, vote = Machine(), put(1), VoteRecord(SimpleNamespace())  # type: ignore[arg-type]
    on_disk, told = threading.Event(), []

    def step(event: Event, _: int) -> Output:
        if not isinstance(event, Submitted):
            return Output()
        return Output(persist=[vote], applied=[machine.apply(_block(command))])

    driver = Driver(
        SimpleNamespace(step=step, machine=machine),  # type: ignore[arg-type]
        SimpleNamespace(  # type: ignore[arg-type]
            write=lambda records: None,
            sync_votes=lambda: on_disk.wait(30),
            sync=lambda: None,
            history=SimpleNamespace(rows=tuple),
        ),
        SimpleNamespace(events=_NoEvents()),  # type: ignore[arg-type]
        cluster_id=bytes(32),
    )

    async def tell(ask: Callable[[], Awaitable[object]]) -> None:
        await ask()
        told.append(on_disk.is_set())

    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        async with trio.open_nursery() as clients:
            clients.start_soon(tell, partial(driver.execute, command, 30))
            await trio.testing.wait_all_tasks_blocked()
            assert machine.answer(command.id) is not None
            clients.start_soon(tell, partial(driver.execute, command, 30))
            clients.start_soon(tell, KeyValues(_Host(driver)).leases)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OutcomeUnknown, match="disk"):
                await driver.execute(command, 0)
            on_disk.set()
        nursery.cancel_scope.cancel()
    assert told == [True] * 3


class _Host:
    """What a key-value store stands on, in place of a whole node."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver

    async def execute(self, action: Action, request_id: bytes | None) -> Result:
        raise AssertionError("a read asks for no command")

    async def history(self, linearizable: bool) -> History:
        return self._driver.history


async def test_without_a_quorum_the_outcome_is_unknown_and_comes_true_later(
    tmp_path: Path,
) -> None:
    async with small_cluster(tmp_path, FOUR) as cluster:
        await cluster.kill(3)
        await cluster.kill(4)
        with pytest.raises(OutcomeUnknown):
            await cluster.members[1].driver.execute(put(1), 0.2)
        await cluster.start(3)
        assert await cluster.members[1].driver.execute(put(1), 20) == Result(1, False)


async def test_killed_members_come_back_to_the_same_state(tmp_path: Path) -> None:
    async with small_cluster(tmp_path, FOUR) as cluster:
        for number in range(1, 21):
            await cluster.members[1 + number % 4].driver.execute(put(number), 10)
        for seat in FOUR:
            await cluster.kill(seat)
        for seat in FOUR:
            await cluster.start(seat)
        await cluster.wait_active()
        await cluster.wait(
            lambda: all(m.driver.engine.machine.revision == 20 for m in cluster.members.values())
        )
        hashes = {m.driver.engine.machine.state_hash for m in cluster.members.values()}
        assert len(hashes) == 1
        assert await cluster.members[2].driver.execute(put(21), 10) == Result(21, True)


async def test_who_waits_for_a_command_is_told_when_the_driver_ends(tmp_path: Path) -> None:
    async with small_cluster(tmp_path, FOUR) as cluster:
        for seat in (2, 3):
            await cluster.kill(seat)  # no quorum is left
        driver = cluster.members[1].driver
        told: list[str] = []

        async def execute() -> None:
            with pytest.raises(OutcomeUnknown) as raised:
                await driver.execute(put(1), 1_000_000)
            told.append(str(raised.value))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(execute)
            await trio.testing.wait_all_tasks_blocked()
            await cluster.kill(1)
        assert told == ["the node stopped before a commit was seen"]
        with pytest.raises(Busy):
            await driver.execute(put(2), 1_000_000)


async def test_garbage_from_a_member_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    async with small_cluster(tmp_path, FOUR) as cluster:
        member = cluster.members[1]
        for payload in (b"", b"\xc1", b"\x93\x01\x63\x00", bytes(100)):
            cluster.members[2].mesh.send(1, payload)
        await member.driver.execute(put(1), 10)
        assert member.driver.bad_messages == 4


async def test_a_flood_of_offences_makes_few_lines_and_says_how_many_it_kept(
    tmp_path: Path,
) -> None:
    async with small_cluster(tmp_path, FOUR) as cluster:
        member = cluster.members[1]
        with structlog.testing.capture_logs() as lines:
            for _ in range(200):
                cluster.members[2].mesh.send(1, b"\xc1")
            await member.driver.execute(put(1), 10)
        about = [line for line in lines if line["event"] == "bad_message"]
        assert member.driver.bad_messages == 200
        assert 0 < len(about) < 50
        assert (
            sum(member.driver._suppressed.values())
            + len(about)
            + sum(line["suppressed"] for line in about)
            == 200
        )


async def test_a_superseded_copy_stops_for_good(tmp_path: Path) -> None:
    """The host starts the same disk twice; the older copy learns of the newer boot and stops."""
    with pytest.RaisesGroup(SafetyStop, flatten_subgroups=True, allow_unwrapped=True):
        async with small_cluster(tmp_path, FOUR) as cluster:
            older = cluster.members.pop(4)
            for name in ("cluster.sqlite3", "cluster.sqlite3-wal", *votelog.NAMES):
                source = older.directory / name
                if source.exists():
                    target = tmp_path / "copy" / "seat-4"
                    target.mkdir(parents=True, exist_ok=True)
                    (target / name).write_bytes(source.read_bytes())
            cluster._directory = tmp_path / "copy"
            newer = await cluster.start(4)
            # It may abstain: the older copy voted on after the disk was copied.
            await cluster.wait(lambda: newer.driver.engine.boot.done)
            # The older copy, still running, votes: the others answer with the newer boot.
            cluster.members[4] = older
            await trio.sleep_forever()


async def test_finalized_blocks_wait_for_messages_but_an_epoch_for_its_last_block() -> None:
    done: list[Any] = []
    store: Any = SimpleNamespace(
        write=done.extend,
        sync_votes=lambda: done.append("durable"),
        sync=lambda: done.append("all durable"),
        history=SimpleNamespace(rows=tuple),
    )
    engine: Any = SimpleNamespace(machine=Machine())
    driver = Driver(engine, store, SimpleNamespace(), cluster_id=bytes(32))  # type: ignore[arg-type]
    final, vote, epoch = (cls.__new__(cls) for cls in (FinalizedRecord, VoteRecord, EpochRecord))

    async def written(*records: Record) -> list[Any]:
        done.clear()
        for disk in driver._duties(Output(persist=list(records))):
            await disk.sync()
        return list(done)

    assert await written(final, vote) == [vote, "durable", final]
    assert await written(final) == [final]
    assert await written(vote, final, epoch, vote) == [vote, final, epoch, vote, "durable"]


async def test_a_timer_that_was_moved_does_not_run_out_while_the_disk_is_waited_for() -> None:
    """Else a member complains about a leader in the moment in which it takes over."""
    fired: list[Timer] = []
    driver: Driver

    def step(event: Event, _: int) -> Output:
        if isinstance(event, TimerFired):
            fired.append(event.timer)
        # The first step enters a term: its votes go to disk, the leader's time begins anew.
        if isinstance(event, Started):
            return Output(persist=[VoteRecord(None)], timers={Timer.LEADER: 60_000})  # type: ignore[arg-type]
        return Output()

    def sync_votes() -> None:
        driver._due(Timer.LEADER)  # the old time runs out just now

    engine = SimpleNamespace(step=step, machine=Machine())
    store = SimpleNamespace(
        write=lambda _: None,
        sync_votes=sync_votes,
        sync=lambda: None,
        history=SimpleNamespace(rows=tuple),
    )
    mesh = SimpleNamespace(events=_NoEvents())
    driver = Driver(engine, store, mesh, cluster_id=bytes(32))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        await trio.testing.wait_all_tasks_blocked()
        assert fired == []
        nursery.cancel_scope.cancel()


async def test_a_member_that_asks_again_and_again_makes_no_one_sync(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    syncs: list[str] = []
    answering = trio.Event()

    def step(event: Event, _: int) -> Output:
        if isinstance(event, Started):
            return Output()
        driver._unsynced = True  # another block is final
        return Output(serve=[ServeBlocks(2, 1, 1)])

    engine = SimpleNamespace(step=step, machine=Machine())
    store = SimpleNamespace(
        sync_votes=lambda: None,
        sync=lambda: syncs.append("sync"),
        history=SimpleNamespace(rows=tuple),
    )
    mesh = SimpleNamespace(events=_NoEvents())
    driver = Driver(engine, store, mesh, cluster_id=bytes(32))  # type: ignore[arg-type]

    async def answer(*_: object, **__: object) -> None:
        await answering.wait()

    monkeypatch.setattr("node.driver.trio.to_thread.run_sync", answer)
    async with trio.open_nursery() as nursery:
        await nursery.start(driver.run)
        for _ in range(5):
            driver.tell(PeerConnected(2))
            await trio.testing.wait_all_tasks_blocked()
        assert syncs == ["sync"]
        answering.set()
        await trio.testing.wait_all_tasks_blocked()
        driver.tell(PeerConnected(2))
        await trio.testing.wait_all_tasks_blocked()
        assert syncs == ["sync", "sync"]
        nursery.cancel_scope.cancel()


async def test_a_crowd_that_is_behind_leaves_threads_to_the_votes() -> None:
    reading, go_on = 0, threading.Event()

    def read(*_: object) -> None:
        nonlocal reading
        reading += 1
        go_on.wait(30)

    def step(event: Event, _: int) -> Output:
        if isinstance(event, Started):
            return Output()
        blocks = [ServeBlocks(seat, 1, 1) for seat in range(100)]
        return Output(serve=[*blocks, *(ServeEpochs(seat, 1) for seat in range(100))])

    store = SimpleNamespace(
        sync_votes=lambda: None,
        sync=lambda: None,
        history=SimpleNamespace(rows=tuple),
        openings_from=read,
        blocks_from=read,
    )
    engine = SimpleNamespace(step=step, machine=Machine())
    mesh = SimpleNamespace(events=_NoEvents())
    driver = Driver(engine, store, mesh, cluster_id=bytes(32))  # type: ignore[arg-type]
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            driver.tell(PeerConnected(2))
            with trio.fail_after(10):
                while not reading:
                    await trio.sleep(0.001)
                await trio.to_thread.run_sync(lambda: None)
            assert trio.to_thread.current_default_thread_limiter().borrowed_tokens == 0
            assert reading <= SERVED_AT_ONCE_MAX
            go_on.set()
            nursery.cancel_scope.cancel()
    finally:
        go_on.set()


async def test_what_a_link_brings_to_an_idle_driver_has_its_turn_at_once() -> None:
    stepped: list[Event] = []

    def request(height: int) -> wire.SyncRequest:
        return wire.SyncRequest(height, 1)

    def brings(height: int) -> None:
        inbox.put_messages(2, [wire.encode(request(height))])

    def step(event: Event, _: int) -> Output:
        stepped.append(event)
        return Output(halt=Halt("enough")) if event == Received(2, request(3)) else Output()

    engine = SimpleNamespace(step=step, machine=Machine())
    store = SimpleNamespace(
        sync_votes=lambda: None, sync=lambda: None, history=SimpleNamespace(rows=tuple)
    )
    mesh = SimpleNamespace(events=EventQueue())
    inbox = Inbox(NetworkLimits(), mesh.events)
    driver = Driver(engine, store, mesh, cluster_id=bytes(32))  # type: ignore[arg-type]
    with pytest.RaisesGroup(SafetyStop, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            await nursery.start(driver.run)
            await trio.testing.wait_all_tasks_blocked()
            brings(1)
            assert stepped == [Started(), Received(2, request(1))]
            inbox.put(PeerUp(2))  # in the midst of the mesh's work: later
            assert len(stepped) == 2
            await trio.testing.wait_all_tasks_blocked()
            assert stepped[2:] == [PeerConnected(2)]
            brings(3)  # the error is not the link's, but ends the driver
            brings(4)
            assert stepped[3:] == [Received(2, request(3))]
            await trio.sleep_forever()
    brings(4)
    assert stepped[4:] == []


async def test_timers_do_not_wait_for_all_that_a_member_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A leader could else keep us busy, and our timers so late that they accuse nobody."""
    monkeypatch.setattr("node.driver.TURN_S", 0.0)
    stepped: list[str] = []

    def step(event: Event, _: int) -> Output:
        stepped.append(type(event).__name__)
        if isinstance(event, Received):
            driver._due(Timer.LEADER)
        return Output()

    engine = SimpleNamespace(step=step, machine=Machine())
    store = SimpleNamespace(
        sync_votes=lambda: None, sync=lambda: None, history=SimpleNamespace(rows=tuple)
    )
    mesh = SimpleNamespace(events=EventQueue())
    driver = Driver(engine, store, mesh, cluster_id=bytes(32))  # type: ignore[arg-type]
    Inbox(NetworkLimits(), mesh.events).put_messages(
        2, [wire.encode(wire.SyncRequest(height, 1)) for height in range(3)]
    )
    for _ in range(3):
        assert list(driver._turn(driver._from_network())) == []
    assert stepped == ["Received", "TimerFired"] * 3


class _NoEvents:
    on_arrival: object = None
    on_notice: object = None

    def __bool__(self) -> bool:
        return False
