"""Incarnations (R10, R20): how a booting member gets the right to vote, and an older copy loses it.

A booting member asks all members to acknowledge (seat, incarnation, boot id) and needs more than
2/3 of the weight, its own included. Whoever acknowledged counts votes under that incarnation only.
An acknowledgement tells, with proof, the highest vote that its signer saw the seat sign. If our
vote log is older than that, the disk was rolled back, and we must not vote where we may have
voted before: we abstain until a term that no forgotten vote of ours can reach. Leaving a term
takes a quorum of nullify votes, so some correct member that answered was in every term we can
have left, and our own votes are at most one term later: the highest term told plus two is safe.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from .certificates import verify_certificate
from .digests import boot_ack_digest, boot_digest, digest_of
from .epochs import era_of
from .limits import EPOCHS_PER_ERA
from .signatures import Signer, Verifier
from .types import BootAck, BootCertificate, BootRequest, Certificate, Part, Vote, VoteKind
from .validators import ValidatorSet

NUMBERS_PER_EPOCH = 10**9


@dataclass(slots=True)
class Progress:
    """Acknowledgements of our current request."""

    request: BootRequest
    acks: dict[int, BootAck] = field(default_factory=dict)


class Boot:
    """Our own boot, and what we know of everybody's incarnation."""

    def __init__(
        self,
        *,
        validators: ValidatorSet,
        cluster_id: bytes,
        seat: int,
        signer: Signer,
        verifier: Verifier,
        boot_id: bytes,
        last_incarnation: int,
    ) -> None:
        self._validators = validators
        self._cluster_id = cluster_id
        self._seat = seat
        self._signer = signer
        self._verifier = verifier
        self.boot_id = boot_id
        self.known: dict[int, BootRequest] = {}  # the newest acknowledged request of each seat
        self._certified: dict[int, tuple[int, bytes]] = {}  # incarnation, boot id: by certificate
        self.certificate: BootCertificate | None = None
        self.done = False  # True when we have the right to vote
        self.is_current = False  # True when the members of this epoch gave the certificate
        self.progress: Progress
        self.renumber(last_incarnation + 1)
        # True when the set has our seat with our key; else we only observe.
        self.is_member = self.genuine(self.progress.request)

    @property
    def incarnation(self) -> int:
        """The incarnation that we ask for or have."""
        return self.progress.request.incarnation

    def renumber(self, incarnation: int) -> BootRequest:
        """A new request under a higher number; the caller persists it before sending.

        A number belongs to the epoch in which it was taken: only then one set acknowledges it, and
        two copies of us cannot each find a quorum for it.
        """
        incarnation = max(incarnation, self._validators.epoch * NUMBERS_PER_EPOCH + 1)
        digest = boot_digest(self._cluster_id, self._seat, incarnation, self.boot_id)
        request = BootRequest(self._seat, incarnation, self.boot_id, self._signer.sign(digest))
        self.progress = Progress(request)
        return request

    def open_epoch(self, validators: ValidatorSet) -> None:
        """R20: members keep the right to vote, and have it acknowledged by the new set.

        Of a seat that changed its key nothing is known any more; one that left and comes back with
        its key is still held to its number. In an era (R21) all boot anew: its set is not asked
        what it promised before, which some of it may have forgotten.
        """
        before, self._validators = self._validators, validators
        if era_of(before.epoch) != era_of(validators.epoch):
            self.done = False
        for seat in [*self.known, *self._certified]:
            is_older = not self._is_of_this_era(self.current(seat))
            if not is_older and before.keys.get(seat) == validators.keys.get(seat):
                continue
            self._certified.pop(seat, None)
            promise = self.known.get(seat)
            if promise is not None and (is_older or not self._binds(promise)):
                del self.known[seat]
        self.is_current = False
        self.progress.acks.clear()
        self.is_member = self.genuine(self.progress.request)
        self.done = self.done and self.is_member
        if not self.done:
            self.certificate = None
            self.renumber(self.incarnation + 1)

    # --- others ---

    def current(self, seat: int) -> int:
        """The incarnation under which we count a seat's votes."""
        if seat == self._seat:
            return self.incarnation
        certified, known = self._certified.get(seat), self.known.get(seat)
        if certified is None:
            return known.incarnation if known is not None else 0
        return max(certified[0], known.incarnation) if known is not None else certified[0]

    def genuine(self, request: BootRequest) -> bool:
        """True when the seat's own key signed the request."""
        key = self._validators.keys.get(request.seat)
        r = request
        digest = boot_digest(self._cluster_id, r.seat, r.incarnation, r.boot_id)
        return key is not None and self._verifier.verify(key, digest, r.signature)

    def accept(self, request: BootRequest) -> bool:
        """True when we may acknowledge: newer than all we know, or the same one again.

        Also one that we know by its certificate only: the next epoch's set is asked anew (R20).
        """
        seat, current = request.seat, self.current(request.seat)
        if request == self.known.get(seat):
            return True
        if request.incarnation == current:
            return self._certified.get(seat) == (current, request.boot_id)
        return request.incarnation > current and self._is_of_now(request.incarnation)

    def _is_of_now(self, incarnation: int) -> bool:
        """Not of an epoch that we are not in: the set of that one is asked first (R20)."""
        is_later = incarnation >= (self._validators.epoch + 1) * NUMBERS_PER_EPOCH
        return self._is_of_this_era(incarnation) and not is_later

    def _is_of_this_era(self, incarnation: int) -> bool:
        first = era_of(self._validators.epoch) * EPOCHS_PER_ERA
        return incarnation >= first * NUMBERS_PER_EPOCH

    def remember(self, request: BootRequest) -> None:
        """A promise of an earlier run."""
        if self._is_of_this_era(request.incarnation) and self._binds(request):
            self.known[request.seat] = request  # else the seat has another key by now

    def _binds(self, promise: BootRequest) -> bool:
        """True while its seat has the key that signed it, or has left and may come back with it."""
        return promise.seat not in self._validators.keys or self.genuine(promise)

    def acknowledge(
        self, request: BootRequest, last_vote: Vote | None, tip: Certificate | None
    ) -> BootAck:
        """The signed acknowledgement of an accepted (and persisted) request."""
        self.known[request.seat] = request
        r = request
        digest = boot_ack_digest(self._cluster_id, r.seat, r.incarnation, r.boot_id)
        signature = self._signer.sign(digest)
        epoch = self._validators.epoch
        return BootAck(r.seat, r.incarnation, r.boot_id, signature, epoch, last_vote, tip)

    def learn(self, certificate: BootCertificate) -> bool:
        """Takes another member's boot certificate; False when it proves nothing (new)."""
        c = certificate
        if c.incarnation <= self.current(c.seat) or c.seat == self._seat:
            return False
        if not self._is_of_this_era(c.incarnation):
            return False
        if not self._validators.is_quorum(self._validators.weight(p.seat for p in c.parts)):
            return False
        digest = boot_ack_digest(self._cluster_id, c.seat, c.incarnation, c.boot_id)
        for part in c.parts:
            key = self._validators.keys.get(part.seat)
            if key is None or not self._verifier.verify(key, digest, part.signature):
                return False
        self._certified[c.seat] = (c.incarnation, c.boot_id)
        return True

    # --- ourselves ---

    def take(self, sender: int, ack: BootAck) -> bool:
        """Counts an acknowledgement of our request; False when it is not valid."""
        request = self.progress.request
        told = (ack.seat, ack.incarnation, ack.boot_id)
        if told != (request.seat, request.incarnation, request.boot_id):
            return True  # an answer to an earlier number of ours: of no use, but no offence
        key = self._validators.keys.get(sender)
        if key is None or not self.is_member:
            return True  # of another epoch
        digest = boot_ack_digest(self._cluster_id, *told)
        if not self._verifier.verify(key, digest, ack.signature):
            return False
        if ack.last_vote is not None:
            own_key = self._validators.keys[self._seat]
            vote_digest = digest_of(self._cluster_id, ack.last_vote)
            if ack.last_vote.seat != self._seat or not self._verifier.verify(
                own_key, vote_digest, ack.last_vote.signature
            ):
                return False
        epoch = self._validators.epoch
        shown = [what.epoch for what in (ack.last_vote, ack.tip) if what is not None]
        if max([ack.epoch, *shown]) > epoch:
            return True  # we must be in that epoch first: it may know votes that we forgot
        if ack.tip is not None and ack.tip.epoch < epoch:
            ack = replace(ack, tip=None)  # of a set that is not ours to check
        if ack.tip is not None and not verify_certificate(
            ack.tip, self._validators, self._cluster_id, self._verifier
        ):
            return False
        self.progress.acks[sender] = ack
        return True

    def complete(self) -> bool:
        """Makes the boot certificate when the acknowledgements suffice; True when it is new."""
        request, acks = self.progress.request, self.progress.acks
        if self.is_current or not self.is_member:
            return False
        if not self._validators.is_quorum(self._validators.weight(acks)):
            return False
        parts = tuple(Part(seat, 0, acks[seat].signature) for seat in sorted(acks))
        self.certificate = BootCertificate(
            request.seat, request.incarnation, request.boot_id, parts
        )
        self.done = self.is_current = True
        return True

    def told(self) -> tuple[Vote | None, int]:
        """The highest vote of ours that anyone saw, and the highest term anyone proved to be in."""
        acks = self.progress.acks.values()
        votes = [a.last_vote for a in acks if a.last_vote is not None]
        highest = max(votes, key=Vote.moment, default=None)
        # Who holds the nullification of a term is in the next one, and may have complained there.
        tips = [a.tip for a in acks if a.tip is not None]
        terms = [tip.view.term + (tip.kind is VoteKind.NULLIFY) for tip in tips]
        if highest is not None and highest.epoch == self._validators.epoch:
            terms.append(highest.view.term)
        return highest, max(terms, default=1)
