"""What an auditor wants to see of a registry, read at one finalized block.

Everything but the list of apps is read by agreement of the endpoints, members are proven. Which
apps were ever named stands in events alone: those of all endpoints are taken together, and each
app is asked about, so an app is hidden only if every endpoint hides it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from chain import Deployment, EvmRegistry, Membership, PolicyText
from chain.deployment import Placed
from chain.errors import BadChainData, ChainError
from chain.events import event_logs
from chain.headers import Header
from chain.rpc import RpcEndpoint
from contracts import artifact
from deploy.calls import APP, CERTIFICATES, PROXY, RULES
from deploy.contract import read_beside, verify_code
from deploy.operator.companions import look, runs
from deploy.operator.wording import NO_END_S, time_text

ROOTS_MAX = 1024
APPS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Root:
    """A KMS root: its epoch, 20-byte address, and the Unix second at which it ends."""

    epoch: int
    signer: bytes
    ends_s: int

    def state(self, now_s: int) -> str:
        """live, live until ..., ended ..., revoked."""
        if self.ends_s == 0:
            return "revoked, or ended at once"
        if self.ends_s >= NO_END_S:
            return "live"
        return f"{'live until' if now_s < self.ends_s else 'ended'} {time_text(self.ends_s)}"


@dataclass(frozen=True, slots=True)
class BootRules:
    """What the KMS asks of a machine before it gives it the app's keys; hashes are 32 bytes."""

    compose_hashes: tuple[bytes, ...]
    devices: tuple[bytes, ...]
    os_images: tuple[bytes, ...]
    any_device: bool
    up_to_date: bool
    seat: bool
    app_contract: bytes


@dataclass(frozen=True, slots=True)
class AppContract:
    """What an app contract of ours says of itself; addresses are bytes."""

    owner: bytes
    pending_owner: bytes
    registry: bytes
    is_locked: bool


@dataclass(frozen=True, slots=True)
class Beside:
    """A contract that the registry names: whether its code is this release's, and whether it is the
    one that was deployed with it."""

    placed: Placed
    code_is_this_release: bool
    as_deployed: bool

    def state(self) -> str:
        """In words."""
        code = (
            "this release's code" if self.code_is_this_release else "OTHER CODE than this release's"
        )
        return code if self.as_deployed else f"{code}; NAMED SINCE the deployment"


@dataclass(frozen=True, slots=True)
class Certified:
    """The contract of certificates: what follows from them, and the newest leadership shown."""

    deposal_suspends: bool
    conflict_suspends: bool
    deposal_s: int
    conflict_s: int
    seats_min: int
    epoch: int
    term: int
    leader: int  # seat; 0: none was shown


@dataclass(frozen=True, slots=True)
class Audit:
    """A registry at one block. Addresses and hashes are bytes."""

    deployment: Deployment
    membership: Membership
    quorum: str
    owner: bytes
    pending_owner: bytes
    guardian: bytes
    paused: bool
    lease_s: int
    transfers_allowed: bool
    max_seats: int
    seats_ever: int
    recovery_delay_s: int
    launched: tuple[int, int, bytes, int]  # block, version, digest, weight
    roots: tuple[Root, ...]
    apps: tuple[tuple[bytes, bool], ...]
    beside: tuple[Beside, ...]
    minter: tuple[bytes, int]
    boot: BootRules | None
    app: AppContract | None
    policy: PolicyText | None
    certified: Certified | None


async def audit(deployment: Deployment, registry: EvmRegistry) -> Audit:
    """Reads all of it.

    Raises:
        PinMismatch: the contract does not run the code of this release's artifact.
        ChainError: the endpoints do not agree.
    """
    await verify_code(registry)
    membership = await registry.snapshot()
    header = await registry.reader.header_at(membership.block_number)
    if header is None or header.hash != membership.block_hash:
        raise BadChainData(f"block {membership.block_number} is not what it was a moment ago")

    async def one(name: str) -> Any:
        return (await registry.call(name, at=header))[0]

    reader = registry.reader
    beside = await _beside_of(deployment, registry, header)
    at = {one.placed.name: one.placed.address for one in beside}
    boot = await _boot(registry, at.get(RULES), header)
    return Audit(
        deployment=deployment,
        membership=membership,
        quorum=f"{reader.quorum} of {len(reader.endpoints)}",
        owner=_address(await one("owner")),
        pending_owner=_address(await one("pendingOwner")),
        guardian=_address(await one("guardian")),
        paused=await one("paused"),
        lease_s=await one("leaseDuration"),
        transfers_allowed=await one("transfersAllowed"),
        max_seats=await one("maxSeats"),
        seats_ever=await one("seatCount"),
        recovery_delay_s=await one("recoveryDelay"),
        launched=await _launched(registry, header),
        roots=tuple(await read_roots(registry, header)),
        apps=tuple(await _apps(registry, header)),
        beside=beside,
        minter=await _minter(registry, header),
        boot=boot,
        app=None if boot is None else await _app(registry, boot.app_contract, header),
        policy=registry.policy,
        certified=await read_certified(registry, at.get(CERTIFICATES), header),
    )


