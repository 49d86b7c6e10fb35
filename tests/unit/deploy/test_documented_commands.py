"""Every command that the documentation shows is one that there is, with options that it has."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import deploy.operator.cli
import deploy.testnet.cli
import node.cli
from node.api.openapi import DOCUMENT

ROOT = Path(__file__).parents[3]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "contracts" / "evm" / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PARSERS = {
    "contract": deploy.operator.cli._parser(),
    "testnet": deploy.testnet.cli._parser(),
}


def console(text: str) -> Iterator[str]:
    """What is typed in the blocks of a page; ``plan`` is docs/operator.md's short word."""
    for block in re.findall(r"^```(?:console|sh)\n(.*?)^```", text, re.S | re.M):
        for line in re.findall(r"^\$ (.*)", block.replace("\\\n", " "), re.M):
            for part in line.split("|"):
                words = part.split(" # ")[0].split(" #")[0].strip()
                if words.startswith("plan "):
                    yield "contract " + words.removeprefix("plan ")
                elif words.startswith("dstack-cluster "):
                    yield words.removeprefix("dstack-cluster ")


def in_passing(text: str) -> Iterator[str]:
    """What a sentence names."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    for words in re.findall(r"`([^`\n]+)`", prose):
        if re.match(r"dstack-cluster (?![-.])", words):
            yield words.removeprefix("dstack-cluster ")
        elif re.match(r"(contract|testnet|kv|config|attest|snapshot) [a-z-]+", words):
            yield words


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def wrong_with(command: str) -> str | None:
    """Why there is no such command; words in capitals and numbers stand for arguments."""
    first, *words = shlex.split(command.replace("…", "..."))
    parser = PARSERS.get(first)
    if parser is None:
        parser, words = node.cli._parser([]), [first, *words]
    for word in words:
        choices = verbs_of(parser)
        if choices and not word.startswith("-"):
            names = word.split("|")
            if not all(name in choices for name in names):
                return f"{command}: no {word} among {sorted(choices)}"
            parser = choices[names[0]]
        elif word.startswith("--"):
            name = word.split("=")[0]
            if not any(name in action.option_strings for action in parser._actions):
                return f"{command}: {parser.prog} has no {name}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_of_a_page_is_one_that_there_is(page: Path) -> None:
    text = page.read_text()
    commands = {*console(text), *in_passing(text)}
    assert [wrong for command in sorted(commands) if (wrong := wrong_with(command))] == []


def test_commands_are_found_and_wrong_ones_are_seen() -> None:
    text = (ROOT / "docs" / "operator.md").read_text()
    assert len(set(console(text))) > 40
    for wrong in ("contract grand 1", "testnet kill 4 --hard", "kv push a b", "statuss"):
        assert wrong_with(wrong)
    for right in ("contract boot add|remove compose-hash H", "kv get --prefix a", "status --json"):
        assert wrong_with(right) is None


def test_every_route_that_a_page_names_is_one_that_is_served() -> None:
    routes = {re.sub(r"\{\w+\}", "*", path) for path in DOCUMENT["paths"]}
    for page in PAGES:
        for path in re.findall(r"(?<![\w.])(/v1/[\w/{}-]*[\w}])", page.read_text()):
            named = re.sub(r"\{\w+\}", "*", path)
            served = any(
                re.fullmatch(re.escape(route).replace(r"\*", r"[\w*]+"), named) for route in routes
            )
            assert served, f"{page.name}: {path}"
    readme = (ROOT / "README.md").read_text()
    for route in DOCUMENT["paths"]:
        if not re.search(r"leader/|leases/", route):
            assert f"`{route}`" in readme, route
