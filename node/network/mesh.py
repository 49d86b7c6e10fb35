"""The mesh: a listener, one dialling task per member, and the table of links.

Theory of operation. Each pair keeps one link. The lower seat dials; the higher one dials when
nothing has come for a grace time, or when it has just started itself, so one reachable side is
enough. Two dials may cross: then both ends keep the one that the lower seat dialled. In any other
case the newest connection of a peer replaces the older one: a peer only dials when it has lost, or
never had, what we still hold.
Every task is wrapped: a defect ends one connection or restarts one task after a pause, never more.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import structlog
import trio

from node.network.addresses import (
    BadEndpoint,
    PeerAddress,
    endpoint_text,
    parse_endpoint,
)
from node.network.admission import Admission
from node.network.attesting import Attesting, Attestor, Pair
from node.network.channel import close_now
from node.network.dialler import Dialler
from node.network.errors import (
    Denied,
    LinkBroken,
    NetworkError,
    PayloadTooLarge,
    Refused,
    Unproven,
)
from node.network.events import LinkStatus, PeerDown, PeerUp, Priority
from node.network.frames import BOOT_NONCE_BYTES, Hello, encode_frame
from node.network.handshake import Established, Handshaker
from node.network.identity import key_pair, peer_id_from_key
from node.network.inbox import EventQueue
from node.network.limits import PROTOCOL_VERSION, NetworkLimits
from node.network.link import Link
from node.network.peer import Origin, Peer
from node.network.proving import Proving

DRAIN_POLL_S = 0.005
RESTART_PAUSE_MIN_S = 0.1
RESTART_PAUSE_MAX_S = 5.0
PENALTY_FORGIVEN_AFTER_S = 60.0


class _Burst(AbstractContextManager[None]):
    """Links with frames that are to be written together; None outside of a burst."""

    def __init__(self) -> None:
        self.links: dict[Link, None] | None = None

    def __enter__(self) -> None:
        self.links = {}

    def __exit__(self, *_: object) -> None:
        touched, self.links = self.links or {}, None
        for link in touched:
            link.flush()


class Mesh:
    """Links to all other members.

    Args:
        secret: 32-byte secp256k1 secret of the node key; kept inside libp2p's key object only.
        cluster_id: 32 bytes; both sides of a link must have the same.
        seat: our own.
        listen: multiaddr to listen on, port 0 takes a free one.
        limits: all bounds.
        log: structlog logger; ours by default.
        attestor: makes and judges evidence of what members run; None asks nobody for any.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        cluster_id: bytes,
        seat: int,
        listen: str,
        limits: NetworkLimits | None = None,
        log: Any = None,
        attestor: Attestor | None = None,
    ) -> None:
        self.seat = seat
        self.limits = limits or NetworkLimits()
        self.refused: Counter[str] = Counter()
        self.listen_address = ""
        self._listen = parse_endpoint(listen, port_zero=True)
        self._log = log if log is not None else structlog.get_logger("node.network")
        keys = key_pair(secret)
        self._node_key: bytes = keys.public_key.to_bytes()
        self.peer_id: str = peer_id_from_key(self._node_key).to_base58()
        self._cluster_id = cluster_id
        self._attestor = attestor
        hello = Hello(
            PROTOCOL_VERSION,
            cluster_id,
            seat,
            os.urandom(BOOT_NONCE_BYTES),
            attestor is not None,
        )
        self._handshaker = Handshaker(keys, hello, self.limits, self._find_member)
        self.events = EventQueue()
        self._links_changed = trio.Event()
        self._burst = _Burst()
        self._peers: dict[int, Peer] = {}
        self._seat_of: dict[Any, int] = {}
        self._admission: Admission | None = None
        self._nursery: trio.Nursery | None = None
        self._listeners: list[trio.SocketListener] = []
        self._dialler = Dialler(
            seat, self.limits, self._handshaker, self._run_link, self._refuse_dialled, self._log
        )

    # -- members ------------------------------------------------------------------------------

    def set_members(self, members: Iterable[PeerAddress]) -> None:
        """Replace the member set, at any time; links of removed members or changed keys end now.

        A member whose key cannot be read is left out and logged: one bad entry of the registry must
        not keep the others apart.
        """
        wanted = {m.seat: m for m in members if m.seat != self.seat}
        for seat, peer in list(self._peers.items()):
            address = wanted.get(seat)
            if address is None or address.node_key != peer.address.node_key:
                self._remove(peer)
        for seat, address in wanted.items():
            known = self._peers.get(seat)
            if known is None:
                self._add(address)
            elif known.address != address:
                self._set_address(known, address)
        if self._admission is not None:
            self._admission.set_member_hosts(self._member_hosts())

    def _add(self, address: PeerAddress) -> None:
        try:
            peer = Peer(address, self.limits, self.events)
        except NetworkError as error:
            self._log.error("member_unusable", peer=address.seat, detail=str(error))
            return
        if peer.id in self._seat_of or address.node_key == self._node_key:
            self._log.error("member_unusable", peer=address.seat, detail="node key of another seat")
            return
        self._peers[peer.seat] = peer
        self._seat_of[peer.id] = peer.seat
        self._set_address(peer, address)
        if self._nursery is not None:
            self._nursery.start_soon(self._serve_peer, peer, False)

    def _remove(self, peer: Peer) -> None:
        del self._peers[peer.seat]
        del self._seat_of[peer.id]
        if peer.link is not None:
            self._detach(peer, peer.link, "removed")
        peer.removed.set()
        peer.pulse()

    def _set_address(self, peer: Peer, address: PeerAddress) -> None:
        try:
            peer.set_address(address)
        except BadEndpoint as error:
            self._log.warning("endpoint_unusable", peer=peer.seat, detail=str(error))

    def _member_hosts(self) -> Counter[str]:
        return Counter(p.tcp.host for p in self._peers.values() if p.tcp and p.tcp.literal)

    def _find_member(self, peer_id: Any) -> int | None:
        seat = self._seat_of.get(peer_id)
        if seat is not None and trio.current_time() < self._peers[seat].refused_until:
            raise Refused("penalised", peer_id=self._peers[seat].peer_id)
        return seat

    # -- use ----------------------------------------------------------------------------------

    def send(self, seat: int, payload: bytes, priority: Priority = Priority.CONSENSUS) -> bool:
        """Queue a payload for one member; never blocks.

        Keep bulk payloads at 64 KiB or less: a frame in writing is not interrupted by urgent ones.

        Returns:
            False when there is no link or the queue refused it. True is no proof of delivery.

        Raises:
            PayloadTooLarge: above ``frame_bytes_max``.
        """
        self._check_size(payload)
        peer = self._peers.get(seat)
        if peer is None or peer.link is None:
            return False
        return self._queue(peer.link, encode_frame(payload), priority)

    def broadcast(self, payload: bytes, priority: Priority = Priority.CONSENSUS) -> int:
        """Queue a payload for every linked member.

        Returns:
            How many links took it.

        Raises:
            PayloadTooLarge: above ``frame_bytes_max``.
        """
        self._check_size(payload)
        frame = encode_frame(payload)
        taken = 0
        for peer in self._peers.values():
            if peer.link is not None and self._queue(peer.link, frame, priority):
                taken += 1
        return taken

    def burst(self) -> AbstractContextManager[None]:
        """What is sent within is written at its end, in one piece for each member."""
        return self._burst

    def _queue(self, link: Link, frame: bytes, priority: Priority) -> bool:
        taken = link.send(frame, priority)
        if self._burst.links is None:
            link.flush()
        else:
            self._burst.links[link] = None
        return taken

    async def drain(self, timeout_s: float) -> None:
        """Wait until everything queued was given to the sockets, or for ``timeout_s``.

        For the last messages before a shutdown; ``run`` itself drops what is queued when cancelled.
        """
        with trio.move_on_after(timeout_s):
            while any(  # noqa: ASYNC110
                p.link and p.link.queued_bytes for p in self._peers.values()
            ):
                await trio.sleep(DRAIN_POLL_S)

    def _check_size(self, payload: bytes) -> None:
        if len(payload) > self.limits.frame_bytes_max:
            raise PayloadTooLarge(
                f"payload of {len(payload)} bytes, at most {self.limits.frame_bytes_max}"
            )

    def links(self) -> list[LinkStatus]:
        """One row per other member, by seat. Call inside the trio run."""
        now = trio.current_time()
        return [peer.status(now) for _, peer in sorted(self._peers.items())]

    def linked(self) -> set[int]:
        """Seats to which there is a link."""
        return {peer.seat for peer in self._peers.values() if peer.link is not None}

    async def wait_links(self) -> None:
        """Return when a link opened or closed."""
        await self._links_changed.wait()

    def _pulse(self, peer: Peer) -> None:
        peer.pulse()
        self._links_changed.set()
        self._links_changed = trio.Event()

    @property
    def half_open(self) -> int:
        """Connections that are not links yet: inbound handshakes, and proofs both ways."""
        proving = sum(peer.proving.total() for peer in self._peers.values())
        return (self._admission.half_open if self._admission else 0) + proving

    # -- evidence -----------------------------------------------------------------------------

    async def ask(self, seat: int) -> bool:
        """Ask a linked member for fresh evidence; one that does not satisfy loses its link.

        Returns:
            Whether there is fresh evidence that satisfies now; False also when there is no link.

        Raises:
            Unproven: none came; the link stays.
        """
        peer = self._peers.get(seat)
        link = peer.link if peer is not None else None
        if peer is None or link is None or link.attesting is None:
            return False
        try:
            await link.attesting.ask()
        except Denied as denied:
            if peer.link is link:  # else another one, with its own proof, has taken its place
                self.cut(seat, denied.reason, penalty=denied.penalty, detail=denied.detail)
            return False
        except LinkBroken:
            return False  # whoever broke it has seen to it
        except Unproven:
            if link.end_reason:
                return False
            raise
        return True

    def cut(self, seat: int, reason: str, *, penalty: bool = False, detail: str = "") -> None:
        """End a member's link for a reason of the caller's."""
        peer = self._peers.get(seat)
        if peer is None or peer.link is None:
            return
        self._log.warning("peer_cut", peer=seat, reason=reason, detail=detail)
        link = peer.link
        link.kill(reason, penalty=penalty)
        self._detach(peer, link, reason)

    def forgive(self) -> None:
        """Whatever members were refused for may be over: try all of them again now."""
        for peer in self._peers.values():
            peer.forgive()

    # -- service ------------------------------------------------------------------------------

    async def check_listen(self) -> None:
        """Whether the listen address could be taken now: long before ``run``, an operator waits.

        Raises:
            OSError: it could not.
        """
        for listener in await trio.open_tcp_listeners(self._listen.port, host=self._listen.host):
            listener.socket.close()

    async def run(self, *, task_status: Any = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial and serve until cancelled; sockets are closed on the way out.

        Raises:
            OSError: the listen address cannot be bound at the start.
        """
        assert self._nursery is None, "a mesh runs once at a time"
        self._admission = Admission(self.limits, self._log, self.refused)
        self._admission.set_member_hosts(self._member_hosts())
        await self._open_listeners()
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                for peer in self._peers.values():
                    nursery.start_soon(self._serve_peer, peer, True)
                nursery.start_soon(self._restarting, "ticker", self._tick)
                nursery.start_soon(self._restarting, "listener", self._serve_listeners)
                self._log.info("mesh_listening", address=self.listen_address, peer_id=self.peer_id)
                task_status.started()
        finally:
            self._nursery = None
            for listener in self._listeners:
                listener.socket.close()
            self._listeners = []
            for peer in self._peers.values():
                if peer.link is not None:
                    self._detach(peer, peer.link, "shut_down")

    async def _restarting(self, name: str, serve: Callable[[], Awaitable[None]]) -> None:
        pause_s = RESTART_PAUSE_MIN_S
        while True:
            started = trio.current_time()
            try:
                await serve()
            except Exception as error:
                self._log.error("network_task_crashed", task=name, error=type(error).__name__)
            if trio.current_time() - started > RESTART_PAUSE_MAX_S:
                pause_s = RESTART_PAUSE_MIN_S
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_PAUSE_MAX_S)

    async def _open_listeners(self) -> None:
        # After a crash of the accept loop the port taken at first is taken again.
        known = parse_endpoint(self.listen_address) if self.listen_address else self._listen
        self._listeners = list(await trio.open_tcp_listeners(known.port, host=known.host))
        host, port = self._listeners[0].socket.getsockname()[:2]
        self.listen_address = endpoint_text(host, port)

    async def _serve_listeners(self) -> None:
        assert self._nursery is not None
        if not self._listeners:
            await self._open_listeners()
        try:
            await trio.serve_listeners(self._accept, self._listeners, handler_nursery=self._nursery)
        finally:
            for listener in self._listeners:
                listener.socket.close()
            self._listeners = []

    async def _tick(self) -> None:
        limits = self.limits
        period_s = min(limits.heartbeat_s, limits.dead_after_s) / 4
        before = trio.current_time()
        while True:
            await trio.sleep(period_s)
            now = trio.current_time()
            # If this process itself stood still, the silence was ours.
            paused = now - before > limits.dead_after_s / 2
            before = now
            for peer in list(self._peers.values()):
                if peer.link is not None:
                    if paused:
                        peer.link.excuse(now)
                    peer.link.tick(now)

    async def _accept(self, stream: trio.SocketStream) -> None:
        assert self._admission is not None
        address = "?"
        try:
            ip, port = stream.socket.getpeername()[:2]
            address = f"{ip}:{port}"
            with self._admission.slot(ip):
                established = await self._handshaker.inbound(stream)
            await self._run_link(established, address)
        except Refused as refusal:
            self._refuse(refusal, address, dialled=False)
        except OSError:
            pass  # gone before we looked
        except Exception as error:
            self._log.error("link_crashed", address=address, error=type(error).__name__)
        finally:
            close_now(stream)

    def _refuse(self, refusal: Refused, address: str, *, dialled: bool) -> None:
        assert self._admission is not None
        for peer in self._peers.values():
            if peer.peer_id == refusal.peer_id:
                peer.note_failure(refusal.reason)
                # Where evidence is asked for, one that comes from elsewhere may be another.
                is_itself = peer.origin(dialled, address) is not Origin.ELSEWHERE
                if refusal.penalty and (is_itself or self._attestor is None):
                    peer.punish()
        self._admission.record(refusal, address=address, dialled=dialled)

    def _refuse_dialled(self, refusal: Refused, address: str) -> None:
        self._refuse(refusal, address, dialled=True)

    # -- links --------------------------------------------------------------------------------

    async def _run_link(self, established: Established, address: str) -> None:
        try:
            await self._prove(established, address)
            peer, link = self._attach(established, address)
        except Refused:
            established.channel.close()
            raise
        try:
            await link.run()
        finally:
            self._detach(peer, link, link.end_reason)

    async def _prove(self, established: Established, address: str) -> None:
        """Both ends show each other what they run. Raises Refused."""
        if self._attestor is None:
            return
        peer = self._peers.get(established.seat)
        if peer is None or peer.peer_id != established.peer_id:
            raise Refused("not_a_member", peer_id=established.peer_id)
        origin = peer.origin(established.dialled, address)
        if peer.proving[origin] >= self.limits.proofs_at_once_max:
            raise Refused("busy", peer_id=peer.peer_id, detail="proofs under way")
        if not established.dialled and not peer.begun(origin).try_take():
            raise Refused("too_many_proofs", peer_id=peer.peer_id)
        pair = Pair(
            cluster_id=self._cluster_id,
            seat=self.seat,
            peer_id=self.peer_id,
            other_seat=peer.seat,
            other_peer_id=peer.peer_id,
            session=established.channel.session_hash,
        )
        attesting = Attesting(pair, self._attestor, self.limits, peer.asked(origin))
        peer.proving[origin] += 1
        try:
            await Proving(established, attesting, self.limits).run()
        finally:
            peer.proving[origin] -= 1
            peer.pulse()
        established.attesting = attesting
        peer.denied_backoff_s = 0.0

    def _attach(self, established: Established, address: str) -> tuple[Peer, Link]:
        peer = self._peers.get(established.seat)
        if peer is None or peer.peer_id != established.peer_id:
            raise Refused("not_a_member", peer_id=established.peer_id)
        if peer.inbox.full:
            raise Refused("busy", peer_id=peer.peer_id, detail="inbox full")
        if peer.link is not None:
            if not self._newer_wins(peer.link, established):
                raise Refused("duplicate", peer_id=peer.peer_id)
            self._detach(peer, peer.link, "replaced")
        link = Link(established, address, self.limits, peer.inbox, peer.counters)
        peer.link = link
        peer.since = link.since
        peer.inbox.put(PeerUp(peer.seat))
        self._pulse(peer)
        self._log.info(
            "peer_up", peer=peer.seat, peer_id=peer.peer_id, address=address, dialled=link.dialled
        )
        return peer, link

    def _newer_wins(self, old: Link, new: Established) -> bool:
        crossed = (
            old.boot_nonce == new.boot_nonce
            and old.dialled != new.dialled
            and trio.current_time() - old.opened_at < self.limits.handshake_timeout_s
        )
        return not crossed or new.dialled == (self.seat < new.seat)

    def _detach(self, peer: Peer, link: Link, reason: str) -> None:
        link.kill(reason)
        if peer.link is not link:
            return
        peer.link = None
        peer.last_data = link.last_data
        peer.down_reason = link.end_reason
        peer.since = time.time()
        if link.penalty:
            peer.punish()
        elif trio.current_time() - link.opened_at > PENALTY_FORGIVEN_AFTER_S:
            peer.penalty_s = 0.0
        peer.inbox.put(PeerDown(peer.seat, link.end_reason))
        self._pulse(peer)
        self._log.info("peer_down", peer=peer.seat, peer_id=peer.peer_id, reason=link.end_reason)
        if link.crash is not None:
            self._log.error("link_crashed", peer=peer.seat, exc_info=link.crash)

    # -- peers ------------------------------------------------------------------------------------

    async def _serve_peer(self, peer: Peer, just_started: bool) -> None:
        dial = partial(self._dialler.dial_forever, peer, just_started=just_started)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._restarting, "dial", dial)
            await peer.removed.wait()
            nursery.cancel_scope.cancel()
