"""The registry on an EVM chain: snapshots, the founding set, proven events, watching."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from typing import Any

import structlog
import trio

from chain import decoding
from chain.abi import ContractAbi, FunctionAbi
from chain.agreement import FinalizedReader, Reverted
from chain.decoding import Log
from chain.errors import (
    BadChainData,
    ChainError,
    EndpointError,
    EndpointTooLong,
    FinalityAlarm,
    NoAgreement,
    NotDeployed,
    PinMismatch,
    RpcFault,
    WrongChain,
)
from chain.follow import Follower
from chain.headers import Header
from chain.keys import keccak256
from chain.membership import (
    Change,
    Member,
    Membership,
    MemberStatus,
    PendingRecovery,
    Sighting,
)
from chain.replay import NodeChange, active_members, compressed, node_change, proven
from chain.rpc import RpcEndpoint

PAGE_SEATS = 100
PAGES_MAX = 1000
# A row: offset, 13 words, length and text of the endpoint (128 bytes), with room to spare.
PAGE_BYTES_MAX = 256 + PAGE_SEATS * 32 * 24
WORDS_BYTES_MAX = 4096
LOG_BLOCKS = 10_000
LOGS_PER_REQUEST_MAX = 10_000
POLL_INTERVAL_S = 4.0
ENDPOINT_CHARS_MAX = 128
_MULTIADDR = re.compile(r"(?:/[A-Za-z0-9._:%\-]+){2,}")

_log = structlog.get_logger("chain.evm")


class EvmRegistry:
    """``Registry`` on an EVM chain; reads only, by agreement, at finalized blocks.

    Args:
        reader: the endpoints and their quorum; its watermark names the contract.
        abi: the contract's interface.
        deploy_block: where to start looking for events; 0 when it is not known.
        poll_interval_s: how often ``watch`` looks for a new finalized block.
    """

    def __init__(
        self,
        reader: FinalizedReader,
        abi: ContractAbi,
        *,
        deploy_block: int = 0,
        poll_interval_s: float = POLL_INTERVAL_S,
    ) -> None:
        self.reader = reader
        self.abi = abi
        self.contract = reader.watermark.mark.contract
        self._deploy_block = deploy_block
        self._poll_interval_s = poll_interval_s
        self._code_checked = False
        self._genesis: Membership | None = None
        self.newest: Membership | None = None
        self.last_error: ChainError | None = None

    @property
    def chain_id(self) -> int:
        """The chain the registry lives on."""
        return self.reader.chain_id

    # ------------------------------------------------------------------ Registry

    async def snapshot(self) -> Membership:
        """The membership at the newest finalized block.

        Raises:
            NotDeployed: the contract is not there (yet) at that block.
            ChainError: see ``FinalizedReader.finalized``; BadChainData when rows do not fit.
        """
        header = await self.finalized()
        if self.newest is not None and self.newest.block_hash == header.hash:
            return self.newest
        return await self._snapshot_at(header)

    async def genesis(self) -> Membership | None:
        """The set that ``launch()`` fixed, rebuilt from events and proven by the digest.

        Any endpoint's events will do: those that do not give the recorded digest are thrown away
        and the endpoint is named.
        """
        if self._genesis is not None:
            return self._genesis
        header = await self.finalized()
        (raw,) = await self._words(header, [self._view("launched")])
        block_number, version, digest, weight = self._view("launched").decode(raw)
        if block_number == 0:
            return None
        if not self._deploy_block <= block_number <= header.number:
            raise BadChainData(f"launched at block {block_number}, outside deployment..finalized")
        launch = await self.reader.header_at(block_number)
        if launch is None:
            raise BadChainData(f"the block of the launch, {block_number}, is not there")
        members = active_members(await self.proven_changes(Change(block_number, version, digest)))
        if sum(member.weight for member in members) != weight:
            raise BadChainData(f"the weights at the launch do not add up to {weight}")
        self._genesis = Membership(
            chain_id=self.chain_id,
            contract=self.contract,
            block_number=launch.number,
            block_hash=launch.hash,
            block_time_s=launch.time_s,
            prev_randao=launch.prev_randao,
            version=version,
            digest=digest,
            members=members,
        )
        return self._genesis

    async def watch(self) -> AsyncIterator[Sighting]:
        """Yields a sighting at once and then at every new finalized block, until cancelled.

        Endpoints that fail or disagree for a while only delay it.

        Raises:
            FinalityAlarm, PinMismatch, WrongChain: going on would be wrong.
        """
        follower = Follower(self)
        while True:
            try:
                seen = await follower.look()
                self.last_error = None
            except (FinalityAlarm, PinMismatch, WrongChain) as error:
                self.last_error = error
                _log.error("chain.stopped", reason=str(error))
                raise
            except ChainError as error:
                if str(error) != str(self.last_error):
                    _log.warning("chain.waiting", reason=str(error))
                self.last_error = error
            else:
                if seen is not None:
                    yield seen
            await trio.sleep(self._poll_interval_s)

    # ------------------------------------------------------------------ further reads

    async def finalized(self) -> Header:
        """The agreed finalized block, with the contract's code checked there once."""
        header = await self.reader.finalized()
        if not self._code_checked:
            code = await self.reader.code_at(self.contract, header)
            if not code:
                raise NotDeployed(
                    f"no contract at 0x{self.contract.hex()} at finalized block {header.number}"
                )
            await self.reader.watermark.advance(
                header.number, header.hash, code_hash=keccak256(code)
            )
            self._code_checked = True
        return header

    async def call(self, name: str, *values: Any, at: Header | None = None) -> tuple[Any, ...]:
        """The results of one view function at an agreed block (the finalized one by default).

        Raises:
            CallReverted: the contract refuses, with its reason.
        """
        function = self._view(name)
        header = await self.finalized() if at is None else at
        (raw,) = await self._read(header, [function.encode(*values)], WORDS_BYTES_MAX)
        return function.decode(raw)

    async def member(self, seat: int, at: Header | None = None) -> Member:
        """One seat at an agreed block; CallReverted with NoSuchSeat when there is none."""
        (row,) = await self.call("member", seat, at=at)
        return self._member(row)

    def status(self) -> dict[str, Any]:
        """How the view of the chain is, JSON-ready."""
        mark = self.reader.watermark.mark
        age_s = self.reader.finalized_age_s()
        return {
            "chain_id": self.chain_id,
            "contract": "0x" + self.contract.hex(),
            "quorum": self.reader.quorum,
            "finalized_height": mark.height,
            "finalized_age_s": None if age_s is None else round(age_s, 1),
            "version": mark.version,
            "alarm": None if self.reader.alarm is None else str(self.reader.alarm),
            "last_error": None if self.last_error is None else str(self.last_error),
            "endpoints": self.reader.endpoint_status(),
        }

    # ------------------------------------------------------------------ inner parts

    async def _snapshot_at(self, header: Header) -> Membership:
        words = [self._view(name) for name in ("version", "digest", "lastChange")]
        pending_of, root_of, page = map(self._view, ("pendingRecovery", "root", "page"))
        guessed = [] if self.newest is None else [epoch for epoch, _ in self.newest.roots]
        *raw, raw_pending, raw_page = await self._read(
            header,
            [f.encode() for f in words]
            + [root_of.encode(epoch) for epoch in guessed]
            + [pending_of.encode(), page.encode(1, PAGE_SEATS)],
            PAGE_BYTES_MAX,
        )
        (version,), (digest,), changed = (
            f.decode(value) for f, value in zip(words, raw, strict=False)
        )
        ends = [root_of.decode(value)[1] for value in raw[len(words) :]]
        members: list[Member] = []
        following = self._page(page, raw_page, 1, members)
        pages = 1
        while following:
            if pages == PAGES_MAX:
                raise BadChainData(f"more than {PAGES_MAX} pages of members")
            # The same block hash gives the same state, so version and digest cannot have moved.
            (raw_page,) = await self._read(
                header, [page.encode(following, PAGE_SEATS)], PAGE_BYTES_MAX
            )
            following = self._page(page, raw_page, following, members)
            pages += 1
        roots = await self._roots(header, members, dict(zip(guessed, ends, strict=True)))
        await self.reader.watermark.advance(header.number, header.hash, version=version)
        pending, recoveries = _pending(pending_of.decode(raw_pending))
        membership = Membership(
            chain_id=self.chain_id,
            contract=self.contract,
            block_number=header.number,
            block_hash=header.hash,
            block_time_s=header.time_s,
            prev_randao=header.prev_randao,
            version=version,
            digest=digest,
            members=tuple(members),
            last_change=_last_change(Change(*changed), header, version),
            roots=roots,
            recoveries=recoveries,
            pending_recovery=pending,
        )
        self.newest = membership
        return membership

    async def _roots(
        self, header: Header, members: Sequence[Member], known: dict[int, int]
    ) -> tuple[tuple[int, int], ...]:
        """The ends of the roots behind the active members; ``known`` were read at this block."""
        root_of = self._view("root")
        active = {m.root_epoch for m in members if m.status is MemberStatus.ACTIVE}
        missing = sorted(active - set(known))
        if missing:
            raw = await self._read(
                header, [root_of.encode(epoch) for epoch in missing], WORDS_BYTES_MAX
            )
            for epoch, value in zip(missing, raw, strict=True):
                known[epoch] = root_of.decode(value)[1]
        return tuple((epoch, known[epoch]) for epoch in sorted(active))

    def _page(self, page: FunctionAbi, raw: bytes, first: int, members: list[Member]) -> int:
        rows, following = page.decode(raw)
        if len(rows) > PAGE_SEATS:
            raise BadChainData(f"a page of {len(rows)} members, asked for {PAGE_SEATS}")
        for row in rows:
            member = self._member(row)
            if member.seat < first or (members and member.seat <= members[-1].seat):
                raise BadChainData(f"seat {member.seat} is out of place in a page from {first}")
            members.append(member)
        if following != 0 and following <= max(first, members[-1].seat if members else 0):
            raise BadChainData(f"a page from {first} names {following} as the next")
        return int(following)

    def _member(self, row: Sequence[Any]) -> Member:
        (seat, owner, weight, status, root_epoch, scheme, key_odd, expires_at_s, incarnation,
         instance_id, key_x, _signer, endpoint) = row  # fmt: skip
        if status not in (0, 1, 2):
            raise BadChainData(f"seat {seat} has the unknown status {status}")
        return Member(
            seat=seat,
            weight=weight,
            status=MemberStatus(status),
            node_key=compressed(key_x, key_odd),
            instance_id=instance_id,
            incarnation=incarnation,
            endpoint=usable_endpoint(endpoint),
            lease_expires_s=expires_at_s,
            root_epoch=root_epoch,
            scheme=scheme,
            owner=bytes.fromhex(owner[2:]),
        )

    async def proven_changes(self, up_to: Change, since: Change | None = None) -> list[NodeChange]:
        """All node changes up to a known state of the registry, in order, proven by its digest.

        Any endpoint's events will do: those that do not give the digest are thrown away and the
        endpoint is named.

        Args:
            since: a known state to start after, instead of at the deployment.

        Raises:
            NoAgreement: no endpoint has them.
        """
        first_block = self._deploy_block if since is None else since.block_number
        failures: dict[str, str] = {}
        for endpoint in self.reader.endpoints:
            try:
                found = await self._changes(endpoint, first_block, up_to.block_number)
                return proven(found, up_to.version, up_to.digest, since)
            except BadChainData as error:
                self.reader.accuse(endpoint, f"events: {error}")
                failures[endpoint.name] = str(error)
            except (EndpointError, RpcFault) as error:
                failures[endpoint.name] = str(error)
        raise NoAgreement(f"events up to version {up_to.version}", 1, failures)

    async def _changes(
        self, endpoint: RpcEndpoint, first_block: int, last_block: int
    ) -> list[NodeChange]:
        event = self.abi.event("NodeChanged")
        address, topic = "0x" + self.contract.hex(), "0x" + event.topic.hex()
        found: list[Log] = []
        start, span = first_block, LOG_BLOCKS
        while start <= last_block:
            end = min(start + span - 1, last_block)
            query = {
                "address": address,
                "topics": [topic],
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
        return [node_change(log, event, self.contract) for log in found]

    async def _words(self, header: Header, functions: Sequence[FunctionAbi]) -> list[bytes]:
        return await self._read(header, [f.encode() for f in functions], WORDS_BYTES_MAX)

    async def _read(self, header: Header, calls: Sequence[bytes], bytes_max: int) -> list[bytes]:
        results = await self.reader.call_many(
            self.contract, calls, header, answer_bytes_max=bytes_max
        )
        values = []
        for result in results:
            if isinstance(result, Reverted):
                raise self.abi.reverted(result.data)
            values.append(result)
        return values

    def _view(self, name: str) -> FunctionAbi:
        return self.abi.function(name)


def _last_change(change: Change, header: Header, version: int) -> Change | None:
    if change.version == 0:
        return None
    if change.block_number > header.number or change.version > version:
        raise BadChainData(f"the last change, version {change.version}, lies in the future")
    return change


def _pending(fields: Sequence[Any]) -> tuple[PendingRecovery | None, int]:
    """The recovery that waits, and how many were opened."""
    _round, epoch, height, ready_at_s, block_hash, opened = fields
    if ready_at_s == 0:
        return None, opened
    return PendingRecovery(epoch, height, block_hash, ready_at_s), opened


def usable_endpoint(text: bytes) -> str:
    """A member's endpoint as the chain holds it, or "" when it is no multiaddr-like text.

    A seat owner may write anything there; that must harm nobody but that member.
    """
    if len(text) > ENDPOINT_CHARS_MAX:
        return ""
    shown = text.decode("ascii", "replace")
    return shown if _MULTIADDR.fullmatch(shown) else ""
