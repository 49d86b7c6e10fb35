"""Standing: what finalized history says against a member, and so where it stands in the order.

A leader whose term was nullified gets a demerit, unless it stepped down itself; a member convicted
by evidence gets the most there is, for good. At each new epoch demerits are halved: what is long
ago weighs little. The order of an epoch uses the demerits at its opening, because inside an epoch
it must not change. Standing never touches the weight of a vote.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

CONVICTED = 2**32 - 1
_COUNT = struct.Struct(">H")
_ROW = struct.Struct(">QI")

Demerits = tuple[tuple[int, int], ...]  # (seat, demerits above 0), by seat


@dataclass(frozen=True, slots=True)
class Standing:
    """Demerits as they are ``now``, and as they were at the ``opening`` of the epoch."""

    now: Demerits = ()
    opening: Demerits = ()

    def after(self, deposed: Iterable[int], convicted: Iterable[int]) -> Standing:
        """The standing after a block: leaders that it shows deposed, members that it convicts."""
        demerits = dict(self.now)
        for seat in deposed:
            before = demerits.get(seat, 0)
            demerits[seat] = before if before >= CONVICTED - 1 else before + 1
        demerits.update(dict.fromkeys(convicted, CONVICTED))
        return Standing(tuple(sorted(demerits.items())), self.opening)

    @property
    def convicted(self) -> tuple[int, ...]:
        """Seats that evidence convicted."""
        return tuple(seat for seat, demerits in self.now if demerits == CONVICTED)

    def next_epoch(self, seats: Iterable[int]) -> Standing:
        """The standing at the opening of an epoch of ``seats``: others are forgotten."""
        members = frozenset(seats)
        opening = tuple(row for row in self.now if row[0] in members)
        halved = ((s, d if d == CONVICTED else d // 2) for s, d in opening)
        return Standing(tuple(row for row in halved if row[1]), opening)

    def encode(self) -> bytes:
        """Counts and rows at fixed width: for the state hash and the store."""
        rows = b"".join(_ROW.pack(*row) for row in (*self.now, *self.opening))
        return _COUNT.pack(len(self.now)) + _COUNT.pack(len(self.opening)) + rows


def decode_standing(data: bytes) -> Standing:
    """Inverse of ``encode``; raises ValueError."""
    head = 2 * _COUNT.size
    if len(data) < head or (len(data) - head) % _ROW.size:
        raise ValueError(f"a standing of {len(data)} bytes")
    (now,), (opening,) = _COUNT.unpack_from(data), _COUNT.unpack_from(data, _COUNT.size)
    rows = tuple(_ROW.iter_unpack(data[head:]))
    if len(rows) != now + opening:
        raise ValueError(f"a standing of {len(rows)} rows, not {now} and {opening}")
    standing = Standing(rows[:now], rows[now:])
    for part in (standing.now, standing.opening):
        seats = [seat for seat, _ in part]
        if seats != sorted(set(seats)) or any(not demerits for _, demerits in part):
            raise ValueError("a standing that is not sorted by seat, or with empty rows")
    return standing
