"""The registry's events, from any endpoint that has them, proven by the digest they lead to.

Also what they have proven so far, so that only new ones are asked for: every seat with its weight,
state, key and instance at the newest block that was looked at.
"""

from __future__ import annotations

from collections.abc import Sequence

import structlog

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
        endpoint is named.

        Args:
            since: a known state to start after, instead of at the deployment.
            accuse: an endpoint whose events do not lead to the digest is named for it.

        Raises:
            NoAgreement: no endpoint has them.
        """
        first_block = self.deploy_block if since is None else since.block_number
        failures: dict[str, str] = {}
        for endpoint in self._reader.best_first():
            try:
                found = await self._changes(endpoint, first_block, up_to.block_number)
                return proven(found, up_to.version, up_to.digest, since)
            except BadChainData as error:
                if accuse:
                    self._reader.accuse(endpoint, f"events: {error}")
                failures[endpoint.name] = str(error)
            except (EndpointError, RpcFault) as error:
                failures[endpoint.name] = str(error)
        raise NoAgreement(f"events up to version {up_to.version}", 1, failures)

    async def _changes(
        self, endpoint: RpcEndpoint, first_block: int, last_block: int
    ) -> list[NodeChange]:
        topic = self._event.topic
        found = await event_logs(endpoint, self._contract, topic, first_block, last_block)
        return [node_change(log, self._event, self._contract) for log in found]


async def event_logs(
    endpoint: RpcEndpoint, contract: bytes, topic: bytes, first_block: int, last_block: int
) -> list[Log]:
    """One endpoint's logs of one event of a contract; nothing of them is true until proven.

    Raises:
        EndpointError, RpcFault, BadChainData: it does not give them, not even block by block.
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
        start, span = end + 1, min(span * 2, LOG_BLOCKS)
    return found
