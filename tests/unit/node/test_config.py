from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_node import CONTRACT, document, make_config

from node.config import (
    FILE_BYTES_MAX,
    Config,
    ConfigError,
    check_startable,
    config_json,
    load_config,
    parse_config,
    show_config,
)
from node.config_values import masked_url


def parse(**sections: dict[str, Any]) -> Config:
    return make_config(Path("/base"), **sections)


def test_a_minimal_file_gets_the_defaults_and_paths_relative_to_its_folder() -> None:
    config = parse(agent={"socket": "agent.sock"})
    assert config.node.state_dir == Path("/base/state")
    assert config.agent.socket == Path("/base/agent.sock")
    assert config.chain.contract == bytes.fromhex(CONTRACT[2:])
    assert config.api.listen == "127.0.0.1:9700"
    assert config.sources["node.seat"] == "test.toml"
    assert config.sources["log.level"] == "default"
    assert config.insecure.names() == ("single_rpc", "no_attestation")


WRONG: list[tuple[str, str, Any, str]] = [
    ("node", "seat", 0, "an integer from 1"),
    ("node", "seat", True, "an integer from 1"),
    ("node", "seat", "1", "an integer from 1"),
    ("node", "seat", 1.0, "an integer from 1"),
    ("node", "state_dir", "", "a path"),
    ("node", "state_dir", "a\0b", "a path"),
    ("node", "listen", "0.0.0.0:9600", "a multiaddr"),
    ("node", "listen", "/ip4/0.0.0.0/udp/9600", "a multiaddr"),
    ("node", "listen", "/ip4/0.0.0.256/tcp/9600", "a multiaddr"),
    ("node", "listen", "/ip4/0.0.0.0/tcp/65536", "a multiaddr"),
    ("node", "endpoint", "/ip4/10.0.0.1/tcp/0", "a multiaddr"),
    ("node", "endpoint", "/ip4/10.0.0.1/tcp/9600/p2p/16Uiu2", "a multiaddr"),
    ("node", "endpoint", "/dns4/" + "a" * 130 + "/tcp/1", "a multiaddr"),
    ("node", "endpoint", "/dns4/a b/tcp/1", "a multiaddr"),
    ("node", "endpoint", "/ip4/10.0.0.1/tcp/9600\n", "a multiaddr"),
    ("agent", "scheme", 2, "an integer from 0 to 1"),
    ("chain", "kind", "near", 'one of "evm"'),
    ("chain", "chain_id", -1, "an integer"),
    ("chain", "contract", "0x1234", "20 bytes"),
    ("chain", "contract", "0x" + "00" * 20, "20 bytes"),
    ("chain", "contract", "0x5FbDB2315678afecb367f032d93F642f64180aa4", "EIP-55"),
    ("chain", "app_id", 5, "20 bytes"),
    ("chain", "rpc", "http://one", "a list"),
    ("chain", "rpc", [], "a list"),
    ("chain", "rpc", ["ftp://x"], "an http(s) URL"),
    ("chain", "rpc", ["http://user:pw@x"], "without user name"),
    ("chain", "rpc", ["http://x:99999"], "an http(s) URL"),
    ("chain", "rpc", ["http://a..b"], "an http(s) URL"),
    ("chain", "rpc", ["http://" + 64 * "a" + ".example"], "an http(s) URL"),
    ("chain", "rpc", ["http://x", "http://x"], "without repetition"),
    ("chain", "rpc_quorum", 2, "at most the 1"),
    ("chain", "kms_roots", ["0x12"], "20 bytes"),
    ("chain", "max_fee_gwei", 0, "an integer"),
    ("api", "listen", "localhost:9700", "IP:PORT"),
    ("api", "listen", "127.0.0.1", "IP:PORT"),
    ("api", "listen", "unix:relative", "IP:PORT"),
    ("api", "listen", "::1:9700", "IP:PORT"),
    ("api", "listen", "127.0.0.1:70000", "IP:PORT"),
    ("log", "format", "xml", 'one of "json", "pretty"'),
    ("log", "level", ["info"], "one of"),
    ("timing", "heartbeat_ms", 0, "an integer"),
    ("insecure", "simulator", "yes", "true or false"),
    ("insecure", "simulator", 1, "true or false"),
]


