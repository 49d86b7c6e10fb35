"""Members show each other evidence before the first payload, and again on the live link."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import msgpack
import pytest
import trio

from node.network import MessageFrom, peer_id_of
from node.network.attesting import CODE_BUSY, Attesting, Pair, Statement
from node.network.buckets import TokenBucket
from node.network.errors import LinkBroken, Unproven
from node.network.frames import encode_control, encode_frame
from node.network.handshake import Established
from node.network.proof_frames import (
    Ask,
    Cannot,
    ProofMessage,
    Show,
    Verdict,
    decode_proof,
)

from .conftest import (
    CLUSTER,
    FAST,
    PATIENCE_S,
    Network,
    Notary,
    Running,
    address,
    linked,
    node_key,
    secret_of,
    settled,
    wait_closed,
    wait_until,
)


async def two(network: Network, **changes: object) -> tuple[Running, Notary, Running, Notary]:
    a, b = Notary(), Notary()
    one = await network.start(1, attestor=a, **changes)
    other = await network.start(2, attestor=b, **changes)
    table = [address(1, one.mesh.listen_address), address(2, other.mesh.listen_address)]
    one.mesh.set_members(table)
    other.mesh.set_members(table)
    return one, a, other, b


async def test_both_sides_prove_seat_boot_and_session_before_the_first_payload(
    network: Network,
) -> None:
    one, a, other, b = await two(network)
    b.boot = 9
    await one.up(2)
    await other.up(1)
    assert one.mesh.send(2, b"ping")
    assert await other.message(1) == b"ping"
    assert a.judged == b.proven and b.judged == a.proven
    (shown,) = b.proven
    (mine,) = a.proven
    assert (shown.cluster_id, shown.seat, shown.incarnation) == (CLUSTER, 2, 9)
    assert shown.prover == mine.verifier == peer_id_of(node_key(secret_of(2)))
    assert shown.verifier == mine.prover == peer_id_of(node_key(secret_of(1)))
    nonces = {shown.prover_nonce, shown.verifier_nonce, mine.prover_nonce, mine.verifier_nonce}
    assert len(nonces) == 4 and all(len(nonce) == 32 for nonce in nonces)
    assert shown.session == mine.session and len(mine.session) == 32


async def test_no_two_connections_have_the_same_session(network: Network) -> None:
    one, a, _, _ = await two(network)
    await one.up(2)
    one.mesh.cut(2, "test")
    await one.up(2)
    assert len({s.session for s in a.judged}) == len({s.verifier_nonce for s in a.judged}) == 2


async def test_who_asks_for_quotes_and_who_does_not_do_not_link_and_say_so(
    network: Network,
) -> None:
    one = await network.start(1, attestor=Notary())
    other = await network.start(2, members=[address(1, one.mesh.listen_address)])
    one.mesh.set_members([address(2, other.mesh.listen_address)])
    await wait_until(lambda: one.mesh.refused["attests_no_quotes"])
    await wait_until(lambda: other.mesh.refused["wants_quotes"] or other.log.of("dial_failed"))
    assert not one.connected(2) and not other.connected(1)


async def test_a_member_that_does_not_satisfy_is_told_a_code_and_others_are_not_touched(
    network: Network,
) -> None:
    one, a, other, _b = await two(network)
    await one.up(2)
    a.refuses.add(3)
    c = Notary()
    third = await network.start(
        3,
        attestor=c,
        members=[
            address(1, one.mesh.listen_address),
            address(2, other.mesh.listen_address),
        ],
    )
    for node in (one, other):
        node.mesh.set_members(
            [
                address(1, one.mesh.listen_address),
                address(2, other.mesh.listen_address),
                address(3, third.mesh.listen_address),
            ]
        )
    await third.up(2)
    await wait_until(lambda: c.refused_by)
    assert c.refused_by[0] == (1, 8, b"newer")
    await wait_until(lambda: one.mesh.refused["attestation_compose"])
    (record,) = one.log.of("peer_refused")[:1]
    assert record["reason"] == "attestation_compose" and record["detail"] == "details"
    assert one.mesh.links()[1].down_reason == "attestation_compose"
    assert not one.connected(3) and one.connected(2)
    # What it was refused for is over: it need not sit its waits out.
    a.refuses.clear()
    for peer in (*one.mesh._peers.values(), *third.mesh._peers.values()):
        peer.penalty_s = peer.denied_backoff_s = 1000.0
        peer.refused_until = peer.left_alone_until = trio.current_time() + 1000
    one.mesh.forgive()
    third.mesh.forgive()
    await one.up(3)


async def test_a_refused_member_waits_longer_each_time(network: Network) -> None:
    one, a, other, b = await two(network, penalty_s=0.01, penalty_max_s=0.05)
    a.refuses.add(2)
    await wait_until(lambda: one.mesh._peers[2].penalty_s > 0.01)
    await wait_until(lambda: other.mesh._peers[1].denied_backoff_s or len(b.refused_by) > 2)
    assert not one.connected(2)


async def test_a_member_without_a_quote_is_not_let_in_and_comes_when_it_has_one(
    network: Network,
) -> None:
    one, a, _other, b = await two(network)
    b.failure = Unproven(77, "the agent does not answer")
    await wait_until(lambda: one.mesh.refused["unproven"] or one.log.of("dial_failed"))
    assert not one.connected(2) and not a.judged
    b.failure = None
    await one.up(2)
    assert one.mesh._peers[2].penalty_s == 0.0


async def test_a_slow_quote_delays_only_its_own_link(network: Network) -> None:
    one, _a, other, b = await two(network)
    b.hold = trio.Event()
    await wait_until(lambda: b.proven)
    third = await network.start(
        3, attestor=Notary(), members=[address(1, one.mesh.listen_address)], dial_grace_s=0.0
    )
    one.mesh.set_members([address(2, other.mesh.listen_address), address(3)])
    await third.up(1)
    assert not one.connected(2)
    # Whoever is proving is not dialled once more.
    assert len(b.proven) == 1
    b.hold.set()
    await one.up(2)


async def test_fresh_evidence_on_the_live_link_does_not_disturb_it(network: Network) -> None:
    one, a, other, _b = await two(network)
    await one.up(2)
    await other.up(1)
    before = one.mesh._peers[2].link
    for number in range(5):
        assert one.mesh.send(2, b"%d" % number)
        assert await one.mesh.ask(2) is True
    assert await other.mesh.ask(1) is True
    assert [await other.message(1) for _ in range(5)] == [b"%d" % n for n in range(5)]
    assert one.mesh._peers[2].link is before
    assert len(a.judged) == 6 and len({s.verifier_nonce for s in a.judged}) == 6
    assert len({s.session for s in a.judged}) == 1


async def test_evidence_that_does_not_satisfy_any_more_ends_the_link_with_its_reason(
    network: Network,
) -> None:
    one, a, _other, _b = await two(network)
    await one.up(2)
    a.refuses.add(2)
    assert await one.mesh.ask(2) is False
    assert await one.down(2) == "attestation_compose"
    (record,) = one.log.of("peer_cut")
    assert (record["peer"], record["detail"]) == (2, "details")


async def test_no_evidence_in_time_leaves_the_link_to_the_caller(network: Network) -> None:
    one, _a, _other, b = await two(network, proof_timeout_s=0.3)
    await one.up(2)
    b.hold = trio.Event()
    with pytest.raises(Unproven, match="no answer in time"):
        await one.mesh.ask(2)
    # The answer comes too late, and is taken for none of a later question.
    b.hold.set()
    b.hold = None
    assert await one.mesh.ask(2) is True
    assert one.connected(2)
    assert await one.mesh.ask(99) is False


async def test_a_link_that_ends_ends_the_question(network: Network, nursery: trio.Nursery) -> None:
    one, _a, other, b = await two(network, proof_timeout_s=1000.0)
    await one.up(2)
    b.hold = trio.Event()
    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await one.mesh.ask(2))

    nursery.start_soon(ask)
    await wait_until(lambda: len(b.proven) == 2)
    await other.stop()
    await wait_until(lambda: answers == [False])


async def test_one_member_can_have_only_so_many_quotes_made(network: Network) -> None:
    one, _a, _other, b = await two(network, proofs_per_s=0.0001, proof_burst=3.0)
    await one.up(2)
    assert [await one.mesh.ask(2) for _ in range(2)] == [True, True]
    with pytest.raises(Unproven, match=f"code {CODE_BUSY}"):
        await one.mesh.ask(2)
    assert len(b.proven) == 3


async def test_a_member_that_comes_too_often_costs_no_verdicts(network: Network) -> None:
    one, notary = await lonely(network, proofs_per_s=0.0001, proof_burst=2.0)
    notary.failure = Unproven(1, "no quotes here")
    for _ in range(2):
        async with played(one) as peer:
            await peer.send(Cannot(1, 1))
            await wait_closed(peer.established.channel)
    async with played(one) as peer:
        await wait_closed(peer.established.channel)
    await wait_until(lambda: one.mesh.refused["too_many_proofs"] == 1)
    notary.failure = None
    await still_serves(network, one)


# -- a member played by hand -----------------------------------------------------------------------


class Played:
    """Seat 2's end of a connection whose proofs are not made yet."""

    def __init__(self, established: Established) -> None:
        self.established = established
        self.read: list[ProofMessage] = []

    async def send(self, *messages: ProofMessage | bytes, payloads: bytes = b"") -> None:
        data = b"".join(encode_control(m if isinstance(m, bytes) else m.encode()) for m in messages)
        e = self.established
        data += payloads
        while data:
            piece, data = data[:60_000], data[60_000:]
            await e.channel.send(e.yamux.wrap(piece))

    async def next(self, kind: type) -> ProofMessage:
        e = self.established
        with trio.fail_after(PATIENCE_S):
            while True:
                self.read += (decode_proof(c, FAST.evidence_bytes_max) for c in e.frames.controls)
                e.frames.controls.clear()
                for message in self.read:
                    if isinstance(message, kind):
                        self.read.remove(message)
                        return message
                data = await e.channel.receive()
                assert data, "closed"
                e.frames.feed(e.yamux.receive(data))

    def statement(self, ask: Ask, nonce: bytes, incarnation: int = 1) -> Statement:
        return Statement(
            cluster_id=CLUSTER,
            prover=peer_id_of(node_key(secret_of(2))),
            verifier=peer_id_of(node_key(secret_of(1))),
            prover_nonce=nonce,
            verifier_nonce=ask.nonce,
            session=self.established.channel.session_hash,
            seat=2,
            incarnation=incarnation,
        )

    async def prove(self) -> None:
        ask = await self.next(Ask)
        assert isinstance(ask, Ask)
        nonce = os.urandom(32)
        evidence = repr(self.statement(ask, nonce)).encode()
        await self.send(Show(ask.id, nonce, 1, evidence))


