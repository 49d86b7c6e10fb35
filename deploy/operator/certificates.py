"""Verbs about the contract of certificates: what follows from them, and showing it a liar.

``certificates conflict`` takes what ``dstack-cluster evidence --json`` prints on any member: pairs
of votes that no correct member signs both. The contract checks them by itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attest.bounded_json import parse_json
from chain import ChainConfigError
from deploy import calls
from deploy.calls import Call
from deploy.operator import arguments as read
from deploy.operator.session import Session
from deploy.operator.verbs import Options, Verbs

FILE_BYTES_MAX = 1 << 20
_KINDS = {"notarize": 1, "nullify": 2, "finalize": 3}
_VIEW = re.compile(r"([0-9]{1,19})\.([0-9]{1,19})")


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
        "conflict", None, "anybody: show two votes of a seat that contradict each other",
        ("SEAT", read.seat), ("FILE", Path), prepare=_conflict,
    )  # fmt: skip
    group.call(
        "open-founding", lambda o: calls.open_founding(),
        "anybody: bind the epoch that the chain opened last, by launch or recovery",
    )  # fmt: skip


def _suspends(text: str) -> bool:
    if text not in ("mark", "suspend"):
        raise read.wrong("mark or suspend", text)
    return text == "suspend"


def _duration(text: str) -> int:
    return calls.FOR_GOOD_S if text == "for-good" else read.seconds(text)


async def _conflict(session: Session, options: Options) -> Call:
    try:
        with options.file.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
        if len(raw) > FILE_BYTES_MAX:
            raise ValueError(f"longer than {FILE_BYTES_MAX} bytes")
        pair = conflict_in(parse_json(raw), options.seat)
    except (OSError, ValueError) as error:
        raise ChainConfigError(f"{options.file}: {error}") from None
    return calls.prove_conflict(options.seat, *pair)


def conflict_in(document: Any, seat: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The first pair of that seat's votes in an answer of ``evidence``, as the contract takes them.

    Raises:
        ValueError: there is none, or it is malformed.
    """
    rows = document.get("evidence") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise ValueError("expected the list that `dstack-cluster evidence --json` gives")
    for row in rows:
        if isinstance(row, dict) and row.get("seat") == seat:
            votes, epoch = row.get("votes"), row.get("epoch")
            if type(epoch) is not int or not isinstance(votes, list) or len(votes) != 2:
                raise ValueError(f"the evidence against seat {seat} is no pair of votes")
            return _vote(votes[0], epoch), _vote(votes[1], epoch)
    raise ValueError(f"there is no evidence against seat {seat}")


def _vote(row: Any, epoch: int) -> tuple[Any, ...]:
    """kind, epoch, term, index, block hash, reason, r, vs (EIP-2098)."""
    if not isinstance(row, Mapping) or row.get("kind") not in _KINDS:
        raise ValueError("a vote is a notarize, nullify or finalize")
    view = _VIEW.fullmatch(str(row.get("view")))
    reason = row.get("reason")
    if view is None or type(reason) is not int or not 0 <= reason < 256:
        raise ValueError("a vote has a view TERM.INDEX and a reason")
    signature = _hex(row.get("signature"), 65)
    v = signature[64] % 27
    if v > 1 or signature[32] & 0x80:
        raise ValueError("a vote's signature is r, s, v with low s")
    block = _hex(row.get("block") or "", 32, 0).rjust(32, b"\0")
    vs = bytes([signature[32] | v << 7]) + signature[33:64]
    return (
        _KINDS[row["kind"]], epoch, int(view[1]), int(view[2]), block, reason, signature[:32], vs,
    )  # fmt: skip


def _hex(value: Any, *sizes: int) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(r"(?:[0-9a-f]{2})*", value):
        raise ValueError("expected lower-case hex")
    raw = bytes.fromhex(value)
    if len(raw) not in sizes:
        raise ValueError(f"expected hex of {sizes[0]} bytes, came {len(raw)}")
    return raw
