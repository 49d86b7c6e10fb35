"""``python -m tests.nemesis --seeds 1..20``: one line for each run, and what it found."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path

import structlog
import trio

from tests.nemesis import disks
from tests.nemesis.run import Outcome, run


def main() -> int:
    """The command; 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis", description=__doc__)
    parser.add_argument("--seeds", default="1..5", help="FIRST..LAST, one run each")
    parser.add_argument("--nodes", type=int, default=0, help="0: four or five, by seed")
    parser.add_argument("--seconds", type=float, default=90.0, help="of faults, in each run")
    parser.add_argument("--only", default="", help="names of actions, with commas between")
    parser.add_argument("--directory", type=Path, default=Path(".nemesis"))
    parser.add_argument(
        "--disks", action="store_true", help="ext4 on a file for each node: power cuts, full disks"
    )
    parser.add_argument("--verbose", action="store_true", help="say each action")
    arguments = parser.parse_args()
    if arguments.disks:
        if not disks.available():
            parser.error("--disks needs root, mkfs.ext4 and loop devices")
        disks.own_mounts()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    first, _, last = arguments.seeds.partition("..")
    bad = 0
    for seed in range(int(first), int(last or first) + 1):
        bad += bool(_one(arguments, seed).violations)
    return 1 if bad else 0


def _one(arguments: argparse.Namespace, seed: int) -> Outcome:
    begin_s = time.monotonic()

    def say(text: str) -> None:
        if arguments.verbose:
            print(f"  [{time.monotonic() - begin_s:6.1f} s] {text}", flush=True)

    async def whole() -> Outcome:
        return await run(
            (arguments.directory / str(seed)).absolute(),
            seed,
            count=arguments.nodes or 4 + seed % 2,
            seconds=arguments.seconds,
            own_disks=arguments.disks,
            only=frozenset(filter(None, arguments.only.split(","))),
            say=say,
        )

    outcome = trio.run(whole)
    most = ", ".join(f"{count} {what}" for what, count in outcome.most.items())
    did = ", ".join(f"{name} {count}" for name, count in sorted(outcome.actions.items()))
    print(
        f"seed {seed}: {len(outcome.violations)} violations; {outcome.answered} answers, "
        f"{outcome.writes} insistent writes, {outcome.revisions} revisions, "
        f"{outcome.streams} watches, {outcome.leases} leases, {outcome.offences} rude clients, "
        f"{time.monotonic() - begin_s:.0f} s; at most {most}; {did}",
        flush=True,
    )
    for text in outcome.violations:
        print(f"  VIOLATION {text}", flush=True)
    return outcome


if __name__ == "__main__":
    sys.exit(main())
