"""Report data differ whenever anything of the session differs, and match dstack's conventions."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from evidence_world import MOCK, VECTORS

from attest.binding import report_data, tagged_report_data

SESSION: dict[str, Any] = {
    "cluster_id": b"\x01" * 32,
    "prover_peer": b"\x02" * 37,
    "verifier_peer": b"\x03" * 37,
    "prover_nonce": b"\x04" * 32,
    "verifier_nonce": b"\x05" * 32,
    "session": b"\x08" * 32,
    "seat": 6,
    "incarnation": 7,
}


def test_the_text_that_is_hashed_is_pinned() -> None:
    fields = [
        b"dstack-cluster/attested-session/v1",
        b"\x01" * 32,
        b"\x02" * 37,
        b"\x03" * 37,
        b"\x04" * 32,
        b"\x05" * 32,
        b"\x08" * 32,
        bytes(31) + b"\x06",
        bytes(7) + b"\x07",
    ]
    text = b"".join(len(field).to_bytes(4, "big") + field for field in fields)
    assert report_data(**SESSION) == hashlib.sha512(text).digest()


def test_every_part_of_the_session_counts() -> None:
    other: dict[str, Any] = {
        **{name: value[:-1] + b"\xff" for name, value in SESSION.items() if type(value) is bytes},
        "seat": 7,
        "incarnation": 6,
    }
    found = {report_data(**SESSION)}
    found |= {report_data(**{**SESSION, name: other[name]}) for name in SESSION}
    assert len(found) == 1 + len(SESSION)


def test_the_other_sides_quote_is_another_text() -> None:
    turned = {
        **SESSION,
        "prover_peer": SESSION["verifier_peer"],
        "verifier_peer": SESSION["prover_peer"],
        "prover_nonce": SESSION["verifier_nonce"],
        "verifier_nonce": SESSION["prover_nonce"],
    }
    assert report_data(**turned) != report_data(**SESSION)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prover_nonce": b"\x04" * 31},
        {"verifier_nonce": b""},
        {"session": b"\x08" * 64},
        {"prover_peer": b""},
        {"verifier_peer": b"\x03" * 129},
        {"cluster_id": b""},
        {"seat": -1},
        {"seat": 1 << 256},
        {"incarnation": 1 << 64},
    ],
)
def test_fields_of_the_wrong_size_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"has|below"):
        report_data(**{**SESSION, **wrong})


@pytest.mark.parametrize("vector", VECTORS["report_data"])
def test_dstacks_own_tags_give_the_vectors(vector: dict[str, str]) -> None:
    content = bytes.fromhex(vector["content_hex"])
    assert tagged_report_data(vector["tag"], content).hex() == vector["sha512"]


def test_the_mock_quote_says_what_its_vector_tells() -> None:
    assert tagged_report_data("app-data", b"hello").hex() == MOCK["report_data_hex"]
