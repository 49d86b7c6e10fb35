"""What k of n independent endpoints agree on, and nothing else.

Theory of operation. First only a block is agreed on: every endpoint names its finalized block; the
k-th highest height is one that k claim to have passed, so the endpoints at or above it are asked
for the block there, and a header that k give alike is the finalized one. A liar may claim any
height and a forker any hash: they only remove themselves from the count. If no k agree there (liars
and a forker held the top places), the next lower claimed height is tried. Then every read names
that block by hash (EIP-1898, requireCanonical), so all endpoints answer about one state, and an
answer that k give alike is taken.

Nobody waits for a hanger: once k agree, the others that were well at their last exchange get a
short grace, so that a liar is noticed; then they are cut off. Each endpoint's last failing is kept
in ``endpoint_status``.

With k of n, up to n - k endpoints may be down, and fewer than k may lie. Whoever controls k of them
decides what this node sees: choose independent operators and k > n/2.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import trio

from chain import decoding, headers
from chain.errors import (
    BadChainData,
    ChainConfigError,
    ChainError,
    EndpointError,
    FinalityAlarm,
    NoAgreement,
    NotProven,
    RollbackRefused,
    RpcFault,
    WrongChain,
)
from chain.headers import Header
from chain.health import EndpointHealth, Trouble, reason_of
from chain.proofs import ProvenAccount, proven_account
from chain.rpc import TIMEOUT_S, Call, RpcEndpoint
from chain.watermark import Watermark

GRACE_S = 0.25
RECHECK_S = 10.0
LAG_S = 15.0  # new finalized blocks reach providers some seconds apart
ENDPOINTS_MAX = 16
PROVEN_SLOTS_MAX = 128

Answer = TypeVar("Answer", bound=Hashable)
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Reverted:
    """The contract refused the call: as much an answer of the chain as a value."""

    data: bytes


@dataclass(slots=True)
class _Vote(Generic[Answer]):
    endpoint: RpcEndpoint
    answer: Any = None  # an Answer when there is no error
    error: ChainError | None = None


class FinalizedReader:
    """Reads a chain at finalized blocks, by agreement of ``quorum`` endpoints.

    Args:
        endpoints: 1..16 with different names.
        quorum: k, how many must agree.
        watermark: what was acted on before; also holds the expected chain id.
        single_rpc_insecure: permits k = 1, where one server decides what this node sees.

    Raises:
        ChainConfigError: no such quorum exists, or it would prove nothing.
    """

    def __init__(
        self,
        endpoints: Sequence[RpcEndpoint],
        quorum: int,
        watermark: Watermark,
        *,
        single_rpc_insecure: bool = False,
        grace_s: float = GRACE_S,
        recheck_s: float = RECHECK_S,
        lag_s: float = LAG_S,
    ) -> None:
        if not 1 <= len(endpoints) <= ENDPOINTS_MAX:
            raise ChainConfigError(f"1..{ENDPOINTS_MAX} RPC endpoints are needed")
        if len({endpoint.name for endpoint in endpoints}) != len(endpoints):
            raise ChainConfigError("two RPC endpoints are the same host and port")
        if not 1 <= quorum <= len(endpoints):
            raise ChainConfigError(f"a quorum of {quorum} of {len(endpoints)} cannot be")
        if not single_rpc_insecure and (quorum < 2 or 2 * quorum <= len(endpoints)):
            raise ChainConfigError(
                f"a quorum of {quorum} of {len(endpoints)} RPC endpoints proves nothing:"
                " at least 2 and more than half must agree"
                " (single_rpc_insecure allows it for development)"
            )
        self.endpoints = tuple(endpoints)
        self.quorum = quorum
        self.watermark = watermark
        self.alarm: FinalityAlarm | None = None
        self._grace_s = grace_s
        self._recheck_s = recheck_s
        self._lag_s = lag_s
        self._health = {endpoint.name: EndpointHealth(endpoint.name) for endpoint in endpoints}
        self._finalized_lock = trio.Lock()
        self._finalized: Header | None = None
        self._finalized_at_s = 0.0

    @property
    def chain_id(self) -> int:
        """The pinned chain id; endpoints of other chains are left out."""
        return self.watermark.mark.chain_id

    def endpoint_status(self) -> list[dict[str, Any]]:
        """Per endpoint how it did, JSON-ready; names carry no secrets."""
        return [health.row() for health in self._health.values()]

    def finalized_age_s(self) -> float | None:
        """Seconds since the finalized block was last seen to advance; None before the first."""
        return None if self._finalized is None else time.monotonic() - self._finalized_at_s

    async def finalized(self) -> Header:
        """The newest finalized block that k endpoints agree on, recorded in the watermark.

        Raises:
            NoAgreement: not k alike.
            WrongChain: k endpoints serve another chain.
            FinalityAlarm: a block that was final has changed; every later call raises it too.
            RollbackRefused: what k agree on is older than what was acted on.
            NotKept: the watermark cannot be written.
        """
        async with self._finalized_lock:
            if self.alarm is not None:
                raise self.alarm
            header = await self._agree_on_finalized()
            try:
                await self._check_continuity(header)
            except FinalityAlarm as alarm:
                self.alarm = alarm
                raise
            await self.watermark.advance(header.number, header.hash)
            if self._finalized is None or header.number > self._finalized.number:
                self._finalized_at_s = time.monotonic()
            self._finalized = header
            return header

    async def header_at(self, number: int) -> Header | None:
        """The agreed canonical header of a height, None when k agree there is none."""
        found = await self.agree(
            "eth_getBlockByNumber", [hex(number), False], headers.header_or_none
        )
        if found is not None and found.number != number:
            raise BadChainData(f"asked for block {number}, got {found.number}")
        return found

    async def call_many(
        self, to: bytes, calls: Sequence[bytes], at: Header, *, answer_bytes_max: int
    ) -> list[bytes | Reverted]:
        """Results of several ``eth_call`` at one block, in one exchange per endpoint.

        Args:
            calls: call data of each.
            answer_bytes_max: longer results count as a failure of the endpoint.
        """
        block = decoding.block_id(at.hash)
        target = "0x" + to.hex()
        batch: list[Call] = [
            ("eth_call", [{"to": target, "data": "0x" + data.hex()}, block]) for data in calls
        ]

        async def ask(endpoint: RpcEndpoint) -> tuple[bytes | Reverted, ...]:
            if len(batch) == 1:
                try:
                    results = [await endpoint.call(*batch[0])]
                except RpcFault as fault:
                    results = [fault]
            else:
                results = await endpoint.batch(batch)
            return tuple(_call_result(result, answer_bytes_max) for result in results)

        return list(await self.agree_by("eth_call", ask))

    async def code_at(self, address: bytes, at: Header) -> bytes:
        """The agreed code of an address at a block; empty when there is none."""
        block = decoding.block_id(at.hash)
        return await self.agree("eth_getCode", ["0x" + address.hex(), block], decoding.data)

    async def prove(self, address: bytes, slots: Sequence[int], at: Header) -> ProvenAccount | None:
        """A contract's code hash and storage words at a block, proven against its state root.

        One honest endpoint that gives account proofs is enough, whatever the others say.

        Args:
            slots: at most 128 storage keys.

        Returns:
            None when the account is proven not to exist.

        Raises:
            NotProven: the block's header is not sealed, or no endpoint proves it.
        """
        if not at.sealed:
            raise NotProven(f"the fields of block {at.number}'s header do not give its hash")
        if len(slots) > PROVEN_SLOTS_MAX:
            raise ValueError(f"at most {PROVEN_SLOTS_MAX} words are proven at a time")
        keys = [decoding.hexed(slot.to_bytes(32, "big")) for slot in slots]
        params = [decoding.hexed(address), keys, decoding.block_id(at.hash)]

        async def ask(endpoint: RpcEndpoint) -> tuple[ProvenAccount | None] | str:
            health = self._health[endpoint.name]
            try:
                answer = await endpoint.call("eth_getProof", params)
            except RpcFault as fault:
                # Not offered, or not for this block: no failing, but no help either.
                health.proofs = reason_of(fault)
                return health.proofs
            found = proven_account(answer, state_root=at.state_root, address=address, slots=slots)
            health.proofs = "given"
            return (found,)

        def proven(votes: Sequence[_Vote[Any]]) -> bool:
            return any(isinstance(vote.answer, tuple) for vote in votes)

        # One is enough, so nobody is blamed for being slower than the quickest.
        votes: list[_Vote[Any]] = await self._poll(ask, self.endpoints, proven, blame_late=False)
        for vote in votes:
            if isinstance(vote.answer, tuple):
                found: ProvenAccount | None = vote.answer[0]
                return found
        told = sorted(
            f"{v.endpoint.name}: {v.answer if v.error is None else reason_of(v.error)}"
            for v in votes
        )
        raise NotProven("; ".join(told))

    async def agree(
        self, method: str, params: Sequence[Any], decode: Callable[[Any], Answer]
    ) -> Answer:
        """The value that k endpoints' answers to one call decode to.

        Raises:
            NoAgreement, WrongChain: see ``finalized``.
        """

        async def ask(endpoint: RpcEndpoint) -> Answer:
            return decode(await endpoint.call(method, params))

        return await self.agree_by(method, ask)

    async def agree_by(
        self,
        what: str,
        ask: Callable[[RpcEndpoint], Awaitable[Answer]],
        among: Sequence[RpcEndpoint] | None = None,
    ) -> Answer:
        """The value that k endpoints give alike when ``ask`` questions each of them."""

        def enough(votes: Sequence[_Vote[Answer]]) -> bool:
            return self._winner(votes) is not None

        votes = await self._poll(ask, self.endpoints if among is None else among, enough)
        winner = self._winner(votes)
        if winner is None:
            raise self._disagreement(what, votes)
        for vote in votes:
            if vote.error is None and vote.answer != winner[0]:
                kind, how = self._difference(vote.answer, winner[0])
                self._health[vote.endpoint.name].complain(kind, f"{what}: {how}")
        return winner[0]

    async def ask_all(
        self,
        ask: Callable[[RpcEndpoint], Awaitable[Result]],
        decides: Callable[[list[Result]], bool] = lambda _: True,
    ) -> list[tuple[RpcEndpoint, Result | ChainError]]:
        """Every endpoint's own answer or failure, for questions that have no single true answer.

        ``decides``: whether k answers or more are enough; else the others are waited for.
        """

        async def wrapped(endpoint: RpcEndpoint) -> Any:
            return (await ask(endpoint),)

        def enough(votes: Sequence[_Vote[Any]]) -> bool:
            answers = [vote.answer[0] for vote in votes if vote.error is None]
            return len(answers) >= self.quorum and decides(answers)

        votes: list[_Vote[Any]] = await self._poll(wrapped, self.endpoints, enough)
        found: list[tuple[RpcEndpoint, Result | ChainError]] = []
        for vote in votes:
            found.append((vote.endpoint, vote.answer[0] if vote.error is None else vote.error))
        return found

    def best_first(self) -> list[RpcEndpoint]:
        """The endpoints, those that are well first: for questions asked one after the other."""
        return sorted(self.endpoints, key=lambda e: bool(self._health[e.name].complaint))

    async def kth_highest(
        self, method: str, params: Sequence[Any], *, settled: bool = False
    ) -> int:
        """A number that at least k endpoints have reached: fewer than k liars cannot raise it.

        ``settled``: honest endpoints mostly give the same, so as long as fewer than k do, the
        others are waited for: else the quickest liar could lower it.
        """

        def decides(found: list[int]) -> bool:
            return not settled or max(Counter(found).values()) >= self.quorum

        async def ask(endpoint: RpcEndpoint) -> int:
            return decoding.quantity(await endpoint.call(method, params))

        answers = await self.ask_all(ask, decides)
        numbers = sorted((a for _, a in answers if isinstance(a, int)), reverse=True)
        if len(numbers) < self.quorum:
            raise NoAgreement(method, self.quorum, {e.name: str(a) for e, a in answers})
        return numbers[self.quorum - 1]

    def accuse(self, endpoint: RpcEndpoint, complaint: str) -> None:
        """Names an endpoint whose answer was refuted by other means (a digest)."""
        self._health[endpoint.name].complain(Trouble.LYING, complaint)

    async def aclose(self) -> None:
        """Closes all endpoints."""
        for endpoint in self.endpoints:
            await endpoint.aclose()

    # ------------------------------------------------------------------ finalized block

    async def _agree_on_finalized(self) -> Header:
        # The first k answers may be those of liars. So when they do not suffice, ask again and wait
        # for everybody, each until its deadline.
        try:
            return await self._finalized_of_first(self.quorum)
        except NoAgreement:
            if self.quorum == len(self.endpoints):
                raise
            return await self._finalized_of_first(len(self.endpoints))

    async def _finalized_of_first(self, count: int) -> Header:
        async def ask(endpoint: RpcEndpoint) -> Header:
            return headers.header(await endpoint.call("eth_getBlockByNumber", ["finalized", False]))

        def enough(votes: Sequence[_Vote[Header]]) -> bool:
            return sum(vote.error is None for vote in votes) >= count

        votes = await self._poll(ask, self.endpoints, enough)
        tips: dict[str, Header] = {v.endpoint.name: v.answer for v in votes if v.error is None}
        heights = sorted((tip.number for tip in tips.values()), reverse=True)
        for name, tip in tips.items():
            self._health[name].finalized_height = tip.number
        if len(heights) < self.quorum:
            raise self._disagreement("finalized block", votes)
        failed: NoAgreement | None = None
        for height in sorted(set(heights[self.quorum - 1 :]), reverse=True):
            reached = [
                e for e in self.endpoints if e.name in tips and tips[e.name].number >= height
            ]

            async def ask_height(endpoint: RpcEndpoint, height: int = height) -> Header:
                tip = tips[endpoint.name]
                if tip.number == height:
                    return tip
                found = headers.header(
                    await endpoint.call("eth_getBlockByNumber", [hex(height), False])
                )
                if found.number != height:
                    raise EndpointError(endpoint.name, "gives another block than asked for")
                return found

            try:
                agreed = await self.agree_by(f"finalized block {height}", ask_height, reached)
            except NoAgreement as error:
                failed = failed or error
                continue
            self._note_laggards(agreed.number, tips)
            return agreed
        assert failed is not None
        raise failed

    def _note_laggards(self, agreed: int, tips: dict[str, Header]) -> None:
        """Complains about those that are behind for longer than news take to spread."""
        now_s = time.monotonic()
        for name, tip in tips.items():
            health = self._health[name]
            if tip.number >= agreed:
                health.behind_since_s = None
                continue
            if health.behind_since_s is None:
                health.behind_since_s = now_s
            if now_s - health.behind_since_s >= self._lag_s:
                health.complain(
                    Trouble.LAGGING, f"its finalized block is {tip.number}, the agreed {agreed}"
                )

    async def _check_continuity(self, header: Header) -> None:
        """The marked block must still be an ancestor: its height must still carry its hash."""
        mark = self.watermark.mark
        if mark.height < 0:
            return
        if header.number == mark.height + 1:
            self.watermark.check_block(mark.height, header.parent_hash)
        elif header.number > mark.height:
            marked = await self.header_at(mark.height)
            if marked is None:
                raise RollbackRefused(f"k endpoints no longer know block {mark.height}")
            self.watermark.check_block(marked.number, marked.hash)
        else:
            self.watermark.check_block(header.number, header.hash)

    # ------------------------------------------------------------------ polling

    async def _poll(
        self,
        ask: Callable[[RpcEndpoint], Awaitable[Answer]],
        endpoints: Sequence[RpcEndpoint],
        enough: Callable[[Sequence[_Vote[Answer]]], bool],
        *,
        blame_late: bool = True,
    ) -> list[_Vote[Answer]]:
        votes: list[_Vote[Answer]] = []
        asked = {endpoint.name for endpoint in endpoints}
        # Endpoints with a complaint are asked but not waited for once there is an answer, except
        # now and then, to see whether they are well again.
        now_s = time.time()
        well = {
            name
            for name in asked
            if not self._health[name].complaint
            or abs(now_s - self._health[name].complaint_at_s) > self._recheck_s  # clocks jump
        }
        changed = trio.Event()

        async def one(endpoint: RpcEndpoint) -> None:
            vote = await self._ask_one(endpoint, ask)
            votes.append(vote)
            changed.set()

        async with trio.open_nursery() as nursery:
            for endpoint in endpoints:
                nursery.start_soon(one, endpoint)
            while len(votes) < len(endpoints) and not enough(votes):
                await changed.wait()
                changed = trio.Event()
            with trio.move_on_after(self._grace_s):
                while well - {vote.endpoint.name for vote in votes}:
                    await changed.wait()
                    changed = trio.Event()
            nursery.cancel_scope.cancel()
        for name in asked - {vote.endpoint.name for vote in votes}:
            if name in well and blame_late:
                self._health[name].complain(
                    Trouble.LATE, f"slower by {self._grace_s:g} s than as many others as are needed"
                )
        return votes

    async def _ask_one(
        self, endpoint: RpcEndpoint, ask: Callable[[RpcEndpoint], Awaitable[Answer]]
    ) -> _Vote[Answer]:
        health = self._health[endpoint.name]
        started = time.monotonic()
        try:
            if not health.chain_checked:
                found = decoding.quantity(await endpoint.call("eth_chainId", []))
                if found != self.chain_id:
                    raise WrongChain(f"{endpoint.name}: chain {found}, expected {self.chain_id}")
                health.chain_checked = True
            answer = await ask(endpoint)
        except (EndpointError, RpcFault, WrongChain, BadChainData) as error:
            if not (isinstance(error, RpcFault) and health.behind_since_s is not None):
                health.failed(error)  # else it need not know the block: see _note_laggards
            return _Vote(endpoint, error=error)
        health.answers += 1
        health.latency_ms = int((time.monotonic() - started) * 1000)
        health.complaint = ""
        return _Vote(endpoint, answer=answer)

    def _winner(self, votes: Sequence[_Vote[Answer]]) -> tuple[Answer] | None:
        counts: dict[Any, int] = {}
        for vote in votes:
            if vote.error is None:
                counts[vote.answer] = counts.get(vote.answer, 0) + 1
        for answer, count in counts.items():
            if count >= self.quorum:
                return (answer,)
        return None

    def _difference(self, answer: object, agreed: object) -> tuple[Trouble, str]:
        """How one endpoint's answer differs from the agreed one."""
        if not (isinstance(answer, Header) and isinstance(agreed, Header)):
            return Trouble.LYING, f"answers otherwise than {self.quorum} others"
        if answer.hash != agreed.hash:
            return Trouble.FORKED, f"its block is 0x{answer.hash.hex()}"
        return Trouble.LYING, "its header is not what hashes to the agreed hash"

    def _disagreement(self, what: str, votes: Sequence[_Vote[Answer]]) -> ChainError:
        if sum(isinstance(vote.error, WrongChain) for vote in votes) >= self.quorum:
            return next(vote.error for vote in votes if isinstance(vote.error, WrongChain))
        texts = {
            vote.endpoint.name: "answers otherwise" if vote.error is None else reason_of(vote.error)
            for vote in votes
        }
        return NoAgreement(what, self.quorum, texts)


def _call_result(result: Any, bytes_max: int) -> bytes | Reverted:
    if isinstance(result, RpcFault):
        if result.data is not None:
            return Reverted(result.data)
        # Code 3 is geth's "execution reverted"; a revert without data has none to show.
        if result.code == 3 or result.message.startswith("execution reverted"):
            return Reverted(b"")
        raise result
    value = decoding.data(result)
    if len(value) > bytes_max:
        raise BadChainData(f"a call result has {len(value)} bytes, at most {bytes_max} expected")
    return value


def open_reader(
    urls: Sequence[str],
    quorum: int,
    *,
    chain_id: int,
    contract: bytes,
    code_hash: bytes = b"",
    watermark_path: Path | None = None,
    timeout_s: float = TIMEOUT_S,
    single_rpc_insecure: bool = False,
) -> FinalizedReader:
    """A reader from plain settings; see ``FinalizedReader`` and ``Watermark``."""
    return FinalizedReader(
        [RpcEndpoint(url, timeout_s=timeout_s) for url in urls],
        quorum,
        Watermark(watermark_path, chain_id=chain_id, contract=contract, code_hash=code_hash),
        single_rpc_insecure=single_rpc_insecure,
    )
