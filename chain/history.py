"""The registry's events, from any endpoint that has them, proven by the digest they lead to.

Also what they have proven so far, so that only new ones are asked for: every seat with its weight,
state, key and instance at the newest block that was looked at, and at the launch or recovery that
was asked for last. So the whole past is walked through once, and a piece of it is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import structlog
import trio

from chain import decoding
from chain.abi import ContractAbi, EventAbi
from chain.agreement import FinalizedReader
from chain.decoding import Log
from chain.errors import (
    BadChainData,
    EndpointError,
    EndpointTooLong,
    NoAgreement,
    RpcFault,
)
from chain.membership import Change, Member, Membership
from chain.replay import F, NodeChange, Replay, Seats, SeatState, node_change
from chain.rows import check_rows
from chain.rpc import RpcEndpoint

LOG_BLOCKS = 10_000
LOGS_PER_REQUEST_MAX = 10_000
LOGS_MAX = 200_000
# A block cannot be asked for in parts. A change that is not the owner's costs some 40,000 gas at
# least and its log has 900 bytes, so this is a block of 700 million gas with nothing else in it.
BLOCK_BYTES_MAX = 16 * 1024 * 1024
BLOCK_LOGS_MAX = 20_000
PATIENCE_S = 10.0  # before another endpoint is asked beside those that are not done
AT_ONCE = 64  # are worked through before somebody else has a turn

_log = structlog.get_logger("chain.history")


@dataclass(frozen=True, slots=True)
class _Proven:
    """A state of the registry, and the seats that its events led to."""

    at: Change
    seats: Mapping[int, SeatState]


class SeatHistory:
    """Who sat where, as the events of one registry tell it.

    Args:
        reader: the endpoints; its watermark names the contract.
        abi: the contract's interface.
        deploy_block: where to start looking; 0 when it is not known.
    """

    def __init__(self, reader: FinalizedReader, abi: ContractAbi, deploy_block: int) -> None:
        self.deploy_block = deploy_block
        self._reader = reader
        self._event = abi.event("NodeChanged")
        self._contract = reader.watermark.mark.contract
        self._nothing = _Proven(Change(deploy_block, 0, bytes(32)), {})
        self._known = self._nothing  # at the newest block that was looked at
        self._past = self._nothing  # the launch or recovery that was asked for last
        self._remembered = False  # what is known comes from an earlier run's memory
        self.patience_s = PATIENCE_S

    def remember(self, membership: Membership) -> None:
        """Starts from what an earlier run proved, instead of from the deployment.

        If that turns out to be untrue, everything is proven anew.
        """
        m = membership
        self._known = _Proven(
            Change(m.block_number, m.version, m.digest),
            {
                row.seat: SeatState(row.weight, row.status, row.node_key, row.instance_id)
                for row in m.members
            },
        )
        self._remembered = True

    async def check(self, members: Sequence[Member], at: Change) -> None:
        """Holds rows of the registry against the events that lead to its state.

        Args:
            at: a finalized block with version and digest there, which must be proven.

        Raises:
            BadChainData: the rows are not what the events prove.
            NoAgreement: no endpoint has the events.
        """
        try:
            found = await self._from(self._newest(), at)
            check_rows(members, found.seats)
        except (BadChainData, NoAgreement) as error:
            if not self._remembered:
                raise
            _log.warning("chain.proving_anew", reason=str(error))
            self._known, self._remembered = self._nothing, False
            found = await self._from(self._newest(), at)
            check_rows(members, found.seats)
        self._known, self._remembered = found, False

    async def seats_at(self, change: Change) -> Mapping[int, SeatState]:
        """The seats at a state of the registry that stays on record, a launch or a recovery.

        Raises:
            NoAgreement: no endpoint has the events that lead there.
        """
        known = (self._past,) if self._remembered else (self._past, self._known)
        before = [proven for proven in known if proven.at.version <= change.version]
        since = max(before, key=lambda proven: proven.at.version, default=self._nothing)
        self._past = await self._from(since, change)
        return self._past.seats

    def _newest(self) -> _Proven:
        return max(self._known, self._past, key=lambda proven: proven.at.version)

    async def _from(self, since: _Proven, up_to: Change) -> _Proven:
        if (since.at.version, since.at.digest) == (up_to.version, up_to.digest):
            return _Proven(up_to, since.seats)
        # If what is remembered is untrue, it is not the endpoints that lie.
        accuse = not (self._remembered and since is self._known)
        found = await self.folded(lambda: Seats(since.seats), since.at, up_to, accuse=accuse)
        return _Proven(up_to, found.now)

    async def folded(
        self, fold: Callable[[], F], since: Change, up_to: Change, *, accuse: bool = True
    ) -> F:
        """What becomes of all node changes between two known states, proven by the digest.

        Any endpoint's events will do: those that do not give the digest are thrown away and the
        endpoint is named. None is waited for alone: a liar's may come block by block, for ever.

        Args:
            fold: makes an empty one; each endpoint's events are folded apart.
            accuse: an endpoint whose events do not lead to the digest is named for it.

        Raises:
            NoAgreement: no endpoint has them.
        """
        if up_to.version < since.version:
            raise BadChainData(f"version {up_to.version} of the registry, {since.version} was seen")
        failures: dict[str, str] = {}
        found: list[F] = []
        busy: set[str] = set()

        async def ask(endpoint: RpcEndpoint, failed: trio.Event) -> None:
            reading = self._reading(endpoint, fold(), since, up_to)
            while True:
                busy.add(endpoint.name)
                try:
                    found.append(await reading.finish())
                    nursery.cancel_scope.cancel()
                except BadChainData as error:
                    if accuse:
                        self._reader.accuse(endpoint, f"events: {error}")
                    failures[endpoint.name] = str(error)
                    reading = self._reading(endpoint, fold(), since, up_to)
                except (EndpointError, RpcFault) as error:
                    failures[endpoint.name] = str(error)
                    if reading.has_moved():
                        # Asked for too much at a time: with a rest it goes on where it stood.
                        failed.set()
                        await trio.sleep(self.patience_s)
                        continue
                busy.discard(endpoint.name)
                failed.set()
                if not busy and len(failures) == len(self._reader.endpoints):
                    nursery.cancel_scope.cancel()
                # Somebody else is at it still: who was out of order may be well by then.
                await trio.sleep(self.patience_s)

        async with trio.open_nursery() as nursery:
            for endpoint in self._reader.best_first():
                failed = trio.Event()
                nursery.start_soon(ask, endpoint, failed)
                with trio.move_on_after(self.patience_s):
                    await failed.wait()
        if found:
            return found[0]
        raise NoAgreement(f"events up to version {up_to.version}", 1, failures)

    def _reading(self, endpoint: RpcEndpoint, fold: F, since: Change, up_to: Change) -> _Reading[F]:
        logs = EventLogs(
            endpoint, self._contract, self._event.topic, since.block_number, up_to.block_number
        )
        return _Reading(logs, self._event, Replay(since, up_to, fold))


class _Reading(Generic[F]):
    """One endpoint's events on their way into a fold; goes on where it was broken off."""

    def __init__(self, logs: EventLogs, event: EventAbi, replay: Replay[F]) -> None:
        self._logs, self._event, self._replay = logs, event, replay
        self._seen_block = logs.next_block

    def has_moved(self) -> bool:
        """Whether a block was read since this was asked last."""
        before, self._seen_block = self._seen_block, self._logs.next_block
        return self._seen_block != before

    async def finish(self) -> F:
        """Reads to the end. Raises EndpointError, RpcFault, BadChainData."""
        while (logs := await self._logs.next()) is not None:
            changes: list[NodeChange] = []
            for log in logs:
                changes.append(node_change(log, self._event, self._logs.contract))
                if len(changes) % AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
            changes.sort(key=lambda change: change.version)
            for start in range(0, len(changes), AT_ONCE):
                self._replay.add(changes[start : start + AT_ONCE])
                await trio.lowlevel.checkpoint()
        return self._replay.finish()


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
        self._last, self._span = last, LOG_BLOCKS

    async def next(self) -> list[Log] | None:
        """What the next blocks hold, None after the last one.

        Raises:
            EndpointError, RpcFault, BadChainData: it does not give them, not even block by block.
        """
        while self.next_block <= self._last:
            start = self.next_block
            end = min(start + self._span - 1, self._last)
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
