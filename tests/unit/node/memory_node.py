"""A node in memory behind the real API, and a configuration to start it with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import trio

from node.config import Config, parse_config
from node.facade import Entry, KeyValueFacade, NotDone, Write

CONTRACT = "0x5fbdb2315678afecb367f032d93f642f64180aa3"
INSTANCE_ID = "11" * 20


def document(**sections: dict[str, Any]) -> dict[str, Any]:
    """A small valid configuration document; keyword tables are merged in."""
    base: dict[str, Any] = {
        "node": {"seat": 1, "state_dir": "state", "endpoint": "/ip4/10.0.0.1/tcp/9600"},
        "chain": {
            "chain_id": 31337,
            "contract": CONTRACT,
            "rpc": ["http://127.0.0.1:8545"],
            "kms_roots": ["0x" + "22" * 20],
        },
        "insecure": {"single_rpc": True, "no_attestation": True},
    }
    for name, table in sections.items():
        base[name] = {**base.get(name, {}), **table}
    return base


def make_config(base_dir: Path, **sections: dict[str, Any]) -> Config:
    """The checked configuration of ``document``."""
    return parse_config(document(**sections), source="test.toml", base_dir=base_dir)


class MemoryNode:
    """A ``NodeFacade`` of one seat that keeps everything in a dict."""

    def __init__(self) -> None:
        self.store: dict[bytes, Entry] = {}
        self.revision = 0
        self.done: dict[bytes, Write] = {}
        self.reasons: list[str] = []
        self.failure: Exception | None = None
        self.announced: list[str] = []
        self.reads: list[bool] = []
        self.hold: trio.Event | None = None
        self.held = 0
        self.watching = 0
        self.other = {
            "seat": 2,
            "peer_id": "16Uiu2two",
            "endpoint": "/ip4/10.0.0.2/tcp/9600",
            "connection_url": "https://two.example",
            "connected": True,
            "rtt_ms": 1,
            "last_seen_ms": 3,
        }
        self._changed = trio.Event()

    @property
    def kv(self) -> KeyValueFacade:
        """Only ``kv_node.KvNode`` has it."""
        raise NotImplementedError

    def change(self, **values: Any) -> None:
        """Change the other member's row and tell the watchers."""
        self.other = {**self.other, **values}
        self._changed.set()
        self._changed = trio.Event()

    def status(self) -> dict[str, Any]:
        return {
            "seat": 1,
            "pid": 1,
            "state": "active",
            "reason": "",
            "weight": 3,
            "weight_total": 9,
            "quorum_weight": 7,
            "weight_connected": 9,
            "height": 12,
            "epoch": 1,
            "term": 4,
            "view": "4.2",
            "index": 2,
            "leader": 1,
            "peers": 1,
            "incarnation": 5,
            "instance_id": INSTANCE_ID,
            "state_hash": "ab" * 32,
            "revision": self.revision,
            "lag": 0,
            "insecure": ["simulator"],
            "version": "0.1.0",
            "chain": {
                "chain_id": 31337,
                "contract": CONTRACT,
                "finalized_number": 77,
                "finalized_age_s": 2,
                "trust": {"state": "proven", "members": "agreed on by 2 of 3: no events"},
                "endpoints": [
                    {"endpoint": "rpc.example:443", "ok": False, "troubles": {"lying": 2}}
                ],
                "transactions": [{"state": "final"}, {"state": "pending"}],
            },
            "uptime_s": 9,
            "leader_changes": 3,
        }

    def members(self) -> list[dict[str, Any]]:
        return [{"seat": 1, "weight": 3, "leader": True}, {"seat": 2, "weight": 6, "leader": False}]

    def peers(self) -> list[dict[str, Any]]:
        return [self.other]

    def leader(self) -> dict[str, Any]:
        return {"epoch": 1, "term": 4, "leader": 1, "self": True, "fencing_token": "1.4"}

    async def step_down(self) -> dict[str, Any]:
        return {**self.leader(), "leader": 2, "self": False}

    async def complain(self) -> dict[str, Any]:
        raise NotDone("this node leads itself: it may step down", "leading")

    def evidence(self) -> list[dict[str, Any]]:
        finalize = {"view": "1.3", "reason": 0, "block": "ab" * 32, "signature": "cd" * 65}
        nullify = {"view": "1.2", "reason": 3, "block": "00" * 32, "signature": "ef" * 65}
        votes = [{"kind": "finalize"} | finalize, {"kind": "nullify"} | nullify]
        return [{"seat": 2, "epoch": 0, "convicted": False, "votes": votes}]

    async def certificates(self) -> list[dict[str, Any]]:
        return [{"kind": "leader", "header": "00" * 152, "parts": "01" * 69}]

    def ready(self) -> list[str]:
        return self.reasons

    async def _obey(self) -> None:
        if self.hold is not None:
            self.held += 1
            await self.hold.wait()
        if self.failure is not None:
            raise self.failure

    async def put(self, key: bytes, value: bytes, request_id: bytes | None) -> Write:
        await self._obey()
        if request_id is not None and request_id in self.done:
            return self.done[request_id]
        old = self.store.get(key)
        self.revision += 1
        self.store[key] = Entry(
            value,
            old.create_revision if old else self.revision,
            self.revision,
            old.version + 1 if old else 1,
        )
        write = Write(self.revision, old is not None)
        if request_id is not None:
            self.done[request_id] = write
        return write

    async def delete(self, key: bytes, request_id: bytes | None) -> Write:
        await self._obey()
        existed = self.store.pop(key, None) is not None
        self.revision += existed
        return Write(self.revision, existed)

    async def get(self, key: bytes, linearizable: bool) -> Entry | None:
        await self._obey()
        self.reads.append(linearizable)
        return self.store.get(key)

    async def announce_url(self, connection_url: str) -> None:
        await self._obey()
        self.announced.append(connection_url)
        self.change()

    async def watch_peers(self) -> AsyncIterator[list[dict[str, Any]]]:
        self.watching += 1
        try:
            while True:
                changed = self._changed
                own = {
                    "seat": 1,
                    "connected": True,
                    "self": True,
                    "connection_url": self.announced[-1] if self.announced else None,
                }
                yield [own, self.other]
                await changed.wait()
        finally:
            self.watching -= 1
