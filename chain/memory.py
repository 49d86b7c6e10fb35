"""What a node saw of the registry last, on disk, so that a restart does not wait for the chain.

A cache: it says with whom to link and which set the cluster was founded with until the chain
answers, and the chain's answer then replaces or refutes it. A file that is damaged, or of another
registry, is as good as none.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import trio

from chain.files import load_json, replace_json
from chain.keys import keccak256
from chain.membership import Change, Member, Membership, MemberStatus, PolicyText

_FORMAT = 1
_log = structlog.get_logger("chain.memory")
_FILE_BYTES_MAX = 8 * 1024 * 1024


class RegistryMemory:
    """The founding set, the newest membership, policy and recovery of one registry.

    Args:
        path: JSON file; its directory must exist.
        chain_id, contract: the registry; a file of another one is not read.
    """

    def __init__(self, path: Path, *, chain_id: int, contract: bytes) -> None:
        self.genesis: Membership | None = None
        self.newest: Membership | None = None
        self.policy: PolicyText | None = None
        self.recovery = 0
        self._path = path
        self._lock = trio.Lock()
        try:
            fields = load_json(path, _FILE_BYTES_MAX)
            if fields is None or fields["format"] != _FORMAT:
                return
            found = [_membership(fields[name]) for name in ("genesis", "newest")]
            policy, recovery = _policy(fields.get("policy")), int(fields.get("recovery", 0))
        except (ValueError, KeyError, TypeError, OSError):
            return
        if all(m is None or (m.chain_id, m.contract) == (chain_id, contract) for m in found):
            self.genesis, self.newest = found
            self.policy, self.recovery = policy, recovery

    async def keep(
        self,
        *,
        genesis: Membership | None = None,
        newest: Membership | None = None,
        policy: PolicyText | None = None,
        recovery: int = 0,
    ) -> None:
        """Writes what is new, durably; ``policy`` is the one in force at ``newest``.

        ``recovery`` is the epoch of the newest one that counts (R21); 0 when none was seen.

        A disk that does not take it costs the next start some time, and nothing now; that start
        does not know of the recovery before the chain answers.
        """
        self.genesis = genesis or self.genesis
        if newest is not None and (
            self.newest is None or newest.block_number > self.newest.block_number
        ):
            self.newest, self.policy = newest, policy
        self.recovery = max(recovery, self.recovery)
        async with self._lock:
            fields = {
                "format": _FORMAT,
                "genesis": _fields(self.genesis),
                "newest": _fields(self.newest),
                "policy": None if self.policy is None else _hex(asdict(self.policy)),
                "recovery": self.recovery,
            }
            try:
                await trio.to_thread.run_sync(
                    partial(replace_json, self._path, fields, _FILE_BYTES_MAX)
                )
            except (OSError, ValueError) as error:
                _log.error("registry_not_kept", reason=str(error))


def _fields(membership: Membership | None) -> Any:
    """As JSON takes it; what belongs to one block alone (a recovery that waits) is left out."""
    if membership is None:
        return None
    fields = asdict(membership)
    del fields["pending_recovery"]
    return _hex(fields)


def _hex(value: Any) -> Any:
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {name: _hex(part) for name, part in value.items()}
        case list() | tuple():
            return [_hex(part) for part in value]
    return value


def _membership(fields: Any) -> Membership | None:
    if fields is None:
        return None
    change = fields["last_change"]
    return Membership(
        chain_id=int(fields["chain_id"]),
        contract=bytes.fromhex(fields["contract"]),
        block_number=int(fields["block_number"]),
        block_hash=bytes.fromhex(fields["block_hash"]),
        block_time_s=int(fields["block_time_s"]),
        prev_randao=bytes.fromhex(fields["prev_randao"]),
        version=int(fields["version"]),
        digest=bytes.fromhex(fields["digest"]),
        members=tuple(_member(row) for row in fields["members"]),
        last_change=None
        if change is None
        else Change(
            int(change["block_number"]), int(change["version"]), bytes.fromhex(change["digest"])
        ),
        roots=tuple((int(epoch), int(ends_s)) for epoch, ends_s in fields["roots"]),
        recoveries=int(fields["recoveries"]),
        disallowed=tuple(int(seat) for seat in fields.get("disallowed", ())),
    )


def _policy(fields: Any) -> PolicyText | None:
    if fields is None:
        return None
    text = bytes.fromhex(fields["text"])
    return PolicyText(int(fields["version"]), keccak256(text), text)


def _member(row: Any) -> Member:
    return Member(
        seat=int(row["seat"]),
        weight=int(row["weight"]),
        status=MemberStatus(row["status"]),
        node_key=bytes.fromhex(row["node_key"]),
        instance_id=bytes.fromhex(row["instance_id"]),
        incarnation=int(row["incarnation"]),
        endpoint=str(row["endpoint"]),
        lease_expires_s=int(row["lease_expires_s"]),
        root_epoch=int(row["root_epoch"]),
        scheme=int(row["scheme"]),
        owner=bytes.fromhex(row["owner"]),
    )
