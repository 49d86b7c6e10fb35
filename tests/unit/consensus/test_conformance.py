"""The encodings are a contract between versions: a hash of many of each type is committed.

When a change of the wire is meant, run with ``REWRITE=1``, raise ``wire.VERSION``, and say it in
the change log: members of both versions cannot talk.
"""

from __future__ import annotations

import json
import os
from hashlib import blake2b
from pathlib import Path
from random import Random

import pytest

from consensus import wire
from tests.wire_samples import CLUSTER, MAKERS, SENDER, message_types

FILE = Path(__file__).parents[2] / "vectors" / "wire_conformance.json"
COUNT = 2_048


def _digest(kind: type) -> str:
    """Over ``COUNT`` encodings, each decoded again and found equal."""
    rng = Random(f"conformance {kind.__name__}")
    total = blake2b(digest_size=16)
    for _ in range(COUNT):
        value = MAKERS[kind](rng)
        data = wire.encode(value)
        assert wire.decode(data, SENDER, CLUSTER) == value
        total.update(len(data).to_bytes(4, "big") + data)
    return total.hexdigest()


@pytest.mark.parametrize("kind", message_types(), ids=lambda kind: kind.__name__)
def test_the_encoding_of_every_type_is_what_was_agreed(kind: type) -> None:
    committed = json.loads(FILE.read_text()) if FILE.exists() else {}
    found = _digest(kind)
    if os.environ.get("REWRITE"):
        committed |= {"version": wire.VERSION, kind.__name__: found}
        FILE.write_text(json.dumps(committed, indent=1, sort_keys=True) + "\n")
        return
    assert committed["version"] == wire.VERSION
    assert committed[kind.__name__] == found
