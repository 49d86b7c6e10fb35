"""Drives real engines through a trace of the model and compares after every step.

The network of the model is a heap of votes from which anybody may learn anything at any time; so
the replay gives an engine exactly the messages that let it take the step the model took, as bytes
through the wire codec, and then asks: same votes, same proposal, same view, same highest notarized
block, same final block, same right to vote? The liars are hand-made messages.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from consensus.codec import make_block
from consensus.digests import boot_ack_digest, boot_digest
from consensus.engine import Engine
from consensus.interface import (
    Durations,
    Event,
    MembershipSeen,
    PeerConnected,
    Received,
    Started,
    Timer,
    TimerFired,
    VoteRecord,
)
from consensus.machine import Machine
from consensus.types import (
    ZERO_HASH,
    BootAck,
    BootRequest,
    Certificate,
    Proposal,
    Reason,
    View,
    Vote,
    VoteKind,
)
from consensus.wire import (
    BlockReply,
    BlockRequest,
    BootRefused,
    Certificates,
    Message,
    ProposalMessage,
    VoteMessage,
    decode,
    encode,
)
from tests.model.ballots import CLUSTER_ID, GENESIS, NO_BLOCK, Ballots, Key, Mismatch, Name
from tests.model.traces import NUMBERS
from tests.simulation.store import SimStore

NOW_MS = 1_000
DURATIONS = Durations(epoch_settle_ms=0)


class Elsewhere(Exception):
    """From here on the model leaves open what the core decides; the trace ends for it."""


class Process:
    """One engine with its disk."""

    def __init__(self, seat: int, store: SimStore) -> None:
        self.seat = seat
        self.store = store
        self.engine: Engine


class Replay(Ballots):
    """One trace, and the engines that follow it."""

    def __init__(self, trace: Any, engine: type[Engine] = Engine) -> None:
        super().__init__(trace)
        self.engine = engine
        self.proposals: dict[Name, Proposal] = {}
        self.acks: dict[tuple[int, int, int], dict[int, BootAck]] = {}
        self.requests: dict[tuple[int, int, int], BootRequest] = {}
        self.copies: dict[int, SimStore] = {}
        self.processes: dict[int, Process] = {}
        self.cast: list[Vote] = []
        self.proposed: list[Proposal] = []

    # --- the whole trace ---

    def run(self) -> None:
        """Raises Mismatch at the first step that the core takes otherwise."""
        self._begin()
        for number, step in enumerate(self.trace["steps"], 1):
            self.cast, self.proposed = [], []
            try:
                getattr(self, f"do_{step['do']}")(step)
                self._check(step)
            except Elsewhere:
                return
            except (Mismatch, AssertionError) as error:
                where = f"{self.trace['name']}, step {number}, {step['do']} {step['picks']}"
                raise Mismatch(f"{where}: {error}") from error

    def _begin(self) -> None:
        """Everybody boots as incarnation 1, and the first leader proposes."""
        founders = self.sets[0].seats
        for seat in self.seats:
            if seat not in self.liars:
                store = SimStore(CLUSTER_ID, seat, GENESIS, 100)
                self.processes[seat] = Process(seat, store)
                self._start(seat, seat)
                self.copies[seat] = store.copy()
        for process in self.processes.values():
            for seat in founders:
                if seat == process.seat:
                    continue
                request = (
                    self._false_request(seat)
                    if seat in self.liars
                    else self.processes[seat].engine.boot.progress.request
                )
                self._give(process, seat, request)
        for process in self.processes.values():
            request = process.engine.boot.progress.request
            for seat in founders:
                if process.seat in founders and seat != process.seat:
                    self._give(process, seat, self._signed_ack(seat, request))
            process.store.sync()
        self._name(self.trace["first"])
        for seat, process in self.processes.items():
            self.copies[seat] = process.store.copy()

    def _start(self, p: int, number: int) -> None:
        """A new engine on the disk; ``number`` is the process's in the model, its boot id here."""
        process = self.processes[p]
        process.engine = self.engine(
            cluster_id=CLUSTER_ID,
            validators=self.sets[0],
            seat=process.seat,
            signer=self.signers[process.seat],
            verifier=self.verifier,
            restored=process.store.restored(),
            boot_id=number.to_bytes(32, "big"),
            durations=DURATIONS,
        )
        for view in self.views[: self.trace["seen"]]:
            self._step(process, MembershipSeen(view, frozenset()))
        self._step(process, Started())
        for seat in self.seats:
            if seat != process.seat:
                self._step(process, PeerConnected(seat))

    # --- events ---

    def _step(self, process: Process, event: Event) -> None:
        output = process.engine.step(event, NOW_MS)
        process.store.commit(output.persist)
        process.store.sync()
        self.cast += [r.vote for r in output.persist if isinstance(r, VoteRecord)]
        for send in output.send:
            message = send.message
            if isinstance(message, ProposalMessage):
                self.proposed.append(message.proposal)
            if isinstance(message, BlockRequest) and send.to is not None:
                block = next(b for b in self.names.values() if b.hash == message.hash)
                if block.hash in process.engine.catchup.wanted:
                    self._give(process, send.to, BlockReply(block))

    def _give(self, process: Process, sender: int, message: Message) -> None:
        """A message arrives, through the codec."""
        raw = encode(message)
        self._step(process, Received(sender, decode(raw, sender, CLUSTER_ID)))

    def _give_vote(self, process: Process, vote: Vote) -> None:
        """Sent (again) under the incarnation that the receiver counts."""
        incarnation = process.engine.boot.current(vote.seat)
        self._give(process, vote.seat, VoteMessage(incarnation, vote))

    def _give_certificate(self, process: Process, certificate: Certificate) -> None:
        sender = next(s for s in self.seats if s != process.seat)
        self._give(process, sender, Certificates((certificate,)))

    # --- values ---

    def _signed_ack(self, by: int, request: BootRequest) -> BootAck:
        digest = boot_ack_digest(CLUSTER_ID, request.seat, request.incarnation, request.boot_id)
        signature = self.signers[by].sign(digest)
        r = request
        return BootAck(r.seat, r.incarnation, r.boot_id, signature, 0, None, None)

    def _false_request(self, seat: int) -> BootRequest:
        boot_id = seat.to_bytes(32, "big")
        signature = self.signers[seat].sign(boot_digest(CLUSTER_ID, seat, 1, boot_id))
        return BootRequest(seat, 1, boot_id, signature)

    def _name(self, step: Any) -> None:
        """Gives what correct members proposed and signed in a step the names of the model."""
        if len(step["proposed"]) != len(self.proposed):
            raise Mismatch(f"the model proposes {step['proposed']}, the core {self.proposed}")
        for entry, proposal in zip(step["proposed"], self.proposed, strict=True):
            name = tuple(entry["block"])
            assert len(name) == 4
            self.names[name], self.proposals[name] = proposal.block, proposal
            if proposal.block.header.parent != self._hash(tuple(entry["parent"])):
                raise Mismatch(f"{name} does not stand on {entry['parent']}")
            if proposal.block.header.view != View(*name[1:3]):
                raise Mismatch(f"{name} was proposed in {proposal.block.header.view}")
        expected = {(seat, self._key(vote)) for seat, vote in step["cast"]}
        signed = {(v.seat, (v.epoch, v.kind, v.view, v.block)) for v in self.cast}
        # Two processes of one seat may sign the same vote: the model's set of signers knows it.
        known = {(s, k) for k, votes in self.votes.items() for s in votes}
        if expected - known != signed - known:
            raise Mismatch(f"the model signs {expected - known}, the core {signed - known}")
        for vote in self.cast:
            self._keep(vote)

    # --- comparing ---

    def _check(self, step: Any) -> None:
        for p in step["members"]:
            self._note_set(self.processes[int(p)].engine)
        if step["do"] not in ("lie", "proposeTwins", "recover"):
            self._name(step)
        for p, member in step["members"].items():
            engine = self.processes[int(p)].engine
            if member["request"]["process"] < 0 and engine.halted is None:
                raise Mismatch(f"process {p} runs on")
            if not member["active"] and engine.halted is not None:
                continue
            epoch = member["view"][0]
            number, genesis = member["request"]["number"], member["genesis"]
            top = View(0, 0) if member["top"] == genesis else View(*member["top"][1:3])
            pairs = [
                ("epoch", engine.validators.epoch, epoch),
                ("view", engine.view, View(*member["view"][1:])),
                ("final block", engine.ledger.tip.hash, self._hash(tuple(member["final"]))),
                ("highest notarized view", engine.ledger.highest_notarized(), top),
                ("right to vote", engine.boot.done, member["active"]),
                ("first term to vote in", engine._abstain_until, tuple(member["abstain"][:2])),
            ]
            if engine.boot.is_member and number > epoch * NUMBERS:
                core = engine.boot.incarnation
                expected = core - core // 10**9 * (10**9 - NUMBERS)
                pairs.append(("incarnation", expected, number))
            for what, core, model in pairs:
                if core != model:
                    raise Mismatch(f"process {p}: {what} is {core}, in the model {model}")
        convicted = {e.first.seat for q in self.processes.values() for e in q.engine.evidence}
        if convicted - self.liars - set(self.trace["rolledBack"]):
            raise Mismatch(f"of {convicted} some run the rules")

    def _note_set(self, engine: Engine) -> None:
        """An epoch has one set; the trace ends where the core draws another order."""
        validators = engine.validators
        known = self.sets.setdefault(validators.epoch, validators)
        if known != validators:
            raise Mismatch(f"two sets in epoch {validators.epoch}")
        if list(engine.order) != self._order(validators.seats):
            raise Elsewhere

    # --- the model's actions ---

    def _process(self, step: Any) -> Process:
        return self.processes[step["picks"]["p"]]

    def _cover(self, step: Any) -> None:
        """The leader that proposes now knows the nullifications that the model saw."""
        process = self._process(step)
        for term in range(1, process.engine.view.term):
            certificate = self._nullified(process.engine.validators.epoch, term)
            if step["proposed"] and not self.proposed and certificate is not None:
                self._give_certificate(process, certificate)

    def do_propose(self, step: Any) -> None:
        self._step(self._process(step), TimerFired(Timer.HEARTBEAT))

    def do_notarize(self, step: Any) -> None:
        process, name = self._process(step), tuple(step["picks"]["b"])
        proposal = self.proposals[name]
        parent = next(
            (n for n, b in self.names.items() if b.hash == proposal.block.header.parent), None
        )
        first = parent is None or parent[0] < name[0]  # on the genesis of its epoch
        proof = None if first else self._named(VoteKind.NOTARIZE, parent)  # type: ignore[arg-type]
        leader = proposal.block.header.proposer
        incarnation = process.engine.boot.current(leader)
        message = ProposalMessage(incarnation, Proposal(proposal.block, proof, proposal.signature))
        self._give(process, leader, message)

    def do_enter(self, step: Any) -> None:
        name = tuple(step["picks"]["b"])
        self._learn(step, self._key(["Notarize", name]), votes=True)
        self._cover(step)

    def do_learn(self, step: Any) -> None:
        name = tuple(step["picks"]["b"])
        self._give_certificate(self._process(step), self._named(VoteKind.NOTARIZE, name))
        self._cover(step)

    def do_finalize(self, step: Any) -> None:
        name = tuple(step["picks"]["b"])
        self._learn(step, self._key(["Finalize", name]), votes=True)
        self._cover(step)

    def do_giveUp(self, step: Any) -> None:
        process, view = self._process(step), View(*step["picks"]["v"][1:])
        complained = process.engine._nullified == process.engine.view == view
        self._learn(step, self._key(["Nullify", step["picks"]["v"]]), votes=complained)
        self._cover(step)

    def _learn(self, step: Any, key: Key, *, votes: bool) -> None:
        """A quorum becomes known: vote by vote, or (when that does not do) as a certificate."""
        process = self._process(step)
        certificate = self._certificate(key)
        before = process.engine.view, process.engine.ledger.tip
        if votes:
            for seat, vote in sorted(self.votes[key].items()):
                unchanged = (process.engine.view, process.engine.ledger.tip) == before
                if seat != process.seat and unchanged:
                    self._give_vote(process, vote)
        if (process.engine.view, process.engine.ledger.tip) == before:
            self._give_certificate(process, certificate)
        self._outvoted(step)

    def do_complain(self, step: Any) -> None:
        self._step(self._process(step), TimerFired(Timer.LEADER))

    def do_join(self, step: Any) -> None:
        """No more complaints than it takes: the leader's own, or just join weight."""
        process = self._process(step)
        term = process.engine.view.term
        leader = process.engine.leader(term)
        complaints = [
            votes[seat]
            for (epoch, kind, view, _), votes in sorted(self.votes.items())
            if (epoch, kind, view.term) == (process.engine.validators.epoch, VoteKind.NULLIFY, term)
            for seat in sorted(votes, key=lambda s: (s != leader, s))
            if seat != process.seat
        ]
        complaints.sort(key=lambda v: v.seat != leader)
        for vote in complaints:
            if not self.cast:
                self._give_vote(process, vote)
        self._outvoted(step)
        self._cover(step)
        reasons = [v.reason for v in self.cast if v.kind is VoteKind.NULLIFY]
        convicted = {e.first.seat for e in process.engine.evidence}
        if not reasons and convicted & {v.seat for v in complaints}:
            raise Elsewhere  # it counts no vote that contradicts another one of its signer
        if reasons != [Reason.JOINED]:
            raise Mismatch(f"it joined with reasons {reasons}")

    def _outvoted(self, step: Any) -> None:
        """Its own complaint completed a nullification in the model: the others' votes come."""
        process = self._process(step)
        left, epoch = process.engine.view, process.engine.validators.epoch
        if step["members"][str(step["picks"]["p"])]["view"][:2] == [epoch, left.term]:
            return
        key = (epoch, VoteKind.NULLIFY, left, ZERO_HASH)
        for seat, vote in sorted(self.votes.get(key, {}).items()):
            if seat != process.seat and process.engine.view == left:
                self._give_vote(process, vote)

    def do_lie(self, step: Any) -> None:
        for seat, vote in step["cast"]:
            self._keep(self._sign(seat, self._key(vote)))

    def do_proposeTwins(self, step: Any) -> None:
        (entry,) = step["proposed"]
        name, parent = tuple(entry["block"]), tuple(entry["parent"])
        leader = step["cast"][0][0]
        view = View(*name[1:3])
        covers: list[Certificate] = []
        if view.index == 0:
            for term in range(max(parent[1], 1), view.term):
                certificate = self._nullified(name[0], term)
                assert certificate is not None
                covers.append(certificate)
        header = self.names[parent].header if parent != NO_BLOCK else None
        block = make_block(
            CLUSTER_ID,
            epoch=0,
            view=view,
            proposer=leader,
            height=header.height + 1 if header else 1,
            parent=self._hash(parent),
            time_ms=max(NOW_MS, header.time_ms if header else 0) + name[3],
            state_height=header.state_height if header else 0,
            state_hash=header.state_hash if header else Machine().state_hash,
            commands=(),
            nullifications=tuple(covers),
        )
        vote = self._sign(leader, (0, VoteKind.NOTARIZE, view, block.hash))
        self._keep(vote)
        self.names[name] = block
        self.proposals[name] = Proposal(block, None, vote.signature)

    def do_see(self, step: Any) -> None:
        process = self._process(step)
        member = step["members"][str(step["picks"]["p"])]
        view = self.views[member["seen"] - 1]
        self._step(process, MembershipSeen(view, frozenset()))
        self._cover(step)

    # --- boots ---

    def do_renew(self, step: Any) -> None:
        """The core did it when the epoch opened."""
        p = step["picks"]["p"]
        self._note_request(p, step["members"][str(p)])

    def _request_of(self, r: Any) -> tuple[int, int, int]:
        return r["seat"], r["number"], r["process"]

    def _restart(self, step: Any, p: int, store: SimStore) -> None:
        member = step["members"][str(p)]
        self.processes[p] = Process(member["request"]["seat"], store)
        self._start(p, max(member["request"]["process"], 0))
        self._note_request(p, member)

    def _note_request(self, p: int, member: Any) -> None:
        request = self.processes[p].engine.boot.progress.request
        self.requests[self._request_of(member["request"])] = request

    def do_restart(self, step: Any) -> None:
        p = step["picks"]["p"]
        self._restart(step, p, self.processes[p].store)

    def do_rollBack(self, step: Any) -> None:
        p = step["picks"]["p"]
        self._restart(step, p, self.copies[p].copy())

    def do_clone(self, step: Any) -> None:
        p = step["picks"]["p"]
        self._restart(step, p + 100, self.processes[p].store.copy())

    def do_copyDisk(self, step: Any) -> None:
        p = step["picks"]["p"]
        self.copies[p] = self.processes[p].store.copy()

    def do_acknowledge(self, step: Any) -> None:
        """The engine acknowledges; what it tells of the seat's votes is the model's choice."""
        process, name = self._process(step), self._request_of(step["picks"]["r"])
        request = self._known_request(name)
        output = process.engine.step(Received(request.seat, request), NOW_MS)
        process.store.commit(output.persist)
        process.store.sync()
        made = [s.message for s in output.send if isinstance(s.message, BootAck)]
        if len(made) != 1:
            raise Mismatch(f"it did not acknowledge {name}")
        ack = made[0]
        told = self._told(request.seat, step["picks"]["told"])
        self.acks.setdefault(name, {})[process.seat] = replace(ack, last_vote=told)

    def _known_request(self, name: tuple[int, int, int]) -> BootRequest:
        if name not in self.requests:  # of the first boots, which happened before the trace
            self.requests[name] = self._first_request(name)
        return self.requests[name]

    def _first_request(self, name: tuple[int, int, int]) -> BootRequest:
        seat, number, process = name
        boot_id = process.to_bytes(32, "big")
        digest = boot_digest(CLUSTER_ID, seat, number, boot_id)
        return BootRequest(seat, number, boot_id, self.signers[seat].sign(digest))

    def _told(self, seat: int, told: Any) -> Vote | None:
        if told["rank"] == 0:
            return None
        view, kind = View(*told["view"][1:]), VoteKind(told["rank"])
        return next(
            votes[seat]
            for key, votes in self.votes.items()
            if key[:3] == (told["view"][0], kind, view) and seat in votes
        )

    def do_acknowledgeFalsely(self, step: Any) -> None:
        name = self._request_of(step["picks"]["r"])
        for seat in self.liars:
            self.acks.setdefault(name, {})[seat] = self._signed_ack(seat, self._known_request(name))

    def do_finishBoot(self, step: Any) -> None:
        process = self._process(step)
        request = process.engine.boot.progress.request
        name = next(n for n, r in self.requests.items() if r == request)
        for seat, ack in sorted(self.acks.get(name, {}).items()):
            self._give(process, seat, ack)
        self._outvoted(step)
        self._cover(step)

    def do_refused(self, step: Any) -> None:
        p = step["picks"]["p"]
        request = self._known_request(self._request_of(step["picks"]["r"]))
        sender = next(s for s in self.seats if s != request.seat)
        self._give(self.processes[p], sender, BootRefused(request))
        self._note_request(p, step["members"][str(p)])

    def do_stop(self, step: Any) -> None:
        process = self._process(step)
        request = self._known_request(self._request_of(step["picks"]["r"]))
        sender = next(s for s in self.seats if s != request.seat)
        self._give(process, sender, BootRefused(request))
        if process.engine.halted is None:
            raise Mismatch("it runs on though its seat booted again")
