"""A linearizability checker for key-value histories.

The search is that of Wing and Gong (Testing and Verifying Concurrent Objects, JPDC 1993) with the
memory of Lowe (Testing for linearizability, 2017): take operations that may come next, apply them
to the model, and never visit the same set of taken operations in the same state twice. Keys are
independent objects, so each is checked alone (locality: Herlihy and Wing, TOPLAS 1990).

An operation whose outcome is unknown may take effect at any time after its call, or never: it
has no return, and a linearization that puts it after everything else is one in which nobody ever
saw it. Taken at its word, k of them double the search k times, so three things are said of them
that leave no linearization out:

- One whose value a later answer shows was there before that answer returned: it is an operation
  with a return like any other, whose own answer nobody got.
- The others that write a value which no answer and no comparison knows differ in nothing but
  their calls. Whatever a later one of a kind can do, an earlier one can do in its place: they are
  taken in the order of their calls, and only their number counts.
- What is possible after some of them is possible after fewer in the same state.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace

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
    due, kinds = _sort_out(operations)
    # Depth first over positions: which of the due are taken (a bit set), how many of each kind of
    # lost ones, and the state. ``seen`` cuts those that are no better than one before.
    everything = (1 << len(due)) - 1
    stack: list[_Position] = [(0, (0,) * len(kinds), ABSENT)]
    seen: dict[tuple[int, State], list[tuple[int, ...]]] = defaultdict(list)
    best, best_taken = -1, 0
    while stack:
        taken, lost, state = stack.pop()
        if taken == everything:
            return ""
        if taken.bit_count() > best:
            best, best_taken = taken.bit_count(), taken
        candidates, deadline = _candidates(due, taken)
        following: list[_Position] = []
        for index, kind in enumerate(kinds):
            used = lost[index]
            if used < len(kind) and kind[used].called <= deadline:
                after = step(state, kind[used])
                if after is not None and after != state:
                    following.append((taken, (*lost[:index], used + 1, *lost[index + 1 :]), after))
        for number in candidates:
            after = step(state, due[number].operation)
            if after is not None:
                following.append((taken | 1 << number, lost, after))
        stack += [p for p in following if _is_news(seen[p[0], p[2]], p[1])]
    return ", ".join(str(due[n].operation) for n in _candidates(due, best_taken)[0])


_Position = tuple[int, tuple[int, ...], State]


@dataclass(frozen=True, slots=True)
class _Due:
    """An operation that takes effect by ``deadline``, whether its own answer arrived or not."""

    operation: Operation
    deadline: float


def _sort_out(operations: list[Operation]) -> tuple[list[_Due], list[list[Operation]]]:
    """What must take effect, first called first; and what may, by kind, first called first."""
    operations = sorted(operations, key=lambda o: (o.called, o.returned))
    written = Counter(o.value for o in operations if o.kind in ("put", "swap"))
    compared = {o.expected for o in operations if o.kind == "swap"}
    shown: dict[bytes, float] = {}  # value: when the first answer that shows it returned
    for operation in operations:
        if isinstance(operation.answer, tuple) and operation.answer[0] is not None:
            value = operation.answer[0]
            shown[value] = min(shown.get(value, math.inf), operation.returned)
    nobodys = b"?" * (1 + max(map(len, [b"", *written, *shown])))
    due: list[_Due] = []
    kinds: dict[object, list[Operation]] = defaultdict(list)
    for operation in operations:
        value = operation.value
        writes = operation.kind in ("put", "swap")
        if operation.returned != math.inf:
            due.append(_Due(operation, operation.returned))
        elif writes and value in shown and written[value] == 1:
            due.append(_Due(operation, shown[value]))
        else:
            if writes and value not in shown and value not in compared:
                operation = replace(operation, value=nobodys)
            kinds[operation.kind, operation.expected, operation.value].append(operation)
    return due, list(kinds.values())


def _candidates(due: list[_Due], taken: int) -> tuple[list[int], float]:
    """Numbers of what may come next, the most urgent last; and the time by which it is called.

    Whatever was called before any that is not taken has to have taken effect.
    """
    waiting: list[int] = []
    deadline = math.inf
    first = (~taken & (taken + 1)).bit_length() - 1  # all before it are taken
    for number in range(first, len(due)):
        if due[number].operation.called > deadline:
            break
        if not taken >> number & 1:
            waiting.append(number)
            deadline = min(deadline, due[number].deadline)
    waiting = [number for number in waiting if due[number].operation.called <= deadline]
    return sorted(waiting, key=lambda number: due[number].deadline, reverse=True), deadline


def _is_news(before: list[tuple[int, ...]], lost: tuple[int, ...]) -> bool:
    """Whether no position with as few lost operations of each kind came before; remembers it."""
    if any(all(a <= b for a, b in zip(other, lost, strict=True)) for other in before):
        return False
    before[:] = [o for o in before if not all(a <= b for a, b in zip(lost, o, strict=True))]
    before.append(lost)
    return True
