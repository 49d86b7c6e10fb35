"""Verbs about what may run: the attestation policy that members read, and the rules for boots."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from attest import PolicyError, parse_policy
from attest.bounded_json import parse_json
from attest.policy import POLICY_BYTES_MAX
from chain import ChainConfigError, ChainError
from deploy import calls
from deploy.calls import RULE_KINDS, RULES, Call
from deploy.operator import arguments as read
from deploy.operator.session import Session, open_looking
from deploy.operator.verbs import Answer, Options, Verbs


def add(verbs: Verbs) -> None:
    """Adds them."""
    policy = verbs.group("policy", "what members must prove of their machines")
    policy.look("show", _show, "the policy in force: version, hash and text")
    policy.call(
        "set", None, "as contract owner: the policy in force from now on",
        ("FILE", Path), prepare=_set,
    )  # fmt: skip
    policy.call(
        "remove-compose-hash", None,
        "as contract owner: the policy in force without a compose hash",
        ("HASH", read.hash32), prepare=_without,
    )  # fmt: skip

    boot = verbs.group("boot", "which machines the KMS may give the app's keys")
    for name, make, who in (
        ("add", calls.add_to_rules, "as contract owner: let boot"),
        ("remove", calls.remove_from_rules, "as guardian or owner: let boot no longer"),
    ):
        group = boot.group(name, who)
        for kind in RULE_KINDS:
            text = f"{who} a {kind.replace('-', ' ')}"
            group.call(kind, rule(make, kind, RULES), text, ("HASH", read.hash32))
    rules = boot.call(
        "require", lambda o: calls.set_boot_rules(not o.device, o.up_to_date, o.seat),
        "as contract owner: what every boot needs besides app, compose hash and OS image",
    )  # fmt: skip
    for flag, text in (
        ("--device", "a device of the list"),
        ("--up-to-date", "the TCB status UpToDate"),
        ("--seat", "an instance that is bound to a seat or on one"),
    ):
        rules.add_argument(flag, type=read.switch, required=True, metavar="on|off", help=text)
    boot.call(
        "app-contract", lambda o: calls.set_app_auth(o.app),
        "as contract owner: the app contract whose owner may change the lists, too",
        ("APP", read.address),
    )  # fmt: skip


def rule(
    make: Callable[[str, bytes, str], Call], kind: str, contract: str
) -> Callable[[Options], Call]:
    """Makes the call that changes a list of what may boot, by a contract that keeps or hands on."""
    return lambda options: make(kind, options.hash, contract)


async def _show(options: Options) -> Answer:
    async with open_looking(options) as (_, registry):
        await registry.snapshot()
    found = registry.policy
    if found is None:
        return Answer({"version": 0, "policy": None}, ["there is no policy yet"])
    fields = {
        "version": found.version,
        "hash": "0x" + found.digest.hex(),
        "policy": parse_json(found.text),
    }
    head = f"version {found.version}, hash {fields['hash']}"
    return Answer(fields, [head, *found.text.decode().splitlines()])


async def _set(session: Session, options: Options) -> Call:
    try:
        with options.file.open("rb") as file:
            text = file.read(POLICY_BYTES_MAX + 1)
    except OSError as error:
        raise ChainConfigError(f"{options.file} cannot be read: {error.strerror}") from None
    return _checked(text, str(options.file))


async def _without(session: Session, options: Options) -> Call:
    await session.membership()
    found = session.registry.policy
    if found is None:
        raise ChainError("there is no policy yet")
    document = parse_json(found.text)
    kept = [text for text in document["compose_hashes"] if _bytes(text) != options.hash]
    if len(kept) == len(document["compose_hashes"]):
        raise ChainError("the policy in force does not have this compose hash")
    document["compose_hashes"] = kept
    return _checked(json.dumps(document, indent=1).encode(), "the policy without it")


def _checked(text: bytes, what: str) -> Call:
    """A text that no member could read must not get on the chain."""
    try:
        parse_policy(text)
    except PolicyError as error:
        raise ChainConfigError(f"{what}: {error}") from None
    return calls.set_policy(text)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.removeprefix("0x"))
