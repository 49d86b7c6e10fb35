"""``dstack-cluster snapshot``: look at the snapshots of a state directory, keep one, check one.

All verbs work on files, whether the daemon runs or not.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from node.cli_talk import Failed, print_json, print_pairs, print_rows

if TYPE_CHECKING:
    from node.snapshots import SnapshotFile


def add_snapshot(commands: Any) -> None:
    """Adds the command to a parser's subcommands."""
    snapshot = commands.add_parser("snapshot", help="certified snapshots on disk")
    verbs = snapshot.add_subparsers(title="verbs", metavar="VERB", required=True)
    listing = verbs.add_parser("list", help="the snapshots that this node offers to others")
    save = verbs.add_parser("save", help="copy the newest one, checked, to a file")
    for verb in (listing, save):
        verb.add_argument("--state-dir", required=True, metavar="DIR", help="node.state_dir")
    save.add_argument("file", metavar="FILE", help="must not exist")
    verify = verbs.add_parser(
        "verify",
        help="is the content what the headers in it commit to? Who signed them is printed, and "
        "for you to compare with the members",
    )
    verify.add_argument("file", metavar="FILE")
    for verb, call in ((listing, _list), (save, _save), (verify, _verify)):
        verb.add_argument("--json", action="store_true", help="print JSON")
        if verb is not listing:
            verb.add_argument("--chain-id", type=int, required=True, metavar="N")
            verb.add_argument("--contract", required=True, metavar="0x...", help="the registry")
        verb.set_defaults(command=call)


def _open(path: Path) -> SnapshotFile:
    from node.snapshots import SnapshotError, SnapshotFile

    try:
        return SnapshotFile(path)
    except (SnapshotError, OSError) as error:
        raise Failed(str(error)) from None


def _directory(options: argparse.Namespace) -> Path:
    from node import snapshots

    return Path(options.state_dir) / snapshots.DIRECTORY


def _list(options: argparse.Namespace) -> int:
    from node import snapshots

    if not Path(options.state_dir).is_dir():
        raise Failed(f"--state-dir {options.state_dir}: no such directory")
    rows = []
    for height, path in snapshots.listing(_directory(options)):
        file = _open(path)
        rows.append(
            {
                "height": height,
                "epoch": file.manifest.header.epoch,
                "time_ms": file.manifest.header.time_ms,
                "bytes": path.stat().st_size,
                "file": str(path),
            }
        )
        file.close()
    if options.json:
        print_json({"snapshots": rows})
    else:
        print_rows(rows)
    return 0


def _checked(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What a whole and consistent snapshot says of itself."""
    from chain.eip712 import domain_separator
    from consensus.digests import vote_digest
    from node.signing import recover
    from node.snapshots import SnapshotError

    try:
        contract = bytes.fromhex(options.contract.removeprefix("0x"))
    except ValueError:
        contract = b""
    if len(contract) != 20:
        raise Failed(f"--contract {options.contract}: expected 20 bytes in hex")
    cluster_id = domain_separator(options.chain_id, contract)
    file = _open(path)
    try:
        machine = file.verify(cluster_id)
    except SnapshotError as error:
        raise Failed(str(error)) from None
    finally:
        file.close()
    final = file.manifest.finalization
    digest = vote_digest(cluster_id, final.kind, final.epoch, *final.view, final.block, 0)
    signers = {part.seat: recover(digest, part.signature) for part in final.parts}
    return {
        "height": file.height,
        "epoch": file.manifest.header.epoch,
        "block": file.block(cluster_id).hex(),
        "state_hash": machine.state_hash.hex(),
        "revision": machine.revision,
        "keys": len(machine.entries),
        "signed_by": {str(s): key.hex() if key else "forged" for s, key in signers.items()},
    }


def _save(options: argparse.Namespace) -> int:
    from node import snapshots

    found = snapshots.listing(_directory(options))
    if not found:
        raise Failed(f"no snapshot in {_directory(options)}")
    target = Path(options.file)
    if target.exists():
        raise Failed(f"{target} exists")
    draft = target.with_name(f".{target.name}.tmp")
    try:
        shutil.copyfile(found[-1][1], draft)
        report = _checked(draft, options)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.rename(target)
    except OSError as error:
        raise Failed(f"{target}: {error.strerror}") from None
    finally:
        draft.unlink(missing_ok=True)
    return _print(options, report)


def _verify(options: argparse.Namespace) -> int:
    return _print(options, _checked(Path(options.file), options))


def _print(options: argparse.Namespace, report: dict[str, Any]) -> int:
    if options.json:
        print_json(report)
    else:
        print_pairs(report)
    return 0
