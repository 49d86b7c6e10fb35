"""Flaws that tests of the contracts must find: each still has its place in the sources.

Compiling and finding them is the work of `make test-contracts`, minutes later.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from contracts.evm import flaws, halmos


def test_every_flaw_for_the_tests_is_planted(tmp_path: Path) -> None:
    folder = tmp_path / "evm"
    folder.mkdir()
    flaws.plant(folder)
    planted = "".join(file.read_text() for file in (folder / "src").glob("*.sol"))
    missing = [f.number for f in flaws.FLAWS if f.file and f"flaw({f.number})" not in planted]
    assert not missing


def test_every_flaw_for_the_symbolic_checks_is_planted_beside_the_sound_sources(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(halmos, "PLACE", tmp_path)
    wanted = halmos.lay_out()
    assert sum(not holds for holds in wanted.values()) == len(halmos.FLAWS)
    for file in (tmp_path / "src").glob("*.sol"):
        assert file.read_text() == (halmos.HERE / "src" / file.name).read_text()
    flawed = "".join(file.read_text() for file in (tmp_path / "flawed" / "src").glob("*.sol"))
    switches = [flawed.count(f"block.basefee == {n})") for n in range(1, len(halmos.FLAWS) + 1)]
    in_assembly = [flawed.count(f"eq(basefee(), {n})") for n in range(1, len(halmos.FLAWS) + 1)]
    assert [a + b for a, b in zip(switches, in_assembly, strict=True)] == [1] * len(halmos.FLAWS)


def test_a_check_that_no_flaw_can_fail_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check = halmos.FLAWS[0].check
    monkeypatch.setattr(halmos, "FLAWS", tuple(f for f in halmos.FLAWS if f.check != check))
    with pytest.raises(halmos.HalmosError, match=check):
        halmos.lay_out()
