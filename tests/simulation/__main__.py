"""Command line of the simulator."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from . import campaign, rounds, shrink, sweep
from .bad_leaders import LIARS
from .scenario import FAULTS, Settings


def _seeds(text: str) -> range:
    first, _, last = text.partition("..")
    return range(int(first), int(last or first) + 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--seeds", type=_seeds, default=range(1, 101), metavar="A..B")
    parser.add_argument("--byzantine", type=int, default=0, metavar="K")
    parser.add_argument("--adversary", default="", metavar="LIST", help=", ".join(LIARS))
    parser.add_argument("--faults", default="all", metavar="all|none|LIST", help=", ".join(FAULTS))
    parser.add_argument("--weights", default="", metavar="W,W,...", help="else the seed's choice")
    parser.add_argument("--chaos-ms", type=int, default=Settings().chaos_ms)
    parser.add_argument("--absences", type=int, default=0, help="members that come back late")
    parser.add_argument(
        "--recoveries", type=int, default=0, help="times that a quorum is lost for good"
    )
    parser.add_argument("--above-third", action="store_true", help="forks must convict")
    parser.add_argument(
        "--twins", action="store_true", help="small scenarios of doubled seats, many a second"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (with --twins)")
    parser.add_argument(
        "--calm-every", type=int, default=1, metavar="N", help="of N scenarios one must be live"
    )
    parser.add_argument("--chunk", type=int, default=sweep.CHUNK, help="seeds a process takes")
    parser.add_argument(
        "--results", type=Path, metavar="FILE", help="a line for each chunk; resumes from it"
    )
    parser.add_argument(
        "--report", action="store_true", help="only tell what the results file holds"
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trace", action="store_true", help="one line per event")
    parser.add_argument(
        "--shrink", action="store_true", help="the least that still fails, and its trace"
    )
    return parser


def _list(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name for name in text.split(",") if name)
    unknown = set(names) - set(known)
    if unknown:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    return names


def main() -> int:
    options = _parser().parse_args()
    if options.twins:
        try:
            return _twins(options)
        except sweep.ResultsError as error:
            raise SystemExit(str(error)) from None
    faults = {"all": FAULTS, "none": ()}.get(options.faults)
    settings = Settings(
        nodes=options.nodes,
        byzantine=options.byzantine,
        faults=_list(options.faults, FAULTS) if faults is None else faults,
        weights=tuple(int(w) for w in options.weights.split(",") if w),
        adversaries=_list(options.adversary, tuple(LIARS)),
        above_third=options.above_third,
        chaos_ms=options.chaos_ms,
        absences=options.absences,
        recoveries=options.recoveries,
    )
    if options.shrink:
        for seed in options.seeds:
            _show(shrink.scenario_of(seed, settings))
        return 0
    if options.trace:
        for seed in options.seeds:
            print(campaign.run_seed(seed, settings, trace=print))
        return 0
    report = campaign.run(options.seeds, settings)
    outcomes = report.outcomes
    summary = {
        "seeds": len(outcomes),
        "seeds_per_s": round(len(outcomes) / report.elapsed_s, 1),
        "events": sum(o.events for o in outcomes),
        "messages": sum(o.messages for o in outcomes),
        "blocks": sum(o.height for o in outcomes),
        "forks": sum(o.forked for o in outcomes),
        "recovery_ms_max": round(max(o.recovery_ms for o in outcomes)),
        "snapshots": sum(o.snapshots for o in outcomes),
        "recoveries": sum(o.recoveries for o in outcomes),
        "terms_max": max(o.terms for o in outcomes),
        "failures": [{"seed": o.seed, "failure": o.failure} for o in report.failures],
        "digest": report.digest,
    }
    if options.json:
        print(json.dumps(summary))
    else:
        arguments = [a for a in sys.argv[1:] if a != "--json"]
        for outcome in report.failures:
            line = _replay(arguments, outcome.seed)
            print(f"FAILED seed {outcome.seed}: {outcome.failure}\n  replay: {line}")
        for name, value in summary.items():
            print(f"{name}: {len(value) if isinstance(value, list) else value}")
    return 1 if report.failures else 0


def _show(small: shrink.Shrunk | None) -> None:
    print("it does not fail" if small is None else "\n".join((*small.trace, *small.told)))


def _twins(options: argparse.Namespace) -> int:
    seeds = options.seeds
    if options.report:
        if options.results is None:
            raise SystemExit("--report needs --results FILE")
        print(sweep.report(options.results))
        return 0
    if options.shrink or options.trace:
        for seed in seeds:
            if options.shrink:
                _show(shrink.schedule_of(seed))
            else:
                print(rounds.run_schedule(seed, rounds.schedule_of(seed), trace=print))
        return 0
    tally = sweep.run(
        seeds[0],
        seeds[-1],
        jobs=options.jobs,
        chunk=options.chunk,
        calm_every=options.calm_every,
        results=options.results,
    )
    if options.json:
        print(json.dumps(tally.summary()))
    else:
        for seed, failure in tally.failures:
            print(f"FAILED seed {seed}: {failure}")
            print(f"  replay: python -m tests.simulation --twins --seeds {seed} --shrink")
        for name, value in tally.summary().items():
            print(f"{name}: {len(value) if isinstance(value, list) else value}")
    return 1 if tally.failures else 0


def _replay(arguments: list[str], seed: int) -> str:
    kept = []
    skip = False
    for argument in arguments:
        if skip or argument.startswith("--seeds="):
            skip = False
            continue
        if argument == "--seeds":
            skip = True
            continue
        kept.append(argument)
    return " ".join(["python -m tests.simulation", *kept, f"--seeds {seed}", "--trace"])


if __name__ == "__main__":
    raise SystemExit(main())
