"""Deploying contracts beside the registry: planned, and with --yes sent.

What this key's journal knows as deployed is not deployed again: a command that was killed may be
said again, and goes on. ``--again`` makes another one.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from chain import ChainConfigError, TransactionSender, TxState
from chain.fees import ether
from chain.transactions import contract_address
from deploy.contract import Creation, create_beside
from deploy.operator.plan import priced
from deploy.operator.session import Session
from deploy.operator.verbs import EXIT_WOULD_FAIL, Answer, Options
from deploy.operator.wording import plain

Then = Callable[[bytes], Creation]


@dataclass(frozen=True, slots=True)
class _Step:
    """One contract and where it is, or will be; ``there``: it was sent by an earlier command."""

    creation: Creation
    address: bytes
    there: bool


def add_again(parser: argparse.ArgumentParser) -> None:
    """The option to deploy what was deployed already."""
    parser.add_argument("--again", action="store_true",
                        help="another one, where this key deployed the same before")  # fmt: skip


async def create(
    session: Session,
    options: Options,
    first: Creation,
    following: str,
    *,
    then: Then | None = None,
) -> Answer:
    """Deploys a contract, and ``then`` one that needs the address of the first."""
    if options.yes and not session.can_sign:
        raise ChainConfigError("--from only plans: there is no key to sign with")
    sender = session.owner.sender
    if options.yes:
        await sender.settle()  # what was broken off is in a block then, or has failed
    nonce = await sender.next_nonce()
    steps = _steps(sender, nonce, first, then, again=options.again)
    missing = [step.creation for step in steps if not step.there]
    fields: dict[str, Any] = {
        "sent": False, "would": "work", "reason": None, "from": plain(sender.address),
        "nonce": nonce, "contract": plain(steps[-1].address),
    }  # fmt: skip
    lines = [
        f"deploys  {', then '.join(creation.name for creation in missing) or 'nothing'}",
        *(
            f"before   {step.creation.name} is at {plain(step.address)},"
            " by an earlier command of this key"
            for step in steps
            if step.there
        ),
        f"from     0x{sender.address.hex()}, nonce {nonce}",
        f"address  {fields['contract']}",
    ]
    if missing:
        # Only the first can be tried: the others need what is not there yet.
        estimate, refusal = await priced(sender, b"", missing[0].code(), must_pay=session.can_sign)
        if estimate is None or refusal:
            fields |= {"would": "fail", "reason": refusal}
            lines += [f"FAILS    {refusal}", "nothing was sent"]
            return Answer(fields, lines, EXIT_WOULD_FAIL)
        fields |= {"gas": estimate.gas, "cost_max_eth": ether(estimate.cost_max)}
        more = " for the first" if len(missing) > 1 else ""
        lines.append(f"cost     at most {fields['cost_max_eth']} ETH{more}: {estimate.gas} gas")
    if not options.yes:
        hint = "it would work; --yes sends it" if missing else "--again deploys another one"
        return Answer(fields, [*lines, hint])
    for step in steps:
        until = TxState.FINAL if options.final else TxState.INCLUDED
        contract, outcome = await create_beside(
            sender, step.creation, until=until, again=options.again
        )
    fields |= {"sent": bool(missing), "contract": plain(contract), "block": outcome.block_number}
    lines += [f"deployed {fields['contract']}, in block {outcome.block_number}", following]
    return Answer(fields, lines)


def _steps(
    sender: TransactionSender, nonce: int, first: Creation, then: Then | None, *, again: bool
) -> list[_Step]:
    """Where each contract is by the key's journal, or will be from this nonce on."""
    steps: list[_Step] = []
    creation: Creation | None = first
    while creation is not None:
        used = None if again else sender.nonce_of(creation.intent())
        address = contract_address(sender.address, nonce if used is None else used)
        steps.append(_Step(creation, address, used is not None))
        nonce += used is None
        creation = then(address) if then is not None and len(steps) == 1 else None
    return steps
