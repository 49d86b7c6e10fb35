"""What a node remembers of the registry: everything it saw, or nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from chain.keys import keccak256
from chain.membership import (
    Change,
    Member,
    Membership,
    MemberStatus,
    PendingRecovery,
    PolicyText,
)
from chain.memory import RegistryMemory

ROW = Member(
    3, 7, MemberStatus.INACTIVE, b"\x02" * 33, b"i" * 20, 5, "/ip4/1.2.3.4/tcp/5", 99, 1, 0,
    b"o" * 20,
)  # fmt: skip
SEEN = Membership(
    7, b"c" * 20, 10, b"h" * 32, 1010, b"r" * 32, 4, b"d" * 32, (ROW,), Change(9, 3, b"e" * 32),
    ((1, 2**40 - 1),), 2,
)  # fmt: skip


def memory(path: Path, chain_id: int = 7) -> RegistryMemory:
    return RegistryMemory(path, chain_id=chain_id, contract=b"c" * 20)


async def test_what_was_kept_comes_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    assert memory(path).genesis is None and memory(path).newest is None
    first = memory(path)
    await first.keep(newest=SEEN)
    await first.keep(genesis=replace(SEEN, last_change=None, roots=(), recoveries=0))
    again = memory(path)
    assert again.newest == SEEN
    assert again.genesis == replace(SEEN, last_change=None, roots=(), recoveries=0)


async def test_the_policy_of_the_newest_block_is_kept_with_it(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    policy = PolicyText(2, keccak256(b"text"), b"text")
    await memory(path).keep(newest=SEEN, policy=policy)
    again = memory(path)
    assert again.policy == policy
    await again.keep(genesis=SEEN)
    assert memory(path).policy == policy
    fields = json.loads(path.read_text())
    fields["policy"]["text"] = b"forged".hex()
    path.write_text(json.dumps(fields))
    assert memory(path).policy == PolicyText(2, keccak256(b"forged"), b"forged"), "hashed, always"
    await again.keep(newest=replace(SEEN, block_number=11))
    assert memory(path).policy is None


async def test_a_recovery_is_kept_until_a_newer_one_counts(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    assert memory(path).recovery == 0
    await memory(path).keep(newest=SEEN, recovery=200_000_000)
    await memory(path).keep(newest=SEEN)
    assert memory(path).recovery == 200_000_000
    fields = json.loads(path.read_text())
    del fields["recovery"]  # as an earlier version wrote it
    path.write_text(json.dumps(fields))
    assert memory(path).recovery == 0 and memory(path).newest == SEEN


async def test_an_older_sighting_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    kept = memory(tmp_path / "registry.json")
    await kept.keep(newest=SEEN)
    await kept.keep(newest=replace(SEEN, block_number=9))
    assert memory(tmp_path / "registry.json").newest == SEEN


async def test_a_recovery_that_waited_then_is_not_remembered(tmp_path: Path) -> None:
    kept = memory(tmp_path / "registry.json")
    await kept.keep(newest=replace(SEEN, pending_recovery=PendingRecovery(1, 2, b"h" * 32, 3)))
    assert memory(tmp_path / "registry.json").newest == SEEN


async def test_a_disk_that_takes_nothing_costs_the_memory_and_nothing_else(tmp_path: Path) -> None:
    kept = memory(tmp_path / "registry.json")
    in_the_way = tmp_path / "registry.json.new"
    in_the_way.mkdir()
    await kept.keep(newest=SEEN, genesis=SEEN)
    assert kept.newest == kept.genesis == SEEN
    in_the_way.rmdir()
    await kept.keep(newest=replace(SEEN, block_number=SEEN.block_number + 1))
    assert memory(tmp_path / "registry.json").genesis == SEEN


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"format": 1}', '{"format": 2}', "row"])
async def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "registry.json"
    await memory(path).keep(newest=SEEN, genesis=SEEN)
    fields = json.loads(path.read_text())
    del fields["newest"]["members"][0]["node_key"]
    path.write_text(json.dumps(fields) if damage == "row" else damage)
    found = memory(path)
    assert found.genesis is None and found.newest is None


async def test_a_file_of_another_registry_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    await memory(path).keep(newest=SEEN)
    assert memory(path, chain_id=8).newest is None