async def read_roots(registry: EvmRegistry, header: Header) -> list[Root]:
    """All KMS roots there ever were, oldest first."""
    (newest,) = await registry.call("currentRootEpoch", at=header)
    if newest > ROOTS_MAX:
        raise BadChainData(f"more than {ROOTS_MAX} KMS roots")
    found = []
    for epoch in range(1, newest + 1):
        signer, ends_s = await registry.call("root", epoch, at=header)
        found.append(Root(epoch, _address(signer), ends_s))
    return found


async def _beside_of(
    deployment: Deployment, registry: EvmRegistry, header: Header
) -> tuple[Beside, ...]:
    found = []
    for placed in await read_beside(registry.reader, registry.contract, header):
        code = await registry.reader.code_at(placed.address, header)
        matches = artifact(placed.name).matches_code(code)
        found.append(Beside(placed, matches, placed in deployment.others))
    return tuple(found)


async def _minter(registry: EvmRegistry, header: Header) -> tuple[bytes, int]:
    minter, weight_max = await registry.call("minter", at=header)
    return _address(minter), weight_max


async def _boot(registry: EvmRegistry, rules: bytes | None, header: Header) -> BootRules | None:
    if rules is None:
        return None
    found = {}
    for name in ("composeHashes", "deviceIds", "osImageHashes", "allowAnyDevice",
                 "requireUpToDate", "requireSeat", "appAuth"):  # fmt: skip
        (found[name],) = await look(registry, RULES, rules, name, header)
    return BootRules(
        compose_hashes=tuple(sorted(found["composeHashes"])),
        devices=tuple(sorted(found["deviceIds"])),
        os_images=tuple(sorted(found["osImageHashes"])),
        any_device=found["allowAnyDevice"],
        up_to_date=found["requireUpToDate"],
        seat=found["requireSeat"],
        app_contract=_address(found["appAuth"]),
    )


async def _app(registry: EvmRegistry, address: bytes, header: Header) -> AppContract | None:
    if not await runs(registry, address, PROXY, header):
        return None

    async def one(name: str) -> Any:
        return (await look(registry, APP, address, name, header))[0]

    return AppContract(
        _address(await one("owner")), _address(await one("pendingOwner")),
        _address(await one("registry")), await one("upgradesDisabled"),
    )  # fmt: skip


async def read_certified(
    registry: EvmRegistry, address: bytes | None, header: Header
) -> Certified | None:
    """What the contract of certificates (20-byte address) says; None without one."""
    if address is None:
        return None
    (policy,) = await look(registry, CERTIFICATES, address, "policy", header)
    deposal, conflict, deposal_s, conflict_s, seats_min = policy
    epoch, term, _index, leader, _block = await look(
        registry, CERTIFICATES, address, "leader", header
    )
    return Certified(
        deposal == 1, conflict == 1, deposal_s, conflict_s, seats_min, epoch, term, leader
    )


async def _launched(registry: EvmRegistry, header: Header) -> tuple[int, int, bytes, int]:
    block_number, version, digest, weight = await registry.call("launched", at=header)
    return block_number, version, digest, weight


async def _apps(registry: EvmRegistry, header: Header) -> list[tuple[bytes, bool]]:
    event = registry.abi.event("AppAllowed")

    async def ask(endpoint: RpcEndpoint) -> frozenset[bytes]:
        logs = await event_logs(
            endpoint, registry.contract, event.topic, registry.history.deploy_block, header.number
        )
        return frozenset(event.decode(log.topics, log.data)["appId"] for log in logs)

    answers = await registry.reader.ask_all(ask)
    sets = [answer for _, answer in answers if isinstance(answer, frozenset)]
    if not sets:
        raise ChainError("no endpoint gives the events that name the allowed apps")
    named = sorted(frozenset().union(*sets))
    if len(named) > APPS_MAX:
        raise BadChainData(f"more than {APPS_MAX} apps are named")
    return [(app, (await registry.call("allowedApp", app, at=header))[0]) for app in named]


def _address(text: str) -> bytes:
    return bytes.fromhex(text[2:])
