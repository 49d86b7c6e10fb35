"""The shape of the code, kept by a test: short files, and a reading order that names every one."""

from __future__ import annotations

import importlib
import re
import subprocess
from collections import Counter
from pathlib import Path

import consensus

ROOT = Path(__file__).parents[2]
LINES_MAX = 600


def _tracked(pattern: str) -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-z", pattern], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_no_file_is_too_long_to_be_read() -> None:
    long = {
        str(file.relative_to(ROOT)): lines
        for file in (*_tracked("*.py"), *_tracked("*.sol"))
        if (lines := len(file.read_text().splitlines())) > LINES_MAX
    }
    assert not long


def test_no_two_test_files_of_folders_without_a_package_share_a_name() -> None:
    """pytest imports them by their names alone."""
    loose = [f for f in _tracked("tests/*.py") if not (f.parent / "__init__.py").exists()]
    names = Counter(f.name for f in loose if f.name != "conftest.py")
    assert not [name for name, number in names.items() if number > 1]


def _reading_order() -> list[str]:
    return re.findall(r"``([a-z_]+)``", (consensus.__doc__ or "").partition("Read in this")[2])


def test_the_reading_order_of_the_protocol_names_every_module_once() -> None:
    modules = sorted(p.stem for p in _tracked("consensus/*.py") if p.stem != "__init__")
    assert sorted(_reading_order()) == modules


def test_no_module_of_the_protocol_imports_one_that_is_read_later() -> None:
    order = _reading_order()
    for at, module in enumerate(order):
        text = (ROOT / "consensus" / f"{module}.py").read_text()
        several = re.findall(r"^from \. import (.+)$", text, re.MULTILINE)
        imported = {*re.findall(r"^from \.(\w+) import", text, re.MULTILINE)}
        imported.update(name for names in several for name in names.split(", "))
        assert imported <= set(order[:at]), module


def test_the_walk_through_the_protocol_names_what_there_is() -> None:
    """``Class.method`` where it is defined, and methods of a member."""
    modules = {name: importlib.import_module(f"consensus.{name}") for name in _reading_order()}
    owners = {**modules, **{n: v for m in modules.values() for n, v in vars(m).items()}}
    walk = (ROOT / "docs" / "protocol.md").read_text().partition("## 9. ")[2]
    named = re.findall(r"`(\w+)\.(\w+)(?:\(\w+\))?`", walk)
    assert len(named) > 15
    for owner, name in named:
        assert name == "py" or name in vars(owners[owner]), f"{owner}.{name}"
    own = set(re.findall(r"`(_\w+)`", walk))
    assert len(own) > 20
    there = {name for value in owners.values() for name in dir(value)}
    assert own <= there, own - there


def test_every_alarm_that_the_page_for_operators_explains_is_one_that_nodes_raise() -> None:
    page = (ROOT / "docs" / "alarms.md").read_text().partition("## Exit status")[0]
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    code = "".join(path.read_text() for path in (ROOT / "node").rglob("*.py"))
    told = " ".join(re.sub(r'"\s+f?"', "", code).split())
    beginnings = [words for row in rows for words in re.findall(r"`([^`]+)`", row)]
    assert len(beginnings) >= 14
    assert [words for words in beginnings if words not in told] == []


def test_every_line_of_the_log_that_the_pages_for_operators_name_is_one_that_nodes_write() -> None:
    alarms = (ROOT / "docs" / "alarms.md").read_text().partition("## Lines of the log")[2]
    logs = (ROOT / "docs" / "monitoring.md").read_text().partition("## Logs")[2]
    texts = alarms, logs.partition("`peer` another")[2].partition("## Metrics")[0]
    named = {name for text in texts for name in re.findall(r"`([a-z_]+)`", text)} - {"active"}
    code = "".join(path.read_text() for path in (ROOT / "node").rglob("*.py"))
    assert len(named) > 12
    assert {name for name in named if f'"{name}"' not in code} == set()


def test_every_rule_that_the_code_cites_is_in_the_protocol_page() -> None:
    page = (ROOT / "docs" / "protocol.md").read_text()
    known = set(re.findall(r"\*\*(R\d+)\.", page))
    cited = {
        rule
        for file in _tracked("consensus/*.py")
        for rule in re.findall(r"\bR\d+\b", file.read_text())
    }
    assert cited <= known
    assert known <= cited, "rules that no line of the code cites"
