"""A lean world for Twins: the real engine, messages as values, and rounds instead of a heap.

In a round every message that is under way is delivered, or lost when the schedule separates its
sender from its receiver. Heartbeats fire each round, so leaders propose all the time; the other
timers fire when the schedule says so, and in the calm at the end when they are due. Then everybody
reaches everybody, and a new command must be committed within a bounded number of terms.

What is checked is said again here, in other words than the engine's: what each correct process
signs, every certificate that it relies on, the chain that it applies, and who is to blame.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from typing import Any

from consensus.commands import Command, Put, encode_command
from consensus.digests import genesis_hash, vote_digest
from consensus.engine import Engine
from consensus.interface import (
    CertificateRecord,
    Durations,
    EpochRecord,
    Event,
    FinalizedRecord,
    Output,
    PeerConnected,
    Received,
    Restored,
    ServeBlocks,
    ServeEpochs,
    Started,
    Submitted,
    Timer,
    TimerFired,
    VoteRecord,
)
from consensus.keccak import keccak256
from consensus.ledger import genesis_tip
from consensus.machine import Machine
from consensus.order import leader_order
from consensus.types import (
    Block,
    Boundary,
    Certificate,
    View,
    Vote,
    VoteKind,
)
from consensus.validators import Validator, ValidatorSet
from consensus.wire import EpochReply, Message, ProposalMessage, SyncReply, VoteMessage

from .oracle import spot
from .rewind import Rewind
from .signing import SimSigner, SimVerifier, keys_for
from .twins import Phase, Schedule, Space

NODES = 4
LENGTH = 6  # phases of a scenario
ROUND_MS = 10
CALM_ROUNDS_MAX = 200
CALM_TERMS_MAX = 8
NOTARIZE, NULLIFY, FINALIZE = VoteKind.NOTARIZE, VoteKind.NULLIFY, VoteKind.FINALIZE

_CLUSTER = keccak256(b"twins")
_GENESIS = genesis_hash(_CLUSTER, 0, bytes(32))
_KEYS, _SIGNERS, _VERIFIER = keys_for(list(range(1, NODES + 1)))
_VALIDATORS = ValidatorSet(
    0, tuple(Validator(s, 1, _KEYS[s]) for s in _KEYS), keccak256(b"order of twins")
)
_ORDER = leader_order(_VALIDATORS)
_DURATIONS = Durations()
_FORKED = "more than a third is faulty"  # as the engine says it


class Violation(Exception):
    """Something that must never happen happened."""


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one scenario; ``failure`` is empty when all held."""

    seed: int
    digest: str
    failure: str
    forked: bool
    height: int
    steps: int
    terms: int


class Process:
    """One engine. Two of them share a seat when it is a twin."""

    def __init__(self, number: int, seat: int, honest: bool, engine: Engine) -> None:
        self.number = number
        self.seat = seat
        self.honest = honest
        self.engine = engine
        self.timers: dict[Timer, int] = {}
        self.openings: list[Boundary] = []
        self.chain: list[tuple[Block, Certificate | None]] = []
        self.votes: dict[tuple[View, VoteKind], bytes] = {}
        self.last: tuple[View, VoteKind] = (View(0, 0), FINALIZE)
        self.done: set[bytes] = set()


