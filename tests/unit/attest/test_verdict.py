"""The verdict: genuine evidence passes whole, and each thing that can be wrong gives its code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

import pytest
from evidence_world import (
    COLLATERAL,
    COLLATERAL_JSON,
    ENTRIES,
    EVENT_LOG,
    EVIDENCE,
    MOCK,
    NOW_S,
    PAYLOAD,
    QUOTE,
    policy,
    verdict,
    with_byte,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from attest import Evidence, RefusalCode, qvl
from attest.quotes import parse_quote
from attest.verifying import Verdict
from deploy.simulator import TdxPki


def refused(found: Verdict, code: RefusalCode) -> str:
    """Asserts the refusal; returns the line for the operator."""
    assert not found.accepted
    assert found.refusal is code, found.reason()
    return found.reason()


def test_the_mock_quote_is_accepted_with_every_check_told() -> None:
    found = verdict()
    assert found.accepted
    assert found.refusal is None
    assert found.reason() == ""
    assert all(check.passed and check.expected and check.came for check in found.checks)
    assert [check.name for check in found.checks] == [
        "policy",
        "quote",
        "td attributes",
        "tdx module",
        "collateral",
        "collateral dates",
        "signatures",
        "tcb status",
        "advisories",
        "platform",
        "device",
        "report data",
        "event log",
        "measurement",
        "os image",
        "compose hash",
        "app id",
        "instance id",
        "key provider",
    ]
    assert found.facts.claims is not None
    assert found.facts.claims.status == MOCK["expected_status"]
    assert found.facts.runtime is not None
    assert found.facts.runtime.instance_id == PAYLOAD["instance-id"]


def test_the_evidences_own_collateral_serves_where_none_is_given() -> None:
    assert verdict(collateral=None).accepted
    bare = Evidence(QUOTE, EVENT_LOG)
    refused(verdict(bare, collateral=None), RefusalCode.COLLATERAL_MISSING)
    broken = Evidence(QUOTE, EVENT_LOG, b"{}")
    refused(verdict(broken, collateral=None), RefusalCode.COLLATERAL_MISSING)
    assert verdict(broken).accepted


def test_collateral_of_another_family_is_refused() -> None:
    other = replace(COLLATERAL, fmspc=b"\x90\xc0\x6f\0\0\0")
    refused(verdict(collateral=other), RefusalCode.COLLATERAL_MISSING)


def test_without_a_policy_nobody_is_taken_and_everything_is_told() -> None:
    found = verdict(policy=None)
    refused(found, RefusalCode.NO_POLICY)
    assert {check.name: check.passed for check in found.checks}["signatures"]


def test_intels_root_is_the_one_that_counts_unless_told_otherwise() -> None:
    refused(verdict(root_ca_der=None), RefusalCode.QUOTE_SIGNATURE)
    refused(verdict(root_ca_der=b"no certificate"), RefusalCode.QUOTE_SIGNATURE)
    another = TdxPki.of_kms_root(b"\x11" * 32).root_der
    refused(verdict(root_ca_der=another), RefusalCode.QUOTE_SIGNATURE)


@pytest.mark.parametrize("now_s", [NOW_S + 31 * 86400, NOW_S - 2 * 86400, 0, -5, 1 << 70])
def test_out_of_its_dates_collateral_is_stale(now_s: int) -> None:
    refused(verdict(now_s=now_s), RefusalCode.COLLATERAL_STALE)


def test_collateral_older_than_the_policy_takes_is_stale() -> None:
    young = policy(lambda d: d["limits"].update(collateral_age_s_max=86400))
    refused(verdict(policy=young), RefusalCode.COLLATERAL_STALE)
    newer = policy(lambda d: d["tcb"].update(evaluation_number_min=2))
    refused(verdict(policy=newer), RefusalCode.COLLATERAL_STALE)


def test_one_flipped_bit_anywhere_in_the_quote_is_refused() -> None:
    # Every signed byte, every byte of signatures, keys and certificates; the certificate chain's
    # PEM armour is text of which some bytes (line ends) carry nothing.
    quote = parse_quote(QUOTE)
    chain_at = QUOTE.index(quote.pck_chain)
    for at in range(0, chain_at, 7):
        found = verdict(replace(EVIDENCE, quote=with_byte(QUOTE, at, 1 << at % 8)))
        assert not found.accepted, f"byte {at}"


@settings(max_examples=60)
@given(st.integers(0, 631), st.integers(0, 7))
def test_no_bit_of_the_signed_part_can_be_turned(at: int, bit: int) -> None:
    assert not verdict(replace(EVIDENCE, quote=with_byte(QUOTE, at, 1 << bit))).accepted


@pytest.mark.parametrize("name", ["tcb_info", "qe_identity"])
def test_changed_collateral_is_refused(name: str) -> None:
    text = getattr(COLLATERAL, name)
    changed = replace(COLLATERAL, **{name: text.replace('"issueDate"', '"issueDate" ')})
    refused(verdict(collateral=changed), RefusalCode.QUOTE_SIGNATURE)
    swapped = replace(COLLATERAL, pck_crl=COLLATERAL.root_ca_crl)
    assert not verdict(collateral=swapped).accepted


@pytest.mark.parametrize(
    ("at", "flip", "code"),
    [
        (48 + 120, 0x01, RefusalCode.DEBUG),
        (48 + 120 + 1, 0x80, RefusalCode.DEBUG),
        (48 + 120 + 3, 0x10, RefusalCode.DEBUG),
        (48 + 120 + 3, 0x20, RefusalCode.DEBUG),
        (48 + 64, 0x01, RefusalCode.TDX_MODULE),
        (0, 0x01, RefusalCode.BAD_QUOTE),
        (48 + 136, 0x01, RefusalCode.QUOTE_SIGNATURE),
    ],
)
def test_attributes_are_judged_and_named(at: int, flip: int, code: RefusalCode) -> None:
    refused(verdict(replace(EVIDENCE, quote=with_byte(QUOTE, at, flip))), code)


def test_a_service_machine_is_refused() -> None:
    v5 = b"\x05\x00" + QUOTE[2:48] + b"\x03\x00" + (648).to_bytes(4, "little")
    quote = v5 + QUOTE[48:632] + bytes(16) + b"\x01" * 48 + QUOTE[632:]
    line = refused(verdict(replace(EVIDENCE, quote=quote)), RefusalCode.TDX_MODULE)
    assert "MRSERVICETD" in line


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"report_data": bytes(64)}, RefusalCode.REPORT_DATA),
        ({"app_id": bytes(20)}, RefusalCode.APP_ID),
        ({"instance_id": bytes(20)}, RefusalCode.INSTANCE_ID),
        ({"instance_id": b""}, RefusalCode.INSTANCE_ID),
    ],
)
def test_another_session_app_or_instance_is_refused(wrong: Any, code: RefusalCode) -> None:
    line = refused(verdict(**wrong), code)
    assert "expected" in line


def test_an_auditor_may_leave_session_and_names_unjudged() -> None:
    assert verdict(report_data=None, app_id=None, instance_id=None).accepted


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (
            lambda d: d["measurements"]["registers"][0].update(rtmr2="00" * 48),
            RefusalCode.MEASUREMENT,
        ),
        (
            lambda d: d["measurements"]["registers"][0].update(mrtd="00" * 48),
            RefusalCode.MEASUREMENT,
        ),
        (lambda d: d.update(compose_hashes=["00" * 32]), RefusalCode.COMPOSE_HASH),
        (lambda d: d.update(os_images=["00" * 32]), RefusalCode.OS_IMAGE),
        (lambda d: d.update(devices=["00" * 32]), RefusalCode.DEVICE),
        (
            lambda d: d.update(key_providers=[{"name": "kms", "id_sha256": "00" * 32}]),
            RefusalCode.KEY_PROVIDER,
        ),
        (
            lambda d: d.update(key_providers=[{"name": "none", "id_sha256": None}]),
            RefusalCode.KEY_PROVIDER,
        ),
        (lambda d: d["tcb"].update(statuses={"OutOfDate": None}), RefusalCode.TCB_STATUS),
    ],
)
def test_what_the_policy_does_not_list_is_refused(change: Any, code: RefusalCode) -> None:
    refused(verdict(policy=policy(change)), code)


def test_what_the_policy_lists_is_accepted_by_any_of_its_names() -> None:
    facts = verdict().facts
    assert facts.digests is not None
    for name, value in (
        ("mr_system", facts.digests.system),
        ("mr_aggregated", facts.digests.aggregated),
        ("mr_aggregated_boot", facts.digests.aggregated_boot),
    ):
        other = policy(lambda d, n=name, v=value: d.update(measurements={n: [v.hex()]}))
        assert verdict(policy=other).accepted
    assert facts.device_id is not None
    exact = policy(
        lambda d: d.update(
            devices=[facts.device_id.hex()],
            os_images=[PAYLOAD["os-image-hash"].hex()],
            key_providers=[{"name": "kms", "id_sha256": hashlib.sha256(b"\0").hexdigest()}],
        )
    )
    assert verdict(policy=exact).accepted


def log_of(entries: list[dict[str, Any]]) -> Evidence:
    return Evidence(QUOTE, json.dumps(entries).encode(), COLLATERAL_JSON)


def test_a_log_that_leads_elsewhere_proves_nothing() -> None:
    other = [
        {**item, "digest": "", "event_payload": "00" * 32}
        if item["event"] == "compose-hash"
        else item
        for item in ENTRIES
    ]
    found = verdict(log_of(other))
    refused(found, RefusalCode.EVENT_LOG)
    assert found.facts.runtime is None
    assert not {check.name: check.passed for check in found.checks}["compose hash"]
    refused(verdict(log_of(ENTRIES[:-1])), RefusalCode.EVENT_LOG)
    refused(verdict(Evidence(QUOTE, b"", COLLATERAL_JSON)), RefusalCode.EVENT_LOG)


def test_firmware_events_must_fit_unless_they_were_stripped() -> None:
    lie = {"imr": 0, "event_type": 4, "digest": "05" * 48, "event": "", "event_payload": ""}
    refused(verdict(log_of([lie, *ENTRIES])), RefusalCode.EVENT_LOG)
    acpi = {**lie, "event_type": 10, "event_payload": b"ACPI DATA".hex()}
    assert verdict(log_of([acpi, *ENTRIES])).accepted


CLAIMS = verdict().facts.claims
assert CLAIMS is not None


def with_claims(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> None:
    """The library's claims, as if the platform were another."""
    claims = replace(CLAIMS, **changed)
    monkeypatch.setattr(qvl, "verify_quote", lambda *_: claims)


