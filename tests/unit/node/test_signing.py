"""The direct way to libsecp256k1 accepts exactly what the public interface of coincurve accepts."""

from coincurve import PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from node import signing
from node.signing import RecoveringVerifier, recover, recover_plain

SECRET = PrivateKey(bytes(31) + b"\x07")
KEY = SECRET.public_key.format()
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def _signature(digest: bytes) -> bytes:
    made = SECRET.sign_recoverable(digest, hasher=None)
    return made[:64] + bytes((27 + made[64],))


def test_the_direct_way_is_used_with_the_locked_coincurve() -> None:
    assert recover is not recover_plain


@given(st.binary(min_size=32, max_size=32))
def test_a_signature_recovers_its_key(digest: bytes) -> None:
    assert recover(digest, _signature(digest)) == recover_plain(digest, _signature(digest)) == KEY
    assert RecoveringVerifier().verify(KEY, digest, _signature(digest))


@given(st.binary(min_size=32, max_size=32), st.integers(0, 64), st.integers(1, 255))
def test_both_ways_judge_a_damaged_signature_alike(digest: bytes, at: int, by: int) -> None:
    damaged = bytearray(_signature(digest))
    damaged[at] ^= by
    assert recover(digest, bytes(damaged)) == recover_plain(digest, bytes(damaged)) != KEY


@given(st.binary(max_size=70), st.binary(max_size=40))
def test_both_ways_judge_any_bytes_alike(signature: bytes, digest: bytes) -> None:
    assert recover(digest, signature) == recover_plain(digest, signature)


def test_high_s_and_values_out_of_range_are_refused() -> None:
    digest = bytes(range(32))
    made = _signature(digest)
    s = int.from_bytes(made[32:64], "big")
    high = made[:32] + (ORDER - s).to_bytes(32, "big") + bytes((55 - made[64],))
    zero_r, zero_s = bytes(32) + made[32:], made[:32] + bytes(32) + made[64:]
    beyond = ORDER.to_bytes(32, "big") + made[32:]
    for bad in (high, zero_r, zero_s, beyond, made[:64], made[:64] + b"\x1d", made[:64] + b"\0"):
        assert recover(digest, bad) is None
        assert recover_plain(digest, bad) is None


def test_without_the_functions_that_we_know_the_public_interface_is_used(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    def missing() -> None:
        raise AttributeError("secp256k1_ecdsa_recover")

    monkeypatch.setattr(signing, "_direct", missing)
    assert signing._chosen() is recover_plain