class Cluster:
    """Processes, the messages under way between them, and what must hold."""

    def __init__(self, twins: tuple[int, ...], engine_class: type[Engine]) -> None:
        self.now_ms = 1_000_000
        self.steps = 0
        self.queue: list[tuple[int, int, Event]] = []
        self.above_third = 3 * len(twins) > NODES
        self.forked = ""
        self.blocks: list[bytes] = []
        self.states: list[bytes] = []
        self.certified: dict[View, bytes] = {}
        self.final: dict[int, int] = {}  # term -> highest final index
        self.null: dict[int, int] = {}  # term -> lowest nullified index
        self.said: dict[int, set[tuple[View, VoteKind, bytes]]] = {s: set() for s in _ORDER}
        self.checked: dict[int, Certificate] = {}
        seats = [*_ORDER, *(_ORDER[place] for place in twins)]
        doubled = {_ORDER[place] for place in twins}
        self.processes = [
            Process(number, seat, seat not in doubled, _engine(seat, engine_class))
            for number, seat in enumerate(seats)
        ]
        self.of_seat = {s: [p.number for p in self.processes if p.seat == s] for s in _ORDER}
        self._everybody = (1 << len(seats)) - 1
        self.reach = (self._everybody,) * len(seats)
        self.hash: Any = None
        self.trace: Callable[[str], None] | None = None

    def boot(self) -> None:
        """Links everybody and lets them get the right to vote."""
        for process in self.processes:
            self.step(process, Started())
        for process in self.processes:
            for seat in _ORDER:
                if seat != process.seat:
                    self.step(process, PeerConnected(seat))
        while self.queue:
            self._deliver()
        self.checked.clear()
        self.steps = 0

    # --- time ---

    def round(self) -> None:
        """Delivers what is under way, then fires what is due."""
        self._deliver()
        self.now_ms += ROUND_MS
        self.fire_due()

    def _deliver(self) -> None:
        batch, self.queue = self.queue, []
        processes, reach = self.processes, self.reach
        for sender, to, event in batch:
            if reach[sender] >> to & 1:
                self.step(processes[to], event)

    def fire_due(self) -> None:
        for process in self.processes:
            due = [
                t for t, at in process.timers.items() if at <= self.now_ms or t is Timer.HEARTBEAT
            ]
            for timer in due:
                if timer in process.timers:
                    del process.timers[timer]
                    self.step(process, TimerFired(timer))

    def play(self, phase: Phase) -> None:
        """One phase of the schedule."""
        self.reach = phase.reach
        for process in self.processes:
            if phase.fires >> process.number & 1:
                self.step(process, TimerFired(Timer.LEADER))
        for _ in range(phase.rounds):
            self.round()

    def calm(self) -> int:
        """Everybody reaches everybody: a new command is committed. Returns the terms it took."""
        self.reach = (self._everybody,) * len(self.processes)
        honest = [p for p in self.processes if p.honest]
        began = max(_progress(p.engine) for p in honest)
        command = Command(b"calm".ljust(16), 1, Put(b"key", b"value"))
        self.step(honest[0], Submitted((encode_command(command),)))
        for _ in range(CALM_ROUNDS_MAX):
            if all(command.id in p.done for p in honest) or self.forked:
                break
            if not self.queue:
                self.now_ms = max(
                    self.now_ms, min(at for p in self.processes for at in p.timers.values())
                )
                self.fire_due()
            self.round()
        else:
            states = "; ".join(f"seat {p.seat}: {p.engine.status()}" for p in honest)
            raise Violation(f"not live in the calm: {states}")
        terms = max(_progress(p.engine) for p in honest) - began
        if terms > CALM_TERMS_MAX and not self.forked:
            raise Violation(f"it took {terms} terms of calm to commit")
        return terms

    # --- steps and their duties ---

    def _note(self, process: Process, event: Event) -> None:
        """One line of the trace: when, which process of which seat, in which view, what comes."""
        assert self.trace is not None
        what = f"{type(event).__name__}"
        match event:
            case Received(sender, VoteMessage(_, vote)):
                what = f"from {sender}: {vote.kind.name} {vote.view} {vote.block[:4].hex()}"
            case Received(sender, ProposalMessage(_, p)):
                what = f"from {sender}: proposal {p.block.header.view} {p.block.hash[:4].hex()}"
            case Received(sender, message):
                what = f"from {sender}: {type(message).__name__}"
            case TimerFired(timer):
                what = f"timer {timer.value}"
        name = f"seat {process.seat}{'' if process.honest else f' ({process.number})'}"
        self.trace(f"{self.now_ms:8d} {name} in {process.engine.view}: {what}")

    def step(self, process: Process, event: Event) -> None:
        self.steps += 1
        number = process.number
        if self.trace is not None:
            self._note(process, event)
        output = process.engine.step(event, self.now_ms + number)
        if output.timers:
            for timer, delay_ms in output.timers.items():
                if delay_ms is None:
                    process.timers.pop(timer, None)
                elif timer is not Timer.HEALTH:  # when to complain is up to the schedule
                    process.timers[timer] = self.now_ms + delay_ms
        if output.persist:
            self._persisted(process, output)
        for send in output.send:
            message = send.message
            if isinstance(message, (VoteMessage, ProposalMessage)):
                self._sent(process, message)
            event = Received(process.seat, message)
            targets = range(len(self.processes)) if send.to is None else self.of_seat[send.to]
            for to in targets:
                if to != number:
                    self.queue.append((number, to, event))
        for serve in output.serve:
            reply: Message | None = None
            if isinstance(serve, ServeEpochs):
                reply = EpochReply(tuple(process.openings[serve.epoch :]))
            elif isinstance(serve, ServeBlocks):
                reply = _reply(process, serve.from_height)
            if reply is not None:
                for to in self.of_seat[serve.to]:
                    self.queue.append((number, to, Received(process.seat, reply)))
        # Twins run the real engine too: a fork that only they see is one all the same.
        if output.halt is not None and (process.honest or _FORKED in output.halt.reason):
            self.fork(f"seat {process.seat} stopped: {output.halt.reason}")

    def _persisted(self, process: Process, output: Output) -> None:
        for record in output.persist:
            match record:
                case VoteRecord(vote):
                    if self.hash is not None:
                        self.hash.update(vote.signature)
                    if process.honest:
                        self._voted(process, vote)
                case CertificateRecord(certificate):
                    if process.honest:
                        self._relied(process, certificate)
                case EpochRecord(opening):
                    assert isinstance(opening, Boundary)
                    process.openings.append(opening)
                    if process.honest:
                        self._relied(process, opening.finalization)
                case FinalizedRecord(applied, final):
                    process.chain.append((applied.block, final))
                    if process.honest:
                        process.done.update(raw[:24] for raw in applied.block.commands)
                        self._applied(process, applied.block, applied.state_hash)
                        if final is not None:
                            self._relied(process, final)

    # --- what must hold ---

    def fork(self, what: str) -> None:
        """Two truths. A failure below a third; above it, somebody must be to blame."""
        if not self.above_third:
            raise Violation(what)
        self.forked = self.forked or what

    def _voted(self, process: Process, vote: Vote) -> None:
        """One voice per view and kind; never back; nothing final after a complaint in the term."""
        at = spot(vote.epoch, vote.view)
        key = (at, vote.kind)
        mine, seat = process.votes, process.seat
        if key in mine:
            raise Violation(f"seat {seat} votes twice: {key}")
        if at < process.last[0] or (at == process.last[0] and process.last[1] is FINALIZE):
            raise Violation(f"seat {seat} votes {key} after {process.last}")
        if vote.kind is NOTARIZE and (at, NULLIFY) in mine:
            raise Violation(f"seat {seat} notarizes {vote.view} after it nullified it")
        if vote.kind is FINALIZE:
            term, index = at
            if any(k is NULLIFY and v.term == term and v.index <= index for v, k in mine):
                raise Violation(f"seat {seat} finalizes {vote.view} behind a closed gate")
            if self.certified.get(at, vote.block) != vote.block:
                self.fork(f"seat {seat} finalizes another block than was notarized")
        mine[key] = vote.block
        process.last = max(process.last, key)
        self.said[seat].add((at, vote.kind, vote.block))

    def _sent(self, process: Process, message: VoteMessage | ProposalMessage) -> None:
        """Honest: what is on disk only. Twins: remembered against them."""
        if isinstance(message, VoteMessage):
            vote = message.vote
            said = (spot(vote.epoch, vote.view), vote.kind, vote.block)
        else:
            block = message.proposal.block
            said = (spot(block.header.epoch, block.header.view), NOTARIZE, block.hash)
        if not process.honest:
            self.said[process.seat].add(said)
        elif process.votes.get(said[:2]) != said[2]:
            raise Violation(f"seat {process.seat} sends a vote that is not on its disk")

    def _applied(self, process: Process, block: Block, state_hash: bytes) -> None:
        height = block.header.height
        if height != len(process.chain):
            raise Violation(f"seat {process.seat} applies height {height} out of turn")
        if height > len(self.blocks):
            below = self.blocks[-1] if self.blocks else _GENESIS
            if block.header.parent != below:
                self.fork(f"block {height} does not stand on the final block below it")
            self.blocks.append(block.hash)
            self.states.append(state_hash)
            if self.hash is not None:
                self.hash.update(block.hash)
        elif self.blocks[height - 1] != block.hash:
            self.fork(f"two final blocks at height {height}")
        elif self.states[height - 1] != state_hash:
            raise Violation(f"seat {process.seat} has another state at height {height}")

    def _relied(self, process: Process, c: Certificate) -> None:
        """Real signatures of more than two thirds; and no two certificates contradict."""
        if id(c) in self.checked:
            return
        self.checked[id(c)] = c
        term, index = c.view
        for part in c.parts:
            digest = vote_digest(_CLUSTER, c.kind, c.epoch, term, index, c.block, part.reason)
            if not _VERIFIER.verify(_KEYS[part.seat], digest, part.signature):
                raise Violation(f"seat {process.seat} relies on a forged {c.kind.name} {c.view}")
            self.said[part.seat].add((spot(c.epoch, c.view), c.kind, c.block))
        if not 3 * len({part.seat for part in c.parts}) > 2 * NODES:
            raise Violation(f"seat {process.seat} relies on {c.kind.name} {c.view} of too few")
        at = spot(c.epoch, c.view)
        term, index = at
        if c.kind is NULLIFY:
            self.null[term] = min(index, self.null.get(term, index))
        else:
            if self.certified.setdefault(at, c.block) != c.block:
                self.fork(f"two blocks are certified in view {c.view}")
            if c.kind is FINALIZE:
                self.final[term] = max(index, self.final.get(term, index))
        if term in self.null and self.null[term] <= self.final.get(term, -1):
            self.fork(f"term {term}: {self.null[term]} nullified, {self.final[term]} final")

    def settle_blame(self) -> None:
        """Of a fork, seats of more than a third are convicted by pairs; an honest one never."""
        guilty = {seat for seat, said in self.said.items() if _convicts(said)}
        for process in self.processes:
            if process.honest and process.seat in guilty:
                raise Violation(f"honest seat {process.seat} is convicted")
        if self.forked and not 3 * len(guilty) > NODES:
            raise Violation(f"a fork ({self.forked}) convicts only {sorted(guilty)}")


