"""Whom the testnet launches its registry with: those whom it saw, at one moment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deploy.testnet import chain, layout


async def test_founders_that_come_between_two_looks_are_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of three and the rows of four would be a launch that the contract refuses."""
    monkeypatch.setattr(chain, "POLL_S", 0.001)
    testnet = layout.Testnet(tmp_path, "", 20_000, tmp_path, "", "", None, None, ())
    desk: Any = chain.RegistryDesk(testnet, bytes(20))
    digests = iter([b"three", b"four", b"four", b"four"])
    statuses = iter([(1, 1), (1, 1)])

    async def look(name: str, *values: Any) -> tuple[Any, ...]:
        if name == "lastChange":
            return 5, 3, next(digests)
        return [(0, 0, 0, status) for status in next(statuses)], 0

    desk._look = look
    assert await desk.wait_all_active(lambda: None) == b"four"
    assert next(statuses, None) is None
    await desk.aclose()
