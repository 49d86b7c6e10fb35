"""Deploying contracts beside the registry: planned, and with --yes sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chain import ChainConfigError, TxState
from chain.fees import ether
from chain.transactions import contract_address
from deploy.contract import Creation, create_beside
from deploy.operator.plan import priced
from deploy.operator.session import Session
from deploy.operator.verbs import EXIT_WOULD_FAIL, Answer, Options
from deploy.operator.wording import plain


async def create(
    session: Session, options: Options, creations: Sequence[Creation], following: str
) -> Answer:
    """Deploys one after the other: each may need the code of the one before."""
    if options.yes and not session.can_sign:
        raise ChainConfigError("--from only plans: there is no key to sign with")
    sender = session.owner.sender
    nonce = await sender.next_nonce()
    address = contract_address(sender.address, nonce + len(creations) - 1)
    fields: dict[str, Any] = {
        "sent": False, "would": "work", "reason": None, "from": plain(sender.address),
        "nonce": nonce, "contract": plain(address),
    }  # fmt: skip
    lines = [
        f"deploys  {', then '.join(creation.name for creation in creations)}",
        f"from     0x{sender.address.hex()}, nonce {nonce}",
        f"address  {fields['contract']}",
    ]
    # Only the first can be tried: the others need what is not there yet.
    estimate, refusal = await priced(
        sender, b"", creations[0].code(), must_pay=session.can_sign
    )
    if estimate is None or refusal:
        fields |= {"would": "fail", "reason": refusal}
        return Answer(fields, [*lines, f"FAILS    {refusal}", "nothing was sent"], EXIT_WOULD_FAIL)
    fields |= {"gas": estimate.gas, "cost_max_eth": ether(estimate.cost_max)}
    more = " for the first" if len(creations) > 1 else ""
    lines.append(f"cost     at most {fields['cost_max_eth']} ETH{more}: {estimate.gas} gas")
    if not options.yes:
        return Answer(fields, [*lines, "it would work; --yes sends it"])
    for creation in creations:
        until = TxState.FINAL if options.final else TxState.INCLUDED
        contract, outcome = await create_beside(sender, creation, until=until)
    fields |= {"sent": True, "contract": plain(contract), "block": outcome.block_number}
    lines += [f"deployed {fields['contract']}, in block {outcome.block_number}", following]
    return Answer(fields, lines)
