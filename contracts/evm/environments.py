"""Virtual environments of the analysis tools, each apart from ours: slither wants an older web3.

``tools/<name>/`` holds what is wanted (``pyproject.toml``) and the exact files of it with their
hashes (``uv.lock``). The environment goes to ``.tools/<name>`` when it is first asked for, from
PyPI or uv's cache; later runs see by its stamp that nothing changed, neither the lock file nor the
interpreter nor the place (paths are in its scripts), and ask nobody.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = HERE.parents[1] / ".tools"
INSTALL_TIMEOUT_S = 900


class EnvironmentsError(Exception):
    """A tool is not there and could not be installed."""


def command(name: str) -> Path:
    """The program of tool ``name``, installed as its lock file says.

    Raises EnvironmentsError with what to do when it cannot be installed.
    """
    lock = HERE / "tools" / name / "uv.lock"
    place = TOOLS / name
    program, stamp = place / "bin" / name, place / "made-from"
    digest = hashlib.sha256(lock.read_bytes()).hexdigest()
    wanted = "\n".join((digest, sys.version, str(place)))
    if program.exists() and stamp.exists() and stamp.read_text() == wanted:
        return program
    own = TOOLS / "bin" / "uv"
    uv = str(own) if own.exists() else shutil.which("uv")
    if uv is None:
        raise EnvironmentsError("uv is not there: run `make setup`")
    print(f"{name}: its packages from {lock.relative_to(HERE)} into .tools/{name}", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    kept = {n: v for n, v in os.environ.items() if n not in ("VIRTUAL_ENV", "UV_PYTHON")}
    arguments = [uv, "sync", "--quiet", "--frozen", "--project", str(lock.parent)]
    run = subprocess.run(
        [*arguments, "--python", sys.executable],
        env=kept | {"UV_PROJECT_ENVIRONMENT": str(place), "UV_PYTHON_DOWNLOADS": "never"},
        capture_output=True,
        text=True,
        timeout=INSTALL_TIMEOUT_S,
        check=False,
    )
    if run.returncode or not program.exists():
        raise EnvironmentsError(
            f"{name} could not be installed (PyPI must be reachable the first time):\n"
            f"{run.stderr.strip()[-2000:]}"
        )
    stamp.write_text(wanted)
    return program


def with_forge() -> dict[str, str]:
    """Our environment variables, with forge on the path: both tools call it by its name.

    Raises EnvironmentsError when it is not installed.
    """
    found = list((HERE / "node_modules" / "@foundry-rs").glob("forge-linux-*/bin"))
    if len(found) != 1:
        raise EnvironmentsError("forge is not there: run `make setup`")
    return os.environ | {"PATH": f"{found[0]}{os.pathsep}{os.environ.get('PATH', '')}"}
