"""Reads and writes through the nodes' API, from node to node until one can serve.

A write keeps its request id on every attempt, so trying again, also elsewhere, applies it once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from node.client import ApiClient, Unreachable
from node.facade import Busy, Entry, NodeError, OutcomeUnknown, Unavailable, Write

from . import processes, survey
from .layout import Testnet, TestnetError

__all__ = ["Entry", "Write", "get", "put"]

ATTEMPT_S = 5.0
PAUSE_S = 0.1

T = TypeVar("T")


async def put(
    testnet: Testnet,
    key: bytes,
    value: bytes,
    *,
    request_id: bytes,
    seat: int | None = None,
    deadline_s: float = 30.0,
) -> Write:
    """Write and return when it is committed; ``seat`` None asks the leader first, then the others.

    Raises TestnetError: refused, or no node could do it within the deadline.
    """

    async def attempt(client: ApiClient) -> Write:
        return await client.put(key, value, request_id=request_id)

    return await _until_served(testnet, attempt, seat, deadline_s)


async def get(
    testnet: Testnet,
    key: bytes,
    *,
    linearizable: bool = True,
    seat: int | None = None,
    deadline_s: float = 30.0,
) -> Entry | None:
    """Read a key; None when there is none. Raises TestnetError as ``put``."""

    async def attempt(client: ApiClient) -> Entry | None:
        return await client.get(key, stale=not linearizable)

    return await _until_served(testnet, attempt, seat, deadline_s)


async def _until_served(
    testnet: Testnet,
    attempt: Callable[[ApiClient], Awaitable[T]],
    seat: int | None,
    deadline_s: float,
) -> T:
    last = "no node was asked in time"
    with trio.move_on_after(deadline_s):
        while True:
            for number in [testnet.node(seat).seat] if seat else await _order(testnet):
                with trio.move_on_after(ATTEMPT_S):
                    try:
                        async with ApiClient(testnet.api_url(number)) as client:
                            return await attempt(client)
                    except (Unavailable, OutcomeUnknown, Busy, Unreachable) as error:
                        last = f"seat {number}: {error}"
                        continue
                    except NodeError as error:
                        raise TestnetError(f"seat {number} refused: {error}") from None
                last = f"seat {number}: no answer within {ATTEMPT_S:.0f} s"
            await trio.sleep(PAUSE_S)
    raise TestnetError(f"not served within {deadline_s:.0f} s; last: {last}")


async def _order(testnet: Testnet) -> Sequence[int]:
    """Seats to ask: the leader, then the others that run."""
    seen = await survey.take(testnet)
    seats = [node.seat for node in seen.nodes if node.answers]
    if not seats and not any(processes.is_alive(node.process) for node in testnet.nodes):
        raise TestnetError("no node runs")
    return sorted(seats, key=lambda number: number != seen.leader)
