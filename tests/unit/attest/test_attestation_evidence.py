"""Containers of quote and event log: ours, and dstack's own in both of its forms."""

from __future__ import annotations

import msgpack
import pytest
from dstack_containers import scale, serde
from evidence_world import ENTRIES, EVENT_LOG, EVIDENCE, QUOTE
from hypothesis import given
from hypothesis import strategies as st

from attest import Evidence, EvidenceError, decode_attestation, parse_event_log
from attest.collateral import COLLATERAL_BYTES_MAX
from attest.event_log import EVENT_LOG_BYTES_MAX
from attest.evidence import EVIDENCE_BYTES_MAX, EVIDENCE_TAG
from attest.quotes import QUOTE_BYTES_MAX


def test_our_container_gives_back_what_went_in() -> None:
    assert Evidence.decode(EVIDENCE.encode()) == EVIDENCE
    bare = Evidence(QUOTE, EVENT_LOG)
    assert Evidence.decode(bare.encode()) == bare


@given(st.binary(max_size=40), st.binary(max_size=40), st.none() | st.binary(max_size=40))
def test_any_parts_survive_the_container(
    quote: bytes, event_log: bytes, collateral: bytes | None
) -> None:
    evidence = Evidence(quote, event_log, collateral)
    assert Evidence.decode(evidence.encode()) == evidence


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        7,
        ["another", 1, b"", b"", None],
        [EVIDENCE_TAG, 2, b"", b"", None],
        [EVIDENCE_TAG, True, b"", b"", None],
        [EVIDENCE_TAG, 1, "text", b"", None],
        [EVIDENCE_TAG, 1, b"", None, None],
        [EVIDENCE_TAG, 1, b"", b"", 0],
        [EVIDENCE_TAG, 1, b"", b""],
        [EVIDENCE_TAG, 1, bytes(QUOTE_BYTES_MAX + 1), b"", None],
        [EVIDENCE_TAG, 1, b"", bytes(EVENT_LOG_BYTES_MAX + 1), None],
        [EVIDENCE_TAG, 1, b"", b"", bytes(COLLATERAL_BYTES_MAX + 1)],
    ],
)
def test_other_values_are_no_evidence(value: object) -> None:
    with pytest.raises(EvidenceError):
        Evidence.decode(msgpack.packb(value))


def test_parts_beyond_their_bounds_are_not_packed() -> None:
    with pytest.raises(EvidenceError, match="quote"):
        Evidence(bytes(QUOTE_BYTES_MAX + 1), b"").encode()


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x95", bytes(EVIDENCE_BYTES_MAX + 1), b"\x90\x90"])
def test_bytes_that_are_no_container_are_refused(raw: bytes) -> None:
    with pytest.raises(EvidenceError):
        Evidence.decode(raw)


@pytest.mark.parametrize("raw", [scale(), serde(), serde(as_list=True)])
def test_dstacks_container_gives_the_same_quote_and_log(raw: bytes) -> None:
    evidence = decode_attestation(raw)
    assert evidence.quote == QUOTE
    assert parse_event_log(evidence.event_log) == parse_event_log(EVENT_LOG)
    assert evidence.collateral is None


def test_dstacks_container_of_another_platform_or_version_is_refused() -> None:
    for raw in (
        scale(variant=1),
        serde(version=2),
        serde(platform={"kind": "sev-snp", "data": {}}),
        serde(platform=None),
        serde(platform={"kind": "tdx", "data": {"quote": "text", "event_log": []}}),
        serde(platform={"kind": "tdx", "data": {"quote": [256], "event_log": []}}),
        serde(platform={"kind": "tdx", "data": {"quote": b"", "event_log": [1]}}),
        serde(platform={"kind": "tdx", "data": {"quote": b"", "event_log": [{}] * 600}}),
    ):
        with pytest.raises(EvidenceError):
            decode_attestation(raw)


def test_an_event_whose_digest_lies_is_refused_in_the_container_too() -> None:
    lying = [{**ENTRIES[0], "digest": "00" * 48}, *ENTRIES[1:]]
    with pytest.raises(EvidenceError, match="digest"):
        decode_attestation(scale(entries=lying))


def test_scale_bytes_are_read_to_the_last_and_in_their_shortest_form() -> None:
    for raw in (scale() + b"\0", scale()[:-1], scale(count=len(ENTRIES) + 1), b"\0\0\xff", b"\0"):
        with pytest.raises(EvidenceError):
            decode_attestation(raw)
    with pytest.raises(EvidenceError, match="shortest"):
        decode_attestation(b"\0\0" + b"\x01\x00")


@given(st.binary(max_size=200))
def test_any_bytes_give_evidence_or_the_one_error(raw: bytes) -> None:
    for decode in (Evidence.decode, decode_attestation):
        try:
            decode(raw)
        except EvidenceError:
            continue
