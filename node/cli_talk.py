"""What commands share that ask a running node: the way to it, its errors, and how answers print."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node.client import ApiClient


class Failed(Exception):
    """The command did not do what it says; the text is the line on stderr."""


def add_api(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--api",
        metavar="URL",
        default=os.environ.get("DSTACK_CLUSTER_API") or "http://127.0.0.1:9700",
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
        raise Failed(f"{error.code}: {error}") from None
    except ValueError as error:
        raise Failed(f"--api: {error}") from None


# --- printing ---


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name}={_text(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_text(item) for item in value) or "-"
    text = str(value)
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def print_rows(rows: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in names:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_short(name, _text(row.get(name)))) for name in names))
    Console().print(table)


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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")  # keys and hashes whole
    for name, value in _lines(document):
        danger = name in ("insecure", "alarms") and bool(value)
        table.add_row(
            Text(name.replace("_", " "), style="bold"),
            Text(_text(value), style="bold red" if danger else ""),
        )
    Console().print(table)
