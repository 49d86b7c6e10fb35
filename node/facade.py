"""What the API, the SDK and the metrics may ask of a running node.

The daemon implements ``NodeFacade``; the HTTP layer knows nothing else of it. All ``dict`` values
are JSON-ready.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

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


class NodeFacade(Protocol):
    """See the module."""

    def status(self) -> dict[str, Any]:
        """Everything ``testnet status`` shows of this node, and why it waits if it does.

        Identity: seat, pid, instance_id and node_key (hex), version, uptime_s, insecure (names of
        the weaker modes that are on). State: state (booting, syncing, observing, abstaining,
        waiting, active or halted) and reason. Weight: weight (0 while the set has no node of ours),
        weight_total, quorum_weight, weight_connected. Consensus: height, epoch, term, view
        ("term.index"), index, leader (seat or None), incarnation, revision, block_hash and
        state_hash (hex, of the newest final block), lag (blocks behind the best certified height),
        complaints (seat to reason code), mempool, evidence, leader_changes, commits. Network:
        peers (links that are up), refused (handshakes by reason), bad_messages. Chain: chain
        {chain_id, contract, finalized_number, finalized_age_s, version, alarm, transactions,
        endpoints: [...]}. Membership: membership {chain_block (of the registry's newest set),
        pending (None, or its seats that are joining, leaving, changing), revoked, recoveries};
        alarms (list of what an operator must look at).
        """
        ...

    def members(self) -> list[dict[str, Any]]:
        """Seats of the validator set.

        Rows: seat, weight, node_key, peer_id, endpoint, status, incarnation, leader (bool).
        """
        ...

    def peers(self) -> list[dict[str, Any]]:
        """Other members.

        Rows: seat, peer_id, endpoint, connection_url, connected, rtt_ms, last_seen_ms.
        """
        ...

    def leader(self) -> dict[str, Any]:
        """epoch, term, leader (seat or None), self (bool), fencing_token "epoch.term"."""
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