DAY_S = 86400


@pytest.mark.parametrize(
    ("statuses", "claims", "taken"),
    [
        ({"UpToDate": None}, ("OutOfDate", "OutOfDate", 1, "UpToDate", 0), False),
        ({"OutOfDate": None}, ("OutOfDate", "OutOfDate", 999, "UpToDate", 0), True),
        ({"OutOfDate": 10}, ("OutOfDate", "OutOfDate", 9, "UpToDate", 999), True),
        ({"OutOfDate": 10}, ("OutOfDate", "OutOfDate", 11, "UpToDate", 0), False),
        # the enclave is behind, not the platform
        ({"OutOfDate": 10}, ("OutOfDate", "UpToDate", 999, "OutOfDate", 9), True),
        ({"OutOfDate": 10}, ("OutOfDate", "UpToDate", 999, "OutOfDate", 11), False),
        # both are, in different ways: each has to be accepted
        (
            {"OutOfDate": None},
            ("OutOfDate", "SWHardeningNeeded", 1, "OutOfDate", 1),
            False,
        ),
        (
            {"OutOfDate": 10, "SWHardeningNeeded": None},
            ("OutOfDate", "SWHardeningNeeded", 999, "OutOfDate", 9),
            True,
        ),
        # the merged status is that of neither half
        (
            {"OutOfDate": None, "ConfigurationNeeded": None, "OutOfDateConfigurationNeeded": 10},
            ("OutOfDateConfigurationNeeded", "ConfigurationNeeded", 11, "OutOfDate", 1),
            False,
        ),
        (
            {"OutOfDate": None, "ConfigurationNeeded": None},
            ("OutOfDateConfigurationNeeded", "ConfigurationNeeded", 1, "OutOfDate", 1),
            False,
        ),
    ],
)
def test_a_status_is_taken_by_policy_and_within_its_grace(
    monkeypatch: pytest.MonkeyPatch, statuses: Any, claims: Any, taken: bool
) -> None:
    status, platform, platform_days, qe, qe_days = claims
    with_claims(
        monkeypatch,
        status=status,
        platform_status=platform,
        platform_date_s=NOW_S - platform_days * DAY_S,
        qe_status=qe,
        qe_date_s=NOW_S - qe_days * DAY_S,
    )
    graces = {name: None if days is None else days * DAY_S for name, days in statuses.items()}
    found = verdict(policy=policy(lambda d: d["tcb"].update(statuses=graces)))
    if taken:
        assert found.accepted, found.reason()
    else:
        refused(found, RefusalCode.TCB_STATUS)


