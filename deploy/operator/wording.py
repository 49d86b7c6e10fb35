"""Words that plans and audits share: effects, moments, arguments."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

NO_END_S = 2**40 - 1  # the contract's "no end" of a root


@dataclass(frozen=True, slots=True)
class Effect:
    """``lines`` say what changes; ``warnings`` what an operator should think about first."""

    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def time_text(unix_s: int) -> str:
    """A moment in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def plain(value: Any) -> Any:
    """An argument of a call as JSON shows it."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
