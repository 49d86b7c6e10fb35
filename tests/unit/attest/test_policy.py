"""Policy documents: strict, so that everybody reads a text alike, and never open by accident."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from evidence_world import DOCUMENT, PAYLOAD

from attest import PolicyError, RefusalCode, keccak256, parse_policy, policy_digest
from attest.policy import POLICY_BYTES_MAX, TCB_STATUSES, KeyProviderRule
from node.attestation.codes import NodeCode

Change = Callable[[dict[str, Any]], object]


def text_after(change: Change) -> bytes:
    document = copy.deepcopy(DOCUMENT)
    change(document)
    return json.dumps(document).encode()


def test_a_document_gives_its_policy() -> None:
    policy = parse_policy(
        text_after(
            lambda d: (
                d.update(os_images=["11" * 32], devices=["22" * 32]),
                d["tcb"].update(
                    statuses={"UpToDate": None, "OutOfDate": 86400},
                    advisories=["INTEL-SA-00837"],
                    evaluation_number_min=17,
                ),
                d.update(key_providers=[{"name": "kms", "id_sha256": "33" * 32}]),
                d["measurements"].update(mr_system=["44" * 32]),
            )
        )
    )
    assert policy.compose_hashes == {PAYLOAD["compose-hash"]}
    assert len(policy.registers) == 1
    assert policy.mr_system == {b"\x44" * 32}
    assert policy.mr_aggregated == policy.mr_aggregated_boot == frozenset()
    assert policy.os_images == {b"\x11" * 32}
    assert policy.devices == {b"\x22" * 32}
    assert dict(policy.tcb_statuses) == {"UpToDate": None, "OutOfDate": 86400}
    assert policy.advisories == {"INTEL-SA-00837"}
    assert policy.tcb_evaluation_number_min == 17
    assert policy.key_providers == (KeyProviderRule("kms", b"\x33" * 32),)
    assert policy.allow_smt
    assert (policy.quote_age_s_max, policy.renewal_s) == (7200, 3600)


def test_the_digest_is_keccak_of_the_text_as_it_stands() -> None:
    text = json.dumps(DOCUMENT).encode()
    assert policy_digest(text) == keccak256(text)
    assert policy_digest(text) != policy_digest(text + b"\n")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(version=2),
        lambda d: d.update(version=True),
        lambda d: d.update(more=1),
        lambda d: d["measurements"].update(mr_all=[]),
        lambda d: d["measurements"]["registers"][0].update(rtmr3="00" * 48),
        lambda d: d["measurements"]["registers"][0].pop("rtmr1"),
        lambda d: d["measurements"]["registers"][0].update(mrtd="00" * 32),
        lambda d: d["limits"].update(renewal_ms=1),
        lambda d: d["platform"].update(allow_all=True),
        lambda d: d["tcb"]["statuses"].update(Revoked=None),
        lambda d: d["tcb"]["statuses"].update(Unknown=None),
        lambda d: d["key_providers"][0].update(id="00"),
    ],
)
def test_what_the_format_does_not_know_is_refused(change: Change) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text_after(change))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["measurements"].update(registers=[]),
        lambda d: d.update(compose_hashes=[]),
        lambda d: d.pop("compose_hashes"),
        lambda d: d.update(key_providers=[]),
        lambda d: d["tcb"].update(statuses={}),
        lambda d: d.update(os_images=[]),
        lambda d: d.update(devices=[]),
        lambda d: (d["measurements"].update(registers=[]), d.update(os_images=["11" * 32])),
    ],
)
def test_a_document_that_takes_nobody_is_refused(change: Change) -> None:
    with pytest.raises(PolicyError, match=r"allowed|nobody"):
        parse_policy(text_after(change))


@pytest.mark.parametrize("name", ["tcb", "platform", "limits", "measurements", "version"])
def test_a_missing_part_is_refused_not_guessed(name: str) -> None:
    with pytest.raises(PolicyError, match=name):
        parse_policy(text_after(lambda d: d.pop(name)))


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["limits"].update(renewal_s=0),
        lambda d: d["limits"].update(renewal_s=1.5),
        lambda d: d["limits"].update(renewal_s="60"),
        lambda d: d["limits"].update(renewal_s=True),
        lambda d: d["limits"].update(renewal_s=7200),
        lambda d: d["limits"].update(collateral_age_s_max=10**30),
        lambda d: d["platform"].update(allow_smt=1),
        lambda d: d["platform"].update(allow_smt=None),
        lambda d: d["tcb"].update(advisories=[1]),
        lambda d: d["tcb"].update(advisories=["intel-sa-1"]),
        lambda d: d["tcb"]["statuses"].update(OutOfDate=-1),
        lambda d: d["tcb"]["statuses"].update(OutOfDate="1"),
        lambda d: d.update(compose_hashes="00" * 32),
        lambda d: d.update(compose_hashes=["00" * 31]),
        lambda d: d.update(compose_hashes=["0x" + "00" * 32]),
        lambda d: d.update(compose_hashes=["00" * 32] * 2),
        lambda d: d.update(compose_hashes=[f"{n:064x}" for n in range(65)]),
        lambda d: d.update(key_providers=[{"name": "vault", "id_sha256": None}]),
        lambda d: d.update(key_providers=[{"name": "kms"}]),
        lambda d: d.update(key_providers=["kms"]),
        lambda d: d.update(tcb=[]),
    ],
)
def test_values_of_the_wrong_type_or_size_are_refused(change: Change) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text_after(change))


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b'{"version":1,"version":1}',
        b'{"version":NaN}',
        b"\xff\xfe",
        b"[" * 200,
        b" " * (POLICY_BYTES_MAX + 1),
    ],
)
def test_what_is_no_document_is_refused(text: bytes) -> None:
    with pytest.raises(PolicyError):
        parse_policy(text)


def test_every_status_but_revoked_can_be_accepted() -> None:
    policy = parse_policy(
        text_after(lambda d: d["tcb"].update(statuses=dict.fromkeys(TCB_STATUSES)))
    )
    assert set(policy.tcb_statuses) == set(TCB_STATUSES)


PAGE = (Path(__file__).parents[3] / "docs" / "attestation.md").read_text()


def test_the_example_in_the_documentation_is_a_policy() -> None:
    blocks = re.findall(r"```json\n(.*?)```", PAGE, re.S)
    example = next(block for block in blocks if "tcb" in block)
    assert parse_policy(example.encode()).tcb_statuses["OutOfDate"] == 47_304_000


def test_the_documentation_knows_every_reason_code() -> None:
    told = {name: int(number) for number, name in re.findall(r"\| (\d+) `([A-Z_]+)` \|", PAGE)}
    assert told == {code.name: int(code) for kind in (RefusalCode, NodeCode) for code in kind}
