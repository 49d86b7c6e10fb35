"""Deploys what is attacked: ours as the operator's command does, and the flawed contracts."""

from __future__ import annotations

from chain.rpc import RpcEndpoint
from deploy.contract import Creation, Founding
from tests.integration.anvil_chain import KMS, address
from tests.integration.attacks.compiling import Compiled
from tests.integration.attacks.target import (
    ABIS,
    GUARDIAN,
    LEASE_S,
    MAX_SEATS,
    OWNER,
    RECOVERY_DELAY_S,
    Target,
    founding_values,
    hexed,
)


async def our_contracts(rpc: RpcEndpoint, root: bytes = address(KMS)) -> Target:
    """What ``contract deploy`` makes, with a mint and an app beside it, closed as at first."""
    target = Target(rpc, True, {})
    founding = Founding(
        root, GUARDIAN.address, OWNER.address, MAX_SEATS, LEASE_S, RECOVERY_DELAY_S,
        insecure_simulator=True,
    )  # fmt: skip
    target.at["registry"] = await _created(target, founding.creation_code(OWNER.address))
    for role in ("rules", "certificates"):
        target.at[role] = bytes.fromhex((await target.view(role))[2:])
    registry = hexed(target.contract)
    target.at["mint"] = await _created(target, Creation("PublicMint", (registry,)).code())
    code = hexed(await _created(target, Creation("AppAuth").code()))
    first = ABIS["app"].function("initialize").encode(hexed(OWNER.address), registry)
    target.at["app"] = await _created(target, Creation("AppProxy", (code, first)).code())
    return target


async def flawed_contract(
    rpc: RpcEndpoint, compiled: Compiled, name: str, root: bytes = address(KMS)
) -> Target:
    target = Target(rpc, False, {})
    made = await _created(target, compiled.creation_code(name, *founding_values(root)))
    target.at |= dict.fromkeys(ABIS, made)
    return target


async def _created(target: Target, code: bytes) -> bytes:
    made = await target.create(code)
    assert isinstance(made, bytes), made
    return made
