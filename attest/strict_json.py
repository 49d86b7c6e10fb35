"""JSON objects from outside, read without leniency, and their fields with type and size.

No duplicate keys, no NaN, no endless nesting; hex is whole bytes without prefix or spaces. Errors
name the field and what was expected, never the value: it may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from .bounded_json import parse_json
from .errors import AgentProtocolError

_HEX = re.compile(r"(?:[0-9a-fA-F]{2})*")


def parse_object(body: bytes) -> Mapping[str, Any]:
    """Parse one JSON object from UTF-8 bytes. Raises AgentProtocolError."""
    try:
        value = parse_json(body, object_pairs_hook=_unique, parse_constant=_no_constant)
    except ValueError:
        # "from None": the parser's error carries the document, which may hold a key.
        raise AgentProtocolError("expected a JSON object, got something else") from None
    if not isinstance(value, dict):
        raise AgentProtocolError("expected a JSON object, got another JSON value")
    return value


def text_field(obj: Mapping[str, Any], name: str, *, chars_max: int, default: str = "") -> str:
    """A string field of bounded length; ``default`` when it is missing or null."""
    value = obj.get(name)
    if value is None:
        return default
    if not isinstance(value, str):
        raise AgentProtocolError(f"field {name}: expected text, got {type(value).__name__}")
    if len(value) > chars_max:
        raise AgentProtocolError(
            f"field {name}: expected at most {chars_max} characters, got {len(value)}"
        )
    if any("\ud800" <= c <= "\udfff" for c in value):
        raise AgentProtocolError(f"field {name}: expected text, got half a surrogate pair")
    return value


def hex_field(obj: Mapping[str, Any], name: str, *sizes: int) -> bytes:
    """A hex field whose byte count is one of ``sizes``; missing counts as empty."""
    return hex_bytes(text_field(obj, name, chars_max=2 * max(sizes)), f"field {name}", *sizes)


def hex_bytes(text: object, what: str, *sizes: int) -> bytes:
    """Strict hex to bytes of one of ``sizes``. Raises AgentProtocolError that names ``what``."""
    if not isinstance(text, str):
        raise AgentProtocolError(f"{what}: expected hex text, got {type(text).__name__}")
    if len(text) not in {2 * size for size in sizes} or not _HEX.fullmatch(text):
        expected = " or ".join(str(size) for size in sizes)
        raise AgentProtocolError(
            f"{what}: expected hex of {expected} bytes, got {len(text)} characters"
        )
    return bytes.fromhex(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    obj = dict(pairs)
    if len(obj) != len(pairs):
        raise ValueError("duplicate key")
    return obj


def _no_constant(name: str) -> NoReturn:
    raise ValueError("not a JSON number")
