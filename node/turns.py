"""Whose turn it is to do what any member may do for all: nobody twice, and somebody surely."""

from __future__ import annotations

from consensus.engine import Engine


def turn_of(engine: Engine, seat: int) -> int | None:
    """How many members come before a seat, the leader first; None for one without a vote."""
    seats, leader = engine.validators.seats, engine.leader(engine.view.term)
    if seat not in seats:
        return None
    after = [other for other in seats if other > leader]
    return [leader, *after, *(other for other in seats if other < leader)].index(seat)
