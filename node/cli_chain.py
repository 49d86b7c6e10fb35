"""``dstack-cluster verify-chain``: check a key's signature chain, without agent or cluster.

No dstack SDK ships a verifier; this one needs a file and the address of the KMS root that you
trust. The file is a JSON object, the guest agent's answer to GetKey with what it was asked for:

    {"scheme": "v0", "purpose": "…", "public_key": "…", "app_id": "…",
     "signature_chain": ["…", "…"]}

A ``key`` field (the secret) is refused: a file to show around must not have it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from node.cli_attest import hex_option, read_bounded
from node.cli_talk import Failed, print_json
from node.cli_verdict import print_lines

if TYPE_CHECKING:
    from attest import KeyProof

FILE_BYTES_MAX = 64 * 1024
PURPOSE_CHARS_MAX = 1024
_FIELDS = frozenset({"scheme", "purpose", "domain", "public_key", "app_id", "signature_chain"})


def add_verify_chain(commands: Any) -> None:
    """Adds the command to the subparsers of the command line."""
    verify = commands.add_parser(
        "verify-chain", help="check a key's signature chain up to a KMS root that you name"
    )
    verify.add_argument("file", metavar="FILE", help="JSON: see docs/attestation.md")
    verify.add_argument(
        "--root",
        action="append",
        required=True,
        metavar="0x...",
        help="address of a trusted KMS root; may be given again",
    )
    verify.add_argument("--app-id", metavar="HEX", help="the app you expect; else the file's")
    verify.add_argument("--purpose", metavar="TEXT", help="the purpose (v0) or domain (v1) you "
                        "expect; else the file's")  # fmt: skip
    verify.add_argument("--public-key", metavar="HEX", help="the key you expect; else the file's")
    verify.add_argument(
        "--insecure-simulator",
        action="store_true",
        help="accept the publicly known keys of the guest agent simulator",
    )
    verify.add_argument("--json", action="store_true", help="print JSON")
    verify.set_defaults(command=_verify)


def _verify(options: argparse.Namespace) -> int:
    from attest import SignatureChainError, TrustedRoot, checksum_address, verify_chain

    proof = read_proof(options.file)
    roots = []
    for number, text in enumerate(options.root):
        address = hex_option(text, "--root", 20)
        if address is None or not any(address):
            raise Failed("--root: expected an address")
        roots.append(TrustedRoot(address, number))
    app_id = hex_option(options.app_id, "--app-id", 20)
    document: dict[str, Any] = {"scheme": f"v{proof.scheme}"}
    try:
        chain = verify_chain(
            proof,
            purpose=proof.purpose if options.purpose is None else options.purpose,
            app_id=proof.app_id if app_id is None else app_id,
            roots=roots,
            now_s=int(time.time()),
            public_key=hex_option(options.public_key, "--public-key", 33),
            insecure_simulator=options.insecure_simulator,
        )
    except SignatureChainError as error:
        document |= {"valid": False, "fault": error.fault.value, "reason": str(error)}
    else:
        document |= {
            "valid": True,
            "root": checksum_address(chain.root),
            "app_id": proof.app_id.hex(),
            "app_key": chain.app_key.hex(),
            "purpose": proof.purpose,
            "public_key": proof.public_key.hex(),
            "taken_from_file": [
                name
                for name in ("app_id", "purpose", "public_key")
                if getattr(options, name) is None
            ],
        }
    print_json(document) if options.json else print_lines(document)
    return 0 if document["valid"] else 1


def read_proof(name: str) -> KeyProof:
    """The signature chain in a file, unverified. Raises Failed when it is not of that form."""
    from attest import AttestError, KeyProof, from_evm_signature
    from attest.strict_json import hex_bytes, hex_field, parse_object, text_field

    raw = read_bounded(name, FILE_BYTES_MAX)
    try:
        value: Mapping[str, Any] = parse_object(raw)
        if "key" in value:
            raise Failed(f"{name}: holds the secret key itself; take field key out of it")
        unknown = sorted(set(value) - _FIELDS)
        if unknown:
            raise Failed(f"{name}: unknown field {unknown[0][:40]!r}")
        if ("purpose" in value) == ("domain" in value):
            raise Failed(f"{name}: one of purpose (v0) and domain (v1) is expected")
        named = "purpose" if "purpose" in value else "domain"
        default = "v0" if named == "purpose" else "v1"
        scheme = text_field(value, "scheme", chars_max=8, default=default)
        if scheme not in ("v0", "v1"):
            raise Failed(f"{name}: field scheme is v0 or v1")
        chain = value.get("signature_chain")
        if not isinstance(chain, list) or len(chain) != 2:
            raise Failed(f"{name}: field signature_chain is a list of 2 signatures")
        signatures = [
            hex_bytes(item, f"field signature_chain[{index}]", 65)
            for index, item in enumerate(chain)
        ]
    except AttestError as error:
        raise Failed(f"{name}: {error}") from None
    try:
        # Signatures as a contract takes them are those of the agent but for the last byte.
        signatures = [from_evm_signature(s) if s[64] in (27, 28) else s for s in signatures]
        return KeyProof(
            scheme=int(scheme[1]),
            purpose=text_field(
                value, "purpose" if "purpose" in value else "domain", chars_max=1024
            ),
            public_key=hex_field(value, "public_key", 33),
            app_id=hex_field(value, "app_id", 20),
            app_signature=signatures[0],
            kms_signature=signatures[1],
        )
    except (AttestError, ValueError) as error:
        raise Failed(f"{name}: {error}") from None
