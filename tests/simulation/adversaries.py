"""Byzantine seats: one small class for each way to lie.

A liar holds the key of its own seat and nothing else. Most run the real engine and twist what it
says; what a liar may know, see and send is not limited in any other way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from consensus.codec import make_block
from consensus.digests import vote_digest
from consensus.errors import WireError
from consensus.interface import MembershipSeen, Output
from consensus.machine import Machine
from consensus.types import (
    ZERO_HASH,
    Certificate,
    ChainView,
    FinalHeader,
    Manifest,
    Proposal,
    Reason,
    View,
    Vote,
    VoteKind,
)
from consensus.wire import (
    BootAck,
    BootRefused,
    BootRequest,
    Certificates,
    Message,
    ProposalMessage,
    SnapshotChunk,
    SnapshotOffer,
    SyncReply,
    VoteMessage,
    decode,
    encode,
)

from .members import Member

if TYPE_CHECKING:
    from .world import World

_BOOTING = (BootRequest, BootAck, BootRefused)
HEADER_FIELDS = (  # that ``make_block`` takes
    "epoch", "view", "proposer", "height", "parent", "time_ms", "state_height", "state_hash",
)  # fmt: skip


class Liar(Member):
    """Runs the engine; ``twist`` says what a peer gets in place of each message."""

    correct = False

    def twist(self, peer: int, message: Message) -> list[Message]:
        return [message]

    def sign(self, kind: VoteKind, view: View, block: bytes, reason: int = 0) -> Vote:
        """Any vote at all, really signed."""
        epoch = 0 if self.engine is None else self.engine.validators.epoch
        digest = vote_digest(self.world.cluster_id, kind, epoch, *view, block, reason)
        signature = self.world.signers[self.seat].sign(digest)
        return Vote(kind, epoch, view, self.seat, block, reason, signature)

    def vote(self, kind: VoteKind, view: View, block: bytes, reason: int = 0) -> VoteMessage:
        assert self.engine is not None
        return VoteMessage(self.engine.boot.incarnation, self.sign(kind, view, block, reason))

    def reproposed(
        self, message: ProposalMessage, proof: Certificate | None, /, **changed: Any
    ) -> ProposalMessage:
        """A proposal with something else in its block (see ``make_block``), really signed."""
        first = message.proposal.block
        kept = {field: getattr(first.header, field) for field in HEADER_FIELDS}
        kept |= {"commands": first.commands, "nullifications": first.nullifications}
        block = make_block(self.world.cluster_id, **(kept | changed))
        signature = self.sign(VoteKind.NOTARIZE, block.header.view, block.hash).signature
        return replace(message, proposal=Proposal(block, proof, signature))

    def again_and_again(self, lie: Callable[[], None], most_ms: float) -> None:
        """Lies now and then, for as long as this start of the member lasts."""

        def tell(life: int) -> None:
            if self.life != life or self.engine is None:
                return
            lie()
            wait(life)

        def wait(life: int) -> None:
            self.world.after(self.world.rng.uniform(300.0, most_ms), tell, life)

        wait(self.life)

    def peers(self) -> list[int]:
        return [s for s in self.world.members if s != self.seat]

    def friends(self) -> list[int]:
        """The correct members: liars that answer each other would never end."""
        return [s for s in self.peers() if s not in self.world.scenario.byzantine]

    def tell(self, peer: int, message: Message) -> None:
        self.world.oracle.heard(self.seat, message)
        self.world.network.send(self.seat, peer, message)

    def transmit(self, to: int | None, message: Message) -> None:
        for peer in self.peers() if to is None else [to]:
            for said in self.twist(peer, message):
                self.tell(peer, said)

    def observe(self, output: Output) -> None:
        pass

    def persisted(self, output: Output) -> None:
        pass

    def stopped(self) -> None:
        pass


class Silent(Liar):
    """Takes part in nothing."""

    def transmit(self, to: int | None, message: Message) -> None:
        pass


class MuteLeader(Liar):
    """A good member until it leads: then it answers, but proposes nothing."""

    def twist(self, peer: int, message: Message) -> list[Message]:
        return [] if isinstance(message, ProposalMessage) else [message]


class Withholder(Liar):
    """Sends its votes and proposals to a changing part of the members only."""

    def __init__(self, world: World, seat: int) -> None:
        super().__init__(world, seat)
        self._friends: set[int] = set()
        self._choose()

    def _choose(self) -> None:
        peers = [s for s in self.world.scenario.weights if s != self.seat]
        self._friends = {s for s in peers if self.world.rng.random() < 0.5}
        self.world.after(self.world.rng.uniform(200.0, 3000.0), self._choose)

    def twist(self, peer: int, message: Message) -> list[Message]:
        return [message] if peer in self._friends or isinstance(message, _BOOTING) else []


class Nuller(Liar):
    """Complains about every view, ignores its own complaints, and finalizes all the same."""

    def receive(self, sender: int, message: Message) -> None:
        if self.engine is not None and isinstance(message, (VoteMessage, ProposalMessage)):
            view = (
                message.vote.view
                if isinstance(message, VoteMessage)
                else message.proposal.block.header.view
            )
            reason = self.world.rng.choice(list(Reason))
            for peer in self.friends():
                self.tell(peer, self.vote(VoteKind.NULLIFY, view, ZERO_HASH, reason))
        super().receive(sender, message)

    def twist(self, peer: int, message: Message) -> list[Message]:
        assert self.engine is not None
        if isinstance(message, VoteMessage) and message.vote.kind is VoteKind.NOTARIZE:
            vote = message.vote
            return [message, self.vote(VoteKind.FINALIZE, vote.view, vote.block)]
        return [message]


class Equivocator(Liar):
    """Proposes one block to some and another to the rest, and votes for both where it helps."""

    def __init__(self, world: World, seat: int) -> None:
        super().__init__(world, seat)
        self._other: dict[bytes, ProposalMessage] = {}

    def _second(self, message: ProposalMessage) -> ProposalMessage:
        """Another valid proposal for the same view."""
        first = message.proposal.block
        known = self._other.get(first.hash)
        if known is None:
            known = self._other[first.hash] = self.reproposed(
                message,
                message.proposal.parent,
                time_ms=first.header.time_ms + 1,
                commands=first.commands[:-1],
            )
        return known

    def twist(self, peer: int, message: Message) -> list[Message]:
        if isinstance(message, ProposalMessage):
            second = self._second(message)
            choice = (peer + message.proposal.block.header.height) % 3
            return [[message], [second], [message, second]][choice]
        return [message]

    def receive(self, sender: int, message: Message) -> None:
        if self.engine is not None and isinstance(message, VoteMessage):
            v = message.vote
            leads = self.engine.leader(v.view.term) == self.seat
            if leads and v.kind is not VoteKind.NULLIFY and sender in self.friends():
                self.tell(sender, self.vote(v.kind, v.view, v.block))
        super().receive(sender, message)


class Promiscuous(Liar):
    """Agrees with everybody: signs whatever it sees, and complains about it too."""

    def receive(self, sender: int, message: Message) -> None:
        if self.engine is not None and isinstance(message, VoteMessage):
            view, block = message.vote.view, message.vote.block
            rng = self.world.rng
            peers = [p for p in self.friends() if rng.random() < 0.5]
            for peer in peers:
                if message.vote.kind is VoteKind.NULLIFY:
                    self.tell(peer, self.vote(VoteKind.NULLIFY, view, block, Reason.SLOW))
                else:
                    self.tell(peer, self.vote(VoteKind.NOTARIZE, view, block))
                    self.tell(peer, self.vote(VoteKind.FINALIZE, view, block))
        super().receive(sender, message)


class Replayer(Liar):
    """Sends real messages of anybody again, late, as its own."""

    def __init__(self, world: World, seat: int) -> None:
        super().__init__(world, seat)
        self._heard: deque[Message] = deque(maxlen=200)

    def _replay(self) -> None:
        rng = self.world.rng
        if self._heard and rng.random() < 0.3:
            self.tell(rng.choice(self.peers()), rng.choice(self._heard))

    def receive(self, sender: int, message: Message) -> None:
        self._heard.append(message)
        self._replay()
        super().receive(sender, message)

    def twist(self, peer: int, message: Message) -> list[Message]:
        self._heard.append(message)
        return [message]


class Forker(Liar):
    """Begins its terms on the genesis, as if nothing had been agreed on yet."""

    def twist(self, peer: int, message: Message) -> list[Message]:
        if not isinstance(message, ProposalMessage) or message.proposal.block.header.view.index:
            return [message]
        forked = self.reproposed(
            message,
            None,
            epoch=0,
            height=1,
            parent=self.world.genesis,
            state_height=0,
            state_hash=Machine().state_hash,
            commands=(),
            nullifications=(),
        )
        return [forked]


class Mutator(Liar):
    """Changes real messages: bits of them, views, blocks, parts; signs again where it can."""

    def twist(self, peer: int, message: Message) -> list[Message]:
        rng = self.world.rng
        if rng.random() < 0.6:
            return [message]
        if rng.random() < 0.4:
            data = bytearray(encode(message))
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            with suppress(WireError):
                spoilt = decode(bytes(data), self.seat, self.world.cluster_id)
                self.world.oracle.heard(self.seat, spoilt)
            self.world.network.send_bytes(self.seat, peer, bytes(data))
            return [message]
        return [self._changed(message), message]

    def _changed(self, message: Message) -> Message:
        rng = self.world.rng
        match message:
            case VoteMessage(incarnation, vote):
                view = _moved(rng, vote.view)
                block = rng.choice((vote.block, rng.randbytes(32)))
                if vote.kind is VoteKind.NULLIFY:
                    block = ZERO_HASH
                changed = self.sign(vote.kind, view, block, vote.reason)
                return VoteMessage(max(0, incarnation + rng.choice((0, 0, 1, -1))), changed)
            case ProposalMessage(_, p):
                h = p.block.header
                return self.reproposed(
                    message,
                    p.parent,
                    view=rng.choice((h.view, _moved(rng, h.view))),
                    proposer=rng.choice((h.proposer, h.proposer, h.proposer + 1)),
                    height=max(0, h.height + rng.choice((0, 0, 1, -1, 1000))),
                    parent=rng.choice((h.parent, rng.randbytes(32))),
                    time_ms=rng.choice((h.time_ms, 0, 2**63)),
                    state_height=max(0, h.state_height + rng.choice((0, 0, 1, -1, 5))),
                    state_hash=rng.choice((h.state_hash, bytes(32))),
                    nullifications=p.block.nullifications[rng.choice((0, 0, 1)) :],
                )
            case Certificates(certificates) if certificates:
                c = rng.choice(certificates)
                changed_c = rng.choice(
                    (
                        replace(c, view=_moved(rng, c.view)),
                        replace(c, parts=c.parts[1:]),
                        replace(c, kind=VoteKind.FINALIZE, block=c.block),
                        replace(c, epoch=1),
                    )
                )
                return Certificates((changed_c,))
            case SyncReply(blocks, links, finalization, head) if blocks:
                return rng.choice(
                    (
                        SyncReply(blocks[1:], links, finalization),
                        SyncReply(blocks[:-1], links, finalization),
                        SyncReply(blocks, links[1:], finalization),
                        SyncReply(blocks, links, replace(finalization, parts=())),
                        SyncReply((), (), finalization),
                        replace(message, head=_higher(head)),
                    )
                )
        return message


def _higher(head: FinalHeader | None) -> FinalHeader | None:
    """A height that no certificate proves."""
    if head is None:
        return None
    return replace(head, header=replace(head.header, height=head.header.height + 10_000))


def _moved(rng: object, view: View) -> View:
    choose = rng.choice  # type: ignore[attr-defined]
    term = max(0, view.term + choose((0, 0, 0, 1, -1, 2, 1000)))
    return View(term, max(0, view.index + choose((0, 1, -1, 2, 40, 2**40))))


class _SecondHalf(Liar):
    """The other engine of a twin; what it says goes through the twin."""

    twin: Twin

    def transmit(self, to: int | None, message: Message) -> None:
        self.twin.say(1, to, message)

    def boot_id(self) -> bytes:
        return bytes(32)


class Twin(Liar):
    """Two correct engines under one key and one incarnation; each member talks to one of them.

    (Bano and others, "Twins: BFT Systems Made Robust", OPODIS 2021.)
    """

    def __init__(self, world: World, seat: int) -> None:
        super().__init__(world, seat)
        self._second = _SecondHalf(world, seat)
        self._second.twin = self
        self._side: dict[int, int] = {}
        self._choose()

    def _choose(self) -> None:
        rng = self.world.rng
        self._side = {s: rng.randrange(2) for s in self.world.scenario.weights}
        self.world.after(rng.uniform(300.0, 4000.0), self._choose)

    def boot_id(self) -> bytes:
        return bytes(32)

    def start(self) -> None:
        super().start()
        self._second.start()

    def crash(self) -> None:
        raise AssertionError("a liar does not crash")

    def say(self, side: int, to: int | None, message: Message) -> None:
        for peer in self.peers() if to is None else [to]:
            if self._side[peer] == side or isinstance(message, _BOOTING):
                self.tell(peer, message)

    def transmit(self, to: int | None, message: Message) -> None:
        self.say(0, to, message)

    def receive(self, sender: int, message: Message) -> None:
        booting = isinstance(message, _BOOTING)
        if booting or self._side[sender] == 0:
            super().receive(sender, message)
        if booting or self._side[sender] == 1:
            self._second.receive(sender, message)

    def connected(self, peer: int) -> None:
        super().connected(peer)
        self._second.connected(peer)

    def lost(self, peer: int) -> None:
        super().lost(peer)
        self._second.lost(peer)


class SnapshotForger(Liar):
    """A good member in the voting; its snapshots are wrong, short, endless, stale or another's."""

    _spoils_chunks = False

    def twist(self, peer: int, message: Message) -> list[Message]:
        rng = self.world.rng
        match message:
            case SyncReply() if self.store.archive.proven and rng.random() < 0.7:
                old = rng.choice(self.store.archive.proven).manifest
                assert old is not None
                return [SnapshotOffer(self._offer(old))]
            case SnapshotOffer(manifest):
                return [SnapshotOffer(self._offer(manifest))]
            case SnapshotChunk():
                return [self._chunk(message)]
        return [message]

    def _offer(self, m: Manifest) -> Manifest:
        """Either the proof is wrong or, later, one of the chunks: a lie alone goes furthest."""
        header = m.header
        self._spoils_chunks = self.world.rng.random() < 0.5
        if self._spoils_chunks:
            return m
        return self.world.rng.choice(
            (
                replace(m, chunks=2**16),
                replace(m, chunks=max(1, m.chunks - 1)),
                replace(m, header=replace(header, height=header.height + 2)),
                replace(m, links=m.links[:-1]),
                replace(m, links=(*m.links, header)),
                replace(m, links=tuple(replace(h, state_hash=bytes(32)) for h in m.links)),
                replace(m, finalization=replace(m.finalization, parts=m.finalization.parts[:1])),
            )
        )

    def _chunk(self, c: SnapshotChunk) -> SnapshotChunk:
        rng, items = self.world.rng, c.items
        if not self._spoils_chunks or rng.random() < 0.7:
            return c
        at = rng.randrange(len(items))
        item = bytearray(items[at])
        item[rng.randrange(len(item))] ^= 1 << rng.randrange(8)
        return replace(
            c,
            items=rng.choice(
                (
                    items,
                    (*items[:at], bytes(item), *items[at + 1 :]),
                    (*items[:at], *items[at + 1 :]),
                    (*items[: at + 1], *items[at:]),
                    (),
                )
            ),
        )


