"""The command line: which verbs there are, how their answers are printed, and the exit status.

0: it happened, or would work (dry run). 1: it could not be told. 2: a wrong command line. 3: it
would fail, nothing was sent. 4: it was sent and failed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

import trio

from chain import (
    CallReverted,
    ChainError,
    InsufficientFunds,
    TransactionFailed,
    TransactionReplaced,
)
from chain.errors import FeeTooHigh
from contracts import ArtifactError
from deploy.operator import (
    app,
    certificates,
    deploying,
    governance,
    mint,
    recovery,
    rules,
    seats,
    trust,
)
from deploy.operator.verbs import EXIT_ERROR, EXIT_FAILED, EXIT_WOULD_FAIL, Answer, Verbs
from node.logs import configure_command_logging

PROGRAM = "dstack-cluster contract"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; returns the exit status."""
    options = _parser().parse_args(argv)
    configure_command_logging("info" if getattr(options, "yes", False) else "warning")
    try:
        answer: Answer = trio.run(options.verb, options)
    except (ChainError, ArtifactError, OSError, ValueError) as error:
        text = " ".join(str(error).split())
        print(f"{PROGRAM}: {text}", file=sys.stderr)
        if options.json:
            print(json.dumps({"error": text}))
        if isinstance(error, TransactionFailed | TransactionReplaced):
            return EXIT_FAILED
        if isinstance(error, CallReverted | InsufficientFunds | FeeTooHigh):
            return EXIT_WOULD_FAIL
        return EXIT_ERROR
    print(json.dumps(answer.fields) if options.json else "\n".join(answer.lines))
    return answer.status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        # An RPC URL may hold an API key, and arguments are in the process list.
        fromfile_prefix_chars="@",
        description="The registry of a cluster. Whatever costs is only planned unless --yes is"
        " given. Exit status: 0 done, or would work; 1 unknown; 3 would fail; 4 sent and failed."
        " @FILE stands for the words in a file, one a line.",
    )
    verbs = Verbs(parser.add_subparsers(required=True, metavar="VERB"))
    for room in (
        deploying, seats, trust, rules, certificates, mint, app, governance, recovery,
    ):  # fmt: skip
        room.add(verbs)
    return parser


if __name__ == "__main__":
    sys.exit(main())
