"""A node in memory over the real machine, history and key-value service: each write is a block."""

from __future__ import annotations

from secrets import token_bytes

from memory_node import MemoryNode

from consensus.codec import make_block
from consensus.commands import Action, Command, encode_command
from consensus.keccak import keccak256
from consensus.machine import Machine
from consensus.outcomes import Result
from consensus.types import View
from node.facade import Entry, KeyValueFacade, Write
from node.history import History
from node.keyvalue import KeyValues


class KvNode(MemoryNode):
    """``now_ms`` is the time of its blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.past = History(self.machine)
        self._kv = KeyValues(self)
        self.now_ms = 1_000_000

    @property
    def kv(self) -> KeyValueFacade:
        return self._kv

    async def execute(self, action: Action, request_id: bytes | None) -> Result:
        client = token_bytes(16) if request_id is None else keccak256(request_id)[:16]
        command = Command(client, 1, action)
        return self.block(encode_command(command))[0]

    def block(self, *raws: bytes) -> list[Result]:
        """Applies a block, at once."""
        height = self.machine.height + 1
        made = make_block(
            bytes(32),
            epoch=0,
            view=View(1, height),
            proposer=1,
            height=height,
            parent=bytes(32),
            time_ms=self.now_ms,
            state_height=0,
            state_hash=bytes(32),
            commands=raws,
            nullifications=(),
        )
        applied = self.machine.apply(made, wanted=frozenset(raw[:24] for raw in raws))
        self.past.note(self.machine, applied)
        self.past.publish(applied.revision)
        return [result for _, result in applied.results]

    async def history(self, linearizable: bool) -> History:
        return self.past

    async def put(self, key: bytes, value: bytes, request_id: bytes | None) -> Write:
        return await self.kv.put(key, value, request_id)

    async def delete(self, key: bytes, request_id: bytes | None) -> Write:
        gone = await self.kv.delete_range(key, b"", request_id)
        return Write(gone.revision, gone.deleted > 0)

    async def get(self, key: bytes, linearizable: bool) -> Entry | None:
        return await self.kv.get(key, linearizable)
