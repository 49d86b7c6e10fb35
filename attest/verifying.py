"""The verdict on evidence: a pure function of evidence, expectations, policy, collateral and time.

Every check is made and told, also after the first that failed, so that an operator sees all that
is wrong at once. The first failure gives the refusal. What each check proves, and what the whole
does not prove, is in docs/attestation.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from . import qvl
from .collateral import Collateral, iso_date, parse_collateral
from .errors import CollateralError, EventLogError, QuoteError
from .event_log import (
    RuntimeFacts,
    mr_aggregated,
    mr_system,
    parse_event_log,
    replay,
    runtime_facts,
)
from .evidence import Evidence
from .policy import REVOKED, UP_TO_DATE, Policy, Registers
from .quotes import TdxQuote, parse_quote
from .refusals import Check, RefusalCode

_NOT_REACHED = "not checked: an earlier failure left nothing to check"
_ANY = "anything: not judged"
_UNKNOWN = "not known"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the evidence says of the machine; proven only when the verdict accepts it.

    A part is None when the evidence did not get as far as to give it. ``device_id`` is SHA-256 of
    the platform's PPID (32 bytes); mr_* are 32 bytes.
    """

    quote: TdxQuote | None = None
    runtime: RuntimeFacts | None = None
    claims: qvl.Claims | None = None
    collateral: Collateral | None = None
    device_id: bytes | None = None
    mr_aggregated: bytes | None = None
    mr_aggregated_boot: bytes | None = None
    mr_system: bytes | None = None


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
    rows = _Rows()
    rows.add(
        "policy",
        policy is not None,
        "a policy",
        "none" if policy is None else "given",
        RefusalCode.NO_POLICY,
    )
    quote = _quote(rows, evidence)
    _attributes(rows, quote)
    used = _collateral(rows, evidence, quote, collateral)
    _dates(rows, used, policy, now_s)
    claims = _signatures(rows, evidence, quote, used, now_s, root_ca_der)
    _tcb(rows, claims, policy, now_s)
    device_id = None if claims is None else hashlib.sha256(claims.ppid).digest()
    _platform(rows, claims, device_id, policy)
    _report_data(rows, quote, report_data)
    runtime = _event_log(rows, evidence, quote)
    facts = Facts(quote, runtime, claims, used, device_id)
    if quote is not None and runtime is not None:
        facts = _aggregates(facts, quote, runtime)
    _measurement(rows, facts, policy)
    _application(rows, facts, policy, app_id, instance_id)
    refusal = next((check.code for check in rows.checks if not check.passed), None)
    return Verdict(tuple(rows.checks), refusal, facts)


class _Rows:
    def __init__(self) -> None:
        self.checks: list[Check] = []

    def add(self, name: str, passed: bool, expected: str, came: str, code: RefusalCode) -> None:
        self.checks.append(Check(name, passed, expected, came, code))

    def not_reached(self, name: str, expected: str, code: RefusalCode) -> None:
        self.add(name, False, expected, _NOT_REACHED, code)

    def unjudged(self, name: str, came: str, code: RefusalCode) -> None:
        self.checks.append(Check(name, True, _ANY, came, code, judged=False))

    def value(
        self, name: str, expected: bytes | None, came: bytes | None, code: RefusalCode
    ) -> None:
        """One value against the one expected; None expected is not judged."""
        if expected is None:
            self.unjudged(name, _UNKNOWN if came is None else _hex(came), code)
        elif came is None:
            self.not_reached(name, _hex(expected), code)
        else:
            self.add(name, came == expected, _hex(expected), _hex(came), code)

    def listed(
        self, name: str, allowed: frozenset[bytes] | None, came: bytes | None, code: RefusalCode
    ) -> None:
        """One value against a list; None as the list is not judged."""
        if allowed is None:
            self.unjudged(name, _UNKNOWN if came is None else _hex(came), code)
        elif came is None:
            self.not_reached(name, _one_of(allowed), code)
        else:
            self.add(name, came in allowed, _one_of(allowed), _hex(came), code)


def _quote(rows: _Rows, evidence: Evidence) -> TdxQuote | None:
    expected = "a TDX quote, version 4 or 5"
    try:
        quote = parse_quote(evidence.quote)
    except QuoteError as error:
        rows.add("quote", False, expected, str(error), RefusalCode.BAD_QUOTE)
        return None
    body = "TD10" if quote.mr_service_td is None else "TD15"
    rows.add("quote", True, expected, f"version {quote.version}, {body}", RefusalCode.BAD_QUOTE)
    return quote


