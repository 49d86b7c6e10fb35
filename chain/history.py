"""The registry's events, from any endpoint that has them, proven by the digest they lead to.

Also what they have proven so far, so that only new ones are asked for: every seat with its weight,
state, key and instance at the newest block that was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog
import trio

from chain import decoding
from chain.abi import ContractAbi
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
from chain.replay import NodeChange, SeatState, node_change, proven, seats_after
from chain.rows import check_rows
from chain.rpc import RpcEndpoint

LOG_BLOCKS = 10_000
LOGS_PER_REQUEST_MAX = 10_000
LOGS_MAX = 200_000
# A change costs tens of thousands of gas, so the two blocks at the ends of a range, of which only
# some changes may be asked for, hold no more than this.
LOGS_BESIDE_MAX = 4096
PATIENCE_S = 10.0  # before another endpoint is asked beside those that are not done
DECODED_AT_ONCE = 64

_log = structlog.get_logger("chain.history")


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
        self._known = Change(deploy_block, 0, bytes(32))
        self._seats: dict[int, SeatState] = {}
        self._remembered = False  # what is known comes from an earlier run's memory
        self.patience_s = PATIENCE_S

    def remember(self, membership: Membership) -> None:
        """Starts from what an earlier run proved, instead of from the deployment.

        If that turns out to be untrue, everything is proven anew.
        """
        m = membership
        self._known = Change(m.block_number, m.version, m.digest)
        self._seats = {
            row.seat: SeatState(row.weight, row.status, row.node_key, row.instance_id)
            for row in m.members
        }
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
            seats = await self._seats_at(at)
            check_rows(members, seats)
        except (BadChainData, NoAgreement) as error:
            if not self._remembered:
                raise
            _log.warning("chain.proving_anew", reason=str(error))
            self._forget()
            seats = await self._seats_at(at)
            check_rows(members, seats)
        self._known, self._seats, self._remembered = at, seats, False

    async def _seats_at(self, at: Change) -> dict[int, SeatState]:
        known = self._known
        if (known.version, known.digest) == (at.version, at.digest):
            return self._seats
        since = known if known.version else None
        # If what is remembered is untrue, it is not the endpoints that lie.
        changes = await self.proven_changes(at, since, accuse=not self._remembered)
        return seats_after(changes, self._seats)

    def _forget(self) -> None:
        self._known = Change(self.deploy_block, 0, bytes(32))
        self._seats = {}
        self._remembered = False

    async def proven_changes(
        self, up_to: Change, since: Change | None = None, *, accuse: bool = True
    ) -> list[NodeChange]:
        """All node changes up to a known state of the registry, in order, proven by its digest.

        Any endpoint's events will do: those that do not give the digest are thrown away and the
        endpoint is named. None is waited for alone: a liar's may come block by block, for ever.

        Args:
            since: a known state to start after, instead of at the deployment.
            accuse: an endpoint whose events do not lead to the digest is named for it.

        Raises:
            NoAgreement: no endpoint has them.
        """
        since_ = Change(self.deploy_block, 0, bytes(32)) if since is None else since
        failures: dict[str, str] = {}
        found: list[list[NodeChange]] = []
        busy: set[str] = set()

        async def ask(endpoint: RpcEndpoint, failed: trio.Event) -> None:
            while True:
                busy.add(endpoint.name)
                try:
                    changes = await self._changes(endpoint, since_, up_to)
                    found.append(proven(changes, up_to.version, up_to.digest, since))
                    nursery.cancel_scope.cancel()
                except BadChainData as error:
                    if accuse:
                        self._reader.accuse(endpoint, f"events: {error}")
                    failures[endpoint.name] = str(error)
                except (EndpointError, RpcFault) as error:
                    failures[endpoint.name] = str(error)
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

    async def _changes(
        self, endpoint: RpcEndpoint, since: Change, up_to: Change
    ) -> list[NodeChange]:
        logs = await event_logs(
            endpoint,
            self._contract,
            self._event.topic,
            since.block_number,
            up_to.block_number,
            count_max=max(0, up_to.version - since.version) + LOGS_BESIDE_MAX,
        )
        changes: list[NodeChange] = []
        for log in logs:
            changes.append(node_change(log, self._event, self._contract))
            if len(changes) % DECODED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        return changes


async def event_logs(
    endpoint: RpcEndpoint,
    contract: bytes,
    topic: bytes,
    first_block: int,
    last_block: int,
    *,
    count_max: int = LOGS_MAX,
) -> list[Log]:
    """One endpoint's logs of one event of a contract; nothing of them is true until proven.

    Raises:
        EndpointError, RpcFault, BadChainData: it does not give them, not even block by block, or
            gives more than ``count_max``.
    """
    found: list[Log] = []
    start, span = first_block, LOG_BLOCKS
    while start <= last_block:
        end = min(start + span - 1, last_block)
        query = {
            "address": "0x" + contract.hex(),
            "topics": ["0x" + topic.hex()],
            "fromBlock": hex(start),
            "toBlock": hex(end),
        }
        try:
            answer = await endpoint.call("eth_getLogs", [query])
            found += decoding.logs(answer, LOGS_PER_REQUEST_MAX)
        except (RpcFault, EndpointTooLong, BadChainData):
            # Servers cap the range or the answer, each in its own words: halve until it fits.
            if span == 1:
                raise
            span = max(1, (end - start + 1) // 2)
            continue
        if len(found) > count_max:
            raise BadChainData(f"more than {count_max} events, which cannot be")
        start, span = end + 1, min(span * 2, LOG_BLOCKS)
    return found