@asynccontextmanager
async def played(mesh: Running) -> AsyncIterator[Played]:
    established = await linked(mesh.mesh, 2, attests=True)
    try:
        yield Played(established)
    finally:
        established.channel.close()


async def lonely(network: Network, **changes: object) -> tuple[Running, Notary]:
    notary = Notary()
    one = await network.start(
        1, attestor=notary, members=[address(2), address(3)], penalty_s=0.01, **changes
    )
    return one, notary


async def still_serves(network: Network, a: Running) -> None:
    c = await network.start(
        3, attestor=Notary(), members=[address(1, a.mesh.listen_address)], dial_grace_s=0.0
    )
    await a.up(3)
    assert c.mesh.send(1, b"still there?")
    assert await a.message(3) == b"still there?"


async def test_a_payload_right_behind_the_verdict_is_delivered(network: Network) -> None:
    one, _ = await lonely(network)
    async with played(one) as peer:
        await peer.send(Ask(1, os.urandom(32)))
        await peer.prove()
        assert await peer.next(Verdict) == Verdict(1, 0)
        await peer.next(Show)
        half = encode_frame(b"second")
        await peer.send(Verdict(1, 0), payloads=encode_frame(b"first") + half[:5])
        await one.up(2)
        assert await one.message(2) == b"first"
        await peer.established.channel.send(peer.established.yamux.wrap(half[5:]))
        assert await one.message(2) == b"second"


