"""Small clusters and hand-made votes, certificates and blocks."""

from __future__ import annotations

from dataclasses import dataclass, field

from consensus.codec import make_block
from consensus.commands import Action, Barrier, Command, Delete, Put, Tag, encode_command
from consensus.digests import digest_of, genesis_hash
from consensus.engine import Engine
from consensus.interface import Output, PeerConnected, Received, Restored, Started
from consensus.keccak import keccak256
from consensus.ledger import genesis_tip
from consensus.machine import Machine
from consensus.order import leader_order
from consensus.types import (
    ZERO_HASH,
    Block,
    Certificate,
    Evidence,
    NextEpoch,
    Part,
    Proposal,
    View,
    Vote,
    VoteKind,
)
from consensus.validators import Validator, ValidatorSet
from consensus.wire import Message
from tests.simulation.signing import keys_for

CLUSTER_ID = keccak256(b"a cluster under test")
GENESIS = genesis_hash(CLUSTER_ID, 0, bytes(32))


@dataclass
class Cluster:
    """A validator set with everybody's keys."""

    weights: tuple[int, ...] = (1, 1, 1, 1)
    seed: bytes = field(default=bytes(32))
    engine_class: type[Engine] = Engine

    def __post_init__(self) -> None:
        seats = list(range(1, len(self.weights) + 1))
        self.keys, self.signers, self.verifier = keys_for(seats)
        self.validators = ValidatorSet(
            0,
            tuple(Validator(s, w, self.keys[s]) for s, w in zip(seats, self.weights, strict=True)),
            self.seed,
        )

    def vote(
        self, seat: int, kind: VoteKind, view: View, block: bytes = ZERO_HASH, reason: int = 0
    ) -> Vote:
        """A vote that ``seat`` really signed."""
        unsigned = Vote(kind, 0, view, seat, block, reason, b"")
        signature = self.signers[seat].sign(digest_of(CLUSTER_ID, unsigned))
        return Vote(kind, 0, view, seat, block, reason, signature)

    def certificate(
        self,
        kind: VoteKind,
        view: View,
        block: bytes = ZERO_HASH,
        seats: tuple[int, ...] | None = None,
        reason: int = 0,
    ) -> Certificate:
        """A certificate of ``seats``, of all by default."""
        signers = self.validators.seats if seats is None else seats
        votes = [self.vote(s, kind, view, block, reason) for s in signers]
        parts = tuple(Part(v.seat, reason, v.signature) for v in votes)
        return Certificate(kind, 0, view, block, parts)

    def engine(self, seat: int, restored: Restored | None = None) -> Engine:
        """An engine of ``seat``, not started."""
        return self.engine_class(
            cluster_id=CLUSTER_ID,
            validators=self.validators,
            seat=seat,
            signer=self.signers[seat],
            verifier=self.verifier,
            restored=restored or Restored(genesis_tip(GENESIS), Machine()),
            boot_id=bytes(31) + bytes([seat]),
        )

    def booted(self, seat: int, restored: Restored | None = None) -> tuple[Engine, Output]:
        """An engine that has the right to vote and links to all, and the outputs of that."""
        engine = self.engine(seat, restored)
        output = engine.step(Started(), 1)
        for peer in self.validators.seats:
            if peer == seat:
                continue
            output.merge(engine.step(PeerConnected(peer), 1))
            other = self.engine(peer)
            other.step(Started(), 1)
            ask = engine.boot.progress.request
            for message in sent(other.step(Received(seat, ask), 1)):
                output.merge(engine.step(Received(peer, message), 1))
            reply = other.boot.progress.request
            output.merge(engine.step(Received(peer, reply), 1))
        assert engine.boot.done
        return engine, output

    def leader(self, term: int = 1) -> int:
        order = leader_order(self.validators)
        return order[(term - 1) % len(order)]


def sent(output: Output) -> list[Message]:
    """The messages of an output."""
    return [send.message for send in output.send]


def block(
    view: View,
    parent: Block | bytes = GENESIS,
    *,
    commands: tuple[bytes, ...] = (),
    nullifications: tuple[Certificate, ...] = (),
    time_ms: int = 0,
    state_height: int = 0,
    state_hash: bytes | None = None,
    proposer: int | None = None,
    evidence: tuple[Evidence, ...] = (),
    next_epoch: NextEpoch | None = None,
) -> Block:
    """A block on ``parent`` (a block, or the genesis hash); the leader of four equals makes it."""
    on_block = isinstance(parent, Block)
    return make_block(
        CLUSTER_ID,
        epoch=0,
        view=view,
        proposer=Cluster().leader(view.term) if proposer is None else proposer,
        height=parent.header.height + 1 if on_block else 1,
        parent=parent.hash if on_block else parent,
        time_ms=time_ms,
        state_height=state_height,
        state_hash=Machine().state_hash if state_hash is None else state_hash,
        commands=commands,
        nullifications=nullifications,
        evidence=evidence,
        next_epoch=next_epoch,
    )


def command(
    client: int, sequence: int, op: Tag = Tag.PUT, key: bytes = b"k", value: bytes = b"v"
) -> bytes:
    """An encoded command."""
    actions: dict[Tag, Action] = {
        Tag.PUT: Put(key, value),
        Tag.DELETE: Delete(key),
        Tag.BARRIER: Barrier(),
    }
    return act(client, sequence, actions[op])


def act(client: int, sequence: int, action: Action) -> bytes:
    """An encoded command with any action."""
    return encode_command(Command(client.to_bytes(16, "big"), sequence, action))


def proposal(cluster: Cluster, made: Block, parent: Certificate | None) -> Proposal:
    """A proposal signed by the leader of its view."""
    leader = cluster.leader(made.header.view.term)
    vote = cluster.vote(leader, VoteKind.NOTARIZE, made.header.view, made.hash)
    return Proposal(made, parent, vote.signature)
