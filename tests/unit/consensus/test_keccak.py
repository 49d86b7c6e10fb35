"""Keccak-256 is Ethereum's, and that of an independent implementation."""

from __future__ import annotations

from Crypto.Hash import keccak
from hypothesis import given
from hypothesis import strategies as st

import attest.keys
from consensus.keccak import keccak256


def test_the_vectors_of_ethereum() -> None:
    empty = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak256(b"").hex() == empty
    assert keccak256(b"abc").hex().startswith("4e03657aea45a94fc7d47ba826c8d667")


@given(st.binary(max_size=700))
def test_another_implementation_gives_the_same(data: bytes) -> None:
    other = keccak.new(digest_bits=256, data=data).digest()
    assert keccak256(data) == attest.keys.keccak256(data) == other
