"""One endpoint's events of a contract, in pieces that it gives, and what is made of them.

Nothing of them is true until proven. What is broken off goes on where it stood, so that a past
which takes longer than a server's patience, or than one look, is read in the end.
"""

from __future__ import annotations

from typing import Generic

import trio

from chain import decoding
from chain.abi import EventAbi
from chain.decoding import Log
from chain.errors import BadChainData, EndpointError, EndpointTooLong, RpcFault
from chain.membership import Change
from chain.replay import F, NodeChange, Replay, node_change
from chain.rpc import RpcEndpoint

LOG_BLOCKS = 10_000
LOGS_PER_REQUEST_MAX = 10_000
LOGS_MAX = 200_000
# A block cannot be asked for in parts. A change that is not the owner's costs some 40,000 gas at
# least and its log has 900 bytes, so this is a block of 700 million gas with nothing else in it.
BLOCK_BYTES_MAX = 16 * 1024 * 1024
BLOCK_LOGS_MAX = 20_000
AT_ONCE = 64  # are worked through before somebody else has a turn


class Reading(Generic[F]):
    """Node changes on their way from one endpoint into a fold.

    Args:
        since, up_to: known states of the registry; the changes between them are read.
        fold: empty.
    """

    def __init__(
        self,
        endpoint: RpcEndpoint,
        contract: bytes,
        event: EventAbi,
        since: Change,
        up_to: Change,
        fold: F,
    ) -> None:
        self._event = event
        self._replay = Replay(since, up_to, fold)
        self.logs = EventLogs(
            endpoint, contract, event.topic, since.block_number, up_to.block_number
        )
        self._seen_block = self.logs.next_block
        # What was given and is not worked through yet: a cancelled reading loses nothing.
        self._piece: list[Log] | None = None
        self._changes: list[NodeChange] = []

    def aim(self, up_to: Change) -> bool:
        """Goes on to a later state, at the end of a block; False when it is beyond that already."""
        if up_to.block_number < self.logs.next_block - 1 or not self._replay.aim(up_to):
            return False
        self.logs.last = up_to.block_number
        return True

    @property
    def next_block(self) -> int:
        """All before it was given."""
        return self.logs.next_block

    def has_moved(self) -> bool:
        """Whether a block was read since this was asked last."""
        before, self._seen_block = self._seen_block, self.logs.next_block
        return self._seen_block != before

    async def finish(self) -> F:
        """Reads to the end. Raises EndpointError, RpcFault, BadChainData."""
        while self._changes or await self._next_piece():
            some, self._changes = self._changes[:AT_ONCE], self._changes[AT_ONCE:]
            self._replay.add(some)
            await trio.lowlevel.checkpoint()
        return self._replay.finish()

    async def _next_piece(self) -> bool:
        """Makes changes of the next logs; False after the last ones."""
        if self._piece is None:
            self._piece = await self.logs.next()
        if self._piece is None:
            return False
        changes: list[NodeChange] = []
        for log in self._piece:
            changes.append(node_change(log, self._event, self.logs.contract))
            if len(changes) % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        self._changes = sorted(changes, key=lambda change: change.version)
        self._piece = None
        return True


class EventLogs:
    """One endpoint's logs of one event of a contract, in pieces that it gives.

    Nothing of them is true until proven. A piece that could not be had is asked for again by the
    next call, smaller.
    """

    def __init__(
        self, endpoint: RpcEndpoint, contract: bytes, topic: bytes, first: int, last: int
    ) -> None:
        self.contract = contract
        self._endpoint, self._topic = endpoint, topic
        self.next_block = first  # all before it was given
        self.last, self._span = last, LOG_BLOCKS

    async def next(self) -> list[Log] | None:
        """What the next blocks hold, None after the last one.

        Raises:
            EndpointError, RpcFault, BadChainData: it does not give them, not even block by block.
        """
        while self.next_block <= self.last:
            start = self.next_block
            end = min(start + self._span - 1, self.last)
            try:
                found = await self._ask(start, end)
            except (RpcFault, EndpointTooLong, BadChainData):
                # Servers cap the range or the answer, each in its own words: halve until it fits.
                if start == end:
                    raise
                self._span = (end - start + 1) // 2
                continue
            except EndpointError:
                self._span = max(1, (end - start + 1) // 2)
                raise
            self.next_block, self._span = end + 1, min(self._span * 2, LOG_BLOCKS)
            return found
        return None

    async def _ask(self, start: int, end: int) -> list[Log]:
        query = {
            "address": "0x" + self.contract.hex(),
            "topics": ["0x" + self._topic.hex()],
            "fromBlock": hex(start),
            "toBlock": hex(end),
        }
        if start == end:
            answer = await self._endpoint.call(
                "eth_getLogs", [query], body_bytes_max=BLOCK_BYTES_MAX
            )
            found = decoding.logs(answer, BLOCK_LOGS_MAX)
        else:
            answer = await self._endpoint.call("eth_getLogs", [query])
            found = decoding.logs(answer, LOGS_PER_REQUEST_MAX)
        if any(not start <= log.block_number <= end for log in found):
            raise BadChainData(f"logs of other blocks than {start} to {end}")
        return found


async def event_logs(
    endpoint: RpcEndpoint, contract: bytes, topic: bytes, first_block: int, last_block: int
) -> list[Log]:
    """All of an event that seldom happens, by one endpoint; nothing of it is true until proven.

    Raises:
        EndpointError, RpcFault, BadChainData: it does not give them, or more than ``LOGS_MAX``.
    """
    logs = EventLogs(endpoint, contract, topic, first_block, last_block)
    found: list[Log] = []
    while (some := await logs.next()) is not None:
        found += some
        if len(found) > LOGS_MAX:
            raise BadChainData(f"more than {LOGS_MAX} events, which cannot be")
    return found
