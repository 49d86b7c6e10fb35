"""Checks of what runs in the machine: the session it answers, its measurements, its application."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from .errors import EventLogError
from .event_log import (
    RuntimeFacts,
    mr_aggregated,
    mr_system,
    parse_event_log,
    replay,
    runtime_facts,
)
from .evidence import Evidence
from .policy import Policy, Registers
from .quotes import TdxQuote
from .refusals import RefusalCode
from .rows import Rows


@dataclass(frozen=True, slots=True)
class Digests:
    """dstack's digests of all measurements, 32 bytes each: mr_aggregated, at boot, mr_system."""

    aggregated: bytes
    aggregated_boot: bytes
    system: bytes


def digests_of(quote: TdxQuote, runtime: RuntimeFacts) -> Digests:
    """The digests of a quote whose register 3 the runtime facts explain."""
    config = (quote.mr_config_id, quote.mr_owner, quote.mr_owner_config)
    boot = (*quote.rtmrs[:3], runtime.rtmr3_boot)
    return Digests(
        aggregated=mr_aggregated(quote.mr_td, quote.rtmrs, config),
        aggregated_boot=mr_aggregated(quote.mr_td, boot, config),
        system=mr_system(quote.mr_td, quote.rtmrs, runtime.key_provider),
    )


def check_report_data(rows: Rows, quote: TdxQuote | None, expected: bytes | None) -> None:
    came = None if quote is None else quote.report_data
    rows.value("report data", expected, came, RefusalCode.REPORT_DATA)


def check_event_log(rows: Rows, evidence: Evidence, quote: TdxQuote | None) -> RuntimeFacts | None:
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


def check_measurement(
    rows: Rows, quote: TdxQuote | None, digests: Digests | None, policy: Policy | None
) -> None:
    code, expected = RefusalCode.MEASUREMENT, "a listed machine"
    if quote is None:
        rows.not_reached("measurement", expected, code)
        return
    came = f"mrtd {quote.mr_td.hex()}, " + ", ".join(
        f"rtmr{index} {value.hex()}" for index, value in enumerate(quote.rtmrs[:3])
    )
    passed = policy is not None and Registers(quote.mr_td, *quote.rtmrs[:3]) in policy.registers
    if digests is not None:
        came += f", mr_system {digests.system.hex()}, mr_aggregated {digests.aggregated.hex()}"
        passed = passed or (
            policy is not None
            and (
                digests.aggregated in policy.mr_aggregated
                or digests.aggregated_boot in policy.mr_aggregated_boot
                or digests.system in policy.mr_system
            )
        )
    rows.add("measurement", passed, expected, came, code)


def check_application(
    rows: Rows,
    runtime: RuntimeFacts | None,
    policy: Policy | None,
    app_id: bytes | None,
    instance_id: bytes | None,
) -> None:
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


def _key_provider(rows: Rows, runtime: RuntimeFacts | None, policy: Policy | None) -> None:
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
