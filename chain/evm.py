"""The registry on an EVM chain: snapshots, the founding set, proven events, watching.

Theory of operation. k endpoints agree on a finalized block, and with its hash on its state root.
The fixed words of the contract (version, digest, launch, recoveries, ends of roots) and its code
hash are then proven against that root, by whichever endpoint gives the proof; the events are proven
by the digest; and the rows, which k endpoints must give alike, are held against the events. So no
number of liars can invent a member, a weight, a key or a recovery at an agreed block. What only k
vouch for is what the digest leaves out: where a member is reached and when its lease ends.

The storage root comes with every proof. While it stays, not one word of the contract has changed:
then a new block costs one proof (and one of the rules, which name the attestation policy), and
nothing else is read.

Where no endpoint gives account proofs, k equal answers must do for all of it. ``status`` says so.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import structlog
import trio

from chain.abi import ContractAbi, FunctionAbi
from chain.agreement import FinalizedReader, Reverted
from chain.apps import AppReader
from chain.errors import (
    BadChainData,
    ChainError,
    FinalityAlarm,
    NoAgreement,
    NotProven,
    PinMismatch,
    WrongChain,
)
from chain.follow import Follower
from chain.headers import Header
from chain.history import SeatHistory
from chain.membership import (
    Change,
    Member,
    Membership,
    MemberStatus,
    PolicyText,
    Sighting,
)
from chain.policy import PolicyReader
from chain.replay import active_members
from chain.rows import PAGE_BYTES_MAX, PAGE_SEATS, add_page, member
from chain.storage import PROVEN, ContractStorage
from chain.words import (
    VIEWS,
    OpenedRecovery,
    RegistryWords,
    StorageLayout,
    agreed_words,
    checked,
)
from contracts import artifact

PAGES_MAX = 1000
PAGES_AT_ONCE = 5
WORDS_BYTES_MAX = 4096
POLL_INTERVAL_S = 4.0

_log = structlog.get_logger("chain.evm")


@dataclass(frozen=True, slots=True)
class _State:
    """The fixed words at a block; ``storage_root`` is empty when they are agreed on, not proven."""

    words: RegistryWords
    root_ends_s: dict[int, int]
    storage_root: bytes


class EvmRegistry:
    """``Registry`` on an EVM chain; reads only, by agreement, at finalized blocks.

    Args:
        reader: the endpoints and their quorum; its watermark names the contract.
        abi: the contract's interface.
        deploy_block: where to start looking for events; 0 when it is not known.
        poll_interval_s: how often ``watch`` looks for a new finalized block.
        require_proofs: raise NotProven where k equal answers would have to do.
        layout: where the contract keeps its words; by default the committed artifact's.
    """

    def __init__(
        self,
        reader: FinalizedReader,
        abi: ContractAbi,
        *,
        deploy_block: int = 0,
        poll_interval_s: float = POLL_INTERVAL_S,
        require_proofs: bool = False,
        layout: StorageLayout | None = None,
    ) -> None:
        self.reader = reader
        self.abi = abi
        self.contract = reader.watermark.mark.contract
        self.history = SeatHistory(reader, abi, deploy_block)
        self._poll_interval_s = poll_interval_s
        self.policies = PolicyReader(reader, required=require_proofs)
        self.policy: PolicyText | None = None  # at ``newest``
        self.certificates = bytes(20)  # the contract that checks them, at ``newest``; zeros: none
        self._require_proofs = require_proofs
        self._layout = StorageLayout(artifact("Registry")) if layout is None else layout
        self._storage = ContractStorage(
            reader, self.contract, self._layout.matches_code, required=require_proofs
        )
        self._apps = AppReader(self._storage, self._layout)
        self._code_checked = False
        self._genesis: Membership | None = None
        self._storage_root = b""  # at ``newest``; empty unless all of it is proven
        self._members_how = "not read yet"
        self.newest: Membership | None = None
        self.last_error: ChainError | None = None
        self._failing_since_s: float | None = None  # monotonic

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
        fixed = (await self._state(header, ())).words.launch
        if fixed is None:
            return None
        block_number, version, digest = (
            fixed.change.block_number, fixed.change.version, fixed.change.digest,
        )  # fmt: skip
        if block_number < self.history.deploy_block:
            raise BadChainData(f"launched at block {block_number}, before the deployment")
        launch = await self.reader.header_at(block_number)
        if launch is None:
            raise BadChainData(f"the block of the launch, {block_number}, is not there")
        members = active_members(await self.history.seats_at(fixed.change))
        if sum(m.weight for m in members) != fixed.weight:
            raise BadChainData(f"the weights at the launch do not add up to {fixed.weight}")
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
            if self._failing_since_s is None:
                self._failing_since_s = time.monotonic()  # a look may hang, too
            try:
                seen = await follower.look()
                self.last_error = self._failing_since_s = None
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

    def failing_s(self) -> float | None:
        """For how long no look of ``watch`` ended well; None while none is under way or failed."""
        since_s = self._failing_since_s
        return None if since_s is None else time.monotonic() - since_s

    # ------------------------------------------------------------------ further reads

    async def finalized(self) -> Header:
        """The agreed finalized block, with the contract's code checked there once."""
        header = await self.reader.finalized()
        if not self._code_checked:
            code_hash = await self._storage.code_hash(header)
            await self.reader.watermark.advance(header.number, header.hash, code_hash=code_hash)
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
        return member(row)

    async def recovery(self, index: int) -> OpenedRecovery:
        """The recovery that was opened as the ``index``-th, counted from 0."""
        header = await self.finalized()
        found = await self._storage.words(self._layout.recovery_slots(index), header)
        if found is not None:
            return self._layout.recovery(found[1])
        (row,) = await self.call("recovery", index, at=header)
        epoch, height, block_number, version, block_hash, digest = row
        return OpenedRecovery(epoch, height, block_hash, Change(block_number, version, digest))

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
            "code_hash": "0x" + mark.code_hash.hex(),
            "trust": self._trust(),
            "alarm": None if self.reader.alarm is None else str(self.reader.alarm),
            "last_error": None if self.last_error is None else str(self.last_error),
            "endpoints": self.reader.endpoint_status(),
        }

    # ------------------------------------------------------------------ inner parts

    async def _snapshot_at(self, header: Header) -> Membership:
        newest = self.newest
        state = await self._state(header, [] if newest is None else [e for e, _ in newest.roots])
        words = state.words
        if newest is not None and state.storage_root and state.storage_root == self._storage_root:
            membership, proven_root = replace(newest, **_block(header)), state.storage_root
        else:
            members = await self._members(header, words.seat_count)
            all_proven = await self._check_members(header, state, members)
            membership = Membership(
                chain_id=self.chain_id,
                contract=self.contract,
                **_block(header),
                version=words.version,
                digest=words.digest,
                members=tuple(members),
                last_change=words.last_change,
                roots=await self._roots(header, members, state.root_ends_s),
                recoveries=words.recoveries,
                pending_recovery=words.pending_recovery,
                disallowed=await self._apps.disallowed(members, header),
            )
            proven_root = state.storage_root if all_proven else b""
        policy = await self.policies.read(words.rules, header)
        # Our own transactions look at the chain too, and may have moved the mark to a later block.
        await self.reader.watermark.advance_version(header.number, words.version)
        # All at once: the root stands for exactly this membership.
        self.newest, self._storage_root = membership, proven_root
        self.policy, self.certificates = policy, words.certificates
        return membership

    async def _state(self, header: Header, epochs: Sequence[int]) -> _State:
        """The fixed words and the ends of some roots, proven if any endpoint proves them."""
        layout, root_of = self._layout, self._view("root")
        slots = [*layout.fixed, *(layout.root_slot(epoch) for epoch in epochs)]
        found = await self._storage.words(slots, header)
        if found is not None:
            storage_root, values = found
            count = len(layout.fixed)
            words = layout.words(values[:count])
            ends = [layout.root_ends_s(value) for value in values[count:]]
        else:
            storage_root = b""
            views = [self._view(name) for name in VIEWS]
            raw = await self._read(
                header,
                [view.encode() for view in views] + [root_of.encode(epoch) for epoch in epochs],
                WORDS_BYTES_MAX,
            )
            words = agreed_words([v.decode(r) for v, r in zip(views, raw, strict=False)])
            ends = [root_of.decode(value)[1] for value in raw[len(views) :]]
        return _State(
            checked(words, header.number), dict(zip(epochs, ends, strict=True)), storage_root
        )

    async def _members(self, header: Header, seat_count: int) -> list[Member]:
        """All rows, as k endpoints give them alike."""
        if seat_count > PAGES_MAX * PAGE_SEATS:
            raise BadChainData(f"{seat_count} seats, at most {PAGES_MAX * PAGE_SEATS} are read")
        page = self._view("page")
        starts = range(1, seat_count + 1, PAGE_SEATS)
        members: list[Member] = []
        for at in range(0, len(starts), PAGES_AT_ONCE):
            some = starts[at : at + PAGES_AT_ONCE]
            calls = [page.encode(first, PAGE_SEATS) for first in some]
            # The same block hash gives the same state, so nothing can have moved between pages.
            for first, raw in zip(
                some, await self._read(header, calls, PAGE_BYTES_MAX), strict=True
            ):
                following = first + PAGE_SEATS if first + PAGE_SEATS <= seat_count else 0
                if add_page(page, raw, first, members) != following:
                    raise BadChainData(f"a page from {first} does not lead to {following}")
        return members

    async def _check_members(
        self, header: Header, state: _State, members: Sequence[Member]
    ) -> bool:
        """Holds the rows against the events; whether they are proven now.

        Raises:
            BadChainData: the events, which are proven, tell of other members.
            NotProven: no endpoint has the events, and proofs are required.
        """
        words = state.words
        try:
            if not state.storage_root:
                raise NotProven("the digest is not proven")
            await self.history.check(members, Change(header.number, words.version, words.digest))
        except (NotProven, NoAgreement) as error:
            if self._require_proofs:
                raise NotProven(str(error)) from None
            how = f"agreed on by {self.reader.quorum} of {len(self.reader.endpoints)}: {error}"
            if how != self._members_how:
                _log.warning("chain.members_not_proven", reason=how)
            self._members_how = how
            return False
        self._members_how = PROVEN
        return True

    async def _roots(
        self, header: Header, members: Sequence[Member], known: dict[int, int]
    ) -> tuple[tuple[int, int], ...]:
        """The ends of the roots behind the active members; ``known`` were read at this block."""
        active = sorted({m.root_epoch for m in members if m.status is MemberStatus.ACTIVE})
        missing = [epoch for epoch in active if epoch not in known]
        if missing:
            known = known | (await self._state(header, missing)).root_ends_s
        return tuple((epoch, known[epoch]) for epoch in active)

    def _trust(self) -> dict[str, str]:
        """What is proven, or why it is not."""
        trust = {"state": self._storage.how, "members": self._members_how}
        policy = self.policies.how
        return trust if policy is None else trust | {"policy": policy}

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


def _block(header: Header) -> dict[str, Any]:
    """What a membership takes from the block that it was read at."""
    return {
        "block_number": header.number,
        "block_hash": header.hash,
        "block_time_s": header.time_s,
        "prev_randao": header.prev_randao,
    }
