"""dstack's signature chain: a KMS root vouches for an app key, the app key for a derived key.

    KMS root --signs--> "dstack-kms-issued:" app id, app key --signs--> claim(purpose, node key)

The app key is never taken from whoever shows the chain: it is recovered from the claim's
signature, and the KMS message is built with the recovered key. Were it an input, anybody could
pair a published (app key, KMS signature) with a claim signed by a key of his own.

The chain proves that the *app* got its keys from that KMS. It says nothing about which instance
shows it nor when: purpose binding, proof of possession and quotes add that.

Formats: dstack guest API v0 as frozen at 0.5.11, and v1 (0.6): ``docs/guest-api-v0.md``,
``docs/guest-api-v1.md`` and ``sdk/tests/vectors/signature_chain.json`` of Dstack-TEE/dstack.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .errors import ChainFault, SignatureChainError
from .keys import (
    ADDRESS_BYTES,
    address_of_key,
    checksum_address,
    is_public_key,
    keccak256,
    recover_key,
    signature_defect,
)

SCHEME_V0 = 0
SCHEME_V1 = 1

APP_ID_BYTES = 20
INSTANCE_ID_BYTES = 20
PURPOSE_BYTES_MAX = 1024
NODE_PURPOSE_PREFIX = "dstack-cluster-node-v1/"

KMS_MESSAGE_PREFIX = b"dstack-kms-issued:"
V1_CLAIM_TAG = b"dstack-guest-v1-key-claim"
V1_ALGORITHM = "secp256k1"

# Addresses of KMS roots whose private keys, or keys of apps under them, are in public sources:
# whoever reads those can forge any chain below them.
PUBLIC_TEST_ROOTS: dict[bytes, str] = {
    bytes.fromhex("8f2cf602c9695b23130367ed78d8f557554de7c5"): "guest-agent simulator up to 0.5.5",
    bytes.fromhex("a7f6043c29f9cc1d9d6acf554c53e0c6792aaeaf"): "guest-agent simulator from 0.5.6",
    bytes.fromhex("c4cfc07621383e38a109b72a570cd021989c439b"): "SDK test vectors",
}


@dataclass(frozen=True, slots=True)
class TrustedRoot:
    """A KMS root that is trusted, under the epoch number the registry gave it.

    ``address`` is the 20-byte Ethereum address of the root key. The window is
    ``valid_from_s <= now < valid_until_s`` in unix seconds; None leaves that side open.
    """

    address: bytes
    epoch: int
    valid_from_s: int | None = None
    valid_until_s: int | None = None

    def __post_init__(self) -> None:
        if len(self.address) != ADDRESS_BYTES or not any(self.address):
            raise ValueError("a root is a 20-byte address other than zero")
        if self.epoch < 0:
            raise ValueError("a root epoch is not negative")


@dataclass(frozen=True, slots=True)
class KeyProof:
    """A signature chain as somebody shows it: nothing in it is trusted yet.

    ``scheme`` 0 or 1 (guest API), ``purpose`` the v0 purpose or v1 domain, ``public_key`` the
    certified compressed key (33 bytes), ``app_id`` 20 bytes, both signatures 65 bytes with v 0/1.
    """

    scheme: int
    purpose: str
    public_key: bytes
    app_id: bytes
    app_signature: bytes
    kms_signature: bytes


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """What a valid chain establishes; only ``verify_chain`` makes these.

    ``app_key`` (33 bytes) was recovered; ``root`` (20-byte address) under ``root_epoch`` signed
    for it; ``claim`` are the bytes that the app key signed.
    """

    proof: KeyProof
    app_key: bytes
    root: bytes
    root_epoch: int
    claim: bytes


def node_purpose(chain_id: int, contract: bytes, seat: int, instance_id: bytes) -> str:
    """The one purpose text under which a node key is valid: one chain, contract, seat, instance.

    ``contract`` is 20 bytes, ``instance_id`` 20 bytes; the numbers fit uint256. The hash is
    keccak256(abi.encode(uint256, address, uint256, bytes20)), which the registry rebuilds.
    """
    if len(contract) != ADDRESS_BYTES:
        raise ValueError(f"a contract address has {ADDRESS_BYTES} bytes, got {len(contract)}")
    if len(instance_id) != INSTANCE_ID_BYTES:
        raise ValueError(f"an instance id has {INSTANCE_ID_BYTES} bytes, got {len(instance_id)}")
    if not (0 <= chain_id < 1 << 256 and 0 <= seat < 1 << 256):
        raise ValueError("chain id and seat are unsigned 256-bit numbers")
    encoded = (
        chain_id.to_bytes(32, "big")
        + contract.rjust(32, b"\0")
        + seat.to_bytes(32, "big")
        + instance_id.ljust(32, b"\0")
    )
    return NODE_PURPOSE_PREFIX + keccak256(encoded).hex()


def claim_v0(purpose: str, public_key: bytes) -> bytes:
    """The bytes that the app key signs (after keccak) in guest API v0: ``purpose:hex(key)``."""
    return purpose.encode() + b":" + public_key.hex().encode()


def claim_v1(domain: str, public_key: bytes, algorithm: str = V1_ALGORITHM) -> bytes:
    """The bytes that the app key signs (after keccak) in guest API v1, each part with its length.

    ``public_key`` is 33 bytes for secp256k1, 32 raw bytes for ed25519.
    """
    return b"".join(
        length_prefixed(part)
        for part in (V1_CLAIM_TAG, algorithm.encode(), domain.encode(), public_key)
    )


def length_prefixed(part: bytes) -> bytes:
    """``part`` after its length as 4 bytes big-endian."""
    return len(part).to_bytes(4, "big") + part


def kms_message(app_id: bytes, app_key: bytes) -> bytes:
    """The bytes that the KMS root signs (after keccak) when it issues an app key (33 bytes)."""
    return KMS_MESSAGE_PREFIX + app_id + app_key


def verify_chain(
    proof: KeyProof,
    *,
    purpose: str,
    app_id: bytes,
    roots: Iterable[TrustedRoot],
    now_s: int,
    public_key: bytes | None = None,
    insecure_simulator: bool = False,
) -> VerifiedChain:
    """Verify a signature chain against pinned values and trusted roots.

    ``purpose`` and ``app_id`` (20 bytes) are what the verifier demands, ``public_key`` the key it
    knows its peer by, if it does; ``now_s`` is unix time, compared with the roots' windows. The
    published test roots are refused even when listed, unless ``insecure_simulator``.

    Raises SignatureChainError; its ``fault`` names the step. Of a chain whose fields are well
    formed but altered, recovery yields some unrelated signer: that shows as UNTRUSTED_ROOT.
    """
    _check_fields(proof)
    if proof.purpose != purpose:
        raise SignatureChainError(
            ChainFault.WRONG_PURPOSE, f"expected purpose {purpose!r}, got {proof.purpose!r}"
        )
    if proof.app_id != app_id:
        raise SignatureChainError(
            ChainFault.WRONG_APP_ID, f"expected app {app_id.hex()}, got {proof.app_id.hex()}"
        )
    if public_key is not None and proof.public_key != public_key:
        raise SignatureChainError(
            ChainFault.WRONG_PUBLIC_KEY,
            f"expected key {public_key.hex()}, got a proof for {proof.public_key.hex()}",
        )

    make_claim = claim_v0 if proof.scheme == SCHEME_V0 else claim_v1
    claim = make_claim(proof.purpose, proof.public_key)
    app_key = _recover(
        proof.app_signature,
        claim,
        ChainFault.APP_SIGNATURE_ENCODING,
        ChainFault.APP_SIGNATURE_UNRECOVERABLE,
    )
    root_key = _recover(
        proof.kms_signature,
        kms_message(proof.app_id, app_key),
        ChainFault.KMS_SIGNATURE_ENCODING,
        ChainFault.KMS_SIGNATURE_UNRECOVERABLE,
    )
    root = _trusted_root(address_of_key(root_key), tuple(roots), now_s, insecure_simulator)
    return VerifiedChain(proof, app_key, root.address, root.epoch, claim)


def _check_fields(proof: KeyProof) -> None:
    if proof.scheme not in (SCHEME_V0, SCHEME_V1):
        raise SignatureChainError(
            ChainFault.BAD_SCHEME, f"expected scheme 0 or 1, got {proof.scheme}"
        )
    try:
        purpose_bytes = len(proof.purpose.encode())
    except UnicodeEncodeError:
        raise SignatureChainError(
            ChainFault.BAD_PURPOSE, "the purpose is not encodable text"
        ) from None
    if purpose_bytes > PURPOSE_BYTES_MAX:
        raise SignatureChainError(
            ChainFault.BAD_PURPOSE,
            f"expected at most {PURPOSE_BYTES_MAX} bytes of purpose, got {purpose_bytes}",
        )
    if len(proof.app_id) != APP_ID_BYTES:
        raise SignatureChainError(
            ChainFault.BAD_APP_ID, f"expected {APP_ID_BYTES} bytes, got {len(proof.app_id)}"
        )
    if not is_public_key(proof.public_key):
        raise SignatureChainError(
            ChainFault.BAD_PUBLIC_KEY, "the certified key is no compressed point of secp256k1"
        )


def _recover(
    signature: bytes, message: bytes, encoding: ChainFault, unrecoverable: ChainFault
) -> bytes:
    defect = signature_defect(signature)
    if defect is not None:
        raise SignatureChainError(encoding, defect)
    key = recover_key(signature, keccak256(message))
    if key is None:
        raise SignatureChainError(unrecoverable, "the signature belongs to no key")
    return key


def _trusted_root(
    signer: bytes, roots: tuple[TrustedRoot, ...], now_s: int, insecure_simulator: bool
) -> TrustedRoot:
    shown = checksum_address(signer)
    if signer in PUBLIC_TEST_ROOTS and not insecure_simulator:
        raise SignatureChainError(
            ChainFault.TEST_ROOT,
            f"root {shown} is the public test root of the {PUBLIC_TEST_ROOTS[signer]}; anybody can "
            "sign with it, so it is accepted only with --insecure-simulator",
        )
    named = [root for root in roots if root.address == signer]
    if not named:
        raise SignatureChainError(
            ChainFault.UNTRUSTED_ROOT,
            f"the chain ends in {shown}, which is none of {len(roots)} trusted roots: it was "
            "issued by another KMS, or key, purpose, app id or a signature is not the signed one",
        )
    # One root may be listed under several epochs (retired, then used again): the newest live one.
    live = [
        root
        for root in named
        if (root.valid_from_s is None or root.valid_from_s <= now_s)
        and (root.valid_until_s is None or now_s < root.valid_until_s)
    ]
    if live:
        return max(live, key=lambda root: root.epoch)
    newest = max(named, key=lambda root: root.epoch)
    if newest.valid_from_s is not None and now_s < newest.valid_from_s:
        raise SignatureChainError(
            ChainFault.ROOT_NOT_YET_VALID,
            f"root {shown} (epoch {newest.epoch}) is valid from {newest.valid_from_s}, "
            f"now is {now_s}",
        )
    raise SignatureChainError(
        ChainFault.ROOT_EXPIRED,
        f"root {shown} (epoch {newest.epoch}) was valid until {newest.valid_until_s}, "
        f"now is {now_s}",
    )
