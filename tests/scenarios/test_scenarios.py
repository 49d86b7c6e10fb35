"""Stories of the protocol, message by message: ``*.txt`` beside this file.

A script is a list of commands, each followed by ``----`` and what then happens, in the manner of
etcd raft's data-driven tests. ``REWRITE=1 pytest tests/scenarios`` writes what happens now; the
difference is reviewed like prose. Commands:

- ``cluster 1,1,1,1``: members with these weights boot, with links between all
- ``town 4 of 5``: five seats run, the first four of them are the set of epoch 0
- ``submit 2 put x 1``: a client of member 2
- ``fire 3 leader``: a timer runs out at a member (``fire all leader`` at all); ``fire 3 health 6``
  six times
- ``deliver``: all messages on their way arrive, and those that they cause, in order
- ``quietly deliver``: the same, and only what is applied, opened, accused or halted is told
- ``down 1`` / ``up 1``: a member is cut off, and its links are lost; or they come back
- ``crash 1`` / ``start 1``: a process dies; it starts again from its disk (``all`` for everybody)
- ``copy 1`` / ``rollback 1``: remembers a disk; puts that old one back
- ``lie 4 notarize 1.2``: seat 4 signs a vote for a block that nobody knows, and sends it to all
- ``registry 1 2 3 5``: the registry shows these seats; all members see it finalized
- ``deaf 4``: no command reaches a member any more, everything else does
- ``status``: where everybody is
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from consensus.commands import Command, Delete, Put, encode_command
from consensus.interface import (
    Alarm,
    EpochOpened,
    Event,
    LeaderChanged,
    Misbehaved,
    Output,
    PeerConnected,
    PeerLost,
    Received,
    Send,
    Timer,
)
from consensus.keccak import keccak256
from consensus.types import (
    ZERO_HASH,
    BootAck,
    BootCertificate,
    BootRequest,
    Certificate,
    Reason,
    View,
    VoteKind,
)
from consensus.wire import (
    Certificates,
    Commands,
    EvidenceMessage,
    Message,
    Probe,
    ProbeReply,
    ProposalMessage,
    Reminder,
    SyncReply,
    SyncRequest,
    VoteMessage,
)
from tests.simulation.store import SimStore
from tests.unit.consensus.net import Net
from tests.unit.consensus.towns import Town

HERE = Path(__file__).parent
NAMES = {VoteKind.NOTARIZE: "Notarize", VoteKind.NULLIFY: "Nullify", VoteKind.FINALIZE: "Finalize"}
# The same in every story.
UNTOLD = (BootRequest, BootAck, BootCertificate, Probe, ProbeReply)


class Stage:
    """The members of one script, and what is told of them."""

    def __init__(self) -> None:
        self.net: Net = Net()
        self.blocks: dict[bytes, str] = {}
        self.lines: list[str] = []
        self.sequence = 0
        self.quiet = False
        self.copies: dict[int, SimStore] = {}
        self.deaf: set[int] = set()

    def run(self, line: str) -> str:
        self.quiet = line.startswith("quietly ")
        name, *arguments = line.removeprefix("quietly ").split()
        self.lines = []
        self.net.now_ms += 100
        getattr(self, f"do_{name}")(*arguments)
        return "\n".join(self.lines) or "ok"

    # --- commands ---

    def do_cluster(self, weights: str) -> None:
        self.net = _narrated(Net, self)(*map(int, weights.split(",")))
        self.net.start()
        self.lines.append(f"leaders {' '.join(map(str, self.net.engines[1].order))}")

    def do_town(self, founders: str, _of: str, seats: str) -> None:
        self.quiet = True
        self.net = _narrated(Town, self)(int(founders), int(seats))
        self.lines = [f"leaders {' '.join(map(str, self.net.engines[1].order))}"]

    def do_submit(self, seat: str, op: str, key: str, value: str = "") -> None:
        self.sequence += 1
        what = Put(key.encode(), value.encode()) if op == "put" else Delete(key.encode())
        command = Command(b"client %9d" % int(seat), self.sequence, what)
        self.net.submit(int(seat), encode_command(command))

    def do_fire(self, seat: str, timer: str, times: str = "1") -> None:
        for _ in range(int(times)):
            self.net.fire(Timer[timer.upper()], *self._seats(seat))

    def do_deaf(self, seat: str) -> None:
        self.deaf.add(int(seat))

    def do_deliver(self) -> None:
        self.net.deliver(
            lambda _, seat, message: not (
                seat in self.deaf and isinstance(message, Commands | Reminder)
            )
        )

    def do_down(self, seat: str) -> None:
        one = int(seat)
        for other in self.net.engines:
            if other != one:
                self.net.cut |= {(one, other), (other, one)}
                self.net.step(other, PeerLost(one))
                self.net.step(one, PeerLost(other))

    def do_up(self, seat: str) -> None:
        one = int(seat)
        self.net.cut = {pair for pair in self.net.cut if one not in pair}
        for other in self.net.engines:
            if other != one:
                self.net.step(other, PeerConnected(one))
                self.net.step(one, PeerConnected(other))

    def do_crash(self, seat: str) -> None:
        self.net.crash(*(s for s in self._seats(seat) if s in self.net.engines))

    def do_start(self, seat: str) -> None:
        self.net.start(*self._seats(seat))

    def do_copy(self, seat: str) -> None:
        self.copies[int(seat)] = self.net.stores[int(seat)].copy()

    def do_rollback(self, seat: str) -> None:
        self.net.stores[int(seat)] = self.copies[int(seat)].copy()

    def do_lie(self, seat: str, kind: str, view: str) -> None:
        term, index = map(int, view.split("."))
        vote_kind = VoteKind[kind.upper()]
        block = ZERO_HASH if vote_kind is VoteKind.NULLIFY else keccak256(view.encode())
        vote = self.net.cluster.vote(int(seat), vote_kind, View(term, index), block)
        incarnation = self.net.engines[int(seat)].boot.incarnation
        for other in list(self.net.engines):
            if other != int(seat):
                self.net.step(other, Received(int(seat), VoteMessage(incarnation, vote)))

    def do_registry(self, *seats: str) -> None:
        assert isinstance(self.net, Town)
        self.net.change(*(self.net.member(int(s)) for s in seats))

    def do_status(self) -> None:
        for seat, engine in sorted(self.net.engines.items()):
            s = engine.status()
            tip = self.blocks.get(engine.ledger.tip.hash, "genesis")
            self.lines.append(
                f"{seat}: {s.state}, epoch {s.epoch}, view {s.view}, leader {s.leader}, "
                f"final {tip}, revision {s.revision}"
            )

    def _seats(self, text: str) -> tuple[int, ...]:
        return self.net.seats if text == "all" else (int(text),)

    # --- what happens ---

    def tell(self, seat: int, event: Event, output: Output) -> None:
        for send in output.send:
            if not self.quiet and not all((seat, o) in self.net.cut for o in self._others(seat)):
                self._say(seat, send)
        if isinstance(event, Received) and isinstance(event.message, SyncReply) and not self.quiet:
            names = " ".join(self._block(b.hash) for b in event.message.blocks)
            final = self._certificate(event.message.finalization)
            self.lines.append(f"{seat} gets {names or 'nothing'} with {final} from {event.sender}")
        for applied in output.applied:
            name = self._block(applied.block.hash)
            self.lines.append(f"{seat} applies {name} with {len(applied.results)} commands")
        for notice in output.notices:
            match notice:
                case LeaderChanged(_, term, leader):
                    self.lines.append(f"{seat} enters term {term} of leader {leader}")
                case Misbehaved(liar, what):
                    self.lines.append(f"{seat} accuses {liar}: {what}")
                case EpochOpened(validators):
                    members = ",".join(map(str, validators.seats))
                    self.lines.append(f"{seat} opens epoch {validators.epoch} of {members}")
                case Alarm(what):
                    self.lines.append(f"{seat} alarms: {what}")
        if output.halt is not None:
            self.lines.append(f"{seat} halts: {output.halt.reason}")

    def _others(self, seat: int) -> list[int]:
        return [s for s in self.net.engines if s != seat]

    def _say(self, seat: int, send: Send) -> None:
        if not isinstance(send.message, UNTOLD):
            self.lines.append(f"{seat} to {send.to or 'all'}: {self._message(send.message)}")

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
                told = "".join(f" and evidence against {e.first.seat}" for e in p.block.evidence)
                return f"Propose {p.block.header.view} {name} with {commands} commands{told}{on}"
            case Certificates(certificates):
                return f"Certificates {' '.join(map(self._certificate, certificates))}"
            case Commands(commands):
                return f"{len(commands)} commands"
            case Reminder():
                return "Reminder of a command"
            case SyncRequest(height, _):
                return f"SyncRequest from height {height}"
            case EvidenceMessage(pairs):
                seats = " ".join(str(e.first.seat) for e in pairs)
                return f"Evidence against {seats}"
        return type(message).__name__


def _narrated(kind: type[Net], stage: Stage) -> type[Net]:
    """A net that tells its stage of every step."""

    class Narrated(kind):  # type: ignore[misc, valid-type]
        def step(self, seat: int, event: Event) -> Output:
            stage.net = self
            output: Output = super().step(seat, event)
            stage.tell(seat, event, output)
            return output

    return Narrated


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
