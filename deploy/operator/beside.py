"""Verbs about contracts that a cluster may have beside its registry: public mint, app contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chain import CallReverted, ChainConfigError, InsufficientFunds, TransactionError, TxState
from chain.abi import ContractAbi
from chain.fees import GWEI, ether
from chain.transactions import contract_address
from contracts import artifact
from deploy import calls
from deploy.calls import APP, MINT, PROXY
from deploy.contract import Creation, create_beside
from deploy.operator import arguments as read
from deploy.operator.session import Session, open_session
from deploy.operator.verbs import EXIT_WOULD_FAIL, Answer, Options, Verbs
from deploy.operator.wording import plain


def add(verbs: Verbs) -> None:
    """Adds them."""
    mint = verbs.group("mint", "seats for sale, to whoever pays")
    mint.act("deploy", _deploy_mint, "anybody: deploy a public mint for this registry, closed")
    opening = mint.call(
        "open", lambda o: calls.set_sale(o.price_gwei * GWEI, o.cap, o.weight, True),
        "as contract owner: sell seats on these terms",
    )  # fmt: skip
    opening.add_argument("--price-gwei", type=read.number, required=True, metavar="GWEI")
    opening.add_argument("--cap", type=read.weight, required=True, help="seats ever sold")
    opening.add_argument("--weight", type=read.weight, required=True, help="of each seat")
    mint.call(
        "close", lambda o: calls.set_sale(0, 0, 1, False), "as contract owner: sell no more seats"
    )
    mint.call(
        "minter", lambda o: calls.set_minter(o.minter, o.weight),
        "as contract owner: the contract that may grant seats up to a weight (0 0: none)",
        ("MINTER", read.address_or_none), ("WEIGHT", read.number),
    )  # fmt: skip
    mint.call(
        "withdraw", lambda o: calls.withdraw(o.to),
        "as contract owner: take the public mint's money out", ("TO", read.address),
    )  # fmt: skip
    app = verbs.group("app", "the contract whose address is the app id")
    deploy = app.act("deploy", _deploy_app, "anybody: deploy an app contract for this registry")
    deploy.add_argument("--owner", type=read.address, metavar="ADDRESS", help="default: the key")
    app.call(
        "lock", lambda o: calls.disable_upgrades(),
        "as the app contract's owner: its code stays for ever",
    )  # fmt: skip


async def _deploy_mint(options: Options) -> Answer:
    async with open_session(options) as session:
        creation = Creation(MINT, (session.deployment.contract,))
        following = "name it: contract mint minter ADDRESS WEIGHT, then contract mint open"
        return await _create(session, options, [creation], following)


async def _deploy_app(options: Options) -> Answer:
    async with open_session(options) as session:
        sender = session.owner.sender
        code = contract_address(sender.address, await sender.next_nonce())
        initialize = ContractAbi(artifact(APP).abi).function("initialize")
        call = initialize.encode(options.owner or sender.address, session.deployment.contract)
        following = (
            "it is the app id: contract allow-app ADDRESS, contract boot app-contract ADDRESS"
        )
        return await _create(session, options, [Creation(APP), Creation(PROXY, (code, call))],
                             following)  # fmt: skip


async def _create(
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
    try:
        # Only the first can be tried: the others need what is not there yet.
        estimate = await sender.estimate(b"", creations[0].code())
    except (CallReverted, InsufficientFunds, TransactionError) as error:
        fields |= {"would": "fail", "reason": str(error)}
        return Answer(fields, [*lines, f"FAILS    {error}", "nothing was sent"], EXIT_WOULD_FAIL)
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
