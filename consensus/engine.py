"""One member: the rules of ``voting`` with links, timers, commands, boot and catch-up around them.

``step`` is the only way in; what the caller owes after each step is told in ``interface``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from . import limits
from .boot import Boot
from .epochs import opened_set
from .interface import (
    ChainHead,
    Checkpoints,
    Complain,
    Durations,
    Event,
    MembershipSeen,
    Output,
    PeerConnected,
    PeerLost,
    Received,
    RecoverySeen,
    Rejected,
    Restored,
    ServeSnapshot,
    Started,
    Status,
    StepDown,
    Submitted,
    Timer,
    TimerFired,
)
from .leadership import Leadership
from .ledger import Ledger, Tip
from .machine import Machine
from .signatures import Signer, Verifier
from .state import portions
from .types import (
    GENESIS,
    BootAck,
    BootCertificate,
    BootRequest,
    Opening,
    Proposal,
    Reason,
    View,
    VoteKind,
    raw_command_id,
)
from .validators import ValidatorSet
from .watching import Watching
from .wire import (
    BlockReply,
    BlockRequest,
    BootRefused,
    Certificates,
    Commands,
    EpochReply,
    EvidenceMessage,
    Message,
    Probe,
    ProbeReply,
    ProposalMessage,
    Reminder,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotRequest,
    SyncReply,
    SyncRequest,
    VoteMessage,
)

_COMMANDS_MESSAGE_BYTES = limits.MESSAGE_BYTES_MAX // 2

# Whoever else the registry knows may observe (R20): fetch, and pass on its clients' commands.
_MEMBERS_ONLY = (VoteMessage, ProposalMessage, BootAck)


class Engine(Watching):
    """One member's protocol state; a pure function of the events given to ``step``."""

    def __init__(
        self,
        *,
        cluster_id: bytes,
        validators: ValidatorSet,
        seat: int,
        signer: Signer,
        verifier: Verifier,
        restored: Restored,
        boot_id: bytes,
        durations: Durations = Durations(),  # noqa: B008 - frozen
        checkpoints: Checkpoints = Checkpoints(),  # noqa: B008 - frozen
    ) -> None:
        founders = validators
        if restored.openings:
            validators = opened_set(restored.openings[-1])
        super().__init__(
            cluster_id=cluster_id,
            validators=validators,
            seat=seat,
            signer=signer,
            verifier=verifier,
            boot=Boot(
                validators=validators,
                cluster_id=cluster_id,
                seat=seat,
                signer=signer,
                verifier=verifier,
                boot_id=boot_id,
                last_incarnation=restored.incarnation,
            ),
            ledger=Ledger(restored.tip),
            machine=restored.machine,
            durations=durations,
            checkpoints=checkpoints,
            abstain_until=restored.abstain_until,
        )
        self._init_epochs(restored, founders)
        self._unspread: dict[bytes, bytes] = {}  # of our own commands: that only the leader has
        self._oldest_command: bytes | None = None  # of our own, at the last retry
        self._restore(restored)
        self._retry_view, self._retry_height = self.view, self.ledger.tip.height

    def _restore(self, restored: Restored) -> None:
        """Takes up where the store left off: never below a vote that we may have sent."""
        for request in restored.acknowledged:
            self.boot.remember(request)
        if self.ledger.tip.view > GENESIS:
            self.view = max(self.view, self.ledger.tip.view.next())
        self._restored = replace(restored, machine=Machine())  # the state may be replaced (R17)
        self._resume()
        # Of all epochs, and of votes only: blocks may have come after a log was rolled back (R10).
        self._floor = max((vote.moment() for vote in restored.votes), default=self._floor)

    def _resume(self) -> None:
        """What the store holds of this epoch.

        It may hold votes of the next one and yet not know that it began: a crash came between.
        """
        restored, epoch = self._restored, self.validators.epoch
        for block in restored.blocks:
            if block.header.epoch == epoch:
                self.ledger.blocks[block.hash] = block
        for certificate in restored.certificates:
            if certificate.epoch != epoch:
                continue
            if certificate.kind is VoteKind.NULLIFY:
                self.ledger.add_nullification(certificate)
                self.view = max(self.view, View(certificate.view.term + 1, 0))
            else:
                self.ledger.add_notarization(certificate)
                self.view = max(self.view, certificate.view.next())
        for vote in restored.votes:
            if vote.epoch != epoch:
                continue
            self._remember_own(vote)
            voted = vote.view.next() if vote.kind is VoteKind.FINALIZE else vote.view
            self.view = max(self.view, voted)
        for evidence in restored.evidence:
            self.evidence.add(evidence)

    # --- reading ---

    @property
    def serves(self) -> bool:
        """True when commands may come: not before a boot, without a quorum of links, or halted.

        Nor on the way to the block of a recovery: they would be lost.
        """
        members = [*self.connected, self.seat]
        return (
            self.halted is None
            and not self._awaited
            and self.boot.done
            and self.validators.is_quorum(self.validators.weight(members))
        )

    def status(self) -> Status:
        """A picture for the operator; says why the cluster waits when it does."""
        weight = self.validators.weight([*self.connected, self.seat])
        state, reason = "active", ""
        if self.halted is not None:
            state, reason = "halted", self.halted.reason
        elif self._awaited:
            r = self._awaited[0]
            state = "syncing"
            reason = f"a recovery opens epoch {r.epoch} on height {r.height}: fetching up to there"
        elif not self.validators.is_quorum(weight):
            state = "waiting"
            reason = (
                f"members of weight {weight} of {self.validators.total} are connected, "
                f"a quorum is {self.validators.quorum_weight}"
            )
        elif not self.boot.is_member:
            state, reason = "observing", f"seat {self.seat} is not a member of this epoch"
        elif not self.boot.done:
            have = self.validators.weight(self.boot.progress.acks)
            state = "booting"
            reason = (
                f"boot acknowledged by weight {have} of {self.validators.total}, "
                f"needed {self.validators.quorum_weight}"
            )
        elif self.fetch is not None:
            state, reason = "syncing", f"fetching a snapshot: {self.fetch}"
        elif self.catchup.target is not None:
            state, reason = "syncing", "fetching finalized blocks"
        elif self.is_abstaining:
            epoch, term = self.forgets_until
            state = "abstaining"
            reason = f"the vote log was rolled back: no vote before term {term} of epoch {epoch}"
        return Status(
            state=state,
            reason=reason,
            epoch=self.validators.epoch,
            view=self.view,
            leader=self.leader(self.view.term),
            height=self.ledger.tip.height,
            revision=self.machine.revision,
            state_hash=self.machine.state_hash,
            incarnation=self.boot.incarnation,
            lag=max(0, self.catchup.best_height - self.ledger.tip.height),
            connected_weight=weight,
            complaints=self.book.complaints(self.view.term),
            mempool=len(self.mempool),
            evidence=len(self.evidence),
            patience=self.patience.level,
            peers={s: p for s, p in self.prober.peers.items() if s in self.connected},
        )

    def leadership(self) -> Leadership | None:
        """Proof of who leads the term that we are in; None while we cannot show it."""
        tip, term = self.ledger.tip, self.view.term
        header, proof = None, self.ledger.nullifications.get(term - 1)
        if tip.finalization is not None and tip.view.term == term:
            header, proof = tip.header, tip.finalization
        elif proof is None and term > 1:
            return None  # a certificate of a later view brought us here
        return Leadership(self.validators.epoch, term, self.leader(term), header, proof)

    # --- the one way in ---

    def step(self, event: Event, now_ms: int) -> Output:
        """Handles one event; ``now_ms`` is the caller's clock (Unix, milliseconds)."""
        self._out = Output()
        if self.halted is not None:
            return self._out
        self._stirred = True
        if now_ms > self._clock_ms:
            self._now_ms += now_ms - self._clock_ms
        self._clock_ms = now_ms  # it may be put back, and block time must follow
        if self._awaited and not self._lacks_recovered:
            self._try_recovery()  # an installed state is on disk now
            if self.is_halted:
                return self._out
        match event:
            case Received(sender, message):
                self._on_message(sender, message)
            case TimerFired(timer):
                self._on_timer(timer)
            case Submitted(commands):
                self._on_submitted(commands)
            case PeerConnected(seat):
                self._on_peer_connected(seat)
            case PeerLost(seat):
                self._on_peer_lost(seat)
            case MembershipSeen(chain_view, revoked):
                self._on_membership(chain_view, revoked)
            case RecoverySeen(recoveries):
                self._on_recoveries(recoveries)
            case Started():
                self._on_started()
            case StepDown():
                if self.leader(self.view.term) == self.seat:
                    self._nullify(Reason.STEP_DOWN)
            case Complain():
                self._nullify(Reason.OPERATOR)
            case ChainHead(number, time_ms):
                self.chain.saw(number, time_ms, self.tick)
        if self._later:
            self._follow_later()
        if self._stirred:
            self._settle()
        return self._out

    def _on_message(self, sender: int, message: Message) -> None:
        """Hands a message to the class whose rules it belongs to."""
        if sender == self.seat:
            return
        v, is_member = self.validators, sender in self.validators.weights
        if is_member and isinstance(message, VoteMessage) and message.vote.epoch == v.epoch:
            self._on_vote(sender, message.incarnation, message.vote)  # most messages are these
            return
        self._compare_epochs(sender, message)
        if not is_member and isinstance(message, _MEMBERS_ONLY):
            return
        match message:
            case VoteMessage(incarnation, vote):
                self._on_vote(sender, incarnation, vote)
            case ProposalMessage(incarnation, proposal):
                self._on_proposal(sender, incarnation, proposal)
            case Certificates(certificates):
                self._stirred = False  # mostly they say again what we know
                for certificate in certificates:
                    if not self._take_certificate(certificate, sender=sender):
                        break  # whoever checked what it passes on sends none: look at no more
            case Commands(commands):
                for raw in commands:
                    self._take_command(raw, sender)
            case Reminder(raw):
                if not self.machine.done(raw_command_id(raw)):
                    self.mempool.remind(raw, sender, self.tick)
            case BlockRequest(hash_):
                self._on_block_request(sender, hash_)
            case BlockReply(block):
                if block.hash in self.catchup.wanted:
                    self._take_block(block, sender)
            case SyncRequest():
                self._on_sync_request(sender, message)
            case SyncReply():
                self._on_sync_reply(sender, message)
            case SnapshotRequest(height, chunk):
                self._out.serve.append(ServeSnapshot(sender, height, chunk))
            case SnapshotOffer(manifest):
                self._on_snapshot_offer(sender, manifest)
            case SnapshotChunk():
                self._on_snapshot_chunk(sender, message)
            case BootRequest():
                self._on_boot_request(sender, message)
            case BootAck():
                self._on_boot_ack(sender, message)
            case BootRefused(request):
                self._on_boot_refused(request)
            case BootCertificate():
                self.boot.learn(message)
            case Probe():
                self._on_probe(sender, message)
            case ProbeReply():
                self._on_probe_reply(sender, message)
            case EvidenceMessage(pairs):
                self._on_evidence(sender, pairs)
            case EpochReply():
                self._on_epoch_reply(sender, message)

    # --- timers and links ---

    def _on_started(self) -> None:
        self._set_timer(Timer.RETRY, self.durations.retry_ms)
        self._set_timer(Timer.HEALTH, self.durations.health_ms)
        self._arm_stall()
        self._arm()
        self._ask_to_boot()

    def _on_timer(self, timer: Timer) -> None:
        match timer:
            case Timer.LEADER:
                leader = self.leader(self.view.term)
                there = leader == self.seat or leader in self.connected
                if self._may_accuse():
                    self._nullify(Reason.NO_PROPOSAL if there else Reason.UNRESPONSIVE)
                self._arm()
            case Timer.HEARTBEAT:
                self._heartbeat_due = True
            case Timer.GATHER:
                self._is_gathering = False
            case Timer.STALL:
                if self._may_accuse():
                    self._nullify(Reason.STALL)
                self._arm_stall()
            case Timer.HEALTH:
                self._watch()
            case Timer.BOOT:
                if self.boot.is_member and not self.boot.is_current:
                    self._send(None, self.boot.progress.request)
                    self._set_timer(Timer.BOOT, self.durations.boot_ms)
            case Timer.EPOCH:
                self._on_epoch_timer()
            case Timer.SPREAD:
                self._spread_commands()
            case Timer.RETRY:
                self._retry()

    def _enter(self, view: View) -> None:
        new_term = view.term != self.view.term
        super()._enter(view)
        if new_term:
            self._spread_commands()

    def _open_epoch(self, opening: Opening, tip: Tip) -> None:
        super()._open_epoch(opening, tip)
        self._resume()
        self._arm()
        self._retry_view = self.view
        self._spread_commands()

    def _retry(self) -> None:
        """R7: what may have been lost goes out again, when the view did not change meanwhile."""
        self._set_timer(Timer.RETRY, self.durations.retry_ms)
        self._asked_for_boot.clear()
        self._asked_for_epoch.clear()
        self._told_epoch.clear()
        self._try_recovery()
        self._renew_turns()
        self._out.send += self.catchup.retry(self.ledger.tip.height, self.connected)
        self._retry_snapshot()
        self._resend_commands()
        if self.view == self._retry_view:
            self._resend(None)
        elif self.ledger.tip.height == self._retry_height:
            self._ask_what_is_final()
        self._retry_view, self._retry_height = self.view, self.ledger.tip.height

    def _resend_commands(self) -> None:
        """Our clients' oldest commands, when they have waited since the last retry.

        The leader may have lost them, or had no room for them when they came.
        """
        oldest = next(iter(self._own_commands), None)
        leader = self.leader(self.view.term)
        if oldest is not None and oldest == self._oldest_command and leader in self.connected:
            waiting = self._own_commands.values()
            block = portions(waiting, len, limits.BLOCK_COMMANDS_MAX, limits.BLOCK_BYTES_MAX)
            self._send_commands(leader, next(block))
        self._oldest_command = oldest

    def _resend(self, to: int | None) -> None:
        """R7: our justification, and our votes that no finalization has made superfluous."""
        self._send_justification(to)
        incarnation = self.boot.incarnation
        for (view, kind), vote in sorted(self._mine.items()):
            if view <= self.ledger.tip.view or not self.boot.done:
                continue
            block = self.ledger.blocks.get(vote.block)
            if kind is VoteKind.NOTARIZE and self.leader(view.term) == self.seat and block:
                parent = self.ledger.certificate_for(block.header.parent)
                proposal = Proposal(block, parent, vote.signature)
                self._send(to, ProposalMessage(incarnation, proposal))
            else:
                self._send(to, VoteMessage(incarnation, vote))

    def _on_peer_connected(self, seat: int) -> None:
        """R7: who connects hears who we are, where we are and what waits."""
        self.connected.add(seat)
        self._note_links()
        if self.leader(self.view.term) == seat:
            self._arm()
            for raw in self.fairness.reconnected(self.mempool, self.tick):
                self._send(seat, Reminder(raw))
        self._introduce(seat)
        self.prober.connected(seat, self.tick)
        self._tell_evidence(seat)
        self._resend(seat)
        self._send_commands(seat, self._own_commands.values())

    def _on_peer_lost(self, seat: int) -> None:
        self.connected.discard(seat)
        self._note_links(lost=seat)
        self.catchup.lost(seat)
        self.prober.lost(seat)
        if self.leader(self.view.term) == seat:
            self._arm()

    # --- commands ---

    def _on_submitted(self, commands: tuple[bytes, ...]) -> None:
        """To the leader at once; to everybody a moment later, for what is not committed by then.

        So in the good case a command travels once, and in the bad one every member has it before
        the leader is replaced, and sees it when it is left out.
        """
        accepted: list[bytes] = []
        for raw in commands:
            command_id = raw_command_id(raw)
            refused = self.mempool.add(raw, self.seat, self.tick)
            if refused is None:
                self._own_commands[command_id] = raw
                accepted.append(raw)
            else:
                self._out.rejected.append(Rejected(command_id, refused))
        leader = self.leader(self.view.term)
        if leader != self.seat:
            self._send_commands(leader, accepted)
        if accepted and not self._unspread:
            self._set_timer(Timer.SPREAD, self.durations.spread_ms)
        self._unspread.update((raw_command_id(raw), raw) for raw in accepted)

    def _spread_commands(self) -> None:
        """What still waits goes to everybody, a new leader among them."""
        waiting = [raw for key, raw in self._unspread.items() if key in self._own_commands]
        self._unspread.clear()
        self._set_timer(Timer.SPREAD, None)
        self._send_commands(None, waiting)

    def _send_commands(self, to: int | None, commands: Iterable[bytes]) -> None:
        """Passes commands on in messages of bounded size."""
        for some in portions(commands, len, limits.BLOCK_COMMANDS_MAX, _COMMANDS_MESSAGE_BYTES):
            self._send(to, Commands(some))

    def _take_command(self, raw: bytes, sender: int) -> None:
        # Only the state says what is done: by a memory of its own a leader would leave out what
        # others, who restarted or installed a snapshot, still wait for. That is a barrier, which
        # leaves no session; a late copy of one is committed once more, and changes nothing.
        if not self.machine.done(raw_command_id(raw)):
            self.mempool.add(raw, sender, self.tick)

    def _forget_stale(self, command_id: bytes) -> None:
        super()._forget_stale(command_id)
        if self._own_commands.pop(command_id, None) is not None:
            why = "a later command of its client was applied before it"
            self._out.rejected.append(Rejected(command_id, why))

    def _forget_command(self, command_id: bytes) -> None:
        super()._forget_command(command_id)
        self._own_commands.pop(command_id, None)
