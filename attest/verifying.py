"""The verdict on evidence: a pure function of evidence, expectations, policy, collateral and time.

Every check is made and told, also after the first that failed, so that an operator sees all that
is wrong at once. The first failure gives the refusal. What each check proves, and what the whole
does not prove, is in docs/attestation.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from . import machine_checks as machine
from . import platform_checks as platform
from .collateral import Collateral
from .event_log import RuntimeFacts
from .evidence import Evidence
from .machine_checks import Digests
from .policy import Policy
from .quotes import TdxQuote
from .qvl import Claims
from .refusals import Check, RefusalCode
from .rows import Rows


@dataclass(frozen=True, slots=True)
class Facts:
    """What the evidence says of the machine; proven only when the verdict accepts it.

    A part is None when the evidence did not get as far as to give it. ``device_id`` is SHA-256 of
    the platform's PPID (32 bytes).
    """

    quote: TdxQuote | None = None
    runtime: RuntimeFacts | None = None
    claims: Claims | None = None
    collateral: Collateral | None = None
    device_id: bytes | None = None
    digests: Digests | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """All checks in their order, the first failure's code, and what was learned."""

    checks: tuple[Check, ...]
    refusal: RefusalCode | None
    facts: Facts

    @property
    def accepted(self) -> bool:
        """Whether every check passed."""
        return self.refusal is None

    def reason(self) -> str:
        """One line on the first failure, for logs; empty when accepted."""
        for check in self.checks:
            if not check.passed:
                return f"{check.name}: expected {check.expected}, came {check.came}"
        return ""


def verify_evidence(
    evidence: Evidence,
    *,
    report_data: bytes | None,
    app_id: bytes | None,
    instance_id: bytes | None,
    policy: Policy | None,
    collateral: Collateral | None,
    now_s: int,
    root_ca_der: bytes | None = None,
) -> Verdict:
    """Judge evidence; never raises for what a stranger put into it.

    Args:
        report_data: the 64 bytes that this session demands (``binding.report_data``). None leaves
            it unjudged, which is for auditors only: such a quote may be anybody's replay.
        app_id, instance_id: 20 bytes as registered; None leaves them unjudged.
        policy: None refuses everybody (NO_POLICY) and still makes the other checks.
        collateral: None takes what the evidence carries.
        now_s: unix time.
        root_ca_der: a root other than Intel's, for simulators and tests; the caller's own choice.
    """
    rows = Rows()
    given = "none" if policy is None else "given"
    rows.add("policy", policy is not None, "a policy", given, RefusalCode.NO_POLICY)
    quote = platform.check_quote(rows, evidence)
    platform.check_attributes(rows, quote)
    used = platform.check_collateral(rows, evidence, quote, collateral)
    platform.check_dates(rows, used, policy, now_s)
    claims = platform.check_signatures(rows, evidence, quote, used, now_s, root_ca_der)
    platform.check_tcb(rows, claims, policy, now_s)
    device_id = None if claims is None else hashlib.sha256(claims.ppid).digest()
    platform.check_platform(rows, claims, device_id, policy)
    machine.check_report_data(rows, quote, report_data)
    runtime = machine.check_event_log(rows, evidence, quote)
    digests = None
    if quote is not None and runtime is not None:
        digests = machine.digests_of(quote, runtime)
    machine.check_measurement(rows, quote, digests, policy)
    machine.check_application(rows, runtime, policy, app_id, instance_id)
    refusal = next((check.code for check in rows.checks if not check.passed), None)
    facts = Facts(quote, runtime, claims, used, device_id, digests)
    return Verdict(tuple(rows.checks), refusal, facts)
