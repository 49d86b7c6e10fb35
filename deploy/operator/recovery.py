"""Verbs for a cluster that lost its quorum for good."""

from __future__ import annotations

from deploy import calls
from deploy.operator import arguments as read
from deploy.operator.verbs import Verbs


def add(verbs: Verbs) -> None:
    """Adds them."""
    where = (("EPOCH", read.number), ("HEIGHT", read.number), ("HASH", read.hash32))
    verbs.call(
        "recovery-vote", lambda o: calls.vote_recovery(o.seat, o.epoch, o.height, o.hash),
        "as seat owner: vote that EPOCH goes on at the cluster's block HEIGHT, HASH (epoch 0: no);"
        " EPOCH is what `status` of a node calls membership.recovery_epoch",
        ("SEAT", read.seat), *where,
    )  # fmt: skip
    verbs.call(
        "recovery-advance", lambda o: calls.recover(o.epoch, o.height, o.hash, o.seats),
        "anybody: announce what these seats voted for; after the delay, open it",
        *where, ("SEATS...", read.seat),
    )  # fmt: skip
    verbs.call(
        "recovery-veto", lambda o: calls.veto_recovery(),
        "as guardian or owner: void all votes for a recovery",
    )  # fmt: skip
