"""What one command works with: the deployment, its registry, and the key that acts."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from chain import Deployment, EvmRegistry, FeePolicy, Membership, read_deployment
from chain.fees import GWEI
from chain.keys import PayingSigner
from deploy.contract import RegistryOwner, open_owner_sender, open_registry, verify_code
from deploy.operator import arguments as read
from deploy.operator.companions import companions
from deploy.operator.endpoints import endpoint
from deploy.operator.keys import OnlyLooking, open_key

DEPLOYMENT_FILE = Path("deployment.json")


@dataclass(frozen=True, slots=True)
class Session:
    """A registry and the owner's key; ``can_sign`` is False when there is only an address."""

    file: Path
    deployment: Deployment
    registry: EvmRegistry
    owner: RegistryOwner
    can_sign: bool

    async def membership(self) -> Membership:
        """The membership at the newest finalized block, the contract's code checked there."""
        await verify_code(self.registry)
        return await self.registry.snapshot()


def add_chain_arguments(parser: argparse.ArgumentParser) -> None:
    """How the chain is reached."""
    group = parser.add_argument_group("the chain")
    group.add_argument(
        "--deployment", type=Path, default=DEPLOYMENT_FILE, metavar="FILE",
        help=f"what contract deploy wrote; default: {DEPLOYMENT_FILE}",
    )  # fmt: skip
    group.add_argument("--rpc", type=endpoint, action="append", required=True,
                       metavar="URL|env:NAME|file:PATH",
                       help="an endpoint; give several that nobody runs together. One with an API"
                       " key is named, not given: arguments are in the process list")  # fmt: skip
    group.add_argument("--quorum", type=read.positive, metavar="K",
                       help="endpoints that must agree; default: more than half")  # fmt: skip
    group.add_argument("--single-rpc-insecure", action="store_true",
                       help="development: believe one endpoint")  # fmt: skip


def add_sending_arguments(parser: argparse.ArgumentParser) -> None:
    """Whether and how dearly it is sent."""
    group = parser.add_argument_group("sending")
    group.add_argument("--yes", action="store_true", help="send it; without, only plan")
    group.add_argument("--final", action="store_true", help="wait until it is final")
    group.add_argument("--max-fee-gwei", type=read.positive, default=200, metavar="GWEI",
                       help="pay no more per gas; default: 200")  # fmt: skip


def quorum(options: argparse.Namespace) -> int:
    """How many endpoints must agree."""
    return options.quorum or len(options.rpc) // 2 + 1


def policy(options: argparse.Namespace) -> FeePolicy:
    """What the key may spend."""
    return FeePolicy(fee_ceiling=options.max_fee_gwei * GWEI)


def journal_path(deployment_file: Path, key: PayingSigner) -> Path:
    """Where the key's transactions are kept until their fate is known: beside the deployment."""
    return deployment_file.with_name(f"{deployment_file.stem}-{key.address.hex()[:8]}.journal")


@asynccontextmanager
async def open_looking(
    options: argparse.Namespace,
) -> AsyncIterator[tuple[Deployment, EvmRegistry]]:
    """The registry of the deployment file, to look at."""
    deployment = read_deployment(options.deployment)
    registry = open_registry(
        deployment, options.rpc, quorum(options), single_rpc_insecure=options.single_rpc_insecure
    )
    try:
        yield deployment, registry
    finally:
        await registry.reader.aclose()


@asynccontextmanager
async def open_session(options: argparse.Namespace) -> AsyncIterator[Session]:
    """The registry of the deployment file, and the key of the options."""
    async with open_looking(options) as (deployment, registry):
        key = open_key(options)
        sender = open_owner_sender(
            deployment.chain_id, options.rpc, quorum(options), key,
            journal_path=journal_path(options.deployment, key),
            single_rpc_insecure=options.single_rpc_insecure, policy=policy(options),
        )  # fmt: skip
        try:
            owner = RegistryOwner(sender, deployment.contract, await companions(registry))
            can_sign = not isinstance(key, OnlyLooking)
            yield Session(options.deployment, deployment, registry, owner, can_sign)
        finally:
            await sender.reader.aclose()