@pytest.mark.parametrize(("section", "key", "value", "expected"), WRONG)
def test_a_wrong_value_is_refused_with_source_key_expectation_and_value(
    section: str, key: str, value: Any, expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(**{section: {key: value}})
    text = str(caught.value)
    assert text.startswith(f"test.toml: {section}.{key}: expected ")
    assert expected in text
    assert "came" in text and len(text) < 400 and text.isprintable()


@pytest.mark.parametrize(
    "rpc",
    [
        ["https://user:api-key@one.example/v2"],
        ["https://user:api/api-key@one.example/v2"],
        ["https://one.example/v2/api-key#fragment"],
        ["https://one.example?k=api-key "],
        ["https://one.example/api-key", "https://one.example/api-key"],
        "https://one.example/api-key",
    ],
)
def test_a_refused_url_is_shown_without_what_may_be_its_key(rpc: Any) -> None:
    with pytest.raises(ConfigError, match=r"came .*https://(\*\*\*|one\.example)") as caught:
        parse(chain={"rpc": rpc})
    assert "api-key" not in str(caught.value)


@pytest.mark.parametrize(
    ("section", "table", "part"),
    [
        ("timing", {"heartbeat_ms": 2000, "leader_timeout_ms": 2000}, "less than"),
        ("timing", {"leader_timeout_ms": 20_000}, "less than"),
        ("insecure", {"single_rpc": False}, "at least 2 independent endpoints"),
        ("api", {"listen": "0.0.0.0:9700"}, "not local"),
        ("api", {"listen": "[::]:9700"}, "not local"),
    ],
)
def test_rules_between_keys_are_checked(section: str, table: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        parse(**{section: table})


@pytest.mark.parametrize(("quorum", "good"), [(1, False), (2, True), (3, True), (4, False)])
def test_several_endpoints_need_a_majority_to_agree(quorum: int, good: bool) -> None:
    chain = {"rpc": ["http://a", "http://b", "http://c"], "rpc_quorum": quorum}
    sections: dict[str, Any] = {"chain": chain, "insecure": {"single_rpc": False}}
    if good:
        assert parse(**sections).chain.rpc_quorum == quorum
    else:
        with pytest.raises(ConfigError, match="more than half"):
            parse(**sections)


@pytest.mark.parametrize("section", ["node", "chain"])
def test_a_missing_key_is_named(section: str) -> None:
    for key in document()[section]:
        broken = document()
        del broken[section][key]
        with pytest.raises(ConfigError, match=rf"{section}\.{key}: expected, but missing"):
            parse_config(broken, source="f", base_dir=Path("/base"))


def test_unknown_sections_and_keys_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown section; expected one of \[node\]"):
        parse(nodes={"seat": 1})
    with pytest.raises(ConfigError, match=r"insecure\.simulater: unknown key"):
        parse(insecure={"simulater": True})
    with pytest.raises(ConfigError, match="expected a table"):
        parse_config({"node": 1}, source="f", base_dir=Path("/"))


def test_flags_beat_environment_beats_file_beats_default() -> None:
    def load(env: dict[str, str], flags: dict[str, str]) -> Config:
        return parse_config(
            document(log={"level": "error"}),
            source="f",
            base_dir=Path("/"),
            env=env,
            flags=flags,
        )

    env = {"DSTACK_CLUSTER_LOG_LEVEL": "debug", "DSTACK_CLUSTER_NODE_SEAT": "7"}
    config = load(env, {"log.level": "warning"})
    assert (config.log.level, config.sources["log.level"]) == ("warning", "flag")
    assert (config.node.seat, config.sources["node.seat"]) == (7, "environment")
    assert load(env, {}).log.level == "debug"
    assert load({}, {}).log.level == "error"


@pytest.mark.parametrize(
    "name",
    [
        "CHAIN_CHAIN_ID",
        "CHAIN_CONTRACT",
        "CHAIN_RPC",
        "CHAIN_RPC_QUORUM",
        "CHAIN_KMS_ROOTS",
        "CHAIN_DEPLOY_BLOCK",
        "CHAIN_APP_ID",
        "CHAIN_KIND",
        "AGENT_SOCKET",
        "API_LISTEN",
        "API_TOKEN_FILE",
        "INSECURE_SIMULATOR",
        "INSECURE_SINGLE_RPC",
        "INSECURE_NO_ATTESTATION",
    ],
)
def test_anchors_and_dangers_never_come_from_the_environment(name: str) -> None:
    with pytest.raises(ConfigError, match="only in the file"):
        parse_config(
            document(), source="f", base_dir=Path("/"), env={f"DSTACK_CLUSTER_{name}": "1"}
        )


def test_a_misspelt_variable_is_refused_and_not_silently_the_default() -> None:
    def parsed(name: str) -> Config:
        return parse_config(document(), source="f", base_dir=Path("/"), env={name: "10"})

    with pytest.raises(ConfigError, match=r"DSTACK_CLUSTER_TIMING_HEARTBEET_MS: \[timing\] has no"):
        parsed("DSTACK_CLUSTER_TIMING_HEARTBEET_MS")
    assert parsed("DSTACK_CLUSTER_TIMING_HEARTBEAT_MS").timing.heartbeat_ms == 10
    for command_line in ("DSTACK_CLUSTER_API", "DSTACK_CLUSTER_TOKEN_FILE"):
        parsed(command_line)


def test_anchors_do_not_come_from_flags_either_but_dangers_may() -> None:
    def load(**flags: str) -> Config:
        named = {name.replace("__", "."): value for name, value in flags.items()}
        return parse_config(document(), source="f", base_dir=Path("/"), flags=named)

    with pytest.raises(ConfigError, match="trust anchor"):
        load(chain__contract="0x" + "33" * 20)
    with pytest.raises(ConfigError, match="unknown key"):
        load(chain__nothing="1")
    assert load(insecure__simulator="true").insecure.simulator
    with pytest.raises(ConfigError, match=r"flag: node.seat: expected an integer"):
        load(node__seat="one")


def test_quotes_cannot_be_checked_without_a_source_of_collateral(tmp_path: Path) -> None:
    check_startable(parse())
    checking = {"no_attestation": False}
    with pytest.raises(ConfigError, match="pccs_urls: expected a source of collateral"):
        check_startable(parse(insecure=checking))
    check_startable(parse(insecure=checking, attestation={"pccs_urls": ["https://pccs.example"]}))
    bundled = make_config(
        tmp_path, insecure=checking, attestation={"collateral_bundle": "bundle.json"}
    )
    check_startable(bundled)
    assert bundled.attestation.collateral_bundle == tmp_path / "bundle.json"


@pytest.mark.parametrize(
    "url",
    ["http://pccs.example", "ftp://x", "https://a/?key=1", "https://u:p@a", "https://a#b", "", 5],
)
def test_collateral_comes_over_https_or_from_this_machine(url: object) -> None:
    with pytest.raises(ConfigError, match="https URL"):
        parse(attestation={"pccs_urls": [url]})
    parse(attestation={"pccs_urls": ["http://127.0.0.1:81/x", "http://[::1]:9", "https://a/b"]})


def test_another_root_than_intels_needs_the_danger_named(tmp_path: Path) -> None:
    root = {"tdx_root_file": "root.der"}
    with pytest.raises(ConfigError, match="tdx_root_file: expected a file if and only if"):
        parse(attestation=root)
    with pytest.raises(ConfigError, match="external_tdx_root"):
        parse(insecure={"external_tdx_root": True})
    config = parse(attestation=root, insecure={"external_tdx_root": True})
    assert "external_tdx_root" in config.insecure.names()


@pytest.mark.parametrize("key", ["PCCS_URLS", "POLICY_FILE", "TDX_ROOT_FILE", "RENEW_S_MAX"])
def test_what_quotes_are_checked_with_comes_from_the_file_alone(key: str) -> None:
    with pytest.raises(ConfigError, match="only in the file"):
        parse_config(
            document(),
            source="x",
            base_dir=Path("/"),
            env={f"DSTACK_CLUSTER_ATTESTATION_{key}": "1"},
        )


def test_the_printed_file_reads_back_equal(tmp_path: Path) -> None:
    config = make_config(
        tmp_path,
        agent={"socket": 'a"b\\ü.sock', "scheme": 1},
        chain={"app_id": "ab" * 20, "rpc": ["https://a/key", "https://b"], "rpc_quorum": 2},
        api={"listen": "unix:/tmp/x.sock"},
    )
    (tmp_path / "c.toml").write_text(config.to_toml(), encoding="utf-8")
    assert load_config(tmp_path / "c.toml", env={}) == config


def test_show_masks_keys_in_rpc_urls_and_tells_sources() -> None:
    config = parse(chain={"rpc": ["https://rpc.example/v2/SECRETKEY?token=HIDDEN"]})
    for text in (show_config(config), str(config_json(config))):
        assert "https://rpc.example/***" in text
        assert "SECRETKEY" not in text and "HIDDEN" not in text
    assert "# test.toml" in show_config(config) and "# default" in show_config(config)
    tomllib.loads(show_config(config))
    assert masked_url("http://127.0.0.1:8545") == "http://127.0.0.1:8545"


def test_files_that_are_no_configuration_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(path)
    for raw in (b"\xff\xfe", b"= 1", b"[node]\nseat = 1\nseat = 2", b"a=" + b"[" * 5000):
        path.write_bytes(raw)
        with pytest.raises(ConfigError, match="expected a TOML file"):
            load_config(path)
    path.write_bytes(b"#" * (FILE_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match="at most"):
        load_config(path)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40)
TREES = st.recursive(SCALARS, lambda t: st.lists(t, max_size=3), max_leaves=4)
NAMES = st.sampled_from(["seat", "rpc", "listen", "contract", "kms_roots", "level", "simulator"])
SECTIONS = st.sampled_from(["node", "agent", "chain", "api", "log", "timing", "insecure", "x"])


@settings(max_examples=300)
@given(st.dictionaries(SECTIONS, TREES | st.dictionaries(NAMES, TREES, max_size=4), max_size=4))
def test_any_document_gives_a_configuration_or_one_clear_line(changes: dict[str, Any]) -> None:
    whole: dict[str, Any] = document()
    for name, table in changes.items():
        mergeable = isinstance(table, dict)
        whole[name] = {**whole.get(name, {}), **table} if mergeable else table
    try:
        config = parse_config(whole, source="f", base_dir=Path("/b"))
    except ConfigError as error:
        assert str(error).isprintable() and len(str(error)) < 600
    else:
        again = parse_config(tomllib.loads(config.to_toml()), source="g", base_dir=Path("/b"))
        assert again == config


def test_a_checksummed_address_is_taken() -> None:
    address = "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    assert parse(chain={"contract": address}).chain.contract.hex() == address[2:].lower()
