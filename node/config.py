"""The daemon's configuration: one TOML file, read into a frozen value and checked completely.

Where a value comes from, strongest first: command-line flag, environment, file, default. Trust
anchors (``[chain]`` except its two tuning keys) and whatever could weaken the node (``[agent]``,
``[api]``, ``[insecure]``) are never taken from the environment: a host can replace environment
variables of a confidential VM, it cannot replace the measured file. Anchors cannot be set by flag
either. Unknown keys are refused, so that a misspelt safety setting is not silently a default.

``[insecure]`` holds the named dangers. ``no_attestation = true`` says that members are *not* asked
for TDX quotes; as long as this release cannot check quotes, ``check_startable`` refuses to run
without it, so nobody believes in a check that does not happen.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ENV_PREFIX = "DSTACK_CLUSTER_"
FILE_BYTES_MAX = 64 * 1024
TEXT_LENGTH_MAX = 512
ENDPOINT_BYTES_MAX = 128
RPC_ENDPOINTS_MAX = 16
KMS_ROOTS_MAX = 16


class ConfigError(Exception):
    """The configuration cannot be used; the text names source, key, what was expected, what came."""


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
    deploy_block: int = 0
    rpc_quorum: int = 1
    app_id: bytes | None = None  # 20 bytes; None: any app that the registry allows
    poll_interval_ms: int = 2_000
    max_fee_gwei: int = 100


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
    heartbeat_ms: int = 500  # an idle leader proposes an empty block this often
    retry_ms: int = 500  # own last votes are sent again this often
    stall_ms: int = 6_000  # an entered, never finalized view counts as a timeout after this
    request_timeout_ms: int = 10_000  # a command's outcome is awaited this long


@dataclass(frozen=True, slots=True)
class InsecureConfig:
    """``[insecure]``: dangers, each off unless named; those that are on are shown in ``status``."""

    simulator: bool = False  # accept the publicly known keys of the guest agent simulator
    single_rpc: bool = False  # believe one RPC endpoint alone
    no_attestation: bool = False  # do not ask members for TDX quotes

    def names(self) -> tuple[str, ...]:
        """Names of the dangers that are on, sorted as declared."""
        return tuple(f.name for f in fields(self) if getattr(self, f.name))


@dataclass(frozen=True, slots=True)
class Config:
    """The whole configuration; ``sources`` tells where each value came from."""

    node: NodeConfig
    chain: ChainConfig
    agent: AgentConfig = AgentConfig()
    api: ApiConfig = ApiConfig()
    log: LogConfig = LogConfig()
    timing: TimingConfig = TimingConfig()
    insecure: InsecureConfig = InsecureConfig()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def to_toml(self) -> str:
        """The configuration as a file that ``load_config`` reads back to an equal value."""
        return _print(self, _toml_value)


def check_startable(config: Config) -> None:
    """Refuse to run while a protection would be assumed that this release does not give.

    Raises:
        ConfigError: quotes are expected of members, but none would be checked.
    """
    if not config.insecure.no_attestation:
        raise ConfigError(
            "insecure.no_attestation: expected true, because this release does not check TDX "
            "quotes of members yet; came false. The daemon does not start pretending it would"
        )


# --- how each key is read -----------------------------------------------------------------------


class _Wrong(Exception):
    """What was expected instead."""


Reader = Callable[[Any], Any]


def _integer(low: int, high: int) -> Reader:
    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise _Wrong(f"an integer from {low} to {high}")
        return value

    return read


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise _Wrong("true or false")
    return value


def _choice(*names: str) -> Reader:
    def read(value: Any) -> str:
        if value not in names or not isinstance(value, str):
            raise _Wrong("one of " + ", ".join(f'"{name}"' for name in names))
        return value

    return read


def _path(value: Any) -> Path:
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_LENGTH_MAX or "\0" in value:
        raise _Wrong(f"a path of 1 to {TEXT_LENGTH_MAX} characters")
    return Path(value)


_PORT = r"(0|[1-9][0-9]{0,4})"
_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\Z")
_MULTIADDR = re.compile(rf"/(ip4|ip6|dns|dns4|dns6)/([^/\s]+)/tcp/{_PORT}\Z")


def _multiaddr(port_low: int) -> Reader:
    expected = (
        f"a multiaddr /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT of at most {ENDPOINT_BYTES_MAX} bytes "
        f"with a port from {port_low} to 65535 and no peer id"
    )

    def read(value: Any) -> str:
        if not isinstance(value, str) or not value.isascii() or len(value) > ENDPOINT_BYTES_MAX:
            raise _Wrong(expected)
        match = _MULTIADDR.match(value)
        if match is None or not port_low <= int(match[3]) <= 65535:
            raise _Wrong(expected)
        try:
            if match[1] == "ip4":
                ipaddress.IPv4Address(match[2])
            elif match[1] == "ip6":
                ipaddress.IPv6Address(match[2])
            elif not _NAME.match(match[2]):
                raise ValueError(match[2])
        except ValueError:
            raise _Wrong(expected) from None
        return value

    return read


def _hex20(value: Any) -> bytes:
    expected = "20 bytes as 40 hex digits, 0x in front or not; in mixed case the EIP-55 checksum"
    text = value.removeprefix("0x") if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9a-fA-F]{40}", text):
        raise _Wrong(expected)
    raw = bytes.fromhex(text)
    if text not in (text.lower(), text.upper()) and text != _eip55(raw):
        raise _Wrong(expected)
    if not any(raw):
        raise _Wrong(expected + ", not zero")
    return raw


def _eip55(raw: bytes) -> str:
    """Mixed-case checksum text of an address, without 0x (EIP-55)."""
    from Crypto.Hash import keccak  # here: only mixed-case addresses need it

    text = raw.hex()
    digest = keccak.new(digest_bits=256, data=text.encode()).hexdigest()
    return "".join(c.upper() if int(d, 16) >= 8 else c for c, d in zip(text, digest, strict=False))


def _rpc_url(value: Any) -> str:
    expected = "an http(s) URL without user name, password and fragment"
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= TEXT_LENGTH_MAX
        or not re.fullmatch(r"[\x21-\x7e]+", value)
    ):
        raise _Wrong(expected)
    try:
        parts = urlsplit(value)
        port_good = parts.port is None or parts.port > 0
    except ValueError:
        raise _Wrong(expected) from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_good
        or "@" in parts.netloc
        or parts.fragment
    ):
        raise _Wrong(expected)
    return value


def _several(read_one: Reader, count_max: int) -> Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not 1 <= len(value) <= count_max:
            raise _Wrong(f"a list of 1 to {count_max}")
        items = []
        for item in value:
            try:
                items.append(read_one(item))
            except _Wrong as wrong:
                raise _Wrong(f"a list of: {wrong}") from None
        if len(set(items)) != len(items):
            raise _Wrong("a list without repetition")
        return tuple(items)

    return read


def _api_listen(value: Any) -> str:
    expected = '"IP:PORT" (an IPv6 address in brackets) or "unix:/absolute/path" (at most 100 bytes)'
    if not isinstance(value, str) or len(value) > TEXT_LENGTH_MAX:
        raise _Wrong(expected)
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > 100:
            raise _Wrong(expected)
        return value
    host, _, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise _Wrong(expected) from None
    if bracketed != (address.version == 6) or not re.fullmatch(_PORT, port) or int(port) > 65535:
        raise _Wrong(expected)
    return value


def listens_only_here(listen: str) -> bool:
    """Whether an ``api.listen`` value can be reached from this machine alone."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    return ipaddress.ip_address(host).is_loopback


