"""How the two ends of one connection prove to each other what they run, at first and again later.

Theory of operation. Each side asks with a fresh nonce; the other answers with evidence (a quote)
that covers a ``Statement``: cluster, who shows to whom, both nonces, the Noise session, seat and
incarnation. The asker judges it and tells the verdict. The two directions are independent, so each
side renews by its own clock, on the live link, between payloads. Until both have accepted each
other nothing but these messages may pass. What evidence is, how it comes about and what is
accepted, only the ``Attestor`` knows; here are nonces, order, sizes, deadlines and rates.

The Noise session's hash is in the statement because the node keys are not secret from other
machines of the same app: one that holds the keys of two members could otherwise pass a genuine
machine's answer on as its own.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

import trio

from node.network.buckets import TokenBucket
from node.network.errors import Denied, LinkBroken, Unproven
from node.network.limits import NetworkLimits
from node.network.proof_frames import (
    NONCE_BYTES,
    Ask,
    Cannot,
    Show,
    Verdict,
    decode_proof,
)

CODE_BUSY = 250  # asked too often; the other codes are the attestor's


@dataclass(frozen=True, slots=True)
class Statement:
    """What one quote proves. Peer ids are base58 text, nonces and ``session`` 32 bytes."""

    cluster_id: bytes
    prover: str
    verifier: str
    prover_nonce: bytes
    verifier_nonce: bytes
    session: bytes  # Noise handshake hash of this connection
    seat: int  # of the prover
    incarnation: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Who is at the two ends of a connection, seen from here."""

    cluster_id: bytes
    seat: int
    peer_id: str
    other_seat: int
    other_peer_id: str
    session: bytes


class Attestor(Protocol):
    """Makes and judges evidence for the mesh. Both may take long and are cancelled at any time."""

    def incarnation(self) -> int:
        """Of this node's present boot; what it proves."""
        ...

    async def prove(self, statement: Statement) -> bytes:
        """Evidence for a statement about this node. Raises Unproven."""
        ...

    async def judge(self, statement: Statement, evidence: bytes) -> None:
        """Returns when the evidence proves the statement and satisfies. Raises Denied."""
        ...

    def told(self, seat: int, code: int, attachment: bytes) -> None:
        """A member refused our evidence, and says why (it may lie)."""
        ...


