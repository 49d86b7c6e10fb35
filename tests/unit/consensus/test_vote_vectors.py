"""``tests/vectors/votes.json``: what members sign, checked by the Python and the Solidity tests.

Both read the same file, so neither side can change what a vote signs without the other.
Digests in it are eth_account's and keys are recovered by eth_keys, so not ours. When a change is
meant, ``REWRITE=1`` writes it anew.
"""

from __future__ import annotations

import json
import os
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from coincurve import PrivateKey
from eth_account.messages import encode_typed_data
from eth_keys.datatypes import Signature
from eth_utils import keccak

from chain.eip712 import domain_separator
from consensus.certificates import conflict, verify_certificate
from consensus.codec import make_block, pack_certificate
from consensus.compact import compact_parts, read_compact_parts
from consensus.digests import HEADER_BYTES, block_hash, digest_of, header_bytes
from consensus.epochs import ends_epoch
from consensus.errors import WireError
from consensus.leadership import Leadership, decode_leadership
from consensus.types import (
    ZERO_HASH,
    Block,
    Boundary,
    Certificate,
    NextEpoch,
    Part,
    Reason,
    View,
    Vote,
    VoteKind,
)
from consensus.validators import Validator, ValidatorSet
from node.signing import NodeSigner, RecoveringVerifier

FILE = Path(__file__).parents[2] / "vectors" / "votes.json"
CHAIN_ID, CONTRACT = 31337, bytes.fromhex("5FbDB2315678afecb367f032d93F642f64180aa3")
DOMAIN = {
    "name": "dstack-cluster",
    "version": "1",
    "chainId": CHAIN_ID,
    "verifyingContract": "0x" + CONTRACT.hex(),
}
WHERE = "uint64 epoch,uint64 term,uint64 index"
TYPES = {
    VoteKind.NOTARIZE: f"Notarize({WHERE},bytes32 blockHash)",
    VoteKind.NULLIFY: f"Nullify({WHERE},uint8 reason)",
    VoteKind.FINALIZE: f"Finalize({WHERE},bytes32 blockHash)",
}
CLUSTER_ID = domain_separator(CHAIN_ID, CONTRACT)
SECRETS = {seat: PrivateKey(keccak(b"vector member %d" % seat)) for seat in (1, 2, 3, 5)}
WEIGHTS = {1: 4, 2: 3, 3: 3, 5: 1}  # seat 4 is nobody's; a quorum is 8 of 11, a join 4
VERIFIER = RecoveringVerifier()
MAX = 2**64 - 1


def _members(epoch: int) -> ValidatorSet:
    rows = (Validator(s, w, SECRETS[s].public_key.format()) for s, w in WEIGHTS.items())
    return ValidatorSet(epoch, tuple(rows), keccak(b"vector seed"))


def _vote(seat: int, kind: VoteKind, at: tuple[int, int, int], what: bytes | int) -> Vote:
    epoch, term, index = at
    block, reason = (ZERO_HASH, what) if isinstance(what, int) else (what, 0)
    vote = Vote(kind, epoch, View(term, index), seat, block, reason, b"")
    signature = NodeSigner(_Secret(SECRETS[seat])).sign(digest_of(CLUSTER_ID, vote))
    return vote._replace(signature=signature)


class _Secret:
    def __init__(self, key: PrivateKey) -> None:
        self._key = key

    def sign_recoverable(self, digest: bytes) -> bytes:
        return self._key.sign_recoverable(digest, hasher=None)


def _certificate(
    seats: tuple[int, ...], kind: VoteKind, at: tuple[int, int, int], what: Any
) -> Certificate:
    """``what`` is a block's hash, or each seat's reason."""
    votes = [
        _vote(s, kind, at, what[i] if isinstance(what, tuple) else what)
        for i, s in enumerate(seats)
    ]
    parts = tuple(Part(v.seat, v.reason, v.signature) for v in votes)
    return Certificate(kind, at[0], View(*at[1:]), votes[0].block, parts)


def _block(at: tuple[int, int, int], height: int, parent: bytes, **more: Any) -> Block:
    epoch, term, index = at
    return make_block(
        CLUSTER_ID,
        epoch=epoch,
        view=View(term, index),
        proposer=3,
        height=height,
        parent=parent,
        time_ms=1_764_000_000_000 + 300 * index % 2**32,
        state_height=height - 1,
        state_hash=keccak(b"state %d" % (height - 1)),
        commands=(),
        nullifications=more.get("nullifications", ()),
        next_epoch=more.get("next_epoch"),
    )


