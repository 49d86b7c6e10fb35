"""What docs/configuration.md says is what the code does."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from chain.deployment import Deployment, write_deployment
from node.config import _KEYS, _SECTIONS, check_startable, load_config
from node.config_values import plain_value, toml_text

ROOT = Path(__file__).parents[3]


def test_the_page_for_operators_has_every_key_its_default_and_where_it_may_come_from() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    rows = {
        name: (default.strip(), source)
        for name, default, source in re.findall(
            r"^\| `([a-z]+\.\w+)` \|([^|]*)\| (env|flag|file) \|", page, re.M
        )
    }
    expected = {}
    for section, keys in _KEYS.items():
        for item in dataclasses.fields(_SECTIONS[section]):
            key, default = keys[item.name], item.default
            shown = "required"
            if default is not dataclasses.MISSING:
                shown = "" if default is None else f"`{toml_text(plain_value(default, False))}`"
            source = "env" if key.env else "file" if key.anchor else "flag"
            expected[f"{section}.{item.name}"] = (shown, source)
    assert rows == expected


async def test_the_example_of_the_page_is_a_configuration_that_starts(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    file = tmp_path / "node.toml"
    file.write_text(page.partition("```toml\n")[2].partition("```")[0])
    await write_deployment(
        tmp_path / "deployment.json",
        Deployment(1, bytes(range(20)), 7, bytes(range(32)), (b"\1" * 20,)),
    )
    config = load_config(file, env={})
    check_startable(config)
    assert config.node.seat == 3 and config.chain.rpc_quorum == 2 and not config.insecure.names()
