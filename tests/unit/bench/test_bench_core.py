"""The measured cluster really commits, and what is measured is really checked."""

from __future__ import annotations

import pytest

from bench import core
from node.signing import RecoveringVerifier


def test_slots_are_measured_with_real_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = 0
    real = RecoveringVerifier.verify

    def counting(self: RecoveringVerifier, key: bytes, digest: bytes, signature: bytes) -> bool:
        nonlocal checks
        checks += 1
        return real(self, key, digest, signature)

    monkeypatch.setattr(RecoveringVerifier, "verify", counting)
    figures = core.measure(4, slots=3, warmup=1)
    assert figures["leader"]["core_ms_least"] > 0  # type: ignore[index]
    assert checks >= 2 * 4 * 4  # two measured members, four slots, two other votes of two kinds
