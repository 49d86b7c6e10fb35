"""Commands that wait for a block, first come first served, bounded in number and bytes."""

from __future__ import annotations

from collections.abc import Container

from . import limits
from .types import raw_command_id


class Mempool:
    """Every member keeps all waiting commands, so that a new leader loses none."""

    def __init__(self) -> None:
        self._commands: dict[bytes, bytes] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._commands)

    def add(self, raw: bytes) -> bool:
        """Takes an encoded command; False when there is no room. A repeated one is kept once."""
        command_id = raw_command_id(raw)
        if command_id in self._commands:
            return True
        if len(self._commands) >= limits.MEMPOOL_COMMANDS_MAX:
            return False
        if self._bytes + len(raw) > limits.MEMPOOL_BYTES_MAX:
            return False
        self._commands[command_id] = raw
        self._bytes += len(raw)
        return True

    def remove(self, command_id: bytes) -> None:
        """Forgets a command that was applied."""
        raw = self._commands.pop(command_id, None)
        if raw is not None:
            self._bytes -= len(raw)

    def batch(self, without: Container[bytes]) -> tuple[bytes, ...]:
        """The oldest commands that fit one block, leaving out those already on the branch."""
        chosen: list[bytes] = []
        size = 0
        for command_id, raw in self._commands.items():
            if command_id in without:
                continue
            if len(chosen) == limits.BLOCK_COMMANDS_MAX or size + len(raw) > limits.BLOCK_BYTES_MAX:
                break
            chosen.append(raw)
            size += len(raw)
        return tuple(chosen)

    def pending(self) -> tuple[bytes, ...]:
        """All waiting commands, oldest first."""
        return tuple(self._commands.values())
