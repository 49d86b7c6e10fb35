"""How single configuration values are read: one function per kind, each refusing all else; and
how they are shown.

A reader takes what TOML (or a flag, or the environment) gave and returns the typed value, or
raises ``WrongValue`` whose text finishes the sentence "expected ...".
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TEXT_LENGTH_MAX = 512
ENDPOINT_BYTES_MAX = 128  # as in the registry contract

Reader = Callable[[Any], Any]


class WrongValue(Exception):
    """What was expected instead."""


def integer(low: int, high: int) -> Reader:
    def read(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise WrongValue(f"an integer from {low} to {high}")
        return value

    return read


def flag(value: Any) -> bool:
    if type(value) is not bool:
        raise WrongValue("true or false")
    return value


def choice(*names: str) -> Reader:
    def read(value: Any) -> str:
        if value not in names or not isinstance(value, str):
            raise WrongValue("one of " + ", ".join(f'"{name}"' for name in names))
        return value

    return read


def path_text(value: Any) -> Path:
    if not isinstance(value, str) or not 0 < len(value) <= TEXT_LENGTH_MAX or "\0" in value:
        raise WrongValue(f"a path of 1 to {TEXT_LENGTH_MAX} characters")
    return Path(value)


_PORT = r"(0|[1-9][0-9]{0,4})"
_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_-]+)*\Z")
_MULTIADDR = re.compile(rf"/(ip4|ip6|dns|dns4|dns6)/([^/\s]+)/tcp/{_PORT}\Z")


def multiaddr(port_low: int) -> Reader:
    expected = (
        f"a multiaddr /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT of at most {ENDPOINT_BYTES_MAX} bytes "
        f"with a port from {port_low} to 65535 and no peer id"
    )

    def read(value: Any) -> str:
        if not isinstance(value, str) or not value.isascii() or len(value) > ENDPOINT_BYTES_MAX:
            raise WrongValue(expected)
        match = _MULTIADDR.match(value)
        if match is None or not port_low <= int(match[3]) <= 65535:
            raise WrongValue(expected)
        try:
            if match[1] == "ip4":
                ipaddress.IPv4Address(match[2])
            elif match[1] == "ip6":
                ipaddress.IPv6Address(match[2])
            elif not _NAME.match(match[2]):
                raise ValueError(match[2])
        except ValueError:
            raise WrongValue(expected) from None
        return value

    return read


def address20(value: Any) -> bytes:
    expected = "20 bytes as 40 hex digits, 0x in front or not; in mixed case the EIP-55 checksum"
    text = value.removeprefix("0x") if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9a-fA-F]{40}", text):
        raise WrongValue(expected)
    raw = bytes.fromhex(text)
    if text not in (text.lower(), text.upper()) and text != _eip55(raw):
        raise WrongValue(expected)
    if not any(raw):
        raise WrongValue(expected + ", not zero")
    return raw


def hash32(value: Any) -> bytes:
    text = value.removeprefix("0x") if isinstance(value, str) else ""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise WrongValue("32 bytes as 64 hex digits, 0x in front or not")
    return bytes.fromhex(text)


def _eip55(raw: bytes) -> str:
    """Mixed-case checksum text of an address, without 0x (EIP-55)."""
    from Crypto.Hash import keccak  # here: only mixed-case addresses need it

    text = raw.hex()
    digest = keccak.new(digest_bits=256, data=text.encode()).hexdigest()
    return "".join(c.upper() if int(d, 16) >= 8 else c for c, d in zip(text, digest, strict=False))


def rpc_url(value: Any) -> str:
    expected = "an http(s) URL without user name, password and fragment"
    if (
        not isinstance(value, str)
        or not 0 < len(value) <= TEXT_LENGTH_MAX
        or not re.fullmatch(r"[\x21-\x7e]+", value)
    ):
        raise WrongValue(expected)
    try:
        parts = urlsplit(value)
        port_good = parts.port is None or parts.port > 0
        (parts.hostname or "").encode("idna")  # no label is empty or too long
    except ValueError:
        raise WrongValue(expected) from None
    if (
        parts.scheme not in ("http", "https")
        or not parts.hostname
        or not port_good
        or "@" in parts.netloc
        or parts.fragment
    ):
        raise WrongValue(expected)
    return value


def source_url(value: Any) -> str:
    expected = "an https URL (http to this machine only) without user name, query and fragment"
    try:
        url = rpc_url(value)
    except WrongValue:
        raise WrongValue(expected) from None
    parts = urlsplit(url)
    here = parts.hostname in ("127.0.0.1", "::1", "localhost")
    if parts.query or (parts.scheme != "https" and not here):
        raise WrongValue(expected)
    return url


def several(read_one: Reader, count_max: int, count_min: int = 1) -> Reader:
    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or not count_min <= len(value) <= count_max:
            raise WrongValue(f"a list of {count_min} to {count_max}")
        items = []
        for item in value:
            try:
                items.append(read_one(item))
            except WrongValue as wrong:
                raise WrongValue(f"a list of: {wrong}") from None
        if len(set(items)) != len(items):
            raise WrongValue("a list without repetition")
        return tuple(items)

    return read


def api_listen(value: Any) -> str:
    expected = '"IP:PORT" (an IPv6 address in brackets) or "unix:/absolute/path" (up to 100 bytes)'
    if not isinstance(value, str) or len(value) > TEXT_LENGTH_MAX:
        raise WrongValue(expected)
    if value.startswith("unix:"):
        path = value.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > 100:
            raise WrongValue(expected)
        return value
    host, _, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if bracketed else host)
    except ValueError:
        raise WrongValue(expected) from None
    if bracketed != (address.version == 6) or not re.fullmatch(_PORT, port) or int(port) > 65535:
        raise WrongValue(expected)
    return value


def listens_only_here(listen: str) -> bool:
    """Whether an ``api.listen`` value can be reached from this machine alone."""
    if listen.startswith("unix:"):
        return True
    host = listen.rpartition(":")[0].strip("[]")
    return ipaddress.ip_address(host).is_loopback


# --- for errors and listings ---


def masked_url(url: str) -> str:
    """The URL's scheme, host and port; ``***`` for the rest, where API keys and passwords are."""
    scheme, separator, rest = url.partition("://")
    if "@" in rest:  # where a password ends, one with a slash in it leaves to guess
        return f"{scheme}{separator}***"
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return f"{scheme}{separator}{host}" + ("/***" if rest[len(host) :].strip("/") else "")


def came_text(value: Any) -> str:
    """A value as errors show it: short, long texts cut, no more of a URL than where it leads."""
    text = f'"{_masked(value)}"' if isinstance(value, str) else repr(_masked(value))
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 80 else text[:77] + "..."


def _masked(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return masked_url(value) if isinstance(value, str) and "://" in value else value


def plain_value(value: Any, mask: bool) -> Any:
    """As JSON has it; ``mask`` cuts URLs."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [plain_value(item, mask) for item in value]
    if mask and isinstance(value, str) and value.startswith(("http://", "https://")):
        return masked_url(value)
    return value


def toml_text(value: Any) -> str:
    """A plain value as TOML has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(toml_text(item) for item in value) + "]"
    if isinstance(value, int):
        return str(value)
    escaped = "".join(
        {'"': '\\"', "\\": "\\\\"}.get(c, c) if c.isprintable() else f"\\U{ord(c):08x}"
        for c in value
    )
    return f'"{escaped}"'
