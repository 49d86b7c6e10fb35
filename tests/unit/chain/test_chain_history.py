"""How the registry's events are read: in pieces, past what is broken off, each of them once."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from faulty_chain import FakeChain, Fault
from test_chain_evm import ABI, log, start

from chain.errors import EndpointError, NoAgreement
from chain.events import Reading
from chain.evm import EvmRegistry
from chain.history import NotRead
from chain.membership import Change, Member, Membership, MemberStatus
from chain.replay import NodeChange, Seats, SeatState, next_digest

NOTHING = Change(0, 0, bytes(32))


def passed_on(count: int, block_of: Callable[[int], int]) -> list[NodeChange]:
    """Versions as somebody makes them to no end: two seats, in turn."""
    return [
        NodeChange(block_of(n), 1 + n % 2, n, b"k" * 32, True, b"i" * 20, n, 1)
        for n in range(1, count + 1)
    ]


def state_after(changes: list[NodeChange], version: int, block: int | None = None) -> Change:
    digest = bytes(32)
    for change in changes[:version]:
        digest = next_digest(digest, change)
    return Change(changes[version - 1].block_number if block is None else block, version, digest)


class Serving:
    """Gives the logs of some changes, and knows of which blocks it was asked."""

    def __init__(self, chain: FakeChain, registry: EvmRegistry, changes: list[NodeChange]) -> None:
        self.ranges: list[tuple[int, int]] = []
        self.refuse: Callable[[int, int], Fault | Exception | None] = lambda first, last: None
        self._logs = [(change.block_number, log(change, registry)) for change in changes]
        chain.methods["eth_getLogs"] = self._answer

    def _answer(self, params: list[dict[str, Any]]) -> Any:
        first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        self.ranges.append((first, last))
        refused = self.refuse(first, last)
        return refused or [log for block, log in self._logs if first <= block <= last]


async def test_however_many_versions_there_were_the_seats_of_now_are_proven(
    serve, reader_of
) -> None:
    servers, registry = await start(serve, reader_of)
    changes = passed_on(3000, lambda n: n // 3)
    Serving(servers[0].chain, registry, changes)
    seats = await registry.history.seats_at(state_after(changes, 3000, 1000))
    assert {seat: state.weight for seat, state in seats.items()} == {1: 3000, 2: 2999}


async def test_a_block_whose_events_are_longer_than_other_answers_is_read(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    reader = registry.reader
    changes = passed_on(800, lambda n: 7)
    serving = Serving(servers[0].chain, registry, changes)
    reader.endpoints[0]._body_bytes_max = 300_000  # of more than 400,000
    seats = await registry.history.seats_at(state_after(changes, 800, 20))
    assert len(seats) == 2 and (7, 7) in serving.ranges


async def test_an_endpoint_that_needs_a_rest_goes_on_where_it_stood(serve, reader_of) -> None:
    """Else a past that takes longer than a server's patience would never be read."""
    servers, registry = await start(serve, reader_of)
    registry.history.patience_s = 0.001
    changes = passed_on(90, lambda n: n)
    serving = Serving(servers[0].chain, registry, changes)
    answered = 0

    def every_third(first: int, last: int) -> Fault | None:
        nonlocal answered
        answered += 1
        return Fault(-32005, "too much") if last - first > 9 or answered % 3 == 0 else None

    serving.refuse = every_third
    with trio.fail_after(20):
        seats = await registry.history.seats_at(state_after(changes, 90, 100))
    assert len(seats) == 2
    got = [first for first, last in serving.ranges if last - first <= 9]
    assert got == sorted(got), "nothing that was read is asked for again"


