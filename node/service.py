"""The running node as its API sees it (``NodeFacade``): status, reads, writes."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from importlib.metadata import version
from typing import Any

import trio

from attest import NodeIdentity, address_of_key, checksum_address
from chain import EvmRegistry, Member, TransactionSender, shown_json
from chain.eip712 import domain_separator
from consensus.commands import Action, Barrier, Command, encode_command
from consensus.interface import Status
from consensus.outcomes import Result
from consensus.types import Reason, Vote
from consensus.validators import ValidatorSet
from node.alarms import ClockWatch, alarms_of
from node.attestation import Attestation
from node.config import Config
from node.driver import Driver
from node.facade import (
    REQUEST_ID_BYTES_MAX,
    BadRequest,
    Entry,
    NodeError,
    NotDone,
    Unavailable,
    Write,
)
from node.history import History
from node.keyvalue import KeyValues
from node.membership import MembershipFeed
from node.network import Mesh, peer_id_of
from node.seat import SeatKeeper
from node.served import StorageError
from node.signing import NodeSigner
from node.sweeping import Sweeper
from node.urls import URL_BYTES_MAX, read_url, signed_url, url_key
from node.witness import Witness

VERSION = version("dstack-cluster")
SESSION_TAG = b"dstack-cluster/request-id/v3"


class NodeService:
    """Everything the API asks; parts appear as the daemon starts them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.kv = KeyValues(self)
        self.phase = "starting"  # what the daemon waits for until the core runs
        self.identity: NodeIdentity | None = None
        self.registry: EvmRegistry | None = None
        self.sender: TransactionSender | None = None
        self.witness: Witness | None = None
        self.sweeper: Sweeper | None = None
        self.keeper: SeatKeeper | None = None
        self.mesh: Mesh | None = None
        self.feed: MembershipFeed | None = None
        self.driver: Driver | None = None
        self.attestation: Attestation | None = None  # None: members are not asked for quotes
        self.halted = ""
        self.commits = 0
        self.clock = ClockWatch()
        self._started = time.monotonic()
        self._changed = trio.Event()
        self._barriers = _Barriers(self)
        self._cluster_id = domain_separator(config.chain.chain_id, config.chain.contract)

    @property
    def validators(self) -> ValidatorSet | None:
        """Who votes now, None before the core runs."""
        return None if self.driver is None else self.driver.engine.validators

    def row_of(self, seat: int) -> Member | None:
        """What the registry shows of a seat, as far as this node knows."""
        newest = self.feed.newest if self.feed is not None else None
        return newest.member(seat) if newest is not None else None

    def changed(self) -> None:
        """Something that ``watch_peers`` shows may have changed."""
        self._changed.set()
        self._changed = trio.Event()

    # --- status ---

    def status(self) -> dict[str, Any]:
        """See ``NodeFacade.status``."""
        c, identity = self.config, self.identity
        state, reason = self.state()
        row: dict[str, Any] = {
            "seat": c.node.seat,
            "pid": os.getpid(),
            "state": state,
            "reason": reason,
            "alarms": self.alarms(),
            "weight": None,
            "weight_total": None,
            "quorum_weight": None,
            "weight_connected": None,
            "height": 0,
            "epoch": None,
            "term": None,
            "view": None,
            "index": None,
            "leader": None,
            "peers": self._connected(),
            "incarnation": None,
            "block_hash": None,
            "state_hash": None,
            "revision": 0,
            "lag": None,
            "insecure": list(c.insecure.names()),
            "version": VERSION,
            "instance_id": identity.instance_id.hex() if identity else None,
            "node_key": identity.node_key.hex() if identity else None,
            "account": checksum_address(address_of_key(identity.node_key)) if identity else None,
            "chain": self._chain(),
            "membership": self.feed.status() if self.feed else None,
            "attestation": self.attestation.status() if self.attestation else None,
            "uptime_s": int(time.monotonic() - self._started),
            "refused": dict(self.mesh.refused) if self.mesh else {},
            "refused_handshakes": sum(self.mesh.refused.values()) if self.mesh else 0,
        }
        if self.driver is not None and self.validators is not None:
            row |= self._core_status(self.driver, self.validators)
        return row

    def state(self) -> tuple[str, str]:
        """State and reason, as in ``status``."""
        if self.halted:
            return "halted", self.halted
        if self.driver is None:
            return "booting", self._waiting_for()
        status = self.driver.engine.status()
        return status.state, status.reason

    def _core_status(self, driver: Driver, validators: ValidatorSet) -> dict[str, Any]:
        s = driver.engine.status()
        return {
            "weight": self._weight(validators),
            "weight_total": validators.total,
            "quorum_weight": validators.quorum_weight,
            "weight_connected": s.connected_weight,
            "height": s.height,
            "epoch": s.epoch,
            "term": s.view.term,
            "view": str(s.view),
            "index": s.view.index,
            "leader": _leader(s),
            "incarnation": s.incarnation,
            "block_hash": driver.engine.ledger.tip.hash.hex(),
            "state_hash": s.state_hash.hex(),
            "revision": s.revision,
            "lag": s.lag,
            "complaints": {
                str(seat): Reason(reason).name.lower() for seat, reason in s.complaints.items()
            },
            "probes": self._probes(s),
            "patience": s.patience,
            "mempool": s.mempool,
            "evidence": s.evidence,
            "leader_changes": driver.leader_changes,
            "bad_messages": driver.bad_messages,
            "commits": self.commits,
            "clock_ahead_ms": self.clock.ahead_ms,
        }

    def alarms(self) -> list[str]:
        """What an operator must look at now, one line each."""
        return alarms_of(self)

    def _weight(self, validators: ValidatorSet) -> int:
        """What our vote weighs: nothing while the set has no node of ours."""
        identity, seat = self.identity, self.config.node.seat
        if identity is not None and validators.keys.get(seat) != identity.node_key:
            return 0
        return validators.weights.get(seat, 0)

    def _waiting_for(self) -> str:
        if self.keeper is not None and self.keeper.trouble:
            return f"{self.phase}: {self.keeper.trouble}"
        if self.keeper is not None and self.keeper.membership is None and self.registry is not None:
            error = self.registry.last_error
            return self.phase if error is None else f"{self.phase}: {error}"
        return self.phase

    def _connected(self) -> int:
        return sum(link.connected for link in self.mesh.links()) if self.mesh else 0

    def _chain(self) -> dict[str, Any]:
        c = self.config.chain
        row: dict[str, Any] = {"chain_id": c.chain_id, "contract": "0x" + c.contract.hex()}
        if self.registry is not None:
            row |= self.registry.status()
            row["finalized_number"] = row.get("finalized_height")
        if self.keeper is not None:
            row["alarm"] = self.keeper.alarm or row.get("alarm")
            row["registry_writes"] = self.keeper.transactions
            row["lease_left_s"] = self.keeper.lease_left_s()
        if self.sender is not None:
            row["transactions"] = self.sender.status()
        if self.witness is not None:
            row["shown"] = self.witness.status()
        if self.sweeper is not None:
            row["mute"] = self.sweeper.status()
        return row

    def members(self) -> list[dict[str, Any]]:
        """See ``NodeFacade.members``."""
        if self.validators is None:
            return []
        membership = self.keeper.membership if self.keeper else None
        leader = self.leader()["leader"]
        rows = []
        for v in self.validators.validators:
            row = membership.member(v.seat) if membership else None
            rows.append(
                {
                    "seat": v.seat,
                    "weight": v.weight,
                    "node_key": v.node_key.hex(),
                    "peer_id": peer_id_of(v.node_key),
                    "endpoint": row.endpoint if row else "",
                    "status": row.status.name.lower() if row else "unknown",
                    "incarnation": self.driver.engine.boot.current(v.seat) if self.driver else None,
                    "leader": v.seat == leader,
                }
            )
        return rows

    def peers(self) -> list[dict[str, Any]]:
        """See ``NodeFacade.peers``."""
        if self.mesh is None:
            return []
        return [
            {
                "seat": link.seat,
                "peer_id": link.peer_id,
                "endpoint": link.endpoint,
                "connection_url": self._url(link.seat),
                "connected": link.connected,
                "rtt_ms": link.rtt_ms,
                "last_seen_ms": link.last_seen_ms_ago,
                "down_reason": "" if link.connected else link.down_reason,
                "attestation": self.attestation.member(link.seat) if self.attestation else None,
            }
            for link in self.mesh.links()
        ]

    def _own_row(self) -> dict[str, Any]:
        seat = self.config.node.seat
        return {
            "seat": seat,
            "peer_id": self.mesh.peer_id if self.mesh else None,
            "endpoint": self.config.node.endpoint,
            "connection_url": self._url(seat),
            "connected": True,
            "rtt_ms": 0.0,
            "last_seen_ms": 0,
            "down_reason": "",
            "attestation": self.attestation.own() if self.attestation else None,
        }

    def _url(self, seat: int) -> str | None:
        if self.driver is None:
            return None
        entry, row = self.driver.history.get(url_key(seat)), self.row_of(seat)
        key = row.node_key if row is not None else self.driver.engine.validators.keys.get(seat)
        if entry is None or not key:
            return None
        return read_url(entry.value, key, self._cluster_id, seat)

    async def watch_peers(self) -> AsyncIterator[list[dict[str, Any]]]:
        """See ``NodeFacade.watch_peers``; round-trip times alone are no change."""
        told = None
        while True:
            changed = self._changed
            rows = sorted([*self.peers(), self._own_row()], key=lambda row: row["seat"])
            shape = [_shape(row) for row in rows]
            if shape != told:
                told = shape
                yield rows
            await changed.wait()

    def leader(self) -> dict[str, Any]:
        """See ``NodeFacade.leader``."""
        # Applications ask often: not for all of the status.
        epoch = term = leader = None
        if self.driver is not None:
            s = self.driver.engine.status()
            epoch, term, leader = s.epoch, s.view.term, _leader(s)
        return {
            "epoch": epoch,
            "term": term,
            "leader": leader,
            "self": leader is not None and leader == self.config.node.seat,
            "fencing_token": None if term is None else f"{epoch}.{term}",
        }

    def _probes(self, status: Status) -> dict[str, Any]:
        """What members answered last; those that never did have only ``missed``."""
        now_ms = time.time_ns() // 1_000_000
        rows: dict[str, Any] = {}
        for seat, peer in sorted(status.peers.items()):
            row: dict[str, Any] = {"missed": peer.missed}
            if peer.answered_ms:
                row |= {
                    "age_ms": max(0, now_ms - peer.answered_ms),
                    "rtt_ms": peer.rtt_ms,
                    "epoch": peer.epoch,
                    "term": peer.term,
                    "height": peer.height,
                    "lag": max(0, status.height - peer.height),
                    "chain_block": peer.chain_block,
                }
            rows[str(seat)] = row
        return rows

    def evidence(self) -> list[dict[str, Any]]:
        """See ``NodeFacade.evidence``."""
        if self.driver is None:
            return []
        engine = self.driver.engine
        convicted = engine.machine.standing.convicted
        return [
            {
                "seat": pair.first.seat,
                "epoch": pair.first.epoch,
                "convicted": pair.first.seat in convicted,
                "votes": [_vote_row(vote) for vote in (pair.first, pair.second)],
            }
            for pair in engine.evidence
        ]

    async def certificates(self) -> list[dict[str, Any]]:
        """See ``NodeFacade.certificates``."""
        if self.witness is None:
            raise Unavailable(self.phase)
        try:
            return [shown_json(shown) for shown in await self.witness.certificates()]
        except StorageError as error:
            raise Unavailable(str(error)) from None

    # --- the operator and the leader ---

    async def step_down(self) -> dict[str, Any]:
        """See ``NodeFacade.step_down``."""
        driver = self._running()
        before = self.leader()
        if not before["self"]:
            raise NotDone(f"seat {before['leader']} leads, not this node", "not_leading")
        driver.step_down()
        await self._until(lambda: not self.leader()["self"], "no other member took over")
        return self.leader()

    async def complain(self) -> dict[str, Any]:
        """See ``NodeFacade.complain``."""
        driver = self._running()
        before = self.leader()
        if before["self"]:
            raise NotDone("this node leads itself: it may step down", "leading")
        if not driver.engine.can_vote:
            raise NotDone("this node has no vote now", "no_vote")
        own = self.config.node.seat

        def heard() -> bool:
            complaints = driver.engine.status().complaints
            return own in complaints or self.leader()["fencing_token"] != before["fencing_token"]

        driver.complain()
        await self._until(heard, "the complaint was not made")
        return self.leader()

    async def _until(self, done: Callable[[], bool], otherwise: str) -> None:
        """Waits for something that the core does at once when it can. Raises Unavailable."""
        with trio.move_on_after(self.config.timing.request_timeout_ms / 1000):
            while not done():  # noqa: ASYNC110 - rare, short, and the core tells no one else
                await trio.sleep(0.01)
            return
        raise Unavailable(f"{otherwise} in time")

    def ready(self) -> list[str]:
        """See ``NodeFacade.ready``."""
        state, reason = self.state()
        if state != "active":
            return [f"{state}: {reason}" if reason else "starting"]
        return []

    # --- writes and reads ---

    def _running(self) -> Driver:
        if self.halted:
            raise Unavailable(f"halted: {self.halted}")
        if self.driver is None:
            raise Unavailable(self._waiting_for())
        if not self.driver.engine.serves:
            status = self.driver.engine.status()
            raise Unavailable(f"{status.state}: {status.reason}")
        return self.driver

    def _session(self, request_id: bytes | None, action: Action) -> tuple[bytes, int]:
        """Client and sequence of a request: a session of its own for each id and what it asks for.

        Another request under the same id, of another client perhaps, is not that request sent
        again: it must not be answered as done when nothing was.
        """
        if request_id is None:
            return secrets.token_bytes(16), 1
        if not 1 <= len(request_id) <= REQUEST_ID_BYTES_MAX:
            raise BadRequest(f"a request id has 1..{REQUEST_ID_BYTES_MAX} bytes")
        asked = encode_command(Command(bytes(16), 1, action))
        named = SESSION_TAG + len(request_id).to_bytes(1, "big") + request_id
        return sha256(named + asked).digest()[:16], 1

    async def execute(self, action: Action, request_id: bytes | None) -> Result:
        """See ``keyvalue.Host``."""
        driver = self._running()
        client, sequence = self._session(request_id, action)
        command = Command(client, sequence, action)
        return await driver.execute(command, self.config.timing.request_timeout_ms / 1000)

    async def history(self, linearizable: bool) -> History:
        """See ``keyvalue.Host``."""
        if linearizable:
            await self._barriers.pass_one()
        if self.driver is None:
            raise Unavailable(self._waiting_for())
        return self.driver.history

    async def put(self, key: bytes, value: bytes, request_id: bytes | None) -> Write:
        """See ``NodeFacade.put``."""
        return await self.kv.put(key, value, request_id)

    async def delete(self, key: bytes, request_id: bytes | None) -> Write:
        """See ``NodeFacade.delete``."""
        gone = await self.kv.delete_range(key, b"", request_id)
        return Write(gone.revision, gone.deleted > 0)

    async def get(self, key: bytes, linearizable: bool) -> Entry | None:
        """See ``NodeFacade.get``."""
        return await self.kv.get(key, linearizable)

    async def barrier(self) -> None:
        """Returns after a commit that began after the call: what is read then is not stale."""
        driver = self._running()
        # A client of its own for each: a liar that wrote under the last one's name, as a later
        # request, would have all that follow answered at once.
        command = Command(secrets.token_bytes(16), 1, Barrier())
        await driver.execute(command, self.config.timing.request_timeout_ms / 1000)

    async def announce_url(self, connection_url: str) -> None:
        """See ``NodeFacade.announce_url``."""
        if len(connection_url.encode()) > URL_BYTES_MAX:
            raise BadRequest(f"a connection URL has at most {URL_BYTES_MAX} bytes")
        seat, identity = self.config.node.seat, self.identity
        if identity is None:
            raise Unavailable(self._waiting_for())
        if self._url(seat) != connection_url:
            signer = NodeSigner(identity.secret)
            value = signed_url(signer, self._cluster_id, seat, connection_url)
            await self.kv.put(url_key(seat), value)