ATTACKS: dict[str, tuple[list[bytes], bytes, str]] = {
    "a payload before any proof": ([], encode_frame(b"vote"), "payload_before_proof"),
    "a payload behind an accepting verdict alone": (
        [Verdict(1, 0).encode()],
        encode_frame(b"vote"),
        "bad_proof_message",
    ),
    "an answer to no question": ([Cannot(5, 1).encode()], b"", "bad_proof_message"),
    "questions whose numbers do not rise": (
        [Ask(2, bytes(32)).encode(), Ask(2, bytes(32)).encode()],
        b"",
        "bad_proof_message",
    ),
    "two answers": ([Cannot(1, 1).encode(), Cannot(1, 1).encode()], b"", "bad_proof_message"),
    "no msgpack": ([b"\xc1"], b"", "bad_proof_message"),
    "another shape": ([b"\x80"], b"", "bad_proof_message"),
    "an unknown kind": ([msgpack.packb([9, 1])], b"", "bad_proof_message"),
    "a long nonce": ([msgpack.packb([1, 1, bytes(33)])], b"", "bad_proof_message"),
    "booleans for numbers": ([msgpack.packb([True, 1, bytes(32)])], b"", "bad_proof_message"),
    "question zero": ([Ask(0, bytes(32)).encode()], b"", "bad_proof_message"),
    "a long attachment": (
        [msgpack.packb([4, 1, 1, bytes(2000)])],
        b"",
        "bad_proof_message",
    ),
    "a huge length": ([], b"\xff\xff\xff\xff", "oversize_frame"),
    "more evidence than any may be": (
        [],
        (0x8000_0000 | FAST.evidence_bytes_max + 65).to_bytes(4, "big"),
        "oversize_frame",
    ),
    "evidence one byte too long": (
        [Show(1, bytes(32), 1, bytes(FAST.evidence_bytes_max + 1)).encode()],
        b"",
        "bad_proof_message",
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
async def test_whoever_breaks_the_rules_of_proving_loses_only_its_connection(
    network: Network, name: str
) -> None:
    controls, payloads, reason = ATTACKS[name]
    one, notary = await lonely(network)
    notary.hold = trio.Event()  # the mesh's own quote takes its time
    async with played(one) as peer:
        await peer.next(Ask)
        await peer.send(*controls, payloads=payloads)
        await wait_closed(peer.established.channel)
    await wait_until(lambda: one.mesh.half_open == 0)
    assert dict(one.mesh.refused) == {reason: 1}
    notary.hold.set()
    await still_serves(network, one)


async def test_the_largest_evidence_passes(network: Network) -> None:
    one, notary = await lonely(network)
    async with played(one) as peer:
        ask = await peer.next(Ask)
        await peer.send(Show(ask.id, bytes(32), 2**64 - 1, bytes(FAST.evidence_bytes_max)))
        verdict = await peer.next(Verdict)
    assert verdict == Verdict(1, 7)  # read whole, and judged
    assert notary.judged[0].incarnation == 2**64 - 1


async def test_a_silent_peer_and_one_that_gives_no_verdict_are_cut_in_time(
    network: Network,
) -> None:
    one, _ = await lonely(network, proof_timeout_s=0.3)
    async with played(one) as peer:
        await wait_closed(peer.established.channel)
    async with played(one) as peer:
        await peer.prove()
        assert await peer.next(Verdict) == Verdict(1, 0)
        await wait_closed(peer.established.channel)
    # The first ran out while waiting for evidence, the second for the verdict on ours.
    await wait_until(lambda: one.mesh.refused.total() == 2)
    assert set(one.mesh.refused) <= {"unproven", "proof_timeout"}
    assert one.mesh._peers[2].link is None


async def test_evidence_of_another_connection_seat_boot_or_of_ourselves_is_refused(
    network: Network,
) -> None:
    one, _notary = await lonely(network)
    changes = [
        {"session": bytes(32)},
        {"verifier_nonce": bytes(32)},
        {"prover_nonce": bytes(32)},
        {"seat": 3},
        {"incarnation": 2},
        {"cluster_id": bytes(32)},
        {"prover": "somebody else"},
        {"verifier": "somebody else"},
    ]
    for number, change in enumerate(changes, 1):
        await wait_until(lambda: trio.current_time() >= one.mesh._peers[2].refused_until)
        async with played(one) as peer:
            ask = await peer.next(Ask)
            assert isinstance(ask, Ask)
            nonce = os.urandom(32)
            other = replace(peer.statement(ask, nonce), **change)
            await peer.send(Show(ask.id, nonce, 1, repr(other).encode()))
            assert await peer.next(Verdict) == Verdict(ask.id, 7)
            await wait_closed(peer.established.channel)
        await wait_until(lambda n=number: one.mesh.refused["attestation_not_fresh"] == n)


async def test_our_own_evidence_sent_back_to_us_proves_nothing(network: Network) -> None:
    one, _notary = await lonely(network)
    async with played(one) as peer:
        ask = await peer.next(Ask)
        assert isinstance(ask, Ask)
        await peer.send(Ask(1, ask.nonce))  # have it prove over its own nonce
        show = await peer.next(Show)
        assert isinstance(show, Show)
        await peer.send(Show(ask.id, show.nonce, show.incarnation, show.evidence))
        assert await peer.next(Verdict) == Verdict(ask.id, 7)


async def test_a_member_may_prove_on_few_connections_at_once(network: Network) -> None:
    one, notary = await lonely(network)
    notary.hold = trio.Event()
    async with played(one), played(one):
        await wait_until(lambda: one.mesh._peers[2].proving.total() == 2)
        async with played(one) as third:
            await wait_closed(third.established.channel)
        assert one.mesh.refused["busy"] == 1
    await wait_until(lambda: one.mesh.half_open == 0)
    notary.hold.set()
    await still_serves(network, one)


async def test_four_members_with_proofs_form_a_full_mesh(network: Network) -> None:
    notaries = [Notary() for _ in range(4)]
    nodes = [
        await network.start(seat, attestor=notary, dial_grace_s=0.0)
        for seat, notary in enumerate(notaries, 1)
    ]
    table = [address(n.mesh.seat, n.mesh.listen_address) for n in nodes]
    for node in nodes:
        node.mesh.set_members(table)
    await wait_until(lambda: settled([node.mesh for node in nodes]))
    for node in nodes:
        assert node.mesh.broadcast(b"hello") == 3
    for node in nodes:
        for seat in range(1, 5):
            if seat != node.mesh.seat and MessageFrom(seat, b"hello") not in node.seen:
                assert await node.message(seat) == b"hello"


def attesting(notary: Notary, **changes: int) -> Attesting:
    pair = Pair(CLUSTER, 1, "one", 2, "two", bytes(32))
    return Attesting(pair, notary, FAST, TokenBucket(1.0, 1.0))


async def test_a_verdict_on_what_was_never_shown_is_a_violation() -> None:
    with pytest.raises(LinkBroken, match="bad_proof_message"):
        attesting(Notary()).receive(Verdict(1, 0).encode())


async def test_nothing_is_sent_before_there_is_a_connection() -> None:
    with pytest.raises(LinkBroken):
        await attesting(Notary()).ask()
