"""Verbs about the contract of certificates: what follows from them, and showing it things.

What is shown comes from a member: from its API (``--node``), or from a file with what
``dstack-cluster certificates --json`` or ``evidence --json`` printed there. The contract checks the
members' signatures, so neither the node nor the file needs to be trusted.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from attest.bounded_json import parse_json
from chain import (
    ChainConfigError,
    ChainError,
    Membership,
    ShownDeposal,
    ShownEpoch,
    ShownLeader,
    change_of,
    read_evidence,
    read_shown,
)
from deploy import calls
from deploy.calls import CERTIFICATES, Call
from deploy.operator import arguments as read
from deploy.operator.audit import Certified, read_certified
from deploy.operator.effects_on_contracts import penalty
from deploy.operator.session import Session
from deploy.operator.verbs import Options, Verbs
from deploy.operator.wording import Effect
from node.client import ApiClient, read_token_file
from node.facade import NodeError

FILE_BYTES_MAX = 4 << 20
ROWS_MAX = 256
S = TypeVar("S", ShownEpoch, ShownLeader, ShownDeposal)


def add(verbs: Verbs) -> None:
    """Adds them."""
    group = verbs.group("certificates", "what the cluster says about itself, checked on chain")
    policy = group.call(
        "policy",
        lambda o: calls.set_certificates_policy(
            o.deposal, o.conflict, o.deposal_s, o.conflict_s, o.min_seats
        ),
        "as contract owner: what follows for the seat of a deposed leader, and of a liar",
    )
    for flag in ("--deposal", "--conflict"):
        policy.add_argument(flag, type=_suspends, required=True, metavar="mark|suspend")
        policy.add_argument(f"{flag}-s", type=_duration, required=True, metavar="SECONDS|for-good",
                            help="how long a suspension lasts")  # fmt: skip
    policy.add_argument("--min-seats", type=read.seat, required=True, metavar="N",
                        help="nobody is suspended if fewer active seats would be left")  # fmt: skip
    group.call(
        "open-founding", lambda o: calls.open_founding(),
        "anybody: bind the epoch that the chain opened last, by launch or recovery",
    )  # fmt: skip
    _from_member(group.call(
        "open-epoch", None, "anybody: bind the cluster's epoch of now to its members",
        prepare=_open_epoch,
    ))  # fmt: skip
    _from_member(group.call(
        "record-leader", None, "anybody: put on record who leads", prepare=_record_leader,
    ))  # fmt: skip
    depose = group.call(
        "depose", None, "anybody: show that the cluster deposed a leader",
        prepare=_depose, explain=_explain_deposal,
    )  # fmt: skip
    _from_member(depose)
    depose.add_argument("--term", type=read.term, metavar="EPOCH.TERM",
                        help="which; default: the newest that the member has")  # fmt: skip
    _from_member(group.call(
        "conflict", None, "anybody: show two votes of a seat that contradict each other",
        ("SEAT", read.seat), prepare=_conflict, explain=_explain_conflict,
    ))  # fmt: skip


def _from_member(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("file", type=Path, nargs="?", metavar="FILE",
                      help="what a member printed")  # fmt: skip
    verb.add_argument("--node", metavar="URL", help="ask this member's API instead")
    verb.add_argument("--node-token-file", type=Path, metavar="FILE",
                      help="bearer token of that API")  # fmt: skip


def _suspends(text: str) -> bool:
    if text not in ("mark", "suspend"):
        raise read.wrong("mark or suspend", text)
    return text == "suspend"


def _duration(text: str) -> int:
    return calls.FOR_GOOD_S if text == "for-good" else read.seconds(text)


# --- what is shown ----------------------------------------------------------------------------


async def _open_epoch(session: Session, options: Options) -> Call:
    how = "how the epoch of now began (those of launch and recovery are for open-founding)"
    shown = await _newest(options, ShownEpoch, how)
    await session.membership()
    return calls.open_epoch(shown, *await change_of(session.registry, shown.chain_block))


async def _record_leader(session: Session, options: Options) -> Call:
    return calls.record_leader(await _newest(options, ShownLeader, "who leads"))


async def _depose(session: Session, options: Options) -> Call:
    found = await _shown(options, ShownDeposal)
    if options.term is not None:
        found = [shown for shown in found if (shown.epoch, shown.term) == options.term]
    if not found:
        raise ChainConfigError(f"{_source(options)} does not show such a leader deposed")
    return calls.depose(max(found, key=lambda shown: (shown.epoch, shown.term)))


async def _conflict(session: Session, options: Options) -> Call:
    rows = await _rows(options, "evidence")
    try:
        return calls.prove_conflict(options.seat, *read_evidence(rows, options.seat))
    except ValueError as error:
        raise ChainConfigError(f"{_source(options)}: {error}") from None


async def _newest(options: Options, kind: type[S], what: str) -> S:
    found = await _shown(options, kind)
    if not found:
        raise ChainConfigError(f"{_source(options)} does not show {what}")
    return found[-1]


async def _shown(options: Options, kind: type[S]) -> list[S]:
    rows = await _rows(options, "certificates")
    try:
        every = [read_shown(row) for row in rows]
    except ValueError as error:
        raise ChainConfigError(f"{_source(options)}: {error}") from None
    return [shown for shown in every if isinstance(shown, kind)]


async def _rows(options: Options, question: str) -> list[Any]:
    """The rows of a member's answer to ``certificates`` or ``evidence``."""
    if (options.file is None) == (options.node is None):
        raise ChainConfigError(
            f"FILE or --node: expected one of them, what `dstack-cluster {question} --json` prints"
            " on a member, or a member's API"
        )
    try:
        found: Any
        if options.node is not None:
            found = await _ask(options, question)
        else:
            with options.file.open("rb") as file:
                raw = file.read(FILE_BYTES_MAX + 1)
            if len(raw) > FILE_BYTES_MAX:
                raise ValueError(f"longer than {FILE_BYTES_MAX} bytes")
            found = parse_json(raw)
            found = found.get(question) if isinstance(found, Mapping) else found
        if not isinstance(found, list) or len(found) > ROWS_MAX:
            raise ValueError(f"expected what `dstack-cluster {question} --json` prints")
    except (OSError, ValueError, NodeError) as error:
        raise ChainConfigError(f"{_source(options)}: {error}") from None
    return found


