"""Liars who speak in others' names, and show real certificates for what they are not.

Whatever they use was really said by somebody: only whose it is, or what it stands for, is wrong.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from consensus.epochs import recovery_epoch
from consensus.ledger import covered_from
from consensus.types import (
    BootRequest,
    Certificate,
    Evidence,
    Part,
    Recovery,
    Vote,
    VoteKind,
)
from consensus.wire import (
    BootRefused,
    Certificates,
    EpochReply,
    EvidenceMessage,
    Message,
    ProposalMessage,
    VoteMessage,
)

from .adversaries import Liar

if TYPE_CHECKING:
    from .world import World


class Impersonator(Liar):
    """Proposes, votes, boots, certifies and accuses in the names of others."""

    def __init__(self, world: World, seat: int) -> None:
        super().__init__(world, seat)
        self._votes: deque[Vote] = deque(maxlen=60)  # of others, really signed
        self._boots: deque[BootRequest] = deque(maxlen=10)

    def receive(self, sender: int, message: Message) -> None:
        match message:
            case VoteMessage(_, vote):
                self._votes.append(vote)
            case BootRequest():
                self._boots.append(message)
        if self.engine is not None and self.world.rng.random() < 0.3:
            invented = self._invent(sender, message)
            if invented is not None:
                self.tell(self.world.rng.choice(self.friends()), invented)
        super().receive(sender, message)

    def _invent(self, sender: int, message: Message) -> Message | None:
        rng = self.world.rng
        if isinstance(message, ProposalMessage) and rng.random() < 0.7:
            return message  # another leader's block under its signature, as if it were ours
        return rng.choice((self._boot, self._certificate, self._accusation, self._echo))()

    def _boot(self) -> Message | None:
        """A boot of somebody else, to make the others count its votes no more."""
        if not self._boots:
            return None
        request = self.world.rng.choice(self._boots)
        signature = self.world.signers[self.seat].sign(request.boot_id)
        forged = replace(request, incarnation=request.incarnation + 1, signature=signature)
        return self.world.rng.choice((request, forged, BootRefused(forged)))

    def _certificate(self) -> Message | None:
        """Real votes as parts, but of another view, of another kind, or one of them for all."""
        rng = self.world.rng
        if not self._votes:
            return None
        about = rng.choice(self._votes)
        said = {v.seat: v for v in self._votes if v.kind is about.kind or rng.random() < 0.5}
        mine = self.sign(about.kind, about.view, about.block, about.reason)
        signatures = {seat: rng.choice((v, mine, about)).signature for seat, v in said.items()}
        parts = [Part(seat, about.reason, signatures[seat]) for seat in sorted(signatures)]
        kind = rng.choice((about.kind, VoteKind.FINALIZE, VoteKind.NOTARIZE))
        if about.kind is VoteKind.NULLIFY:
            kind = about.kind
        block = about.block
        return Certificates((Certificate(kind, about.epoch, about.view, block, tuple(parts)),))

    def _accusation(self) -> Message | None:
        """Two votes that would convict, were they of one seat, or the second one signed."""
        rng = self.world.rng
        if not self._votes:
            return None
        first = rng.choice(self._votes)
        if first.kind is VoteKind.NULLIFY:
            second = first._replace(kind=VoteKind.FINALIZE, block=rng.randbytes(32), reason=0)
        else:
            second = first._replace(block=rng.randbytes(32))
        ours = self.sign(second.kind, second.view, second.block)
        second = second._replace(signature=rng.choice((first.signature, ours.signature)))
        return EvidenceMessage((Evidence(first, second),))

    def _echo(self) -> Message | None:
        """Somebody's vote, under its own signature, as ours."""
        if not self._votes or self.engine is None:
            return None
        return VoteMessage(self.engine.boot.incarnation, self.world.rng.choice(self._votes))


class Relabeller(Liar):
    """Begins its terms on the final tip, with notarizations for the nullifications it lacks."""

    def twist(self, peer: int, message: Message) -> list[Message]:
        if isinstance(message, ProposalMessage) and not message.proposal.block.header.view.index:
            return [self._on_the_tip(message) or message]
        return [message]

    def _on_the_tip(self, message: ProposalMessage) -> ProposalMessage | None:
        assert self.engine is not None
        ledger, machine = self.engine.ledger, self.engine.machine
        h, tip = message.proposal.block.header, ledger.tip
        state_hash = machine.hash_at(tip.state_height)
        if message.proposal.parent == tip.finalization or state_hash is None:
            return None
        shown: list[Certificate] = []
        for term in range(max(tip.view.term, 1), h.view.term):
            known = [*ledger.notarizations.values(), *ledger.nullifications.values()]
            fits = [
                c
                for c in known
                if c.view.term == term and c.view.index <= covered_from(tip.view, term)
            ]
            if not fits:
                return None
            shown.append(fits[0])
        return self.reproposed(
            message,
            tip.finalization,
            height=tip.height + 1,
            parent=tip.hash,
            time_ms=max(h.time_ms, tip.time_ms),
            state_height=tip.state_height,
            state_hash=state_hash,
            commands=(),
            nullifications=tuple(shown),
        )


class FalseRecovery(Liar):
    """Tells that the chain opened an epoch in which it is alone, or with few others."""

    def start(self) -> None:
        super().start()
        self.again_and_again(self._lie, 2000.0)

    def _lie(self) -> None:
        assert self.engine is not None
        rng, engine, real = self.world.rng, self.engine, self.world.chain.recoveries
        tip, members = engine.ledger.tip, engine.validators.validators
        mine = tuple(v for v in members if v.seat == self.seat or rng.random() < 0.3)
        if real and rng.random() < 0.5:
            told = replace(real[-1], validators=mine)
        else:
            epoch = recovery_epoch(engine.validators.epoch, max((r.epoch for r in real), default=0))
            told = Recovery(epoch, tip.height, tip.hash, mine, rng.randbytes(32), 0)
        if mine:
            self.tell(rng.choice(self.friends()), EpochReply((told,)))


IMPOSTORS: dict[str, type[Liar]] = {"impersonator": Impersonator, "relabeller": Relabeller}
