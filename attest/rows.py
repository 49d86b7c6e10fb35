"""The rows of a verdict as they come about: each check is written down once, passed or not."""

from __future__ import annotations

from .refusals import Check, RefusalCode

_NOT_REACHED = "not checked: an earlier failure left nothing to check"
_ANY = "anything: not judged"
UNKNOWN = "not known"


class Rows:
    """Collects checks in their order."""

    def __init__(self) -> None:
        self.checks: list[Check] = []

    def add(self, name: str, passed: bool, expected: str, came: str, code: RefusalCode) -> None:
        self.checks.append(Check(name, passed, expected, came, code))

    def not_reached(self, name: str, expected: str, code: RefusalCode) -> None:
        self.add(name, False, expected, _NOT_REACHED, code)

    def unjudged(self, name: str, came: str, code: RefusalCode) -> None:
        self.checks.append(Check(name, True, _ANY, came, code, judged=False))

    def value(
        self, name: str, expected: bytes | None, came: bytes | None, code: RefusalCode
    ) -> None:
        """One value against the one expected; None expected is not judged."""
        if expected is None:
            self.unjudged(name, UNKNOWN if came is None else _hex(came), code)
        elif came is None:
            self.not_reached(name, _hex(expected), code)
        else:
            self.add(name, came == expected, _hex(expected), _hex(came), code)

    def listed(
        self, name: str, allowed: frozenset[bytes] | None, came: bytes | None, code: RefusalCode
    ) -> None:
        """One value against a list; None as the list is not judged."""
        if allowed is None:
            self.unjudged(name, UNKNOWN if came is None else _hex(came), code)
        elif came is None:
            self.not_reached(name, _one_of(allowed), code)
        else:
            self.add(name, came in allowed, _one_of(allowed), _hex(came), code)


def _one_of(allowed: frozenset[bytes]) -> str:
    if not allowed:
        return "none without a policy"
    return " or ".join(sorted(_hex(item) for item in allowed))


def _hex(value: bytes) -> str:
    return value.hex() or "(empty)"
