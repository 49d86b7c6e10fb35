"""Fetching what we lack (R16): single candidate blocks, and stretches of final ones.

Theory of operation
-------------------
A member that is behind believes no height that a peer claims (CVE-2025-24371 is the engine that
did). It follows a finalization, the ``target``, and learns heights from answers that prove
themselves: blocks, headers that link the last of them to a finalized one, and the finalization.
So an answer is checked when it comes, whatever is missing below it, and several members can be
asked at once.

Heights are cut into *spans*, as long as one answer held lately. Each member has at most one
request at a time; whoever is idle gets the lowest span that nobody has. Answers above a gap wait
in ``ready`` until the gap is filled, within ``READY_BYTES_MAX``. The lowest span decides when we
go on: unanswered for one retry, it is asked of somebody else too. A member that answers nothing
for some retries, or lies, is asked no more while others are there, the longer the more often.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from . import limits
from .digests import block_hash, linked_hash
from .interface import Send
from .types import Block, Certificate, FinalHeader, VoteKind
from .wire import BlockRequest, SyncReply, SyncRequest

WANTED_MAX = 64
READY_BYTES_MAX = 4 * 1024 * 1024
REQUESTS_MAX = 8  # at a time; each is answered with at most one message
RETRIES_MAX = 4  # without an answer, until a member counts as slow
BARRED_RETRIES = 4  # how long it is spared then, doubled each time
BARRED_RETRIES_MAX = 128


@dataclass(frozen=True, slots=True)
class _Request:
    """Heights that a member was asked for, and at which retry."""

    first: int
    last: int
    since: int


@dataclass(frozen=True, slots=True)
class Stretch:
    """Certified blocks of consecutive heights; ``final`` is that of the last one if ``direct``."""

    blocks: tuple[Block, ...]
    final: Certificate
    direct: bool

    @property
    def first(self) -> int:
        return self.blocks[0].header.height

    @property
    def last(self) -> int:
        return self.blocks[-1].header.height

    @property
    def size(self) -> int:
        """Bytes of its blocks, roughly."""
        return sum(len(block.body) + 256 for block in self.blocks)


class CatchUp:
    """What was asked for and not received yet, and what came too early."""

    def __init__(self, height: int) -> None:
        # A dict for its order: the order of a set of bytes differs from process to process.
        self.wanted: dict[bytes, None] = {}
        self.target: Certificate | None = None  # a finalization whose blocks we do not all have
        self.paused = False  # a snapshot is on its way: it will bring us further than blocks
        self.best_height = height  # the highest height that a certificate proved
        self.held = height  # without a gap up to here: final and applied, or certified and at hand
        self._ready: dict[int, Stretch] = {}  # by first height, none overlaps another
        self._asked: dict[int, _Request] = {}  # by seat
        self._barred: dict[int, int] = {}  # by seat: not asked before this retry
        self._offences: dict[int, int] = {}
        self._had_turn: set[int] = set()  # not asked again before the next retry
        self._idle = 0  # retries in which nothing came
        self._span = limits.SYNC_BLOCKS_MAX  # heights that fit in an answer
        self._retries = 0

    # --- single blocks ---

    def want_block(
        self, block: bytes, connected: Iterable[int], preferred: int | None
    ) -> list[Send]:
        """Asks once for a block; retries go through ``retry``."""
        if block in self.wanted or len(self.wanted) >= WANTED_MAX:
            return []
        self.wanted[block] = None
        peers = self._order(connected, preferred)
        return [Send(peers[0], BlockRequest(block))] if peers else []

    # --- the chain ---

    def follow(
        self, target: Certificate, connected: Iterable[int], preferred: int | None
    ) -> list[Send]:
        """Asks for the finalized blocks up to ``target``."""
        if self.target is None or target.view > self.target.view:
            self.target = target
        return self.ask(connected, preferred)

    def ask(self, connected: Iterable[int], preferred: int | None = None) -> list[Send]:
        """Gives every idle member something to fetch."""
        sends: list[Send] = []
        if self.target is None or self.paused:
            return sends
        for seat in self._order(connected, preferred):
            if len(self._asked) >= REQUESTS_MAX:
                break
            if seat in self._asked or seat in self._had_turn:
                continue
            span = self._next_span()
            if span is None:
                break
            first, last = span
            self._asked[seat] = _Request(first, last, self._retries)
            sends.append(Send(seat, SyncRequest(first, last - first + 1)))
        return sends

    def _next_span(self) -> tuple[int, int] | None:
        """The lowest heights that are neither here nor asked for."""
        at, end = self.held + 1, self.best_height
        for first, last in sorted(self._covered()):
            if first > at:
                end = first - 1
                break
            at = max(at, last + 1)
        if at == self.held + 1 and end < at:
            end = at + self._span  # there must be something, though no height is proved yet
        elif at > end or (at > self.held + 1 and self._is_full()):
            return None
        return at, min(end, at + self._span - 1)

    def _covered(self) -> Iterator[tuple[int, int]]:
        for stretch in self._ready.values():
            yield stretch.first, stretch.last
        for request in self._asked.values():
            # The span that all wait for is asked of another member at each retry.
            if request.first > self.held + 1 or request.since == self._retries:
                yield request.first, request.last

    def _is_full(self) -> bool:
        return sum(stretch.size for stretch in self._ready.values()) >= READY_BYTES_MAX

    def _order(self, connected: Iterable[int], preferred: int | None) -> list[int]:
        """Members in the order in which they are asked; others first at each retry."""
        seats = sorted(connected)
        free = [s for s in seats if self._barred.get(s, 0) <= self._retries] or seats
        if preferred in free:
            free.remove(preferred)
            free.insert(0, preferred)
            return free
        turn = self._retries % len(free) if free else 0
        return free[turn:] + free[:turn]

    def turn(self, connected: Iterable[int]) -> int | None:
        """The member whose turn it is to be asked, another one at each retry."""
        return next(iter(self._order(connected, None)), None)

    # --- answers ---

    def useful(self, sender: int, first: int, last: int) -> bool:
        """True when blocks of these heights are worth checking: asked for, or the very next."""
        if self.target is None or last <= self.held:
            return False
        return sender in self._asked or first <= self.held + 1

    def take(self, sender: int, reply: SyncReply) -> None:
        """Keeps a checked answer, whole or what of it is new."""
        self._asked.pop(sender, None)
        self._offences.pop(sender, None)
        self._barred.pop(sender, None)
        whole = Stretch(reply.blocks, reply.finalization, not reply.links)
        most = limits.SYNC_BYTES_MAX * len(reply.blocks) // whole.size
        self._span = min(max(most, 1), limits.SYNC_BLOCKS_MAX)
        blocks = tuple(b for b in reply.blocks if b.header.height > self.held)
        proved = reply.blocks[-1].header.height + len(reply.links)
        self.best_height = max(self.best_height, proved)
        stretch = replace(whole, blocks=blocks)
        overlaps = (
            stretch.first <= other.last and other.first <= stretch.last
            for other in self._ready.values()
        )
        lowest = stretch.first == self.held + 1
        if lowest or not (any(overlaps) or self._is_full()):
            self._ready[stretch.first] = stretch

    def prove(self, head: FinalHeader) -> None:
        """A finalized header (checked) shows how far the chain goes."""
        self.best_height = max(self.best_height, head.header.height)

    @property
    def is_idle(self) -> bool:
        """True while nothing is followed, or nothing came of it between two retries."""
        return self.target is None or self._idle > 1

    def next_stretch(self) -> Stretch | None:
        """The next blocks in order, when they are here; they count as held then."""
        for first in sorted(self._ready):
            if first > self.held + 1:
                return None
            stretch = self._ready.pop(first)
            if stretch.last > self.held:
                self.held = stretch.last
                return stretch
        return None

    def pick(self, connected: Iterable[int]) -> int | None:
        """Whom to ask for something big; None when everybody had their turn before the retry."""
        return next((s for s in self._order(connected, None) if s not in self._had_turn), None)

    def may_help(self, connected: Iterable[int]) -> bool:
        """True when some of these members were not found wanting yet."""
        return any(
            s not in self._had_turn and self._barred.get(s, 0) <= self._retries for s in connected
        )

    def is_stuck_at(self, sender: int) -> bool:
        """True while a member owes us the very next blocks."""
        request = self._asked.get(sender)
        return request is not None and request.first <= self.held + 1

    def has_nothing(self, sender: int) -> None:
        """A member cannot give what we asked for; no offence."""
        self._asked.pop(sender, None)
        self._had_turn.add(sender)

    def bar(self, sender: int, *, most: bool = False) -> None:
        """A member did not answer in time, or (``most``) lied."""
        self.has_nothing(sender)
        offences = self._offences[sender] = self._offences.get(sender, 0) + 1
        spared = BARRED_RETRIES_MAX if most else BARRED_RETRIES << min(offences - 1, 8)
        until = self._retries + min(spared, BARRED_RETRIES_MAX)
        self._barred[sender] = max(until, self._barred.get(sender, 0))

    def unneeded(self, sender: int, first: int) -> None:
        """An answer that says nothing new ends the request that it answers, and no other one.

        Were each copy of an answer to lead to a request, the two could multiply without end.
        """
        request = self._asked.get(sender)
        if request is not None and request.first == first:
            del self._asked[sender]

    def lost(self, seat: int) -> None:
        """The link to a member closed: it will not answer."""
        self._asked.pop(seat, None)

    def installed(self, height: int) -> None:
        """A snapshot was installed."""
        self.paused = False
        self._start_over(height)

    def reached(self, certificate: Certificate, height: int) -> None:
        """The blocks up to ``certificate`` are applied."""
        self.wanted.clear()
        self._idle = 0
        self.held = max(self.held, height)
        self.best_height = max(self.best_height, height)
        if self.target is not None and self.target.view <= certificate.view:
            self.target = None
            self._start_over(height)

    def _start_over(self, height: int) -> None:
        """Forgets what came above ``height``: whatever is wrong with it, it shall not stay so."""
        self.held, self._idle = height, 0
        self._ready.clear()
        self._asked.clear()

    def retry(self, height: int, connected: Iterable[int]) -> list[Send]:
        """Asks somebody else for what is still missing above ``height``, which is applied."""
        # One step for all: were each request to take a step, three of them would go to the same
        # of three members every time, and a silent one would keep us behind for ever.
        self._retries += 1
        self._had_turn.clear()
        self._idle += 1
        if self._idle > BARRED_RETRIES_MAX:
            self._start_over(height)
        for seat, request in list(self._asked.items()):
            if self._retries - request.since >= RETRIES_MAX:
                self.bar(seat)
        peers = self._order(connected, None)
        sends = [Send(peers[0], BlockRequest(block)) for block in self.wanted if peers]
        return sends + self.ask(connected)


def is_consistent(reply: SyncReply, cluster_id: bytes) -> bool:
    """True when the blocks and links of an answer form one chain that ends in its finalization.

    The finalization itself is checked by the caller.
    """
    if not reply.blocks or reply.finalization.kind is not VoteKind.FINALIZE:
        return False
    last_hash, height = reply.blocks[0].header.parent, reply.blocks[0].header.height
    for block in reply.blocks:
        if block.header.parent != last_hash or block.header.height != height:
            return False
        last_hash, height = block.hash, height + 1
    return linked_hash(cluster_id, last_hash, height - 1, reply.links) == reply.finalization.block


def is_final(head: FinalHeader, cluster_id: bytes) -> bool:
    """True when a finalization names the header; it is checked itself by the caller."""
    return (
        head.finalization.kind is VoteKind.FINALIZE
        and block_hash(cluster_id, head.header) == head.finalization.block
    )
