"""The simulator with its engine compiled to machine code: the same sources, twice as fast.

``python -m tests.simulation.compiled`` copies ``consensus`` and the simulator to ``.compiled/`` and
has mypyc compile the copy; that takes a minute or two, a C compiler, and ``uv sync --group
compiled``. Then ``cd .compiled && ../.venv/bin/python -m tests.simulation --twins ...`` runs it;
``make twins`` does all of this. That both do the same is shown by the digests of a range of seeds.
For long campaigns only: the daemon runs the sources as they are.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COPIED = ("consensus", "tests/simulation")
COMPILED = ("consensus/*.py", "tests/simulation/rounds.py")
_SETUP = """\
from mypyc.build import mypycify
from setuptools import setup

setup(name="compiled", packages=[], ext_modules=mypycify(
    ["--config-file=mypy.ini", *{files!r}], opt_level="3", debug_level="0"
))
"""
_MYPY = """\
[mypy]
python_version = 3.11
ignore_missing_imports = True
explicit_package_bases = True
[mypy-tests.*]
follow_imports = silent
"""


def build(target: Path) -> None:
    """Makes ``target`` anew. Raises subprocess.CalledProcessError when a compiler refuses."""
    shutil.rmtree(target, ignore_errors=True)
    leave = shutil.ignore_patterns("__pycache__", "test_*")
    for name in COPIED:
        shutil.copytree(ROOT / name, target / name, ignore=leave)
    for path in (ROOT / "tests").glob("*.py"):
        shutil.copy(path, target / "tests")
    found = sorted(str(p.relative_to(target)) for pattern in COMPILED for p in target.glob(pattern))
    (target / "setup.py").write_text(_SETUP.format(files=found))
    (target / "mypy.ini").write_text(_MYPY)
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    environment = {**os.environ, "MYPYPATH": str(target)}
    subprocess.run(command, cwd=target, env=environment, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.compiled")
    parser.add_argument("target", type=Path, nargs="?", default=ROOT / ".compiled")
    build(parser.parse_args().target.absolute())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
