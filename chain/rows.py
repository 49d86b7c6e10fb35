"""Rows of the registry: from what ``page`` and ``member`` return to checked members."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from chain.abi import FunctionAbi
from chain.errors import BadChainData
from chain.membership import Member, MemberStatus
from chain.replay import SeatState, compressed

PAGE_SEATS = 100
# A row: offset, 13 words, length and text of the endpoint (128 bytes), with room to spare.
PAGE_BYTES_MAX = 256 + PAGE_SEATS * 32 * 24
ENDPOINT_CHARS_MAX = 128
_MULTIADDR = re.compile(r"(?:/[A-Za-z0-9._:%\-]+){2,}")


def add_page(page: FunctionAbi, raw: bytes, first: int, members: list[Member]) -> int:
    """Appends the members of a page that starts at seat ``first``; where the next one starts.

    Raises:
        BadChainData: rows are out of order, too many, or of no known form.
    """
    rows, following = page.decode(raw)
    if len(rows) > PAGE_SEATS:
        raise BadChainData(f"a page of {len(rows)} members, asked for {PAGE_SEATS}")
    for row in rows:
        found = member(row)
        if found.seat < first or (members and found.seat <= members[-1].seat):
            raise BadChainData(f"seat {found.seat} is out of place in a page from {first}")
        members.append(found)
    if following != 0 and following <= max(first, members[-1].seat if members else 0):
        raise BadChainData(f"a page from {first} names {following} as the next")
    return int(following)


def member(row: Sequence[Any]) -> Member:
    """One row. Raises BadChainData."""
    (seat, owner, weight, status, root_epoch, scheme, key_odd, expires_at_s, incarnation,
     instance_id, key_x, _signer, endpoint) = row  # fmt: skip
    if status not in (0, 1, 2):
        raise BadChainData(f"seat {seat} has the unknown status {status}")
    return Member(
        seat=seat,
        weight=weight,
        status=MemberStatus(status),
        node_key=compressed(key_x, key_odd),
        instance_id=instance_id,
        incarnation=incarnation,
        endpoint=usable_endpoint(endpoint),
        lease_expires_s=expires_at_s,
        root_epoch=root_epoch,
        scheme=scheme,
        owner=bytes.fromhex(owner[2:]),
    )


def check_rows(members: Sequence[Member], proven: Mapping[int, SeatState]) -> None:
    """Holds rows against what the events prove of them: seats, weights, states, keys, instances.

    Raises:
        BadChainData: a seat differs, is missing or is one too many.
    """
    shown = {m.seat: SeatState(m.weight, m.status, m.node_key, m.instance_id) for m in members}
    for seat in sorted(shown.keys() | proven.keys()):
        if shown.get(seat) != proven.get(seat):
            raise BadChainData(f"the row of seat {seat} is not what the registry's events prove")


def usable_endpoint(text: bytes) -> str:
    """A member's endpoint as the chain holds it, or "" when it is no multiaddr-like text.

    A seat owner may write anything there; that must harm nobody but that member.
    """
    if len(text) > ENDPOINT_CHARS_MAX:
        return ""
    shown = text.decode("ascii", "replace")
    return shown if _MULTIADDR.fullmatch(shown) else ""
