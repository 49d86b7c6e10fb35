"""Stories of the protocol, message by message: ``*.txt`` beside this file.

A script is a list of commands, each followed by ``----`` and what then happens, in the manner of
etcd raft's data-driven tests. ``REWRITE=1 pytest tests/scenarios`` writes what happens now; the
difference is reviewed like prose. Commands:

- ``cluster 1,1,1,1``: members with these weights boot, with links between all
- ``submit 2 put x 1``: a client of member 2
- ``fire 3 leader``: a timer runs out at a member
- ``deliver``: all messages on their way arrive, and those that they cause, in order
- ``down 1`` / ``up 1``: a member is cut off, and its links are lost; or they come back
- ``status``: where everybody is
"""

from __future__ import annotations

import os
from collections import defaultdict, deque
from pathlib import Path

import pytest

from consensus.commands import Command, Delete, Put, encode_command
from consensus.digests import genesis_hash, keccak256
from consensus.engine import Engine
from consensus.interface import (
    Event,
    FinalizedRecord,
    LeaderChanged,
    Misbehaved,
    Output,
    PeerConnected,
    PeerLost,
    Received,
    Restored,
    Send,
    Started,
    Submitted,
    Timer,
    TimerFired,
)
from consensus.ledger import genesis_tip
from consensus.machine import Machine
from consensus.types import Block, Certificate, Reason, VoteKind
from consensus.validators import Validator, ValidatorSet
from consensus.wire import (
    BootAck,
    BootCertificate,
    BootRequest,
    Certificates,
    Commands,
    Message,
    ProposalMessage,
    SyncReply,
    SyncRequest,
    VoteMessage,
    decode,
    encode,
)
from tests.simulation.signing import keys_for

HERE = Path(__file__).parent
CLUSTER_ID = keccak256(b"a scripted cluster")
NAMES = {VoteKind.NOTARIZE: "Notarize", VoteKind.NULLIFY: "Nullify", VoteKind.FINALIZE: "Finalize"}


