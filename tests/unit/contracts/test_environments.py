"""When the environment of an analysis tool is made anew, with a recorder in place of uv."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from contracts.evm import environments

UV = """#!/bin/sh
mkdir -p "$UV_PROJECT_ENVIRONMENT/bin"
touch "$UV_PROJECT_ENVIRONMENT/bin/slither"
"""


def _tools(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tools = checkout / ".tools"
    (tools / "bin").mkdir(parents=True, exist_ok=True)
    (tools / "bin" / "uv").write_text(UV)
    (tools / "bin" / "uv").chmod(0o755)
    monkeypatch.setattr(environments, "TOOLS", tools)
    return tools


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = _tools(tmp_path, monkeypatch)
    assert environments.command("slither") == tools / "slither/bin/slither"
    (tools / "slither" / "mine").touch()
    environments.command("slither")
    assert (tools / "slither" / "mine").exists()


def test_in_a_checkout_that_was_moved_and_for_another_interpreter_it_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tools(tmp_path / "here", monkeypatch)
    environments.command("slither")
    (tmp_path / "here" / ".tools" / "slither" / "old").touch()
    (tmp_path / "here").rename(tmp_path / "there")
    tools = _tools(tmp_path / "there", monkeypatch)
    environments.command("slither")
    assert not (tools / "slither" / "old").exists()
    (tools / "slither" / "old").touch()
    monkeypatch.setattr(sys, "version", "3.99")
    environments.command("slither")
    assert not (tools / "slither" / "old").exists()
