"""The state in chunks: whole, in order, and believed only under its hash."""

from __future__ import annotations

import pytest
from clusters import act
from test_machine import play

from consensus import limits
from consensus.commands import Delete, Grant, Put
from consensus.errors import WireError
from consensus.items import Kind, item_of, order_of, read_item
from consensus.machine import Machine
from consensus.transfer import Importer, export


def state() -> Machine:
    """A machine with some of everything."""
    machine = Machine()
    play(
        machine,
        *[(act(n, 1, Put(b"key %d" % n, bytes(n))),) for n in range(30)],
        (act(99, 1, Grant(7, 9000)), act(98, 1, Put(b"leased", b"x", 7))),
        (act(3, 2, Delete(b"key 9")), act(5, 2, Delete(b"key 9"))),
    )
    return machine


def chunks(machine: Machine, max_bytes: int = 300) -> list[list[bytes]]:
    found, after = [], b""
    while True:
        items, next_ = export(machine, after, max_bytes)
        found.append(items)
        if next_ is None:
            return found
        after = next_


def build(parts: list[list[bytes]], machine: Machine) -> Machine:
    importer = Importer()
    for items in parts:
        importer.add(items)
    return importer.finish(machine.height, machine.time_ms, machine.state_hash)


def test_an_imported_machine_goes_on_like_the_exported_one() -> None:
    machine = state()
    parts = chunks(machine)
    assert len(parts) > 5 and all(sum(map(len, p)) <= 300 for p in parts)
    again = build(parts, machine)
    assert again.entries == machine.entries
    assert list(again.sessions.items()) == list(machine.sessions.items())
    assert (again.leases, again.revision) == (machine.leases, machine.revision)
    more = (act(3, 3, Put(b"new", b"")), act(200, 1, Delete(b"k", b"l")))
    (one,), (two,) = play(machine, more), play(again, more)
    assert one.state_hash == two.state_hash and one.results == two.results


def test_every_chunk_size_gives_the_same_items() -> None:
    machine = state()
    whole = [item for part in chunks(machine, 10**9) for item in part]
    assert [item for part in chunks(machine, 1) for item in part] == whole
    assert sorted(whole, key=order_of) == whole


def test_a_state_with_something_left_out_added_or_changed_is_refused() -> None:
    machine = state()
    (items,) = chunks(machine, 10**9)
    for at in range(1, len(items)):
        key, value = read_item(items[at])
        with pytest.raises(WireError):
            build([items[:at] + items[at + 1 :]], machine)
        with pytest.raises(WireError):
            build([[*items[: at + 1], items[at], *items[at + 1 :]]], machine)
        if items[at][0] == Kind.ENTRY:
            other = item_of(b"key 9" + key, value)  # type: ignore[operator]
            with pytest.raises(WireError):
                build([sorted([*items, other], key=order_of)], machine)


def test_sessions_in_another_order_are_another_state() -> None:
    """Else a snapshot could make a member forget other clients than everybody else."""
    machine = state()
    (items,) = chunks(machine, 10**9)
    found = {client: s for client, s in map(read_item, items) if hasattr(s, "used")}
    first, second = list(found)[:2]
    a, b = found[first], found[second]
    swapped = [
        item_of(first, type(a)(a.sequence, a.revision, a.existed, b.used)),
        item_of(second, type(b)(b.sequence, b.revision, b.existed, a.used)),
    ]
    rest = [i for i in items if i not in (item_of(first, a), item_of(second, b))]
    with pytest.raises(WireError, match="hash"):
        build([sorted(rest + swapped, key=order_of)], machine)


def test_an_import_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = state()
    parts = chunks(machine)
    monkeypatch.setattr(limits, "STATE_BYTES_MAX", 200)
    with pytest.raises(WireError, match="larger"):
        build(parts, machine)


@pytest.mark.parametrize("item", [b"", b"\x04", b"\x09abc", b"\x00" * 8, b"\x03" + bytes(45)])
def test_bytes_that_are_no_item_are_refused(item: bytes) -> None:
    with pytest.raises(WireError):
        read_item(item)


GOLDEN_EMPTY = "df7f0f5b7963fc9017cf80c81037ca055854600ca8cc1628164cc9fa0c103503"
GOLDEN_STATE = "a7915504395616a8e2922db5bfcc7b9c0651db6533eaea94885e5054062e7ccd"


def test_the_state_hash_is_pinned() -> None:
    """A change of it is a change of the protocol: raise ``wire.VERSION``."""
    assert Machine().state_hash.hex() == GOLDEN_EMPTY
    assert state().state_hash.hex() == GOLDEN_STATE
