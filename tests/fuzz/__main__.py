"""Runs one target: ``python -m tests.fuzz NAME [--seconds N]``."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from . import corpora

PACKAGES = ("consensus", "node", "chain", "attest")
INPUT_S_MAX = 120  # by the wall clock: on a busy machine a process may have to wait for its turn
FAILURES = Path(".fuzz")  # inputs that broke a promise


def _names() -> list[str]:
    from .targets import TARGETS

    return sorted(TARGETS)


def _fuzz(name: str, arguments: list[str]) -> None:
    """In a process of its own: atheris instruments modules as they are imported."""
    import atheris

    with atheris.instrument_imports(include=list(PACKAGES)):
        from .targets import TARGETS
    # libFuzzer starts itself again for a merge, by the first argument, through a shell.
    again = f"{sys.executable} -m tests.fuzz --worker {name}"
    atheris.Setup([again, *arguments], TARGETS[name].run)
    atheris.Fuzz()


def _run(*arguments: str) -> int:
    return subprocess.run([sys.executable, "-m", "tests.fuzz", *arguments], check=False).returncode


def _campaign(name: str, seconds: int) -> int:
    from .targets import TARGETS

    FAILURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        grown, least = Path(folder, "grown"), Path(folder, "least")
        grown.mkdir()
        least.mkdir()
        for number, data in enumerate([*corpora.load(name), *TARGETS[name].seeds()]):
            (grown / f"seed-{number}").write_bytes(data)
        status = _run(
            "--worker", name, str(grown), f"-max_total_time={seconds}", "-max_len=16384",
            f"-artifact_prefix={FAILURES}/{name}-", f"-timeout={INPUT_S_MAX}",
            "-rss_limit_mb=2048", "-print_final_stats=1",
        )  # fmt: skip
        # What was found before a failure is kept all the same.
        status = _run("--worker", name, "-merge=1", str(least), str(grown)) or status
        if status and not any(least.iterdir()):
            return status
        kept = corpora.save(name, (file.read_bytes() for file in least.iterdir()))
        print(f"{name}: {kept} inputs kept")
    return status


def main() -> int:
    if sys.argv[1:2] == ["--worker"]:
        _fuzz(sys.argv[2], sys.argv[3:])
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(_names())}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    options = parser.parse_args()
    unknown = set(options.names) - set(_names())
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    failed = [n for n in options.names or _names() if _campaign(n, options.seconds)]
    if failed:
        print(f"FAILED: {', '.join(failed)}; the inputs are in {FAILURES}/", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
