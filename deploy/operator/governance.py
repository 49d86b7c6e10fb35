"""Verbs about the contract itself: launch, guardian, lease, transfers, pause, and its owner."""

from __future__ import annotations

from chain import ChainConfigError
from deploy import calls
from deploy.calls import Call
from deploy.operator import arguments as read
from deploy.operator.session import Session
from deploy.operator.verbs import Options, Verbs


def add(verbs: Verbs) -> None:
    """Adds them."""
    launch = verbs.call(
        "launch", None, "as contract owner: fix the active seats as the set of epoch 0, once",
        prepare=_launch,
    )  # fmt: skip
    launch.add_argument(
        "--founders", type=read.hash32, metavar="DIGEST",
        help="the founders that a plan showed, these or none; needed with --yes",
    )  # fmt: skip
    verbs.call(
        "guardian", lambda o: calls.set_guardian(o.guardian),
        "as contract owner: name the guardian", ("GUARDIAN", read.address),
    )  # fmt: skip
    verbs.call(
        "lease", lambda o: calls.set_lease(o.seconds),
        "as contract owner: how long a registration is good for without renewal",
        ("SECONDS", read.seconds),
    )  # fmt: skip
    verbs.call(
        "transfers", lambda o: calls.set_transfers_allowed(o.switch),
        "as contract owner: whether seats may change hands", ("SWITCH", read.switch),
    )  # fmt: skip
    verbs.call(
        "pause", lambda o: calls.pause(), "as guardian or owner: stop registrations and renewals"
    )
    verbs.call("unpause", lambda o: calls.unpause(), "as contract owner: end a pause")
    verbs.call(
        "companions", lambda o: calls.set_companions(o.rules, o.certificates),
        "as contract owner: the contracts of rules and certificates in force (0: none)",
        ("RULES", read.address_or_none), ("CERTIFICATES", read.address_or_none),
    )  # fmt: skip
    owner = verbs.group("owner", "hand the contract over, in two steps")
    owner.call(
        "transfer", lambda o: calls.transfer_ownership(o.owner),
        "as contract owner: offer the contract to an address", ("OWNER", read.address),
    )  # fmt: skip
    owner.call(
        "accept", lambda o: calls.accept_ownership(),
        "as the one it was offered to: take the contract over",
    )  # fmt: skip


async def _launch(session: Session, options: Options) -> Call:
    """Whoever is ACTIVE in its block founds the cluster: only those whom somebody looked at."""
    if options.founders is not None:
        return calls.launch(options.founders)
    if options.yes:
        raise ChainConfigError(
            "launch --yes needs --founders: plan it first, look at the seats, and say the digest"
            " that the plan shows"
        )
    change = (await session.membership()).last_change
    return calls.launch(bytes(32) if change is None else change.digest)
