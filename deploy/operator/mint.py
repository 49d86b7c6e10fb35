"""Verbs about the public mint: seats for sale, to whoever pays."""

from __future__ import annotations

from chain.fees import GWEI
from deploy import calls
from deploy.calls import MINT
from deploy.contract import Creation
from deploy.operator import arguments as read
from deploy.operator.creating import add_again, create
from deploy.operator.session import open_session
from deploy.operator.verbs import Answer, Options, Verbs


def add(verbs: Verbs) -> None:
    """Adds them."""
    mint = verbs.group("mint", "seats for sale, to whoever pays")
    add_again(
        mint.act("deploy", _deploy_mint, "anybody: deploy a public mint for this registry, closed")
    )
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


async def _deploy_mint(options: Options) -> Answer:
    async with open_session(options) as session:
        creation = Creation(MINT, (session.deployment.contract,))
        following = "name it: contract mint minter ADDRESS WEIGHT, then contract mint open"
        return await create(session, options, creation, following)
