"""R10 among members: asking for the right to vote, and acknowledging others."""

from __future__ import annotations

from .digests import digest_of
from .interface import AbstainRecord, AcknowledgedRecord, IncarnationRecord, Timer
from .syncing import Syncing
from .types import BootAck, BootRequest, Vote, VoteKind
from .wire import BootRefused


class Booting(Syncing):
    """Boot requests and their answers; ``boot`` keeps the books."""

    def _ask_to_boot(self) -> None:
        """Asks for the incarnation of our progress; on disk before anyone hears of it."""
        request = self.boot.progress.request
        self._out.persist.append(IncarnationRecord(request.incarnation, request.boot_id))
        own = self.boot.acknowledge(request, None, self.ledger.tip.finalization)
        self._send(None, request)
        self._set_timer(Timer.BOOT, self.durations.boot_ms)
        self._on_boot_ack(self.seat, own)

    def _on_boot_request(self, sender: int, request: BootRequest) -> None:
        known = self.boot.known.get(sender)
        if request.seat != sender or not self.boot.genuine(request):
            self._accuse(sender, "a boot request that is not its own")
            return
        if self.boot.certificate is not None:
            self._send(sender, self.boot.certificate)  # it may ask because it missed ours
        if not self.boot.accept(request):
            if known is not None:
                self._send(sender, BootRefused(known))
            return
        if request != known:
            if not self._boots.take(sender, self._now_ms):
                return  # each number costs us a write; it asks again
            self._out.persist.append(AcknowledgedRecord(request))
        tip = max(self.ledger.justification(), key=lambda c: c.view, default=None)
        self._send(sender, self.boot.acknowledge(request, self._last_vote_of(sender), tip))

    def _last_vote_of(self, seat: int) -> Vote | None:
        """The highest vote that we can show the seat to have signed (R10).

        Of what it sent, and of the certificates that we hold: those we still have after a restart
        of our own, and nobody can plant a forged vote in them.
        """
        shown: list[Vote] = []
        seen = self._seen.get(seat)
        if seen is not None and self._verifier.verify(
            self.validators.keys[seat], digest_of(self.cluster_id, seen), seen.signature
        ):
            shown.append(seen)
        for c in self.ledger.justification():
            for part in c.parts:
                if part.seat == seat:
                    shown.append(
                        Vote(c.kind, c.epoch, c.view, seat, c.block, part.reason, part.signature)
                    )
        return max(shown, key=Vote.position, default=None)

    def _on_boot_ack(self, sender: int, ack: BootAck) -> None:
        if self.boot.done:
            return
        if not self.boot.take(sender, ack):
            self._accuse(sender, "a boot acknowledgement that is not valid")
            return
        if not self.boot.complete():
            return
        assert self.boot.certificate is not None
        told, term = self.boot.told()
        floor = max(self._last_position, (self.ledger.tip.view, int(VoteKind.FINALIZE)))
        if told is not None and told.epoch == self.validators.epoch and told.position() > floor:
            self._abstain_until_term = max(self._abstain_until_term, term + 2)
            self._out.persist.append(AbstainRecord(self._abstain_until_term))
        self._send(None, self.boot.certificate)
        self._set_timer(Timer.BOOT, None)
        self._arm_stall()
        self._arm()

    def _on_boot_refused(self, request: BootRequest) -> None:
        """A newer request of our own seat exists: another copy of us booted after us."""
        mine = self.boot.progress.request
        if request.seat != self.seat or request == mine or not self.boot.genuine(request):
            return
        if request.incarnation < mine.incarnation:
            return
        if self.boot.done:
            if request.incarnation == mine.incarnation:
                return  # it lost the race: there is one certificate for a number, and we have it
            self._stop(
                f"superseded: another copy of seat {self.seat} booted as incarnation "
                f"{request.incarnation}, ours is {mine.incarnation}"
            )
            return
        self.boot.renumber(request.incarnation + 1)
        self._ask_to_boot()
