"""JSON from strangers, refused before parsing when it nests too deeply.

Python's parser relies on the interpreter's recursion limit, and a library in the same process may
have lifted that: py_ecc, which web3 loads, sets it to 100 000, and then 90 kB of "[" end the
process by a segmentation fault (seen, not feared).
"""

from __future__ import annotations

import json
from typing import Any

DEPTH_MAX = 32
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def parse_json(raw: bytes, **options: Any) -> Any:
    """The value of a JSON text in UTF-8; ``options`` go to ``json.loads``.

    Raises:
        ValueError: not JSON, or nested deeper than 32 levels.
    """
    if raw.count(b"[") + raw.count(b"{") > DEPTH_MAX and not _is_shallow(raw):
        raise ValueError(f"nested deeper than {DEPTH_MAX}, or brackets do not match")
    # Decoded here: json.loads would guess UTF-16 or UTF-32 from the first bytes, which the bracket
    # count above does not see through.
    return json.loads(raw.decode("utf-8"), **options)


def _is_shallow(raw: bytes) -> bool:
    # Escaped quotes go first, so that splitting at quotes leaves what lies outside of texts at the
    # even places. Then each round takes away at least one level of nesting, at C speed.
    outside = raw.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2]
    brackets = b"".join(outside).translate(None, _NOT_BRACKETS)
    for _ in range(DEPTH_MAX):
        if not brackets:
            return True
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    return not brackets
