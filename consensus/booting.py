"""R10, R20 among members: asking for the right to vote, and acknowledging others."""

from __future__ import annotations

from .certificates import votes_of
from .digests import digest_of
from .epochs import era_of
from .installing import Installing
from .interface import AbstainRecord, AcknowledgedRecord, IncarnationRecord, Timer
from .ledger import Tip
from .state import ABSTAIN_TERMS
from .types import BootAck, BootRequest, Certificate, Opening, View, Vote, VoteKind
from .wire import BootRefused


class Booting(Installing):
    """Boot requests and their answers; ``boot`` keeps the books."""

    def _ask_to_boot(self) -> None:
        """Asks for the incarnation of our progress; on disk before anyone hears of it."""
        if not self.boot.is_member:
            return
        request = self.boot.progress.request
        self._out.persist.append(IncarnationRecord(request.incarnation, request.boot_id))
        self._send(None, request)
        self._set_timer(Timer.BOOT, self.durations.boot_ms)
        own = self.boot.acknowledge(request, None, self.ledger.tip.finalization)
        self._on_boot_ack(self.seat, own)

    def _introduce(self, to: int) -> None:
        """Shows a member our incarnation: certified by this epoch's set, or still to be."""
        if self.boot.is_current and self.boot.certificate is not None:
            self._send(to, self.boot.certificate)
        else:
            self._send(to, self.boot.progress.request)

    def _open_epoch(self, opening: Opening, tip: Tip) -> None:
        """R20: the new set acknowledges who we are, and so learns whose votes to count."""
        if self.is_abstaining:
            self.boot.done = False  # the new set may know votes that we forgot: it must tell first
        super()._open_epoch(opening, tip)
        # Who had a seat before may have sent a forged vote above all that the seat will ever sign.
        self._seen = {seat: vote for seat, vote in self._seen.items() if self._is_signed(vote)}
        self._set_timer(Timer.BOOT, None)
        self._ask_to_boot()

    def _on_boot_request(self, sender: int, request: BootRequest) -> None:
        """R10: the promise to count this incarnation only, on disk before it is sent."""
        if not self._introductions.take(sender, self._now_ms):
            return  # an answer costs signatures, and is much longer than the question
        if sender not in self.validators.weights:
            if self.boot.is_member:  # it may observe, and need to know whom to count
                self._introduce(sender)
            return
        known = self.boot.known.get(sender)
        if self._awaited:
            return  # we sign nothing in an epoch that the chain has ended (R21)
        if request.seat != sender or not self.boot.genuine(request):
            self._accuse(sender, "a boot request that is not its own")
            return
        if self.boot.is_current and self.boot.certificate is not None:
            self._send(sender, self.boot.certificate)  # it may ask because it missed ours
        if not self.boot.accept(request):
            if known is not None:
                self._send(sender, BootRefused(known))
            return
        if request != known:
            if not self._boots.take(sender, self._now_ms):
                return  # each number costs us a write; it asks again
            self._out.persist.append(AcknowledgedRecord(request))
        if not self.boot.is_member:
            self.boot.known[sender] = request
            return
        tip = max(self.ledger.justification(), key=_leads_to, default=None)
        self._send(sender, self.boot.acknowledge(request, self._last_vote_of(sender), tip))

    def _last_vote_of(self, seat: int) -> Vote | None:
        """R10: the highest vote that we can show the seat to have signed.

        Of what it sent, and of the certificates that we hold: those we still have after a restart
        of our own, and nobody can plant a forged vote in them.
        """
        shown: list[Vote] = []
        seen = self._seen.get(seat)
        if seen is not None and self._is_signed(seen):
            shown.append(seen)
        for certificate in self.ledger.justification():
            shown += [vote for vote in votes_of(certificate) if vote.seat == seat]
        return max(shown, key=Vote.moment, default=None)

    def _is_signed(self, vote: Vote) -> bool:
        """True when the key that holds the seat now signed the vote, of whatever epoch."""
        key = self.validators.keys.get(vote.seat)
        digest = digest_of(self.cluster_id, vote)
        return key is not None and self._verifier.verify(key, digest, vote.signature)

    def _on_boot_ack(self, sender: int, ack: BootAck) -> None:
        """R10: with a quorum of these we may vote; not yet if they show that our log went back."""
        if self.boot.is_current or sender not in self.validators.weights:
            return
        if not self.boot.take(sender, ack):
            self._accuse(sender, "a boot acknowledgement that is not valid")
            return
        had_the_right = self.boot.done
        if not self.boot.complete():
            return
        assert self.boot.certificate is not None
        self._set_timer(Timer.BOOT, None)
        self._send(None, self.boot.certificate)
        told, term = self.boot.told()
        # An era begins as a cluster does: those who lost their disks before it are needed.
        recent = told is not None and era_of(told.epoch) == era_of(self.validators.epoch)
        if told is not None and recent and told.moment() > self._floor:
            until = (self.validators.epoch, term + ABSTAIN_TERMS)
            self._abstain_until = max(self._abstain_until, until)
            self._out.persist.append(AbstainRecord(*self._abstain_until))
        if had_the_right:
            return
        self._arm_stall()
        self._arm()

    def _on_boot_refused(self, request: BootRequest) -> None:
        """R10: a newer request of our own seat exists: another copy of us booted after us."""
        mine = self.boot.progress.request
        if request.seat != self.seat or request == mine or not self.boot.genuine(request):
            return
        if request.incarnation < mine.incarnation:
            return
        if self.boot.done:
            if request.incarnation == mine.incarnation:
                return  # it lost the race: there is one certificate for a number, and we have it
            if self._awaited:
                return  # R21: we sign nothing here, and boot anew where we go
            self._stop(
                f"superseded: another copy of seat {self.seat} booted as incarnation "
                f"{request.incarnation}, ours is {mine.incarnation}"
            )
            return
        self.boot.renumber(request.incarnation + 1)
        self._ask_to_boot()


def _leads_to(c: Certificate) -> tuple[int, View]:
    """The term that a certificate shows its holder to be in, which is what must be told (R10)."""
    return c.view.term + (c.kind is VoteKind.NULLIFY), c.view