def _convicts(said: set[tuple[View, VoteKind, bytes]]) -> bool:
    """True when a pair of these votes is one that no correct member signs both of."""
    blocks: dict[tuple[View, VoteKind], bytes] = {}
    lowest: dict[int, int] = {}
    for view, kind, block in said:
        if kind is NULLIFY:
            lowest[view.term] = min(view.index, lowest.get(view.term, view.index))
        elif blocks.setdefault((view, kind), block) != block:
            return True
    return any(
        kind is FINALIZE and lowest.get(view.term, view.index + 1) <= view.index
        for view, kind in blocks
    )


def _engine(seat: int, engine_class: type[Engine]) -> Engine:
    return engine_class(
        cluster_id=_CLUSTER,
        validators=_VALIDATORS,
        seat=seat,
        signer=_SIGNERS[seat],
        verifier=_VERIFIER,
        restored=Restored(tip=genesis_tip(_GENESIS), machine=Machine()),
        boot_id=bytes(32),
        durations=_DURATIONS,
    )


def _progress(engine: Engine) -> int:
    """Terms passed; an epoch that nobody asked for ends in the term after everybody's."""
    return engine.validators.epoch * (NODES + 1) + engine.view.term


def _reply(process: Process, from_height: int) -> SyncReply | None:
    """All final blocks of an epoch from a height on."""
    rest = process.chain[from_height - 1 :]
    same = [(b, final) for b, final in rest if b.header.epoch == rest[0][0].header.epoch]
    if not same:
        return None
    blocks = tuple(block for block, _ in same)
    if blocks[-1].next_epoch is not None:
        end = process.openings[blocks[-1].header.epoch]
        return SyncReply(blocks, end.links, end.finalization)
    final = same[-1][1]
    return SyncReply(blocks, (), final) if final else None


