"""What is signed is EIP-712, as wallets and contracts compute it."""

from __future__ import annotations

import pytest
from eth_account.messages import encode_typed_data

from consensus.digests import (
    boot_ack_digest,
    boot_digest,
    digest_of,
    keccak256,
    probe_answer_digest,
    vote_digest,
)
from consensus.types import ZERO_HASH, View, Vote, VoteKind

CHAIN_ID, CONTRACT = 31337, "0x5FbDB2315678afecb367f032d93F642f64180aa3"
DOMAIN = {
    "name": "dstack-cluster",
    "version": "1",
    "chainId": CHAIN_ID,
    "verifyingContract": CONTRACT,
}
CLUSTER_ID = keccak256(
    keccak256(
        b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
    )
    + keccak256(b"dstack-cluster")
    + keccak256(b"1")
    + CHAIN_ID.to_bytes(32, "big")
    + bytes(12)
    + bytes.fromhex(CONTRACT[2:])
)
BLOCK = bytes(range(32))
VOTE = [("epoch", "uint64"), ("term", "uint64"), ("index", "uint64")]
BOOT = [("seat", "uint256"), ("incarnation", "uint64"), ("bootId", "bytes32")]
TYPES = {
    "Notarize": [*VOTE, ("blockHash", "bytes32")],
    "Nullify": [*VOTE, ("reason", "uint8")],
    "Finalize": [*VOTE, ("blockHash", "bytes32")],
    "Boot": BOOT,
    "BootAck": BOOT,
    "ProbeAnswer": [
        ("seat", "uint256"),
        ("nonce", "bytes16"),
        ("incarnation", "uint64"),
        *VOTE,
        ("height", "uint64"),
        ("chainBlock", "uint64"),
        ("chainTimeMs", "uint64"),
    ],
}


def _typed(name: str, values: dict[str, object]) -> bytes:
    """The digest that eth_account makes of the same typed data."""
    fields = [{"name": field, "type": kind} for field, kind in TYPES[name]]
    message = encode_typed_data(DOMAIN, {name: fields}, values)
    assert message.header == CLUSTER_ID
    return keccak256(b"\x19\x01" + message.header + message.body)


CASES = [
    (VoteKind.NOTARIZE, 0, 1, 0, BLOCK, 0),
    (VoteKind.NOTARIZE, 7, 2**64 - 1, 2**63, BLOCK, 0),
    (VoteKind.NULLIFY, 3, 12, 5, ZERO_HASH, 4),
    (VoteKind.NULLIFY, 3, 12, 5, ZERO_HASH, 0),
    (VoteKind.FINALIZE, 3, 12, 5, BLOCK, 0),
]

GOLDEN_CLUSTER = "70cbfc76a89b18419ddb250f08a741aa9aeef4281df7c825058a5f9cc2b7bae4"
GOLDEN = [
    "126b03978c4e873f67317e4a794aa3245688ca5b2ae913aca5ddc52f119864c0",
    "d30c83e29353efc4b9f27c17f25644f2a920ba8e4dac845b15d20de6d2c4ae9d",
    "3fb21d7076a0e3da32c252fe4ef268fe0c39e440b30d9c01f9144a3b34b7983f",
    "c2e87b20b6100b1407958a394b08f0d54ca03a571d72e941795f4dcf8c44f72f",
    "d6ab6270357557da650c9afdb3ce9a475da5e234be792079f197f9a9b57b9abe",
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c[0].name} {c[2]}.{c[3]}")
def test_vote_digests_are_those_of_eth_account(case: tuple) -> None:
    kind, epoch, term, index, block, reason = case
    last = {"reason": reason} if kind is VoteKind.NULLIFY else {"blockHash": block}
    typed = _typed(kind.name.capitalize(), {"epoch": epoch, "term": term, "index": index, **last})
    assert vote_digest(CLUSTER_ID, kind, epoch, term, index, block, reason) == typed
    vote = Vote(kind, epoch, View(term, index), 1, block, reason, b"")
    assert digest_of(CLUSTER_ID, vote) == typed


def test_boot_digests_are_those_of_eth_account() -> None:
    values = {"seat": 2, "incarnation": 9, "bootId": BLOCK}
    assert boot_digest(CLUSTER_ID, 2, 9, BLOCK) == _typed("Boot", values)
    assert boot_ack_digest(CLUSTER_ID, 2, 9, BLOCK) == _typed("BootAck", values)


def test_the_digest_of_a_probe_answer_is_that_of_eth_account() -> None:
    nonce = bytes(range(16))
    numbers = {"incarnation": 9, "epoch": 1, "height": 4}
    typed = {"seat": 2, "nonce": nonce, "term": 2, "index": 3, **numbers}
    typed |= {"chainBlock": 5, "chainTimeMs": 6}
    digest = probe_answer_digest(
        CLUSTER_ID, 2, nonce, view=View(2, 3), chain_block=5, chain_time_ms=6, **numbers
    )
    assert digest == _typed("ProbeAnswer", typed)


def test_the_digests_of_known_votes_are_pinned() -> None:
    digests = [vote_digest(CLUSTER_ID, *case).hex() for case in CASES]
    assert CLUSTER_ID.hex() == GOLDEN_CLUSTER
    assert digests == GOLDEN


def test_every_field_changes_the_digest() -> None:
    base = (CLUSTER_ID, VoteKind.NOTARIZE, 1, 2, 3, BLOCK, 0)
    seen = {vote_digest(*base)}
    others = (bytes(32), VoteKind.FINALIZE, 9, 9, 9, bytes(32))
    for i, other in enumerate(others):
        changed = [*base]
        changed[i] = other  # type: ignore[call-overload]
        seen.add(vote_digest(*changed))  # type: ignore[arg-type]
    seen.add(vote_digest(CLUSTER_ID, VoteKind.NULLIFY, 1, 2, 3, ZERO_HASH, 0))
    seen.add(vote_digest(CLUSTER_ID, VoteKind.NULLIFY, 1, 2, 3, ZERO_HASH, 1))
    seen.add(boot_digest(CLUSTER_ID, 1, 2, BLOCK))
    seen.add(boot_ack_digest(CLUSTER_ID, 1, 2, BLOCK))
    assert len(seen) == 11
