"""What the API, the SDK and the metrics may ask of a running node.

The daemon implements ``NodeFacade``; the HTTP layer knows nothing else of it. All ``dict`` values
are JSON-ready.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from consensus.commands import Txn

KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 64 * 1024
REQUEST_ID_BYTES_MAX = 128


class NodeError(Exception):
    """A request could not be carried out; ``http_status`` is what the API answers."""

    http_status = 500
    code = "internal"


class BadRequest(NodeError):
    """The request itself is wrong."""

    http_status = 400
    code = "bad_request"


class Busy(NodeError):
    """Too many commands are waiting; nothing was accepted, try again later."""

    http_status = 429
    code = "busy"


class Unavailable(NodeError):
    """The cluster cannot serve this now; nothing was accepted. The text says why it waits."""

    http_status = 503
    code = "unavailable"


class OutcomeUnknown(NodeError):
    """Accepted, but not seen committed in time: retry with the same request id to learn more."""

    http_status = 504
    code = "outcome_unknown"


class Compacted(NodeError):
    """The revision is older than this node remembers: read the present and go on from there."""

    http_status = 410
    code = "compacted"


class FutureRevision(NodeError):
    """The revision does not exist yet."""

    http_status = 400
    code = "future_revision"


class NotDone(NodeError):
    """The state does not allow it and nothing was changed; ``code`` says what is in the way."""

    http_status = 409
    code = "not_done"

    def __init__(self, message: str, code: str = "not_done") -> None:
        super().__init__(message)
        self.code = code
        if code == "no_lease":
            self.http_status = 404


@dataclass(frozen=True, slots=True)
class Write:
    """Outcome of a committed write."""

    revision: int  # cluster-wide, rises by one with each change
    existed: bool  # the key was there before


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's value and its revisions."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int  # number of writes to the key since it was created
    lease: int = 0  # that it goes with; 0 is none


@dataclass(frozen=True, slots=True)
class Found:
    """Entries of a range at a revision, by key; ``count`` is of all of it, ``more`` if cut."""

    revision: int
    entries: tuple[tuple[bytes, Entry], ...]
    count: int
    more: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """Outcome of a committed deletion: how many keys went."""

    revision: int
    deleted: int


@dataclass(frozen=True, slots=True)
class TxnOutcome:
    """Outcome of a committed transaction; ``responses`` is None for a repeated request.

    One response for each operation of the branch that ran; all at ``revision``.
    """

    revision: int
    succeeded: bool  # the comparisons held
    responses: tuple[Write | Deleted | Found, ...] | None


@dataclass(frozen=True, slots=True)
class LeaseState:
    """A lease: its time to live, what is left of it in block time, the keys that go with it."""

    lease: int
    ttl_ms: int
    remaining_ms: int
    keys: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A key's change at a revision; None when it was deleted."""

    revision: int
    key: bytes
    entry: Entry | None


class KeyValueFacade(Protocol):
    """The key-value store beyond single keys: etcd's semantics, in this house's words.

    Ranges are ``key`` and ``end`` as in ``consensus.commands``. All raise NodeError: ``NotDone``
    when the state is in the way, ``Compacted`` and ``FutureRevision`` for a wrong revision.
    """

    async def put(
        self, key: bytes, value: bytes, request_id: bytes | None = None, lease: int = 0
    ) -> Write:
        """Write a key, on a lease if not 0."""
        ...

    async def get(
        self, key: bytes, linearizable: bool = True, revision: int | None = None
    ) -> Entry | None:
        """Read a key, at an old revision if given."""
        ...

    async def range(
        self,
        key: bytes,
        end: bytes,
        *,
        limit: int = 0,
        revision: int | None = None,
        linearizable: bool = True,
        count_only: bool = False,
    ) -> Found:
        """Read a range; cut at ``limit`` keys and at bounds of this node."""
        ...

    async def delete_range(
        self, key: bytes, end: bytes, request_id: bytes | None = None
    ) -> Deleted:
        """Delete a key or a range in one revision."""
        ...

    async def txn(self, txn: Txn, request_id: bytes | None = None) -> TxnOutcome:
        """Compare, then or else."""
        ...

    async def grant(
        self, ttl_ms: int, lease: int = 0, request_id: bytes | None = None
    ) -> LeaseState:
        """Begin a lease; its number is chosen here when 0."""
        ...

    async def keep_alive(self, lease: int) -> LeaseState:
        """Let a lease run for its whole time again."""
        ...

    async def revoke(self, lease: int, request_id: bytes | None = None) -> Deleted:
        """End a lease; its keys go."""
        ...

    async def lease(self, lease: int) -> LeaseState:
        """A lease with its keys."""
        ...

    async def leases(self) -> list[LeaseState]:
        """All leases, without their keys."""
        ...

    def watch(
        self, key: bytes, end: bytes, after: int | None = None
    ) -> AsyncIterator[tuple[list[Change], int]]:
        """Every change of a range above a revision (None: from now on), in order, without gaps.

        Yields changes (maybe none) and the revision that they reach to: whole revisions, so that
        the watch can be resumed after it. The first item says where the watch begins. Raises
        Compacted when the reader is slower than this node forgets.
        """
        ...


