"""Clients in the simulator that write down what they asked and what they were told.

A client has one request in flight, at one member; when that member does not answer in time (it
crashed, was cut off, lost the race), the outcome is unknown and the client goes on under a new
number, as a client does that has lost its session. A read is the daemon's linearizable read: a
barrier through the log, then the member's own state.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

from consensus.commands import Barrier, Command, Delete, Put, encode_command
from consensus.outcomes import Applied
from tests.simulation.members import Member
from tests.simulation.world import World

from .checker import ABSENT, Operation, State

PATIENCE_MS = 1_500.0
KEYS = (b"x", b"y", b"z")


class Recorder:
    """One client; ``history`` grows until the calm begins."""

    def __init__(self, world: World, number: int, barrier: bool = True) -> None:
        self.history: list[Operation] = []
        self._world = world
        self._barrier = barrier  # False: reads are answered at once, and so may be stale
        self._name = f"recorder {number}"
        self._id = b"recorder %7d" % number
        self._sequence = 0
        self._waiting: tuple[bytes, int, int, Operation] | None = None
        self._rng = Random(f"{world.scenario.seed} {self._name}")
        world.on_applied.append(self._on_applied)
        world.after(self._rng.uniform(0.0, 200.0), self._next)

    def close(self) -> list[Operation]:
        """The whole history, the request in flight included."""
        if self._waiting is not None:
            self.history.append(self._waiting[3])
            self._waiting = None
        return self.history

    def _next(self) -> None:
        world, rng = self._world, self._rng
        up = [m for m in world.members.values() if m.correct and m.up and not m.halted]
        if world.calm:
            return
        if not up:
            world.after(100.0, self._next)
            return
        member = rng.choice(up)
        self._sequence += 1
        kind = rng.choice(("put", "put", "get", "get", "delete"))
        key = rng.choice(KEYS)
        value = b"%s/%d" % (self._id[-2:], self._sequence) if kind == "put" else b""
        action = {"put": Put(key, value), "get": Barrier(), "delete": Delete(key)}[kind]
        command = Command(self._id, self._sequence, action)
        asked = Operation(self._name, kind, key, world.now_ms, value)
        if kind == "get" and not self._barrier:
            self._answered(asked, _state(member, key))
            return
        self._waiting = (command.id, member.seat, member.life, asked)
        member.submit(encode_command(command))
        world.after(PATIENCE_MS, self._give_up, command.id)

    def _give_up(self, command_id: bytes) -> None:
        if self._waiting is not None and self._waiting[0] == command_id:
            self.history.append(self._waiting[3])
            self._waiting = None
            self._next()

    def _on_applied(self, member: Member, applied: Applied) -> None:
        if self._waiting is None or self._waiting[1:3] != (member.seat, member.life):
            return
        for command, result in applied.results:
            if command.id == self._waiting[0]:
                asked = self._waiting[3]
                self._waiting = None
                answer = _state(member, asked.key) if asked.kind == "get" else result.existed
                self._answered(asked, answer)
                return

    def _answered(self, asked: Operation, answer: bool | State) -> None:
        self.history.append(replace(asked, answer=answer, returned=self._world.now_ms))
        self._world.after(self._rng.expovariate(1 / 40.0), self._next)


def _state(member: Member, key: bytes) -> State:
    assert member.engine is not None
    entry = member.engine.machine.entries.get(key)
    return ABSENT if entry is None else (entry.value, entry.version)
