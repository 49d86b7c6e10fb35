"""The one fixture of this folder; what it is made of is in ``memory_node``."""

from __future__ import annotations

import pytest
from memory_node import MemoryNode


@pytest.fixture
def node() -> MemoryNode:
    """A node in memory, ready, of seat 1."""
    return MemoryNode()
