"""What a transaction would change for the cluster, in words, from the membership of now.

The weights are those of the registry. A running cluster follows it with its next epoch, so while
one is being changed its own set may be a step behind.
"""

from __future__ import annotations

from collections.abc import Callable

from chain import Membership
from deploy.calls import Call
from deploy.operator import effects_on_contracts as on_contracts
from deploy.operator import effects_on_seats as on_seats
from deploy.operator.wording import Effect


def effect_of(call: Call, now: Membership) -> Effect:
    """What the call would do to this membership, if the contract takes it."""
    describe = _describe(call)
    return Effect((call.function,)) if describe is None else describe(now, *call.values)


_DESCRIBE: dict[str, Callable[..., Effect]] = {
    "grantSeat": on_seats.grant,
    "setWeight": on_seats.weight,
    "deactivate": on_seats.deactivate,
    "burnSeat": on_seats.burn,
    "bindInstance": on_seats.bind,
    "sweep": on_seats.sweep,
    "allowApp": on_seats.allow_app,
    "certifyAppKey": on_seats.certify,
    "rotateRoot": on_seats.rotate,
    "revokeRoot": on_seats.revoke,
    "launch": on_contracts.launch,
    "setGuardian": on_contracts.guardian,
    "setLease": on_contracts.lease,
    "setTransfersAllowed": on_contracts.transfers,
    "pause": on_contracts.pause,
    "unpause": on_contracts.unpause,
    "transferOwnership": on_contracts.offer,
    "acceptOwnership": on_contracts.accept,
    "voteRecovery": on_seats.vote,
    "recover": on_seats.recover,
    "vetoRecovery": on_seats.veto,
    "Certificates.setPolicy": on_contracts.certificates_policy,
    "openFounding": on_contracts.founding,
    "openEpoch": on_contracts.epoch,
    "recordLeader": on_contracts.leader,
    "setClusterConfig": on_contracts.sale,
    "withdraw": on_contracts.withdraw,
    "disableUpgrades": on_contracts.disable_upgrades,
    "setCompanions": on_contracts.companions,
    "setMinter": on_contracts.minter,
    "liftSuspension": on_contracts.lift,
    "setPolicy": on_contracts.policy,
    "addComposeHash": on_contracts.rule("compose hash {} may boot"),
    "removeComposeHash": on_contracts.rule("compose hash {} may boot no longer, what runs goes on"),
    "addDevice": on_contracts.rule("device {} may boot"),
    "removeDevice": on_contracts.rule("device {} may boot no longer, what runs goes on"),
    "addOsImage": on_contracts.rule("OS image {} may boot"),
    "removeOsImage": on_contracts.rule("OS image {} may boot no longer, what runs goes on"),
    "setBootRules": on_contracts.boot_rules,
    "setAppAuth": on_contracts.rule("the owner of {} may change the lists of what boots"),
}


def _describe(call: Call) -> Callable[..., Effect] | None:
    """Contracts may have functions of the same name."""
    return _DESCRIBE.get(f"{call.contract}.{call.function}", _DESCRIBE.get(call.function))
