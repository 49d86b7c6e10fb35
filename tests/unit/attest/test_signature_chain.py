"""dstack's signature chains: genuine ones verify, every altered one is refused for its reason."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eth_abi.abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import (
    PUBLIC_TEST_ROOTS,
    ChainFault,
    KeyProof,
    SecretKey,
    SignatureChainError,
    TrustedRoot,
    VerifiedChain,
    address_of_key,
    checksum_address,
    compressed_to_xy,
    from_evm_signature,
    keccak256,
    node_purpose,
    to_evm_signature,
    verify_chain,
)
from attest.chain import claim_v0, claim_v1, kms_message
from attest.keys import CURVE_ORDER, recover_key, signature_defect

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "dstack.json").read_text())
ISSUERS = {
    **VECTORS["simulators"],
    "from_root": VECTORS["kms_chain_from_root"],
}
PURPOSE = "dstack-cluster-node-v1/" + "ab" * 32
NOW_S = 1_800_000_000


def secp(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["algorithm"] == "secp256k1"]


def chains() -> list[Any]:
    found = []
    for name, issuer in ISSUERS.items():
        for scheme, entries in ((0, issuer["get_key_v0"]), (1, issuer.get("get_key_v1", []))):
            for entry in secp(entries):
                purpose = (
                    entry["purpose"]
                    if scheme == 0
                    else bytes.fromhex(entry["domain_utf8_hex"]).decode()
                )
                proof = KeyProof(
                    scheme,
                    purpose,
                    bytes.fromhex(entry["public_key"]),
                    bytes.fromhex(issuer["app_id"]),
                    *(bytes.fromhex(item) for item in entry["signature_chain"]),
                )
                found.append(pytest.param(issuer, proof, id=f"{name}-v{scheme}-{purpose}"))
    assert len(found) >= 15
    return found


def root_of(issuer: dict[str, Any]) -> TrustedRoot:
    return TrustedRoot(bytes.fromhex(issuer["kms_root_address"][2:]), epoch=1)


def check(proof: KeyProof, *roots: TrustedRoot, **changes: Any) -> VerifiedChain:
    pins: dict[str, Any] = {"purpose": proof.purpose, "app_id": proof.app_id, "now_s": NOW_S}
    return verify_chain(proof, roots=roots, **(pins | changes))


def refused(proof: KeyProof, *roots: TrustedRoot, **changes: Any) -> ChainFault:
    with pytest.raises(SignatureChainError) as caught:
        check(proof, *roots, **changes)
    assert str(caught.value).startswith(caught.value.fault.value)
    return caught.value.fault


@pytest.mark.parametrize(("issuer", "proof"), chains())
def test_every_upstream_chain_verifies_and_yields_the_app_key(
    issuer: dict[str, Any], proof: KeyProof
) -> None:
    verified = check(proof, root_of(issuer), insecure_simulator=True)
    assert verified.app_key.hex() == issuer["app_root_public_key"]
    assert verified.root == root_of(issuer).address
    assert verified.root_epoch == 1
    assert verified.proof == proof


@pytest.mark.parametrize(("issuer", "proof"), chains())
def test_the_published_roots_are_refused_even_when_they_are_listed(
    issuer: dict[str, Any], proof: KeyProof
) -> None:
    assert refused(proof, root_of(issuer)) is ChainFault.TEST_ROOT
    # And the flag alone does not make them trusted.
    stranger = TrustedRoot(b"\x01" * 20, epoch=1)
    assert refused(proof, stranger, insecure_simulator=True) is ChainFault.UNTRUSTED_ROOT


@pytest.mark.parametrize(("issuer", "proof"), chains())
def test_no_field_of_a_chain_can_be_exchanged(issuer: dict[str, Any], proof: KeyProof) -> None:
    other_key = bytes.fromhex(issuer["app_root_public_key"])
    changed = [
        replace(proof, scheme=1 - proof.scheme),
        replace(proof, purpose=proof.purpose + "x"),
        replace(proof, public_key=other_key),
        replace(proof, app_id=b"\x01" * 20),
        replace(proof, app_signature=proof.kms_signature),
        replace(proof, kms_signature=proof.app_signature),
        replace(proof, app_signature=flip(proof.app_signature, 64)),
        replace(proof, kms_signature=flip(proof.kms_signature, 64)),
    ]
    for other in changed:
        assert refused(other, root_of(issuer), insecure_simulator=True) in (
            ChainFault.UNTRUSTED_ROOT,
            ChainFault.APP_SIGNATURE_UNRECOVERABLE,
            ChainFault.KMS_SIGNATURE_UNRECOVERABLE,
        )


def flip(data: bytes, index: int, mask: int = 1) -> bytes:
    return data[:index] + bytes([data[index] ^ mask]) + data[index + 1 :]


def test_claims_and_kms_messages_are_those_of_upstream() -> None:
    for issuer in ISSUERS.values():
        for entry in secp(issuer["get_key_v0"]):
            claim = claim_v0(entry["purpose"], bytes.fromhex(entry["public_key"]))
            assert claim.decode() == entry["claim"]
            assert keccak256(claim).hex() == entry["claim_keccak"]
    v1 = [e for i in ISSUERS.values() for e in i.get("get_key_v1", [])]
    for entry in v1 + VECTORS["guest_api_docs"]["v1"]:
        domain = bytes.fromhex(entry["domain_utf8_hex"]).decode()
        claim = claim_v1(domain, bytes.fromhex(entry["public_key"]), entry["algorithm"])
        assert claim.hex() == entry["claim_hex"]
        assert keccak256(claim).hex() == entry["claim_keccak"]
    for simulator in VECTORS["simulators"].values():
        message = kms_message(
            bytes.fromhex(simulator["app_id"]), bytes.fromhex(simulator["app_root_public_key"])
        )
        assert message.hex() == simulator["kms_message_hex"]
        assert keccak256(message).hex() == simulator["kms_message_keccak"]


def test_the_examples_of_the_api_documents_recover_to_their_app_key() -> None:
    docs = VECTORS["guest_api_docs"]
    app_key = SecretKey(bytes.fromhex(docs["app_root_private_key"])).public_key()
    for entry in docs["v0"] + docs["v1"]:
        signature = bytes.fromhex(entry["signature_chain"][0])
        assert signature_defect(signature) is None
        assert recover_key(signature, bytes.fromhex(entry["claim_keccak"])) == app_key


def test_addresses_follow_from_keys() -> None:
    for issuer in ISSUERS.values():
        root = address_of_key(bytes.fromhex(issuer["kms_root_public_key"]))
        assert checksum_address(root) == issuer["kms_root_address"]
        assert root in PUBLIC_TEST_ROOTS
        for entry in secp(issuer["get_key_v0"]):
            address = address_of_key(bytes.fromhex(entry["public_key"]))
            assert checksum_address(address) == entry["eth_address"]


@pytest.mark.parametrize("scheme", [0, 1])
def test_a_chain_under_a_private_root_verifies_with_its_epoch(world: Any, scheme: int) -> None:
    proof = world.proof(scheme, PURPOSE)
    verified = check(
        proof, TrustedRoot(b"\x01" * 20, epoch=9), world.root(), public_key=proof.public_key
    )
    assert (verified.root, verified.root_epoch) == (world.root().address, 7)
    assert verified.app_key == world.app.secret.public_key()


@pytest.mark.parametrize("scheme", [0, 1])
def test_a_chain_of_another_kms_is_refused(world: Any, other_world: Any, scheme: int) -> None:
    assert refused(other_world.proof(scheme, PURPOSE), world.root()) is ChainFault.UNTRUSTED_ROOT


def test_no_trusted_roots_means_no_trust(world: Any) -> None:
    assert refused(world.proof(0, PURPOSE)) is ChainFault.UNTRUSTED_ROOT


@pytest.mark.parametrize("scheme", [0, 1])
def test_what_the_verifier_pins_must_be_what_the_chain_claims(world: Any, scheme: int) -> None:
    proof = world.proof(scheme, PURPOSE)
    other = world.proof(scheme, PURPOSE[:-1] + "c").public_key
    root = world.root()
    assert refused(proof, root, purpose=PURPOSE + "x") is ChainFault.WRONG_PURPOSE
    assert refused(proof, root, app_id=b"\xab" * 20) is ChainFault.WRONG_APP_ID
    assert refused(proof, root, public_key=other) is ChainFault.WRONG_PUBLIC_KEY


def test_a_purpose_of_another_seat_instance_contract_or_chain_is_another_purpose(
    world: Any,
) -> None:
    place = {"chain_id": 31337, "contract": b"\xc0" * 20, "seat": 3, "instance_id": b"\x0a" * 20}
    mine = node_purpose(**place)
    proof = world.proof(0, mine)
    assert check(proof, world.root(), purpose=mine)
    for change in (
        {"chain_id": 1},
        {"contract": b"\xc1" * 20},
        {"seat": 4},
        {"instance_id": b"\x0b" * 20},
    ):
        other = node_purpose(**(place | change))
        assert refused(proof, world.root(), purpose=other) is ChainFault.WRONG_PURPOSE
        # Renaming the claim does not help: it is what the app key signed.
        renamed = replace(proof, purpose=other)
        assert refused(renamed, world.root()) is ChainFault.UNTRUSTED_ROOT


def test_a_published_kms_signature_cannot_be_paired_with_a_key_of_ones_own(world: Any) -> None:
    """The hole of the seed contract: an app signature by anybody beside a genuine KMS signature."""
    genuine = world.proof(0, PURPOSE)
    mallory = SecretKey(b"\x66" * 32)
    claim = claim_v0(PURPOSE, mallory.public_key())
    forged = replace(
        genuine,
        public_key=mallory.public_key(),
        app_signature=mallory.sign_recoverable(keccak256(claim)),
    )
    assert refused(forged, world.root()) is ChainFault.UNTRUSTED_ROOT


def bad_signatures(good: bytes) -> dict[str, bytes]:
    r, s = good[:32], int.from_bytes(good[32:64], "big")
    zero = bytes(32)
    high = (CURVE_ORDER - s).to_bytes(32, "big")
    return {
        "empty": b"",
        "truncated": good[:-1],
        "padded": good + b"\0",
        "recovery id 2": good[:64] + b"\x02",
        "recovery id 3": good[:64] + b"\x03",
        "recovery id 27": good[:64] + bytes([good[64] + 27]),
        "recovery id 255": good[:64] + b"\xff",
        "high s twin": r + high + bytes([good[64] ^ 1]),
        "s zero": r + zero + good[64:],
        "s at the order": r + CURVE_ORDER.to_bytes(32, "big") + good[64:],
        "r zero": zero + good[32:],
        "r at the order": CURVE_ORDER.to_bytes(32, "big") + good[32:],
        "all ones": b"\xff" * 65,
    }


@pytest.mark.parametrize("case", bad_signatures(b"\x01" * 65))
def test_signatures_in_any_other_than_the_canonical_form_are_refused(world: Any, case: str) -> None:
    proof = world.proof(0, PURPOSE)
    app = replace(proof, app_signature=bad_signatures(proof.app_signature)[case])
    kms = replace(proof, kms_signature=bad_signatures(proof.kms_signature)[case])
    assert refused(app, world.root()) is ChainFault.APP_SIGNATURE_ENCODING
    assert refused(kms, world.root()) is ChainFault.KMS_SIGNATURE_ENCODING


def test_the_high_s_twin_would_verify_but_for_the_check(world: Any) -> None:
    """So the case above is refused by the strictness and not by accident."""
    proof = world.proof(0, PURPOSE)
    twin = bad_signatures(proof.app_signature)["high s twin"]
    digest = keccak256(claim_v0(PURPOSE, proof.public_key))
    assert recover_key(twin, digest) == recover_key(proof.app_signature, digest)


def test_an_r_that_is_no_point_is_unrecoverable(world: Any) -> None:
    proof = world.proof(0, PURPOSE)
    # x = 5 is on no point of secp256k1: 5^3 + 7 has no square root in the field.
    nowhere = (5).to_bytes(32, "big") + proof.app_signature[32:]
    app = replace(proof, app_signature=nowhere)
    assert refused(app, world.root()) is ChainFault.APP_SIGNATURE_UNRECOVERABLE
    kms = replace(proof, kms_signature=nowhere)
    assert refused(kms, world.root()) is ChainFault.KMS_SIGNATURE_UNRECOVERABLE


def test_malformed_fields_are_named(world: Any) -> None:
    proof, root = world.proof(0, PURPOSE), world.root()
    x, y = compressed_to_xy(proof.public_key)
    assert refused(replace(proof, scheme=2), root) is ChainFault.BAD_SCHEME
    assert refused(replace(proof, scheme=-1), root) is ChainFault.BAD_SCHEME
    assert refused(replace(proof, app_id=b""), root) is ChainFault.BAD_APP_ID
    assert refused(replace(proof, app_id=b"\xaa" * 32), root) is ChainFault.BAD_APP_ID
    assert refused(replace(proof, purpose="p" * 2000), root) is ChainFault.BAD_PURPOSE
    assert refused(replace(proof, purpose="\ud800"), root) is ChainFault.BAD_PURPOSE
    for key in (
        b"",
        proof.public_key[:-1],
        proof.public_key + b"\0",
        b"\x04" + x + y,
        b"\x05" + x,
        b"\x00" * 33,
        b"\x02" + (5).to_bytes(32, "big"),
        b"\x02" + b"\xff" * 32,
    ):
        assert refused(replace(proof, public_key=key), root) is ChainFault.BAD_PUBLIC_KEY


def test_a_root_counts_only_inside_its_window(world: Any) -> None:
    proof = world.proof(1, PURPOSE)
    window = world.root(valid_from_s=100, valid_until_s=200)
    assert refused(proof, window, now_s=99) is ChainFault.ROOT_NOT_YET_VALID
    assert check(proof, window, now_s=100)
    assert check(proof, window, now_s=199)
    assert refused(proof, window, now_s=200) is ChainFault.ROOT_EXPIRED


def test_a_root_that_was_trusted_again_counts_under_its_newest_live_epoch(world: Any) -> None:
    proof, address = world.proof(0, PURPOSE), world.root().address
    old = TrustedRoot(address, 1, valid_until_s=100)
    current = TrustedRoot(address, 4)
    future = TrustedRoot(address, 5, valid_from_s=300)
    assert check(proof, old, current, future, now_s=50).root_epoch == 4
    assert check(proof, future, current, old, now_s=300).root_epoch == 5
    assert check(proof, old, future, now_s=50).root_epoch == 1
    assert refused(proof, old, future, now_s=200) is ChainFault.ROOT_NOT_YET_VALID


def test_a_zero_or_short_root_address_cannot_be_configured() -> None:
    for address in (bytes(20), b"\x01" * 19, b"\x01" * 32, b""):
        with pytest.raises(ValueError):
            TrustedRoot(address, epoch=1)
    with pytest.raises(ValueError):
        TrustedRoot(b"\x01" * 20, epoch=-1)


def test_signatures_change_between_the_two_forms_of_v(world: Any) -> None:
    signature = world.proof(0, PURPOSE).app_signature
    evm = to_evm_signature(signature)
    assert evm[:64] == signature[:64]
    assert evm[64] in (27, 28)
    assert from_evm_signature(evm) == signature
    for bad in (evm, signature[:64], signature[:64] + b"\x02"):
        with pytest.raises(ValueError):
            to_evm_signature(bad)
    for bad in (signature, evm[:64] + b"\x1d", evm + b"\0", bad_signatures(evm)["high s twin"]):
        with pytest.raises(ValueError):
            from_evm_signature(bad)


@given(
    chain_id=st.integers(0, 2**256 - 1),
    contract=st.binary(min_size=20, max_size=20),
    seat=st.integers(0, 2**256 - 1),
    instance_id=st.binary(min_size=20, max_size=20),
)
def test_the_purpose_hash_is_solidity_abi_encoding(
    chain_id: int, contract: bytes, seat: int, instance_id: bytes
) -> None:
    encoded = encode(
        ["uint256", "address", "uint256", "bytes20"], [chain_id, contract, seat, instance_id]
    )
    expected = "dstack-cluster-node-v1/" + keccak256(encoded).hex()
    assert node_purpose(chain_id, contract, seat, instance_id) == expected


def test_a_purpose_is_not_made_of_parts_of_the_wrong_size() -> None:
    good = (1, b"\x01" * 20, 1, b"\x02" * 20)
    for index, bad in ((0, -1), (0, 2**256), (1, b"\x01" * 19), (2, -1), (3, b""), (3, b"x" * 32)):
        parts = list(good)
        parts[index] = bad  # type: ignore[call-overload]
        with pytest.raises(ValueError):
            node_purpose(*parts)  # type: ignore[arg-type]


@settings(max_examples=60)
@given(
    field=st.sampled_from(["public_key", "app_id", "app_signature", "kms_signature"]),
    index=st.integers(0, 10**6),
    mask=st.integers(1, 255),
)
def test_one_changed_byte_anywhere_is_refused(field: str, index: int, mask: int) -> None:
    issuer = VECTORS["kms_chain_from_root"]
    proof: KeyProof = next(p.values[1] for p in chains() if p.values[0] is issuer)
    value = getattr(proof, field)
    other = replace(proof, **{field: flip(value, index % len(value), mask)})
    with pytest.raises(SignatureChainError):
        check(other, root_of(issuer), insecure_simulator=True)


@settings(max_examples=200)
@given(
    st.builds(
        KeyProof,
        scheme=st.integers(-1, 3),
        purpose=st.text(max_size=50),
        public_key=st.binary(max_size=70),
        app_id=st.one_of(st.binary(max_size=40), st.just(b"\xaa" * 20)),
        app_signature=st.binary(max_size=70),
        kms_signature=st.binary(max_size=70),
    )
)
def test_arbitrary_proofs_are_refused_with_the_one_error_type(proof: KeyProof) -> None:
    with pytest.raises(SignatureChainError):
        check(proof, TrustedRoot(b"\x01" * 20, epoch=1))