NULLIFIED = _certificate((1, 2, 5), VoteKind.NULLIFY, (3, 1, 4), (1, 4, 11))
RECORD = NextEpoch(
    4, 1_234_567, keccak(b"chain"), keccak(b"digest"), keccak(b"seed"), _members(3).validators[:3]
)
BOUNDARY = _block((3, 2, 0), 41, keccak(b"p"), nullifications=(NULLIFIED,), next_epoch=RECORD)
CHILD = _block((3, 2, 1), 42, BOUNDARY.hash, next_epoch=RECORD)
FINAL = _certificate((1, 2, 3), VoteKind.FINALIZE, (3, 2, 1), CHILD.hash)
FIRST = _block((0, 1, 0), 1, keccak(b"genesis"))
LAST = _block((2**40, MAX, MAX), MAX - 1, keccak(b"p"))
BLOCKS = (FIRST, BOUNDARY, CHILD, LAST)
CERTIFICATES = (
    _certificate((1, 2, 3, 5), VoteKind.NOTARIZE, (0, 1, 0), FIRST.hash),
    _certificate((2, 3, 5), VoteKind.NOTARIZE, (0, 1, 0), FIRST.hash),  # weight 7: no quorum
    NULLIFIED,
    FINAL,
)
VOTES = (
    _vote(1, VoteKind.NOTARIZE, (0, 1, 0), FIRST.hash),
    _vote(2, VoteKind.NOTARIZE, (0, 1, 0), BOUNDARY.hash),
    _vote(2, VoteKind.NOTARIZE, (0, 1, 0), FIRST.hash),
    _vote(2, VoteKind.NOTARIZE, (0, 1, 1), FIRST.hash),
    _vote(2, VoteKind.NOTARIZE, (1, 1, 0), FIRST.hash),
    *(_vote(3, VoteKind.NULLIFY, (3, 2, 7), reason) for reason in Reason),
    _vote(3, VoteKind.NULLIFY, (3, 3, 0), 1),
    _vote(3, VoteKind.FINALIZE, (3, 2, 6), CHILD.hash),
    _vote(3, VoteKind.FINALIZE, (3, 2, 7), CHILD.hash),
    _vote(3, VoteKind.FINALIZE, (3, 2, 8), CHILD.hash),
    _vote(3, VoteKind.FINALIZE, (3, 2, 8), BOUNDARY.hash),
    _vote(5, VoteKind.NOTARIZE, (2**40, MAX, MAX), LAST.hash),
    _vote(5, VoteKind.NULLIFY, (2**40, MAX, MAX), 255),
    _vote(5, VoteKind.FINALIZE, (2**40, MAX, MAX), LAST.hash),
)
LEADERSHIP = Leadership(3, 2, 3, CHILD.header, FINAL)


def _hex(data: bytes) -> str:
    return "0x" + data.hex()


def _typed(vote: Vote) -> tuple[bytes, bytes]:
    """Struct hash and digest, by eth_account."""
    name, _, fields = TYPES[vote.kind][:-1].partition("(")
    described = [dict(zip(("type", "name"), f.split(), strict=True)) for f in fields.split(",")]
    values: dict[str, object] = {"epoch": vote.epoch, "reason": vote.reason}
    values |= {"term": vote.view.term, "index": vote.view.index, "blockHash": vote.block}
    values = {field["name"]: values[field["name"]] for field in described}
    message = encode_typed_data(DOMAIN, {name: described}, values)
    return message.body, keccak(b"\x19\x01" + message.header + message.body)


def _vote_row(vote: Vote) -> dict[str, Any]:
    struct_hash, digest = _typed(vote)
    compact = compact_parts((Part(vote.seat, vote.reason, vote.signature),))
    return {
        "kind": int(vote.kind),
        "epoch": _word(vote.epoch),
        "term": _word(vote.view.term),
        "index": _word(vote.view.index),
        "blockHash": _hex(vote.block),
        "reason": vote.reason,
        "seat": vote.seat,
        "structHash": _hex(struct_hash),
        "digest": _hex(digest),
        "signature": _hex(vote.signature),
        "r": _hex(compact[5:37]),
        "vs": _hex(compact[37:]),
    }


def _word(value: int) -> str:
    """As text: not every reader of JSON keeps 64 bits."""
    return str(value)


def _certificate_row(c: Certificate) -> dict[str, Any]:
    return {
        "kind": int(c.kind),
        "epoch": _word(c.epoch),
        "term": _word(c.view.term),
        "index": _word(c.view.index),
        "blockHash": _hex(c.block),
        "seats": [part.seat for part in c.parts],
        "parts": _hex(compact_parts(c.parts)),
        "isQuorum": verify_certificate(c, _members(c.epoch), CLUSTER_ID, VERIFIER),
    }


def _block_row(block: Block) -> dict[str, Any]:
    return {
        "header": _hex(header_bytes(block.header)),
        "body": _hex(block.body),
        "bodyHash": _hex(block.header.body_hash),
        "hash": _hex(block.hash),
        "epoch": _word(block.header.epoch),
        "term": _word(block.header.view.term),
        "index": _word(block.header.view.index),
        "proposer": block.header.proposer,
    }


