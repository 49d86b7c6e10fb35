"""The heap of events, simulated time, the network, clients and the schedule of faults."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from random import Random
from typing import Any

from consensus.commands import Action, Barrier, Command, Delete, Put, encode_command
from consensus.digests import genesis_hash
from consensus.engine import Engine
from consensus.errors import WireError
from consensus.interface import Durations
from consensus.keccak import keccak256
from consensus.outcomes import Applied
from consensus.validators import Validator, ValidatorSet
from consensus.wire import Message, decode, encode

from .bad_leaders import LIARS, STORIES
from .losses import Losses
from .members import Member
from .oracle import Oracle
from .registry import SimChain
from .scenario import Fault, Scenario
from .signing import keys_for
from .store import SimStore

EVENTS_MAX = 400_000  # a run that needs more is a livelock


class Network:
    """Links between pairs, as TCP gives them, plus the losses that it would not have."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._links: dict[tuple[int, int], int] = {}  # pair -> number of the connection
        self.cut: set[frozenset[int]] = set()  # pairs that cannot connect
        self.silenced: set[tuple[int, int]] = set()  # directed: messages vanish
        self.loss = 0.0
        self.duplicate = 0.0
        self.fifo = "reorder" not in world.scenario.settings.faults
        self._last: dict[tuple[int, int], float] = {}
        self._decoded: dict[tuple[int, bytes], Message | None] = {}
        self.delay_ms = world.scenario.delay_ms
        self.messages = 0

    def linked(self, a: int, b: int) -> bool:
        return (min(a, b), max(a, b)) in self._links

    def separate(self, seats: tuple[int, ...]) -> None:
        """Cuts some off from all others."""
        pairs = self._between(seats)
        self.cut.update(pairs)
        for a, b in map(sorted, pairs):
            self.disconnect(a, b)

    def join(self, seats: tuple[int, ...]) -> None:
        """Lets them connect again."""
        self.cut.difference_update(self._between(seats))

    def _between(self, seats: tuple[int, ...]) -> list[frozenset[int]]:
        others = [seat for seat in self._world.members if seat not in seats]
        return [frozenset((a, b)) for a in seats for b in others]

    def try_connect(self, a: int, b: int) -> None:
        """Connects a pair when it can, and tries again later when it cannot."""
        world = self._world
        pair = (min(a, b), max(a, b))
        if pair in self._links:
            return
        one, two = world.members[a], world.members[b]
        if not (one.up and two.up) or frozenset(pair) in self.cut:
            world.after(world.rng.uniform(50.0, 250.0), self.try_connect, a, b)
            return
        self._links[pair] = world.next_number()
        one.connected(b)
        two.connected(a)

    def disconnect(self, a: int, b: int) -> None:
        pair = (min(a, b), max(a, b))
        if self._links.pop(pair, None) is None:
            return
        world = self._world
        for seat, peer in (pair, pair[::-1]):
            member = world.members[seat]
            world.after(world.rng.uniform(0.0, 20.0), self._tell_lost, seat, peer, member.life)
        world.after(world.rng.uniform(30.0, 250.0), self.try_connect, a, b)

    def _tell_lost(self, seat: int, peer: int, life: int) -> None:
        member = self._world.members[seat]
        if member.life == life and not self.linked(seat, peer):
            member.lost(peer)

    def process_died(self, seat: int) -> None:
        for other in self._world.members:
            if other != seat:
                self.disconnect(seat, other)

    def send(self, sender: int, to: int | None, message: Message) -> None:
        self.send_bytes(sender, to, encode(message))

    def send_bytes(self, sender: int, to: int | None, data: bytes) -> None:
        """Bytes on their way to one member, or to all that are linked."""
        world = self._world
        for seat in [to] if to is not None else [s for s in world.members if s != sender]:
            link = self._links.get((min(sender, seat), max(sender, seat)))
            if link is None or (sender, seat) in self.silenced:
                continue
            if self.loss and world.rng.random() < self.loss:
                continue
            copies = 2 if self.duplicate and world.rng.random() < self.duplicate else 1
            for _ in range(copies):
                arrival = world.now_ms + world.rng.uniform(*self.delay_ms)
                if self.fifo:
                    arrival = max(arrival, self._last.get((sender, seat), 0.0))
                    self._last[sender, seat] = arrival
                world.after(arrival - world.now_ms, self._deliver, sender, seat, link, data)

    def _deliver(self, sender: int, seat: int, link: int, data: bytes) -> None:
        if self._links.get((min(sender, seat), max(sender, seat))) != link:
            return
        self.messages += 1
        self._world.note(f"{sender}>{seat}", data)
        message = self._decode(sender, data)
        if message is not None:
            self._world.members[seat].receive(sender, message)

    def _decode(self, sender: int, data: bytes) -> Message | None:
        known = self._decoded.get((sender, data), ...)
        if known is not ...:
            return known  # type: ignore[return-value]
        try:
            message = decode(data, sender, self._world.cluster_id)
        except WireError:
            message = None
            if self._world.members[sender].correct:
                self._world.oracle.fail(f"correct seat {sender} sent bytes nobody can decode")
        if len(self._decoded) > 4096:
            self._decoded.clear()
        self._decoded[sender, data] = message
        return message


