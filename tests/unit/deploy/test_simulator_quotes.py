"""The simulator's quotes verify with dcap-qvl under their own root, and fail as real ones would."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import dcap_qvl
import msgpack
import pytest

from attest.event_log import parse_event_log, replay, runtime_facts
from attest.quotes import parse_quote
from deploy.simulator import Faults, TdxPki, collateral, instance_id
from deploy.simulator.attester import Attester, NoQuotes
from deploy.simulator.methods import DEFAULT_APP_COMPOSE
from deploy.simulator.tdx_collateral import FMSPC_FRESH, TCB_LEVELS, TCB_STATUSES

KMS_ROOT = b"\x11" * 32
APP_ID = b"\xaa" * 20
SEED, OTHER_SEED = b"\x07" * 20, b"\x08" * 20
REPORT_DATA = bytes(range(64))
NOW_S = 1_790_000_000
DAY_S = 24 * 3600


class Lab:
    """One machine whose faults a test can set, and the judgement of dcap-qvl on its quotes."""

    def __init__(self, seed: bytes = SEED) -> None:
        self.faults = Faults()
        self.pki = TdxPki.of_kms_root(KMS_ROOT)
        self.attester = Attester(
            KMS_ROOT,
            seed=seed,
            app_id=APP_ID,
            app_compose=DEFAULT_APP_COMPOSE,
            faults=lambda: self.faults,
        )

    def verify(
        self, quote: bytes, *, now_s: int = NOW_S, root: bytes | None = None
    ) -> dict[str, Any]:
        fmspc = bytes.fromhex(dcap_qvl.parse_quote(quote).fmspc())
        bundle = bundle_of(self.pki, fmspc)
        report = dcap_qvl.verify_with_root_ca(quote, bundle, root or self.pki.root_der, now_s)
        verified: dict[str, Any] = json.loads(report.to_json())
        return verified

    def quote(self) -> bytes:
        return self.attester.evidence(REPORT_DATA).quote


def bundle_of(pki: TdxPki, fmspc: bytes) -> Any:
    text = collateral(pki, fmspc, NOW_S).to_json().decode()
    return dcap_qvl.QuoteCollateralV3.from_json(text)


@pytest.fixture
def lab() -> Lab:
    return Lab()


@pytest.mark.parametrize("version", [4, 5])
def test_a_sound_machine_is_up_to_date(lab: Lab, version: int) -> None:
    lab.faults = Faults(quote_version=version)
    quote = lab.quote()
    verified = lab.verify(quote)
    assert (verified["status"], verified["advisory_ids"]) == ("UpToDate", [])
    assert verified["report"]["TD10"]["report_data"] == REPORT_DATA.hex()
    assert verified["ppid"] == lab.attester.machine().platform.ppid.hex()
    assert parse_quote(quote).version == version


def test_another_root_an_altered_byte_and_a_late_or_early_date_are_refused(lab: Lab) -> None:
    quote = lab.quote()
    stranger = TdxPki.of_kms_root(b"\x12" * 32)
    with pytest.raises(ValueError, match="CrlSignature"):
        lab.verify(quote, root=stranger.root_der)
    with pytest.raises(ValueError, match="CrlSignature"):
        dcap_qvl.verify(quote, bundle_of(lab.pki, FMSPC_FRESH), NOW_S)
    with pytest.raises(ValueError, match="signature is invalid"):
        lab.verify(quote[:600] + bytes([quote[600] ^ 1]) + quote[601:])
    with pytest.raises(ValueError, match=r"(?i)expired"):
        lab.verify(quote, now_s=NOW_S + 30 * DAY_S)
    with pytest.raises(ValueError, match="in the future"):
        lab.verify(quote, now_s=NOW_S - 2 * DAY_S)


@pytest.mark.parametrize("level", TCB_LEVELS, ids=TCB_STATUSES)
def test_every_tcb_status_is_found_with_its_advisories(lab: Lab, level: Any) -> None:
    lab.faults = Faults(tcb_status=level.status)
    if level.status == "Revoked":
        with pytest.raises(ValueError, match="Revoked"):
            lab.verify(lab.quote())
        return
    verified = lab.verify(lab.quote())
    assert verified["status"] == level.status
    assert set(verified["advisory_ids"]) == set(level.advisories)


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        (Faults(is_debug=True), "Debug mode"),
        (Faults(has_stale_collateral=True), "TCBInfo expired"),
        (Faults(is_revoked=True), "CertRevoked"),
    ],
)
def test_what_dcap_qvl_itself_refuses(lab: Lab, faults: Faults, why: str) -> None:
    lab.faults = faults
    with pytest.raises(ValueError, match=why):
        lab.verify(lab.quote())


@pytest.mark.parametrize("version", [1, 2])
def test_registers_replay_from_the_stripped_log(lab: Lab, version: int) -> None:
    lab.faults = Faults(event_version=version)
    evidence = lab.attester.evidence(REPORT_DATA)
    entries = json.loads(evidence.event_log)
    assert all(not e["digest"] for e in entries if e["imr"] == 3)
    assert all(not e["event_payload"] for e in entries if e["imr"] != 3 and e["event_type"] != 10)
    log = parse_event_log(evidence.event_log.encode())
    assert replay(log) == parse_quote(evidence.quote).rtmrs
    facts = runtime_facts(log)
    assert (facts.app_id, facts.instance_id) == (APP_ID, instance_id(SEED, APP_ID))
    assert facts.compose_hash == hashlib.sha256(DEFAULT_APP_COMPOSE.encode()).digest()
    assert facts.key_provider is not None and facts.key_provider.name == "kms"


def test_faults_change_what_is_measured_and_only_that(lab: Lab) -> None:
    sound = parse_quote(lab.quote())

    def faulty(faults: Faults) -> Any:
        lab.faults = faults
        quote = lab.quote()
        lab.verify(quote)  # the signature is good: it is the policy that has to refuse
        return parse_quote(quote)

    assert faulty(Faults(measurement="mrtd")).mr_td != sound.mr_td
    for index in range(3):
        altered = faulty(Faults(measurement=f"rtmr{index}"))
        differing = [i for i in range(4) if altered.rtmrs[i] != sound.rtmrs[i]]
        assert differing == [index] and altered.mr_td == sound.mr_td
    composed = faulty(Faults(compose="another version"))
    assert composed.mr_config_id != sound.mr_config_id and composed.rtmrs[:3] == sound.rtmrs[:3]
    assert replay(lab.attester.machine().event_log())[3] == composed.rtmrs[3] != sound.rtmrs[3]
    assert faulty(Faults(wrong_report_data=True)).report_data != REPORT_DATA
    assert faulty(Faults(clone_of=OTHER_SEED.hex())).rtmrs[3] != sound.rtmrs[3]
    machine = lab.attester.machine()
    assert machine.instance_id == instance_id(OTHER_SEED, APP_ID)
    assert machine.device_id == Lab().attester.machine().device_id, "another machine, same hardware"
    assert faulty(Faults(quote_of=OTHER_SEED.hex())).rtmrs == (
        parse_quote(Lab(OTHER_SEED).quote()).rtmrs
    )


def test_a_replaying_agent_gives_its_first_quote_for_ever(lab: Lab) -> None:
    first = lab.quote()
    lab.faults = Faults(replays=True)
    assert lab.attester.evidence(b"\xff" * 64).quote == first
    lab.faults = Faults()
    assert lab.attester.evidence(b"\xff" * 64).quote != first


def test_an_agent_without_quotes_says_so(lab: Lab) -> None:
    lab.faults = Faults(has_no_quotes=True)
    for method in (lab.attester.evidence, lab.attester.container):
        with pytest.raises(NoQuotes):
            method(REPORT_DATA)


def test_containers_hold_the_quote_in_the_format_of_their_events(lab: Lab) -> None:
    assert lab.attester.container(REPORT_DATA)[:2] == b"\0\0"
    assert lab.quote() in lab.attester.container(REPORT_DATA)
    lab.faults = Faults(event_version=2)
    container = msgpack.unpackb(lab.attester.container(REPORT_DATA))
    assert bytes(container["platform"]["data"]["quote"]) == lab.quote()
    assert bytes(container["stack"]["data"]["report_data"]) == REPORT_DATA
    assert {event["version"] for event in container["stack"]["data"]["runtime_events"]} == {2}


def test_every_testnet_has_an_authority_of_its_own_and_all_its_processes_the_same() -> None:
    assert TdxPki.of_kms_root(KMS_ROOT).root_der == TdxPki.of_kms_root(KMS_ROOT).root_der
    assert TdxPki.of_kms_root(KMS_ROOT).root_der != TdxPki.of_kms_root(b"\x12" * 32).root_der
    assert KMS_ROOT.hex() not in repr(TdxPki.of_kms_root(KMS_ROOT))


def test_faults_are_validated_and_survive_the_file() -> None:
    faults = Faults(tcb_status="OutOfDate", compose="x", clone_of=SEED.hex())
    assert Faults.from_json(faults.to_json()) == faults
    assert faults.to_json().keys() == {"tcb_status", "compose", "clone_of"}
    for wrong in (
        {"tcb_status": "Fine"},
        {"measurement": "rtmr3"},
        {"is_debug": 1},
        {"clone_of": "zz"},
        {"quote_of": "00"},
        {"quote_version": 3},
        {"compose": "\n"},
        {"unheard_of": True},
        [],
    ):
        with pytest.raises(ValueError):
            Faults.from_json(wrong)


def test_the_vectors_mock_and_this_one_agree_on_the_layout(lab: Lab) -> None:
    vectors = Path(__file__).parents[2] / "vectors" / "attestation.json"
    given = parse_quote(bytes.fromhex(json.loads(vectors.read_text())["mock_tdx"]["quote_hex"]))
    ours = parse_quote(lab.quote())
    for name in ("version", "body_type", "qe_vendor_id", "td_attributes", "mr_signer_seam"):
        assert getattr(ours, name) == getattr(given, name), name


def test_machines_of_equal_values_are_one(lab: Lab) -> None:
    machine = lab.attester.machine()
    assert replace(machine).quote(REPORT_DATA) == machine.quote(REPORT_DATA)