@dataclass(frozen=True, slots=True)
class _Key:
    read: Reader
    env: bool = False  # may come from the environment
    anchor: bool = False  # only from the file
    relative: bool = False  # a path, relative to the file's folder


_DURATION = _Key(_integer(10, 600_000), env=True)

_KEYS: dict[str, dict[str, _Key]] = {
    "node": {
        "seat": _Key(_integer(1, 2**32 - 1), env=True),
        "state_dir": _Key(_path, env=True, relative=True),
        "listen": _Key(_multiaddr(0), env=True),
        "endpoint": _Key(_multiaddr(1), env=True),
    },
    "agent": {
        "socket": _Key(_path, relative=True),
        "scheme": _Key(_integer(0, 1)),
    },
    "chain": {
        "kind": _Key(_choice("evm"), anchor=True),
        "chain_id": _Key(_integer(1, 2**63 - 1), anchor=True),
        "contract": _Key(_hex20, anchor=True),
        "deploy_block": _Key(_integer(0, 2**48 - 1), anchor=True),
        "rpc": _Key(_several(_rpc_url, RPC_ENDPOINTS_MAX), anchor=True),
        "rpc_quorum": _Key(_integer(1, RPC_ENDPOINTS_MAX), anchor=True),
        "app_id": _Key(_hex20, anchor=True),
        "kms_roots": _Key(_several(_hex20, KMS_ROOTS_MAX), anchor=True),
        "poll_interval_ms": _Key(_integer(100, 600_000), env=True),
        "max_fee_gwei": _Key(_integer(1, 1_000_000), env=True),
    },
    "api": {
        "listen": _Key(_api_listen),
        "token_file": _Key(_path, relative=True),
    },
    "log": {
        "format": _Key(_choice("json", "pretty"), env=True),
        "level": _Key(_choice("debug", "info", "warning", "error"), env=True),
    },
    "timing": {name.name: _DURATION for name in fields(TimingConfig)},
    "insecure": {name.name: _Key(_flag) for name in fields(InsecureConfig)},
}
_SECTIONS: dict[str, type] = {
    "node": NodeConfig,
    "agent": AgentConfig,
    "chain": ChainConfig,
    "api": ApiConfig,
    "log": LogConfig,
    "timing": TimingConfig,
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
            raise ConfigError(f"{source}: {section}: expected a table, came {_came(table)}")
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
    return _build(found, source, base_dir)


def _from_env(env: Mapping[str, str]) -> dict[str, str]:
    values = {}
    for section, keys in _KEYS.items():
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
            except _Wrong as wrong:
                raise ConfigError(f"{where}: {full}: expected {wrong}; came {_came(value)}") from None
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
    if not listens_only_here(config.api.listen) and config.api.token_file is None:
        raise wrong("api.token_file", f"a file, because {config.api.listen} is not local", "none")
    for small, large in (
        ("heartbeat_ms", "leader_timeout_ms"),
        ("retry_ms", "leader_timeout_max_ms"),
        ("leader_timeout_ms", "leader_timeout_max_ms"),
        ("leader_timeout_ms", "stall_ms"),
    ):
        low, high = getattr(timing, small), getattr(timing, large)
        if low > high or (small == "heartbeat_ms" and low == high):
            raise wrong(f"timing.{small}", f"less than timing.{large} = {high}", low)


def _came(value: Any) -> str:
    """A value as errors show it: short, and long texts cut."""
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 80 else text[:77] + "..."


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
                "value": _plain(value, mask=True),
                "source": config.sources.get(f"{section}.{item.name}", "default"),
            }
            for item in fields(kind)
            if (value := getattr(getattr(config, section), item.name)) is not None
        }
        for section, kind in _SECTIONS.items()
    }


