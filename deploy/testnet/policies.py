"""The attestation policy of a testnet: what its members take, set on the chain at any time."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from deploy.simulator import Faults, read_kms_root
from deploy.simulator.accepting import policy_text
from deploy.simulator.attester import Attester
from deploy.simulator.methods import DEFAULT_APP_COMPOSE
from deploy.simulator.tdx_collateral import TCB_LEVELS

from . import changes
from .layout import Testnet, TestnetError

RENEWAL_S = 60  # faults of running machines should show while somebody looks
ORIGINAL = "original"  # the app compose of a machine without faults


def text(
    testnet: Testnet,
    *,
    composes: Iterable[str] = (ORIGINAL,),
    statuses: Iterable[str] = (),
) -> bytes:
    """The policy that takes machines with these app composes, named as in ``testnet fault``.

    They must be up to date, or at one of ``statuses``, whose advisories are accepted then.
    Raises TestnetError.
    """
    machine = Attester(
        read_kms_root(str(testnet.kms_root_file)),
        seed=bytes.fromhex(testnet.nodes[0].instance_seed),
        app_id=bytes.fromhex(testnet.app_id),
        app_compose=DEFAULT_APP_COMPOSE,
    ).machine()
    levels = {level.status: level for level in TCB_LEVELS if level.status != "Revoked"}
    accepted = ["UpToDate", *statuses]
    strange = [status for status in accepted if status not in levels]
    if strange:
        raise TestnetError(f"a policy cannot accept {strange[0]!r}, only {', '.join(levels)}")
    try:
        variants = [
            Faults(compose="" if name == ORIGINAL else name).applied_to(machine)
            for name in composes
        ]
    except ValueError as error:
        raise TestnetError(str(error)) from None
    return policy_text(
        variants,
        renewal_s=RENEWAL_S,
        tcb_statuses=dict.fromkeys(accepted),
        advisories={name for status in accepted for name in levels[status].advisories},
    )


async def put_in_force(directory: Path, policy: bytes, deadline_s: float) -> None:
    """Set this policy on the chain; the members follow when it is final."""
    async with changes.changing(directory, deadline_s) as (_, desk):
        await desk.set_policy(policy)
