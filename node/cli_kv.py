"""``dstack-cluster kv``: keys, ranges, transactions, leases and watches of a running cluster."""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from node.cli_talk import Failed, add_api, print_json, with_client

if TYPE_CHECKING:
    from node.client import ApiClient
    from node.facade import Change

STDIN_BYTES_MAX = 64 * 1024 + 1
TXN_BYTES_MAX = 512 * 1024
RECONNECT_S = 1.0
KEEP_ALIVE_PARTS = 3  # in each of these parts of its time a lease is kept alive once


def add_kv(commands: Any) -> None:
    """Adds the command to the subparsers of the command line."""
    kv = commands.add_parser("kv", help="read and write keys")
    verbs = kv.add_subparsers(title="verbs", metavar="VERB", required=True)

    get = verbs.add_parser("get", help="print a key's value; exit status 1 if there is none")
    get.add_argument("key", help="the key, or with --prefix the beginning of keys")
    get.add_argument("--prefix", action="store_true", help="print all keys that begin so")
    get.add_argument("--rev", type=int, metavar="N", help="as it was at this revision")
    get.add_argument("--limit", type=int, default=0, metavar="N", help="with --prefix: at most N")
    get.add_argument("--keys-only", action="store_true", help="with --prefix: no values")
    get.add_argument("--stale", action="store_true", help="answer from this node's own state")
    _end(get, _get)

    put = verbs.add_parser("put", help="write a key")
    put.add_argument("key")
    put.add_argument("value", help="the value; - reads it from stdin")
    put.add_argument("--lease", type=int, default=0, metavar="N", help="the key goes with it")
    _end(put, _put, writes=True)

    delete = verbs.add_parser(
        "delete",
        aliases=["del"],
        help="delete a key; exit status 0 also if it was not there",
    )
    delete.add_argument("key", help="the key, or with --prefix the beginning of keys")
    delete.add_argument("--prefix", action="store_true", help="delete all keys that begin so")
    _end(delete, _delete, writes=True)

    txn = verbs.add_parser(
        "txn", help="compare, then or else; exit status 1 if the comparisons did not hold"
    )
    txn.add_argument("file", help="JSON as POST /v1/txn takes it; - reads it from stdin")
    _end(txn, _txn, writes=True)

    lease = verbs.add_parser("lease", help="keys that go when nobody keeps them alive")
    steps = lease.add_subparsers(title="steps", metavar="STEP", required=True)
    grant = steps.add_parser("grant", help="begin a lease and print its number")
    grant.add_argument("ttl_s", type=_seconds, metavar="SECONDS")
    _end(grant, _grant, writes=True)
    keep = steps.add_parser("keepalive", help="let it run its whole time again and again")
    keep.add_argument("lease", type=int)
    keep.add_argument("--once", action="store_true", help="once, not until it ends")
    _end(keep, _keep_alive)
    revoke = steps.add_parser("revoke", help="end it; its keys go")
    revoke.add_argument("lease", type=int)
    _end(revoke, _revoke, writes=True)
    _end(steps.add_parser("list", help="all leases"), _leases)
    show = steps.add_parser("show", help="what is left of it, and the keys that go with it")
    show.add_argument("lease", type=int)
    _end(show, _show_lease)

    watch = verbs.add_parser("watch", help="print each change, until interrupted")
    watch.add_argument("key", help="the key, or with --prefix the beginning of keys")
    watch.add_argument("--prefix", action="store_true", help="all keys that begin so")
    watch.add_argument("--rev", type=int, metavar="N", help="from this revision on")
    _end(watch, _watch)


def _end(parser: argparse.ArgumentParser, command: Any, *, writes: bool = False) -> None:
    if writes:
        parser.add_argument("--request-id", help="the same id is applied once, 1 to 128 bytes")
    add_api(parser)
    parser.set_defaults(command=command)


def _span(options: argparse.Namespace) -> tuple[bytes, bytes]:
    from consensus.commands import prefix_end

    key = os.fsencode(options.key)
    if not options.prefix:
        return key, b""
    return key or b"\0", prefix_end(key)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1
    if not 0 <= value < 1e12:  # nor is NaN
        raise argparse.ArgumentTypeError(f"expected a number of seconds, got {text!r:.40}")
    return value


