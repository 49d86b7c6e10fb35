"""Commands as bytes: bounded, one encoding each, and no key written twice in a transaction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus import limits
from consensus.commands import (
    Action,
    Command,
    Compare,
    Delete,
    Grant,
    KeepAlive,
    Put,
    Range,
    Relation,
    Revoke,
    Target,
    Txn,
    contains,
    decode_command,
    encode_command,
    prefix_end,
)
from consensus.errors import WireError


def coded(action: Action, sequence: int = 1) -> Command:
    return decode_command(encode_command(Command(bytes(16), sequence, action)))


@pytest.mark.parametrize(
    "action",
    [
        Put(b"", b""),
        Put(b"k", bytes(limits.VALUE_BYTES_MAX + 1)),
        Put(b"k" * (limits.KEY_BYTES_MAX + 1), b""),
        Put(b"k", b"", 2**63),
        Delete(b""),
        Delete(b"k", b"e" * (limits.KEY_BYTES_MAX + 1)),
        Grant(0, 9000),
        Grant(1, limits.LEASE_TTL_MS_MIN - 1),
        Grant(1, limits.LEASE_TTL_MS_MAX + 1),
        KeepAlive(0),
        Revoke(2**63),
        Txn((), (Put(b"", b""),)),
        Txn((), (Range(b"k", b"", limits.RANGE_KEYS_MAX + 1),)),
        Txn((), (Range(b"k"),) * (limits.TXN_OPS_MAX + 1)),
        Txn((Compare(b"", Target.MOD, Relation.EQUAL, 0),), ()),
        Txn((Compare(b"k", Target.MOD, Relation.EQUAL, b"no number"),), ()),
        Txn((), (Put(b"k", b"1"), Put(b"k", b"2"))),
        Txn((), (Put(b"k", b"1"), Range(b"k"), Delete(b"k"))),
        Txn((), (), (Delete(b"a", b"\0"), Put(b"k", b"1"))),
        Txn((), (Put(b"k", b"1"), Put(b"z", b"1"), Delete(b"l", b"zz"))),
    ],
    ids=repr,
)
def test_an_action_out_of_bounds_is_refused(action: Action) -> None:
    with pytest.raises(WireError):
        coded(action)


def test_a_key_may_be_in_both_branches_and_beside_a_deleted_range() -> None:
    then = (Put(b"k", b"1"), Delete(b"l", b"m"), Delete(b"m", b"k"), Delete(b"j"))
    txn = Txn((), then, (Put(b"k", b"2"),))
    assert coded(txn).action == txn


def test_a_number_that_no_store_could_keep_is_refused() -> None:
    """SQLite's integers have 63 bits: a larger one would stop every member at its next write."""
    assert coded(Put(b"k", b""), limits.I64_MAX).sequence == limits.I64_MAX
    with pytest.raises(WireError):
        coded(Put(b"k", b""), limits.I64_MAX + 1)


@given(st.binary(max_size=3), st.binary(min_size=1, max_size=4))
def test_the_end_of_a_prefix_cuts_exactly(prefix: bytes, key: bytes) -> None:
    inside = contains(prefix or b"\0", prefix_end(prefix), key)
    assert inside == key.startswith(prefix)


@given(st.binary(max_size=80))
def test_what_decodes_has_one_encoding(data: bytes) -> None:
    for tag in range(9):
        raw = bytes(24) + bytes([tag]) + data
        try:
            command = decode_command(raw)
        except WireError:
            continue
        assert encode_command(command) == raw
