"""What the production verification says to each fault that a simulated machine can have."""

from __future__ import annotations

from typing import Any

import pytest

from attest import Evidence, decode_attestation, parse_policy
from attest.refusals import RefusalCode
from attest.verifying import verify_evidence
from deploy.simulator import Faults, TdxPki, collateral, instance_id
from deploy.simulator.accepting import policy_text
from deploy.simulator.attester import Attester
from deploy.simulator.faults import NO_FAULTS
from deploy.simulator.methods import DEFAULT_APP_COMPOSE
from deploy.simulator.tdx_collateral import FMSPC_FRESH, FMSPC_STALE

KMS_ROOT = b"\x11" * 32
APP_ID = b"\xaa" * 20
SEED, OTHER_SEED = b"\x07" * 20, b"\x08" * 20
REPORT_DATA = bytes(range(64))
NOW_S = 1_790_000_000
PKI = TdxPki.of_kms_root(KMS_ROOT)


def attester(faults: Faults = NO_FAULTS, seed: bytes = SEED) -> Attester:
    return Attester(
        KMS_ROOT,
        seed=seed,
        app_id=APP_ID,
        app_compose=DEFAULT_APP_COMPOSE,
        faults=lambda: faults,
    )


POLICY = parse_policy(policy_text([attester().machine()]))


def judge(evidence: Evidence, **expected: Any) -> Any:
    fmspc = expected.pop("fmspc", FMSPC_FRESH)
    values: dict[str, Any] = {
        "report_data": REPORT_DATA,
        "app_id": APP_ID,
        "instance_id": instance_id(SEED, APP_ID),
        "policy": POLICY,
        "collateral": collateral(PKI, fmspc, NOW_S),
        "now_s": NOW_S,
        "root_ca_der": PKI.root_der,
    }
    return verify_evidence(evidence, **values | expected)


def quoted(faults: Faults = NO_FAULTS, seed: bytes = SEED) -> Evidence:
    given = attester(faults, seed).evidence(REPORT_DATA)
    return Evidence(given.quote, given.event_log.encode())


@pytest.mark.parametrize("event_version", [1, 2])
@pytest.mark.parametrize("quote_version", [4, 5])
def test_a_sound_machine_is_accepted(quote_version: int, event_version: int) -> None:
    faults = Faults(quote_version=quote_version, event_version=event_version)
    for evidence in (quoted(faults), decode_attestation(attester(faults).container(REPORT_DATA))):
        verdict = judge(evidence)
        assert verdict.accepted, verdict.reason()
        assert verdict.facts.device_id == attester().machine().device_id
        assert verdict.facts.digests.aggregated == attester(faults).machine().mr_aggregated


@pytest.mark.parametrize(
    ("faults", "code"),
    [
        (Faults(is_debug=True), RefusalCode.DEBUG),
        (Faults(is_revoked=True), RefusalCode.TCB_REVOKED),
        (Faults(tcb_status="Revoked"), RefusalCode.TCB_REVOKED),
        (Faults(tcb_status="OutOfDate"), RefusalCode.TCB_STATUS),
        (Faults(tcb_status="ConfigurationNeeded"), RefusalCode.TCB_STATUS),
        (Faults(wrong_report_data=True), RefusalCode.REPORT_DATA),
        (Faults(replays=True), RefusalCode.REPORT_DATA),
        (Faults(quote_of=OTHER_SEED.hex()), RefusalCode.REPORT_DATA),
        (Faults(measurement="mrtd"), RefusalCode.MEASUREMENT),
        (Faults(measurement="rtmr0"), RefusalCode.MEASUREMENT),
        (Faults(measurement="rtmr1"), RefusalCode.MEASUREMENT),
        (Faults(measurement="rtmr2"), RefusalCode.MEASUREMENT),
        (Faults(compose="another"), RefusalCode.COMPOSE_HASH),
        (Faults(clone_of=OTHER_SEED.hex()), RefusalCode.INSTANCE_ID),
    ],
    ids=lambda value: ",".join(value.to_json()) if isinstance(value, Faults) else value.name,
)
def test_a_faulty_machine_is_refused_for_its_fault(faults: Faults, code: RefusalCode) -> None:
    verdict = judge(quoted(faults))
    assert verdict.refusal is code, verdict.reason()


def test_collateral_that_nobody_renewed_is_stale() -> None:
    evidence = quoted(Faults(has_stale_collateral=True))
    assert judge(evidence, fmspc=FMSPC_STALE).refusal is RefusalCode.COLLATERAL_STALE
    assert judge(evidence).refusal is RefusalCode.COLLATERAL_MISSING, "of another family"


def test_a_machine_is_taken_for_its_own_instance_only() -> None:
    assert judge(quoted(seed=OTHER_SEED)).refusal is RefusalCode.INSTANCE_ID
    assert judge(quoted(seed=OTHER_SEED), instance_id=instance_id(OTHER_SEED, APP_ID)).accepted


def test_a_policy_can_take_what_another_refuses() -> None:
    lenient = parse_policy(
        policy_text(
            [attester().machine(), attester(Faults(compose="another")).machine()],
            tcb_statuses={"UpToDate": None, "SWHardeningNeeded": 60},
            advisories=["INTEL-SA-00615"],
        )
    )
    assert judge(quoted(Faults(compose="another")), policy=lenient).accepted
    hardening = judge(quoted(Faults(tcb_status="SWHardeningNeeded")), policy=lenient)
    assert hardening.refusal is RefusalCode.TCB_STATUS, "its grace is over"


def test_intel_root_takes_none_of_it() -> None:
    assert judge(quoted(), root_ca_der=None).refusal is RefusalCode.QUOTE_SIGNATURE