def _text(raw: bytes) -> str:
    """One line for the terminal; bytes that are no printable text show as escapes."""
    text = raw.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _said(name: str, count: int) -> str:
    return f"{count} {name}" + ("" if count == 1 else "s")


# --- keys ---------------------------------------------------------------------------------------


def _get(options: argparse.Namespace) -> int:
    if options.prefix:
        return _range(options)
    key = os.fsencode(options.key)
    entry = with_client(
        options, lambda client: client.get(key, stale=options.stale, revision=options.rev)
    )
    if entry is None:
        raise Failed(f"no such key: {options.key}")
    if options.json:
        from node.kv_json import show_entry

        print_json(show_entry(key, entry))
        return 0
    sys.stdout.flush()
    sys.stdout.buffer.write(entry.value)
    if sys.stdout.isatty():
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    return 0


def _range(options: argparse.Namespace) -> int:
    from node.kv_json import show_found

    found = with_client(
        options,
        lambda client: client.range(
            *_span(options),
            limit=options.limit,
            revision=options.rev,
            stale=options.stale,
            keys_only=options.keys_only,
        ),
    )
    if options.json:
        print_json(show_found(found, keys_only=options.keys_only))
        return 0
    for key, entry in found.entries:
        print(_text(key) if options.keys_only else f"{_text(key)} = {_text(entry.value)}")
    if found.more:
        print(f"{len(found.entries)} of {found.count} keys", file=sys.stderr)
    return 0


def _put(options: argparse.Namespace) -> int:
    value = os.fsencode(options.value)
    if options.value == "-":
        value = sys.stdin.buffer.read(STDIN_BYTES_MAX)
    key = os.fsencode(options.key)
    write = with_client(
        options,
        lambda client: client.put(key, value, request_id=options.request_id, lease=options.lease),
    )
    return _written(options, write.revision, write.existed)


def _written(options: argparse.Namespace, revision: int, existed: bool) -> int:
    if options.json:
        print_json({"revision": revision, "existed": existed})
    else:
        print(f"revision {revision}" + ("" if existed else " (the key was not there)"))
    return 0


def _delete(options: argparse.Namespace) -> int:
    key, end = _span(options)
    if not options.prefix:
        write = with_client(options, lambda c: c.delete(key, request_id=options.request_id))
        return _written(options, write.revision, write.existed)
    gone = with_client(options, lambda c: c.delete_range(key, end, request_id=options.request_id))
    return _gone(options, gone.revision, gone.deleted)


def _gone(options: argparse.Namespace, revision: int, deleted: int) -> int:
    if options.json:
        print_json({"revision": revision, "deleted": deleted})
    else:
        print(f"revision {revision}, {_said('key', deleted)} deleted")
    return 0


def _txn(options: argparse.Namespace) -> int:
    from attest.bounded_json import parse_json

    try:
        if options.file == "-":
            raw = sys.stdin.buffer.read(TXN_BYTES_MAX + 1)
        else:
            with open(options.file, "rb") as handle:
                raw = handle.read(TXN_BYTES_MAX + 1)
        if len(raw) > TXN_BYTES_MAX:
            raise Failed(f"{options.file}: more than {TXN_BYTES_MAX} bytes")
        body = parse_json(raw)
    except OSError as error:
        raise Failed(f"{options.file}: {error.strerror}") from None
    except ValueError:
        raise Failed(f"{options.file}: not JSON") from None
    outcome = with_client(options, lambda c: c.txn_json(body, request_id=options.request_id))
    if options.json:
        print_json(outcome)
    else:
        branch = "then" if outcome["succeeded"] else "else"
        print(f"revision {outcome['revision']}, {branch}")
        for response in outcome["responses"] or ():
            print(json.dumps(response, ensure_ascii=True))
    return 0 if outcome["succeeded"] else 1


# --- leases -------------------------------------------------------------------------------------


