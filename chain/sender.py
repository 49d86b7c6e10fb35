"""Gets transactions of one key mined, once each, whatever endpoints, reorgs and restarts do.

Theory of operation. A transaction is first tried (``eth_estimateGas``): what would revert is
refused with the contract's own reason before any gas is spent. Then it is signed, written to the
journal, and only then sent, to all endpoints. It counts as done when its receipt says success in a
block that is an ancestor of the agreed finalized one. Until then, at every new block without it the
same bytes are sent again (which also mends a reorg that dropped them), and after some blocks a
version with higher fees. One request at a time waits for inclusion, so nonces never have gaps; a
request may be several transactions, all tried before the first is sent.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import trio

from chain import decoding
from chain.abi import ContractAbi
from chain.agreement import FinalizedReader
from chain.decoding import Receipt, hexed
from chain.errors import (
    BadChainData,
    ChainError,
    EndpointError,
    InsufficientFunds,
    JournalError,
    NoAgreement,
    RollbackRefused,
    RpcFault,
    TransactionError,
    TransactionFailed,
    TransactionReplaced,
)
from chain.fees import Estimate, FeePolicy, Pricing, ether, is_revert
from chain.journal import INTENT_CHARS_MAX, Attempt, Entry, Journal, TxState
from chain.keys import PayingSigner
from chain.rpc import RpcEndpoint
from chain.transactions import Transaction, sign

_TRANSIENT = (NoAgreement, EndpointError, RpcFault, BadChainData, RollbackRefused)

_log = structlog.get_logger("chain.sender")


@dataclass(frozen=True, slots=True)
class Order:
    """A transaction to be sent.

    ``intent`` names the purpose, the same text for the same purpose ("register 3 at 7"); ``to``
    is a 20-byte address, empty to deploy a contract; ``value`` is in wei.
    """

    intent: str
    to: bytes
    data: bytes
    value: int = 0

    def __post_init__(self) -> None:
        if not 1 <= len(self.intent) <= INTENT_CHARS_MAX or len(self.to) not in (0, 20):
            raise ValueError("intent of 1..256 characters and an address of 20 bytes (or none)")


@dataclass(frozen=True, slots=True)
class TxOutcome:
    """How a transaction ended: ``state`` is INCLUDED or FINAL."""

    state: TxState
    tx_hash: bytes
    nonce: int
    block_number: int
    block_hash: bytes
    gas_used: int


class TransactionSender:
    """Sends the transactions of one key; make one per key and process.

    Args:
        reader: endpoints and agreement; its chain id is signed into every transaction.
        key: pays and signs.
        journal_path: file for the journal; None keeps it in memory (one-shot tools, tests).
        abi: makes the contract's refusals readable.
        policy: fee ceiling and patience.
    """

    def __init__(
        self,
        reader: FinalizedReader,
        key: PayingSigner,
        *,
        journal_path: Path | None,
        abi: ContractAbi,
        policy: FeePolicy | None = None,
    ) -> None:
        self.reader = reader
        self.address = key.address
        self._key = key
        self._abi = abi
        self._policy = FeePolicy() if policy is None else policy
        self._pricing = Pricing(reader, abi, self._policy)
        self._journal = Journal(journal_path, chain_id=reader.chain_id, address=key.address)
        self._lock = trio.Lock()
        self._driven: set[int] = set()
        self._seen_height: dict[int, int] = {}
        self._waiting_since: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"TransactionSender(0x{self.address.hex()})"

    async def send(
        self,
        intent: str,
        to: bytes,
        data: bytes,
        *,
        value: int = 0,
        until: TxState = TxState.FINAL,
    ) -> TxOutcome:
        """Gets one transaction mined and waits until it is included, or final.

        Waits without end; give it a deadline from outside. When that cancels it (or the process
        dies), the journal keeps the transaction, and ``send`` with the same intent picks it up.

        Args:
            intent, to, data, value: see ``Order``.
            until: INCLUDED or FINAL.

        Raises:
            CallReverted: it would revert; nothing was sent.
            InsufficientFunds, FeeTooHigh: nothing was sent.
            TransactionFailed: it was mined and reverted.
            TransactionReplaced: the key's nonce was used by somebody else.
            FinalityAlarm, WrongChain, PinMismatch: the chain itself is in doubt.
        """
        (outcome,) = await self.send_all([Order(intent, to, data, value)], until=until)
        return outcome

    async def send_all(
        self, orders: Sequence[Order], *, until: TxState = TxState.FINAL
    ) -> list[TxOutcome]:
        """Gets several transactions mined, all sent at once with rising nonces; otherwise ``send``.

        None may need another one's effect: all are tried before the first is sent, and nothing is
        sent when one of them would be refused. When one fails on the chain the others go on, and
        the first failure is raised at the end.
        """
        async with self._lock:
            await self._settle_older({order.intent for order in orders})
            entries = await self._entries(orders)
            outcomes = await self._drive_all(entries, TxState.INCLUDED)
        if until is TxState.FINAL:
            outcomes = await self._drive_all(entries, TxState.FINAL)
        return outcomes

    async def settle(self) -> None:
        """Gets transactions of an earlier run included, or learns how they ended.

        Raises:
            ChainError: what stands in the way of any transaction.
        """
        async with self._lock:
            await self._settle_older(set())

    async def tend(self) -> None:
        """Keeps transactions going that nobody waits for, of this run and earlier ones, until
        cancelled: they are sent again after a reorganisation, and their end is learnt.

        Never raises ``ChainError``: what stands in the way is raised at the next ``send``.
        """
        told = ""
        while True:
            try:
                await self.settle()
                told = ""
            except ChainError as error:
                if str(error) != told:
                    told = str(error)
                    _log.error("tx.tending_stopped", reason=told)
            await trio.sleep(self._policy.tend_interval_s)

    async def estimate(self, to: bytes, data: bytes, *, value: int = 0) -> Estimate:
        """What a transaction would need, without sending it (dry run).

        Raises:
            CallReverted, InsufficientFunds, FeeTooHigh: it could not be sent.
        """
        estimate = await self.price(to, data, value=value)
        await self.afford(estimate.cost_max)
        return estimate

    async def price(self, to: bytes, data: bytes, *, value: int = 0) -> Estimate:
        """As ``estimate``, whether or not the address could pay for it."""
        return await self._pricing.price(self._call_object(to, data, value), value)

    async def afford(self, cost: int) -> None:
        """Raises InsufficientFunds when the address holds less than ``cost`` wei."""
        balance = await self.balance()
        if balance < cost:
            raise InsufficientFunds(
                f"insufficient funds: 0x{self.address.hex()} on chain {self.reader.chain_id} holds"
                f" {ether(balance)} ETH and this transaction may cost {ether(cost)} ETH:"
                f" send it at least {ether(cost - balance)} ETH"
            )

    async def next_nonce(self) -> int:
        """The nonce that the next transaction of this key would get."""
        account = [hexed(self.address), "latest"]
        mined = await self.reader.kth_highest("eth_getTransactionCount", account, settled=True)
        # An endpoint may lag behind what this journal knows to be used.
        return max([mined, *(1 + entry.nonce for entry in self._journal.entries)])

    async def balance(self) -> int:
        """Wei that the key's address holds, as at least k endpoints confirm."""
        account = [hexed(self.address), "latest"]
        return await self.reader.kth_highest("eth_getBalance", account, settled=True)

    def done(self, intent: str) -> TxOutcome | None:
        """How the newest transaction of a purpose ended, if it is final and not forgotten."""
        found = self._newest_with(intent)
        return _outcome(found) if found is not None and found.state is TxState.FINAL else None

    def nonce_of(self, intent: str) -> int | None:
        """The nonce of a purpose's newest transaction, if it did not fail and is not forgotten."""
        found = self._newest_with(intent)
        if found is None or found.state in (TxState.FAILED, TxState.REPLACED):
            return None
        return found.nonce

    def status(self) -> list[dict[str, Any]]:
        """The journal's entries, JSON-ready, oldest first."""
        return [
            {
                "intent": entry.intent,
                "nonce": entry.nonce,
                "state": entry.state.value,
                "reason": entry.reason,
                "hashes": ["0x" + attempt.hash.hex() for attempt in entry.attempts],
                "block_number": entry.block_number if entry.block_number >= 0 else None,
            }
            for entry in self._journal.entries
        ]

    # ------------------------------------------------------------------ making

    async def _entries(self, orders: Sequence[Order]) -> list[Entry]:
        known = [self._open_with(order.intent) for order in orders]
        new = [order for order, entry in zip(orders, known, strict=True) if entry is None]
        estimates = [await self.price(o.to, o.data, value=o.value) for o in new]
        if new:
            await self.afford(sum(estimate.cost_max for estimate in estimates))
        created = [await self._create(*pair) for pair in zip(new, estimates, strict=True)]
        following = iter(created)
        return [next(following) if entry is None else entry for entry in known]

    async def _create(self, order: Order, estimate: Estimate) -> Entry:
        height = await self._height()
        nonce = await self.next_nonce()
        entry = Entry(order.intent, nonce, order.to, order.value, order.data, estimate.gas)
        self._attempt(entry, estimate.tip, estimate.fee_max, height)
        self._journal.entries.append(entry)
        try:
            await self._journal.save()
        except JournalError:
            self._journal.entries.remove(entry)  # or the next look would send it
            raise
        await self._first_broadcast(entry)
        _log.info(
            "tx.sent", intent=order.intent, nonce=nonce, hash="0x" + entry.attempts[0].hash.hex()
        )
        return entry

    def _attempt(self, entry: Entry, tip: int, fee_max: int, height: int) -> None:
        unsigned = Transaction(
            chain_id=self.reader.chain_id,
            nonce=entry.nonce,
            tip=tip,
            fee_max=fee_max,
            gas=entry.gas,
            to=entry.to,
            value=entry.value,
            data=entry.data,
        )
        signed = sign(unsigned, self._key)
        entry.attempts.append(Attempt(signed.hash, signed.raw, tip, fee_max, height))

    async def _first_broadcast(self, entry: Entry) -> None:
        faults = await self._broadcast(entry.attempts[-1])
        if len(faults) == len(self.reader.endpoints):
            # Every endpoint answered and none took it, so it is nowhere: the nonce is free again.
            self._journal.entries.remove(entry)
            await self._journal.save()
            raise TransactionError(f"no endpoint accepts the transaction: {faults[0].message}")

    # ------------------------------------------------------------------ getting it mined

    async def _settle_older(self, intents: Collection[str]) -> None:
        for entry in self._journal.open_entries():
            if entry.nonce in self._driven or entry.intent in intents:
                continue
            try:
                if entry.state is TxState.INCLUDED:
                    await self._step(entry)  # learns of finality, or of a reorg
                if entry.state is TxState.PENDING:
                    await self._drive(entry, TxState.INCLUDED)
            except TransactionError as error:
                _log.warning("tx.ended", intent=entry.intent, reason=str(error))
            except _TRANSIENT as error:
                _log.info("tx.unknown_yet", intent=entry.intent, reason=str(error))

    def _newest_with(self, intent: str) -> Entry | None:
        return next((e for e in reversed(self._journal.entries) if e.intent == intent), None)

    def _open_with(self, intent: str) -> Entry | None:
        return next((e for e in self._journal.open_entries() if e.intent == intent), None)

    async def _drive_all(self, entries: Sequence[Entry], until: TxState) -> list[TxOutcome]:
        outcomes: dict[int, TxOutcome | ChainError] = {}

        async def one(entry: Entry) -> None:
            try:
                outcomes[entry.nonce] = await self._drive(entry, until)
            except ChainError as error:
                outcomes[entry.nonce] = error

        if len(entries) == 1:
            return [await self._drive(entries[0], until)]
        async with trio.open_nursery() as nursery:
            for entry in entries:
                nursery.start_soon(one, entry)
        found = []
        for entry in entries:
            outcome = outcomes[entry.nonce]
            if isinstance(outcome, ChainError):
                raise outcome
            found.append(outcome)
        return found

    async def _drive(self, entry: Entry, until: TxState) -> TxOutcome:
        self._driven.add(entry.nonce)
        try:
            while True:
                try:
                    await self._step(entry)
                except _TRANSIENT as error:
                    if str(error) != entry.reason:
                        _log.info("tx.waiting", intent=entry.intent, reason=str(error))
                    entry.reason = str(error)
                if entry.state in (until, TxState.FINAL):
                    return _outcome(entry)
                await trio.sleep(self._policy.poll_interval_s)
        finally:
            self._driven.discard(entry.nonce)

    async def _step(self, entry: Entry) -> None:
        """Looks once where the transaction is and does the next thing for it."""
        receipt = await self._receipt(entry)
        if receipt is None:
            if entry.block_number >= 0:
                _log.warning("tx.reorged_out", intent=entry.intent, block=entry.block_number)
                self._forget_block(entry)
                await self._journal.save()
                await self._broadcast(entry.attempts[-1])
            await self._nudge(entry)
            return
        # A revert ends the transaction when it is final: before, a reorganisation may undo it, and
        # the same bytes may succeed on the other branch.
        state = TxState.INCLUDED if receipt.succeeded else TxState.PENDING
        if (entry.state, entry.block_hash) != (state, receipt.block_hash):
            reason = "" if receipt.succeeded else "mined, but failed; not final yet"
            self._note(entry, state, receipt, reason)
            await self._journal.save()
        if not await self._is_final(receipt):
            return
        reason = "" if receipt.succeeded else await self._why(entry, receipt)
        self._note(entry, TxState.FINAL if receipt.succeeded else TxState.FAILED, receipt, reason)
        await self._journal.save()
        if not receipt.succeeded:
            raise TransactionFailed(reason, receipt.tx_hash)

    async def _is_final(self, receipt: Receipt) -> bool:
        finalized = await self.reader.finalized()
        if finalized.number < receipt.block_number:
            return False
        canonical = await self.reader.header_at(receipt.block_number)
        return canonical is not None and canonical.hash == receipt.block_hash

    async def _nudge(self, entry: Entry) -> None:
        height = await self._height()
        if height <= self._seen_height.get(entry.nonce, -1):
            return
        self._seen_height[entry.nonce] = height
        await self._check_not_replaced(entry)
        last = entry.attempts[-1]
        # After a restart or a reorg the same bytes get their full chance again before fees rise.
        waited = height - max(last.height, self._waiting_since.setdefault(entry.nonce, height))
        if waited >= self._policy.bump_after_blocks and len(entry.attempts) < (
            self._policy.attempts_max
        ):
            bumped = self._bumped(last)
            if bumped is not None:
                self._attempt(entry, *bumped, height)
                try:
                    await self._journal.save()
                except JournalError:
                    entry.attempts.pop()
                    raise
                _log.info("tx.bumped", intent=entry.intent, fee_max=bumped[1])
        await self._broadcast(entry.attempts[-1])

    def _bumped(self, last: Attempt) -> tuple[int, int] | None:
        """Both fees 12.5 % higher (nodes want more than 10 %); None at the ceiling."""
        fee_max = last.fee_max * 9 // 8 + 1
        if fee_max > self._policy.fee_ceiling:
            return None
        return last.tip * 9 // 8 + 1, fee_max

    async def _check_not_replaced(self, entry: Entry) -> None:
        finalized = await self.reader.finalized()
        block = decoding.block_id(finalized.hash)
        used = await self.reader.agree(
            "eth_getTransactionCount", [hexed(self.address), block], decoding.quantity
        )
        if used <= entry.nonce or await self._receipt(entry) is not None:
            return
        entry.state = TxState.REPLACED
        entry.reason = f"nonce {entry.nonce} was used by a transaction this sender did not make"
        await self._journal.save()
        raise TransactionReplaced(
            f"{entry.intent}: {entry.reason}; the key of 0x{self.address.hex()} is used elsewhere"
        )

    async def _broadcast(self, attempt: Attempt) -> list[RpcFault]:
        """Sends raw bytes to every endpoint; the faults of those that refuse them."""

        async def ask(endpoint: RpcEndpoint) -> RpcFault | None:
            try:
                await endpoint.call("eth_sendRawTransaction", [hexed(attempt.raw)])
            except RpcFault as fault:
                if "already" not in fault.message.lower():  # "already known", "already imported"
                    return fault
            return None

        answers = await self.reader.ask_all(ask)
        return [answer for _, answer in answers if isinstance(answer, RpcFault)]

    async def _receipt(self, entry: Entry) -> Receipt | None:
        for attempt in reversed(entry.attempts):
            found = await self.reader.agree(
                "eth_getTransactionReceipt", [hexed(attempt.hash)], decoding.receipt_or_none
            )
            if found is not None:
                if found.tx_hash != attempt.hash:
                    raise BadChainData("a receipt of another transaction")
                return found
        return None

    async def _why(self, entry: Entry, receipt: Receipt) -> str:
        """The contract's reason, asked for by the same call on the state of the failing block."""
        if receipt.gas_used >= entry.gas:
            return "out of gas"
        call = self._call_object(entry.to, entry.data, entry.value)
        block = {"blockHash": hexed(receipt.block_hash), "requireCanonical": False}

        async def ask(endpoint: RpcEndpoint) -> bytes | None:
            try:
                await endpoint.call("eth_call", [call, block])
            except RpcFault as fault:
                if is_revert(fault):
                    return fault.data or b""
                raise
            return None

        try:
            data = await self.reader.agree_by("eth_call", ask)
        except ChainError:
            return "reverted; the reason could not be learnt"
        return "reverted; it would pass now" if data is None else self._abi.reverted(data).text

    def _call_object(self, to: bytes, data: bytes, value: int) -> dict[str, str]:
        call = {"from": hexed(self.address), "data": hexed(data), "value": hex(value)}
        return {**call, "to": hexed(to)} if to else call

    def _note(self, entry: Entry, state: TxState, receipt: Receipt, reason: str) -> None:
        if state is not entry.state:
            _log.info("tx." + state.value, intent=entry.intent, block=receipt.block_number,
                      reason=reason)  # fmt: skip
        entry.state = state
        entry.reason = reason
        entry.tx_hash = receipt.tx_hash
        entry.block_number = receipt.block_number
        entry.block_hash = receipt.block_hash
        entry.gas_used = receipt.gas_used

    def _forget_block(self, entry: Entry) -> None:
        entry.state = TxState.PENDING
        entry.reason = "a reorganisation dropped its block"
        entry.tx_hash = b""
        entry.block_number = -1
        entry.block_hash = b""
        self._seen_height.pop(entry.nonce, None)
        self._waiting_since.pop(entry.nonce, None)

    # ------------------------------------------------------------------ unagreed questions

    async def _height(self) -> int:
        return await self.reader.kth_highest("eth_blockNumber", [])


def _outcome(entry: Entry) -> TxOutcome:
    return TxOutcome(
        entry.state, entry.tx_hash, entry.nonce,
        entry.block_number, entry.block_hash, entry.gas_used,
    )  # fmt: skip


__all__ = ["Order", "TransactionSender", "TxOutcome", "TxState"]
