"""``dstack-cluster``: run the daemon, ask a running one, check a configuration.

Exit status 0 means that it really happened; 1 that it did not, with one line on stderr; 2 a wrong
command line. Commands of other packages join through the entry point group
``dstack_cluster.commands`` (``testnet`` does): ``name = "module:main"`` with ``main(argv) -> int``.
Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from node.client import ApiClient
    from node.config import Config

PROGRAM = "dstack-cluster"
PLUGIN_GROUP = "dstack_cluster.commands"
STDIN_BYTES_MAX = 64 * 1024 + 1


class _Failed(Exception):
    """The command did not do what it says; the text is the line on stderr."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status.

    Args:
        argv: arguments without the program's name; the process's by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    plugins = {entry.name: entry for entry in metadata.entry_points(group=PLUGIN_GROUP)}
    if arguments and arguments[0] in plugins:
        return _run_plugin(plugins[arguments[0]], arguments[1:])
    options = _parser(sorted(plugins)).parse_args(arguments)
    try:
        status: int = options.command(options)
        sys.stdout.flush()
        return status
    except _Failed as failed:
        return _fail(str(failed))
    except BrokenPipeError:
        # who read us left; a second failure while Python closes stdout would only be noise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _run_plugin(entry: metadata.EntryPoint, arguments: list[str]) -> int:
    try:
        plugin: Callable[[list[str]], int | None] = entry.load()
    except (ImportError, AttributeError) as error:
        return _fail(f"command {entry.name} cannot be loaded: {error}")
    try:
        status = plugin(arguments)
    except KeyboardInterrupt:
        return 130
    return 0 if status is None else int(status)


def _fail(text: str) -> int:
    line = " ".join(text.split())
    print(f"{PROGRAM}: {line}", file=sys.stderr)
    return 1


def _parser(plugins: Sequence[str]) -> argparse.ArgumentParser:
    more = f"more commands (each with --help): {', '.join(plugins)}" if plugins else None
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="One node of a dstack cluster, and questions to it.", epilog=more
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {_version()}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    run = commands.add_parser("run", help="run the daemon")
    _add_config(run)
    run.set_defaults(command=_run)

    for name, text in (
        ("status", "what a node says of itself"),
        ("members", "seats of the validator set"),
        ("peers", "other members and whether they are connected"),
        ("evidence", "proofs that members broke the rules"),
    ):
        reader = commands.add_parser(name, help=text)
        _add_api(reader)
        reader.set_defaults(command=_ask, question=name)

    leader = commands.add_parser("leader", help="who leads; hand over, or complain")
    leader.add_argument(
        "action",
        nargs="?",
        choices=("show", "step-down", "complain"),
        default="show",
        help="show (the default): leader and fencing token; step-down: this node hands over; "
        "complain: this node votes to depose the leader",
    )
    _add_api(leader)
    leader.set_defaults(command=_leader)

    kv = commands.add_parser("kv", help="read and write keys")
    verbs = kv.add_subparsers(title="verbs", metavar="VERB", required=True)
    get = verbs.add_parser("get", help="print a key's value; exit status 1 if there is none")
    get.add_argument("key")
    get.add_argument("--stale", action="store_true", help="answer from this node's own state")
    put = verbs.add_parser("put", help="write a key")
    put.add_argument("key")
    put.add_argument("value", help="the value; - reads it from stdin")
    delete = verbs.add_parser("delete", help="delete a key; exit status 0 also if it was not there")
    delete.add_argument("key")
    for verb, name in ((get, "get"), (put, "put"), (delete, "delete")):
        _add_api(verb)
        verb.set_defaults(command=_kv, verb=name)
        if name != "get":
            verb.add_argument("--request-id", help="the same id is applied once, 1 to 128 bytes")

    config = commands.add_parser("config", help="look at a configuration file")
    verbs = config.add_subparsers(title="verbs", metavar="VERB", required=True)
    show = verbs.add_parser(
        "show", help="every value and where it comes from: flag, environment, file, default"
    )
    check = verbs.add_parser("check", help="exit status 0 if a daemon would start with it")
    for verb, name in ((show, "show"), (check, "check")):
        _add_config(verb)
        verb.add_argument("--json", action="store_true", help="print JSON")
        verb.set_defaults(command=_config, verb=name)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="overrides the file (not for trust anchors)",
    )
    parser.add_argument(
        "--insecure-simulator",
        action="store_true",
        help="accept the publicly known keys of the guest agent simulator",
    )


