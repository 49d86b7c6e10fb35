"""Seats that are good members and bad leaders: one class for each way to lead badly.

They begin at ``BAD_FROM_MS``, so that a cluster can settle before. ``LIARS`` is the whole gallery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from consensus.commands import Command, Put, encode_command
from consensus.engine import Engine
from consensus.interface import ChainHead, Event
from consensus.types import View, VoteKind
from consensus.wire import (
    Commands,
    Message,
    ProbeReply,
    ProposalMessage,
    Reminder,
    VoteMessage,
)

from . import adversaries
from .adversaries import Liar
from .impostors import IMPOSTORS, FalseRecovery

if TYPE_CHECKING:
    from .world import World

BAD_FROM_MS = 2000.0
VICTIM = b"victim"  # client ids of those who are left out begin with it


class BadLeader(Liar):
    """Good until it is time."""

    @property
    def bad(self) -> bool:
        return self.world.now_ms >= BAD_FROM_MS


class ProposesNothing(BadLeader):
    """Answers every challenge, and proposes nothing."""

    def twist(self, peer: int, message: Message) -> list[Message]:
        return [] if self.bad and isinstance(message, ProposalMessage) else [message]


class AnswersNothing(BadLeader):
    """Proposes, and answers no challenge."""

    def twist(self, peer: int, message: Message) -> list[Message]:
        return [] if self.bad and isinstance(message, ProbeReply) else [message]


class ClientCensor(BadLeader):
    """Leaves out the commands of some clients, whoever passes them on."""

    left_out: tuple[bytes, ...] = (VICTIM,)

    def receive(self, sender: int, message: Message) -> None:
        if isinstance(message, Commands):
            kept = tuple(raw for raw in message.commands if not raw.startswith(self.left_out))
            message = Commands(kept)
        elif isinstance(message, Reminder) and message.command.startswith(self.left_out):
            return
        super().receive(sender, message)


class DecoyCensor(ClientCensor):
    """Leaves out those clients behind old commands of its own: it serves one in each block.

    All have the others in its row. That one of them stands still at its head looks like patience.
    """

    decoys = 2000
    left_out = (VICTIM, b"decoy")

    def __init__(self, world: World, seat: int) -> None:
        super().__init__(world, seat)
        self._at = View(0, 0)
        world.after(BAD_FROM_MS - 500.0, self._begin)

    def _begin(self) -> None:
        numbers = range(self.decoys)
        self._left = [
            encode_command(Command(b"decoy %10d" % n, 1, Put(b"decoy", b""))) for n in numbers
        ]
        for peer in self.friends():
            self.tell(peer, Commands(tuple(self._left)))
        self._serve()

    def _serve(self) -> None:
        if self.engine is not None and self.engine.view != self._at and len(self._left) > 1:
            self._at = self.engine.view
            self.submit(self._left.pop())
        self.world.after(5.0, self._serve)

    def transmit(self, to: int | None, message: Message) -> None:
        if not isinstance(message, Commands | Reminder):
            super().transmit(to, message)


class MemberCensor(BadLeader):
    """Leaves out everything that came from one member, whoever passes it on later."""

    def __init__(self, world: World, seat: int) -> None:
        super().__init__(world, seat)
        self._hated: set[bytes] = set()

    def receive(self, sender: int, message: Message) -> None:
        if isinstance(message, Commands) and self.bad:
            if sender == self.victim():
                self._hated.update(message.commands)
            message = Commands(tuple(raw for raw in message.commands if raw not in self._hated))
        elif isinstance(message, Reminder) and self.bad:
            if sender == self.victim():
                self._hated.add(message.command)
            if message.command in self._hated:
                return
        super().receive(sender, message)

    def victim(self) -> int:
        return max(self.friends())


class LastMillisecond(BadLeader):
    """Proposes a moment before the others lose patience."""

    def transmit(self, to: int | None, message: Message) -> None:
        if self.bad and isinstance(message, ProposalMessage):
            d = self.world.durations
            late = float(d.heartbeat_ms + d.leader_ms - 150)
            self.world.after(late, super().transmit, to, message)
        else:
            super().transmit(to, message)


class Favours(BadLeader):
    """Proposes to a part of the members only: to so few that they are no quorum with it."""

    left_out = 2

    def twist(self, peer: int, message: Message) -> list[Message]:
        unlucky = self.friends()[-self.left_out :]
        if self.bad and isinstance(message, ProposalMessage) and peer in unlucky:
            return []
        return [message]


class FavoursAQuorum(Favours):
    """Leaves one member out."""

    left_out = 1


class NeverFinalizes(Engine):
    """Has no finalization to show as the parent's certificate either."""

    def _finalize(self, view: View, block: bytes) -> None:
        pass


class WithholdsFinality(Favours):
    """Proposes to just enough members for a notarization, and finalizes nothing."""

    left_out = 1

    def __init__(self, world: World, seat: int) -> None:
        super().__init__(world, seat)
        self.engine_class = NeverFinalizes


class ClingsOn(WithholdsFinality):
    """And does not say itself that nothing becomes final."""

    def twist(self, peer: int, message: Message) -> list[Message]:
        resigns = isinstance(message, VoteMessage) and message.vote.kind is VoteKind.NULLIFY
        return [] if self.bad and resigns else super().twist(peer, message)


class IgnoresTheChain(BadLeader):
    """Follows the chain no further."""

    def handle(self, event: Event) -> None:
        if not (self.bad and isinstance(event, ChainHead)):
            super().handle(event)


BAD_LEADERS: dict[str, type[Liar]] = {
    "proposes_nothing": ProposesNothing,
    "answers_nothing": AnswersNothing,
    "client_censor": ClientCensor,
    "member_censor": MemberCensor,
    "last_millisecond": LastMillisecond,
    "favours": Favours,
    "favours_a_quorum": FavoursAQuorum,
    "withholds_finality": WithholdsFinality,
    "ignores_the_chain": IgnoresTheChain,
}
# Those whose stories need more than random runs have: they take no part in these.
STORIES: dict[str, type[Liar]] = {
    "decoy_censor": DecoyCensor,
    "clings_on": ClingsOn,
    "false_recovery": FalseRecovery,
}
LIARS: dict[str, type[Liar]] = adversaries.GALLERY | BAD_LEADERS | IMPOSTORS
