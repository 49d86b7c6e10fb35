"""``python -m bench leaders``: how long a bad leader stays, in simulated time.

The simulator runs the core that the daemon runs, with the daemon's default timers, over links with
0.5 to 5 ms of delay and without other faults. The first leader turns bad two seconds after the
start. The time runs from then until another leader has served the client whom the bad one leaves
waiting, from which on a user sees nothing any more. Four members, idle or with two clients
writing all the time; one run for each seed. Nothing here depends on how fast the machine is.

Some leaders are bad and yet serve everybody: they withhold what others then repeat, or do not
answer challenges. How long they stay matters little, and some stay long; for them the longest
wait of a client is told, over ten seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from node.config import TimingConfig
from node.daemon import durations
from tests.simulation.bad_leaders import BAD_FROM_MS, VICTIM
from tests.simulation.reign import Reign, Writer, replaced_after

TARGET_MS = 3000
LIMIT_MS = 30_000.0
KINDS = {  # of ``tests.simulation.bad_leaders``, by what the target calls them
    "proposes_nothing": "mute: answers challenges, proposes nothing",
    "favours": "mute to half of the members",
    "last_millisecond": "stalling: proposes a moment before the timers fire",
    "client_censor": "censoring: leaves out one client",
    "member_censor": "censoring: leaves out all that comes from one member",
}
SERVING = {
    "answers_nothing": "answers no challenge, proposes",
    "favours_a_quorum": "proposes to all but one",
    "withholds_finality": "proposes to all but one, finalizes nothing",
}
SERVING_MS = 10_000.0


@dataclass(frozen=True, slots=True)
class Row:
    """Simulated milliseconds under a leader of one kind, one for each seed."""

    kind: str
    busy: bool
    times_ms: tuple[float, ...]

    def as_json(self) -> dict[str, object]:
        return {
            "kind": self.kind,
            "busy": self.busy,
            "runs": len(self.times_ms),
            "least_ms": round(min(self.times_ms)),
            "median_ms": round(statistics.median(self.times_ms)),
            "worst_ms": round(max(self.times_ms)),
        }


def measure(kind: str, seeds: int, *, busy: bool) -> Row:
    """Runs a kind with the seeds 1 to ``seeds``; one that outlasts ``LIMIT_MS`` counts as that."""
    timers = durations(TimingConfig())
    times = [
        replaced_after(kind, timers, busy=busy, seed=seed, limit_ms=LIMIT_MS)
        for seed in range(1, seeds + 1)
    ]
    return Row(kind, busy, tuple(LIMIT_MS if time is None else time for time in times))


def longest_wait(kind: str, seeds: int) -> Row:
    """How long the client of the member that is left out waits at most."""
    waits = []
    for seed in range(1, seeds + 1):
        reign = Reign(kind, seed=seed, durations=durations(TimingConfig()))
        reign.run_for(BAD_FROM_MS)
        victim = Writer(reign, reign.victim, VICTIM, 100.0)
        reign.run_for(SERVING_MS)
        waits.append(max(victim.slowest_ms, victim.waits_ms))
    return Row(kind, False, tuple(waits))


def main(argv: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench leaders", description=__doc__)
    parser.add_argument("--seeds", type=int, default=30, help="runs of each kind")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    if arguments.seeds < 1:
        parser.error("--seeds must be at least 1")
    replaced = [measure(k, arguments.seeds, busy=b) for k in KINDS for b in (False, True)]
    serving = [longest_wait(k, arguments.seeds) for k in SERVING]
    if arguments.json:
        report = {
            "target_ms": TARGET_MS,
            "replaced": [row.as_json() for row in replaced],
            "longest_wait": [row.as_json() for row in serving],
        }
        print(json.dumps(report))
        return 0
    print(f"simulated ms until served by another leader, target {TARGET_MS}:")
    for row in replaced:
        print(f"  {KINDS[row.kind]}, {'busy' if row.busy else 'idle'}: {_figures(row)}")
    print("simulated ms that a client waits at most, whether the leader is replaced or not:")
    for row in serving:
        print(f"  {SERVING[row.kind]}: {_figures(row)}")
    return 0


def _figures(row: Row) -> str:
    found = row.as_json()
    return f"median {found['median_ms']}, worst {found['worst_ms']} of {found['runs']}"
