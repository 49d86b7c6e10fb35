"""Attestation of members: the mesh's ``Attestor``, renewal, and what a new policy does to links.

Each member is judged with a fresh quote when it links, every ``renewal_s`` of the policy, when the
policy changes, and when the core knows a newer boot of its seat than it proved. A refusal ends its
link and nothing else. On a new policy the evidence at hand is judged anew at once, before anybody
is asked for fresh evidence, so that whom the policy shuts out is gone within moments.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

import structlog
import trio

from attest import RefusalCode
from attest.collateral_store import CollateralStore
from chain import Member
from consensus.validators import ValidatorSet
from node.attestation.agent import Prover, QuoteSource, report_data_of
from node.attestation.codes import NO_FAULT_OF_THE_PEER, NodeCode, reason, word
from node.attestation.judging import Expected, Judge, Judgement
from node.attestation.policies import PolicyBook, PolicyInForce
from node.attestation.quorum import Enforcement, enforcement
from node.attestation.records import Accepted, Record, Refusal
from node.network import peer_id_of
from node.network.attesting import Statement
from node.network.errors import Denied, Unproven

TICK_S = 1.0
RENEWALS_AT_ONCE_MAX = 4
RETRY_S_MIN, RETRY_S_MAX = 5.0, 60.0
OWN_RETRY_S = 10.0
AFTER_POLICY_S = 30.0  # within which all links are renewed after a change, not all at once
JITTER = 0.1
COLLATERAL_CHECK_S = 300.0
TOLD_S = 60.0  # a member that says the same again is logged again after a pause this long


class Links(Protocol):
    """What is needed of the mesh."""

    peer_id: str

    async def ask(self, seat: int) -> bool: ...
    def cut(self, seat: int, reason: str, *, penalty: bool = False, detail: str = "") -> None: ...
    def forgive(self) -> None: ...
    def linked(self) -> set[int]: ...


class Core(Protocol):
    """What is needed of the consensus core: which boot of a seat counts."""

    def incarnation(self) -> int:
        """Our own."""
        ...

    def current(self, seat: int) -> int:
        """The newest acknowledged boot of a member, 0 if there is none."""
        ...

    def proof(self, seat: int) -> bytes:
        """What shows a member that newer boot of its seat, b"" if we have nothing to show."""
        ...

    def superseded(self, seat: int, proof: bytes) -> None:
        """A member says that there is a newer boot of our own seat."""
        ...

    def validators(self) -> ValidatorSet:
        """Who votes now."""
        ...


class Attestation:
    """Judges all members of one node, and shows them this one.

    Args:
        agent: gives quotes of this machine.
        cluster_id, seat, app_id: ours; all members run the same app.
        collateral: what is known of platform families.
        policies: which policy is in force.
        row_of: the registry's row of a seat.
        evidence_bytes_max: what the mesh carries.
        root_ca_der: another root than Intel's, or None.
        renewal_s_max: renew at least this often, whatever the policy says.
        on_change: called after each change of what the operator sees.
    """

    def __init__(
        self,
        agent: QuoteSource,
        *,
        cluster_id: bytes,
        seat: int,
        app_id: bytes,
        collateral: CollateralStore,
        policies: PolicyBook,
        row_of: Callable[[int], Member | None],
        evidence_bytes_max: int,
        root_ca_der: bytes | None = None,
        renewal_s_max: float = 3600.0,
        on_change: Callable[[], None] = lambda: None,
        now_s: Callable[[], int] = lambda: int(time.time()),
    ) -> None:
        self.accepted = 0
        self.refused: Counter[str] = Counter()
        self.collateral_trouble = ""
        self.prover = Prover(agent, collateral, evidence_bytes_max)
        self.judge_ = Judge(collateral, root_ca_der=root_ca_der, now_s=now_s)
        self.policies = policies
        self._cluster_id = cluster_id
        self._seat = seat
        self._app_id = app_id
        self._collateral = collateral
        self._row_of = row_of
        self._renewal_s_max = renewal_s_max
        self._on_change = on_change
        self._now_s = now_s
        self._records: dict[int, Record] = {}
        self._enforced = Enforcement(frozenset(), frozenset())
        self._own: Record | None = None
        self._links: Links | None = None
        self._core: Core | None = None
        self._renewing: set[int] = set()
        self._renewals = trio.Semaphore(RENEWALS_AT_ONCE_MAX)
        self._policy_changed = trio.Event()
        self._random = random.Random()
        self._log = structlog.get_logger("node.attestation")
        policies.on_change = self._on_policy

    def attach(self, links: Links, core: Core) -> None:
        """Both are about to run."""
        self._links, self._core = links, core
        self._own = Record(self._seat, links.peer_id)

    # --- the mesh's Attestor ---

    def incarnation(self) -> int:
        """See ``Attestor``."""
        assert self._core is not None, "links come after the core"
        return self._core.incarnation()

    async def prove(self, statement: Statement) -> bytes:
        """See ``Attestor``."""
        return await self.prover.prove(statement)

    async def judge(self, statement: Statement, evidence: bytes) -> None:
        """See ``Attestor``."""
        record = self._record(statement.seat, statement.prover)
        try:
            instance_id = self._instance_of(statement, record)
            expected = Expected(report_data_of(statement), self._app_id, instance_id)
            self._fence(statement)
            while True:
                newest = self.policies.current
                policy, judgement = await self._judge_record(record, evidence, expected, newest)
                # What decided may have changed meanwhile: another policy, or nobody held any more.
                if newest is self.policies.current and policy in (newest, record.held):
                    break
            self._fence(statement)
            if judgement.refusal is not None:
                raise _denied(judgement.refusal, judgement.detail)
        except Denied as denied:
            record.refuse(denied.reason, denied.detail)
            self.refused[denied.reason] += 1
            self._on_change()
            raise
        assert policy is not None, "without a policy all are refused"
        self._accept(record, evidence, expected, policy, judgement, statement.incarnation)

    def told(self, seat: int, code: int, attachment: bytes) -> None:
        """See ``Attestor``."""
        record = self._records.get(seat)
        if record is None:
            record = self._records[seat] = Record(seat, "")
        before = record.refused_us
        record.refuse_us(reason(code))
        if before is None or before.reason != reason(code) or time.time() - before.at_s > TOLD_S:
            self._log.warning("refused_by_peer", peer=seat, reason=word(code))
        if code == NodeCode.STALE_INCARNATION and attachment and self._core is not None:
            self._core.superseded(seat, attachment)
        self._on_change()

    def _instance_of(self, statement: Statement, record: Record) -> bytes:
        """Which machine the registry has on the seat, or had: a member whose row is gone serves
        until it is in no set any more (``MembershipFeed``), and stays the machine that it was."""
        row = self._row_of(statement.seat)
        if row is not None and row.node_key and peer_id_of(row.node_key) == statement.prover:
            return row.instance_id
        if record.accepted is not None:
            return record.accepted.expected.instance_id
        raise _denied(NodeCode.NOT_REGISTERED, "the registry shows another node there, or none")

    def _fence(self, statement: Statement) -> None:
        """A copy of a member that another boot has superseded is not the member any more."""
        assert self._core is not None
        current = self._core.current(statement.seat)
        if statement.incarnation < current:
            raise _denied(
                NodeCode.STALE_INCARNATION,
                f"boot {statement.incarnation}, but {current} is acknowledged",
                self._core.proof(statement.seat),
            )

    async def _judge_record(
        self, record: Record, evidence: bytes, expected: Expected, newest: PolicyInForce | None
    ) -> tuple[PolicyInForce | None, Judgement]:
        """Under the newest policy; a member that is held may satisfy the one it is held under."""
        judgement = await self.judge_.judge(evidence, expected, newest)
        held = record.held
        if judgement.refusal is not None and held is not None:
            under_held = await self.judge_.judge(evidence, expected, held)
            if under_held.refusal is None:
                record.fails = _refusal(judgement)
                return held, under_held
        return newest, judgement

    def _accept(
        self,
        record: Record,
        evidence: bytes,
        expected: Expected,
        policy: PolicyInForce,
        judgement: Judgement,
        incarnation: int,
    ) -> None:
        now = trio.current_time()
        first = record.accepted is None
        record.accepted = Accepted(
            evidence, expected, policy, judgement, incarnation, now, time.time()
        )
        if policy is self.policies.current:
            record.held = record.fails = None
        record.refused, record.failures = None, 0
        assert policy.policy is not None
        period_s = min(policy.policy.renewal_s, self._renewal_s_max)
        record.renew_at = now + period_s * self._random.uniform(1 - JITTER, 1)
        if record is not self._own:
            self.accepted += 1
            self._records[record.seat] = record
            write = self._log.info if first else self._log.debug
            write(
                "member_attested",
                peer=record.seat,
                incarnation=incarnation,
                tcb_status=judgement.tcb_status,
                policy=policy.version,
            )
            if self._enforced.held:
                self._enforce()
        self._on_change()

    def _record(self, seat: int, peer_id: str) -> Record:
        """Of this node on the seat; another node there is another matter, and not held."""
        record = self._records.get(seat)
        if record is None or record.peer_id not in ("", peer_id):
            record = self._records[seat] = Record(seat, peer_id)
        record.peer_id = peer_id
        return record

    # --- a new policy ---

    def _on_policy(self) -> None:
        # Whoever is linked stays under what it satisfied until it is decided whether the cluster
        # can do without: fresh evidence that comes meanwhile must not decide it.
        for seat in self._linked():
            record = self._records.get(seat)
            if record is not None and record.accepted is not None and record.held is None:
                record.held = record.accepted.policy
        self._policy_changed.set()
        if self._links is not None:
            self._links.forgive()
        self._on_change()

    async def _reassess(self) -> None:
        """Judge everybody who is linked, and ourselves, by the newest policy, from what we have."""
        newest = self.policies.current
        now = trio.current_time()
        records = [r for seat in self._linked() if (r := self._records.get(seat)) is not None]
        if self._own is not None:
            records.append(self._own)
        for record in records:
            found = record.accepted
            if found is None or found.policy is newest:
                continue
            judgement = await self.judge_.judge(found.evidence, found.expected, newest)
            if newest is not self.policies.current:
                return  # the newer one has its own turn
            if record.accepted is not found:
                continue  # fresh evidence came meanwhile
            record.fails = _refusal(judgement)
            if record.fails is None and newest is not None:
                record.accepted = replace(found, policy=newest, judgement=judgement)
                record.held = record.refused = None
            record.renew_at = min(record.renew_at, now + self._random.uniform(0, AFTER_POLICY_S))
        self._enforce()

    def _enforce(self) -> None:
        """Cut whom the newest policy shuts out, or hold them (``quorum``)."""
        if self._links is None or self._core is None:
            return
        newest = self.policies.current
        satisfying: set[int] = set()
        failing: set[int] = set()
        for seat in self._linked():
            record = self._records.get(seat)
            if record is not None and record.accepted is not None:
                (satisfying if record.accepted.policy is newest else failing).add(seat)
        failing |= {r.seat for r in self._records.values() if r.held is not None} - satisfying
        own = self._own
        if own is not None and own.accepted is not None and own.accepted.policy is newest:
            satisfying.add(self._seat)
        result = enforcement(self._core.validators(), satisfying, failing)
        before, self._enforced = self._enforced, result
        for seat in result.held:
            record = self._records[seat]
            if record.held is None and record.accepted is not None:
                record.held = record.accepted.policy
        linked = self._linked()
        for seat in result.cut:
            record = self._records[seat]
            why, record.held, record.fails = record.fails, None, None
            if seat not in linked or why is None:
                continue  # a link that was just made is judged in a moment
            record.refused = why
            self.refused[why.reason] += 1
            self._links.cut(seat, why.reason, penalty=True, detail=why.detail)
        if result.held != before.held:
            if result.held:
                self._log.critical("policy_not_enforced", reason=result.alarm())
            else:
                self._log.warning("policy_enforced", cut=sorted(result.cut))
        if result != before:
            self._on_change()

    def _linked(self) -> set[int]:
        return self._links.linked() if self._links is not None else set()

    # --- renewal ---

    async def run(self) -> None:
        """Renews, reassesses and keeps collateral fresh until cancelled."""
        assert self._links is not None and self._core is not None, "attach first"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follow_policy)
            nursery.start_soon(self._follow_self)
            nursery.start_soon(self._keep_collateral)
            while True:
                self._renew_due(nursery)
                if self._enforced.held:
                    self._enforce()
                await trio.sleep(TICK_S)

    async def _follow_policy(self) -> None:
        while True:
            self._policy_changed = changed = trio.Event()
            await self._reassess()
            await changed.wait()

    async def _follow_self(self) -> None:
        own = self._own
        assert own is not None
        while True:
            await self.check_self()
            pause_s = OWN_RETRY_S
            if own.refused is None and own.accepted is not None:
                pause_s = max(TICK_S, own.renew_at - trio.current_time())
            changed = self._policy_changed
            with trio.move_on_after(pause_s):
                await changed.wait()

    def _renew_due(self, nursery: trio.Nursery) -> None:
        assert self._core is not None
        now = trio.current_time()
        for seat in self._linked():
            record = self._records.get(seat)
            if record is None or record.accepted is None or seat in self._renewing:
                continue
            if record.accepted.policy is not self.policies.current and record.held is None:
                self._policy_changed.set()  # it was judged just before the policy changed
            behind = record.accepted.incarnation < self._core.current(seat)
            if now >= record.renew_at or (behind and record.failures == 0):
                self._renewing.add(seat)
                nursery.start_soon(self._renew, record)

    async def _renew(self, record: Record) -> None:
        assert self._links is not None
        try:
            async with self._renewals:
                await self._links.ask(record.seat)
        except Unproven as error:
            record.failures += 1
            pause_s = min(RETRY_S_MIN * 2.0 ** (record.failures - 1), RETRY_S_MAX)
            record.renew_at = trio.current_time() + pause_s
            self._log.warning(
                "renewal_failed", peer=record.seat, reason=error.detail, attempt=record.failures
            )
            self._cut_if_too_old(record)
        finally:
            self._renewing.discard(record.seat)

    def _cut_if_too_old(self, record: Record) -> None:
        """No fresh quote is no reason to part; none for longer than the policy takes is one."""
        assert self._links is not None
        found = record.accepted
        if found is None or found.policy.policy is None:
            return
        age_s = trio.current_time() - found.at
        if age_s > found.policy.policy.quote_age_s_max:
            why, detail = reason(RefusalCode.QUOTE_AGE), f"the last quote is {int(age_s)} s old"
            record.refuse(why, detail)
            self.refused[why] += 1
            self._links.cut(record.seat, why, detail=detail)

    async def check_self(self) -> None:
        """Would we satisfy ourselves? For the operator, and for the quorum rule."""
        own, links = self._own, self._links
        assert own is not None and links is not None
        row = self._row_of(self._seat)
        nonce = os.urandom(32)
        statement = Statement(
            cluster_id=self._cluster_id,
            prover=links.peer_id,
            verifier=links.peer_id,
            prover_nonce=nonce,
            verifier_nonce=nonce,
            session=bytes(32),  # of no connection, so this quote is of no use on any
            seat=self._seat,
            incarnation=self.incarnation(),
        )
        if row is None:
            return
        newest = self.policies.current
        try:
            evidence = await self.prover.prove(statement)
        except Unproven as error:
            own.refuse(reason(error.code), error.detail)
            self._on_change()
            return
        expected = Expected(report_data_of(statement), self._app_id, row.instance_id)
        judgement = await self.judge_.judge(evidence, expected, newest)
        if judgement.refusal is None and newest is not None:
            self._accept(own, evidence, expected, newest, judgement, statement.incarnation)
        elif judgement.refusal is not None:
            if own.refused is None or own.refused.detail != judgement.detail:
                self._log.error("own_evidence_refused", reason=judgement.detail)
            own.refuse(reason(judgement.refusal), judgement.detail)
            self._on_change()

    async def _keep_collateral(self) -> None:
        while True:
            await trio.sleep(COLLATERAL_CHECK_S)
            await self._collateral.renew(self._now_s())

    def note_collateral_failure(self, text: str) -> None:
        """The store's ``on_failure``."""
        if text != self.collateral_trouble:
            self._log.warning("collateral_trouble", reason=text)
        self.collateral_trouble = text

    # --- for the operator ---

    def alarms(self) -> list[str]:
        """What an operator must look at now, one line each."""
        found = self.policies.alarms()
        if self._enforced.held:
            found.append(self._enforced.alarm())
        wrong = (self._own.fails or self._own.refused) if self._own is not None else None
        if wrong is not None:
            found.append(
                f"this node's own evidence is not good enough: {wrong.reason}: {wrong.detail}"
            )
        return found

    def status(self) -> dict[str, Any]:
        """JSON-ready: the policy, whom it is not enforced against, and a row per member."""
        now, linked = trio.current_time(), self._linked()
        current = self.policies.current
        return {
            "policy_version": current.version if current else None,
            "policy_digest": current.digest.hex() if current else None,
            "held": sorted(self._enforced.held),
            "accepted": self.accepted,
            "refused": dict(self.refused),
            "verified": self.judge_.verified,
            "verifying_ms": round(self.judge_.verifying_s * 1000, 3),
            "quotes": self.prover.made,
            "agent": self.prover.trouble or None,
            "collateral": self.collateral_trouble or None,
            "self": self.own(),
            "members": {
                str(seat): record.status(now, seat in linked)
                for seat, record in sorted(self._records.items())
            },
        }

    def own(self) -> dict[str, Any] | None:
        """How we judge ourselves."""
        return self._own.status(trio.current_time(), True) if self._own else None

    def member(self, seat: int) -> dict[str, Any] | None:
        """The row of one member in ``status``."""
        record = self._records.get(seat)
        if record is None:
            return None
        return record.status(trio.current_time(), seat in self._linked())


def _refusal(judgement: Judgement) -> Refusal | None:
    if judgement.refusal is None:
        return None
    return Refusal(reason(judgement.refusal), judgement.detail, time.time())


def _denied(code: int, detail: str, attachment: bytes = b"") -> Denied:
    return Denied(
        reason(code),
        code=int(code),
        detail=detail,
        attachment=attachment,
        penalty=code not in NO_FAULT_OF_THE_PEER,
    )
