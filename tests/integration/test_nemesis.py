"""A short run of the nemesis; ``python -m tests.nemesis`` goes on for as long as there is time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nemesis.run import run

SCRIPT = ("vote_log_fails", "mute_one_way", "torn_write", "cut_links")


@pytest.mark.processes
@pytest.mark.timeout(300)
async def test_clients_see_one_store_whose_members_lose_disks_and_links(
    tmp_path: Path, testnet_directories: list[Path]
) -> None:
    testnet_directories.append(tmp_path / "testnet")
    outcome = await run(tmp_path / "testnet", 20261128, script=SCRIPT)
    assert not outcome.violations, "\n".join(outcome.violations)
    assert outcome.answered > 50 and outcome.leases and outcome.revisions
