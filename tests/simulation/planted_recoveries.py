"""Engines with a rule of recoveries broken: R21, and what R10, R15, R17 and R20 say of them."""

from __future__ import annotations

from dataclasses import replace

from consensus import booting
from consensus.engine import Engine
from consensus.interface import EpochRecord, Output
from consensus.ledger import Tip
from consensus.snapshots import Offer
from consensus.types import Block, BootAck, BootRequest, Opening, Recovery, View
from consensus.wire import EpochReply

from .scenario import Settings


class RecoversOnHearsay(Engine):
    """Believes a member that tells of a recovery, and not its own final view of the chain alone."""

    def _on_epoch_reply(self, sender: int, reply: EpochReply) -> None:
        told = tuple(o for o in reply.openings if isinstance(o, Recovery))
        if told:
            self._on_recoveries(told)
        super()._on_epoch_reply(sender, reply)


class RecoversWhereItIs(Engine):
    """Opens the epoch of a recovery on its own tip, whatever block the chain names."""

    def _try_recovery(self) -> None:
        tip = self.ledger.tip
        self._awaited = [replace(r, height=tip.height, block_hash=tip.hash) for r in self._awaited]
        super()._try_recovery()


class ForgetsWhatIsAbove(Engine):
    """Goes back to the named block, in silence, and on with the others from there."""

    def _stop_beside(self, r: Recovery, height: int, block_hash: bytes) -> None:
        back = replace(self.ledger.tip, height=r.height, hash=r.block_hash)
        self.ledger.tip = replace(back, finalization=None, header=None)


class GoesOnBeside(Engine):
    """Beyond the named block, or beside it, takes no notice of the chain's word."""

    def _stop_beside(self, r: Recovery, height: int, block_hash: bytes) -> None:
        self._awaited.clear()


class VotesOn(Engine):
    """Votes with the set that was given up until it comes to the named block."""

    @property
    def can_vote(self) -> bool:
        kept, self._awaited = self._awaited, []
        try:
            return super().can_vote
        finally:
            self._awaited = kept


class PromisesOn(Engine):
    """Acknowledges boots in epochs that the chain has ended."""

    def _on_boot_request(self, sender: int, request: BootRequest) -> None:
        kept, self._awaited = self._awaited, []
        super()._on_boot_request(sender, request)
        self._awaited = kept


class RunsPast(Engine):
    """On its way to the named block takes over whatever is final, also what is above it."""

    def _apply(self, branch: list[Block], *rest: object) -> None:
        kept, self._awaited = self._awaited, []
        super()._apply(branch, *rest)  # type: ignore[arg-type]
        self._awaited = kept
        self._try_recovery()


class OlderViewsFollowed(Engine):
    """Follows what the registry showed before the recovery, if it hears of that later (R15)."""

    def __init__(self, **arguments: object) -> None:
        super().__init__(**arguments)  # type: ignore[arg-type]
        self._chain_views._oldest = 0
        self._chain_views.begin_at = lambda block_number: None  # type: ignore[method-assign]


class FirstRecoveryCounts(Engine):
    """Holds on to the first recovery that it was shown: none can take its place."""

    def _await_recoveries(self) -> None:
        kept = self._on_chain
        self._on_chain = {min(kept, key=lambda r: r.epoch)} if kept else kept
        super()._await_recoveries()
        self._on_chain = kept


class SetOfItsOwn(Engine):
    """Opens the epoch with the newest set that it saw itself, not with that of the recovery."""

    def _open_epoch(self, opening: Opening, tip: Tip) -> None:
        newest = self._chain_views.newest
        if isinstance(opening, Recovery) and newest is not None:
            opening = replace(opening, validators=newest.validators)
        super()._open_epoch(opening, tip)


class RecoveryNotPersisted(Engine):
    """Opens the epoch without writing it down."""

    def step(self, event: object, now_ms: int) -> Output:
        output = super().step(event, now_ms)  # type: ignore[arg-type]
        output.persist = [
            r
            for r in output.persist
            if not (isinstance(r, EpochRecord) and isinstance(r.opening, Recovery))
        ]
        return output


class SnapshotsAround(Engine):
    """Takes a snapshot of what others made beyond the named block (R17)."""

    def _leads_around(self, offer: Offer) -> bool:
        return False


class RightKeptInANewEra(Engine):
    """Votes in a new era under the right that the old set gave it (R20)."""

    def _open_epoch(self, opening: Opening, tip: Tip) -> None:
        had = self.boot.done
        super()._open_epoch(opening, tip)
        if isinstance(opening, Recovery) and self.boot.is_member:
            self.boot.done = had


class AbstainsInANewEra(Engine):
    """Abstains in a new era for what it forgot of the one before (R10)."""

    def _on_boot_ack(self, sender: int, ack: BootAck) -> None:
        asked = booting.era_of
        booting.era_of = lambda epoch: 0  # type: ignore[assignment]
        try:
            super()._on_boot_ack(sender, ack)
        finally:
            booting.era_of = asked


class StaysInAFinalView(Engine):
    """Keeps its view while blocks on the way to the end of an epoch make it final (R8, R16)."""

    _moves_the_tip = False

    def _advance(self, tip: Tip) -> None:
        self._moves_the_tip = not self._out.installed
        super()._advance(tip)
        self._moves_the_tip = False

    def _enter(self, view: View) -> None:
        if not self._moves_the_tip:
            super()._enter(view)


_LOST = Settings(nodes=7, recoveries=1)
_LOST_TWICE = Settings(nodes=7, recoveries=2)
_LATE = Settings(nodes=5, byzantine=1, recoveries=2)

# As ``planted.Planted``: what it breaks, where it shows, and how many seeds may pass before.
RECOVERIES: tuple[tuple[type[Engine], tuple[str, ...], Settings, int], ...] = (
    (RecoversOnHearsay, ("R21",), _LOST, 10),
    (RecoversWhereItIs, ("R21",), _LOST, 5),
    (ForgetsWhatIsAbove, ("R21",), _LOST, 5),
    (GoesOnBeside, ("R21",), _LOST, 5),
    (PromisesOn, ("R21",), _LOST, 20),
    (RunsPast, ("R21",), _LOST, 40),
    (FirstRecoveryCounts, ("R21",), _LOST, 10),
    (SetOfItsOwn, ("R21",), _LOST, 10),
    (RecoveryNotPersisted, ("R21",), _LOST, 5),
    (RightKeptInANewEra, ("R20", "R21"), _LOST, 20),
    (AbstainsInANewEra, ("R10", "R21"), _LOST_TWICE, 40),
    (StaysInAFinalView, ("R8", "R16"), _LATE, 40),
)
