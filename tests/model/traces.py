"""Traces of the model: from Quint's ITF files to what a replay needs, as plain JSON.

A view is ``[epoch, term, index]``, a block ``[epoch, term, index, twin]``, a vote ``[kind, view or
block]``. A step says which action was taken with which choices, what was signed and proposed in it,
and how the process that took it stands afterwards.
"""

from __future__ import annotations

import gzip
import itertools
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from consensus.limits import EPOCHS_PER_ERA

ROOT = Path(__file__).parents[2]
QUINT = ROOT / "model" / "node_modules" / ".bin" / "quint"
STORED = Path(__file__).with_name("traces.jsonl.gz")

NUMBERS, EPOCHS = 1_000, 100  # of an epoch, and of an era, in the model
SEARCHES = ("calm", "liar", "weighted", "crashes", "rollback", "handover")  # of model/runs.qnt

Json = Any


def generate(init: str, seed: int, count: int, steps: int = 40, moves: str = "step") -> list[Json]:
    """Random traces of the model. Raises CalledProcessError when its invariant fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [str(QUINT), "run", "runs.qnt", "--backend=typescript", f"--init={init}"]
        command += ["--invariant=safety", f"--max-samples={count}", f"--max-steps={steps}"]
        command += [f"--step={moves}", f"--n-traces={count}", f"--seed={seed}"]
        command += ["--mbt", "--verbosity=0"]
        command += [f"--out-itf={folder}/{{seq}}.itf.json"]
        subprocess.run(command, cwd=ROOT / "model", check=True, capture_output=True, text=True)
        files = sorted(Path(folder).iterdir())
        return [
            reduced(json.loads(file.read_text()), f"{init} {seed}.{number}")
            for number, file in enumerate(files)
        ]


def load() -> list[Json]:
    """The stored traces."""
    with gzip.open(STORED, "rt") as lines:
        return [json.loads(line) for line in lines]


def reduced(itf: Json, name: str) -> Json:
    """The part of a trace that a replay needs."""
    states = [_plain(state) for state in itf["states"]]
    setting = states[0]["setting"]
    steps = []
    for before, after in itertools.pairwise(states):
        picks = {
            key: _short(option["value"])
            for key, option in after["mbt::nondetPicks"].items()
            if option["tag"] == "Some"
        }
        action = after["mbt::actionTaken"]
        steps.append(
            {
                "do": action,
                "picks": picks,
                "cast": _new_votes(before, after),
                "proposed": _new_blocks(before, after),
                "members": _moved(before, after),
            }
        )
    return {
        "name": name,
        "weights": [sorted([s, w] for s, w in ws) for ws in setting["registry"]],
        "seen": setting["seen"],
        "order": setting["order"],
        "liars": sorted(setting["liars"]),
        "rolledBack": sorted(setting["rolledBack"]),
        "first": {"cast": _new_votes(None, states[0]), "proposed": _new_blocks(None, states[0])},
        "steps": steps,
    }


def _plain(value: Json) -> Json:
    """ITF without its wrappers: maps become lists of pairs, sets and tuples lists."""
    if isinstance(value, dict):
        if "#bigint" in value:
            return int(value["#bigint"])
        if "#map" in value:
            return [[_plain(k), _plain(v)] for k, v in value["#map"]]
        for wrapper in ("#set", "#tup"):
            if wrapper in value:
                return [_plain(v) for v in value[wrapper]]
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def _short(value: Json) -> Json:
    """Views, blocks and votes as lists."""
    if isinstance(value, dict):
        if value.keys() == {"epoch", "term", "index"}:
            return [_epoch(value["epoch"]), value["term"], value["index"]]
        if value.keys() == {"view", "twin"}:
            return [*_short(value["view"]), value["twin"]]
        if value.keys() == {"tag", "value"}:
            return [value["tag"], _short(value["value"])]
        if value.keys() == {"seat", "number", "process"}:
            epoch, count = divmod(value["number"], NUMBERS)
            return {**value, "number": _epoch(epoch) * NUMBERS + count}
        return {k: _short(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(v) for v in value]
    return value


def _epoch(number: int) -> int:
    """An era of the model has fewer epochs than a real one (R21)."""
    return number // EPOCHS * EPOCHS_PER_ERA + number % EPOCHS


def _new_votes(before: Json | None, after: Json) -> Json:
    """What was signed in a step: pairs of seat and vote."""
    known = {json.dumps(v): set(seats) for v, seats in (before["votes"] if before else [])}
    fresh = []
    for vote, seats in after["votes"]:
        for seat in sorted(set(seats) - known.get(json.dumps(vote), set())):
            fresh.append([seat, _short(vote)])
    return sorted(fresh, key=json.dumps)


def _new_blocks(before: Json | None, after: Json) -> Json:
    known = {json.dumps(name) for name, _ in before["blocks"]} if before else set()
    return [
        {"block": _short(name), "parent": _short(b["parent"]), "record": sorted(b["record"])}
        for name, b in after["blocks"]
        if json.dumps(name) not in known and _short(name) != [0, 0, 0, 0]
    ]


def _moved(before: Json, after: Json) -> Json:
    """How the processes stand that a step changed."""
    known = {p: json.dumps(m) for p, m in before["members"]}
    return {
        str(p): {
            "view": _short(m["view"]),
            "top": _short(m["top"]),
            "final": _short(m["final"]),
            "genesis": _short(m["genesis"]),
            "active": m["active"],
            "seen": m["seen"],
            "shown": m["shown"],
            "request": _short(m["request"]),
            "abstain": _short(m["disk"]["abstain"]),
        }
        for p, m in after["members"]
        if json.dumps(m) != known.get(p)
    }
