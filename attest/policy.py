"""The policy: which machines the cluster takes, as a JSON text whose hash is on the chain.

Everybody must read a text alike, so the format is strict: known keys only, each once, exact sizes,
integers. What is not allowed in it is refused; there is no default but refusal, except where the
table in docs/attestation.md names one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NoReturn

from .bounded_json import parse_json
from .errors import AgentProtocolError, PolicyError
from .keys import keccak256
from .strict_json import hex_bytes

POLICY_VERSION = 1
POLICY_BYTES_MAX = 16 * 1024
ENTRIES_MAX = 64
SECONDS_MAX = 10 * 366 * 86400

UP_TO_DATE = "UpToDate"
REVOKED = "Revoked"
TCB_STATUSES = (
    UP_TO_DATE,
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
)
KEY_PROVIDERS = ("kms", "local-sgx", "tpm", "none")

_ADVISORY = re.compile(r"[A-Z0-9-]{1,64}")
_REGISTERS = ("mrtd", "rtmr0", "rtmr1", "rtmr2")


@dataclass(frozen=True, slots=True)
class Registers:
    """Firmware, VM shape, kernel and command line, 48 bytes each: all four must match."""

    mrtd: bytes
    rtmr0: bytes
    rtmr1: bytes
    rtmr2: bytes


@dataclass(frozen=True, slots=True)
class KeyProviderRule:
    """A source of keys that is accepted: its name, and SHA-256 of its id, or None for any id.

    For ``kms`` the id is the root CA's SubjectPublicKeyInfo in DER.
    """

    name: str
    id_sha256: bytes | None


@dataclass(frozen=True, slots=True)
class Policy:
    """A parsed policy document; see docs/attestation.md for each field's meaning.

    A machine's measurements match one of ``registers``, or its mr_aggregated (whole or at boot) or
    mr_system is listed. ``os_images`` and ``devices`` may be None: not judged. ``tcb_statuses``
    maps an accepted status to its grace in seconds, None without limit; the grace counts from the
    ``tcbDate`` of the level that the platform is at.
    """

    registers: frozenset[Registers]
    mr_aggregated: frozenset[bytes]
    mr_aggregated_boot: frozenset[bytes]
    mr_system: frozenset[bytes]
    os_images: frozenset[bytes] | None
    compose_hashes: frozenset[bytes]
    devices: frozenset[bytes] | None
    key_providers: tuple[KeyProviderRule, ...]
    tcb_statuses: Mapping[str, int | None]
    advisories: frozenset[str]
    tcb_evaluation_number_min: int
    allow_dynamic_platform: bool
    allow_cached_keys: bool
    allow_smt: bool
    collateral_age_s_max: int
    quote_age_s_max: int
    renewal_s: int


def policy_digest(text: bytes) -> bytes:
    """keccak-256 of the text, as the registry keeps it (32 bytes)."""
    return keccak256(text)


def parse_policy(text: bytes) -> Policy:
    """A policy from its JSON text of at most 16 KiB.

    Raises:
        PolicyError: malformed, an unknown or missing key, a value of the wrong type or size, or a
            document that would accept nobody.
    """
    if len(text) > POLICY_BYTES_MAX:
        raise PolicyError(f"a policy has at most {POLICY_BYTES_MAX} bytes, got {len(text)}")
    try:
        value = parse_json(
            text, object_pairs_hook=_unique, parse_constant=_no_number, parse_float=_no_number
        )
    except ValueError as error:
        raise PolicyError(f"not JSON as it must be: {error}") from None
    top = _Object(value, "policy")
    version = top.number("version", 1 << 32)
    if version != POLICY_VERSION:
        raise PolicyError(f"version: expected {POLICY_VERSION}, got {version}")
    measurements = top.inner("measurements")
    tcb = top.inner("tcb")
    platform = top.inner("platform")
    limits = top.inner("limits")
    policy = Policy(
        registers=frozenset(_registers(item) for item in measurements.inners("registers")),
        mr_aggregated=measurements.hashes("mr_aggregated"),
        mr_aggregated_boot=measurements.hashes("mr_aggregated_boot"),
        mr_system=measurements.hashes("mr_system"),
        os_images=top.hashes_or_none("os_images"),
        compose_hashes=top.hashes("compose_hashes"),
        devices=top.hashes_or_none("devices"),
        key_providers=tuple(_provider(item) for item in top.inners("key_providers")),
        tcb_statuses=MappingProxyType(_statuses(tcb.inner("statuses"))),
        advisories=_advisories(tcb.texts("advisories")),
        tcb_evaluation_number_min=tcb.number("evaluation_number_min", (1 << 32) - 1, default=0),
        allow_dynamic_platform=platform.flag("allow_dynamic_platform"),
        allow_cached_keys=platform.flag("allow_cached_keys"),
        allow_smt=platform.flag("allow_smt"),
        collateral_age_s_max=limits.number("collateral_age_s_max", SECONDS_MAX, lowest=1),
        quote_age_s_max=limits.number("quote_age_s_max", SECONDS_MAX, lowest=1),
        renewal_s=limits.number("renewal_s", SECONDS_MAX, lowest=1),
    )
    for part in (top, measurements, tcb, platform, limits):
        part.end()
    _check_whole(policy)
    return policy


def _check_whole(policy: Policy) -> None:
    if not (
        policy.registers or policy.mr_aggregated or policy.mr_aggregated_boot or policy.mr_system
    ):
        # os_images alone would not do: the image's hash is measured by the image itself.
        raise PolicyError("measurements: no machine is allowed")
    if not policy.compose_hashes:
        raise PolicyError("compose_hashes: no application is allowed")
    if not policy.key_providers:
        raise PolicyError("key_providers: none is allowed")
    if not policy.tcb_statuses:
        raise PolicyError("tcb.statuses: none is allowed")
    if policy.renewal_s >= policy.quote_age_s_max:
        raise PolicyError("limits: renewal_s must be below quote_age_s_max")


def _registers(item: _Object) -> Registers:
    registers = Registers(*(item.hex(name, 48) for name in _REGISTERS))
    item.end()
    return registers


def _provider(item: _Object) -> KeyProviderRule:
    name = item.text("name")
    if name not in KEY_PROVIDERS:
        raise PolicyError(f"{item.where}.name: expected one of {', '.join(KEY_PROVIDERS)}")
    rule = KeyProviderRule(name, item.hex_or_none("id_sha256", 32))
    item.end()
    return rule


def _statuses(statuses: _Object) -> dict[str, int | None]:
    result: dict[str, int | None] = {}
    for name in TCB_STATUSES:
        if statuses.has(name):
            result[name] = statuses.number_or_none(name, SECONDS_MAX)
    statuses.end()  # Revoked, or a status that nobody knows, ends here
    return result


def _advisories(names: list[str]) -> frozenset[str]:
    for name in names:
        if not _ADVISORY.fullmatch(name):
            raise PolicyError(f"tcb.advisories: {name[:64]!r} is not an advisory's name")
    return frozenset(names)


class _Object:
    """A JSON object read key by key; ``end`` refuses what nobody asked for."""

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise PolicyError(f"{where}: expected an object")
        self._rest: dict[str, Any] = dict(value)
        self.where = where

    def has(self, name: str) -> bool:
        return name in self._rest

    def end(self) -> None:
        for name in self._rest:
            raise PolicyError(f"{self.where}: unknown key {name[:64]!r}")

    def inner(self, name: str) -> _Object:
        return _Object(self._take(name), f"{self.where}.{name}")

    def inners(self, name: str) -> list[_Object]:
        return [
            _Object(item, f"{self.where}.{name}[{index}]")
            for index, item in enumerate(self._list(name))
        ]

    def texts(self, name: str) -> list[str]:
        items = self._list(name)
        if not all(isinstance(item, str) for item in items):
            raise PolicyError(f"{self.where}.{name}: expected texts")
        return items

    def text(self, name: str) -> str:
        value = self._take(name)
        if not isinstance(value, str):
            raise PolicyError(f"{self.where}.{name}: expected text")
        return value

    def hashes(self, name: str, size: int = 32) -> frozenset[bytes]:
        items = self._list(name)
        found = frozenset(self._hex(item, name, size) for item in items)
        if len(found) != len(items):
            raise PolicyError(f"{self.where}.{name}: an entry stands there twice")
        return found

    def hashes_or_none(self, name: str) -> frozenset[bytes] | None:
        """None for null or absence; an empty list would accept nobody and is refused."""
        if self._rest.get(name) is None:
            self._rest.pop(name, None)
            return None
        found = self.hashes(name)
        if not found:
            raise PolicyError(f"{self.where}.{name}: an empty list accepts nobody; null is no rule")
        return found

    def hex(self, name: str, size: int) -> bytes:
        return self._hex(self._take(name), name, size)

    def hex_or_none(self, name: str, size: int) -> bytes | None:
        value = self._take(name)
        return None if value is None else self._hex(value, name, size)

    def flag(self, name: str) -> bool:
        value = self._take(name)
        if not isinstance(value, bool):
            raise PolicyError(f"{self.where}.{name}: expected true or false")
        return value

    def number(
        self, name: str, highest: int, *, lowest: int = 0, default: int | None = None
    ) -> int:
        if default is not None and not self.has(name):
            return default
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise PolicyError(
                f"{self.where}.{name}: expected a whole number from {lowest} to {highest}"
            )
        return value

    def number_or_none(self, name: str, highest: int) -> int | None:
        if self._rest[name] is None:
            del self._rest[name]
            return None
        return self.number(name, highest)

    def _list(self, name: str) -> list[Any]:
        """Absent counts as empty: what is not listed is not allowed."""
        value = self._rest.pop(name, [])
        if not isinstance(value, list) or len(value) > ENTRIES_MAX:
            raise PolicyError(
                f"{self.where}.{name}: expected a list of at most {ENTRIES_MAX} entries"
            )
        return value

    def _take(self, name: str) -> Any:
        if name not in self._rest:
            raise PolicyError(f"{self.where}: key {name!r} is missing")
        return self._rest.pop(name)

    def _hex(self, value: object, name: str, size: int) -> bytes:
        try:
            return hex_bytes(value, f"{self.where}.{name}", size)
        except AgentProtocolError as error:
            raise PolicyError(str(error)) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) != len(pairs):
        raise ValueError("a key stands there twice")
    return obj


def _no_number(text: str) -> NoReturn:
    raise ValueError("numbers are whole")