async def test_an_endpoint_that_gives_nothing_any_more_is_given_up(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    registry.history.patience_s = 0.001
    changes = passed_on(90, lambda n: n)
    serving = Serving(servers[0].chain, registry, changes)
    serving.refuse = lambda first, last: Fault(-32005, "pruned") if last >= 40 else None
    with trio.fail_after(20), pytest.raises(NoAgreement, match="pruned"):
        await registry.history.seats_at(state_after(changes, 90, 100))


async def test_an_answer_that_comes_too_late_is_asked_for_in_smaller_pieces(
    serve, reader_of
) -> None:
    servers, registry = await start(serve, reader_of)
    changes = passed_on(90, lambda n: n)
    Serving(servers[0].chain, registry, changes)
    endpoint = registry.reader.endpoints[0]
    call, asked = endpoint.call, []

    async def slow(method: str, params: Any, **options: Any) -> Any:
        width = int(params[0]["toBlock"], 16) - int(params[0]["fromBlock"], 16)
        asked.append(width)
        if width > 30:
            raise EndpointError(endpoint.name, "no whole answer within 10 s")
        return await call(method, params, **options)

    endpoint.call = slow  # type: ignore[method-assign]
    up_to = state_after(changes, 90, 100)
    logs = Reading(endpoint, registry.contract, ABI.event("NodeChanged"), NOTHING, up_to, Seats({}))
    for _ in range(2):
        with pytest.raises(EndpointError):
            await logs.finish()
    assert asked == [100, 49]
    while True:
        try:
            seats = await logs.finish()
            break
        except EndpointError:
            pass
    assert len(seats.now) == 2


async def test_logs_of_other_blocks_than_were_asked_for_are_refused(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    changes = passed_on(3, lambda n: 5)
    servers[0].chain.methods["eth_getLogs"] = [log(change, registry) for change in changes]
    with pytest.raises(NoAgreement, match="logs of other blocks than"):
        await registry.history.folded(
            lambda: Seats({}), Change(6, 0, bytes(32)), state_after(changes, 3, 20)
        )


async def test_launch_and_recoveries_are_read_past_once(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    changes = passed_on(90, lambda n: n)
    serving = Serving(servers[0].chain, registry, changes)
    history = registry.history
    for version in (20, 40, 60):
        seats = await history.seats_at(state_after(changes, version))
        assert {state.weight for state in seats.values()} == {version, version - 1}
    assert serving.ranges == [(0, 20), (20, 40), (40, 60)]
    # one that lies before is found too
    seats = await history.seats_at(state_after(changes, 30))
    assert {state.weight for state in seats.values()} == {30, 29}
    assert serving.ranges[-1] == (0, 30)


async def test_a_look_does_not_wait_for_ever_and_the_next_one_goes_on(serve, reader_of) -> None:
    """One liar that goes on block by block could else keep everybody else's rows from a node."""
    servers, registry = await start(serve, reader_of, n=2, k=2)
    history = registry.history
    history.patience_s, history.look_s = 0.01, 0.5
    changes = passed_on(60, lambda n: n)
    hangs = trio.Event()
    honest = Serving(servers[1].chain, registry, changes)
    honest.refuse = lambda first, last: Fault(-32005, "too wide") if last - first > 9 else None
    servers[0].chain.methods["eth_getLogs"] = Fault(-32601, "no logs here")
    endpoint = registry.reader.endpoints[1]
    call = endpoint.call

    async def some_then_none(method: str, params: Any, **options: Any) -> Any:
        if int(params[0]["fromBlock"], 16) >= 30 and not hangs.is_set():
            await trio.sleep_forever()
        return await call(method, params, **options)

    endpoint.call = some_then_none  # type: ignore[method-assign]
    up_to = state_after(changes, 60, 70)
    with pytest.raises(NotRead, match="gave them up to block"):
        await history.seats_at(up_to)
    got = len(honest.ranges)
    hangs.set()
    history.look_s = 20
    assert len(await history.seats_at(up_to)) == 2
    assert all(first >= 25 for first, _ in honest.ranges[got:]), "what was read stays read"


async def test_what_is_remembered_is_not_given_up_for_a_server_that_fails(serve, reader_of) -> None:
    """Else each restart beside a server that is down would read the whole past again."""
    servers, registry = await start(serve, reader_of)
    history = registry.history
    changes = passed_on(60, lambda n: n)
    seats = Seats({})
    for change in changes[:50]:
        seats.add(change, b"")
    history.remember(membership(state_after(changes, 50), seats))
    serving = Serving(servers[0].chain, registry, changes)
    serving.refuse = lambda first, last: Fault(-32005, "out of order")
    for change in changes[50:]:
        seats.add(change, b"")
    rows, now = membership(state_after(changes, 60), seats).members, state_after(changes, 60)
    with pytest.raises(NotRead):
        await history.check(rows, now)
    serving.refuse = lambda first, last: None
    await history.check(rows, now)
    assert min(first for first, _ in serving.ranges) == 50

    # What it was not is proven anew, from the beginning.
    forged = Seats({7: SeatState(1, 1, b"", b"")})
    history.remember(membership(state_after(changes, 50), forged))
    await history.check(rows, now)
    assert serving.ranges[-1][0] == 0


def membership(at: Change, seats: Seats) -> Membership:
    rows = tuple(
        Member(
            seat, s.weight, MemberStatus(s.status), s.node_key, s.instance_id, 0, "", 0, 0, 0, b""
        )
        for seat, s in sorted(seats.now.items())
    )
    return Membership(1, b"", at.block_number, b"", 0, b"", at.version, at.digest, rows)


@pytest.mark.parametrize("turns", range(8, 30, 3))
async def test_a_reading_that_is_cancelled_anywhere_loses_nothing(turns: int) -> None:
    changes = passed_on(400, lambda n: n // 100)
    contract, event = bytes(20), ABI.event("NodeChanged")
    logs = [log(change, SimpleNamespace(contract=contract)) for change in changes]

    async def call(method: str, params: Any, **options: Any) -> Any:
        first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        await trio.lowlevel.checkpoint()
        return [x for x in logs if first <= int(x["blockNumber"], 16) <= last]

    endpoint: Any = SimpleNamespace(call=call, name="fake")
    up_to = state_after(changes, 400, 5)
    reading = Reading(endpoint, contract, event, NOTHING, up_to, Seats({}))
    reading.logs._span = 2
    found: list[Seats] = []

    async def finish(scope: trio.CancelScope) -> None:
        found.append(await reading.finish())
        scope.cancel()

    while not found:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(finish, nursery.cancel_scope)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert {state.weight for state in found[0].now.values()} == {400, 399}
