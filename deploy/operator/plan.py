"""The dry run: what would be sent, what it would cost, what it would do, or why it would fail."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chain import (
    CallReverted,
    Estimate,
    InsufficientFunds,
    TransactionError,
    TransactionSender,
)
from chain.fees import GWEI, ether
from deploy.calls import Call
from deploy.contract import RegistryOwner
from deploy.operator.wording import Effect, plain


@dataclass(frozen=True, slots=True)
class Plan:
    """One transaction that is not sent yet.

    ``refusal`` says why it would fail, empty when it would work; ``estimate`` is None when it was
    refused before it could be priced. ``shortage`` says that the address cannot pay for it.
    """

    call: Call
    names: tuple[str, ...]  # of the arguments
    to: bytes
    data: bytes
    sender: bytes
    nonce: int
    estimate: Estimate | None
    effect: Effect
    refusal: str = ""

    @property
    def would_work(self) -> bool:
        return not self.refusal

    def as_json(self) -> dict[str, Any]:
        """For scripts; wei as decimal text, which no JSON reader rounds."""
        found: dict[str, Any] = {
            "would": "work" if self.would_work else "fail",
            "reason": self.refusal or None,
            "contract": self.call.contract,
            "to": plain(self.to),
            "function": self.call.function,
            "arguments": dict(zip(self.names, (plain(v) for v in self.call.values), strict=True)),
            "from": plain(self.sender),
            "nonce": self.nonce,
            "value_wei": str(self.call.value_wei),
            "data": plain(self.data),
            "effect": list(self.effect.lines),
            "warnings": list(self.effect.warnings),
        }
        if self.estimate is not None:
            found |= {
                "gas": self.estimate.gas,
                "fee_max_wei_per_gas": str(self.estimate.fee_max),
                "cost_max_wei": str(self.estimate.cost_max),
                "cost_max_eth": ether(self.estimate.cost_max),
            }
        return found

    def lines(self) -> list[str]:
        """For people."""
        shown = ", ".join(
            f"{name}={_short(value)}"
            for name, value in zip(self.names, self.call.values, strict=True)
        )
        lines = [
            f"call     {self.call.contract} 0x{self.to.hex()}",
            f"         {self.call.function}({shown})",
            f"from     0x{self.sender.hex()}, nonce {self.nonce}",
        ]
        if self.call.value_wei:
            lines.append(f"pays     {ether(self.call.value_wei)} ETH to the contract")
        if self.estimate is not None:
            lines.append(
                f"cost     at most {ether(self.estimate.cost_max)} ETH: {self.estimate.gas} gas at"
                f" no more than {self.estimate.fee_max / GWEI:.3f} gwei"
            )
        lines += [f"{'effect' if i == 0 else '':<9}{t}" for i, t in enumerate(self.effect.lines)]
        lines += [f"WARNING  {text}" for text in self.effect.warnings]
        if self.refusal:
            lines.append(f"FAILS    {self.refusal}")
        return lines


async def plan_call(owner: RegistryOwner, call: Call, effect: Effect, *, must_pay: bool) -> Plan:
    """Tries the call in the newest block, as the sender.

    Args:
        effect: what it does to the cluster, if the contract takes it.
        must_pay: whether an address that cannot afford it counts as a refusal.

    Raises:
        ChainError: the endpoints do not agree on what is needed to tell.
    """
    order = owner.order(call)
    sender = owner.sender
    estimate, refusal = await priced(
        sender, order.to, order.data, value=order.value, must_pay=must_pay
    )
    return Plan(
        call=call,
        names=owner.argument_names(call),
        to=order.to,
        data=order.data,
        sender=sender.address,
        nonce=await sender.next_nonce(),
        estimate=estimate,
        effect=effect,
        refusal=refusal,
    )


async def priced(
    sender: TransactionSender, to: bytes, data: bytes, *, value: int = 0, must_pay: bool
) -> tuple[Estimate | None, str]:
    """What a transaction would cost, None when it is refused before that; and why it would fail."""
    estimate = None
    try:
        estimate = await sender.price(to, data, value=value)
        if must_pay:
            await sender.afford(estimate.cost_max)
    except (CallReverted, InsufficientFunds, TransactionError) as error:
        return estimate, str(error)
    return estimate, ""


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    text = str(plain(value))
    return text if len(text) <= 80 else f"{text[:70]}... ({len(text)} characters)"