class Stage:
    """The members of one script and what is on its way between them."""

    def __init__(self) -> None:
        self.engines: dict[int, Engine] = {}
        self.chains: dict[int, list[tuple[Block, Certificate | None]]] = defaultdict(list)
        self.down: set[int] = set()
        self.queue: deque[tuple[int, int, bytes]] = deque()
        self.blocks: dict[bytes, str] = {}
        self.lines: list[str] = []
        self.now_ms = 0
        self.sequence = 0

    def run(self, line: str) -> str:
        name, *arguments = line.split()
        self.lines = []
        self.now_ms += 100
        getattr(self, f"do_{name}")(*arguments)
        return "\n".join(self.lines) or "ok"

    # --- commands ---

    def do_cluster(self, weights: str) -> None:
        values = [int(w) for w in weights.split(",")]
        seats = list(range(1, len(values) + 1))
        keys, signers, verifier = keys_for(seats)
        validators = ValidatorSet(
            0,
            tuple(Validator(s, w, keys[s]) for s, w in zip(seats, values, strict=True)),
            bytes(32),
        )
        genesis = genesis_hash(CLUSTER_ID, 0, bytes(32))
        for seat in seats:
            self.engines[seat] = Engine(
                cluster_id=CLUSTER_ID,
                validators=validators,
                seat=seat,
                signer=signers[seat],
                verifier=verifier,
                restored=Restored(genesis_tip(genesis), Machine()),
                boot_id=seat.to_bytes(32, "big"),
            )
        self.lines.append(f"leaders {' '.join(map(str, self.engines[1].order))}")
        for seat in seats:
            self._step(seat, Started())
        for seat in seats:
            for peer in seats:
                if peer != seat:
                    self._step(seat, PeerConnected(peer))

    def do_submit(self, seat: str, op: str, key: str, value: str = "") -> None:
        self.sequence += 1
        client = b"client %9d" % int(seat)
        action = {"put": Put(key.encode(), value.encode()), "delete": Delete(key.encode())}[op]
        command = Command(client, self.sequence, action)
        self._step(int(seat), Submitted((encode_command(command),)))

    def do_fire(self, seat: str, timer: str) -> None:
        self._step(int(seat), TimerFired(Timer[timer.upper()]))

    def do_deliver(self) -> None:
        while self.queue:
            sender, seat, data = self.queue.popleft()
            if not {sender, seat} & self.down:
                self._step(seat, Received(sender, decode(data, sender, CLUSTER_ID)))

    def do_down(self, seat: str) -> None:
        self.down.add(int(seat))
        for other in self.engines:
            if other != int(seat):
                self._step(other, PeerLost(int(seat)))
                self._step(int(seat), PeerLost(other))

    def do_up(self, seat: str) -> None:
        self.down.discard(int(seat))
        for other in self.engines:
            if other != int(seat):
                self._step(other, PeerConnected(int(seat)))
                self._step(int(seat), PeerConnected(other))

    def do_status(self) -> None:
        for seat, engine in self.engines.items():
            s = engine.status()
            tip = self.blocks.get(engine.ledger.tip.hash, "genesis")
            self.lines.append(
                f"{seat}: {s.state}, view {s.view}, leader {s.leader}, final {tip}, "
                f"revision {s.revision}"
            )

    # --- what happens ---

    def _step(self, seat: int, event: Event) -> None:
        output = self.engines[seat].step(event, self.now_ms)
        self._tell(seat, output)
        for record in output.persist:
            if isinstance(record, FinalizedRecord):
                self.chains[seat].append((record.applied.block, record.finalization))
        for serve in output.serve:
            blocks = [b for b, _ in self.chains[seat][serve.from_height - 1 :]]
            final = self.chains[seat][-1][1]
            assert final is not None
            output.send.append(Send(serve.to, SyncReply(tuple(blocks), (), final)))
            self._say(seat, output.send[-1])
        for send in output.send:
            data = encode(send.message)
            for peer in self.engines if send.to is None else [send.to]:
                if peer != seat and not {peer, seat} & self.down:
                    self.queue.append((seat, peer, data))

    def _tell(self, seat: int, output: Output) -> None:
        for send in output.send:
            self._say(seat, send)
        for applied in output.applied:
            name = self._block(applied.block.hash)
            self.lines.append(f"{seat} applies {name} with {len(applied.results)} commands")
        for notice in output.notices:
            match notice:
                case LeaderChanged(_, term, leader):
                    self.lines.append(f"{seat} enters term {term} of leader {leader}")
                case Misbehaved(liar, what):
                    self.lines.append(f"{seat} accuses {liar}: {what}")
        if output.halt is not None:
            self.lines.append(f"{seat} halts: {output.halt.reason}")

    def _say(self, seat: int, send: Send) -> None:
        text = self._message(send.message)
        if text and seat not in self.down:
            self.lines.append(f"{seat} to {send.to or 'all'}: {text}")

    def _block(self, block: bytes) -> str:
        return self.blocks.setdefault(block, f"b{len(self.blocks) + 1}")

    def _certificate(self, c: Certificate) -> str:
        about = "" if c.kind is VoteKind.NULLIFY else f" {self._block(c.block)}"
        by = ",".join(str(p.seat) for p in c.parts)
        return f"{NAMES[c.kind]}{{{c.view}{about} by {by}}}"

    def _message(self, message: Message) -> str:
        match message:
            case VoteMessage(_, vote) if vote.kind is VoteKind.NULLIFY:
                return f"Nullify {vote.view} {Reason(vote.reason).name.lower()}"
            case VoteMessage(_, vote):
                return f"{NAMES[vote.kind]} {vote.view} {self._block(vote.block)}"
            case ProposalMessage(_, p):
                shown = [*([] if p.parent is None else [p.parent]), *p.block.nullifications]
                on = f" on {' '.join(map(self._certificate, shown))}" if shown else ""
                commands = len(p.block.commands)
                name = self._block(p.block.hash)
                return f"Propose {p.block.header.view} {name} with {commands} commands{on}"
            case Certificates(certificates):
                return f"Certificates {' '.join(map(self._certificate, certificates))}"
            case Commands(commands):
                return f"{len(commands)} commands"
            case BootRequest() | BootAck() | BootCertificate():
                return ""  # the same in every story
            case SyncRequest(height, _):
                return f"SyncRequest from height {height}"
            case SyncReply(blocks, _, final, _):
                names = " ".join(self._block(b.hash) for b in blocks)
                return f"SyncReply {names} with {self._certificate(final)}"
        return type(message).__name__


def play(script: str) -> str:
    """The script with what really happens after each command."""
    stage, told = Stage(), []
    for part in script.strip("\n").split("\n\n"):
        lines = part.split("\n")
        comments = [line for line in lines if line.startswith("#")]
        (command,) = [line for line in lines[: lines.index("----")] if line not in comments]
        told.append("\n".join([*comments, command, "----", stage.run(command)]))
    return "\n\n".join(told) + "\n"


@pytest.mark.parametrize("file", sorted(HERE.glob("*.txt")), ids=lambda f: f.stem)
def test_the_story_goes_as_it_is_told(file: Path) -> None:
    script = file.read_text()
    happened = play(script)
    if os.environ.get("REWRITE"):
        file.write_text(happened)
    assert happened == script
