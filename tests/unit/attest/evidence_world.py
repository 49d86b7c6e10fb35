"""Evidence under the mock TDX PKI of the vectors, a policy that takes it, and how to spoil both."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attest import Collateral, Evidence, Policy, parse_collateral, parse_policy
from attest.quotes import parse_quote
from attest.verifying import Verdict, verify_evidence

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "attestation.json").read_text())
MOCK = VECTORS["mock_tdx"]
QUOTE = bytes.fromhex(MOCK["quote_hex"])
ENTRIES: list[dict[str, Any]] = MOCK["event_log"]
EVENT_LOG = json.dumps(ENTRIES).encode()
COLLATERAL_JSON = json.dumps(MOCK["collateral"]).encode()
ROOT = bytes.fromhex(MOCK["root_ca_der_hex"])
REPORT_DATA = bytes.fromhex(MOCK["report_data_hex"])
NOW_S: int = MOCK["now"]

EVIDENCE = Evidence(QUOTE, EVENT_LOG, COLLATERAL_JSON)
COLLATERAL: Collateral = parse_collateral(COLLATERAL_JSON)
PAYLOAD = {entry["event"]: bytes.fromhex(entry["event_payload"]) for entry in ENTRIES}
APP_ID = PAYLOAD["app-id"]
INSTANCE_ID = PAYLOAD["instance-id"]


def policy_for(quote: bytes, compose_hash: bytes) -> dict[str, Any]:
    """The document that takes exactly this machine and application, on any platform up to date."""
    parsed = parse_quote(quote)
    return {
        "version": 1,
        "measurements": {
            "registers": [
                {
                    "mrtd": parsed.mr_td.hex(),
                    "rtmr0": parsed.rtmrs[0].hex(),
                    "rtmr1": parsed.rtmrs[1].hex(),
                    "rtmr2": parsed.rtmrs[2].hex(),
                }
            ]
        },
        "os_images": None,
        "compose_hashes": [compose_hash.hex()],
        "devices": None,
        "key_providers": [
            {"name": "kms", "id_sha256": None},
            {"name": "local-sgx", "id_sha256": None},
        ],
        "tcb": {"statuses": {"UpToDate": None}, "advisories": []},
        "platform": {"allow_dynamic_platform": True, "allow_cached_keys": True, "allow_smt": True},
        # The mock's PCK revocation list is of 2020.
        "limits": {
            "collateral_age_s_max": 10 * 365 * 86400,
            "quote_age_s_max": 7200,
            "renewal_s": 3600,
        },
    }


DOCUMENT = policy_for(QUOTE, PAYLOAD["compose-hash"])


def policy(change: Callable[[dict[str, Any]], object] | None = None) -> Policy:
    """The policy that takes the mock's machine, after ``change`` to its document."""
    document = copy.deepcopy(DOCUMENT)
    if change is not None:
        change(document)
    return parse_policy(json.dumps(document).encode())


def verdict(evidence: Evidence = EVIDENCE, **changed: Any) -> Verdict:
    """The verdict on the mock's evidence, which accepts unless something is changed."""
    arguments: dict[str, Any] = {
        "report_data": REPORT_DATA,
        "app_id": APP_ID,
        "instance_id": INSTANCE_ID,
        "policy": policy(),
        "collateral": COLLATERAL,
        "now_s": NOW_S,
        "root_ca_der": ROOT,
    }
    return verify_evidence(evidence, **{**arguments, **changed})


def with_byte(raw: bytes, at: int, flip: int = 1) -> bytes:
    """``raw`` with some bits of one byte flipped."""
    return raw[:at] + bytes([raw[at] ^ flip]) + raw[at + 1 :]
