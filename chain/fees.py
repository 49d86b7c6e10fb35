"""What a transaction needs: gas by trying it, fees by the chain's recent blocks, within a policy.

Neither has one true answer, as endpoints look at different newest blocks. So k must say that a call
works, or that it is refused for the same reason; how much gas and which fees, the median says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from chain import decoding
from chain.abi import ContractAbi
from chain.agreement import FinalizedReader
from chain.errors import BadChainData, FeeTooHigh, InsufficientFunds, NoAgreement, RpcFault
from chain.rpc import RpcEndpoint

GWEI = 10**9


@dataclass(frozen=True, slots=True)
class FeePolicy:
    """What a key may spend and how patient it is. Fees in wei per gas."""

    fee_ceiling: int = 200 * GWEI
    tip_min: int = GWEI // 1000
    gas_max: int = 16_000_000  # a deployment; EIP-7825 allows 2**24 in a transaction
    bump_after_blocks: int = 3
    attempts_max: int = 24
    poll_interval_s: float = 0.5
    tend_interval_s: float = 15.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a transaction would need now; ``cost_max`` in wei includes the value sent."""

    gas: int
    tip: int
    fee_max: int
    cost_max: int


class Pricing:
    """Prices calls within a policy; ``abi`` makes the contract's refusals readable."""

    def __init__(self, reader: FinalizedReader, abi: ContractAbi, policy: FeePolicy) -> None:
        self._reader = reader
        self._abi = abi
        self._policy = policy

    async def price(self, call: dict[str, str], value: int) -> Estimate:
        """What this call object would need now; ``value`` is the wei it sends.

        Raises:
            CallReverted, InsufficientFunds, FeeTooHigh, NoAgreement.
        """
        gas = await self._gas(call)
        tip, fee_max = await self._fees()
        return Estimate(gas, tip, fee_max, gas * fee_max + value)

    async def _gas(self, call: dict[str, str]) -> int:
        async def ask(endpoint: RpcEndpoint) -> int | RpcFault:
            try:
                return decoding.quantity(await endpoint.call("eth_estimateGas", [call]), 64)
            except RpcFault as fault:
                return fault

        quorum = self._reader.quorum
        answers = await self._reader.ask_all(
            ask, lambda found: max(Counter(map(_verdict, found)).values()) >= quorum
        )
        found = [answer for _, answer in answers if isinstance(answer, int | RpcFault)]
        for verdict, count in Counter(map(_verdict, found)).most_common(1):
            if count < quorum or verdict is UNCLEAR:
                break
            if isinstance(verdict, bytes):
                raise self._abi.reverted(verdict)
            if verdict is TOO_POOR:
                raise InsufficientFunds(f"insufficient funds: {call['from']} cannot pay")
            return self._with_reserve([answer for answer in found if isinstance(answer, int)])
        raise NoAgreement("gas estimate", quorum, {e.name: str(a) for e, a in answers})

    def _with_reserve(self, estimates: list[int]) -> int:
        # A quarter on top: the state may move between estimate and inclusion.
        # And the upper one of two: too much is not spent, too little fails on the chain.
        gas = sorted(estimates)[len(estimates) // 2] * 5 // 4
        if gas > self._policy.gas_max:
            raise FeeTooHigh(f"it needs {gas} gas, the limit is {self._policy.gas_max}")
        return gas

    async def _fees(self) -> tuple[int, int]:
        """Tip and fee cap in wei per gas: the median endpoint's view, cap = 2 x base + tip."""

        async def ask(endpoint: RpcEndpoint) -> tuple[int, int]:
            history = await endpoint.call("eth_feeHistory", [hex(10), "latest", [50]])
            try:
                base = decoding.quantity(history["baseFeePerGas"][-1], 128)
                tips = [decoding.quantity(row[0], 128) for row in history.get("reward") or []]
            except (KeyError, IndexError, TypeError, AttributeError):
                raise BadChainData("the fee history is malformed") from None
            return base, _median(tips) if tips else 0

        def decides(found: list[tuple[int, int]]) -> bool:
            bases = [base for base, _ in found]
            return max(bases) <= 2 * min(bases)  # else the quickest liar could lower the median

        answers = await self._reader.ask_all(ask, decides)
        views = [answer for _, answer in answers if isinstance(answer, tuple)]
        if len(views) < self._reader.quorum:
            raise NoAgreement("fees", self._reader.quorum, {e.name: str(a) for e, a in answers})
        base = _median([view[0] for view in views])
        tip = max(self._policy.tip_min, _median([view[1] for view in views]))
        ceiling = self._policy.fee_ceiling
        if base + tip > ceiling:
            raise FeeTooHigh(
                f"the chain asks for {(base + tip) / GWEI:.3f} gwei per gas, the ceiling is"
                f" {ceiling / GWEI:.3f}; nothing was sent"
            )
        return tip, min(2 * base + tip, ceiling)


WORKS, TOO_POOR, UNCLEAR = "works", "too poor", "unclear"


def _verdict(answer: int | RpcFault) -> str | bytes:
    """What an endpoint says of a call: that it works, the data of its revert, or why not."""
    if isinstance(answer, int):
        return WORKS
    if is_revert(answer):
        return answer.data or b""
    return TOO_POOR if "insufficient funds" in answer.message.lower() else UNCLEAR


def is_revert(fault: RpcFault) -> bool:
    """Whether a fault is the contract's refusal (code 3 in geth and its followers)."""
    return fault.data is not None or fault.code == 3 or "execution reverted" in fault.message


def ether(wei: int) -> str:
    """Wei as a decimal number of ether, exact to a gwei, rounded up."""
    gwei = -(-wei // GWEI)
    return f"{gwei // GWEI}.{gwei % GWEI:09d}"


def _median(numbers: Sequence[int]) -> int:
    return sorted(numbers)[(len(numbers) - 1) // 2]
