"""Queries, whose names and values are percent-encoded bytes, and bodies that are JSON objects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.requests import Request

from attest.bounded_json import parse_json
from consensus.commands import FROM_KEY, prefix_end
from consensus.limits import I64_MAX
from node.api.answers import Refused
from node.facade import BadRequest

RESERVED_PREFIX = b"_cluster/"  # the cluster's own facts; written by members, not by clients
_RESERVED_END = prefix_end(RESERVED_PREFIX)


class Query:
    """The query of a request: each name once, and only those that the route knows."""

    def __init__(self, request: Request, *known: str) -> None:
        self._found: dict[str, bytes] = {}
        raw: bytes = request.scope["query_string"]
        for part in filter(None, raw.split(b"&")):
            name, _, value = part.partition(b"=")
            text = unquote_to_bytes(name).decode("utf-8", "replace")
            if text not in known or text in self._found:
                expected = ", ".join(known) or "none"
                raise BadRequest(f"the query has {text[:40]!r}; expected, each once: {expected}")
            self._found[text] = unquote_to_bytes(value)

    def number(self, name: str, default: int | None = None) -> int | None:
        """A non-negative integer."""
        raw = self._found.get(name)
        if raw is None:
            return default
        if not raw.isdigit() or len(raw) > 19 or int(raw) > I64_MAX:
            raise BadRequest(f"{name}: expected an integer 0..{I64_MAX}")
        return int(raw)

    def switch(self, name: str) -> bool:
        """Whether a switch like ``stale=1`` is on."""
        raw = self._found.get(name, b"0")
        if raw not in (b"0", b"1"):
            raise BadRequest(f"{name}: expected 0 or 1")
        return raw == b"1"

    def span(self) -> tuple[bytes, bytes]:
        """Key and end of ``prefix``, or of ``key`` with or without ``end``."""
        prefix, key, end = (self._found.get(name) for name in ("prefix", "key", "end"))
        if prefix is not None and key is None and end is None:
            return prefix or FROM_KEY, prefix_end(prefix)
        if prefix is None and key:
            return key, b"" if end is None else end
        raise BadRequest("expected prefix=..., or key=... with or without end=...")


def check_writable(key: bytes, end: bytes = b"") -> None:
    """Refuses the cluster's own keys, and ranges that hold some of them."""
    if end:
        inside = key < _RESERVED_END and (end == FROM_KEY or end > RESERVED_PREFIX)
    else:
        inside = key.startswith(RESERVED_PREFIX)
    if inside:
        raise Refused(403, "reserved_key", "keys that start with _cluster/ are the cluster's")


def body_object(raw: bytes, names: Iterable[str]) -> dict[str, Any]:
    """The JSON object of a body that has only these names. Raises BadRequest."""
    try:
        document = parse_json(raw)
    except ValueError:
        raise BadRequest("expected a JSON body") from None
    return json_object(document, "the body", names)


def json_object(value: Any, what: str, names: Iterable[str]) -> dict[str, Any]:
    """``value`` if it is an object with only these names. Raises BadRequest."""
    known = frozenset(names)
    if not isinstance(value, dict) or not known.issuperset(value):
        raise BadRequest(f"{what}: expected an object with only {', '.join(sorted(known))}")
    return value
