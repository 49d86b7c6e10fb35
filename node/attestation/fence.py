"""Which boot of a seat counts, as the consensus core knows it (``consensus.boot``).

A member that proves an older boot than the one acknowledged last is a copy that was superseded, or
one whose disk went back. It is refused, and gets the newer request, which its own key signed: a
copy that votes stops on seeing it, one that is still booting takes a higher number (R10).
"""

from __future__ import annotations

import structlog

from consensus import wire
from consensus.errors import WireError
from consensus.interface import Received
from consensus.validators import ValidatorSet
from node.driver import Driver


class BootFence:
    """``service.Core`` on a running driver."""

    def __init__(self, driver: Driver, cluster_id: bytes) -> None:
        self._driver = driver
        self._cluster_id = cluster_id
        self._log = structlog.get_logger("node.attestation")

    def incarnation(self) -> int:
        """See ``Core``."""
        return self._driver.engine.boot.incarnation

    def current(self, seat: int) -> int:
        """See ``Core``."""
        return self._driver.engine.boot.current(seat)

    def proof(self, seat: int) -> bytes:
        """See ``Core``."""
        boot = self._driver.engine.boot
        known = boot.known.get(seat)
        if known is None or known.incarnation < boot.current(seat):
            return b""
        return wire.encode(wire.BootRefused(known))

    def superseded(self, seat: int, proof: bytes) -> None:
        """See ``Core``; whether the proof is genuine, the core sees."""
        try:
            message = wire.decode(proof, seat, self._cluster_id)
        except WireError as error:
            self._log.warning("bad_boot_proof", peer=seat, error=str(error))
            return
        if isinstance(message, wire.BootRefused):
            self._driver.tell(Received(seat, message))

    def validators(self) -> ValidatorSet:
        """See ``Core``."""
        return self._driver.engine.validators
