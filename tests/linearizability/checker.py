"""A linearizability checker for key-value histories.

The search is that of Wing and Gong (Testing and Verifying Concurrent Objects, JPDC 1993) with the
memory of Lowe (Testing for linearizability, 2017): take operations that may come next, apply them
to the model, and never visit the same set of taken operations in the same state twice. Keys are
independent objects, so each is checked alone (locality: Herlihy and Wing, TOPLAS 1990).

An operation whose outcome is unknown may take effect at any time after its call, or never: it
has no return, and a linearization that puts it after everything else is one in which nobody ever
saw it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

State = tuple[bytes | None, int]  # value (None: no such key) and version (writes since created)
ABSENT: State = (None, 0)


@dataclass(frozen=True, slots=True)
class Operation:
    """One request as its client saw it; times are on one clock, in any unit.

    Args:
        kind: "put", "get", "delete" or "swap" (put ``value`` if the key holds ``expected``).
        value: what a put or a swap writes.
        expected: what a swap compares with; None asks for an absent key.
        answer: what came back: put and delete tell whether the key was there, swap whether it
            took place, get the ``State`` it saw. None when the outcome is unknown.
        returned: ``math.inf`` when the outcome is unknown.
    """

    client: str
    kind: str
    key: bytes
    called: float
    value: bytes = b""
    expected: bytes | None = None
    answer: bool | State | None = None
    returned: float = math.inf

    def __post_init__(self) -> None:
        assert self.kind in ("put", "get", "delete", "swap"), self.kind
        assert (self.answer is None) == (self.returned == math.inf)
        assert self.called <= self.returned


def step(state: State, operation: Operation) -> State | None:
    """The state after ``operation``, None when its answer cannot have come from ``state``."""
    value, version = state
    there = value is not None
    match operation.kind:
        case "get":
            return state if operation.answer in (None, state) else None
        case "put":
            answer, after = there, (operation.value, version + 1)
        case "delete":
            answer, after = there, ABSENT
        case _:
            answer = value == operation.expected
            after = (operation.value, version + 1) if answer else state
    return after if operation.answer in (None, answer) else None


def check(history: Iterable[Operation]) -> str:
    """Empty when the history is linearizable, else the key and how far it could be explained."""
    by_key: dict[bytes, list[Operation]] = defaultdict(list)
    for operation in history:
        # A read whose answer nobody got explains nothing and constrains nothing.
        if operation.kind != "get" or operation.answer is not None:
            by_key[operation.key].append(operation)
    for key, operations in sorted(by_key.items()):
        stuck = _check_key(operations)
        if stuck:
            return f"key {key!r} is not linearizable; longest explained prefix ends before {stuck}"
    return ""


def _check_key(operations: list[Operation]) -> str:
    operations = sorted(operations, key=lambda o: (o.called, o.returned))
    known = sum(1 << i for i, o in enumerate(operations) if o.returned != math.inf)
    # Depth first over (taken operations as a bit set, state); ``seen`` cuts repeated positions.
    stack: list[tuple[int, State]] = [(0, ABSENT)]
    seen = {stack[0]}
    best, best_taken = -1, 0
    while stack:
        taken, state = stack.pop()
        explained = (taken & known).bit_count()
        if taken & known == known:
            return ""
        if explained > best:
            best, best_taken = explained, taken
        for number, operation in _candidates(operations, taken):
            after = step(state, operation)
            if after is None:
                continue
            position = (taken | 1 << number, after)
            if position not in seen:
                seen.add(position)
                stack.append(position)
    return ", ".join(str(o) for _, o in _candidates(operations, best_taken))


def _candidates(operations: list[Operation], taken: int) -> list[tuple[int, Operation]]:
    """Operations that may come next: called before any that is not taken has returned."""
    waiting: list[tuple[int, Operation]] = []
    deadline = math.inf
    first = (~taken & (taken + 1)).bit_length() - 1  # all before it are taken
    for number, operation in enumerate(operations[first:], first):
        if operation.called > deadline:
            break
        if not taken >> number & 1:
            waiting.append((number, operation))
            deadline = min(deadline, operation.returned)
    return [(number, operation) for number, operation in waiting if operation.called <= deadline]
