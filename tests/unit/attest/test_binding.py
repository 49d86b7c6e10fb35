"""Report data is the hash of exactly one session of one member."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from attest import report_data

FIELDS: dict[str, Any] = {
    "cluster_id": b"\xc1" * 32,
    "prover_peer": b"\x00\x25prover",
    "verifier_peer": b"\x00\x25verifier",
    "prover_nonce": b"\x01" * 32,
    "verifier_nonce": b"\x02" * 32,
    "session": b"\x03" * 32,
    "seat": 7,
    "incarnation": 3,
}


def test_it_is_a_tagged_hash_over_length_prefixed_fields() -> None:
    fields = [
        b"dstack-cluster/attested-session/v1",
        FIELDS["cluster_id"],
        FIELDS["prover_peer"],
        FIELDS["verifier_peer"],
        FIELDS["prover_nonce"],
        FIELDS["verifier_nonce"],
        FIELDS["session"],
        (7).to_bytes(32, "big"),
        (3).to_bytes(8, "big"),
    ]
    text = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    assert report_data(**FIELDS) == hashlib.sha512(text).digest()


@pytest.mark.parametrize("name", FIELDS)
def test_each_field_changes_it(name: str) -> None:
    value = FIELDS[name]
    other = value + 1 if isinstance(value, int) else value[:-1] + b"\xff"
    assert report_data(**{**FIELDS, name: other}) != report_data(**FIELDS)


def test_what_proves_us_to_a_peer_does_not_prove_it_to_us() -> None:
    turned = {
        **FIELDS,
        "prover_peer": FIELDS["verifier_peer"],
        "verifier_peer": FIELDS["prover_peer"],
    }
    assert report_data(**turned) != report_data(**FIELDS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cluster_id", b""),
        ("cluster_id", bytes(65)),
        ("prover_peer", b""),
        ("verifier_peer", bytes(129)),
        ("prover_nonce", bytes(31)),
        ("verifier_nonce", bytes(33)),
        ("session", bytes(31)),
        ("seat", -1),
        ("seat", 1 << 256),
        ("incarnation", 1 << 64),
    ],
)
def test_a_field_of_the_wrong_size_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=" "):
        report_data(**{**FIELDS, name: value})
