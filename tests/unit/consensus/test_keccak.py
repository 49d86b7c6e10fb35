"""The fast way to Keccak-256 gives what the public one gives."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consensus import keccak
from consensus.keccak import keccak256, plain


def test_the_vectors_of_ethereum() -> None:
    empty = "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470"
    assert keccak256(b"").hex() == plain(b"").hex() == empty
    assert keccak256(b"abc").hex().startswith("4e03657aea45a94fc7d47ba826c8d667")


def test_the_c_functions_are_used() -> None:
    assert keccak256 is not plain


@given(st.binary(max_size=700))
def test_both_ways_give_the_same(data: bytes) -> None:
    assert keccak._direct()(data) == plain(data)
