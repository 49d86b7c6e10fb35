"""``dstack-cluster``: run the daemon, ask a running one, check a configuration.

Exit status 0 means that it really happened; 1 that it did not, with one line on stderr; 2 a wrong
command line. Commands of other packages join through the entry point group
``dstack_cluster.commands`` (``testnet`` does): ``name = "module:main"`` with ``main(argv) -> int``.
Heavy imports wait until a command needs them.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

from node.cli_attest import add_attest
from node.cli_chain import add_verify_chain
from node.cli_kv import add_kv
from node.cli_snapshot import add_snapshot
from node.cli_talk import Failed, add_api, print_json, print_pairs, print_rows, with_client
from node.spared import without

if TYPE_CHECKING:
    from node.config import Config

PROGRAM = "dstack-cluster"
PLUGIN_GROUP = "dstack_cluster.commands"


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
    except Failed as failed:
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
        ("certificates", "who leads and was deposed, for the chain; see contract certificates"),
    ):
        reader = commands.add_parser(name, help=text)
        add_api(reader)
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
    add_api(leader)
    leader.set_defaults(command=_leader)

    add_kv(commands)
    add_snapshot(commands)
    add_attest(commands)
    add_verify_chain(commands)

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
            raise Failed(f"--set {item}: expected SECTION.KEY=VALUE")
        flags[name] = value
    if options.insecure_simulator:
        flags["insecure.simulator"] = "true"
    try:
        return load_config(options.config, flags=flags)
    except ConfigError as error:
        raise Failed(str(error)) from None


def _startable(config: Config) -> None:
    from node.config import ConfigError, check_startable

    try:
        check_startable(config)
    except ConfigError as error:
        raise Failed(str(error)) from None


def _check_files(config: Config) -> None:
    """The files that the configuration names, read as the daemon will."""
    from node.api.server import ApiError, read_token
    from node.attestation.setup import check_files
    from node.config import ConfigError

    try:
        if config.api.token_file is not None:
            read_token(config.api.token_file)
        check_files(config.attestation)
    except (ApiError, ConfigError) as error:
        raise Failed(str(error)) from None


def _config(options: argparse.Namespace) -> int:
    from node.config import config_json, show_config

    config = _load(options)
    if options.verb == "check":
        _startable(config)
        _check_files(config)
        dangers = config.insecure.names()
        if options.json:
            print_json({"ok": True, "insecure": list(dangers)})
        else:
            print("good" + (f"; insecure: {', '.join(dangers)}" if dangers else ""))
    elif options.json:
        print_json(config_json(config))
    else:
        print(show_config(config), end="")
    return 0


def _run(options: argparse.Namespace) -> int:
    # All that is imported stays: to look for garbage in it, now and later, costs 0.2 s.
    gc.disable()
    # Coloured tracebacks and the command line of httpx: 200 modules, a tenth of a second.
    with without("rich", "click"):
        import trio

        from node.daemon import run_daemon  # type: ignore[import-not-found, import-untyped, unused-ignore]
        from node.logs import configure_logging
    gc.freeze()
    gc.enable()
    config = _load(options)
    _startable(config)
    configure_logging(config.log.format, config.log.level, config.node.seat)
    os.umask(0o077)  # what clients store is nobody else's, also in a directory that others may read
    status: int = trio.run(run_daemon, config)
    return status


# --- questions to a node ------------------------------------------------------------------------


def _ask(options: argparse.Namespace) -> int:
    document = with_client(options, lambda client: getattr(client, options.question)())
    if options.json:
        if isinstance(document, list):
            document = {options.question: document}
        print_json(document)
    elif isinstance(document, list):
        brief = {
            "certificates": _brief, "peers": _brief_peer, "evidence": _brief_evidence,
        }.get(options.question)  # fmt: skip
        print_rows(document if brief is None else [brief(row) for row in document])
    else:
        print_pairs(document)
    return 0


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """A certificate without its kilobytes of hex, which are for ``--json``."""
    from chain import ShownEpoch, ShownLeader, read_shown

    try:
        shown = read_shown(row)
    except ValueError as error:
        raise Failed(f"the node's answer: {error}") from None
    if isinstance(shown, ShownEpoch):
        return {"kind": shown.KIND, "epoch": shown.epoch, "chain_block": shown.chain_block}
    epoch, term = shown.token if isinstance(shown, ShownLeader) else (shown.epoch, shown.term)
    return {"kind": shown.KIND, "epoch": epoch, "term": term, "seat": shown.seat}


def _brief_evidence(row: dict[str, Any]) -> dict[str, Any]:
    """Two votes by what they say, without their hex, which is for ``--json``."""
    votes = row.get("votes")
    if not isinstance(votes, list) or not all(isinstance(vote, dict) for vote in votes):
        raise Failed("the node's answer: evidence without votes")
    shown = {name: value for name, value in row.items() if name != "votes"}
    for name, vote in zip(("first", "second"), votes, strict=False):
        kind = vote.get("kind")
        what = f"reason {vote.get('reason')}" if kind == "nullify" else str(vote.get("block"))[:8]
        shown[name] = f"{kind} {vote.get('view')} {what}"
    return shown


def _brief_peer(row: dict[str, Any]) -> dict[str, Any]:
    """A peer with what its evidence came to, not all of it, which is for ``--json``."""
    shown = {name: value for name, value in row.items() if name != "attestation"}
    found = row.get("attestation")
    if isinstance(found, dict):
        refused = found.get("refused") or {}
        attested = "held" if found.get("held") else "yes" if found.get("attested") else "no"
        shown["attested"] = refused.get("reason") or attested
    return shown


def _leader(options: argparse.Namespace) -> int:
    options.question = {"step-down": "step_down", "complain": "complain"}.get(
        options.action, "leader"
    )
    return _ask(options)


if __name__ == "__main__":
    sys.exit(main())
