"""Random commands over few keys, leases and clients, so that they meet each other often."""

from __future__ import annotations

from hypothesis import strategies as st

from consensus.commands import (
    Action,
    Barrier,
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
)

keys = st.sampled_from([b"a", b"aa", b"ab", b"b", b"c", b"d"])
ends = st.sampled_from([b"", b"", b"b", b"\0", b"a"])
values = st.binary(max_size=4)
leases = st.integers(1, 4)
puts = st.builds(Put, keys, values, st.just(0) | leases)
deletes = st.builds(Delete, keys, ends)
reads = st.builds(Range, keys, ends, st.integers(0, 3))
comparisons = st.builds(
    Compare,
    keys,
    st.sampled_from([t for t in Target if t is not Target.VALUE]),
    st.sampled_from(Relation),
    st.integers(0, 6),
) | st.builds(Compare, keys, st.just(Target.VALUE), st.sampled_from(Relation), values)


def _writes_once(branch: tuple[object, ...]) -> bool:
    written = [op.key for op in branch if isinstance(op, Put)]
    deleted = [op for op in branch if isinstance(op, Delete)]
    return len(written) == len(set(written)) and not any(
        contains(op.key, op.end, key) for op in deleted for key in written
    )


branches = st.lists(puts | deletes | reads, max_size=4).map(tuple).filter(_writes_once)
txns = st.builds(Txn, st.lists(comparisons, max_size=2).map(tuple), branches, branches)
actions: st.SearchStrategy[Action] = st.one_of(
    puts,
    deletes,
    st.just(Barrier()),
    txns,
    txns,
    st.builds(Grant, leases, st.integers(5000, 9000)),
    st.builds(KeepAlive, leases),
    st.builds(Revoke, leases),
)
clients = st.integers(0, 5).map(lambda n: bytes(15) + bytes([n]))
requests = st.tuples(clients, st.sampled_from([0, 0, 0, 0, 0, 1, 2]), actions)
