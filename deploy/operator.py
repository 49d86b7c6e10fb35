"""``dstack-cluster contract``: the registry, for those who own it or a seat in it.

Every verb is one transaction or one look. A transaction's verb ends when it is in a block
(``--final``: when that block is final, which takes minutes on real chains); nodes act on what is
final, so watch the change arrive with ``dstack-cluster status``.
"""

from __future__ import annotations

import argparse
import json
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from chain import (
    ChainError,
    Deployment,
    LocalKey,
    Membership,
    MemberStatus,
    read_deployment,
    write_deployment,
)
from chain.errors import ChainConfigError
from deploy import calls
from deploy.contract import (
    LEASE_S,
    MAX_SEATS,
    RECOVERY_DELAY_S,
    RegistryOwner,
    deploy_registry,
    open_owner_sender,
    open_registry,
    verify_code,
)
from node.logs import configure_command_logging

PROGRAM = "dstack-cluster contract"
KEY_FILE_BYTES_MAX = 100

Options = argparse.Namespace
Act = Callable[[RegistryOwner, Options], Awaitable[dict[str, Any]]]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    options = _parser().parse_args(argv)
    configure_command_logging()
    try:
        found: dict[str, Any] = trio.run(options.verb, options)
    except (ChainError, OSError, ValueError) as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(found))
    elif "lines" in found:
        print("\n".join(found["lines"]))
    else:
        print(", ".join(f"{name} {value}" for name, value in found.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="The registry of a cluster.")
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(
        name: str, run: Callable[[Options], Awaitable[dict[str, Any]]], text: str, key: bool = True
    ) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, help=text, description=text)
        sub.set_defaults(verb=run)
        sub.add_argument("--deployment", type=Path, required=True, metavar="FILE")
        sub.add_argument("--rpc", action="append", required=True, metavar="URL")
        sub.add_argument("--quorum", type=int, help="RPC endpoints that must agree; default: most")
        sub.add_argument("--single-rpc-insecure", action="store_true")
        sub.add_argument("--json", action="store_true")
        if key:
            sub.add_argument(
                "--key-file", type=Path, required=True, metavar="FILE",
                help="32 bytes in hex, readable by its owner alone",
            )  # fmt: skip
            sub.add_argument("--final", action="store_true", help="wait until it is final")
        return sub

    deploy = verb("deploy", _deploy, "deploy a registry; writes the deployment file")
    deploy.add_argument("--chain-id", type=int, required=True)
    deploy.add_argument("--kms-root", type=_address, required=True, metavar="ADDRESS")
    deploy.add_argument("--owner", type=_address, metavar="ADDRESS")
    deploy.add_argument("--guardian", type=_address, metavar="ADDRESS")
    deploy.add_argument("--max-seats", type=int, default=MAX_SEATS)
    deploy.add_argument("--lease-s", type=int, default=LEASE_S)
    deploy.add_argument("--recovery-delay-s", type=int, default=RECOVERY_DELAY_S)
    deploy.add_argument("--insecure-simulator", action="store_true")

    verb("members", _members, "all seats, as the finalized registry has them", key=False)

    def act(name: str, run: Act, text: str, *arguments: tuple[str, Any]) -> None:
        sub = verb(name, _transaction(run), text)
        for argument, kind in arguments:
            several = argument.endswith("S")
            sub.add_argument(argument.lower(), type=kind, metavar=argument,
                             **({"nargs": "+"} if several else {}))  # fmt: skip

    act(
        "allow-app",
        lambda o, a: _sent(o.send(calls.allow_app(a.app))),
        "allow an app",
        ("APP", _address),
    )
    act("grant", _grant, "grant a new seat to a wallet", ("WALLET", _address), ("WEIGHT", int))
    act("bind", lambda o, a: _sent(o.send(calls.bind_instance(a.seat, a.instance))),
        "as seat owner: let an instance register",
        ("SEAT", int), ("INSTANCE", _address))  # fmt: skip
    act("weigh", lambda o, a: _sent(o.send(calls.set_weight(a.seat, a.weight))),
        "change a seat's weight", ("SEAT", int), ("WEIGHT", int))  # fmt: skip
    act("deactivate", lambda o, a: _sent(o.send(calls.deactivate(a.seat))),
        "take the node off a seat, at once", ("SEAT", int))  # fmt: skip
    act(
        "burn",
        lambda o, a: _sent(o.send(calls.burn_seat(a.seat))),
        "take a seat away",
        ("SEAT", int),
    )
    act("sweep", lambda o, a: _sent(o.send(calls.sweep(a.seats))),
        "take out nodes whose lease, root or app ended", ("SEATS", int))  # fmt: skip
    act(
        "launch",
        lambda o, a: _sent(o.send(calls.launch())),
        "fix the active seats as epoch 0, once",
    )
    act("revoke-root", lambda o, a: _sent(o.send(calls.revoke_root(a.root))),
        "as guardian: end a KMS root, at once", ("ROOT", int))  # fmt: skip

    where = (("EPOCH", int), ("HEIGHT", int), ("HASH", _hash))
    act("recovery-vote",
        lambda o, a: _sent(o.send(calls.vote_recovery(a.seat, a.epoch, a.height, a.hash))),
        "as seat owner, for a cluster without a quorum: go on in EPOCH on its block HEIGHT, HASH",
        ("SEAT", int), *where)  # fmt: skip
    act("recovery-advance",
        lambda o, a: _sent(o.send(calls.recover(a.epoch, a.height, a.hash, a.seats))),
        "announce what these seats voted for; after the delay, open it",
        *where, ("SEATS", int))  # fmt: skip
    act(
        "recovery-veto",
        lambda o, a: _sent(o.send(calls.veto_recovery())),
        "void all votes for a recovery",
    )
    return parser


