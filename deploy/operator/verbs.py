"""How a verb becomes a command: its arguments, the plan, and, with --yes, the sending."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from chain import (
    CallReverted,
    ChainConfigError,
    ChainError,
    Membership,
    TransactionFailed,
    TransactionReplaced,
    TxOutcome,
    TxState,
)
from deploy.calls import Call
from deploy.operator.effects import effect_of
from deploy.operator.keys import add_key_arguments
from deploy.operator.plan import plan_call
from deploy.operator.session import (
    Session,
    add_chain_arguments,
    add_sending_arguments,
    open_session,
)
from deploy.operator.wording import Effect

EXIT_DONE = 0  # sent and included; in a dry run: it would work
EXIT_ERROR = 1  # it could not be told: no key, no agreement of endpoints, a bad file
EXIT_WOULD_FAIL = 3  # the contract refuses it, or it cannot be paid; nothing was sent
EXIT_FAILED = 4  # it was sent, and failed on the chain or was replaced

Options = argparse.Namespace
Build = Callable[[Session, Options], Awaitable[Call]]
Explain = Callable[[Session, Call, Membership], Awaitable[Effect]]
After = Callable[[Session, Options, TxOutcome], Awaitable[dict[str, Any]]]

_log = structlog.get_logger("contract")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a verb says: fields for --json, lines for people, and the exit status."""

    fields: dict[str, Any]
    lines: list[str] = field(default_factory=list)
    status: int = EXIT_DONE


Run = Callable[[Options], Awaitable[Answer]]


class Verbs:
    """Collects the verbs of the command line."""

    def __init__(self, subparsers: Any) -> None:
        self._subparsers = subparsers

    def group(self, name: str, text: str) -> Verbs:
        """A verb of two words: the first."""
        parser = self._subparsers.add_parser(name, help=text, description=text)
        return Verbs(parser.add_subparsers(required=True, metavar="VERB"))

    def look(self, name: str, run: Run, text: str) -> argparse.ArgumentParser:
        """A verb that needs no key."""
        parser: argparse.ArgumentParser = self._subparsers.add_parser(
            name, help=text, description=text
        )
        parser.set_defaults(verb=run)
        add_chain_arguments(parser)
        parser.add_argument("--json", action="store_true")
        return parser

    def act(self, name: str, run: Run, text: str) -> argparse.ArgumentParser:
        """A verb that spends."""
        parser = self.look(name, run, text)
        add_key_arguments(parser)
        add_sending_arguments(parser)
        return parser

    def call(
        self,
        name: str,
        build: Callable[[Options], Call] | None,
        text: str,
        *arguments: tuple[str, Callable[[str], Any]],
        prepare: Build | None = None,
        explain: Explain | None = None,
        after: After | None = None,
    ) -> argparse.ArgumentParser:
        """A verb that is one transaction.

        Args:
            build: makes the call of the options; or
            prepare: makes it with a look at the chain first.
            arguments: name and reader of each; a trailing ``...`` takes one or more.
            explain: tells its effect, where that takes another look at the chain.
            after: more to do and to say when it is included.
        """

        async def ready(session: Session, options: Options) -> Call:
            if prepare is not None:
                return await prepare(session, options)
            assert build is not None
            return build(options)

        async def run(options: Options) -> Answer:
            return await _transact(options, ready, explain, after)

        parser = self.act(name, run, text)
        for argument, kind in arguments:
            plain = argument.removesuffix("...")
            if plain == argument:
                parser.add_argument(plain.lower(), type=kind, metavar=plain)
            else:
                parser.add_argument(plain.lower(), type=kind, metavar=plain, nargs="+")
        return parser


async def _transact(
    options: Options, prepare: Build, explain: Explain | None, after: After | None
) -> Answer:
    async with open_session(options) as session:
        if options.yes and not session.can_sign:
            raise ChainConfigError("--from only plans: there is no key to sign with")
        sender = session.owner.sender
        unfinished = [e["intent"] for e in sender.status() if e["state"] == TxState.PENDING]
        if options.yes and unfinished:
            # Otherwise the plan would be made on a state that is about to change.
            _log.info("contract.finishing_earlier", transactions=unfinished)
            await sender.settle()
        call = await prepare(session, options)
        now = await session.membership()
        effect = effect_of(call, now) if explain is None else await explain(session, call, now)
        plan = await plan_call(session.owner, call, effect, must_pay=session.can_sign)
        fields, lines = {"sent": False} | plan.as_json(), plan.lines()
        if unfinished and not options.yes:
            fields["unfinished"] = unfinished
            lines += [f"before   {intent} is not in a block yet" for intent in unfinished]
        if not plan.would_work:
            return Answer(fields, [*lines, "nothing was sent"], EXIT_WOULD_FAIL)
        if not options.yes:
            if not session.can_sign:
                lines.append(f"data     0x{plan.data.hex()}")
            hint = "it would work; " + (
                "--yes sends it" if session.can_sign else "nothing was sent"
            )
            return Answer(fields, [*lines, hint])
        return await _send(session, options, call, fields, lines, after)


async def _send(
    session: Session,
    options: Options,
    call: Call,
    fields: dict[str, Any],
    lines: list[str],
    after: After | None,
) -> Answer:
    try:
        (outcome,) = await session.owner.send(call)
    except CallReverted as error:  # the state has moved since the plan
        fields |= {"would": "fail", "reason": str(error)}
        return Answer(fields, [*lines, f"FAILS    {error}", "nothing was sent"], EXIT_WOULD_FAIL)
    except (TransactionFailed, TransactionReplaced) as error:
        fields |= {"sent": True, "reason": str(error)}
        return Answer(fields, [*lines, f"FAILED   {error}"], EXIT_FAILED)
    fields |= {
        "sent": True,
        "transaction": "0x" + outcome.tx_hash.hex(),
        "block": outcome.block_number,
        "gas_used": outcome.gas_used,
        "final": options.final,
    }
    lines.append(f"sent     0x{outcome.tx_hash.hex()}, in block {outcome.block_number}")
    if after is not None:
        try:
            more = await after(session, options, outcome)
        except (ChainError, OSError) as error:  # what was sent stays sent
            more = {"note": f"it was done, but then: {error}"}
        fields |= more
        lines += [f"{name.replace('_', ' '):<8} {value}" for name, value in more.items()]
    if options.final:
        await session.owner.wait_final()
        lines.append("final")
    return Answer(fields, lines)
