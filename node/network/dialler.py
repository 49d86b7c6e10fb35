"""Dialling one peer for as long as it is a member: grace, backoff, one attempt at a time."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import trio

from node.network.addresses import TcpAddress
from node.network.channel import close_now
from node.network.errors import Refused
from node.network.handshake import Established, Handshaker
from node.network.limits import NetworkLimits
from node.network.peer import Peer

# A dial that ends so tells of the way or the other side, it is no refusal of ours.
DIAL_FAILURES = frozenset(
    {
        "closed_by_peer",
        "connection_lost",
        "denied_by_peer",
        "duplicate",
        "handshake_failed",
        "handshake_timeout",
        "proof_timeout",
        "unproven",
        "unreachable",
    }
)


class Dialler:
    """Dials on behalf of one mesh.

    Args:
        seat: our own; the lower of two seats dials at once, the higher after the grace time, except
            when it has just started: the lower one may sit out a backoff, having found nobody.
        limits: deadlines and backoff.
        handshaker: runs the outbound handshake.
        run_link: takes a finished handshake and returns when its link has ended.
        refuse: told about handshakes that we refused.
        log: structlog logger.
    """

    def __init__(
        self,
        seat: int,
        limits: NetworkLimits,
        handshaker: Handshaker,
        run_link: Callable[[Established, str], Awaitable[None]],
        refuse: Callable[[Refused, str], None],
        log: Any,
    ) -> None:
        self._seat = seat
        self._limits = limits
        self._handshaker = handshaker
        self._run_link = run_link
        self._refuse = refuse
        self._log = log
        self._random = random.Random()

    async def dial_forever(self, peer: Peer, *, just_started: bool) -> None:
        """Keep trying while there is no link, until cancelled."""
        limits = self._limits
        grace_s = limits.dial_grace_s if self._seat > peer.seat else 0.0
        backoff_s = limits.backoff_min_s
        delay_s = 0.0 if just_started else grace_s
        while True:
            changed, tcp, link = peer.changed, peer.tcp, peer.link
            if link is not None or tcp is None or peer.proving_itself:
                await changed.wait()
                if link is not None and peer.link is None:
                    if trio.current_time() - link.opened_at >= limits.good_link_s:
                        backoff_s = limits.backoff_min_s
                    delay_s = grace_s + self._jitter(backoff_s)
                continue
            not_before = max(peer.refused_until, peer.left_alone_until)
            wait_s = max(delay_s, not_before - trio.current_time())
            with trio.move_on_after(wait_s) as waiting:
                await changed.wait()
            if not waiting.cancelled_caught:
                if peer.tcp != tcp:
                    delay_s = 0.0
                continue
            started_at = trio.current_time()
            linked = await self._attempt(peer, tcp)
            if trio.current_time() - started_at >= limits.good_link_s and linked:
                backoff_s = limits.backoff_min_s
            delay_s = (grace_s if linked else 0.0) + self._jitter(backoff_s)
            backoff_s = min(backoff_s * 2, limits.backoff_max_s)

    def _jitter(self, backoff_s: float) -> float:
        return backoff_s * self._random.uniform(0.5, 1.0)

    async def _attempt(self, peer: Peer, tcp: TcpAddress) -> bool:
        try:
            await self._dial(peer, tcp)
            return True
        except Refused as refusal:
            if refusal.reason in DIAL_FAILURES:
                peer.note_failure(refusal.reason)
                if refusal.reason == "denied_by_peer":
                    peer.leave_alone()
                self._log.debug(
                    "dial_failed",
                    peer=peer.seat,
                    endpoint=peer.address.endpoint,
                    reason=refusal.reason,
                    detail=refusal.detail,
                )
            else:
                self._refuse(refusal, peer.address.endpoint)
            return False

    async def _dial(self, peer: Peer, tcp: TcpAddress) -> None:
        try:
            with trio.fail_after(self._limits.dial_timeout_s):
                stream = await trio.open_tcp_stream(tcp.host, tcp.port)
        except (OSError, trio.TooSlowError) as error:
            raise Refused("unreachable", detail=type(error).__name__) from None
        try:
            established = await self._handshaker.outbound(stream, peer.seat, peer.id)
            await self._run_link(established, f"{tcp.host}:{tcp.port}")
        finally:
            close_now(stream)
