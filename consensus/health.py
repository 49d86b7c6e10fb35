"""Is the leader any good? Trackers that turn what a member sees into complaints (R12, R13).

Pure bookkeeping: nothing here votes. The engine feeds these and votes ``Nullify`` when one finds
cause. Time is counted in *ticks* of the member's own health timer, not in milliseconds: a process
that was paused, or a clock that was set, makes one late tick and accuses nobody.

A complaint is one member's word. Only members of join weight together make everybody join (R4), so
what one of them cannot see for sure is left to the number of those who saw the same.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from . import limits
from .keccak import keccak256
from .mempool import Front, Mempool
from .types import Block, raw_command_id
from .wire import ProbeReply

NONCE_TAG = b"dstack-cluster/probe-nonce/v1"
NONCE_BYTES = 16
CHALLENGES_KEPT = 4  # an answer to one of the last few still counts: a slow link is no offence
COMMANDS_PER_BLOCK_MIN = limits.BLOCK_BYTES_MAX // limits.COMMAND_BYTES_MAX  # of a full one
HEADS_KEPT = 1024
HEADS_APART = 4  # ticks
SAMPLES_KEPT = 256


@dataclass(slots=True)
class PeerHealth:
    """What a member answered last, and how many challenges in a row it left unanswered."""

    missed: int = 0
    heard_tick: int = 0  # when it answered last, or its link opened
    answered_ms: int = 0  # by our clock; 0: never
    rtt_ms: int = 0
    incarnation: int = 0
    epoch: int = 0
    term: int = 0
    index: int = 0
    height: int = 0
    chain_block: int = 0
    chain_time_ms: int = 0
    behind: int = 0  # answers in a row from behind the chain
    superseded: int = 0  # answers in a row under an incarnation that is not its newest
    nonce: bytes = b""  # the challenge that it answered


class Prober:
    """Challenges to the linked members, and their answers.

    ``secret`` is 32 bytes that nobody else knows: nonces that could be foreseen could be answered
    in advance.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._count = 0
        self._open: dict[bytes, int] = {}  # nonce -> when it was sent
        self._awaited: set[int] = set()  # who has not answered the newest one
        self.peers: dict[int, PeerHealth] = {}

    def connected(self, seat: int, tick: int) -> None:
        """A link opened: what was missed without it does not count."""
        peer = self.peers.setdefault(seat, PeerHealth())
        peer.missed, peer.heard_tick = 0, tick
        self._awaited.discard(seat)

    def lost(self, seat: int) -> None:
        """A link closed."""
        self._awaited.discard(seat)

    def keep(self, seats: set[int]) -> None:
        """Forgets all other seats."""
        self.peers = {s: peer for s, peer in self.peers.items() if s in seats}
        self._awaited &= seats

    def challenge(self, linked: set[int], now_ms: int) -> bytes:
        """The next nonce, for all linked members; who did not answer the last one missed it."""
        for seat in self._awaited:
            self.peers[seat].missed += 1
        self._count += 1
        nonce = keccak256(NONCE_TAG + self._secret + self._count.to_bytes(8, "big"))[:NONCE_BYTES]
        self._open[nonce] = now_ms
        if len(self._open) > CHALLENGES_KEPT:
            del self._open[next(iter(self._open))]
        self._awaited = set(linked)
        for seat in linked:
            self.peers.setdefault(seat, PeerHealth())
        return nonce

    def silent(self, seats: set[int], since_tick: int) -> set[int]:
        """Those of some linked seats that answered nothing after that tick.

        Whichever challenge they answered: over a slow link each answer comes after the next one.
        """
        return {seat for seat in seats if self.peers[seat].heard_tick <= since_tick}

    def expects(self, seat: int, nonce: bytes) -> bool:
        """True when the nonce is one of our last few, and the member did not answer it yet."""
        peer = self.peers.get(seat)
        return nonce in self._open and peer is not None and peer.nonce != nonce

    def answered(self, seat: int, reply: ProbeReply, now_ms: int, tick: int) -> PeerHealth:
        """Takes an answer whose nonce and signature are right."""
        peer = self.peers.setdefault(seat, PeerHealth())
        if next(reversed(self._open)) == reply.nonce:
            self._awaited.discard(seat)
        peer.missed, peer.heard_tick, peer.nonce = 0, tick, reply.nonce
        peer.answered_ms = now_ms
        peer.rtt_ms = max(0, now_ms - self._open[reply.nonce])
        peer.incarnation, peer.epoch = reply.incarnation, reply.epoch
        peer.term, peer.index = reply.view
        peer.height = reply.height
        peer.chain_block, peer.chain_time_ms = reply.chain_block, reply.chain_time_ms
        return peer