def _conflicts() -> list[list[int]]:
    """All pairs of places in ``VOTES`` that convict their signer, by the three pair rules."""
    pairs = combinations(range(len(VOTES)), 2)
    return [[a, b] for a, b in pairs if conflict(VOTES[a], VOTES[b])]


def _vectors() -> dict[str, Any]:
    return {
        "_about": "What members sign (EIP-712), headers and certificates, for the Python and the "
        "Solidity tests. 64-bit numbers are decimal text. Written by "
        "tests/unit/consensus/test_vote_vectors.py; the keys are public.",
        "domain": {**DOMAIN, "separator": _hex(CLUSTER_ID)},
        "types": [
            {"name": text.partition("(")[0], "type": text, "hash": _hex(keccak(text.encode()))}
            for text in TYPES.values()
        ],
        "members": [
            {
                "seat": v.seat,
                "weight": v.weight,
                "secret": _hex(SECRETS[v.seat].secret),
                "nodeKey": _hex(v.node_key),
                "address": _hex(keccak(SECRETS[v.seat].public_key.format(False)[1:])[12:]),
            }
            for v in _members(0).validators
        ],
        "votes": [_vote_row(vote) for vote in VOTES],
        "conflicts": _conflicts(),
        "blocks": [_block_row(block) for block in BLOCKS],
        "certificates": [_certificate_row(c) for c in CERTIFICATES],
        "boundary": {
            "header": _hex(header_bytes(BOUNDARY.header)),
            "body": _hex(BOUNDARY.body),
            "headers": _hex(header_bytes(CHILD.header)),
            "parts": _hex(compact_parts(FINAL.parts)),
            "nextEpoch": _word(RECORD.epoch),
            "chainBlock": _word(RECORD.chain_block),
        },
        "leadership": {
            "epoch": _word(LEADERSHIP.epoch),
            "term": _word(LEADERSHIP.term),
            "leader": LEADERSHIP.leader,
            "header": _hex(header_bytes(CHILD.header)),
            "parts": _hex(compact_parts(FINAL.parts)),
            "encoded": _hex(LEADERSHIP.encode()),
        },
    }


def test_the_committed_vectors_are_what_members_sign() -> None:
    found = _vectors()
    if os.environ.get("REWRITE"):
        FILE.write_text(json.dumps(found, indent=1) + "\n")
    assert json.loads(FILE.read_text()) == found


@pytest.mark.parametrize("vote", VOTES, ids=lambda v: f"{v.kind.name} {v.view} {v.reason}")
def test_each_vote_is_signed_over_the_digest_of_a_wallet(vote: Vote) -> None:
    _, digest = _typed(vote)
    assert digest_of(CLUSTER_ID, vote) == digest
    r, s, v = vote.signature[:32], vote.signature[32:64], vote.signature[64]
    vrs = (v - 27, int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    key = Signature(vrs=vrs).recover_public_key_from_msg_hash(digest)
    assert key.to_compressed_bytes() == SECRETS[vote.seat].public_key.format()


def test_both_values_of_v_and_all_three_pair_rules_are_in_it() -> None:
    assert {vote.signature[64] for vote in VOTES} == {27, 28}
    kinds = {(VOTES[a].kind, VOTES[b].kind) for a, b in _conflicts()}
    assert kinds == {
        (VoteKind.NOTARIZE, VoteKind.NOTARIZE),
        (VoteKind.NULLIFY, VoteKind.FINALIZE),
        (VoteKind.FINALIZE, VoteKind.FINALIZE),
    }


def test_parts_survive_the_compact_form() -> None:
    for c in CERTIFICATES:
        assert read_compact_parts(compact_parts(c.parts)) == c.parts
        assert len(compact_parts(c.parts)) < len(str(pack_certificate(c)))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: data[69:] + data[:69],
        lambda data: data[:69] + data[:69],
        lambda data: data[:4] + b"\x0c" + data[5:],
        lambda data: data * 100,
    ],
    ids=["cut off", "empty", "descending", "a seat twice", "no such reason", "too many"],
)
def test_other_bytes_are_no_parts(spoil: Any) -> None:
    with pytest.raises(WireError):
        read_compact_parts(spoil(compact_parts(FINAL.parts)))


def test_a_seat_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bits"):
        compact_parts((Part(2**32, 0, FINAL.parts[0].signature),))


def test_headers_boundary_and_leadership_hold_for_us() -> None:
    for block in BLOCKS:
        assert len(header_bytes(block.header)) == HEADER_BYTES == 152
        assert keccak(b"dstack-cluster/block/v2" + CLUSTER_ID + header_bytes(block.header)) == (
            block_hash(CLUSTER_ID, block.header)
        )
    assert ends_epoch(
        Boundary(BOUNDARY, FINAL, (CHILD.header,)), _members(3), CLUSTER_ID, VERIFIER
    )
    assert LEADERSHIP.verify(_members(3), CLUSTER_ID, VERIFIER)
    assert decode_leadership(LEADERSHIP.encode()) == LEADERSHIP
