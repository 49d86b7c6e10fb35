"""A genuine TDX machine's quote under Intel's own root.

The quote (of dstack, ``verifier/fixtures/quote-report.json``) and its collateral (of dcap-qvl,
``sample/tdx_quote_outdated_collateral.json``) are not ours to hand on: they lie beside the
repository, and the tests are skipped where they do not. What must come out is in our vectors.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from evidence_world import ROOT, VECTORS, policy_for, with_byte

from attest import (
    Evidence,
    RefusalCode,
    parse_event_log,
    parse_policy,
    parse_quote,
    replay,
)
from attest.verifying import Verdict, verify_evidence

FIXTURES = Path(__file__).parents[4] / "shared" / "reference" / "fixtures"
GENUINE = VECTORS["genuine_cvm"]
NOW_S: int = GENUINE["now"]
EVENTS = {e["event"]: bytes.fromhex(e["payload"]) for e in GENUINE["rtmr3_events"]}

pytestmark = pytest.mark.skipif(
    not FIXTURES.is_dir(), reason="the genuine quote is not here: ../shared/reference/fixtures"
)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    report = json.loads((FIXTURES / "dstack-cvm-quote-report.json").read_text())
    collateral = (FIXTURES / "tdx-collateral-90C06F000000.json").read_bytes()
    return Evidence(bytes.fromhex(report["quote"]), report["event_log"].encode(), collateral)


@pytest.fixture(scope="module")
def document(evidence: Evidence) -> dict[str, Any]:
    found = policy_for(evidence.quote, EVENTS["compose-hash"])
    found["limits"]["collateral_age_s_max"] = 30 * 86400
    return found


def judge(evidence: Evidence, document: dict[str, Any], **changed: Any) -> Verdict:
    arguments: dict[str, Any] = {
        "report_data": b"\x12\x34" + bytes(62),
        "app_id": EVENTS["app-id"],
        "instance_id": EVENTS["instance-id"],
        "policy": parse_policy(json.dumps(document).encode()),
        "collateral": None,
        "now_s": NOW_S,
    }
    return verify_evidence(evidence, **{**arguments, **changed})


def test_it_is_up_to_date_at_its_date(evidence: Evidence, document: dict[str, Any]) -> None:
    assert hashlib.sha256(evidence.quote).hexdigest() == GENUINE["quote_sha256"]
    verdict = judge(evidence, document)
    assert verdict.accepted, verdict.reason()
    claims = verdict.facts.claims
    assert claims is not None
    assert claims.status == GENUINE["status"]
    assert claims.ppid.hex() == GENUINE["ppid"]
    assert claims.fmspc.hex().upper() == GENUINE["fmspc"]
    assert verdict.facts.device_id == hashlib.sha256(claims.ppid).digest()


def test_all_four_registers_replay(evidence: Evidence) -> None:
    quote = parse_quote(evidence.quote)
    replayed = replay(parse_event_log(evidence.event_log))
    assert replayed == quote.rtmrs
    assert [value.hex() for value in replayed] == GENUINE["rtmr"]
    assert quote.mr_td.hex() == GENUINE["mr_td"]


def test_a_stripped_log_replays_register_3(evidence: Evidence, document: dict[str, Any]) -> None:
    stripped = [
        {**entry, "digest": ""} if entry["imr"] == 3 else {**entry, "event_payload": ""}
        for entry in json.loads(evidence.event_log)
    ]
    only_3 = [entry for entry in stripped if entry["imr"] == 3]
    for entries in (stripped, only_3):
        verdict = judge(replace(evidence, event_log=json.dumps(entries).encode()), document)
        assert verdict.accepted, verdict.reason()


@pytest.mark.parametrize("days", [-400, -30, 30, 400])
def test_out_of_its_dates_it_is_refused(
    evidence: Evidence, document: dict[str, Any], days: int
) -> None:
    verdict = judge(evidence, document, now_s=NOW_S + days * 86400)
    assert verdict.refusal is RefusalCode.COLLATERAL_STALE


def test_under_another_root_it_is_refused(evidence: Evidence, document: dict[str, Any]) -> None:
    assert judge(evidence, document, root_ca_der=ROOT).refusal is RefusalCode.QUOTE_SIGNATURE


def test_one_flipped_bit_is_refused(evidence: Evidence, document: dict[str, Any]) -> None:
    chain_at = evidence.quote.index(b"-----BEGIN")
    for at in range(0, chain_at, 41):
        spoiled = replace(evidence, quote=with_byte(evidence.quote, at, 1 << at % 8))
        assert not judge(spoiled, document).accepted, f"byte {at}"


@pytest.mark.parametrize("flag", ["allow_dynamic_platform", "allow_cached_keys", "allow_smt"])
def test_its_platform_needs_the_policys_leave(
    evidence: Evidence, document: dict[str, Any], flag: str
) -> None:
    strict = {**document, "platform": {**document["platform"], flag: False}}
    assert judge(evidence, strict).refusal is RefusalCode.PLATFORM
