"""Runs the contracts' tests and compares the gas of the usual calls with ``snapshots/``.

Optimized code differs a little with what is compiled beside it: figures may move by three percent.
Run ``python -m contracts.evm.gas``; ``--write`` takes the new figures over.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMMITTED = HERE / "snapshots"
MEASURED = HERE / "out" / "gas"
TOLERANCE_PERCENT = 3


def compare(committed: dict[str, int], measured: dict[str, int]) -> list[str]:
    """What differs, in words; empty when nothing does."""
    found = []
    for name in sorted(committed.keys() | measured.keys()):
        before, now = committed.get(name), measured.get(name)
        if before is None or now is None:
            found.append(f"{name}: {'not committed' if before is None else 'not measured'}")
        elif abs(now - before) * 100 > before * TOLERANCE_PERCENT:
            found.append(f"{name}: {now} gas, {before} committed")
    return found


def _figures(folder: Path) -> dict[str, int]:
    return {
        f"{file.stem}.{name}": int(gas)
        for file in folder.glob("*.json")
        for name, gas in json.loads(file.read_text()).items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Exit status 1 when a test fails or gas differs."""
    write = "--write" in (sys.argv[1:] if arguments is None else arguments)
    shutil.rmtree(MEASURED, ignore_errors=True)
    (forge,) = (HERE / "node_modules" / "@foundry-rs").glob("forge-linux-*/bin/forge")
    environment = os.environ | {"FOUNDRY_SNAPSHOTS": str(MEASURED.relative_to(HERE))}
    if subprocess.run([str(forge), "test"], cwd=HERE, env=environment, check=False).returncode:
        return 1
    if write:
        for file in MEASURED.glob("*.json"):
            shutil.copy(file, COMMITTED / file.name)
    differences = compare(_figures(COMMITTED), _figures(MEASURED))
    for line in differences:
        print(f"gas: {line}; `python -m contracts.evm.gas --write` takes it over", file=sys.stderr)
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
