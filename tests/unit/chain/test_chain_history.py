"""How the registry's events are read: in pieces, past what is broken off, each of them once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio
from faulty_chain import FakeChain, Fault
from test_chain_evm import log, start

from chain.errors import EndpointError, NoAgreement
from chain.evm import EvmRegistry
from chain.membership import Change
from chain.replay import NodeChange, Seats, next_digest

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
    history, up_to = registry.history, state_after(changes, 90, 100)
    logs = history._reading(endpoint, Seats({}), NOTHING, up_to)
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