# --- verbs ------------------------------------------------------------------------------------


async def _deploy(options: Options) -> dict[str, Any]:
    sender = open_owner_sender(
        options.chain_id, options.rpc, _quorum(options), _key(options.key_file),
        single_rpc_insecure=options.single_rpc_insecure,
    )  # fmt: skip
    try:
        deployment = await deploy_registry(
            sender, kms_root=options.kms_root, guardian=options.guardian, owner=options.owner,
            max_seats=options.max_seats, lease_s=options.lease_s,
            recovery_delay_s=options.recovery_delay_s,
            insecure_simulator=options.insecure_simulator,
        )  # fmt: skip
    finally:
        await sender.reader.aclose()
    await write_deployment(options.deployment, deployment)
    return {"contract": "0x" + deployment.contract.hex(), "block": deployment.deploy_block}


async def _members(options: Options) -> dict[str, Any]:
    deployment = read_deployment(options.deployment)
    registry = open_registry(
        deployment, options.rpc, _quorum(options), single_rpc_insecure=options.single_rpc_insecure
    )
    try:
        await verify_code(registry)
        found = await registry.snapshot()
    finally:
        await registry.reader.aclose()
    if options.json:
        return {
            "block": found.block_number,
            "members": [_row(found, m.seat) for m in found.members],
        }
    return {"lines": _table(found)}


def _transaction(run: Act) -> Callable[[Options], Awaitable[dict[str, Any]]]:
    async def verb(options: Options) -> dict[str, Any]:
        async with _owner(options) as owner:
            found = await run(owner, options)
            if options.final:
                await owner.wait_final()
        return found

    return verb


async def _grant(owner: RegistryOwner, options: Options) -> dict[str, Any]:
    return {"seat": await owner.grant_seat(options.wallet, options.weight)}


async def _sent(sending: Awaitable[Any]) -> dict[str, Any]:
    (outcome,) = await sending
    return {"transaction": "0x" + outcome.tx_hash.hex(), "block": outcome.block_number}


# --- parts ------------------------------------------------------------------------------------


@asynccontextmanager
async def _owner(options: Options) -> AsyncIterator[RegistryOwner]:
    deployment: Deployment = read_deployment(options.deployment)
    sender = open_owner_sender(
        deployment.chain_id, options.rpc, _quorum(options), _key(options.key_file),
        single_rpc_insecure=options.single_rpc_insecure,
    )  # fmt: skip
    try:
        yield RegistryOwner(sender, deployment.contract)
    finally:
        await sender.reader.aclose()


def _quorum(options: Options) -> int:
    return options.quorum or len(options.rpc) // 2 + 1


def _key(path: Path) -> LocalKey:
    """A secret from a file that nobody else may read."""
    mode = path.stat().st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ChainConfigError(f"{path} is open to others (mode {stat.S_IMODE(mode):o}): chmod 600")
    with path.open("rb") as file:
        text = file.read(KEY_FILE_BYTES_MAX).decode("ascii", "replace").strip()
    try:
        return LocalKey(bytes.fromhex(text.removeprefix("0x")))
    except ValueError:
        raise ChainConfigError(f"{path} holds no secret of 32 bytes in hex") from None


def _row(membership: Membership, seat: int) -> dict[str, Any]:
    m = membership.member(seat)
    assert m is not None
    return {
        "seat": m.seat,
        "weight": m.weight,
        "status": m.status.name.lower(),
        "speaks": membership.speaks(m.seat, m.node_key),
        "owner": "0x" + m.owner.hex(),
        "instance": "0x" + m.instance_id.hex(),
        "node_key": m.node_key.hex(),
        "endpoint": m.endpoint,
        "lease_left_s": max(0, m.lease_expires_s - membership.block_time_s)
        if m.status is MemberStatus.ACTIVE
        else 0,
    }


def _table(found: Membership) -> list[str]:
    lines = [f"registry version {found.version} at finalized block {found.block_number}"]
    if found.last_change is not None:
        lines[0] += f"; who votes changed last at block {found.last_change.block_number}"
    lines.append(f"{'seat':>5} {'weight':>8} {'status':<9} {'lease':>7}  owner, endpoint")
    for m in found.members:
        row = _row(found, m.seat)
        mute = "" if row["speaks"] or m.status is not MemberStatus.ACTIVE else " (may not speak)"
        lines.append(
            f"{m.seat:>5} {m.weight:>8} {row['status']:<9} {row['lease_left_s'] // 3600:>6}h"
            f"  {row['owner']} {m.endpoint}{mute}"
        )
    pending = found.pending_recovery
    if pending is not None:
        lines.append(
            f"RECOVERY announced: epoch {pending.epoch} on height {pending.height}, block"
            f" 0x{pending.block_hash.hex()}, opens from {pending.ready_at_s} (Unix seconds)"
        )
    return lines


def _bytes(text: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        value = b""
    if len(value) != size:
        raise argparse.ArgumentTypeError(f"expected {size} bytes in hex, got {text!r}")
    return value


def _address(text: str) -> bytes:
    return _bytes(text, 20)


def _hash(text: str) -> bytes:
    return _bytes(text, 32)


if __name__ == "__main__":
    sys.exit(main())
