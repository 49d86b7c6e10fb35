"""Verbs about whom the registry believes: apps, KMS roots, app keys."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attest import (
    SignatureChainError,
    TrustedRoot,
    compressed_to_xy,
    to_evm_signature,
    verify_chain,
)
from chain import ChainConfigError, Deployment, TxOutcome, write_deployment
from deploy import calls
from deploy.calls import Call
from deploy.contract import check_root
from deploy.operator import arguments as read
from deploy.operator.audit import read_roots
from deploy.operator.session import Session
from deploy.operator.verbs import Options, Verbs
from node.cli_chain import read_proof
from node.cli_talk import Failed

GRACE_S = 7 * 24 * 3600


def add(verbs: Verbs) -> None:
    """Adds them."""
    verbs.call(
        "allow-app", lambda o: calls.allow_app(o.app),
        "as contract owner: let nodes of an app in", ("APP", read.identifier),
    )  # fmt: skip
    verbs.call(
        "disallow-app", lambda o: calls.allow_app(o.app, False),
        "as contract owner: let nodes of an app in no longer", ("APP", read.identifier),
    )  # fmt: skip
    verbs.call(
        "certify", None,
        "anybody: record that a KMS root vouches for an app key, from a signature chain's file",
        ("FILE", str), prepare=_certify,
    )  # fmt: skip
    root = verbs.group("root", "the KMS roots that app keys descend from")
    rotate = root.call(
        "rotate", None, "as contract owner: a new root; the one before ends after a grace",
        ("NEW", read.address), prepare=_rotate, after=_rotated,
    )  # fmt: skip
    rotate.add_argument("--grace-s", type=read.seconds, default=GRACE_S, metavar="SECONDS",
                        help="how long the root before stays live; default: 7 days")  # fmt: skip
    rotate.add_argument("--insecure-simulator", action="store_true",
                        help="allow a root whose key is public")  # fmt: skip
    root.call(
        "revoke", lambda o: calls.revoke_root(o.epoch),
        "as guardian or owner: end a root at once, with all its nodes",
        ("EPOCH", read.number), after=_revoked,
    )  # fmt: skip


async def _rotate(session: Session, options: Options) -> Call:
    check_root(options.new, insecure_simulator=options.insecure_simulator)
    if len(session.deployment.kms_roots) >= 16 and options.new not in session.deployment.kms_roots:
        raise ChainConfigError("a deployment has at most 16 roots: take old ones out of its file")
    header = await session.registry.finalized()
    # 0 ends it whatever the time is when the transaction is mined.
    grace_until_s = header.time_s + options.grace_s if options.grace_s else 0
    return calls.rotate_root(options.new, grace_until_s)


async def _rotated(session: Session, options: Options, _: TxOutcome) -> dict[str, Any]:
    """The deployment file follows; nodes get it from the operator, as it is measured."""
    roots = [r for r in session.deployment.kms_roots if r != options.new]
    insecure = session.deployment.insecure
    if options.insecure_simulator and "simulator" not in insecure:
        insecure = (*insecure, "simulator")
    changed = replace(session.deployment, kms_roots=(*roots, options.new), insecure=insecure)
    return await _rewrite(session, changed)


async def _revoked(session: Session, options: Options, _: TxOutcome) -> dict[str, Any]:
    header = await session.registry.finalized()
    roots = await read_roots(session.registry, header)
    live = {r.signer for r in roots if r.epoch != options.epoch and r.ends_s > header.time_s}
    kept = tuple(root for root in session.deployment.kms_roots if root in live)
    if not kept:  # a deployment without a root cannot be; a rotation must follow
        return {"note": "no root is left: rotate to a new one"}
    return await _rewrite(session, replace(session.deployment, kms_roots=kept))


async def _certify(session: Session, options: Options) -> Call:
    """The chain is verified here as the contract will: a wrong one costs nothing."""
    try:
        proof = read_proof(options.file)
    except Failed as failed:
        raise ChainConfigError(str(failed)) from None
    header = await session.registry.finalized()
    roots = [
        TrustedRoot(r.signer, r.epoch)
        for r in await read_roots(session.registry, header)
        if r.ends_s > header.time_s
    ]
    try:
        chain = verify_chain(
            proof, purpose=proof.purpose, app_id=proof.app_id, roots=roots, now_s=header.time_s,
            insecure_simulator="simulator" in session.deployment.insecure,
        )  # fmt: skip
    except SignatureChainError as error:
        raise ChainConfigError(f"{options.file}: {error}") from None
    return calls.certify_app_key(
        proof.app_id, compressed_to_xy(chain.app_key), to_evm_signature(proof.kms_signature),
        chain.root_epoch,
    )  # fmt: skip


async def _rewrite(session: Session, changed: Deployment) -> dict[str, Any]:
    await write_deployment(session.file, changed)
    return {"note": f"{session.file} lists the roots of now: give it to the nodes"}