def _attributes(rows: _Rows, quote: TdxQuote | None) -> None:
    # Read before the signature is checked, because the library refuses debug machines by itself
    # and the operator should be told why. Whether true or not, such a quote is refused.
    expected_bits = "no debug bit, no migration, SEPT_VE_DISABLE"
    expected_module = "Intel's TDX module, no service machine"
    if quote is None:
        rows.not_reached("td attributes", expected_bits, RefusalCode.DEBUG)
        rows.not_reached("tdx module", expected_module, RefusalCode.TDX_MODULE)
        return
    safe = not quote.is_debug and not quote.is_migratable and quote.sept_ve_disabled
    rows.add("td attributes", safe, expected_bits, quote.td_attributes.hex(), RefusalCode.DEBUG)
    foreign = []
    if any(quote.mr_signer_seam):
        foreign.append(f"MRSIGNERSEAM {quote.mr_signer_seam.hex()}")
    if quote.mr_service_td is not None and any(quote.mr_service_td):
        foreign.append(f"MRSERVICETD {quote.mr_service_td.hex()}")
    came = ", ".join(foreign) or f"MRSEAM {quote.mr_seam.hex()}"
    rows.add("tdx module", not foreign, expected_module, came, RefusalCode.TDX_MODULE)


def _collateral(
    rows: _Rows, evidence: Evidence, quote: TdxQuote | None, given: Collateral | None
) -> Collateral | None:
    code, expected = RefusalCode.COLLATERAL_MISSING, "collateral of the platform's family"
    used = given
    if used is None and evidence.collateral is not None:
        try:
            used = parse_collateral(evidence.collateral)
        except CollateralError as error:
            rows.add("collateral", False, expected, f"malformed: {error}", code)
            return None
    if quote is None:
        rows.not_reached("collateral", expected, code)
        return used
    if used is None:
        rows.add("collateral", False, expected, "none", code)
        return None
    try:
        fmspc = qvl.platform_of(evidence.quote).fmspc
    except QuoteError as error:
        rows.add("collateral", False, expected, f"quote without a family: {error}", code)
        return None
    expected = f"collateral of family {fmspc.hex()}"
    rows.add("collateral", used.fmspc == fmspc, expected, f"family {used.fmspc.hex()}", code)
    return used


def _dates(rows: _Rows, collateral: Collateral | None, policy: Policy | None, now_s: int) -> None:
    code = RefusalCode.COLLATERAL_STALE
    expected = f"collateral valid at {iso_date(now_s)}"
    if policy is not None:
        expected += f", at most {policy.collateral_age_s_max} s old"
        if policy.tcb_evaluation_number_min:
            expected += f", evaluation {policy.tcb_evaluation_number_min} or later"
    if collateral is None:
        rows.not_reached("collateral dates", expected, code)
        return
    fresh = collateral.latest_issued_s <= now_s <= collateral.valid_until_s
    if policy is not None:
        fresh = (
            fresh
            and collateral.age_s(now_s) <= policy.collateral_age_s_max
            and collateral.tcb_evaluation_number >= policy.tcb_evaluation_number_min
        )
    came = (
        f"issued {iso_date(collateral.issued_s)}, valid until "
        f"{iso_date(collateral.valid_until_s)}, evaluation {collateral.tcb_evaluation_number}"
    )
    rows.add("collateral dates", fresh, expected, came, code)


def _signatures(
    rows: _Rows,
    evidence: Evidence,
    quote: TdxQuote | None,
    collateral: Collateral | None,
    now_s: int,
    root_ca_der: bytes | None,
) -> qvl.Claims | None:
    root = "Intel's root" if root_ca_der is None else "the given root (not Intel's)"
    expected = f"signatures up to {root}"
    if quote is None or collateral is None:
        rows.not_reached("signatures", expected, RefusalCode.QUOTE_SIGNATURE)
        return None
    try:
        claims = qvl.verify_quote(evidence.quote, collateral, now_s, root_ca_der)
    except QuoteError as error:
        rows.add("signatures", False, expected, str(error), _why(str(error)))
        return None
    rows.add("signatures", True, expected, "valid", RefusalCode.QUOTE_SIGNATURE)
    return claims


