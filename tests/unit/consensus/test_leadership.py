"""The leadership certificate convinces who knows the set, and nothing forged does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clusters import CLUSTER_ID, Cluster, block
from hypothesis import given
from hypothesis import strategies as st

from consensus.errors import WireError
from consensus.leadership import Leadership, decode_leadership
from consensus.types import View, VoteKind

cluster = Cluster()
MADE = block(View(2, 3))
FINAL = cluster.certificate(VoteKind.FINALIZE, View(2, 3), MADE.hash)
LATER = Leadership(0, 2, cluster.leader(2), MADE.header, FINAL)
NULL = cluster.certificate(VoteKind.NULLIFY, View(1, 4))
EARLIER = Leadership(0, 2, cluster.leader(2), None, NULL)
FIRST = Leadership(0, 1, cluster.leader(1), None, None)


def _holds(proof: Leadership) -> bool:
    return proof.verify(cluster.validators, CLUSTER_ID, cluster.verifier)


@pytest.mark.parametrize("proof", [LATER, EARLIER, FIRST], ids=["final", "nullified", "first"])
def test_it_convinces_and_survives_the_wire(proof: Leadership) -> None:
    assert _holds(proof)
    assert decode_leadership(proof.encode()) == proof
    assert proof.token == (0, proof.term)


@pytest.mark.parametrize(
    ("what", "proof"),
    [
        ("another leader", replace(LATER, leader=cluster.leader(1))),
        ("another term", replace(LATER, term=3)),
        ("another epoch", replace(LATER, epoch=1)),
        ("no certificate", replace(LATER, certificate=None)),
        ("a notarization", replace(LATER, certificate=replace(FINAL, kind=VoteKind.NOTARIZE))),
        ("another header", replace(LATER, header=replace(MADE.header, height=9))),
        (
            "a proposer that the header does not name",
            replace(LATER, leader=7, header=replace(MADE.header, proposer=7)),
        ),
        ("too few parts", replace(LATER, certificate=replace(FINAL, parts=FINAL.parts[:2]))),
        ("a nullification of an older term", replace(EARLIER, term=3, leader=cluster.leader(3))),
        ("another leader in the order", replace(EARLIER, leader=cluster.leader(1))),
        ("nothing at all", replace(EARLIER, certificate=None)),
        ("term zero", Leadership(0, 0, cluster.leader(4), None, None)),
    ],
)
def test_it_does_not_convince_with(what: str, proof: Leadership) -> None:
    assert not _holds(proof)


def test_an_engine_shows_it_as_soon_as_its_term_began() -> None:
    engine, _ = cluster.booted(1)
    proof = engine.leadership()
    assert proof is not None
    assert _holds(proof)


@given(st.binary(max_size=80))
def test_any_other_bytes_are_a_wire_error(data: bytes) -> None:
    try:
        decode_leadership(data)
    except WireError:
        return
