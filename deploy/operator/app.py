"""Verbs about the app contract: its address is the dstack app id, and outlives its code.

It is found by the word of the rules (``boot app-contract``), and spoken to only if it is ours.
"""

from __future__ import annotations

from chain import ChainConfigError, Membership
from chain.abi import ContractAbi
from contracts import artifact
from deploy import calls
from deploy.calls import APP, PROXY, Call
from deploy.contract import Creation
from deploy.operator import arguments as read
from deploy.operator.creating import add_again, create
from deploy.operator.rules import rule
from deploy.operator.session import Session, open_session
from deploy.operator.verbs import Answer, Options, Verbs
from deploy.operator.wording import Effect


def add(verbs: Verbs) -> None:
    """Adds them."""
    app = verbs.group("app", "the contract whose address is the app id")
    deploy = app.act("deploy", _deploy, "anybody: deploy an app contract for this registry")
    deploy.add_argument("--owner", type=read.address, metavar="ADDRESS", help="default: the key")
    code = app.act(
        "deploy-code", _deploy_code,
        "anybody: deploy this release's code of the app contract, to upgrade to",
    )  # fmt: skip
    add_again(deploy)
    add_again(code)
    app.call(
        "upgrade", lambda o: calls.upgrade_app(o.code),
        "as the app contract's owner: run other code at its address",
        ("CODE", read.address), explain=_explain_upgrade,
    )  # fmt: skip
    app.call(
        "registry", lambda o: calls.set_app_registry(o.registry),
        "as the app contract's owner: put the app under another registry",
        ("REGISTRY", read.address), explain=_explain_registry,
    )  # fmt: skip
    for name, make in (("add", calls.add_to_rules), ("remove", calls.remove_from_rules)):
        group = app.group(name, "as the app contract's owner: change the lists of what may boot")
        for kind in calls.APP_RULE_KINDS:
            text = f"as the app contract's owner: {name} a {kind.replace('-', ' ')}"
            group.call(kind, rule(make, kind, APP), text, ("HASH", read.hash32))
    app.call(
        "lock", lambda o: calls.disable_upgrades(),
        "as the app contract's owner: its code stays for ever",
    )  # fmt: skip
    owner = app.group("owner", "hand the app contract over, in two steps")
    owner.call(
        "transfer", lambda o: calls.transfer_ownership(o.owner, APP),
        "as the app contract's owner: offer it to an address", ("OWNER", read.address),
    )  # fmt: skip
    owner.call(
        "accept", lambda o: calls.accept_ownership(APP),
        "as the one it was offered to: take the app contract over",
    )  # fmt: skip


async def _deploy(options: Options) -> Answer:
    async with open_session(options) as session:
        owner = options.owner or session.owner.sender.address
        initialize = ContractAbi(artifact(APP).abi).function("initialize")
        call = initialize.encode(owner, session.deployment.contract)

        def proxy(code: bytes) -> Creation:
            return Creation(PROXY, (code, call))

        following = (
            "it is the app id: contract allow-app ADDRESS, contract boot app-contract ADDRESS"
        )
        return await create(session, options, Creation(APP), following, then=proxy)


async def _deploy_code(options: Options) -> Answer:
    async with open_session(options) as session:
        return await create(session, options, Creation(APP), "then: contract app upgrade ADDRESS")


async def _explain_upgrade(session: Session, call: Call, now: Membership) -> Effect:
    """A wrong address here would be the end of the app id."""
    (code, _call) = call.values
    header = await session.registry.finalized()
    found = await session.registry.reader.code_at(code, header)
    if not found:
        raise ChainConfigError(f"there is no contract at 0x{code.hex()} in the newest final block")
    lines = (
        f"the app contract runs the code of 0x{code.hex()} from then on",
        "its address, owner and registry stay, if that code leaves them alone",
    )
    if artifact(APP).matches_code(found):
        return Effect(lines)
    return Effect(lines, ("OTHER CODE than this release's: it may do anything in the app's name",))


async def _explain_registry(session: Session, call: Call, now: Membership) -> Effect:
    (registry,) = call.values
    found = await session.registry.reader.code_at(registry, await session.registry.finalized())
    line = f"the rules that the registry 0x{registry.hex()} names decide what boots as this app"
    if artifact("Registry").matches_code(found):
        return Effect((line,))
    return Effect((line,), ("that is not this release's registry: nothing may boot at all then",))
