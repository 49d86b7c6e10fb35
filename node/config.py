"""The daemon's configuration: one TOML file, read into a frozen value and checked completely.

Where a value comes from, strongest first: command-line flag, environment, file, default. Trust
anchors (``[chain]`` except its two tuning keys) and whatever could weaken the node (``[agent]``,
``[api]``, ``[insecure]``) are never taken from the environment: a host can replace environment
variables of a confidential VM, it cannot replace the measured file. Anchors cannot be set by flag
either. ``chain.deployment`` names the file that ``contract deploy`` wrote; it fills what the TOML
leaves out. Unknown keys are refused, so that a misspelt safety setting is not silently a default.

``[insecure]`` holds the named dangers. Members are asked for TDX quotes unless ``no_attestation``
says that they are *not*; ``check_startable`` refuses to run where quotes are to be checked but
nothing could come of it, so nobody believes in a check that does not happen.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from node.config_deployment import DEPLOYMENT_KEYS, Contradiction, fill_from_deployment
from node.config_values import (
    Reader,
    WrongValue,
    address20,
    api_listen,
    came_text,
    choice,
    flag,
    hash32,
    integer,
    listens_only_here,
    multiaddr,
    path_text,
    plain_value,
    rpc_url,
    several,
    source_url,
    toml_text,
)

ENV_PREFIX = "DSTACK_CLUSTER_"
FILE_BYTES_MAX = 64 * 1024
RPC_ENDPOINTS_MAX = 16
KMS_ROOTS_MAX = 16
COLLATERAL_SOURCES_MAX = 8


class ConfigError(Exception):
    """The configuration cannot be used; the text names source, key, what is expected, what came."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """``[node]``: which seat this is, where it keeps its data, where it listens."""

    seat: int
    state_dir: Path
    endpoint: str  # multiaddr that the registry publishes, without the peer id
    listen: str = "/ip4/0.0.0.0/tcp/9600"


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """``[agent]``: the guest agent; None leaves the choice to the agent client."""

    socket: Path | None = None
    scheme: int | None = None  # 0: guest API v0 claim, 1: v1 claim


@dataclass(frozen=True, slots=True)
class ChainConfig:
    """``[chain]``: the trust anchors, and how often and how dearly the chain is used."""

    chain_id: int
    contract: bytes  # 20 bytes
    rpc: tuple[str, ...]
    kms_roots: tuple[bytes, ...]  # 20-byte addresses
    kind: str = "evm"
    deployment: Path | None = None  # a deployment file that gives the keys of DEPLOYMENT_KEYS
    deploy_block: int = 0
    code_hash: bytes | None = None  # 32 bytes; None: whatever code is found first stays pinned
    rpc_quorum: int = 1
    require_proofs: bool = False  # take no k equal answers where no endpoint proves them
    app_id: bytes | None = None  # 20 bytes; None: any app that the registry allows
    poll_interval_ms: int = 2_000
    max_fee_gwei: int = 100
    submit_evidence: bool = True  # show the chain what convicted a member
    record_leaders: bool = False  # and every leader, and every one deposed: each costs gas
    depose_leaders: bool = False
    sweep: bool = True  # have nodes taken out whose lease, root or app ended some time ago


@dataclass(frozen=True, slots=True)
class AttestationConfig:
    """``[attestation]``: what members' quotes are checked with; the policy is the registry's."""

    pccs_urls: tuple[str, ...] = ()  # sources of collateral, asked in order
    collateral_bundle: Path | None = None  # collateral to begin with, or without a source
    policy_file: Path | None = None  # its text, where no endpoint gives it
    tdx_root_file: Path | None = None  # needs insecure.external_tdx_root
    renew_s_max: int = 3_600  # members show a fresh quote at least this often


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """``[api]``: where the HTTP API listens; a token file is a must beyond this machine."""

    listen: str = "127.0.0.1:9700"  # or unix:/absolute/path
    token_file: Path | None = None


@dataclass(frozen=True, slots=True)
class LogConfig:
    """``[log]``."""

    format: str = "json"
    level: str = "info"


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """``[timing]``: durations in milliseconds."""

    leader_timeout_ms: int = 2_000  # silence after which the leader is voted out
    leader_timeout_max_ms: int = 16_000  # cap of its linear growth
    heartbeat_ms: int = 300  # an idle leader proposes an empty block this often
    gather_ms: int = 50  # a leader's blocks are so far apart while the last one is not final
    retry_ms: int = 500  # own last votes are sent again this often
    stall_ms: int = 2_500  # a term in which nothing becomes final for so long counts as one
    probe_ms: int = 1_000  # members are challenged this often; a leader that misses three goes
    censor_ms: int = 2_000  # a leader may leave out a command that is next for so long
    slow_ms: int = 1_500  # it may let commands wait for so long and make hardly any block
    behind_chain_ms: int = 60_000  # it may see a chain block so much later than this node
    patience_ms: int = 60_000  # after a false complaint timers are longer; a step back per this
    request_timeout_ms: int = 10_000  # a command's outcome is awaited this long


@dataclass(frozen=True, slots=True)
class SnapshotsConfig:
    """``[snapshots]``: how often the state is written whole, so that old blocks can go."""

    every_blocks: int = 8_192  # heights between snapshots; also how far behind one is asked for
    checkpoint_blocks: int = 1_024  # the same on all members; others than the default for tests


@dataclass(frozen=True, slots=True)
class InsecureConfig:
    """``[insecure]``: dangers, each off unless named; those that are on are shown in ``status``."""

    simulator: bool = False  # accept the publicly known keys of the guest agent simulator
    single_rpc: bool = False  # believe one RPC endpoint alone
    no_attestation: bool = False  # do not ask members for TDX quotes
    external_tdx_root: bool = False  # quotes need not lead to Intel's root, but to tdx_root_file

    def names(self) -> tuple[str, ...]:
        """Names of the dangers that are on, sorted as declared."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name))


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; ``sources`` tells where each value came from."""

    node: NodeConfig
    chain: ChainConfig
    agent: AgentConfig = AgentConfig()
    attestation: AttestationConfig = AttestationConfig()
    api: ApiConfig = ApiConfig()
    log: LogConfig = LogConfig()
    timing: TimingConfig = TimingConfig()
    snapshots: SnapshotsConfig = SnapshotsConfig()
    insecure: InsecureConfig = InsecureConfig()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def to_toml(self) -> str:
        """The configuration as a file that ``load_config`` reads back to an equal value.

        What its deployment file gives is left to that file.
        """
        filled = DEPLOYMENT_KEYS if self.chain.deployment is not None else ()
        return _print(self, _toml_value, left_out={f"chain.{name}" for name in filled})


def check_startable(config: Config) -> None:
    """Refuse to run where a protection would be assumed that cannot be given.

    Raises:
        ConfigError: quotes are to be checked, but there is no collateral to check them with.
    """
    attestation = config.attestation
    if config.insecure.no_attestation:
        return
    if not attestation.pccs_urls and attestation.collateral_bundle is None:
        raise ConfigError(
            "attestation.pccs_urls: expected a source of collateral (or a file of it in "
            "attestation.collateral_bundle), without which no member's quote can be verified, or "
            "insecure.no_attestation = true; came none"
        )


# --- the keys ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Key:
    read: Reader
    env: bool = False  # may come from the environment
    anchor: bool = False  # only from the file
    relative: bool = False  # a path, relative to the file's folder


_DURATION = _Key(integer(10, 600_000), env=True)

_KEYS: dict[str, dict[str, _Key]] = {
    "node": {
        "seat": _Key(integer(1, 2**32 - 1), env=True),
        "state_dir": _Key(path_text, env=True, relative=True),
        "listen": _Key(multiaddr(0), env=True),
        "endpoint": _Key(multiaddr(1), env=True),
    },
    "agent": {
        "socket": _Key(path_text, relative=True),
        "scheme": _Key(integer(0, 1)),
    },
    "chain": {
        "kind": _Key(choice("evm"), anchor=True),
        "deployment": _Key(path_text, anchor=True, relative=True),
        "chain_id": _Key(integer(1, 2**63 - 1), anchor=True),
        "contract": _Key(address20, anchor=True),
        "deploy_block": _Key(integer(0, 2**48 - 1), anchor=True),
        "code_hash": _Key(hash32, anchor=True),
        "rpc": _Key(several(rpc_url, RPC_ENDPOINTS_MAX), anchor=True),
        "rpc_quorum": _Key(integer(1, RPC_ENDPOINTS_MAX), anchor=True),
        "require_proofs": _Key(flag, anchor=True),
        "app_id": _Key(address20, anchor=True),
        "kms_roots": _Key(several(address20, KMS_ROOTS_MAX), anchor=True),
        "poll_interval_ms": _Key(integer(100, 600_000), env=True),
        "max_fee_gwei": _Key(integer(1, 1_000_000), env=True),
        "submit_evidence": _Key(flag),
        "record_leaders": _Key(flag),
        "depose_leaders": _Key(flag),
        "sweep": _Key(flag),
    },
    "attestation": {
        "pccs_urls": _Key(several(source_url, COLLATERAL_SOURCES_MAX, 0), anchor=True),
        "collateral_bundle": _Key(path_text, anchor=True, relative=True),
        "policy_file": _Key(path_text, anchor=True, relative=True),
        "tdx_root_file": _Key(path_text, anchor=True, relative=True),
        "renew_s_max": _Key(integer(1, 7 * 24 * 3600), anchor=True),
    },
    "api": {
        "listen": _Key(api_listen),
        "token_file": _Key(path_text, relative=True),
    },
    "log": {
        "format": _Key(choice("json", "pretty"), env=True),
        "level": _Key(choice("debug", "info", "warning", "error"), env=True),
    },
    "timing": {
        **{name.name: _DURATION for name in fields(TimingConfig)},
        "gather_ms": _Key(integer(0, 1_000), env=True),
    },
    "snapshots": {name.name: _Key(integer(1, 2**32 - 1)) for name in fields(SnapshotsConfig)},
    "insecure": {name.name: _Key(flag) for name in fields(InsecureConfig)},
}
_SECTIONS: dict[str, type] = {
    "node": NodeConfig,
    "agent": AgentConfig,
    "chain": ChainConfig,
    "attestation": AttestationConfig,
    "api": ApiConfig,
    "log": LogConfig,
    "timing": TimingConfig,
    "snapshots": SnapshotsConfig,
    "insecure": InsecureConfig,
}


# --- reading -----------------------------------------------------------------------------------


def load_config(
    file: Path | str,
    *,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Config:
    """Read and check a configuration file.

    Args:
        file: the TOML file, at most 64 KiB.
        env: environment (default: the process's); ``DSTACK_CLUSTER_<SECTION>_<KEY>`` are looked at.
        flags: ``{"section.key": text}`` from the command line.

    Raises:
        ConfigError: the first thing that is wrong.
    """
    path = Path(file)
    try:
        with path.open("rb") as handle:
            raw = handle.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > FILE_BYTES_MAX:
        raise ConfigError(f"{path}: expected at most {FILE_BYTES_MAX} bytes, came more")
    try:
        document = tomllib.loads(raw.decode("utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: expected a TOML file: {error}") from None
    return parse_config(
        document,
        source=str(path),
        base_dir=path.absolute().parent,
        env=os.environ if env is None else env,
        flags=flags or {},
    )


def parse_config(
    document: Mapping[str, Any],
    *,
    source: str,
    base_dir: Path,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Config:
    """Check a parsed document; see ``load_config`` for the other arguments and errors.

    Args:
        source: the name errors give to the document.
        base_dir: the folder that relative paths start from.
    """
    found: dict[str, tuple[Any, str]] = {}  # "section.key" -> (value, source)
    for section, table in document.items():
        keys = _KEYS.get(section)
        if keys is None:
            expected = ", ".join(f"[{name}]" for name in _KEYS)
            raise ConfigError(f"{source}: {section}: unknown section; expected one of {expected}")
        if not isinstance(table, dict):
            raise ConfigError(f"{source}: {section}: expected a table, came {came_text(table)}")
        for name, value in table.items():
            if name not in keys:
                expected = ", ".join(keys)
                raise ConfigError(
                    f"{source}: {section}.{name}: unknown key; expected one of {expected}"
                )
            found[f"{section}.{name}"] = (value, source)
    for full, text in _from_env(env or {}).items():
        found[full] = (_typed(full, text), "environment")
    for full, text in (flags or {}).items():
        section, _, name = full.partition(".")
        if name not in _KEYS.get(section, {}):
            raise ConfigError(f"flag: {full}: unknown key")
        if _KEYS[section][name].anchor:
            raise ConfigError(f"flag: {full}: a trust anchor; expected only in the file")
        found[full] = (_typed(full, text), "flag")
    if "chain.deployment" in found:
        _fill_from_deployment(found, source, base_dir)
    return _build(found, source, base_dir)


def _fill_from_deployment(found: dict[str, tuple[Any, str]], source: str, base_dir: Path) -> None:
    value, _ = found["chain.deployment"]
    readers = {name: _KEYS["chain"][name].read for name in DEPLOYMENT_KEYS}
    try:
        fill_from_deployment(found, base_dir / path_text(value), readers)
    except WrongValue as wrong:
        raise ConfigError(
            f"{source}: chain.deployment: expected {wrong}; came {came_text(value)}"
        ) from None
    except Contradiction as contradiction:
        raise ConfigError(f"{source}: chain.deployment: {contradiction}") from None


def _from_env(env: Mapping[str, str]) -> dict[str, str]:
    values = {}
    for section, keys in _KEYS.items():
        prefix = f"{ENV_PREFIX}{section}_".upper()
        known = {prefix + name.upper() for name in keys}
        for variable in sorted(env):
            if variable.startswith(prefix) and variable not in known:
                raise ConfigError(f"environment: {variable}: [{section}] has no such key")
        for name, key in keys.items():
            variable = f"{ENV_PREFIX}{section}_{name}".upper()
            if variable not in env:
                continue
            if not key.env:
                raise ConfigError(
                    f"environment: {variable}: {section}.{name} is expected only in the file"
                    + ("" if key.anchor else " or as a flag")
                    + ", because the host can replace the environment"
                )
            values[f"{section}.{name}"] = env[variable]
    return values


def _typed(full: str, text: str) -> Any:
    """Text of a flag or variable as the TOML type that its key wants."""
    if re.fullmatch(r"-?[0-9]{1,20}", text):
        return int(text)
    if text in ("true", "false"):
        return text == "true"
    return text


def _build(found: dict[str, tuple[Any, str]], source: str, base_dir: Path) -> Config:
    sections: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for section, kind in _SECTIONS.items():
        values: dict[str, Any] = {}
        for item in fields(kind):
            full = f"{section}.{item.name}"
            if full not in found:
                sources[full] = "default"
                continue
            value, where = found[full]
            key = _KEYS[section][item.name]
            try:
                values[item.name] = key.read(value)
            except WrongValue as wrong:
                raise ConfigError(
                    f"{where}: {full}: expected {wrong}; came {came_text(value)}"
                ) from None
            if key.relative:
                values[item.name] = base_dir / values[item.name]
            sources[full] = where
        try:
            sections[section] = kind(**values)
        except TypeError:
            missing = next(n for n in _required(kind) if n not in values)
            raise ConfigError(f"{source}: {section}.{missing}: expected, but missing") from None
    config = Config(**sections, sources=sources)
    _check_together(config)
    return config


def _required(kind: type) -> list[str]:
    from dataclasses import MISSING

    return [f.name for f in fields(kind) if f.default is MISSING]


def _check_together(config: Config) -> None:
    """Rules between keys."""
    chain, timing = config.chain, config.timing

    def wrong(full: str, expected: str, came: object) -> ConfigError:
        return ConfigError(
            f"{config.sources.get(full, 'default')}: {full}: expected {expected}; came {came}"
        )

    count = len(chain.rpc)
    if config.insecure.single_rpc:
        if chain.rpc_quorum > count:
            raise wrong("chain.rpc_quorum", f"at most the {count} endpoints", chain.rpc_quorum)
    elif count < 2:
        raise wrong(
            "chain.rpc", "at least 2 independent endpoints, or insecure.single_rpc = true", count
        )
    elif not count < 2 * chain.rpc_quorum <= 2 * count:
        raise wrong(
            "chain.rpc_quorum", f"more than half and at most all of {count}", chain.rpc_quorum
        )
    tdx_root, external = config.attestation.tdx_root_file, config.insecure.external_tdx_root
    if external != (tdx_root is not None):
        raise wrong(
            "attestation.tdx_root_file",
            "a file if and only if insecure.external_tdx_root = true",
            "none" if tdx_root is None else tdx_root,
        )
    if not listens_only_here(config.api.listen) and config.api.token_file is None:
        raise wrong("api.token_file", f"a file, because {config.api.listen} is not local", "none")
    every, checkpoint = config.snapshots.every_blocks, config.snapshots.checkpoint_blocks
    if every % checkpoint:
        raise wrong("snapshots.every_blocks", f"a multiple of {checkpoint}", every)
    for small, large in (
        ("heartbeat_ms", "leader_timeout_ms"),
        ("retry_ms", "leader_timeout_max_ms"),
        ("leader_timeout_ms", "leader_timeout_max_ms"),
        ("leader_timeout_ms", "stall_ms"),
    ):
        low, high = getattr(timing, small), getattr(timing, large)
        if low > high or (small == "heartbeat_ms" and low == high):
            raise wrong(f"timing.{small}", f"less than timing.{large} = {high}", low)


# --- printing ----------------------------------------------------------------------------------


def show_config(config: Config) -> str:
    """For people: every value with its source; keys inside RPC URLs masked.

    Paid RPC endpoints carry their key in the path or query, so both are cut.
    """
    return _print(config, _shown_value, with_sources=True)


def config_json(config: Config) -> dict[str, Any]:
    """``show_config`` as JSON: ``{section: {key: {"value": …, "source": …}}}``."""
    return {
        section: {
            item.name: {
                "value": plain_value(value, mask=True),
                "source": config.sources.get(f"{section}.{item.name}", "default"),
            }
            for item in fields(kind)
            if (value := getattr(getattr(config, section), item.name)) is not None
        }
        for section, kind in _SECTIONS.items()
    }


def _toml_value(value: Any) -> str:
    return toml_text(plain_value(value, mask=False))


def _shown_value(value: Any) -> str:
    return toml_text(plain_value(value, mask=True))


def _print(
    config: Config,
    text_of: Callable[[Any], str],
    with_sources: bool = False,
    left_out: Collection[str] = (),
) -> str:
    lines: list[str] = []
    if with_sources:
        lines += ["# strongest first: flag, environment (not for anchors), file, default", ""]
    for section, kind in _SECTIONS.items():
        lines.append(f"[{section}]")
        for item in fields(kind):
            value = getattr(getattr(config, section), item.name)
            if value is None or f"{section}.{item.name}" in left_out:
                continue
            line = f"{item.name} = {text_of(value)}"
            if with_sources:
                line = f"{line:<56}  # {config.sources.get(f'{section}.{item.name}', 'default')}"
            lines.append(line)
        lines.append("")
    return "\n".join(lines)