class Client:
    """Submits one command after another, repeating each anywhere until it was applied."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._id = b"client %9d" % number
        self._sequence = 0
        self._raw = b""
        self._next()

    def _next(self) -> None:
        rng = self._world.rng
        self._sequence += rng.choice((1, 1, 1, 3))
        kind = rng.choice((Put, Put, Put, Delete, Barrier))
        key = b"" if kind is Barrier else b"key %d" % rng.randrange(5)
        action: Action = Barrier()
        if kind is Put:
            action = Put(key, rng.randbytes(4))
        elif kind is Delete:
            action = Delete(key)
        self._raw = encode_command(Command(self._id, self._sequence, action))
        self._world.after(rng.uniform(0.0, 400.0), self._submit, self._raw)

    def _submit(self, raw: bytes) -> None:
        world = self._world
        if raw is not self._raw or world.calm:
            return
        if world.oracle.was_executed(raw[:24]):
            self._next()
            return
        up = [m for m in world.members.values() if m.correct and m.up and not m.halted]
        if up:
            world.rng.choice(up).submit(raw)
        world.after(world.rng.uniform(100.0, 2000.0), self._submit, raw)


class World:
    """One run of one seed."""

    def __init__(
        self,
        scenario: Scenario,
        engine_class: type[Engine] = Engine,
        trace: Callable[[str], None] | None = None,
    ) -> None:
        self.scenario = scenario
        self.rng = Random(f"world {scenario.seed}")
        self.now_ms = 0.0
        self.calm = False
        self.events = 0
        self._trace = trace
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0
        self._hash = blake2b(digest_size=16)
        self.cluster_id = keccak256(b"simulated cluster")
        self.genesis = genesis_hash(self.cluster_id, 0, bytes(32))
        seats = sorted(scenario.weights)
        keys, self.signers, self.verifier = keys_for(seats)
        seed = keccak256(b"order %d" % scenario.seed)
        self.registrable = {s: Validator(s, scenario.weights[s], keys[s]) for s in seats}
        founders = {s: v for s, v in self.registrable.items() if s not in scenario.outside}
        self.validators = ValidatorSet(0, tuple(founders.values()), seed)
        self.chain = SimChain(self, founders)
        settle_ms, gather_ms = scenario.epoch_settle_ms, scenario.gather_ms
        self.durations = Durations(epoch_settle_ms=settle_ms, gather_ms=gather_ms)
        self.oracle = Oracle(self)
        self.losses = Losses(self)
        self.network = Network(self)
        self.members: dict[int, Member] = {}
        # Told of every block that a correct member applied, when the daemon would answer clients.
        self.on_applied: list[Callable[[Member, Applied], None]] = []
        self._old_disks: dict[int, list[SimStore]] = {s: [] for s in scenario.fragile}
        for seat in seats:
            kind = scenario.byzantine.get(seat)
            if kind is None:
                self.members[seat] = Member(self, seat, engine_class)
            else:
                self.members[seat] = (LIARS | STORIES)[kind](self, seat)

    def new_store(self, seat: int) -> SimStore:
        s = self.scenario
        return SimStore(self.cluster_id, seat, self.genesis, s.serve_blocks, s.checkpoints.every)

    def next_number(self) -> int:
        self._number += 1
        return self._number

    def after(self, delay_ms: float, call: Callable[..., None], *arguments: Any) -> None:
        """Calls ``call`` at that time from now; ties go by the order of the calls of this."""
        entry = (self.now_ms + max(0.0, delay_ms), self.next_number(), call, arguments)
        heapq.heappush(self._heap, entry)

    def note(self, what: str, data: bytes = b"") -> None:
        """One line of the trace, and part of the run's digest."""
        self._hash.update(b"%.3f %s " % (self.now_ms, what.encode()))
        self._hash.update(data)
        if self._trace is not None:
            about = ""
            if data:
                sender = int(what.split(">")[0])
                about = f" {type(self.network._decode(sender, data)).__name__}"
            self._trace(f"{self.now_ms:10.3f} {what}{about} {data[:24].hex()}")

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    @property
    def correct(self) -> list[Member]:
        return [m for m in self.members.values() if m.correct]

    # --- the run ---

    def run(self) -> None:
        """Chaos, then calm until everybody has committed what was asked in the calm."""
        settings = self.scenario.settings
        seats = sorted(self.members)
        for seat in seats:
            if "skew" in settings.faults:
                self.members[seat].offset_ms = self.rng.uniform(-1000.0, 1000.0) + 10_000
            self.after(self.rng.uniform(0.0, 100.0), self.boot, seat)
        for i, a in enumerate(seats):
            for b in seats[i + 1 :]:
                self.after(self.rng.uniform(0.0, 200.0), self.network.try_connect, a, b)
        for number in range(settings.clients):
            Client(self, number)
        for fault in self.scenario.faults:
            self.after(fault.at_ms, self._strike, fault)
        for seat in self._old_disks:
            for _ in range(3):
                self.after(self.rng.uniform(0.0, settings.chaos_ms), self._remember_disk, seat)
        self.losses.plan()
        self.after(float(settings.chaos_ms), self._calm_down)
        while self._heap and not self.oracle.finished:
            self.now_ms, _, call, arguments = heapq.heappop(self._heap)
            self.events += 1
            if self.events > EVENTS_MAX:
                self.oracle.fail(f"more than {EVENTS_MAX} events")
            call(*arguments)
        if not self.oracle.finished:
            self.oracle.fail("nothing is scheduled any more: no timer, no message")

    def boot(self, seat: int) -> None:
        """Starts a member's process, unless it runs or has no machine."""
        member = self.members[seat]
        if not member.up and not member.halted and seat not in self.losses.down:
            self.note(f"boot {seat}")
            member.start()

    def _calm_down(self) -> None:
        self.calm = True
        self.note("calm")
        network = self.network
        network.cut.clear()
        network.silenced.clear()
        network.loss = network.duplicate = 0.0
        network.delay_ms = (1.0, 10.0)
        for seat, member in self.members.items():
            member.crash_after = None
            member.resume()
            self.boot(seat)
        self.oracle.calm_begins()
        for member in self.correct:
            command = Command(b"calm %11d" % member.seat, 1, Put(b"calm", b"%d" % member.seat))
            raw = encode_command(command)
            if member.seat not in self.losses.down:
                self.oracle.expects(member.seat, raw)
                self.after(self.rng.uniform(0.0, 500.0), self._ask, member, raw)
        # Few are left, who may have been barred for long (R16) when they had nothing to give.
        times = 3 if self.scenario.losses else 1
        self.after(float(times * self.scenario.settings.calm_ms), self.oracle.calm_is_over)

    def _ask(self, member: Member, raw: bytes) -> None:
        """Again and again where a history may end in which it was done."""
        member.submit(raw)
        if self.scenario.losses:
            self.after(2_000.0, self._ask, member, raw)

    # --- faults ---

    def _remember_disk(self, seat: int) -> None:
        self._old_disks[seat].append(self.members[seat].store.copy())

    def _strike(self, fault: Fault) -> None:
        self.note(f"fault {fault.kind} {fault.seats}")
        network, rng = self.network, self.rng
        lasts = fault.until_ms - fault.at_ms
        match fault.kind:
            case "loss":
                network.loss = fault.level
                self.after(lasts, setattr, network, "loss", 0.0)
            case "duplicate":
                network.duplicate = fault.level
                self.after(lasts, setattr, network, "duplicate", 0.0)
            case "partition":
                network.separate(fault.seats)
                self.after(lasts, network.join, fault.seats)
            case "asymmetric":
                ways = {(a, b) for a in fault.seats for b in self.members if rng.random() < 0.6}
                network.silenced |= ways
                self.after(lasts, network.silenced.difference_update, ways)
            case "pause":
                for seat in fault.seats:
                    self.members[seat].pause(lasts)
            case "membership":
                self._change_membership(fault)
            case "crash":
                for seat in fault.seats:
                    self.members[seat].crash_after = rng.randrange(12)
                    self.after(lasts, self._restart, seat)
            case "crash_all":
                for member in self.correct:
                    if rng.random() < 0.5:
                        member.crash_after = rng.randrange(6)
                    elif member.up:
                        member.crash()
                    self.after(rng.uniform(0.0, lasts + 100), self._restart, member.seat)
            case "rollback" | "wipe":
                for seat in fault.seats:
                    member = self.members[seat]
                    if member.up:
                        member.crash()
                    old = self._old_disks[seat]
                    if fault.kind == "wipe":
                        member.store = self.new_store(seat)
                    elif old:
                        member.store = rng.choice(old).copy()
                    self.oracle.disk_lost(seat)
                    self.after(lasts, self._restart, seat)

    def _change_membership(self, fault: Fault) -> None:
        """Some join or leave; a leaver may be revoked at once; or a weight changes."""
        members = dict(self.chain.members)
        gone = set()
        for seat in fault.seats:
            if seat in self.losses.lost:
                continue
            if seat not in members:
                members[seat] = self.registrable[seat]
            elif fault.level < 0.1:
                members[seat] = replace(members[seat], weight=members[seat].weight % 3 + 1)
            else:
                del members[seat]
                gone.add(seat)
        if members:
            revoked = frozenset(gone) if fault.level > 0.3 else frozenset()
            self.chain.change(members, revoked)

    def _restart(self, seat: int) -> None:
        member = self.members[seat]
        if member.up and member.crash_after is not None:
            member.crash()
        self.boot(seat)