def test_a_revoked_platform_has_a_code_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    with_claims(monkeypatch, status="Revoked", platform_status="Revoked")
    refused(verdict(), RefusalCode.TCB_REVOKED)


def test_only_advisories_that_the_policy_knows_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with_claims(monkeypatch, advisories=("INTEL-SA-00001", "INTEL-SA-00002"))
    one = policy(lambda d: d["tcb"].update(advisories=["INTEL-SA-00001"]))
    both = policy(lambda d: d["tcb"].update(advisories=["INTEL-SA-00001", "INTEL-SA-00002"]))
    refused(verdict(policy=one), RefusalCode.ADVISORY)
    assert verdict(policy=both).accepted


@pytest.mark.parametrize(
    ("flag", "rule"),
    [
        ("dynamic_platform", "allow_dynamic_platform"),
        ("cached_keys", "allow_cached_keys"),
        ("smt", "allow_smt"),
    ],
)
def test_each_platform_flag_needs_the_policys_leave(
    monkeypatch: pytest.MonkeyPatch, flag: str, rule: str
) -> None:
    forbidding = policy(lambda d: d["platform"].update({rule: False}))
    assert verdict(policy=forbidding).accepted  # the mock's certificate has no such flags
    with_claims(monkeypatch, **{flag: True})
    refused(verdict(policy=forbidding), RefusalCode.PLATFORM)
    assert verdict().accepted