class Clone(Twin):
    """A copy of the seat's disk comes up elsewhere, later, with an incarnation of its own (R10)."""

    def boot_id(self) -> bytes:
        return self.world.rng.randbytes(32)

    def start(self) -> None:
        Member.start(self)
        self._second.store = self.store.copy()
        self.world.after(self.world.rng.uniform(300.0, 6000.0), self._appear)

    def _appear(self) -> None:
        if self._second.up:
            return
        if self.world.rng.random() < 0.5:
            self._second.store = self.store.copy()  # of now, not of the first start
        self._second.start()
        for peer in self.peers():
            if self.world.network.linked(self.seat, peer):
                self._second.connected(peer)


class LastMoment(Liar):
    """Proposes just before the others lose patience, and leaves finality to them."""

    def transmit(self, to: int | None, message: Message) -> None:
        d = self.world.durations
        if isinstance(message, ProposalMessage):
            wait_ms = d.heartbeat_ms + d.leader_ms - 100.0
            self.world.after(wait_ms, super().transmit, to, message)
        elif not (isinstance(message, VoteMessage) and message.vote.kind is VoteKind.FINALIZE):
            super().transmit(to, message)


class FalseRegistry(Liar):
    """Sees a registry that does not exist, in which it weighs more and others are gone."""

    def start(self) -> None:
        super().start()
        self.again_and_again(self._lie, 4000.0)

    def _lie(self) -> None:
        assert self.engine is not None
        rng, number = self.world.rng, 10_000 + int(self.world.now_ms)
        mine = {v.seat: v for v in self.engine.validators.validators}
        mine.pop(rng.choice(self.peers()), None)
        if self.seat in mine:
            mine[self.seat] = replace(mine[self.seat], weight=mine[self.seat].weight + 1)
            hashes = [rng.randbytes(32) for _ in range(3)]
            self.handle(MembershipSeen(ChainView(number, *hashes, tuple(mine.values()))))


GALLERY: dict[str, type[Liar]] = {
    "silent": Silent,
    "mute": MuteLeader,
    "withholder": Withholder,
    "nuller": Nuller,
    "equivocator": Equivocator,
    "promiscuous": Promiscuous,
    "replayer": Replayer,
    "mutator": Mutator,
    "forker": Forker,
    "twin": Twin,
    "snapshots": SnapshotForger,
    "clone": Clone,
    "last_moment": LastMoment,
    "false_registry": FalseRegistry,
}
