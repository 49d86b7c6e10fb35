"""Verbs about seats: who holds one, how much it weighs, which machine may sit on it."""

from __future__ import annotations

from typing import Any

from chain import ChainError, TxOutcome
from deploy import calls
from deploy.calls import Call
from deploy.operator import arguments as read
from deploy.operator.session import Session
from deploy.operator.verbs import Options, Verbs


def add(verbs: Verbs) -> None:
    """Adds them."""
    verbs.call(
        "grant", lambda o: calls.grant_seat(o.wallet, o.weight),
        "as contract owner: grant a new seat to a wallet",
        ("WALLET", read.address), ("WEIGHT", read.weight), after=_granted,
    )  # fmt: skip
    verbs.call(
        "weight", lambda o: calls.set_weight(o.seat, o.weight),
        "as contract owner: change a seat's weight",
        ("SEAT", read.seat), ("WEIGHT", read.weight),
    )  # fmt: skip
    verbs.call(
        "burn", lambda o: calls.burn_seat(o.seat),
        "as contract owner: take a seat away for good", ("SEAT", read.seat),
    )  # fmt: skip
    verbs.call(
        "bind", lambda o: calls.bind_instance(o.seat, o.instance),
        "as seat owner: let an instance register on the seat (20 zero bytes: none any more)",
        ("SEAT", read.seat), ("INSTANCE", read.identifier),
    )  # fmt: skip
    verbs.call(
        "deactivate", lambda o: calls.deactivate(o.seat),
        "as owner of seat or contract, or guardian: take the node off a seat, at once",
        ("SEAT", read.seat),
    )  # fmt: skip
    verbs.call(
        "lift-suspension", lambda o: calls.lift_suspension(o.seat),
        "as contract owner: end the cool-down of a seat whose node was put out",
        ("SEAT", read.seat),
    )  # fmt: skip
    sweep = verbs.call(
        "sweep", None, "anybody: take out nodes whose lease, root or app ended", prepare=_sweep
    )
    sweep.add_argument("seats", type=read.seat, metavar="SEAT", nargs="*",
                       help="default: all active seats that may not speak any more")  # fmt: skip


async def _granted(session: Session, _: Options, outcome: TxOutcome) -> dict[str, Any]:
    return {"seat": await session.owner.granted_seat(outcome)}


async def _sweep(session: Session, options: Options) -> Call:
    if options.seats:
        return calls.sweep(options.seats)
    mute = (await session.membership()).mute()
    if not mute:
        raise ChainError("every active seat has a live lease, app and root: nothing to sweep")
    return calls.sweep(m.seat for m in mute)
