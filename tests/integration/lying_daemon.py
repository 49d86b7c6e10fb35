"""A daemon that is Byzantine on demand: it signs two notarize votes for one view, over real links.

Run as ``dstack-cluster run``, from the folder of its node; it lies while there is a file ``lie``.
All else is the real daemon: its key, its machine, its links, its place in the registry.
"""

from __future__ import annotations

import sys
from pathlib import Path

from consensus.digests import digest_of
from consensus.engine import Engine
from consensus.interface import Event, Output, Send
from consensus.keccak import keccak256
from consensus.types import VoteKind
from consensus.wire import VoteMessage
from node import cli, daemon

SIGN_TO_LIE = Path("lie")


class LyingEngine(Engine):
    """Each notarize vote is followed by one for a block that nobody proposed."""

    def step(self, event: Event, now_ms: int) -> Output:
        output = super().step(event, now_ms)
        for send in tuple(output.send):
            said = send.message
            if isinstance(said, VoteMessage) and said.vote.kind is VoteKind.NOTARIZE:
                if not SIGN_TO_LIE.exists():
                    break
                other = said.vote._replace(block=keccak256(said.vote.block), signature=b"")
                digest = digest_of(self.cluster_id, other)
                other = other._replace(signature=self._signer.sign(digest))
                output.send.append(Send(send.to, VoteMessage(said.incarnation, other)))
        return output


if __name__ == "__main__":
    daemon.Engine = LyingEngine  # type: ignore[misc]
    sys.exit(cli.main())
