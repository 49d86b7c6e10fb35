"""Checks of the machine below its software: a genuine TDX quote, of a platform that may be.

Quote, attributes, collateral, signatures, TCB level, platform flags. Each function adds its rows
and returns what later checks need, None when there is nothing to hand on.
"""

from __future__ import annotations

from collections.abc import Iterable

from . import qvl
from .collateral import Collateral, iso_date, parse_collateral
from .errors import CollateralError, QuoteError
from .evidence import Evidence
from .policy import REVOKED, SECONDS_MAX, UP_TO_DATE, Policy
from .quotes import TdxQuote, parse_quote
from .refusals import RefusalCode
from .rows import UNKNOWN, Rows


def check_quote(rows: Rows, evidence: Evidence) -> TdxQuote | None:
    expected = "a TDX quote, version 4 or 5"
    try:
        quote = parse_quote(evidence.quote)
    except QuoteError as error:
        rows.add("quote", False, expected, str(error), RefusalCode.BAD_QUOTE)
        return None
    body = "TD10" if quote.mr_service_td is None else "TD15"
    rows.add("quote", True, expected, f"version {quote.version}, {body}", RefusalCode.BAD_QUOTE)
    return quote


def check_attributes(rows: Rows, quote: TdxQuote | None) -> None:
    # Read before the signature is checked, because the library refuses debug machines by itself
    # and the operator should be told why. Whether true or not, such a quote is refused.
    expected_bits = "SEPT_VE_DISABLE, besides it none but LASS, PKS, KL, PERFMON"
    expected_module = "Intel's TDX module, no service machine"
    if quote is None:
        rows.not_reached("td attributes", expected_bits, RefusalCode.DEBUG)
        rows.not_reached("tdx module", expected_module, RefusalCode.TDX_MODULE)
        return
    came = quote.td_attributes.hex() + (" (debug)" if quote.is_debug else "")
    rows.add("td attributes", quote.is_closed, expected_bits, came, RefusalCode.DEBUG)
    foreign = []
    if any(quote.mr_signer_seam):
        foreign.append(f"MRSIGNERSEAM {quote.mr_signer_seam.hex()}")
    if quote.mr_service_td is not None and any(quote.mr_service_td):
        foreign.append(f"MRSERVICETD {quote.mr_service_td.hex()}")
    came = ", ".join(foreign) or f"MRSEAM {quote.mr_seam.hex()}"
    rows.add("tdx module", not foreign, expected_module, came, RefusalCode.TDX_MODULE)


def check_collateral(
    rows: Rows, evidence: Evidence, quote: TdxQuote | None, given: Collateral | None
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


def check_dates(
    rows: Rows, collateral: Collateral | None, policy: Policy | None, now_s: int
) -> None:
    code = RefusalCode.COLLATERAL_STALE
    expected = f"collateral valid at {iso_date(now_s)}"
    if policy is not None:
        expected += f", at most {policy.collateral_age_s_max} s old"
        if policy.tcb_evaluation_number_min:
            expected += f", evaluation {policy.tcb_evaluation_number_min} or later"
    if collateral is None:
        rows.not_reached("collateral dates", expected, code)
        return
    age_s_max = SECONDS_MAX if policy is None else policy.collateral_age_s_max
    number_min = 0 if policy is None else policy.tcb_evaluation_number_min
    fresh = collateral.serves(now_s, age_s_max) and collateral.tcb_evaluation_number >= number_min
    came = (
        f"issued {iso_date(collateral.issued_s)}, valid until "
        f"{iso_date(collateral.valid_until_s)}, evaluation {collateral.tcb_evaluation_number}"
    )
    rows.add("collateral dates", fresh, expected, came, code)


def check_signatures(
    rows: Rows,
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


def check_tcb(rows: Rows, claims: qvl.Claims | None, policy: Policy | None, now_s: int) -> None:
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


def check_platform(
    rows: Rows, claims: qvl.Claims | None, device_id: bytes | None, policy: Policy | None
) -> None:
    forbidden = []
    if policy is None or not policy.allow_dynamic_platform:
        forbidden.append("dynamic platform")
    if policy is None or not policy.allow_cached_keys:
        forbidden.append("cached keys")
    if policy is None or not policy.allow_smt:
        forbidden.append("SMT")
    code, expected = RefusalCode.PLATFORM, f"without {', '.join(forbidden)}"
    came, present = UNKNOWN, []
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
