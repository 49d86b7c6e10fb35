"""The lists that the issue names, and that both sides stand trial."""

from __future__ import annotations

import ast
from pathlib import Path

LISTED = {f"E{number:02}" for number in range(1, 26)} | {f"O{number}" for number in range(1, 10)}
BOTH_SIDES = {"target", "election"}  # fixtures that give ours, then the flawed contract


def test_every_listed_attack_is_tried_on_ours_and_on_the_flawed_rules() -> None:
    tried: set[str] = set()
    for file in sorted(Path(__file__).parent.glob("test_attacks_on_*.py")):
        for node in ast.parse(file.read_text()).body:
            if not isinstance(node, ast.AsyncFunctionDef) or not node.name.startswith("test_"):
                continue
            arguments = {argument.arg for argument in node.args.args}
            number = node.name.split("_")[1]
            assert arguments & BOTH_SIDES or "kind" in arguments, f"{node.name} has one side"
            tried.add(number)
    assert tried - {"the"} == LISTED
