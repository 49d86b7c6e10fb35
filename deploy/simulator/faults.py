"""What can be wrong with simulated machines, and the file that says so while they run.

The file is the testnet's (mode 0600, replaced whole); a simulator reads it again when it changed.
A machine without an entry is sound. ``{"nodes": {SOCKET: {FIELD: VALUE}}, "pccs": {...}}``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from .kms import INSTANCE_SEED_BYTES
from .machine import MEASURED, Machine
from .tdx_collateral import FMSPC_STALE, TCB_STATUSES
from .tdx_quote import VERSIONS

FAULT_FILE_BYTES_MAX = 256 * 1024
COMPOSE_CHARS_MAX = 256


@dataclass(frozen=True, slots=True)
class Faults:
    """Deviations of one machine from a sound one; they combine.

    In what it is: ``tcb_status`` (TCB_STATUSES), ``measurement`` (MEASURED: another image's),
    ``compose`` (a variant of the app compose, by any name), ``is_debug``, ``is_revoked`` (its PCK
    certificate), ``has_stale_collateral``, ``clone_of`` (40 hex digits: it booted with that
    machine's seed). In what its agent gives out: ``wrong_report_data``, ``replays`` (always its
    first quote), ``quote_of`` (40 hex digits: a quote that this other machine made for itself),
    ``has_no_quotes``. No faults, but choices: ``quote_version`` 4 or 5, ``event_version`` 1 or 2.

    Raises ValueError for anything else.
    """

    tcb_status: str = "UpToDate"
    measurement: str = ""
    compose: str = ""
    is_debug: bool = False
    is_revoked: bool = False
    has_stale_collateral: bool = False
    clone_of: str = ""
    wrong_report_data: bool = False
    replays: bool = False
    quote_of: str = ""
    has_no_quotes: bool = False
    quote_version: int = 4
    event_version: int = 1

    def __post_init__(self) -> None:
        for field in fields(self):
            if type(getattr(self, field.name)) is not type(field.default):
                raise ValueError(f"{field.name}: expected {type(field.default).__name__}")
        if self.tcb_status not in TCB_STATUSES:
            raise ValueError(f"tcb_status: one of {', '.join(TCB_STATUSES)}")
        if self.measurement and self.measurement not in MEASURED:
            raise ValueError(f"measurement: one of {', '.join(MEASURED)}")
        if len(self.compose) > COMPOSE_CHARS_MAX or not self.compose.isprintable():
            raise ValueError(f"compose: at most {COMPOSE_CHARS_MAX} printable characters")
        if self.quote_version not in VERSIONS or self.event_version not in (1, 2):
            raise ValueError("quote_version is 4 or 5, event_version 1 or 2")
        for name in ("clone_of", "quote_of"):
            seed = getattr(self, name)
            if seed and len(bytes.fromhex(seed)) != INSTANCE_SEED_BYTES:
                raise ValueError(f"{name}: {INSTANCE_SEED_BYTES} bytes in hex")

    @classmethod
    def from_json(cls, value: object) -> Faults:
        """The faults that an entry of the file names. Raises ValueError."""
        if not isinstance(value, dict):
            raise ValueError("expected an object of faults")
        unknown = value.keys() - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"no fault is called {sorted(unknown)[0]!r}")
        return cls(**value)

    def to_json(self) -> dict[str, Any]:
        """What deviates from a sound machine, and nothing else."""
        sound = asdict(NO_FAULTS)
        return {name: value for name, value in asdict(self).items() if value != sound[name]}

    def applied_to(self, machine: Machine) -> Machine:
        """The machine as these faults have it; ``clone_of`` and ``quote_of`` are the caller's."""
        platform = replace(machine.platform, is_revoked=self.is_revoked)
        if self.has_stale_collateral:
            platform = replace(platform, fmspc=FMSPC_STALE)
        return replace(
            machine,
            platform=platform,
            app_compose=compose_variant(machine.app_compose, self.compose),
            tcb_status=self.tcb_status,
            is_debug=self.is_debug,
            altered=self.measurement,
            event_version=self.event_version,
            quote_version=self.quote_version,
        )


NO_FAULTS = Faults()


def compose_variant(app_compose: str, variant: str) -> str:
    """Another app-compose text, and so another hash, for each name; the same text for ``""``."""
    if not variant:
        return app_compose
    document = json.loads(app_compose)
    document["name"] = f"{document['name']} ({variant})"
    return json.dumps(document, separators=(",", ":"))


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The file's content: faults by socket path, and whether the PCCS refuses to answer."""

    nodes: Mapping[str, Faults]
    pccs_is_down: bool = False

    @classmethod
    def from_bytes(cls, raw: bytes) -> FaultPlan:
        """Raises ValueError that says what is wrong."""
        if len(raw) > FAULT_FILE_BYTES_MAX:
            raise ValueError(f"larger than {FAULT_FILE_BYTES_MAX} bytes")
        value = json.loads(raw)
        if not isinstance(value, dict) or value.keys() - {"nodes", "pccs"}:
            raise ValueError('expected {"nodes": {...}, "pccs": {...}}')
        nodes, pccs = value.get("nodes", {}), value.get("pccs", {})
        if not isinstance(nodes, dict) or not isinstance(pccs, dict):
            raise ValueError("nodes and pccs are objects")
        is_down = pccs.get("is_down", False)
        if not isinstance(is_down, bool) or pccs.keys() - {"is_down"}:
            raise ValueError("pccs: is_down is true or false, and all there is")
        return cls({path: Faults.from_json(entry) for path, entry in nodes.items()}, is_down)

    def to_bytes(self) -> bytes:
        """The file that gives this plan; sound machines are left out."""
        nodes = {path: faults.to_json() for path, faults in self.nodes.items()}
        return json.dumps(
            {
                "nodes": {path: entry for path, entry in nodes.items() if entry},
                "pccs": {"is_down": True} if self.pccs_is_down else {},
            },
            indent=1,
        ).encode()


NO_PLAN = FaultPlan({})


class FaultFileError(Exception):
    """The fault file cannot be read or is damaged; nothing is to be answered in its stead."""


class FaultFile:
    """The plan as it stands in a file now; without a path, or while there is no file: no faults."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._plan = NO_PLAN

    def plan(self) -> FaultPlan:
        """Read again only when the file changed. Raises FaultFileError."""
        if self._path is None:
            return NO_PLAN
        try:
            # Small, local and rarely changed: not worth a thread.
            with open(self._path, "rb") as file:
                status = os.fstat(file.fileno())
                seen = (status.st_ino, status.st_mtime_ns, status.st_size)
                if seen != self._seen:
                    self._plan = FaultPlan.from_bytes(file.read(FAULT_FILE_BYTES_MAX + 1))
                    self._seen = seen
        except FileNotFoundError:
            return NO_PLAN
        except (OSError, ValueError, RecursionError) as error:
            raise FaultFileError(f"{self._path}: {error}") from None
        return self._plan
