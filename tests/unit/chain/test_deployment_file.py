"""The deployment file: it reads back, and anything else than what we write is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chain import ChainConfigError, Deployment, Placed, read_deployment, write_deployment
from chain.deployment import FILE_BYTES_MAX

GOOD = Deployment(
    chain_id=8453,
    contract=b"\x11" * 20,
    deploy_block=7,
    code_hash=b"\x22" * 32,
    kms_roots=(b"\x33" * 20, b"\x34" * 20),
    insecure=("simulator",),
    others=(Placed("AppAuth", b"\x44" * 20, b"\x55" * 32),),
)


async def test_a_deployment_file_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "deployment.json"
    await write_deployment(path, GOOD)
    assert read_deployment(path) == GOOD
    assert GOOD.other("AppAuth") == GOOD.others[0] and GOOD.other("Mint") is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("format", 1),
        ("chain_id", 0),
        ("chain_id", True),
        ("chain_id", "8453"),
        ("contract", "0x" + "00" * 20),
        ("contract", "11" * 21),
        ("contract", "0x" + "1G" * 20),
        ("contract", 5),
        ("deploy_block", -1),
        ("code_hash", "0x" + "22" * 31),
        ("kms_roots", []),
        ("kms_roots", "0x" + "33" * 20),
        ("kms_roots", ["0x" + "33" * 20] * 2),
        ("kms_roots", [f"0x{n:040x}" for n in range(1, 18)]),
        ("insecure", ["rm -rf"]),
        ("insecure", [["simulator"]]),
        ("others", [{"name": "AppAuth"}]),
        ("others", ["AppAuth"]),
        ("surprise", 1),
    ],
)
async def test_a_field_that_we_would_not_write_is_refused(
    tmp_path: Path, field: str, value: Any
) -> None:
    path = tmp_path / "deployment.json"
    await write_deployment(path, GOOD)
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ChainConfigError, match="damaged"):
        read_deployment(path)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"\xff", b"[" * 5000])
def test_another_content_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "deployment.json"
    path.write_bytes(content)
    with pytest.raises(ChainConfigError):
        read_deployment(path)


def test_a_missing_and_an_endless_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(ChainConfigError, match="no deployment file"):
        read_deployment(tmp_path / "missing.json")
    (tmp_path / "long.json").write_bytes(b" " * (FILE_BYTES_MAX + 1))
    with pytest.raises(ChainConfigError, match="longer than"):
        read_deployment(tmp_path / "long.json")
