"""``contract deploy``: a registry and its deployment file; ``contract show``: what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chain import ChainConfigError
from chain.deployment import write_deployment
from chain.fees import ether
from chain.journal import OPEN_STATES
from chain.transactions import contract_address
from deploy.contract import (
    LEASE_S,
    MAX_SEATS,
    RECOVERY_DELAY_S,
    Founding,
    deploy_registry,
    earlier_deployment,
    open_owner_sender,
)
from deploy.operator import arguments as read
from deploy.operator.audit import audit
from deploy.operator.audit_view import as_json, as_lines
from deploy.operator.keys import OnlyLooking, open_key
from deploy.operator.plan import priced
from deploy.operator.session import journal_path, open_looking, policy, quorum
from deploy.operator.verbs import EXIT_WOULD_FAIL, Answer, Options, Verbs
from deploy.operator.wording import plain


def add(verbs: Verbs) -> None:
    """Adds them."""
    deploy = verbs.act("deploy", _deploy, "deploy a registry and write its deployment file")
    deploy.add_argument("--chain-id", type=read.number, required=True)
    deploy.add_argument("--kms-root", type=read.address, required=True, metavar="ADDRESS",
                        help="address of the KMS root key that app keys descend from")  # fmt: skip
    deploy.add_argument("--owner", type=read.address, metavar="ADDRESS",
                        help="a timelock or Safe is recommended; default: the key")  # fmt: skip
    deploy.add_argument("--guardian", type=read.address, metavar="ADDRESS",
                        help="may only take away; default: the key")  # fmt: skip
    deploy.add_argument("--max-seats", type=read.weight, default=MAX_SEATS)
    deploy.add_argument("--lease-s", type=read.seconds, default=LEASE_S)
    deploy.add_argument("--recovery-delay-s", type=read.seconds, default=RECOVERY_DELAY_S)
    deploy.add_argument("--insecure-simulator", action="store_true",
                        help="allow a KMS root whose key is public")  # fmt: skip
    verbs.look("show", _show, "everything about the registry at one finalized block")


async def _show(options: Options) -> Answer:
    async with open_looking(options) as (deployment, registry):
        seen = await audit(deployment, registry)
    return Answer(as_json(seen), as_lines(seen))


async def _deploy(options: Options) -> Answer:
    file: Path = options.deployment
    _check_place(file)
    founding = Founding(
        options.kms_root, options.guardian, options.owner, options.max_seats, options.lease_s,
        options.recovery_delay_s, options.insecure_simulator,
    )  # fmt: skip
    key = open_key(options)
    if options.yes and isinstance(key, OnlyLooking):
        raise ChainConfigError("--from only plans: there is no key to sign with")
    code = founding.creation_code(key.address)
    sender = open_owner_sender(
        options.chain_id, options.rpc, quorum(options), key,
        journal_path=journal_path(file, key), single_rpc_insecure=options.single_rpc_insecure,
        policy=policy(options),
    )  # fmt: skip
    try:
        fields, lines = _terms(founding, key.address)
        done = earlier_deployment(sender, founding)
        if done is not None:
            contract = plain(contract_address(key.address, done.nonce))
            fields |= {"nonce": done.nonce, "contract": contract, "gas": 0}
            lines.append(f"before   {contract} was deployed in block {done.block_number}, but not"
                         " written down: nothing is sent again")  # fmt: skip
        elif any(entry["state"] in OPEN_STATES for entry in sender.status()):
            lines.append("before   a deployment that was broken off goes on")
        else:
            can_sign = not isinstance(key, OnlyLooking)
            estimate, refusal = await priced(sender, b"", code, must_pay=can_sign)
            if estimate is None or refusal:
                fields |= {"would": "fail", "reason": refusal}
                return Answer(fields, [*lines, f"FAILS    {refusal}", "nothing was sent"],
                              EXIT_WOULD_FAIL)  # fmt: skip
            nonce = await sender.next_nonce()
            fields |= {
                "nonce": nonce,
                "gas": estimate.gas,
                "cost_max_wei": str(estimate.cost_max),
                "cost_max_eth": ether(estimate.cost_max),
                "contract": plain(contract_address(key.address, nonce)),
            }
            lines.append(f"cost     at most {fields['cost_max_eth']} ETH: {estimate.gas} gas")
            lines.append(f"address  {fields['contract']}")
        if not options.yes:
            return Answer(fields, [*lines, "it would work; --yes sends it"])
        deployment = await deploy_registry(sender, founding)
    finally:
        await sender.reader.aclose()
    await write_deployment(file, deployment)
    fields |= {
        "sent": True,
        "contract": plain(deployment.contract),
        "block": deployment.deploy_block,
        "code_hash": plain(deployment.code_hash),
        "file": str(file),
    }
    lines += [
        f"deployed {fields['contract']}, in block {deployment.deploy_block}, final",
        f"wrote    {file}: give it to every node ([chain] deployment)",
    ]
    return Answer(fields, lines)


def _check_place(file: Path) -> None:
    if file.exists():
        raise ChainConfigError(f"{file} is there already: a deployment is made once")
    if not file.absolute().parent.is_dir():
        raise ChainConfigError(f"there is no folder for {file}")


def _terms(founding: Founding, sender: bytes) -> tuple[dict[str, Any], list[str]]:
    owner, guardian = founding.owner or sender, founding.guardian or sender
    fields: dict[str, Any] = {
        "sent": False,
        "would": "work",
        "reason": None,
        "from": plain(sender),
        "owner": plain(owner),
        "guardian": plain(guardian),
        "kms_root": plain(founding.kms_root),
        "max_seats": founding.max_seats,
        "lease_s": founding.lease_s,
        "recovery_delay_s": founding.recovery_delay_s,
    }
    lines = [
        f"from     0x{sender.hex()}",
        f"owner    0x{owner.hex()}",
        f"guardian 0x{guardian.hex()}",
        f"kms root 0x{founding.kms_root.hex()}",
        f"terms    at most {founding.max_seats} seats, lease {founding.lease_s} s,"
        f" recovery delay {founding.recovery_delay_s} s",
    ]
    warnings = []
    if guardian == owner:
        warnings.append("owner and guardian are one key: who steals it has both")
    if founding.recovery_delay_s < 3600:
        warnings.append("nobody can object to a recovery in less than an hour")
    fields["warnings"] = warnings
    return fields, lines + [f"WARNING  {text}" for text in warnings]
