"""Evidence as a member shows it becomes votes as the contract takes them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from chain import LocalKey, read_evidence
from chain.keys import address_of, keccak256, recover
from consensus.digests import vote_digest
from consensus.types import VoteKind

CLUSTER = keccak256(b"a cluster")
KEY = LocalKey(keccak256(b"a liar"))


def vote(kind: VoteKind, term: int, index: int, block: bytes = b"", reason: int = 0) -> Any:
    digest = vote_digest(CLUSTER, kind, 3, term, index, block or bytes(32), reason)
    return {
        "kind": kind.name.lower(), "view": f"{term}.{index}", "block": block.hex(),
        "reason": reason, "signature": KEY.sign(digest).hex(),
    }  # fmt: skip


def evidence(*votes: Any, seat: int = 2) -> Any:
    return [{"seat": seat, "epoch": 3, "convicted": False, "votes": list(votes)}]


@pytest.mark.parametrize("term", range(6))  # both parities of the signature's point
def test_a_pair_of_votes_is_what_the_seat_signed(term: int) -> None:
    pair = (
        vote(VoteKind.NULLIFY, term, 1, reason=2),
        vote(VoteKind.FINALIZE, term, 4, b"\x11" * 32),
    )
    rows = json.loads(json.dumps(evidence(*pair)))
    found = [vote.fields() for vote in read_evidence(rows, 2)]
    assert [(v[0], *v[1:4], v[5]) for v in found] == [(2, 3, term, 1, 2), (3, 3, term, 4, 0)]
    assert [v[4] for v in found] == [bytes(32), b"\x11" * 32]
    for (kind, epoch, at_term, index, block, reason, r, vs), row in zip(found, pair, strict=True):
        s, v = bytes([vs[0] & 0x7F]) + vs[1:], bytes([27 + (vs[0] >> 7)])
        assert (r + s + v).hex() == row["signature"]
        digest = vote_digest(CLUSTER, VoteKind(kind), epoch, at_term, index, block, reason)
        assert address_of(recover(digest, r + s + v)) == KEY.address


GOOD = vote(VoteKind.NOTARIZE, 1, 0, b"\x11" * 32)


@pytest.mark.parametrize(
    "document",
    [
        5,
        {},
        [],
        evidence(GOOD),
        evidence(GOOD, GOOD, seat=3),
        evidence(GOOD, {}),
        evidence(GOOD, "vote"),
        evidence(GOOD, GOOD | {"kind": "boot"}),
        evidence(GOOD, GOOD | {"kind": ["notarize"]}),
        evidence(GOOD, GOOD | {"view": "1"}),
        evidence(GOOD, GOOD | {"view": "1.-1"}),
        evidence(GOOD, GOOD | {"reason": 256}),
        evidence(GOOD, GOOD | {"reason": True}),
        evidence(GOOD, GOOD | {"block": "11"}),
        evidence(GOOD, GOOD | {"signature": "00" * 64}),
        evidence(GOOD, GOOD | {"signature": "ff" * 65}),
        [{"seat": 2, "epoch": "3", "votes": [GOOD, GOOD]}],
    ],
)
def test_what_is_no_pair_of_that_seat_is_refused(document: Any) -> None:
    with pytest.raises(ValueError):
        read_evidence(document, 2)
