"""Runs slither over the sources: every finding is explained in one reviewed place, or this fails.

The explanations stand in ``tools/slither/explained.toml``: detector, places, and why it is no
fault there. A finding without one fails, and so does an explanation that nothing needs any more.
A place is ``Contract.function`` or ``Contract.function.variable``; one that is listed twice allows
two findings there, not three. The compiler is asked for syntax trees only, which takes seconds.

Run ``python -m contracts.evm.slither``. Installs slither into ``.tools/slither`` the first time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections import Counter
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from contracts.evm import build
from contracts.evm.environments import EnvironmentsError, command, with_forge

HERE = Path(__file__).resolve().parent
EXPLAINED = HERE / "tools" / "slither" / "explained.toml"
OUT = HERE / "out" / "slither"
SLITHER_TIMEOUT_S = 600


class SlitherError(Exception):
    """Slither did not run to its end, or the file of explanations is not as it must be."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a detector says of one place, in its own words with line numbers."""

    detector: str
    impact: str
    place: str
    words: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why findings of a detector are no fault in these places; ``*`` stands for any name."""

    detector: str
    places: tuple[str, ...]
    why: str


def read_explanations(text: str) -> list[Explanation]:
    """The explanations of a TOML text; SlitherError when an entry lacks something."""
    found = []
    for entry in tomllib.loads(text).get("explained", []):
        if set(entry) != {"detector", "where", "why"} or not entry["where"]:
            raise SlitherError(f"an entry needs detector, where and why, and has {entry}")
        if len(entry["why"].split()) < 4:
            raise SlitherError(f"{entry['detector']}: {entry['why']!r} is no reason")
        found.append(Explanation(entry["detector"], tuple(entry["where"]), entry["why"]))
    return found


def judge(
    findings: list[Finding], explanations: list[Explanation]
) -> tuple[list[Finding], list[str]]:
    """The findings that nothing explains, and the places whose explanation nothing needs."""
    exact = Counter((e.detector, p) for e in explanations for p in e.places if "*" not in p)
    patterns = [(e.detector, p) for e in explanations for p in e.places if "*" in p]
    used: set[tuple[str, str]] = set()
    unexplained = []
    for finding in findings:
        if exact[finding.detector, finding.place] > 0:
            exact[finding.detector, finding.place] -= 1
            continue
        fitting = [
            (detector, pattern)
            for detector, pattern in patterns
            if detector == finding.detector and fnmatchcase(finding.place, pattern)
        ]
        used.update(fitting)
        if not fitting:
            unexplained.append(finding)
    stale = [key for key in patterns if key not in used]
    stale += [key for key, left in exact.items() for _ in range(left)]
    return unexplained, [f"{detector} in {place}" for detector, place in stale]


def place_of(element: dict[str, Any]) -> str:
    """``Contract.function.variable`` of an element of slither's output."""
    parent = element.get("type_specific_fields", {}).get("parent")
    inside = parent and parent["type"] in ("contract", "function")
    return f"{place_of(parent)}.{element['name']}" if inside else str(element["name"])


def analyse() -> list[Finding]:
    """What slither finds in our own sources, libraries left out."""
    program, environment = command("slither"), with_forge()
    sources: dict[str, str] = {}
    for contracts in build.TOGETHER:
        for source in contracts.values():
            sources |= build.source_closure(source)
    request, output = build.syntax_trees(sources)
    for contracts in output["contracts"].values():
        for contract in contracts.values():
            # slither reads these, and needs nothing of them
            code = {"object": "", "sourceMap": ""}
            contract["evm"] = {"bytecode": code, "deployedBytecode": code}
    place = OUT / "build-info"
    place.mkdir(parents=True, exist_ok=True)
    version = build.compiler_version().split("+")[0]
    information = {"solcVersion": version, "input": request, "output": output}
    (place / "sources.json").write_text(json.dumps(information))
    arguments = ["--foundry-ignore-compile", "--foundry-out-directory", str(OUT)]
    run = subprocess.run(
        [str(program), ".", *arguments, "--filter-paths", "node_modules", "--json", "-"],
        cwd=HERE,
        env=environment,
        capture_output=True,
        text=True,
        timeout=SLITHER_TIMEOUT_S,
        check=False,
    )
    try:
        report = json.loads(run.stdout)
    except ValueError as error:
        raise SlitherError(f"slither gave no report: {run.stderr.strip()[-2000:]}") from error
    if not report["success"]:
        raise SlitherError(f"slither failed: {report['error']}")
    return [
        Finding(
            found["check"],
            found["impact"],
            place_of(found["elements"][0]),
            found["description"].strip(),
        )
        for found in report["results"].get("detectors", ())
    ]


def main() -> int:
    """Exit status 1 when a finding has no explanation, or an explanation no finding."""
    try:
        explanations = read_explanations(EXPLAINED.read_text())
        findings = analyse()
    except (SlitherError, EnvironmentsError, build.BuildError) as error:
        print(f"contracts.evm.slither: {error}", file=sys.stderr)
        return 1
    unexplained, stale = judge(findings, explanations)
    for finding in unexplained:
        print(f"{finding.detector} ({finding.impact}): {finding.words}", file=sys.stderr)
    for entry in stale:
        print(f"explained and not found: {entry}", file=sys.stderr)
    print(
        f"slither: {len(findings)} findings, {len(unexplained)} unexplained,"
        f" {len(stale)} explanations without a finding"
    )
    if not unexplained and not stale:
        return 0
    print(
        f"Mend the source. If it is right as it is, say why in {EXPLAINED.relative_to(HERE)}:\n"
        + "".join(f"    {f.detector}: {f.place}\n" for f in unexplained)
        + "Take out of it what is not found any more.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