def _add_api(parser: argparse.ArgumentParser) -> None:
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


def _version() -> str:
    try:
        return metadata.version(PROGRAM)
    except metadata.PackageNotFoundError:
        return "unknown"


# --- configuration and daemon -------------------------------------------------------------------


def _load(options: argparse.Namespace) -> Config:
    from node.config import ConfigError, load_config

    flags = {}
    for item in options.set:
        name, equals, value = item.partition("=")
        if not equals:
            raise _Failed(f"--set {item}: expected SECTION.KEY=VALUE")
        flags[name] = value
    if options.insecure_simulator:
        flags["insecure.simulator"] = "true"
    try:
        return load_config(options.config, flags=flags)
    except ConfigError as error:
        raise _Failed(str(error)) from None


def _startable(config: Config) -> None:
    from node.config import ConfigError, check_startable

    try:
        check_startable(config)
    except ConfigError as error:
        raise _Failed(str(error)) from None


def _config(options: argparse.Namespace) -> int:
    from node.config import config_json, show_config

    config = _load(options)
    if options.verb == "check":
        _startable(config)
        dangers = config.insecure.names()
        if options.json:
            _print_json({"ok": True, "insecure": list(dangers)})
        else:
            print("good" + (f"; insecure: {', '.join(dangers)}" if dangers else ""))
    elif options.json:
        _print_json(config_json(config))
    else:
        print(show_config(config), end="")
    return 0


def _run(options: argparse.Namespace) -> int:
    config = _load(options)
    _startable(config)
    import trio

    from node.daemon import run_daemon  # type: ignore[import-not-found, import-untyped, unused-ignore]
    from node.logs import configure_logging

    configure_logging(config.log.format, config.log.level, config.node.seat)
    status: int = trio.run(run_daemon, config)
    return status


# --- questions to a node ------------------------------------------------------------------------


def _with_client(options: argparse.Namespace, ask: Callable[[ApiClient], Awaitable[Any]]) -> Any:
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
        raise _Failed(f"{error.code}: {error}") from None
    except ValueError as error:
        raise _Failed(f"--api: {error}") from None


def _ask(options: argparse.Namespace) -> int:
    document = _with_client(options, lambda client: getattr(client, options.question)())
    if options.json:
        if isinstance(document, list):
            document = {options.question: document}
        _print_json(document)
    elif isinstance(document, list):
        _print_rows(document)
    else:
        _print_pairs(document)
    return 0


def _leader(options: argparse.Namespace) -> int:
    options.question = {"step-down": "step_down", "complain": "complain"}.get(
        options.action, "leader"
    )
    return _ask(options)


def _kv(options: argparse.Namespace) -> int:
    key = os.fsencode(options.key)
    if options.verb == "get":
        return _kv_get(options, key)
    if options.verb == "put":
        value = os.fsencode(options.value)
        if options.value == "-":
            value = sys.stdin.buffer.read(STDIN_BYTES_MAX)
        write = _with_client(options, lambda c: c.put(key, value, request_id=options.request_id))
    else:
        write = _with_client(options, lambda c: c.delete(key, request_id=options.request_id))
    if options.json:
        _print_json({"revision": write.revision, "existed": write.existed})
    else:
        print(f"revision {write.revision}" + ("" if write.existed else " (the key was not there)"))
    return 0


def _kv_get(options: argparse.Namespace, key: bytes) -> int:
    entry = _with_client(options, lambda client: client.get(key, stale=options.stale))
    if entry is None:
        raise _Failed(f"no such key: {options.key}")
    if options.json:
        import base64

        try:
            value = {"value": entry.value.decode("utf-8")}
        except UnicodeDecodeError:
            value = {"value_base64": base64.b64encode(entry.value).decode()}
        revisions = {
            "revision": entry.mod_revision,
            "create_revision": entry.create_revision,
            "version": entry.version,
        }
        _print_json(value | revisions)
        return 0
    sys.stdout.flush()
    sys.stdout.buffer.write(entry.value)
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    return 0


# --- printing -----------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
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


def _print_rows(rows: list[dict[str, Any]]) -> None:
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


def _print_pairs(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for name, value in document.items():
        danger = name == "insecure" and bool(value)
        table.add_row(
            Text(name.replace("_", " "), style="bold"),
            Text(_text(value), style="bold red" if danger else ""),
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