def masked_url(url: str) -> str:
    """The URL's origin, with ``/***`` when there was more."""
    parts = urlsplit(url)
    rest = parts.path.strip("/") or parts.query
    return f"{parts.scheme}://{parts.netloc}" + ("/***" if rest else "")


def _plain(value: Any, mask: bool) -> Any:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(item, mask) for item in value]
    if mask and isinstance(value, str) and value.startswith(("http://", "https://")):
        return masked_url(value)
    assert not is_dataclass(value)
    return value


def _toml_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml_text(item) for item in value) + "]"
    if isinstance(value, int):
        return str(value)
    escaped = "".join(
        {'"': '\\"', "\\": "\\\\"}.get(c, c) if c.isprintable() else f"\\U{ord(c):08x}"
        for c in value
    )
    return f'"{escaped}"'


def _toml_value(value: Any) -> str:
    return _toml_text(_plain(value, mask=False))


def _shown_value(value: Any) -> str:
    return _toml_text(_plain(value, mask=True))


def _print(config: Config, text_of: Callable[[Any], str], with_sources: bool = False) -> str:
    lines: list[str] = []
    if with_sources:
        lines += ["# strongest first: flag, environment (not for anchors), file, default", ""]
    for section, kind in _SECTIONS.items():
        lines.append(f"[{section}]")
        for item in fields(kind):
            value = getattr(getattr(config, section), item.name)
            if value is None:
                continue
            line = f"{item.name} = {text_of(value)}"
            if with_sources:
                line = f"{line:<56}  # {config.sources.get(f'{section}.{item.name}', 'default')}"
            lines.append(line)
        lines.append("")
    return "\n".join(lines)
