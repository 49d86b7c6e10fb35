"""What members show the chain survives JSON, and nothing malformed becomes a call."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain import ShownDeposal, ShownEpoch, ShownLeader, read_evidence, read_shown, shown_json
from chain.shown import BODY_BYTES_MAX, HEADER_BYTES, HEADERS_MAX, PART_BYTES

HEADER = b"".join(n.to_bytes(8, "big") for n in (3, 7, 1, 4)) + bytes(HEADER_BYTES - 32)
PARTS = b"\x01" * (2 * PART_BYTES)
SIGNATURE = b"\x02" * 64 + b"\x1c"
EPOCH = ShownEpoch(HEADER, b"body", 2 * HEADER, PARTS, 55)
LEADER = ShownLeader(HEADER, PARTS)
DEPOSAL = ShownDeposal(3, 7, 9, PARTS, HEADER, SIGNATURE)
KINDS = [EPOCH, LEADER, DEPOSAL, ShownDeposal(3, 7, 9, PARTS)]


@pytest.mark.parametrize("shown", KINDS, ids=lambda shown: shown.KIND)
def test_a_certificate_survives_json(shown: Any) -> None:
    assert read_shown(json.loads(json.dumps(shown_json(shown)))) == shown


def test_who_and_when_is_read_from_the_header() -> None:
    assert EPOCH.epoch == 3
    assert (LEADER.token, LEADER.seat) == ((3, 7), 4)
    assert DEPOSAL.seat == 4 and KINDS[3].seat is None
    r, vs = DEPOSAL.values()[-2:]
    assert (r, vs) == (b"\x02" * 32, b"\x82" + b"\x02" * 31), "the parity is in the top bit"
    assert KINDS[3].values()[-3:] == (b"", bytes(32), bytes(32))


def altered(shown: Any, **fields: Any) -> dict[str, Any]:
    return shown_json(shown) | fields


@pytest.mark.parametrize(
    "row",
    [
        None,
        [],
        {},
        altered(LEADER, kind="epoch"),
        altered(LEADER, kind=1),
        altered(LEADER, header=HEADER[1:].hex()),
        altered(LEADER, header="0x" + HEADER.hex()),
        altered(LEADER, header=HEADER.hex().upper().replace("0", "A")),
        altered(LEADER, parts=""),
        altered(LEADER, parts=PARTS[1:].hex()),
        altered(LEADER, parts=(PARTS * 129).hex()),
        altered(EPOCH, headers=""),
        altered(EPOCH, headers=(HEADER * (HEADERS_MAX + 1)).hex()),
        altered(EPOCH, body=""),
        altered(EPOCH, body="00" * (BODY_BYTES_MAX + 1)),
        altered(EPOCH, chain_block=-1),
        altered(EPOCH, chain_block=True),
        altered(EPOCH, chain_block=2**64),
        altered(DEPOSAL, index="9"),
        altered(DEPOSAL, signature=""),
        altered(DEPOSAL, signature="ff" * 65),
        altered(DEPOSAL, header=""),
    ],
)
def test_what_is_no_certificate_is_refused(row: Any) -> None:
    with pytest.raises(ValueError):
        read_shown(row)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(st.sampled_from(KINDS), st.data())
def test_any_other_value_in_a_field_is_refused_or_read(shown: Any, data: st.DataObject) -> None:
    row = shown_json(shown)
    row[data.draw(st.sampled_from(sorted(row)))] = data.draw(JSON)
    with contextlib.suppress(ValueError):
        read_shown(row)


@given(JSON, JSON, JSON)
def test_anything_at_all_is_no_evidence_but_an_error(rows: Any, votes: Any, vote: Any) -> None:
    for document in (rows, [rows], [{"seat": 1, "epoch": 0, "votes": votes}],
                     [{"seat": 1, "epoch": 0, "votes": [vote, vote]}]):  # fmt: skip
        with pytest.raises(ValueError):
            read_evidence(document, 1)
