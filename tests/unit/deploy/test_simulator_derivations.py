"""The simulator derives exactly what dstack's KMS and guest agent derive."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from attest import SecretKey, checksum_address
from deploy.simulator import (
    instance_id,
    new_kms_root,
    read_kms_root,
    root_address,
    write_kms_root,
)
from deploy.simulator.kms import (
    AppKeys,
    UnsupportedAlgorithm,
    get_key_v0,
    get_key_v1,
    hkdf,
    issue_app_keys,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "dstack.json").read_text())
FROM_ROOT = VECTORS["kms_chain_from_root"]
ISSUERS = [*VECTORS["simulators"].values(), FROM_ROOT]


def app_keys(issuer: dict[str, Any]) -> AppKeys:
    return AppKeys(
        bytes.fromhex(issuer["app_id"]),
        SecretKey(bytes.fromhex(issuer["app_root_private_key"])),
        bytes.fromhex(issuer["k256_signature"]),
    )


def test_a_kms_root_issues_the_app_keys_of_the_upstream_vectors() -> None:
    keys = issue_app_keys(
        bytes.fromhex(FROM_ROOT["kms_root_private_key"]), bytes.fromhex(FROM_ROOT["app_id"])
    )
    assert keys == app_keys(FROM_ROOT)
    root = root_address(bytes.fromhex(FROM_ROOT["kms_root_private_key"]))
    assert checksum_address(root) == FROM_ROOT["kms_root_address"]


@pytest.mark.parametrize("issuer", ISSUERS, ids=lambda issuer: issuer["app_id"][:8])
def test_v0_keys_and_chains_are_byte_equal_to_upstream(issuer: dict[str, Any]) -> None:
    for entry in issuer["get_key_v0"]:
        key = get_key_v0(app_keys(issuer), entry["path"], entry["purpose"], entry["algorithm"])
        assert key.key.hex() == entry["key"]
        assert key.public_key.hex() == entry["public_key"]
        assert [item.hex() for item in key.signature_chain] == entry["signature_chain"]


@pytest.mark.parametrize("issuer", ISSUERS[:2], ids=lambda issuer: issuer["app_id"][:8])
def test_v1_keys_and_chains_are_byte_equal_to_upstream(issuer: dict[str, Any]) -> None:
    for entry in issuer["get_key_v1"]:
        domain = bytes.fromhex(entry["domain_utf8_hex"]).decode()
        key = get_key_v1(app_keys(issuer), domain, entry["algorithm"])
        assert key.key.hex() == entry["key"]
        assert key.public_key.hex() == entry["public_key"]
        assert [item.hex() for item in key.signature_chain] == entry["signature_chain"]


def test_the_examples_of_the_api_documents_come_out_for_both_algorithms() -> None:
    docs = VECTORS["guest_api_docs"]
    app = AppKeys(b"", SecretKey(bytes.fromhex(docs["app_root_private_key"])), b"")
    assert {entry["algorithm"] for entry in docs["v1"]} == {"secp256k1", "ed25519"}
    for entry in docs["v1"]:
        domain = bytes.fromhex(entry["domain_utf8_hex"]).decode()
        key = get_key_v1(app, domain, entry["algorithm"])
        assert (key.key.hex(), key.public_key.hex()) == (entry["key"], entry["public_key"])
        assert key.signature_chain[0].hex() == entry["signature_chain"][0]
    for entry in docs["v0"]:
        key = get_key_v0(app, entry["path"], entry["purpose"], entry["algorithm"])
        assert (key.key.hex(), key.public_key.hex()) == (entry["key"], entry["public_key"])
        assert key.signature_chain[0].hex() == entry["signature_chain"][0]


def test_v0_ignores_the_algorithm_in_the_key_and_knows_its_names() -> None:
    app = app_keys(FROM_ROOT)
    plain = get_key_v0(app, "p", "x", "")
    assert get_key_v0(app, "p", "x", "secp256k1") == get_key_v0(app, "p", "x", "k256") == plain
    assert get_key_v0(app, "p", "x", "ed25519").key == plain.key
    assert len(get_key_v0(app, "p", "x", "ed25519").public_key) == 32
    for name in ("rsa", "SECP256K1", " secp256k1"):
        with pytest.raises(UnsupportedAlgorithm):
            get_key_v0(app, "p", "x", name)
        with pytest.raises(UnsupportedAlgorithm):
            get_key_v1(app, "p", name)
    with pytest.raises(UnsupportedAlgorithm):
        get_key_v1(app, "p", "")


def test_hkdf_is_that_of_the_rfc() -> None:
    # RFC 5869, test case 1, first block of its output.
    output = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)))
    assert output.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_an_instance_id_is_the_hash_of_seed_and_app() -> None:
    seed, app = b"\x01" * 20, b"\x02" * 20
    assert instance_id(seed, app) == hashlib.sha256(seed + app).digest()[:20]
    for bad in (b"", b"\x01" * 19, b"\x01" * 32):
        with pytest.raises(ValueError):
            instance_id(bad, app)


def test_new_roots_are_different_and_usable() -> None:
    roots = {new_kms_root() for _ in range(10)}
    assert len(roots) == 10
    assert all(len(root_address(root)) == 20 for root in roots)


def test_a_root_file_is_private_and_never_replaced(tmp_path: Path) -> None:
    path, secret = tmp_path / "root", new_kms_root()
    write_kms_root(str(path), secret)
    assert path.stat().st_mode & 0o777 == 0o600
    assert read_kms_root(str(path)) == secret
    with pytest.raises(FileExistsError):
        write_kms_root(str(path), new_kms_root())
    assert read_kms_root(str(path)) == secret


def test_a_root_file_that_others_can_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "root"
    write_kms_root(str(path), new_kms_root())
    for mode in (0o640, 0o604, 0o620):
        path.chmod(mode)
        with pytest.raises(ValueError, match="chmod 600"):
            read_kms_root(str(path))


@pytest.mark.parametrize(
    "content", ["", "00" * 32, "ff" * 32, "5e" * 31, "5e" * 33, "zz" * 32, "é"]
)
def test_a_root_file_with_anything_else_is_refused_without_quoting_it(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "root"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ValueError) as caught:
        read_kms_root(str(path))
    assert not content or content not in str(caught.value)


def test_derived_secrets_do_not_print() -> None:
    app = app_keys(FROM_ROOT)
    key = get_key_v0(app, "p", "x", "")
    assert key.key.hex() not in repr(key) and repr(key.key)[2:12] not in repr(key)
    assert FROM_ROOT["app_root_private_key"] not in repr(app)
