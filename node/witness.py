"""Shows the chain what the cluster has decided about its members: liars, and leaders if asked for.

Theory of operation. What stands in final blocks is shown: evidence that convicted a member,
and, each behind a setting of its own because they cost gas at every change of leader, who leads and
who was deposed; an epoch is shown before them, once. All members know the same and any may send it,
so they take turns: the leader at once, each further one a turn later, if by then the chain does not
know. Evidence against a key that left the set stands in no block, but all members have it (R14),
and its seat answers on the chain for a while. The contract refuses what it knows already, and a
refusal costs nothing, so nothing is paid twice but by two that send in the same moment. Nothing
here ever holds consensus up: what fails is tried again, and shows in ``status``.

Whatever the settings, ``certificates`` gives the same to an operator, who may pay for it instead.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from chain import (
    CallReverted,
    Certificates,
    ChainError,
    Shown,
    ShownDeposal,
    ShownEpoch,
    TxState,
)
from chain.keys import recover
from consensus.digests import digest_of
from consensus.engine import Engine
from consensus.evidence import is_present
from consensus.types import Block, Certificate, Evidence
from node.served import StorageError
from node.showing import shown_deposal, shown_leader, signed_vote
from node.turns import turn_of

TURN_S = 60.0  # longer than a transaction takes to be seen by everybody
POLL_S = 1.0
RETRY_S = 60.0
KEPT_MAX = 64
DEPOSALS_MAX = 16
# The contract's errors for what it has on record, and for what it may take later, when another
# member has shown what comes before.
KNOWN = ("AlreadyMarked", "StaleLeader", "EpochKnown")
EARLY = ("UnknownEpoch", "LeaderUnknown")
REFUSALS_MAX = 10
MISSES_MAX = 10  # so often it is looked for at once, and others wait; it may be pruned

_log = structlog.get_logger("node.witness")


class NotYet(Exception):
    """What is to be shown is not there yet; the next look may find it."""


@dataclass(slots=True)
class Showing:
    """One thing to be shown; ``send`` raises ChainError or NotYet, ``known`` asks the chain."""

    what: str
    send: Callable[[], Awaitable[object]]
    known: Callable[[], Awaitable[bool]] | None
    since_s: float
    tried_s: float | None = None
    refusals: int = 0
    misses: int = 0
    state: str = "waiting"  # then shown, known or refused
    reason: str = ""


class Witness:
    """What this node shows the chain; ``saw`` tells it of every final block.

    Args:
        certificates: the contract.
        seat: our own.
        engine: the running core.
        read_epoch: how an epoch began, from what is final and on disk; raises StorageError.
        evidence, leaders, deposals: what is shown.
    """

    def __init__(
        self,
        certificates: Certificates,
        seat: int,
        engine: Engine,
        read_epoch: Callable[[int], Awaitable[ShownEpoch | None]],
        *,
        evidence: bool,
        leaders: bool,
        deposals: bool,
        turn_s: float = TURN_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._certificates = certificates
        self._seat = seat
        self._engine = engine
        self._read_epoch = read_epoch
        self._evidence = evidence
        self._leaders = leaders
        self._deposals = deposals
        self._turn_s = turn_s
        self._retry_s = retry_s
        self._showings: dict[tuple[str, object], Showing] = {}
        self._deposed: dict[tuple[int, int], ShownDeposal] = {}
        self._term = (-1, -1)

    # --- in ---

    def saw(self, block: Block) -> None:
        """A block became final."""
        if self._evidence:
            for pair in block.evidence:
                self._add_conflict(pair)
        term = (block.header.epoch, block.header.view.term)
        if term[0] > self._term[0]:
            self._add_epoch(term[0])
        for certificate in block.nullifications:
            self._add_deposal(certificate)
        if self._leaders and term > self._term:
            self._showings.pop(("leader", self._term), None)
            self._add(("leader", term), f"leader of term {term[0]}.{term[1]}", self._record_leader)
        self._term = max(self._term, term)

    def _add_conflict(self, pair: Evidence) -> None:
        seat = pair.first.seat
        if seat == self._seat:
            return
        key = recover(digest_of(self._engine.cluster_id, pair.first), pair.first.signature)

        async def send() -> None:
            await self._certificates.prove_conflict(
                seat, signed_vote(pair.first), signed_vote(pair.second), until=TxState.INCLUDED
            )

        async def known() -> bool:
            return await self._certificates.convicted(key)

        what = f"conflicting votes of seat {seat} in epoch {pair.first.epoch}"
        self._add(("conflict", key), what, send, known)

    def _add_departed(self) -> None:
        """Evidence that no block takes any more: its key left the set."""
        for pair in self._engine.evidence:
            if not is_present(pair, self._engine.evidence_sets):
                self._add_conflict(pair)

    def _add_epoch(self, epoch: int) -> None:
        """One that the contract must know before leaders and deposals count there."""
        if epoch > 0 and (self._leaders or self._deposals):
            send = partial(self._open_epoch, epoch)
            known = partial(self._certificates.knows_epoch, epoch)
            self._add(("epoch", epoch), f"epoch {epoch}", send, known)

    async def _open_epoch(self, epoch: int) -> None:
        shown = await self._read_epoch(epoch)
        if shown is None:
            raise NotYet("no block of it is final by itself and on disk")
        await self._certificates.open_epoch(shown, until=TxState.INCLUDED)

    def _add_deposal(self, certificate: Certificate) -> None:
        shown = shown_deposal(self._engine, certificate)
        term = (shown.epoch, shown.term)
        self._deposed[term] = shown
        if len(self._deposed) > DEPOSALS_MAX:
            del self._deposed[min(self._deposed)]

        async def send() -> None:
            await self._certificates.depose(shown, until=TxState.INCLUDED)

        header, _ = self._engine.signed.get(term, (None, b""))
        # Else what was shown under one policy could count again under the next one.
        known = None if header is None else partial(self._knows_deposal, header.proposer, term)
        if self._deposals:
            self._add(("deposal", term), f"deposed leader of term {term[0]}.{term[1]}", send, known)

    async def _knows_deposal(self, seat: int, term: tuple[int, int]) -> bool:
        return await self._certificates.last_deposed(seat) >= term

    async def _record_leader(self) -> None:
        shown = shown_leader(self._engine)
        if shown is None:
            raise NotYet("no block of the term is final yet")
        await self._certificates.record_leader(shown, until=TxState.INCLUDED)

    def _add(
        self,
        key: tuple[str, object],
        what: str,
        send: Callable[[], Awaitable[object]],
        known: Callable[[], Awaitable[bool]] | None = None,
    ) -> None:
        if key in self._showings:
            return
        self._showings[key] = Showing(what, send, known, trio.current_time())
        done = [k for k, showing in self._showings.items() if showing.state != "waiting"]
        for old in (done or list(self._showings))[: max(0, len(self._showings) - KEPT_MAX)]:
            del self._showings[old]

    # --- out ---

    async def run(self) -> None:
        """Shows what there is when it is our turn, until cancelled."""
        if self._evidence:  # of before this start
            convicted = self._engine.machine.standing.convicted
            for pair in self._engine.evidence:
                if pair.first.seat in convicted:
                    self._add_conflict(pair)
        self._add_epoch(self._engine.validators.epoch)
        while True:
            if self._evidence:
                self._add_departed()
            for showing in self._waiting():
                # What others need comes first, and is waited for.
                if self._is_due(showing) and not await self._show(showing):
                    break
            await trio.sleep(POLL_S)

    def _waiting(self) -> list[Showing]:
        """Oldest first, but epochs before what needs them."""
        found = [(k, s) for k, s in self._showings.items() if s.state == "waiting"]
        return [s for _, s in sorted(found, key=lambda item: item[0][0] != "epoch")]

    def _is_due(self, showing: Showing) -> bool:
        turn = turn_of(self._engine, self._seat)
        if turn is None or not self._certificates.named:
            return False
        due_s = showing.since_s + turn * self._turn_s
        if showing.tried_s is not None:
            due_s = max(due_s, showing.tried_s + self._retry_s)
        return trio.current_time() >= due_s

    async def _show(self, showing: Showing) -> bool:
        """Tries it once; False when it is not there yet."""
        tried_s = trio.current_time()
        try:
            if showing.known is not None and await showing.known():
                showing.state, showing.reason = "known", ""
                return True
            await showing.send()
        except NotYet as error:
            showing.reason = str(error)
            showing.misses += 1
            if showing.misses > MISSES_MAX:
                showing.tried_s = tried_s
                return True
            return False
        except CallReverted as error:
            showing.tried_s, showing.reason = tried_s, error.text
            showing.refusals += 1
            if error.name in EARLY and showing.refusals < REFUSALS_MAX:
                return True
            showing.state = "known" if error.name in KNOWN else "refused"
        except (ValueError, StorageError) as error:
            # A defect of ours or a signature of another form: it will not get better.
            showing.state, showing.reason = "refused", str(error)
        except ChainError as error:
            if str(error) != showing.reason:
                _log.warning("not_shown_yet", what=showing.what, reason=str(error))
            showing.tried_s, showing.reason = tried_s, str(error)
            return True
        else:
            showing.state, showing.reason = "shown", ""
        _log.warning("to_the_chain", what=showing.what, state=showing.state, reason=showing.reason)
        return True

    # --- for the operator ---

    async def certificates(self) -> list[Shown]:
        """The epoch of now, its leader of now, and leaders deposed lately; what there is of it.

        Raises StorageError.
        """
        epoch, leader = self._engine.validators.epoch, shown_leader(self._engine)
        opened = await self._read_epoch(epoch)
        found: list[Shown] = [] if opened is None else [opened]
        found += [] if leader is None else [leader]
        return [*found, *(shown for _, shown in sorted(self._deposed.items()))]

    def status(self) -> list[dict[str, str]]:
        """JSON-ready, oldest first."""
        named = self._certificates.named
        unnamed = "the registry names no contract of certificates"
        return [
            {
                "what": showing.what,
                "state": showing.state,
                "reason": showing.reason if named or showing.state != "waiting" else unnamed,
            }
            for showing in self._showings.values()
        ]