async def _ask(options: Options, question: str) -> list[dict[str, Any]]:
    token = None if options.node_token_file is None else read_token_file(options.node_token_file)
    async with ApiClient(options.node, token=token) as client:
        return await (client.evidence() if question == "evidence" else client.certificates())


def _source(options: Options) -> str:
    return str(options.node if options.file is None else options.file)


# --- what follows -----------------------------------------------------------------------------


async def _explain_deposal(session: Session, call: Call, now: Membership) -> Effect:
    epoch, term, _index, _parts, header = call.values[:5]
    certified = await _certified(session)
    seat = int.from_bytes(header[24:32], "big")
    if not header:
        if (certified.epoch, certified.term) != (epoch, term):
            return Effect(
                (f"neither what is shown nor the chain says who led term {epoch}.{term}",)
            )
        seat = certified.leader
    what = f"was deposed as leader of term {epoch}.{term}"
    return penalty(
        now, what, seat, certified.deposal_suspends, certified.deposal_s, certified.seats_min
    )


async def _explain_conflict(session: Session, call: Call, now: Membership) -> Effect:
    certified = await _certified(session)
    what = "signed two votes that contradict each other"
    return penalty(
        now, what, call.values[0], certified.conflict_suspends, certified.conflict_s,
        certified.seats_min,
    )  # fmt: skip


async def _certified(session: Session) -> Certified:
    address = session.owner.address_of(CERTIFICATES)
    found = await read_certified(session.registry, address, await session.registry.finalized())
    if found is None:
        raise ChainError("the registry names no contract of certificates")
    return found