def _why(error: str) -> RefusalCode:
    """The library's words only choose the code: the refusal stands whatever they are."""
    if "Revoked" in error:
        return RefusalCode.TCB_REVOKED
    if "No matching TCB level" in error:
        return RefusalCode.TCB_STATUS
    if "xpired" in error or "in the future" in error or "NotValidYet" in error:
        return RefusalCode.COLLATERAL_STALE
    return RefusalCode.QUOTE_SIGNATURE


def _tcb(rows: _Rows, claims: qvl.Claims | None, policy: Policy | None, now_s: int) -> None:
    accepted: Iterable[str] = () if policy is None else policy.tcb_statuses
    expected = " or ".join(accepted) or "none without a policy"
    if claims is None:
        rows.not_reached("tcb status", expected, RefusalCode.TCB_STATUS)
        rows.not_reached("advisories", "accepted ones only", RefusalCode.ADVISORY)
        return
    passed, came = _status(claims, policy, now_s)
    revoked = claims.status == REVOKED
    code = RefusalCode.TCB_REVOKED if revoked else RefusalCode.TCB_STATUS
    rows.add("tcb status", passed, expected, came, code)
    known = frozenset() if policy is None else policy.advisories
    strange = sorted(set(claims.advisories) - known)
    rows.add(
        "advisories",
        not strange,
        f"none but {', '.join(sorted(known))}" if known else "none",
        ", ".join(claims.advisories) or "none",
        RefusalCode.ADVISORY,
    )


def _status(claims: qvl.Claims, policy: Policy | None, now_s: int) -> tuple[bool, str]:
    came = claims.status
    if policy is None or claims.status not in policy.tcb_statuses:
        return False, came
    # The merged status hides which half is behind: each half's own grace has to hold.
    for half, status, since_s in (
        ("platform", claims.platform_status, claims.platform_date_s),
        ("quoting enclave", claims.qe_status, claims.qe_date_s),
    ):
        if status == UP_TO_DATE:
            continue
        came += f", {half} {status} since {iso_date(since_s)}"
        if status not in policy.tcb_statuses:
            return False, f"{came}, which is not accepted"
        grace_s = policy.tcb_statuses[status]
        if grace_s is not None and now_s > since_s + grace_s:
            return False, f"{came}, grace of {grace_s} s is over"
    merged_grace_s = policy.tcb_statuses[claims.status]
    oldest_s = min(claims.platform_date_s, claims.qe_date_s)
    if (
        claims.status not in (UP_TO_DATE, claims.platform_status, claims.qe_status)
        and merged_grace_s is not None
        and now_s > oldest_s + merged_grace_s
    ):
        return False, f"{came}, grace of {merged_grace_s} s is over"
    return True, came


def _platform(
    rows: _Rows, claims: qvl.Claims | None, device_id: bytes | None, policy: Policy | None
) -> None:
    forbidden = []
    if policy is None or not policy.allow_dynamic_platform:
        forbidden.append("dynamic platform")
    if policy is None or not policy.allow_cached_keys:
        forbidden.append("cached keys")
    if policy is None or not policy.allow_smt:
        forbidden.append("SMT")
    code, expected = RefusalCode.PLATFORM, f"without {', '.join(forbidden)}"
    came, present = _UNKNOWN, []
    if claims is not None:
        flags = {
            "dynamic platform": claims.dynamic_platform,
            "cached keys": claims.cached_keys,
            "SMT": claims.smt,
        }
        present = [name for name, flag in flags.items() if flag]
        came = ", ".join(present) or "none of dynamic platform, cached keys, SMT"
    if not forbidden:
        rows.unjudged("platform", came, code)
    elif claims is None:
        rows.not_reached("platform", expected, code)
    else:
        passed = not any(name in forbidden for name in present)
        rows.add("platform", passed, expected, came, code)
    rows.listed("device", None if policy is None else policy.devices, device_id, RefusalCode.DEVICE)


def _report_data(rows: _Rows, quote: TdxQuote | None, expected: bytes | None) -> None:
    came = None if quote is None else quote.report_data
    rows.value("report data", expected, came, RefusalCode.REPORT_DATA)