class Attesting:
    """Both directions on one connection.

    Args:
        pair: the two ends.
        attestor: makes and judges evidence.
        limits: sizes and deadlines.
        asked: how often this member may ask, over all its connections.
    """

    def __init__(
        self,
        pair: Pair,
        attestor: Attestor,
        limits: NetworkLimits,
        asked: TokenBucket,
    ) -> None:
        # Writes a control frame with this payload; set by whoever holds the connection.
        self.send: Callable[[bytes], Awaitable[None]] = _no_connection
        self.accepted = False  # the other side took what we showed it
        self.proven = False  # we took what it showed
        self.denied = False  # the other side refused what we showed it
        self._denial: tuple[int, bytes] | None = None  # and why, as long as nobody was told
        self._pair = pair
        self._attestor = attestor
        self._limits = limits
        self._asked_rate = asked
        self._ask: Ask | None = None  # of the other side, to be answered next
        self._asked_id = 0
        self._answering = False
        self._shown_id = 0
        self._own_id = 0
        self._own_nonce = b""
        self._asking = trio.Lock()
        self._answer: Show | Cannot | None = None
        self._changed = trio.Event()
        self._closed = False

    # -- in ----------------------------------------------------------------------------------------

    def receive(self, payload: bytes) -> None:
        """Take a control frame of the other side; never waits.

        Raises:
            LinkBroken: it broke the rules, or refused us.
        """
        match decode_proof(payload, self._limits.evidence_bytes_max):
            case Ask(id_) as ask:
                if id_ <= self._asked_id:
                    raise LinkBroken("bad_proof_message", penalty=True)
                # Whoever asks again has given up waiting for the answer before.
                self._asked_id, self._ask = id_, ask
            case Show(id_) | Cannot(id_) as answer:
                if id_ > self._own_id or (id_ == self._own_id and self._answer is not None):
                    raise LinkBroken("bad_proof_message", penalty=True)
                if id_ == self._own_id:
                    self._answer = answer
            case Verdict(id_, code, attachment):
                if id_ > self._shown_id:
                    raise LinkBroken("bad_proof_message", penalty=True)
                if code:
                    self.denied, self._denial = True, (code, attachment)
                    # What is attached can stop this node: not on the word of who has keys alone.
                    if self.proven or not attachment:
                        self.tell_denial()
                        raise LinkBroken("denied_by_peer")
                else:
                    self.accepted = True
        self._pulse()

    def tell_denial(self) -> None:
        """Tells the attestor of a refusal, if there was one; of what was attached only if the other
        side has shown who it is."""
        if self._denial is not None:
            (code, attachment), self._denial = self._denial, None
            self._attestor.told(self._pair.other_seat, code, attachment if self.proven else b"")

    @property
    def has_shown(self) -> bool:
        """The other side has what it asked for."""
        return self._shown_id > 0 and not self._answering

    @property
    def settled(self) -> bool:
        """Both sides took what they were shown, and nothing is being written."""
        return self.proven and self.accepted and not self._answering

    def close(self) -> None:
        """The connection ended: whoever waits here is told."""
        self._closed = True
        self._pulse()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_change(self) -> None:
        """Return after the next message or verdict."""
        await self._changed.wait()

    # -- out ---------------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Answer what is asked, one at a time, until cancelled."""
        while True:
            if self._ask is None:
                await self._changed.wait()
                continue
            ask, self._ask, self._answering = self._ask, None, True
            answer: Show | Cannot = Cannot(ask.id, CODE_BUSY)
            if self._asked_rate.try_take():
                answer = await self._prove(ask)
            self._shown_id = ask.id
            await self.send(answer.encode())
            self._answering = False
            self._pulse()

    async def _prove(self, ask: Ask) -> Show | Cannot:
        pair, nonce = self._pair, os.urandom(NONCE_BYTES)
        incarnation = self._attestor.incarnation()
        statement = Statement(
            cluster_id=pair.cluster_id,
            prover=pair.peer_id,
            verifier=pair.other_peer_id,
            prover_nonce=nonce,
            verifier_nonce=ask.nonce,
            session=pair.session,
            seat=pair.seat,
            incarnation=incarnation,
        )
        try:
            evidence = await self._attestor.prove(statement)
        except Unproven as error:
            return Cannot(ask.id, error.code)
        assert len(evidence) <= self._limits.evidence_bytes_max
        return Show(ask.id, nonce, incarnation, evidence)

    async def ask(self) -> None:
        """Ask once, and judge the answer.

        Raises:
            Denied: the evidence does not satisfy; the other side was told.
            Unproven: none came in time, or the other side has none; or the connection ended.
        """
        async with self._asking:
            answer = await self._ask_once()
            if isinstance(answer, Cannot):
                raise Unproven(answer.code, f"the peer has no evidence: code {answer.code}")
            pair = self._pair
            statement = Statement(
                cluster_id=pair.cluster_id,
                prover=pair.other_peer_id,
                verifier=pair.peer_id,
                prover_nonce=answer.nonce,
                verifier_nonce=self._own_nonce,
                session=pair.session,
                seat=pair.other_seat,
                incarnation=answer.incarnation,
            )
            try:
                await self._attestor.judge(statement, answer.evidence)
            except Denied as denied:
                await self.send(Verdict(answer.id, denied.code, denied.attachment).encode())
                raise
            self.proven = True
            await self.send(Verdict(answer.id, 0).encode())

    async def _ask_once(self) -> Show | Cannot:
        self._own_id += 1
        self._own_nonce = os.urandom(NONCE_BYTES)
        self._answer = None
        await self.send(Ask(self._own_id, self._own_nonce).encode())
        with trio.move_on_after(self._limits.proof_timeout_s):
            while self._answer is None and not self._closed:
                await self._changed.wait()
        if self._answer is None:
            raise Unproven(0, "the connection ended" if self._closed else "no answer in time")
        return self._answer


async def _no_connection(_: bytes) -> None:
    raise LinkBroken("connection_lost")