def _grant(options: argparse.Namespace) -> int:
    from consensus.limits import LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN

    ttl_ms = round(options.ttl_s * 1000)
    if not LEASE_TTL_MS_MIN <= ttl_ms <= LEASE_TTL_MS_MAX:
        bounds = f"{LEASE_TTL_MS_MIN // 1000} to {LEASE_TTL_MS_MAX // 1000}"
        raise Failed(f"a lease lives {bounds} s; came {options.ttl_s:g}")
    lease = with_client(options, lambda c: c.grant(ttl_ms, request_id=options.request_id))
    if options.json:
        print_json({"lease": lease.lease, "ttl_ms": lease.ttl_ms})
    else:
        print(lease.lease)
    return 0


def _keep_alive(options: argparse.Namespace) -> int:
    from node.client import is_passing
    from node.facade import NodeError

    async def keep(client: ApiClient) -> Any:
        import trio

        ends_s = 0.0
        while True:
            asked_s = trio.current_time()
            try:
                kept = await client.keep_alive(options.lease)
            except NodeError as error:
                # A node that restarts, or a change of leader, takes less than most leases have.
                if not is_passing(error) or asked_s > ends_s:
                    raise
                await trio.sleep(RECONNECT_S)
                continue
            if options.once:
                return kept
            ends_s = asked_s + kept.ttl_ms / 1000
            await trio.sleep(kept.ttl_ms / 1000 / KEEP_ALIVE_PARTS)

    kept = with_client(options, keep)
    if options.json:
        print_json({"lease": kept.lease, "remaining_ms": kept.remaining_ms})
    else:
        print(f"lease {kept.lease} runs for {kept.remaining_ms / 1000:g} s")
    return 0


def _revoke(options: argparse.Namespace) -> int:
    gone = with_client(options, lambda c: c.revoke(options.lease, request_id=options.request_id))
    return _gone(options, gone.revision, gone.deleted)


def _leases(options: argparse.Namespace) -> int:
    found = with_client(options, lambda client: client.leases())
    if options.json:
        rows = [
            {"lease": x.lease, "ttl_ms": x.ttl_ms, "remaining_ms": x.remaining_ms} for x in found
        ]
        print_json({"leases": rows})
        return 0
    for x in found:
        print(f"{x.lease}  {x.remaining_ms / 1000:g} s of {x.ttl_ms / 1000:g} s")
    return 0


def _show_lease(options: argparse.Namespace) -> int:
    from node.kv_json import show_bytes

    found = with_client(options, lambda client: client.lease(options.lease))
    if options.json:
        keys = [show_bytes("key", key) for key in found.keys]
        row = {"lease": found.lease, "ttl_ms": found.ttl_ms, "remaining_ms": found.remaining_ms}
        print_json(row | {"keys": keys})
        return 0
    print(f"{found.lease}  {found.remaining_ms / 1000:g} s of {found.ttl_ms / 1000:g} s")
    for key in found.keys:
        print(_text(key))
    return 0


# --- watching -----------------------------------------------------------------------------------


def _watch(options: argparse.Namespace) -> int:
    from node.client import is_passing
    from node.facade import NodeError

    if options.rev is not None and options.rev < 1:
        raise Failed("--rev: revisions begin with 1")
    after = None if options.rev is None else options.rev - 1
    key, end = _span(options)

    async def watch(client: ApiClient) -> None:
        import trio

        at, begun = after, False
        while True:
            try:
                async with client.watch(key, end, after=at) as batches:
                    async for changes, revision in batches:
                        at, begun = revision, True
                        for change in changes:
                            _tell(options, change)
                        sys.stdout.flush()
            except NodeError as error:
                if not (begun and is_passing(error)):
                    raise
            await trio.sleep(RECONNECT_S)

    with_client(options, watch)
    return 0


def _tell(options: argparse.Namespace, change: Change) -> None:
    if options.json:
        from node.kv_json import show_change

        print(json.dumps(show_change(change)))
    elif change.entry is None:
        print(f"{change.revision} delete {_text(change.key)}")
    else:
        print(f"{change.revision} put {_text(change.key)} = {_text(change.entry.value)}")
