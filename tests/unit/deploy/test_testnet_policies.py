"""The testnet's policy takes what it is told to take, of the testnet's own machines."""

from __future__ import annotations

from pathlib import Path

import pytest

from attest import Evidence, parse_policy
from attest.verifying import verify_evidence
from deploy.simulator import Faults, TdxPki, collateral, instance_id, read_kms_root
from deploy.simulator.attester import Attester
from deploy.simulator.methods import DEFAULT_APP_COMPOSE
from deploy.simulator.tdx_collateral import FMSPC_FRESH
from deploy.testnet import agents, cli, layout, policies
from deploy.testnet.layout import TestnetError

NOW_S = 1_790_000_000
ORIGINAL, OLD = Faults(), Faults(compose="old")
OUT_OF_DATE = Faults(tcb_status="OutOfDate")


@pytest.fixture
def testnet(tmp_path: Path) -> layout.Testnet:
    testnet = layout.create(tmp_path / "t", (1, 1), 30_000)
    agents.make_root(testnet)
    return testnet


def takes(testnet: layout.Testnet, policy: bytes, faults: Faults) -> bool:
    """Whether seat 2's machine with these faults satisfies the policy."""
    root = read_kms_root(str(testnet.kms_root_file))
    seed, app_id = bytes.fromhex(testnet.node(2).instance_seed), bytes.fromhex(testnet.app_id)
    attester = Attester(
        root, seed=seed, app_id=app_id, app_compose=DEFAULT_APP_COMPOSE, faults=lambda: faults
    )
    given = attester.evidence(bytes(64))
    return verify_evidence(
        Evidence(given.quote, given.event_log.encode()),
        report_data=bytes(64),
        app_id=app_id,
        instance_id=instance_id(seed, app_id),
        policy=parse_policy(policy),
        collateral=collateral(TdxPki.of_kms_root(root), FMSPC_FRESH, NOW_S),
        now_s=NOW_S,
        root_ca_der=testnet.tdx_root_file.read_bytes(),
    ).accepted


def test_sound_machines_are_taken_and_others_when_named(testnet: layout.Testnet) -> None:
    policy = policies.text(testnet)
    assert [takes(testnet, policy, f) for f in (ORIGINAL, OLD, OUT_OF_DATE)] == [True, False, False]
    policy = policies.text(testnet, composes=("original", "old"), statuses=("OutOfDate",))
    assert all(takes(testnet, policy, f) for f in (ORIGINAL, OLD, OUT_OF_DATE))
    assert not takes(testnet, policies.text(testnet, composes=("old",)), ORIGINAL)


def test_a_policy_cannot_take_what_nobody_should(testnet: layout.Testnet) -> None:
    for status in ("Revoked", "Fine"):
        with pytest.raises(TestnetError, match="cannot accept"):
            policies.text(testnet, statuses=(status,))
    with pytest.raises(TestnetError, match="compose"):
        policies.text(testnet, composes=("\n",))


def test_the_verb_shows_the_document(
    testnet: layout.Testnet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["policy", "--show", "--compose", "old", "--dir", str(testnet.directory)]) == 0
    assert capsys.readouterr().out.encode().strip() == policies.text(testnet, composes=("old",))
    assert cli.main(["policy", "--tcb", "Revoked", "--dir", str(testnet.directory)]) == 1