class _Barriers:
    """One barrier serves all reads that came before it was sent.

    A read may not use a barrier that is already on its way (it could be ordered before a write
    that finished before the read began); it takes the next one, together with all other reads
    that wait by then.
    """

    def __init__(self, service: NodeService) -> None:
        self._service = service
        self._gathering: _Round | None = None
        self._lock = trio.Lock()

    async def pass_one(self) -> None:
        mine = self._gathering
        if mine is None:
            mine = self._gathering = _Round()
        async with self._lock:
            if not mine.done:
                if self._gathering is mine:
                    self._gathering = None  # from here on it is on its way: no more readers
                try:
                    await self._service.barrier()
                except NodeError as error:
                    mine.failure = error
                mine.done = True  # not when cancelled: then the next reader sends it again
        if mine.failure is not None:
            raise mine.failure


class _Round:
    """The readers of one barrier; the first of them sends it, all share the outcome."""

    def __init__(self) -> None:
        self.done = False
        self.failure: NodeError | None = None


def _leader(status: Status) -> int | None:
    """Deposed or not, somebody leads the term; without a quorum nobody does."""
    leads = status.state in ("active", "syncing", "abstaining", "observing")
    return status.leader if leads else None


def _shape(row: dict[str, Any]) -> dict[str, Any]:
    """A peer's row without what changes all the time."""
    shape = {k: row[k] for k in row if k not in ("rtt_ms", "last_seen_ms", "down_reason")}
    shape["attestation"] = bool((row.get("attestation") or {}).get("attested"))
    return shape


def _vote_row(vote: Vote) -> dict[str, Any]:
    return {
        "kind": vote.kind.name.lower(),
        "view": str(vote.view),
        "block": vote.block.hex(),
        "reason": vote.reason,
        "signature": vote.signature.hex(),
    }
