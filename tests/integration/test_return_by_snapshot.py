"""A member that was away for so long that the others pruned what it needs (real processes)."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

import pytest
import trio

from node import snapshots
from node.storage import DATABASE_FILE
from tests.integration.conftest import MakeTestnet
from tests.integration.testnet import Testnet
from tests.integration.writers import Writers

CHECKPOINT, EVERY = 16, 32
POLL_S = 0.2


def _data(testnet: Testnet, seat: int) -> Path:
    return testnet.state.node_dir(seat) / "data"


def _pruned(testnet: Testnet, seat: int) -> int:
    """Up to which height a member gives no blocks any more."""
    file = _data(testnet, seat) / DATABASE_FILE
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
        row = db.execute("SELECT value FROM meta WHERE name = 'pruned'").fetchone()
    return row[0] if row else 0


async def _height(testnet: Testnet, seat: int) -> int:
    async with testnet.client(seat) as client:
        height: int = (await client.status())["height"]
    return height


async def _passes_on(testnet: Testnet, seat: int) -> None:
    """It has what it installed as a file: whoever gave it may be lost."""
    lines = [x for x in testnet.log(seat).splitlines() if "snapshot_installed" in x]
    height = json.loads(lines[-1])["height"]
    directory = _data(testnet, seat) / snapshots.DIRECTORY
    with trio.fail_after(30):
        while height not in dict(snapshots.listing(directory)):
            await trio.sleep(POLL_S)


@pytest.fixture
async def short_lived_blocks(make_testnet: MakeTestnet) -> Testnet:
    """Four members that make a snapshot every ``EVERY`` blocks."""
    testnet = await make_testnet()
    await testnet.kill_all()
    for seat in testnet.seats:
        file = testnet.state.node_config(seat)
        lines = file.read_text().splitlines()
        kept = [x for x in lines if not x.startswith(("every_blocks", "checkpoint_blocks"))]
        at = kept.index("[snapshots]") + 1
        kept[at:at] = [f"every_blocks = {EVERY}", f"checkpoint_blocks = {CHECKPOINT}"]
        file.write_text("\n".join(kept) + "\n")
    for seat in testnet.seats:
        await testnet.start(seat)
    await testnet.wait_leader()
    return testnet


async def test_a_stopped_and_then_wiped_member_comes_back_by_snapshot(
    short_lived_blocks: Testnet,
) -> None:
    testnet = short_lived_blocks
    leader = (await testnet.wait_leader()).leader
    away = next(seat for seat in testnet.seats if seat != leader)
    others = [seat for seat in testnet.seats if seat != away]
    writers = Writers(testnet)
    for wiped in (False, True):
        await testnet.put(f"before {wiped}", b"the member goes")
        await testnet.wait_same_state()
        left_at = await _height(testnet, away)
        await testnet.kill(away)
        if wiped:
            shutil.rmtree(_data(testnet, away))
        writers = Writers(testnet)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writers.run)
            with trio.fail_after(120):
                while min([_pruned(testnet, seat) for seat in others]) <= left_at:
                    await trio.sleep(POLL_S)
            writers.stop()
        installed = testnet.log(away).count("snapshot_installed")
        await testnet.start(away)
        await testnet.wait_same_state()
        assert testnet.log(away).count("snapshot_installed") == installed + 1
        await _passes_on(testnet, away)
        entry = await testnet.get(f"before {wiped}", seat=away)
        assert entry is not None and entry.value == b"the member goes"
        await testnet.put(f"after {wiped}", b"it votes and writes", seat=away)
        await writers.check()
