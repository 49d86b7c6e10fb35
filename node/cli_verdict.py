"""How verdicts and facts print: whole values, for people to compare and for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attest.verifying import Facts, Verdict


def facts_document(facts: Facts) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if facts.quote is not None:
        quote = facts.quote
        found |= {"version": quote.version, "mrtd": quote.mr_td.hex()}
        found |= {f"rtmr{index}": value.hex() for index, value in enumerate(quote.rtmrs)}
        found |= {
            "report_data": quote.report_data.hex(),
            "mr_config_id": quote.mr_config_id.hex(),
            "mr_seam": quote.mr_seam.hex(),
            "td_attributes": quote.td_attributes.hex(),
        }
    if facts.runtime is not None:
        runtime = facts.runtime
        provider = runtime.key_provider
        found |= {
            "app_id": runtime.app_id.hex(),
            "instance_id": runtime.instance_id.hex(),
            "compose_hash": runtime.compose_hash.hex(),
            "os_image_hash": runtime.os_image_hash.hex(),
            "key_provider": None if provider is None else provider.name,
            "key_provider_id": None if provider is None else provider.id.hex(),
        }
    if facts.digests is not None:
        found |= {
            "mr_aggregated": facts.digests.aggregated.hex(),
            "mr_aggregated_boot": facts.digests.aggregated_boot.hex(),
            "mr_system": facts.digests.system.hex(),
        }
    if facts.claims is not None and facts.device_id is not None:
        claims = facts.claims
        found |= {
            "tcb_status": claims.status,
            "advisories": list(claims.advisories),
            "fmspc": claims.fmspc.hex(),
            "device_id": facts.device_id.hex(),
        }
    return found


def verdict_document(verdict: Verdict, kind: str, now_s: int) -> dict[str, Any]:
    return {
        "accepted": verdict.accepted,
        "refusal": None if verdict.refusal is None else verdict.refusal.name.lower(),
        "code": None if verdict.refusal is None else int(verdict.refusal),
        "kind": kind,
        "at": now_s,
        "checks": [
            {
                "name": check.name,
                "passed": check.passed,
                "judged": check.judged,
                "expected": check.expected,
                "came": check.came,
            }
            for check in verdict.checks
        ],
        "facts": facts_document(verdict.facts),
    }


def print_lines(document: dict[str, Any]) -> None:
    """Every value whole, on a line of its own: hashes are there to be compared."""
    width = max(map(len, document))
    for name, value in document.items():
        if isinstance(value, dict):
            value = ", ".join(f"{inner} {item}" for inner, item in value.items())
        elif isinstance(value, list):
            value = ", ".join(map(str, value)) or "none"
        elif value is None or value == "":
            value = "none"
        text = "".join(c if c.isprintable() else "?" for c in str(value))
        print(f"{name:{width}}  {text}")


def print_verdict(verdict: Verdict, kind: str) -> None:
    print(kind)
    for check in verdict.checks:
        if not check.passed:
            print(f"FAIL  {check.name}")
            _print_values("expected", check.expected, " or ")
            _print_values("came", check.came, ", ")
        else:
            print(f"{'ok  ' if check.judged else 'any '}  {check.name}")
            _print_values("", check.came, ", ")
    if verdict.refusal is None:
        print("accepted")
    else:
        print(f"refused: {verdict.refusal.name.lower()} ({int(verdict.refusal)})")


def _print_values(label: str, text: str, separator: str) -> None:
    for value in text.split(separator):
        shown = "".join(c if c.isprintable() else "?" for c in value)
        print(f"      {label:8}  {shown}" if label else f"      {shown}")
        label = " " if label else ""