# --- a booted cluster, made once and put back for each scenario ---

_BOOTED: dict[tuple[tuple[int, ...], type[Engine]], Rewind] = {}


def _booted(twins: tuple[int, ...], engine_class: type[Engine]) -> Cluster:
    cluster = Cluster(twins, engine_class)
    cluster.boot()
    return cluster


def _cluster(twins: tuple[int, ...], engine_class: type[Engine]) -> Cluster:
    """The same objects for each scenario: one is over before the next begins."""
    key = (twins, engine_class)
    if key not in _BOOTED:
        _BOOTED[key] = Rewind(partial(_booted, *key), frozen=(SimSigner, SimVerifier))
    cluster: Cluster = _BOOTED[key].restore()
    return cluster


_SPACES: dict[int, Space] = {}


def schedule_of(seed: int) -> Schedule:
    """The schedule of a seed: every fourth has two twins, which is above a third."""
    turn, kind = divmod(seed, 4)
    twins = 2 if kind == 0 else 1
    if twins not in _SPACES:
        _SPACES[twins] = Space(NODES, twins, LENGTH)
    return _SPACES[twins].sample(turn if twins == 2 else turn * 3 + kind - 1)


def run_seed(seed: int, engine_class: type[Engine] = Engine, calm_every: int = 1) -> Trial:
    """Plays the scenario of a seed.

    The calm at the end, which shows liveness, takes two thirds of the time: a campaign may spend
    it on every ``calm_every``-th scenario of each kind only.
    """
    calm = seed // 4 % calm_every == 0
    return run_schedule(seed, schedule_of(seed), engine_class, calm=calm)


def run_schedule(
    seed: int,
    schedule: Schedule,
    engine_class: type[Engine] = Engine,
    *,
    calm: bool = True,
    trace: Callable[[str], None] | None = None,
) -> Trial:
    """Plays one scenario; any exception of a correct process is a failure."""
    failure, terms = "", 0
    try:
        cluster = _cluster(schedule.twins, engine_class)
    except Exception as error:
        return Trial(seed, "", f"at the boot: {type(error).__name__}: {error}", False, 0, 0, 0)
    cluster.hash = blake2b(digest_size=16)
    cluster.trace = trace
    try:
        for phase in schedule.phases:
            cluster.play(phase)
            if cluster.forked:
                break
        if calm and not cluster.forked:
            terms = cluster.calm()
        cluster.settle_blame()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    return Trial(
        seed,
        cluster.hash.hexdigest(),
        failure,
        bool(cluster.forked),
        len(cluster.blocks),
        cluster.steps,
        terms,
    )
