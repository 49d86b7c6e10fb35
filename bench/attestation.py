"""``python -m bench attest``: processor time of one verdict on a peer's evidence.

A simulated machine's quote (its authority's chain is as long as Intel's, its log shorter than a
real boot's) is judged again and again; network is none. With ``--evidence`` and ``--collateral``
it is a machine of yours, under Intel's root. The least is what a verdict costs on a core that
nobody else disturbs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from attest import (
    Collateral,
    Evidence,
    Policy,
    parse_collateral,
    parse_event_log,
    parse_policy,
    parse_quote,
)
from attest.policy_draft import draft_policy
from attest.qvl import verify_quote
from attest.shown import read_shown
from attest.verifying import verify_evidence
from deploy.simulator import TdxPki, collateral
from deploy.simulator.accepting import policy_text
from deploy.simulator.attester import Attester
from deploy.simulator.faults import NO_FAULTS
from deploy.simulator.methods import DEFAULT_APP_COMPOSE
from deploy.simulator.tdx_collateral import FMSPC_FRESH

TARGET_MS = 2.0
_NOW_S = 1_790_000_000
_KMS_ROOT = b"\x11" * 32


@dataclass(frozen=True, slots=True)
class _Subject:
    evidence: Evidence
    collateral: Collateral
    policy: Policy
    now_s: int
    root_ca_der: bytes | None


def _simulated() -> _Subject:
    attester = Attester(
        _KMS_ROOT,
        seed=b"\x07" * 20,
        app_id=b"\xaa" * 20,
        app_compose=DEFAULT_APP_COMPOSE,
        faults=lambda: NO_FAULTS,
    )
    given = attester.evidence(bytes(64))
    pki = TdxPki.of_kms_root(_KMS_ROOT)
    return _Subject(
        evidence=Evidence(given.quote, given.event_log.encode()),
        collateral=collateral(pki, FMSPC_FRESH, _NOW_S),
        policy=parse_policy(policy_text([attester.machine()])),
        now_s=_NOW_S,
        root_ca_der=pki.root_der,
    )


def _given(evidence_file: Path, collateral_file: Path) -> _Subject:
    evidence = read_shown(evidence_file.read_bytes()).evidence
    found = parse_collateral(collateral_file.read_bytes())
    text = draft_policy([evidence]).replace(b"false", b"true")
    return _Subject(evidence, found, parse_policy(text), found.latest_issued_s + 86400, None)


def measure(subject: _Subject, turns: int) -> dict[str, dict[str, float]]:
    """Milliseconds of processor time, median and least, of a verdict and of its parts."""

    def verdict() -> None:
        found = verify_evidence(
            subject.evidence,
            report_data=parse_quote(subject.evidence.quote).report_data,
            app_id=None,
            instance_id=None,
            policy=subject.policy,
            collateral=subject.collateral,
            now_s=subject.now_s,
            root_ca_der=subject.root_ca_der,
        )
        if not found.accepted:
            raise ValueError(f"the evidence is not good: {found.reason()}")

    quote, text = subject.evidence.quote, subject.collateral.to_json()
    work: dict[str, Callable[[], object]] = {
        "verdict": verdict,
        "cryptography": lambda: verify_quote(
            quote, subject.collateral, subject.now_s, subject.root_ca_der
        ),
        "event log": lambda: parse_event_log(subject.evidence.event_log),
        "reading collateral": lambda: parse_collateral(text),
    }
    return {name: _costs_ms(job, turns) for name, job in work.items()}


def _costs_ms(job: Callable[[], object], turns: int) -> dict[str, float]:
    costs = []
    for _ in range(turns):
        before_ns = time.thread_time_ns()
        job()
        costs.append((time.thread_time_ns() - before_ns) / 1e6)
    return {"median_ms": round(statistics.median(costs), 3), "least_ms": round(min(costs), 3)}


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench attest", description=__doc__)
    parser.add_argument("--turns", type=int, default=300, help="of each measurement")
    parser.add_argument("--evidence", type=Path, metavar="FILE", help="as attest verify takes it")
    parser.add_argument("--collateral", type=Path, metavar="FILE", help="for that evidence")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if (arguments.evidence is None) != (arguments.collateral is None):
        parser.error("--evidence and --collateral come together")
    if arguments.evidence is None:
        subject = _simulated()
    else:
        subject = _given(arguments.evidence, arguments.collateral)
    costs = measure(subject, arguments.turns)
    if arguments.json:
        print(json.dumps({"target_ms": TARGET_MS, "costs": costs}))
        return 0
    print(f"processor time of a verdict, target {TARGET_MS:g} ms:")
    for name, cost in costs.items():
        print(f"  {name:20} median {cost['median_ms']:.3f} ms, least {cost['least_ms']:.3f} ms")
    return 0
