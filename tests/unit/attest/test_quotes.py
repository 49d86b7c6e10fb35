"""Quotes are read field by field, within bounds, and nothing unsigned comes with them."""

from __future__ import annotations

import struct

import pytest
from evidence_world import MOCK, QUOTE, REPORT_DATA, with_byte
from hypothesis import given
from hypothesis import strategies as st

from attest.errors import QuoteError
from attest.quotes import QUOTE_BYTES_MAX, parse_quote


def as_v5(body_type: int, size: int, more: bytes = b"") -> bytes:
    """The mock quote in version 5's layout; its signature no longer fits."""
    header = struct.pack("<H", 5) + QUOTE[2:48]
    return header + struct.pack("<HI", body_type, size) + QUOTE[48:632] + more + QUOTE[632:]


def test_a_version_4_quote_gives_its_fields() -> None:
    quote = parse_quote(QUOTE)
    assert (quote.version, quote.body_type) == (4, 2)
    assert quote.report_data == REPORT_DATA
    assert quote.rtmrs[3].hex() == MOCK["rtmr3_hex"]
    assert quote.mr_td == b"\x11" * 48
    assert quote.signed == QUOTE[:632]
    assert quote.pck_chain.startswith(b"-----BEGIN CERTIFICATE-----")
    assert quote.mr_service_td is None
    assert quote.is_closed
    assert not quote.is_debug


def test_version_5_names_its_body() -> None:
    quote = parse_quote(as_v5(2, 584))
    assert (quote.version, quote.body_type, quote.report_data) == (5, 2, REPORT_DATA)
    assert quote.tee_tcb_svn2 is None
    more = bytes(range(16)) + b"\x07" * 48
    quote = parse_quote(as_v5(3, 648, more))
    assert quote.tee_tcb_svn2 == bytes(range(16))
    assert quote.mr_service_td == b"\x07" * 48
    assert len(quote.signed) == 48 + 6 + 648


@pytest.mark.parametrize(("body_type", "size"), [(1, 384), (2, 648), (3, 584), (4, 648), (2, 0)])
def test_other_bodies_are_refused(body_type: int, size: int) -> None:
    with pytest.raises(QuoteError, match="body"):
        parse_quote(as_v5(body_type, size))


@pytest.mark.parametrize(
    ("at", "value", "what"),
    [
        (0, 3, "version"),
        (2, 3, "attestation key type"),
        (4, 0, "TEE type"),
        (12, 0, "vendor"),
        (764, 5, "certification type"),
    ],
)
def test_another_kind_of_quote_is_refused(at: int, value: int, what: str) -> None:
    with pytest.raises(QuoteError, match=what):
        parse_quote(QUOTE[:at] + bytes([value]) + QUOTE[at + 1 :])


def test_a_padded_buffer_is_read_but_nothing_else_may_follow() -> None:
    assert parse_quote(QUOTE + bytes(100)) == parse_quote(QUOTE)
    with pytest.raises(QuoteError, match="end"):
        parse_quote(QUOTE + b"\0\1")
    with pytest.raises(QuoteError, match="at most"):
        parse_quote(QUOTE + bytes(QUOTE_BYTES_MAX))


@given(st.integers(0, len(QUOTE) - 1))
def test_a_quote_that_ends_early_is_refused(size: int) -> None:
    with pytest.raises(QuoteError):
        parse_quote(QUOTE[:size])


@pytest.mark.parametrize("bit", range(64))
def test_every_attribute_that_is_not_known_to_be_harmless_opens_the_machine(bit: int) -> None:
    quote = parse_quote(with_byte(QUOTE, 48 + 120 + bit // 8, 1 << bit % 8))
    assert quote.is_closed == (bit in (27, 30, 31, 63))
    assert quote.is_debug == (bit < 8)