class NodeFacade(Protocol):
    """See the module."""

    @property
    def kv(self) -> KeyValueFacade:
        """Ranges, transactions, leases, watches."""
        ...

    def status(self) -> dict[str, Any]:
        """Everything ``testnet status`` shows of this node, and why it waits if it does.

        Identity: seat, pid, instance_id and node_key (hex), account (that pays on the chain),
        version, uptime_s, insecure (names of the weaker modes that are on). State: state (booting,
        syncing, observing, abstaining, waiting, active or halted) and reason. Weight: weight (0
        while the set has no node of ours), weight_total, quorum_weight, weight_connected.
        Consensus: height, epoch, term, view ("term.index"), index, leader (seat or None),
        incarnation, revision, block_hash and state_hash (hex, of the newest final block), lag
        (blocks behind the best certified height), complaints (of the present term, seat to
        reason), probes (seat to what it answered last: age_ms, rtt_ms, missed, term, height, lag
        in blocks behind us, chain_block), patience (steps
        by which our timers are longer), mempool, evidence, leader_changes, commits, clock_ahead_ms
        (our clock as the newest block was applied, less its time). Network:
        peers (links that are up), refused (handshakes by reason), bad_messages. Chain: chain
        {chain_id, contract, finalized_number, finalized_age_s, version, alarm, lease_left_s (of
        our registration), transactions, endpoints: [...]}. Membership: membership {chain_block (of
        the registry's newest set), pending (None, or its seats that are joining, leaving,
        changing), revoked, recoveries, recovery_epoch (what the next one must name)};
        alarms (list of what an operator must look at). Attestation: attestation (None when members
        are not asked for quotes, else {policy_version, policy_digest, held (seats that the policy
        is not enforced against), accepted, refused (by reason), verified, verifying_ms, quotes,
        agent and collateral (what is wrong with them, or None), self and members (rows as
        ``peers`` has them)}).
        """
        ...

    def members(self) -> list[dict[str, Any]]:
        """Seats of the validator set.

        Rows: seat, weight, node_key, peer_id, endpoint, status, incarnation, leader (bool).
        """
        ...

    def peers(self) -> list[dict[str, Any]]:
        """Other members.

        Rows: seat, peer_id, endpoint, connection_url, connected, rtt_ms, last_seen_ms, down_reason
        ("" while it is connected), attestation (None, or {attested, held, tcb_status,
        policy_version, quote_age_s, incarnation, compose_hash; fails (why it does not satisfy the
        newest policy, while it is held), refused and refused_us: None, or {reason, detail, at_s}}).
        """
        ...

    def leader(self) -> dict[str, Any]:
        """epoch, term, leader (seat or None), self (bool), fencing_token "epoch.term"."""
        ...

    async def step_down(self) -> dict[str, Any]:
        """Hands leadership over; ``leader()`` afterwards. Raises NotDone when we do not lead."""
        ...

    async def complain(self) -> dict[str, Any]:
        """Complains about the leader once; ``leader()`` afterwards.

        One complaint deposes nobody: members of more than a third of the weight must complain, then
        all join. Raises NotDone when this node leads itself, or has no vote now.
        """
        ...

    def evidence(self) -> list[dict[str, Any]]:
        """Proofs that members broke the rules.

        Rows: seat, epoch, convicted (it is in the replicated state), votes (two, each kind, view
        "term.index", block, reason, signature).
        """
        ...

    async def certificates(self) -> list[dict[str, Any]]:
        """What anybody may show the chain about this cluster: rows of ``chain.shown_json``.

        Needs no quorum. Raises Unavailable before the core runs.
        """
        ...

    def ready(self) -> list[str]:
        """Reasons why this node cannot serve linearizable requests now; empty means ready."""
        ...

    async def put(self, key: bytes, value: bytes, request_id: bytes | None) -> Write:
        """Write through consensus; the same ``request_id`` is applied once. Raises NodeError."""
        ...

    async def delete(self, key: bytes, request_id: bytes | None) -> Write:
        """Delete through consensus. Raises NodeError."""
        ...

    async def get(self, key: bytes, linearizable: bool) -> Entry | None:
        """Read; a linearizable one waits for a commit that began after the call.

        Raises NodeError.
        """
        ...

    async def announce_url(self, connection_url: str) -> None:
        """Publish the application's connection URL of this seat (a replicated write)."""
        ...

    def watch_peers(self) -> AsyncIterator[list[dict[str, Any]]]:
        """Yields ``peers()`` plus this node's own row at once and after every change of it."""
        ...
