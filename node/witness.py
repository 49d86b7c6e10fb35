"""Shows the chain what the cluster has decided about its members: liars, and leaders if asked for.

Theory of operation. Only what stands in final blocks is shown: evidence that convicted a member,
and, each behind a setting of its own because they cost gas at every change of leader, who leads and
who was deposed. All members know the same and any may send it, so they take turns: the leader at
once, each further one a turn later, if by then the chain does not know. The contract refuses what
it knows already, and a refusal costs nothing, so nothing is paid twice but by two that send in the
same moment. Nothing here ever holds consensus up: what fails is tried again, and shows in
``status``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog
import trio

from chain import CallReverted, Certificates, ChainError, Member, SignedVote, TxState
from consensus.compact import compact_parts
from consensus.digests import header_bytes
from consensus.engine import Engine
from consensus.types import Block, Certificate, Evidence, Vote, VoteKind

TURN_S = 60.0  # longer than a transaction takes to be seen by everybody
POLL_S = 1.0
RETRY_S = 60.0
KEPT_MAX = 64
HEADERS_MAX = 64  # of a new epoch, until one of them is directly final
# The contract's errors for what it has on record, and for what it may take later, when another
# member has shown what comes before.
KNOWN = ("AlreadyMarked", "StaleLeader", "EpochKnown")
EARLY = ("UnknownEpoch", "LeaderUnknown")
REFUSALS_MAX = 10

_log = structlog.get_logger("node.witness")


@dataclass(slots=True)
class Showing:
    """One thing to be shown; ``send`` raises ChainError, ``known`` asks the chain."""

    what: str
    send: Callable[[], Awaitable[object]]
    known: Callable[[], Awaitable[bool]] | None
    since_s: float
    tried_s: float | None = None
    refusals: int = 0
    state: str = "waiting"  # then shown, known or refused
    reason: str = ""


class Witness:
    """What this node shows the chain; ``saw`` tells it of every final block.

    Args:
        certificates: the contract.
        seat: our own.
        engine: the running core, None before it runs.
        row_of: what the registry has of a seat, None for nothing.
        evidence, leaders, deposals: what is shown.
    """

    def __init__(
        self,
        certificates: Certificates,
        seat: int,
        engine: Callable[[], Engine | None],
        row_of: Callable[[int], Member | None],
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
        self._row_of = row_of
        self._evidence = evidence
        self._leaders = leaders
        self._deposals = deposals
        self._turn_s = turn_s
        self._retry_s = retry_s
        self._showings: dict[tuple[str, object], Showing] = {}
        self._term = (-1, -1)
        self._boundary: Block | None = None  # ended an epoch, and the next is not shown yet
        self._headers: list[bytes] = []  # of the blocks on it

    # --- in ---

    def saw(self, block: Block) -> None:
        """A block became final."""
        if self._evidence:
            for pair in block.evidence:
                self._add_conflict(pair)
        if self._leaders or self._deposals:
            self._follow_epochs(block)
        if self._deposals:
            for certificate in block.nullifications:
                self._add_deposal(certificate)
        term = (block.header.epoch, block.header.view.term)
        if self._leaders and term > self._term:
            self._showings.pop(("leader", self._term), None)
            self._term = term
            self._add(("leader", term), f"leader of term {term[0]}.{term[1]}", self._record_leader)

    def _add_conflict(self, pair: Evidence) -> None:
        seat = pair.first.seat
        row = self._row_of(seat)
        if seat == self._seat or row is None or not row.node_key:
            return
        key = row.node_key

        async def send() -> None:
            await self._certificates.prove_conflict(
                seat, signed_vote(pair.first), signed_vote(pair.second), until=TxState.INCLUDED
            )

        async def known() -> bool:
            return await self._certificates.convicted(key)

        what = f"conflicting votes of seat {seat} in epoch {pair.first.epoch}"
        self._add(("conflict", key), what, send, known)

    def _follow_epochs(self, block: Block) -> None:
        """Notes a new epoch, which the contract must know before its certificates count there."""
        if block.next_epoch is not None:
            self._boundary, self._headers = block, []
            return
        boundary = self._boundary
        if boundary is None or boundary.next_epoch is None:
            return
        self._headers.append(header_bytes(block.header))
        engine = self._engine()
        proof = engine.leadership() if engine is not None else None
        if proof is not None and proof.header == block.header and proof.certificate is not None:
            self._add_epoch(
                boundary, b"".join(self._headers), compact_parts(proof.certificate.parts)
            )
            self._boundary = None
        elif len(self._headers) == HEADERS_MAX:
            self._boundary = None  # another member saw less at once

    def _add_epoch(self, boundary: Block, headers: bytes, parts: bytes) -> None:
        following = boundary.next_epoch
        assert following is not None

        async def send() -> None:
            await self._certificates.open_epoch(
                header_bytes(boundary.header), boundary.body, headers, parts,
                following.chain_block, until=TxState.INCLUDED,
            )  # fmt: skip

        self._add(("epoch", following.epoch), f"epoch {following.epoch}", send)

    def _add_deposal(self, certificate: Certificate) -> None:
        view = (certificate.epoch, certificate.view.term, certificate.view.index)

        async def send() -> None:
            parts = compact_parts(certificate.parts)
            await self._certificates.depose(view, parts, until=TxState.INCLUDED)

        self._add(("deposal", view[:2]), f"deposed leader of term {view[0]}.{view[1]}", send)

    async def _record_leader(self) -> None:
        engine = self._engine()
        proof = engine.leadership() if engine is not None else None
        if proof is None or proof.header is None or proof.certificate is None:
            raise ChainError("no block of the term is final yet")
        await self._certificates.record_leader(
            header_bytes(proof.header),
            compact_parts(proof.certificate.parts),
            until=TxState.INCLUDED,
        )

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
        engine = self._engine()
        while engine is None:
            await trio.sleep(POLL_S)
            engine = self._engine()
        if self._evidence:  # of before this start
            convicted = engine.machine.standing.convicted
            for pair in engine.evidence:
                if pair.first.seat in convicted:
                    self._add_conflict(pair)
        while True:
            for showing in self._waiting():
                if self._is_due(showing, engine):
                    await self._show(showing)
            await trio.sleep(POLL_S)

    def _waiting(self) -> list[Showing]:
        """Oldest first, but epochs before what needs them."""
        found = [(k, s) for k, s in self._showings.items() if s.state == "waiting"]
        return [s for _, s in sorted(found, key=lambda item: item[0][0] != "epoch")]

    def _is_due(self, showing: Showing, engine: Engine) -> bool:
        turn = self._turn(engine)
        if turn is None or not self._certificates.named:
            return False
        due_s = showing.since_s + turn * self._turn_s
        if showing.tried_s is not None:
            due_s = max(due_s, showing.tried_s + self._retry_s)
        return trio.current_time() >= due_s

    def _turn(self, engine: Engine) -> int | None:
        """How many members come before us, the leader first; None for one without a vote."""
        seats, leader = engine.validators.seats, engine.leader(engine.view.term)
        if self._seat not in seats:
            return None
        after = [seat for seat in seats if seat > leader]
        return [leader, *after, *(s for s in seats if s < leader)].index(self._seat)

    async def _show(self, showing: Showing) -> None:
        showing.tried_s = trio.current_time()
        try:
            if showing.known is not None and await showing.known():
                showing.state, showing.reason = "known", ""
                return
            await showing.send()
        except CallReverted as error:
            showing.reason = error.text
            showing.refusals += 1
            if error.name in EARLY and showing.refusals < REFUSALS_MAX:
                return
            showing.state = "known" if error.name in KNOWN else "refused"
        except ValueError as error:
            # A defect of ours or a signature of another form: it will not get better.
            showing.state, showing.reason = "refused", str(error)
        except ChainError as error:
            if str(error) != showing.reason:
                _log.warning("not_shown_yet", what=showing.what, reason=str(error))
            showing.reason = str(error)
            return
        else:
            showing.state, showing.reason = "shown", ""
        _log.warning("to_the_chain", what=showing.what, state=showing.state, reason=showing.reason)

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


def signed_vote(vote: Vote) -> SignedVote:
    """A vote of consensus as the contract takes it."""
    return SignedVote(
        kind=int(vote.kind),
        epoch=vote.epoch,
        term=vote.view.term,
        index=vote.view.index,
        block_hash=bytes(32) if vote.kind is VoteKind.NULLIFY else vote.block,
        reason=vote.reason,
        signature=vote.signature,
    )