def test_the_codes_on_the_wire_are_pinned() -> None:
    assert {code.name: int(code) for code in RefusalCode} == {
        "NO_POLICY": 1,
        "BAD_QUOTE": 2,
        "DEBUG": 3,
        "TDX_MODULE": 4,
        "COLLATERAL_MISSING": 5,
        "COLLATERAL_STALE": 6,
        "QUOTE_SIGNATURE": 7,
        "TCB_REVOKED": 8,
        "TCB_STATUS": 9,
        "ADVISORY": 10,
        "PLATFORM": 11,
        "DEVICE": 12,
        "REPORT_DATA": 13,
        "EVENT_LOG": 14,
        "MEASUREMENT": 15,
        "OS_IMAGE": 16,
        "COMPOSE_HASH": 17,
        "APP_ID": 18,
        "INSTANCE_ID": 19,
        "KEY_PROVIDER": 20,
        "BAD_EVIDENCE": 21,
        "QUOTE_AGE": 22,
    }


@given(st.binary(max_size=100), st.binary(max_size=100), st.none() | st.binary(max_size=50))
def test_any_bytes_give_a_refusal_and_no_exception(
    quote: bytes, event_log: bytes, collateral: bytes | None
) -> None:
    evidence = Evidence(quote, event_log, collateral)
    refused(verdict(evidence, collateral=None), RefusalCode.BAD_QUOTE)
