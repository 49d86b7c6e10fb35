"""What final blocks say about members is shown to the chain by one of them, once."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import trio

from chain import (
    CallReverted,
    ChainError,
    InsufficientFunds,
    ShownDeposal,
    ShownEpoch,
    ShownLeader,
)
from chain.keys import LocalKey, keccak256, recover
from consensus.compact import compact_parts
from consensus.digests import digest_of, header_bytes
from consensus.types import (
    Block,
    Boundary,
    Certificate,
    Evidence,
    Header,
    Part,
    View,
    Vote,
    VoteKind,
)
from node.showing import shown_epoch, signed_vote
from node.witness import RETRY_S, TURN_S, Witness

SIGNATURE = b"\x01" * 64 + b"\x1b"
CLUSTER = b"c" * 32
ALREADY = CallReverted("AlreadyMarked", "AlreadyMarked()", b"")


def vote(seat: int, block: bytes, kind: VoteKind = VoteKind.NOTARIZE) -> Vote:
    unsigned = Vote(kind, 0, View(1, 4), seat, block, 0, b"")
    key = LocalKey(keccak256(bytes([seat])))
    return unsigned._replace(signature=key.sign(digest_of(CLUSTER, unsigned)))


def pair(seat: int) -> Evidence:
    return Evidence(vote(seat, b"a" * 32), vote(seat, b"b" * 32))


DEPOSED = Certificate(VoteKind.NULLIFY, 0, View(1, 9), bytes(32), (Part(2, 1, SIGNATURE),))


def block(*pairs: Evidence, nullifications: tuple[Certificate, ...] = (), term: int = 1) -> Any:
    header = Header(0, View(term, 0), 3, 7, bytes(32), 0, bytes(32), 6, bytes(32))
    return SimpleNamespace(
        evidence=pairs, nullifications=nullifications, header=header, next_epoch=None
    )


class Chain:
    """The contract as all members of a test see it."""

    def __init__(self) -> None:
        self.named = True
        self.shown: list[tuple[Any, ...]] = []
        self.convicted_keys: set[bytes] = set()
        self.deposed: dict[int, tuple[int, int]] = {}
        self.failures: list[ChainError] = []

    async def convicted(self, key: bytes) -> bool:
        return key in self.convicted_keys

    async def prove_conflict(self, seat: int, first: Any, second: Any, until: Any) -> None:
        self._take("conflict", seat, first, second)
        self.convicted_keys.add(key_of(seat))

    async def knows_epoch(self, epoch: int) -> bool:
        return any(what[1] == "epoch" and what[2].epoch == epoch for what in self.shown)

    async def open_epoch(self, shown: ShownEpoch, until: Any) -> None:
        self._take("epoch", shown)

    async def record_leader(self, shown: ShownLeader, until: Any) -> None:
        self._take("leader", shown)

    async def last_deposed(self, seat: int) -> tuple[int, int]:
        return self.deposed.get(seat, (0, 0))

    async def depose(self, shown: ShownDeposal, until: Any) -> None:
        self._take("deposal", shown)

    def _take(self, *what: Any) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.shown.append((trio.current_time(), *what))


def key_of(seat: int) -> bytes:
    signed = vote(seat, b"a" * 32)
    return recover(digest_of(CLUSTER, signed), signed.signature)


def member(
    chain: Chain,
    seat: int,
    *,
    leader: int = 3,
    kept: tuple[Evidence, ...] = (),
    epoch: int = 0,
    proof: Any = None,
    signed: Any = None,
    store: Any = None,
    previous: Any = None,
    **what: bool,
) -> Witness:
    seats = (1, 2, 3, 4)
    keys = {s: key_of(s) for s in seats}
    validators = SimpleNamespace(seats=seats, epoch=epoch, keys=keys)
    engine = SimpleNamespace(
        cluster_id=CLUSTER,
        validators=validators,
        evidence_sets=(validators,) if previous is None else (validators, previous),
        view=View(1, 0),
        leader=lambda term: leader,
        evidence=kept,
        machine=SimpleNamespace(standing=SimpleNamespace(convicted=(2,))),
        leadership=lambda: proof,
        signed=signed or {},
    )
    what = {"evidence": True, "leaders": False, "deposals": False} | what

    async def read_epoch(number: int) -> ShownEpoch | None:
        return None if store is None else shown_epoch(store, number)

    return Witness(
        chain,  # type: ignore[arg-type]
        seat,
        engine,  # type: ignore[arg-type]
        read_epoch,
        **what,
    )


async def run_all(*members: Witness, seconds: float = 1000) -> None:
    async with trio.open_nursery() as nursery:
        for each in members:
            nursery.start_soon(each.run)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


def states(witness: Witness) -> list[str]:
    return [row["state"] for row in witness.status()]


async def test_the_leader_shows_a_conflict_once_and_the_others_find_it_known(
    autojump_clock: Any,
) -> None:
    chain = Chain()
    members = [member(chain, seat) for seat in (1, 3, 4)]
    for each in members:
        each.saw(block(pair(2)))
        each.saw(block(pair(2)))
    await run_all(*members)
    ((_, kind, seat, first, second),) = chain.shown
    assert (kind, seat) == ("conflict", 2)
    assert first == signed_vote(pair(2).first) and second == signed_vote(pair(2).second)
    assert [states(each) for each in members] == [["known"], ["shown"], ["known"]]


async def test_when_the_leader_does_not_the_others_take_their_turns(autojump_clock: Any) -> None:
    chain, started = Chain(), trio.current_time()
    first, second = member(chain, 4), member(chain, 1)  # the order is 3, 4, 1, 2
    for each in (first, second):
        each.saw(block(pair(2)))
    await run_all(second)
    assert 2 * TURN_S <= chain.shown[0][0] - started < 2 * TURN_S + 5
    await run_all(first)
    assert len(chain.shown) == 1 and states(first) == ["known"]


async def test_a_member_does_not_accuse_itself_and_an_observer_shows_nothing(
    autojump_clock: Any,
) -> None:
    chain = Chain()
    liar, observer = member(chain, 2), member(chain, 9)
    for each in (liar, observer):
        each.saw(block(pair(2)))
    await run_all(liar, observer)
    assert chain.shown == [] and liar.status() == []
    assert states(observer) == ["waiting"]


async def test_what_convicted_before_a_restart_is_shown_after_it(autojump_clock: Any) -> None:
    chain = Chain()
    await run_all(member(chain, 3, kept=(pair(2), pair(4))))
    assert [shown[2] for shown in chain.shown] == [2], "4 is accused, not convicted"


async def test_evidence_of_who_left_the_set_is_shown_though_no_block_takes_it(
    autojump_clock: Any,
) -> None:
    chain = Chain()
    before = SimpleNamespace(
        epoch=0, keys={1: key_of(1), 4: b"a key that was replaced", 5: key_of(5)}
    )
    kept = (pair(1), pair(4), pair(5))
    members = [member(chain, seat, kept=kept, epoch=1, previous=before) for seat in (2, 3)]
    await run_all(*members)
    assert [shown[2] for shown in chain.shown] == [4, 5], "1 waits for a block"
    assert [states(each) for each in members] == [["known"] * 2, ["shown"] * 2]


async def test_a_refusal_ends_it_and_trouble_is_tried_again_later(autojump_clock: Any) -> None:
    chain, started = Chain(), trio.current_time()
    chain.failures = [InsufficientFunds("no money"), ChainError("no 2 endpoints agree")]
    poor = member(chain, 3)
    poor.saw(block(pair(2)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poor.run)
        await trio.sleep(RETRY_S / 2)
        (row,) = poor.status()
        assert (row["state"], row["reason"]) == ("waiting", "no money")
        await trio.sleep(3 * RETRY_S)
        nursery.cancel_scope.cancel()
    assert states(poor) == ["shown"] and chain.shown[0][0] - started >= 2 * RETRY_S

    # What another member must show first is not given up at once.
    chain.failures = [CallReverted("UnknownEpoch", "UnknownEpoch(3)", b"")]
    early = member(chain, 3)
    early.saw(block(pair(1)))
    await run_all(early)
    assert states(early) == ["shown"]
    chain.shown.clear()
    chain.convicted_keys.clear()

    chain.failures = [CallReverted("BadSignature", "BadSignature(4)", b""), ALREADY]
    refused = member(chain, 3)
    refused.saw(block(pair(4)))
    refused.saw(block(pair(1)))
    await run_all(refused)
    assert states(refused) == ["refused", "known"] and chain.shown == []
    assert refused.status()[0]["reason"] == "BadSignature(4)"


async def test_without_a_contract_it_waits_and_says_so(autojump_clock: Any) -> None:
    chain = Chain()
    chain.named = False
    witness = member(chain, 3)
    witness.saw(block(pair(2)))
    await run_all(witness)
    assert chain.shown == [] and "names no contract" in witness.status()[0]["reason"]
    chain.named = True
    await run_all(witness)
    assert states(witness) == ["shown"]


async def test_leaders_and_deposals_are_shown_only_where_that_is_asked_for(
    autojump_clock: Any,
) -> None:
    chain = Chain()
    silent = member(chain, 3, evidence=False)
    silent.saw(block(pair(2), nullifications=(DEPOSED,), term=2))
    await run_all(silent)
    assert chain.shown == [] and silent.status() == []
    (kept,) = await silent.certificates()  # for whoever wants to pay for it
    assert kept == ShownDeposal(0, 1, 9, compact_parts(DEPOSED.parts))

    telling = member(chain, 3, deposals=True, leaders=True)
    for term in (1, 2, 2):
        telling.saw(block(nullifications=(DEPOSED,) if term == 2 else (), term=term))
    await run_all(telling)
    assert [shown[1:] for shown in chain.shown] == [("deposal", kept)]
    rows = {row["what"]: row for row in telling.status()}
    assert set(rows) == {"deposed leader of term 0.1", "leader of term 0.2"}
    assert rows["leader of term 0.2"]["reason"] == "no block of the term is final yet"


async def test_a_deposed_leader_is_named_by_what_it_signed(autojump_clock: Any) -> None:
    """Its leadership need not be on record, and nobody but its own signature can put it there."""
    chain = Chain()
    proposed = block(term=1).header
    witness = member(chain, 3, deposals=True, signed={(0, 1): (proposed, SIGNATURE)})
    witness.saw(block(nullifications=(DEPOSED,), term=2))
    await run_all(witness)
    ((_, _, shown),) = chain.shown
    assert (shown.header, shown.signature) == (header_bytes(proposed), SIGNATURE)
    assert shown.seat == 3


async def test_a_deposal_on_record_is_not_shown_again(autojump_clock: Any) -> None:
    """Under another policy than then it would suspend a seat that was marked for it."""
    chain = Chain()
    proposed = Header(0, View(1, 8), 2, 7, bytes(32), 0, bytes(32), 6, bytes(32))
    chain.deposed[2] = (0, 1)
    witness = member(chain, 3, deposals=True, signed={(0, 1): (proposed, SIGNATURE)})
    witness.saw(block(nullifications=(DEPOSED,), term=2))
    await run_all(witness)
    assert not chain.shown
    assert states(witness) == ["known"]


class Disk:
    """Epoch 1: a boundary block, and two blocks on it, of which the second is directly final."""

    def __init__(self) -> None:
        before = block(term=1).header
        self.final = Certificate(
            VoteKind.FINALIZE, 1, View(1, 1), bytes(32), (Part(2, 0, SIGNATURE),)
        )
        record: Any = SimpleNamespace(epoch=1, chain_block=55)
        self.boundary = Block(before, b"h" * 32, b"body", (), (), (), record)
        self.headers = [replace(before, epoch=1, view=View(1, index)) for index in (0, 1)]
        self.is_synced = False
        self.proof = SimpleNamespace(header=self.headers[1], certificate=self.final)

    def openings_from(self, epoch: int) -> Any:
        if epoch != 0:
            return None
        return SimpleNamespace(openings=(Boundary(self.boundary, self.final, ()),))

    def blocks_from(self, height: int, count: int) -> Any:
        assert (height, count) == (self.boundary.header.height + 1, 1)
        if not self.is_synced:
            return None
        blocks = tuple(SimpleNamespace(header=header) for header in self.headers)
        return SimpleNamespace(blocks=blocks, links=(), finalization=self.final)

    def shown(self) -> ShownEpoch:
        both = b"".join(map(header_bytes, self.headers))
        before = header_bytes(self.boundary.header)
        return ShownEpoch(before, b"body", both, compact_parts(self.final.parts), 55)


async def test_an_epoch_is_shown_before_its_leader_as_soon_as_it_can_be_proven(
    autojump_clock: Any,
) -> None:
    chain, disk = Chain(), Disk()
    witness = member(chain, 3, evidence=False, leaders=True, epoch=1, store=disk, proof=disk.proof)
    for header in disk.headers:
        witness.saw(
            SimpleNamespace(evidence=(), nullifications=(), header=header)  # type: ignore[arg-type]
        )
    await run_all(witness, seconds=3)
    assert chain.shown == [] and witness.status()[0]["reason"].startswith("no block of it")
    disk.is_synced = True
    await run_all(witness, seconds=3)
    assert [shown[1:] for shown in chain.shown] == [
        ("epoch", disk.shown()),
        ("leader", ShownLeader(header_bytes(disk.headers[1]), compact_parts(disk.final.parts))),
    ]
    assert [type(shown) for shown in await witness.certificates()] == [ShownEpoch, ShownLeader]


async def test_an_epoch_that_is_pruned_holds_up_nothing_and_one_of_before_a_restart_is_shown(
    autojump_clock: Any,
) -> None:
    chain, disk = Chain(), Disk()
    pruned = member(chain, 3, evidence=False, leaders=True, epoch=1, store=disk, proof=disk.proof)
    pruned.saw(
        SimpleNamespace(evidence=(), nullifications=(), header=disk.headers[1])  # type: ignore[arg-type]
    )
    await run_all(pruned)
    assert [shown[1] for shown in chain.shown] == ["leader"]

    disk.is_synced = True
    restarted = member(chain, 3, deposals=True, epoch=1, store=disk)
    await run_all(restarted)
    assert [shown[1] for shown in chain.shown] == ["leader", "epoch"]
    other = member(chain, 4, deposals=True, epoch=1, store=disk)
    await run_all(other)
    assert len(chain.shown) == 2 and states(other) == ["known"]


def test_a_nullify_vote_names_no_block() -> None:
    shown = signed_vote(vote(2, b"a" * 32, VoteKind.NULLIFY)._replace(signature=SIGNATURE))
    assert shown.block_hash == bytes(32) and shown.kind == 2
    assert shown.fields()[-2:] == (b"\x01" * 32, b"\x01" * 32)
