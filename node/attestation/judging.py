"""The verdict on evidence, off the main thread, with the best collateral at hand.

``attest.verifying`` is pure; here is where its arguments come from and how often it runs. A verdict
is used again only for the very same evidence, expectations, policy and collateral, only when it
accepts, and only for a minute, because dates and grace periods run.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import trio

from attest import (
    CollateralError,
    CollateralUnavailable,
    Evidence,
    EvidenceError,
    QuoteError,
    RefusalCode,
    parse_collateral,
)
from attest.collateral import Collateral
from attest.collateral_store import CollateralStore
from attest.qvl import Platform, platform_of
from attest.verifying import Verdict, verify_evidence
from node.attestation.policies import PolicyInForce

THREADS_MAX = 2
COLLATERAL_WAIT_S = 5.0  # of one handshake, for a family that nobody has met yet
CACHED_MAX = 256
CACHED_S = 60.0


@dataclass(frozen=True, slots=True)
class Expected:
    """What this evidence must show: 64 bytes of report data, 20 bytes of app and instance id."""

    report_data: bytes
    app_id: bytes
    instance_id: bytes


@dataclass(frozen=True, slots=True)
class Judgement:
    """``refusal`` is None when all is well; ``detail`` is for the operator."""

    refusal: RefusalCode | None
    detail: str = ""
    tcb_status: str = ""
    advisories: tuple[str, ...] = ()
    compose_hash: bytes = b""
    device_id: bytes = b""


class Judge:
    """Judges evidence.

    Args:
        collateral: what is known of platform families; accepted evidence adds to it.
        root_ca_der: another root than Intel's, or None.
        now_s: unix time.
    """

    def __init__(
        self,
        collateral: CollateralStore,
        *,
        root_ca_der: bytes | None,
        now_s: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.verified = 0
        self.verifying_s = 0.0  # in the threads, all together
        self._collateral = collateral
        self._root_ca_der = root_ca_der
        self._now_s = now_s
        self._threads = trio.CapacityLimiter(THREADS_MAX)
        self._cache: OrderedDict[tuple[object, ...], tuple[float, Judgement]] = OrderedDict()

    async def judge(
        self, raw: bytes, expected: Expected, policy: PolicyInForce | None
    ) -> Judgement:
        """The judgement on evidence of a stranger; never raises for what is in it."""
        try:
            evidence = Evidence.decode(raw)
        except EvidenceError as error:
            return Judgement(RefusalCode.BAD_EVIDENCE, str(error))
        rules = policy.policy if policy is not None else None
        age_s_max = 0 if rules is None else rules.collateral_age_s_max
        platform, chosen, trouble = await self._choose(evidence, age_s_max)
        key = (
            hashlib.sha256(raw).digest(),
            expected,
            None if policy is None else (policy.version, policy.digest),
            None if chosen is None else _identity(chosen),
        )
        known = self._cache.get(key)
        if known is not None and trio.current_time() < known[0]:
            return known[1]

        def run() -> tuple[Verdict, float]:
            begun = time.thread_time()
            verdict = verify_evidence(
                evidence,
                report_data=expected.report_data,
                app_id=expected.app_id,
                instance_id=expected.instance_id,
                policy=rules,
                collateral=chosen,
                now_s=self._now_s(),
                root_ca_der=self._root_ca_der,
            )
            return verdict, time.thread_time() - begun

        verdict, took_s = await trio.to_thread.run_sync(run, limiter=self._threads)
        self.verified += 1
        self.verifying_s += took_s
        judgement = _judgement(verdict, trouble)
        if verdict.accepted:
            self._remember(key, judgement)
            if platform is not None and verdict.facts.collateral is not None:
                await self._collateral.remember(platform, verdict.facts.collateral)
        return judgement

    async def _choose(
        self, evidence: Evidence, age_s_max: int
    ) -> tuple[Platform | None, Collateral | None, str]:
        """Of what came along, what is kept, and what a source gives, the newest that will do.

        All of it is signed by Intel, so it does not matter who handed it out; its age does.
        """

        def read() -> tuple[Platform | None, Collateral | None]:
            platform = carried = None
            try:
                platform = platform_of(evidence.quote)
                if evidence.collateral is not None:
                    carried = parse_collateral(evidence.collateral)
            except (QuoteError, CollateralError):
                pass  # the verdict says so
            return platform, carried

        platform, carried = await trio.to_thread.run_sync(read, limiter=self._threads)
        if platform is None:
            return None, None, ""
        if carried is not None and carried.fmspc != platform.fmspc:
            carried = None
        newest = max(
            (c for c in (carried, self._collateral.peek(platform)) if c is not None),
            key=lambda c: (c.tcb_evaluation_number, c.issued_s),
            default=None,
        )
        now_s = self._now_s()
        # Without a policy all are refused, so no source need be asked.
        if age_s_max == 0 or (newest is not None and newest.serves(now_s, age_s_max)):
            return platform, newest, ""
        trouble = "no source answered in time"
        with trio.move_on_after(COLLATERAL_WAIT_S):
            try:
                found = await self._collateral.get(platform, now_s=now_s, age_s_max=age_s_max)
            except CollateralUnavailable as error:
                trouble = str(error)
            else:
                return platform, found, ""
        return platform, newest, trouble

    def _remember(self, key: tuple[object, ...], judgement: Judgement) -> None:
        self._cache[key] = (trio.current_time() + CACHED_S, judgement)
        if len(self._cache) > CACHED_MAX:
            self._cache.popitem(last=False)


def _judgement(verdict: Verdict, collateral_trouble: str) -> Judgement:
    facts = verdict.facts
    detail = verdict.reason()
    if collateral_trouble and verdict.refusal in (
        RefusalCode.COLLATERAL_MISSING,
        RefusalCode.COLLATERAL_STALE,
    ):
        detail += f" ({collateral_trouble})"
    return Judgement(
        refusal=verdict.refusal,
        detail=detail,
        tcb_status="" if facts.claims is None else facts.claims.status,
        advisories=() if facts.claims is None else facts.claims.advisories,
        compose_hash=b"" if facts.runtime is None else facts.runtime.compose_hash,
        device_id=facts.device_id or b"",
    )


def _identity(collateral: Collateral) -> tuple[object, ...]:
    return (
        collateral.fmspc,
        collateral.tcb_evaluation_number,
        collateral.issued_s,
        collateral.latest_issued_s,
        collateral.tcb_info_signature,
        collateral.qe_identity_signature,
    )