def _event_log(rows: _Rows, evidence: Evidence, quote: TdxQuote | None) -> RuntimeFacts | None:
    code, expected = RefusalCode.EVENT_LOG, "a log that leads to the quote's registers"
    try:
        log = parse_event_log(evidence.event_log)
        facts = runtime_facts(log)
    except EventLogError as error:
        rows.add("event log", False, expected, str(error), code)
        return None
    if quote is None:
        rows.not_reached("event log", expected, code)
        return None
    # Registers 0 to 2 are judged by the quote's own values below; their events are often stripped.
    wrong = [
        register
        for register, value in enumerate(replay(log))
        if value != quote.rtmrs[register] and (register == 3 or not log.is_partial(register))
    ]
    came = f"leads elsewhere in RTMR {', '.join(map(str, wrong))}" if wrong else "it does"
    rows.add("event log", not wrong, expected, came, code)
    return None if 3 in wrong else facts


def _aggregates(facts: Facts, quote: TdxQuote, runtime: RuntimeFacts) -> Facts:
    config = (quote.mr_config_id, quote.mr_owner, quote.mr_owner_config)
    return Facts(
        quote=quote,
        runtime=runtime,
        claims=facts.claims,
        collateral=facts.collateral,
        device_id=facts.device_id,
        mr_aggregated=mr_aggregated(quote.mr_td, quote.rtmrs, config),
        mr_aggregated_boot=mr_aggregated(
            quote.mr_td, (*quote.rtmrs[:3], runtime.rtmr3_boot), config
        ),
        mr_system=mr_system(quote.mr_td, quote.rtmrs, runtime.key_provider),
    )


def _measurement(rows: _Rows, facts: Facts, policy: Policy | None) -> None:
    code, expected = RefusalCode.MEASUREMENT, "a listed machine"
    quote = facts.quote
    if quote is None:
        rows.not_reached("measurement", expected, code)
        return
    came = f"mrtd {quote.mr_td.hex()}, " + ", ".join(
        f"rtmr{index} {value.hex()}" for index, value in enumerate(quote.rtmrs[:3])
    )
    if facts.mr_system is not None and facts.mr_aggregated is not None:
        came += f", mr_system {facts.mr_system.hex()}, mr_aggregated {facts.mr_aggregated.hex()}"
    passed = policy is not None and (
        Registers(quote.mr_td, *quote.rtmrs[:3]) in policy.registers
        or facts.mr_aggregated in policy.mr_aggregated
        or facts.mr_aggregated_boot in policy.mr_aggregated_boot
        or facts.mr_system in policy.mr_system
    )
    rows.add("measurement", passed, expected, came, code)


def _application(
    rows: _Rows,
    facts: Facts,
    policy: Policy | None,
    app_id: bytes | None,
    instance_id: bytes | None,
) -> None:
    runtime = facts.runtime
    rows.listed(
        "os image",
        None if policy is None else policy.os_images,
        None if runtime is None else runtime.os_image_hash,
        RefusalCode.OS_IMAGE,
    )
    rows.listed(
        "compose hash",
        frozenset() if policy is None else policy.compose_hashes,
        None if runtime is None else runtime.compose_hash,
        RefusalCode.COMPOSE_HASH,
    )
    rows.value("app id", app_id, None if runtime is None else runtime.app_id, RefusalCode.APP_ID)
    rows.value(
        "instance id",
        instance_id,
        None if runtime is None else runtime.instance_id,
        RefusalCode.INSTANCE_ID,
    )
    _key_provider(rows, runtime, policy)


def _key_provider(rows: _Rows, runtime: RuntimeFacts | None, policy: Policy | None) -> None:
    code = RefusalCode.KEY_PROVIDER
    rules = () if policy is None else policy.key_providers
    expected = (
        " or ".join(
            f"{rule.name} {'(any)' if rule.id_sha256 is None else rule.id_sha256.hex()}"
            for rule in rules
        )
        or "none without a policy"
    )
    if runtime is None:
        rows.not_reached("key provider", expected, code)
        return
    provider = runtime.key_provider
    if provider is None:
        rows.add("key provider", False, expected, "none named", code)
        return
    id_sha256 = hashlib.sha256(provider.id).digest()
    passed = any(
        rule.name == provider.name and rule.id_sha256 in (None, id_sha256) for rule in rules
    )
    rows.add("key provider", passed, expected, f"{provider.name[:64]} {id_sha256.hex()}", code)


def _one_of(allowed: frozenset[bytes]) -> str:
    if not allowed:
        return "none without a policy"
    return " or ".join(sorted(_hex(item) for item in allowed))


def _hex(value: bytes) -> str:
    return value.hex() or "(empty)"