@dataclass(slots=True)
class Suspicion:
    """A command that the leader was reminded of, and the blocks since that left it out."""

    front: Front
    reminded: int  # tick
    skips: int = 0
    crowded: int = 0  # full blocks since the last skip
    renewed: bool = False


class Fairness:
    """Finds censorship: commands whose turn it is, and that the leader leaves out all the same.

    Sources take turns and commands of a source keep their order (``mempool``), so a fair leader
    that has a command which is next in its source's row puts it into its next blocks. Whoever
    gave it to us may not have given it to the leader; we do, before we count anything against it,
    and a reminder is served in our next turn, whatever else we gave it.

    Each source's front is judged by itself: a leader could else keep the oldest of its own
    commands back, serve its other ones, and leave everybody else out meanwhile.
    """

    def __init__(self) -> None:
        self.suspicions: dict[int, Suspicion] = {}  # by source

    def forget(self) -> None:
        """Another leader."""
        self.suspicions.clear()

    def remind(self, mempool: Mempool, now: int, wait: int) -> bytes | None:
        """The encoded command to remind the leader of: one of those whose turn is due, the oldest.

        ``wait`` is how many ticks a command may wait before. None: nothing to say, or the
        leader was told of all of them already.
        """
        due = {f.source: f for f in mempool.fronts() if now - f.since >= wait}
        for source, suspicion in list(self.suspicions.items()):
            front = due.get(source)
            if front is None or front.command_id != suspicion.front.command_id:
                del self.suspicions[source]  # it was served, or its row moved on
        untold = (front for source, front in due.items() if source not in self.suspicions)
        oldest = min(untold, key=lambda f: (f.since, f.source), default=None)
        if oldest is None:
            return None
        self.suspicions[oldest.source] = Suspicion(oldest, now)
        waiting = mempool.get(oldest.command_id)
        assert waiting is not None
        return waiting.raw

    def reconnected(self, mempool: Mempool, now: int) -> list[bytes]:
        """The link to the leader is new: what to remind it of again, for it may have been lost.

        What was counted is forgotten, once: a leader must not escape by links that go and come.
        """
        for suspicion in self.suspicions.values():
            if not suspicion.renewed:
                suspicion.reminded, suspicion.renewed = now, True
                suspicion.skips = suspicion.crowded = 0
        waiting = (mempool.get(s.front.command_id) for s in self.suspicions.values())
        return [w.raw for w in waiting if w is not None]

    def saw_block(
        self,
        block: Block,
        mempool: Mempool,
        now: int,
        settle: int,
        is_below: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        """Judges a block that the leader proposed: which of the commands did it skip?

        ``settle`` is how many ticks apart two commands may arrive in another order elsewhere, and
        how long the reminder may take. A block is excused when it serves what the same source
        gave us before or little later, or when it is full of commands as old as that; of other
        full blocks only as many as a turn of all sources may take are one skip.
        ``is_below`` tells whether a command is in a block that is not final yet.
        """
        judged = [s for s in self.suspicions.values() if now - s.reminded >= settle]
        if not judged:
            return
        oldest: dict[int, int] = {}  # when of each source the first came that is in the block
        newest, size = 0, 0
        for raw in block.commands:
            size += len(raw)
            given = mempool.given(raw_command_id(raw))
            # What we do not have is new.
            newest = max(newest, min((since for _, since in given), default=now + 1))
            for source, since in given:
                oldest[source] = min(since, oldest.get(source, since))
        is_full = _is_full(len(block.commands), size)
        blocks_per_turn = 1 + len(mempool.fronts()) // COMMANDS_PER_BLOCK_MIN
        for s in judged:
            newest_excused = s.front.since + settle
            served = s.front.command_id in block.command_ids or is_below(s.front.command_id)
            if served or oldest.get(s.front.source, now + 1) <= newest_excused:
                s.skips = s.crowded = 0
            elif not is_full:
                s.skips += 1
            elif newest > newest_excused:
                s.crowded += 1
                if s.crowded == blocks_per_turn:
                    s.skips, s.crowded = s.skips + 1, 0

    def skipped(self, times: int) -> Front | None:
        """Of the commands that so many blocks in a row left out, the one that waits longest."""
        fronts = (s.front for s in self.suspicions.values() if s.skips >= times)
        return min(fronts, key=lambda f: (f.since, f.source), default=None)


def _is_full(commands: int, size: int) -> bool:
    """True when a block may have had no room for one command more."""
    room = limits.BLOCK_BYTES_MAX - size
    return commands == limits.BLOCK_COMMANDS_MAX or room < limits.COMMAND_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Sample:
    """How a leader does at one tick, while commands wait.

    ``index`` is that of the view. ``due``: nothing is missing but its proposal. ``held_up``: it
    may not propose before something becomes final. ``withholds``: a view of its own is notarized
    for a tick and not final, and its own ``Finalize`` is missing.
    """

    index: int
    due: bool = False
    held_up: bool = False
    withholds: bool = False


class Pace:
    """Finds a leader that lets commands wait.

    Judged over a ``window`` of ticks, in which it must have been bad all the time, and one longer
    by two thirds, for the leader that is quick once in a while: most of the time is enough there.
    """

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque(maxlen=SAMPLES_KEPT)

    def forget(self) -> None:
        """Another leader."""
        self._samples.clear()

    def sample(self, sample: Sample) -> None:
        """Notes one tick."""
        self._samples.append(sample)

    def _last(self, length: int) -> list[Sample]:
        return list(self._samples)[-length:] if len(self._samples) >= length else []

    def is_slow(self, window: int, blocks: int) -> bool:
        """True when it was due, and made fewer than ``blocks`` in a ``window``."""
        longer = _longer(window)
        for length, least in ((window, window), (longer, longer * 7 // 10)):
            recent = self._last(length)
            if recent and sum(s.due for s in recent) >= least:
                made = recent[-1].index - recent[0].index
                if made * window < blocks * length:
                    return True
        return False

    def is_stalling(self, window: int) -> bool:
        """True when finality waited for it."""
        recent = self._last(window)
        if not recent:
            return False
        # Finality comes back now and then, when others repair it (R7): two thirds will do.
        return all(s.held_up for s in recent) or 3 * sum(s.withholds for s in recent) >= 2 * window


def _longer(window: int) -> int:
    return window + 2 * window // 3


class ChainWatch:
    """The chain heads that we saw, and when: others have a while to see them too.

    Finalized heads advance in jumps (minutes, on a rollup), so the age of a head says little; that
    we have known it for long and the leader does not says all.
    """

    def __init__(self) -> None:
        self._heads: deque[tuple[int, int]] = deque(maxlen=HEADS_KEPT)
        self.block = 0
        self.time_ms = 0

    def saw(self, block: int, time_ms: int, now: int) -> None:
        """A head at tick ``now``; an older one than known is ignored."""
        if block <= self.block:
            return
        self.block, self.time_ms = block, time_ms
        if not self._heads or now - self._heads[-1][0] >= HEADS_APART:
            self._heads.append((now, block))

    def known_since(self, now: int, ticks: int) -> int:
        """The highest block that we have known for at least so many ticks; 0 when none."""
        return max((block for at, block in self._heads if now - at >= ticks), default=0)


@dataclass(slots=True)
class Patience:
    """How much longer our timers are because our own complaints proved false.

    One step is half of the base of the leader timer. A step is taken when a leader that we
    complained about turns out to have been well, at most once a term, and given back after a
    while in which finality went on. So one member with a bad link, together with liars, can
    depose a few leaders and then only one in a long while (R13).
    """

    most: int
    decay: int  # ticks with finality per step given back
    level: int = 0  # steps
    _wrong_term: tuple[int, int] = (0, 0)  # epoch and term of the last one
    _good: int = 0  # ticks with finality since the last step either way

    def was_wrong(self, epoch: int, term: int) -> bool:
        """Our complaint about the leader of a term proved false; False when that is known."""
        if self._wrong_term == (epoch, term):
            return False
        self._wrong_term = (epoch, term)
        self._good = 0
        self.level = min(self.level + 1, self.most)
        return True

    def tick(self, progress: bool) -> None:
        """One tick of the health timer; ``progress``: something became final since the last."""
        if self.level and progress:
            self._good += 1
            if self._good >= self.decay:
                self._good = 0
                self.level -= 1
