"""What commands share that ask a running node: the way to it, its errors, and how answers print."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node.client import ApiClient
    from node.facade import NodeError

DEFAULT_API = "http://127.0.0.1:9700"  # as in node.client, which is not to be imported for --help


class Failed(Exception):
    """The command did not do what it says; the text is the line on stderr."""


def add_api(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--api",
        metavar="URL",
        default=os.environ.get("DSTACK_CLUSTER_API") or DEFAULT_API,
        help="http://host:port or unix:/path (default: %(default)s)",
    )
    parser.add_argument(
        "--token-file",
        metavar="FILE",
        default=os.environ.get("DSTACK_CLUSTER_TOKEN_FILE") or None,
        help="bearer token of the API",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def with_client(options: argparse.Namespace, ask: Callable[[ApiClient], Awaitable[Any]]) -> Any:
    import trio

    from node.client import ApiClient, read_token_file
    from node.facade import NodeError

    async def talk() -> Any:
        token = None if options.token_file is None else read_token_file(options.token_file)
        async with ApiClient(options.api, token=token) as client:
            return await ask(client)

    try:
        return trio.run(talk)
    except NodeError as error:
        raise Failed(f"{error.code}: {error}{_hint(error, options)}") from None
    except ValueError as error:
        raise Failed(f"--api: {error}") from None


def _hint(error: NodeError, options: argparse.Namespace) -> str:
    """Where the way to a node is told, for whoever did not tell it."""
    if error.code == "unreachable" and options.api == DEFAULT_API:
        return "; where a node is: --api, or the variable DSTACK_CLUSTER_API"
    if error.code == "unauthorized" and options.token_file is None:
        return "; its file: --token-file, or the variable DSTACK_CLUSTER_TOKEN_FILE"
    return ""


# --- printing ---
#
# Plain lines that a pipe and a terminal get alike: no name, key or hash is cut or broken over
# lines, so that what is on the screen can be searched, compared and copied.

_RED, _PLAIN = "\033[1;31m", "\033[0m"


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}={_text(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "-"
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A table with a line for each row; "none" on stderr where there is nothing to tell."""
    if not rows:
        print("none", file=sys.stderr)
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [[name.replace("_", " ") for name in names]]
    lines += [[_short(name, _text(row.get(name))) for name in names] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def _short(name: str, text: str) -> str:
    """Long names by their ends, so that a row stays a line; ``--json`` has them whole."""
    if name in ("node_key", "peer_id") and len(text) > 9:
        return f"{text[:4]}…{text[-4:]}"
    return text


def _lines(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """What is inside of an object, of whole rows of objects too, is on lines of its own."""
    for name, value in document.items():
        if isinstance(value, dict) and value and (not prefix or _has_rows(value)):
            yield from _lines(value, f"{prefix}{name}.")
        elif isinstance(value, list) and value and _has_rows(dict(enumerate(value))):
            yield from ((f"{prefix}{name}.{number}", row) for number, row in enumerate(value, 1))
        else:
            yield prefix + name, value


def _has_rows(value: dict[Any, Any]) -> bool:
    return all(isinstance(row, dict) for row in value.values())


def print_pairs(document: dict[str, Any]) -> None:
    """A line for each value; each alarm has one of its own, and what is dangerous is red."""
    pairs: list[tuple[str, Any]] = []
    for name, value in _lines(document):
        several = value if name == "alarms" and isinstance(value, list) and value else [value]
        pairs += [(name.replace("_", " "), one) for one in several]
    width = max((len(name) for name, _ in pairs), default=0)
    red = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for name, value in pairs:
        text = _text(value)
        if red and text != "-" and name in ("insecure", "alarms"):
            text = f"{_RED}{text}{_PLAIN}"
        print(f"{name.ljust(width)}  {text}")
