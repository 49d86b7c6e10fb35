"""The deployment file in the configuration: it fills, and it must not be contradicted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from memory_node import document

from chain import Deployment, write_deployment
from node.config import Config, ConfigError, load_config, parse_config, show_config

DEPLOYED = Deployment(
    chain_id=8453,
    contract=b"\x11" * 20,
    deploy_block=70,
    code_hash=b"\x22" * 32,
    kms_roots=(b"\x33" * 20, b"\x34" * 20),
)
FILLED = ("chain_id", "contract", "deploy_block", "code_hash", "kms_roots")


def parse(base: Path, *, insecure: dict[str, Any] | None = None, **chain: Any) -> Config:
    found = document(**({"insecure": insecure} if insecure else {}))
    rest = {name: value for name, value in found["chain"].items() if name not in FILLED}
    found["chain"] = rest | {"deployment": "deployment.json"} | chain
    return parse_config(found, source="test.toml", base_dir=base)


async def test_a_deployment_file_fills_what_the_toml_leaves_out(tmp_path: Path) -> None:
    await write_deployment(tmp_path / "deployment.json", DEPLOYED)
    config = parse(tmp_path)
    chain = config.chain
    assert (chain.chain_id, chain.contract) == (DEPLOYED.chain_id, DEPLOYED.contract)
    assert (chain.deploy_block, chain.code_hash) == (70, DEPLOYED.code_hash)
    assert chain.kms_roots == DEPLOYED.kms_roots
    assert config.sources["chain.contract"] == "deployment.json"
    assert f'code_hash = "0x{"22" * 32}"' in show_config(config)


async def test_a_printed_configuration_leaves_these_keys_to_the_file(tmp_path: Path) -> None:
    await write_deployment(tmp_path / "deployment.json", DEPLOYED)
    config = parse(tmp_path)
    text = config.to_toml()
    assert "contract =" not in text and "deployment.json" in text
    (tmp_path / "config.toml").write_text(text)
    assert load_config(tmp_path / "config.toml", env={}) == config


async def test_saying_the_same_twice_is_no_contradiction(tmp_path: Path) -> None:
    await write_deployment(tmp_path / "deployment.json", DEPLOYED)
    same = parse(
        tmp_path,
        chain_id=8453,
        contract="11" * 20,
        kms_roots=["0x" + "34" * 20, "0x" + "33" * 20],
        code_hash="22" * 32,
    )
    assert same.chain.contract == DEPLOYED.contract
    assert same.sources["chain.contract"] == "test.toml"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("chain_id", 1),
        ("contract", "0x" + "12" * 20),
        ("deploy_block", 0),
        ("code_hash", "0x" + "23" * 32),
        ("kms_roots", ["0x" + "33" * 20]),
    ],
)
async def test_a_toml_that_contradicts_the_deployment_is_refused(
    tmp_path: Path, key: str, value: Any
) -> None:
    await write_deployment(tmp_path / "deployment.json", DEPLOYED)
    with pytest.raises(ConfigError, match=rf"chain\.deployment: chain\.{key} is .* in test\.toml"):
        parse(tmp_path, **{key: value})


async def test_a_danger_of_the_deployment_must_be_named_by_the_node_too(tmp_path: Path) -> None:
    await write_deployment(tmp_path / "deployment.json", replace(DEPLOYED, insecure=("simulator",)))
    with pytest.raises(ConfigError, match=r"insecure\.simulator = true"):
        parse(tmp_path)
    dangers = {"simulator": True, "single_rpc": True, "no_attestation": True}
    assert parse(tmp_path, insecure=dangers).insecure.simulator


@pytest.mark.parametrize("value", ["", 5, "missing.json"])
def test_a_file_that_is_not_there_is_an_error(tmp_path: Path, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"test\.toml: chain\.deployment: "):
        parse(tmp_path, deployment=value)
