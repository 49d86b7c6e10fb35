"""Others that hold a member's key, as all machines of its app can, and what they cannot do."""

from __future__ import annotations

import os

import pytest
import trio

from node.network import Mesh
from node.network.addresses import parse_endpoint
from node.network.proof_frames import Ask, Show, Verdict

from . import conftest
from .conftest import Network, Notary, Running, address, wait_closed, wait_until
from .test_attesting import lonely, played


async def crowd_out(one: Running) -> None:
    """Whoever holds seat 2's key takes all that is given to it: verdicts, quotes, patience."""
    reasons = one.mesh.refused
    async with played(one) as peer:
        ask = await peer.next(Ask)
        await peer.send(Show(ask.id, bytes(32), 1, b"another machine's evidence"))
        await peer.next(Verdict)
    await wait_until(lambda: reasons["attestation_not_fresh"] == 1)
    while not reasons["too_many_proofs"]:
        before = reasons.total()
        async with played(one):
            pass
        await wait_until(lambda before=before: reasons.total() > before)


async def test_a_member_is_linked_where_it_is_dialled_whatever_others_do_with_its_key(
    network: Network,
) -> None:
    one, _ = await lonely(network, proofs_per_s=0.0001, proof_burst=4.0, penalty_max_s=1000.0)
    async with played(one), played(one):  # both places are taken, and are all the time
        other = await network.start(2, attestor=Notary(), members=[address(1)], dial_grace_s=1000.0)
        by_name = other.mesh.listen_address.replace("/ip4/127.0.0.1", "/dns4/localhost")
        one.mesh.set_members([address(2, by_name)])
        await one.up(2)
        await other.up(1)
    one.mesh.cut(2, "test")
    await one.down(2)
    await crowd_out(one)
    assert one.mesh._peers[2].penalty_s == 0.0
    await one.up(2)


async def test_a_member_that_comes_from_its_own_address_is_let_in_whatever_others_do_with_its_key(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = await lonely(network, proofs_per_s=0.0001, proof_burst=4.0, proof_timeout_s=1000.0)
    one.mesh.set_members([address(2, "/ip4/127.0.0.1/tcp/1")])  # where nobody listens

    async def from_another_host(mesh: Mesh) -> trio.SocketStream:
        target = parse_endpoint(mesh.listen_address)
        return await trio.open_tcp_stream(target.host, target.port, local_address="127.0.0.2")

    monkeypatch.setattr(conftest, "tcp", from_another_host)
    async with played(one), played(one):
        async with played(one) as third:
            await wait_closed(third.established.channel)
        assert one.mesh.refused["busy"] == 1
        await network.start(
            2,
            attestor=Notary(),
            members=[address(1, one.mesh.listen_address)],
            dial_grace_s=0.0,
        )
        await one.up(2)


@pytest.mark.parametrize("proves", [False, True])
async def test_what_comes_with_a_refusal_is_taken_only_of_who_shows_evidence(
    network: Network, proves: bool
) -> None:
    one, notary = await lonely(network)
    async with played(one) as peer:
        await peer.send(Ask(1, bytes(32)))
        await peer.next(Show)
        await peer.send(Verdict(1, 8, b"this stops you"))
        ask = await peer.next(Ask)
        assert isinstance(ask, Ask) and notary.refused_by == []
        if proves:
            nonce = os.urandom(32)
            await peer.send(Show(ask.id, nonce, 1, repr(peer.statement(ask, nonce)).encode()))
        else:
            await peer.send(Show(ask.id, bytes(32), 1, b"another machine's"))
        await peer.next(Verdict)
        if proves:
            await wait_closed(peer.established.channel)
    await wait_until(lambda: one.mesh.half_open == 0)
    assert notary.refused_by == [(2, 8, b"this stops you" if proves else b"")]
    assert not one.connected(2)


async def test_who_is_refused_with_an_attachment_is_shown_who_says_so(network: Network) -> None:
    one, notary = await lonely(network)
    notary.refuses.add(2)
    notary.hold = trio.Event()  # its quote takes longer than its verdict
    async with played(one) as peer:
        await peer.send(Ask(1, bytes(32)))
        await peer.prove()
        assert await peer.next(Verdict) == Verdict(1, 8, b"newer")
        notary.hold.set()
        show = await peer.next(Show)
        assert isinstance(show, Show) and b"incarnation=1" in show.evidence
    await wait_until(lambda: one.mesh.refused["attestation_compose"] == 1)
