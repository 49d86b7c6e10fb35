"""How arguments of the command line are read, each refusing all else."""

from __future__ import annotations

import argparse

from node.config_values import WrongValue, address20


def address(text: str) -> bytes:
    """20 bytes; in mixed case the EIP-55 checksum must fit."""
    try:
        return bytes(address20(text))
    except WrongValue as error:
        raise wrong(str(error), text) from None


def address_or_none(text: str) -> bytes:
    """As ``address``; 0 for none."""
    return bytes(20) if text == "0" else address(text)


def identifier(text: str) -> bytes:
    """20 bytes in hex: an app id or instance id."""
    return _bytes(text, 20)


def hash32(text: str) -> bytes:
    """32 bytes in hex."""
    return _bytes(text, 32)


def seat(text: str) -> int:
    """A seat's number."""
    return _integer(text, 1, 2**32 - 1)


def weight(text: str) -> int:
    """A seat's weight, as the contract holds it."""
    return _integer(text, 1, 2**32 - 1)


def seconds(text: str) -> int:
    """A duration, at most a century."""
    return _integer(text, 0, 100 * 366 * 24 * 3600)


def positive(text: str) -> int:
    """How many."""
    return _integer(text, 1, 1_000_000)


def number(text: str) -> int:
    """A height or epoch."""
    return _integer(text, 0, 2**63 - 1)


def term(text: str) -> tuple[int, int]:
    """A leader's term, as status shows it: EPOCH.TERM."""
    epoch, dot, number_ = text.partition(".")
    if not dot:
        raise wrong("EPOCH.TERM", text)
    return number(epoch), number(number_)


def wrong(expected: str, text: str) -> argparse.ArgumentTypeError:
    """The error for an argument that is not what was expected."""
    return argparse.ArgumentTypeError(f"expected {expected}, got {text!r:.80}")


def switch(text: str) -> bool:
    """on or off."""
    if text not in ("on", "off"):
        raise wrong("on or off", text)
    return text == "on"


def _bytes(text: str, size: int) -> bytes:
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        value = b""
    if len(value) != size:
        raise wrong(f"{size} bytes in hex", text)
    return value


def _integer(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and low <= int(text) <= high):
        raise wrong(f"a whole number from {low} to {high}", text)
    return int(text)
