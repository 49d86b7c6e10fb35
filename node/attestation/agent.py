"""Evidence of this machine: a quote of the guest agent for each statement that a peer asks for."""

from __future__ import annotations

from typing import Protocol

import trio

from attest import AgentError, Evidence, EvidenceError, report_data
from attest.collateral_store import CollateralStore
from attest.errors import QuoteError
from attest.qvl import Platform, platform_of
from node.attestation.codes import NodeCode
from node.network.addresses import peer_id_bytes
from node.network.attesting import Statement
from node.network.errors import Unproven

QUOTES_AT_ONCE_MAX = 4  # the agent and the quoting enclave behind it serve one after the other


class QuoteSource(Protocol):
    """What is needed of the guest agent."""

    async def get_quote(self, report_data: bytes) -> tuple[bytes, bytes]: ...


def report_data_of(statement: Statement) -> bytes:
    """The 64 bytes that a quote for this statement must carry."""
    return report_data(
        cluster_id=statement.cluster_id,
        prover_peer=peer_id_bytes(statement.prover),
        verifier_peer=peer_id_bytes(statement.verifier),
        prover_nonce=statement.prover_nonce,
        verifier_nonce=statement.verifier_nonce,
        session=statement.session,
        seat=statement.seat,
        incarnation=statement.incarnation,
    )


class Prover:
    """Asks the agent, a few quotes at a time; collateral goes with them if we have it.

    Args:
        agent: gives quotes.
        collateral: what is known of platform families.
        evidence_bytes_max: what the mesh carries.
    """

    def __init__(
        self, agent: QuoteSource, collateral: CollateralStore, evidence_bytes_max: int
    ) -> None:
        self.platform: Platform | None = None  # this machine's, known from its first quote
        self.trouble = ""  # why the agent gave no quote the last time
        self.made = 0
        self._agent = agent
        self._collateral = collateral
        self._bytes_max = evidence_bytes_max
        self._turn = trio.Semaphore(QUOTES_AT_ONCE_MAX)

    async def prove(self, statement: Statement) -> bytes:
        """Evidence for a statement about this node. Raises Unproven."""
        try:
            async with self._turn:
                quote, event_log = await self._agent.get_quote(report_data_of(statement))
            if self.platform is None:
                self.platform = await trio.to_thread.run_sync(platform_of, quote)
            encoded = self._encoded(quote, event_log)
        except (AgentError, EvidenceError, QuoteError) as error:
            self.trouble = str(error)
            raise Unproven(NodeCode.NO_QUOTE, self.trouble) from error
        self.trouble = ""
        self.made += 1
        return encoded

    def _encoded(self, quote: bytes, event_log: bytes) -> bytes:
        """With collateral, so that a verifier without a source of its own can judge it."""
        kept = self._collateral.peek(self.platform) if self.platform is not None else None
        if kept is not None:
            encoded = Evidence(quote, event_log, kept.to_json()).encode()
            if len(encoded) <= self._bytes_max:
                return encoded
        encoded = Evidence(quote, event_log).encode()
        if len(encoded) > self._bytes_max:
            raise EvidenceError(f"evidence of {len(encoded)} bytes, at most {self._bytes_max}")
        return encoded
