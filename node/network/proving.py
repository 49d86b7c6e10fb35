"""The last step before a link: both ends prove to each other what they run (``attesting``)."""

from __future__ import annotations

from contextlib import suppress

import trio

from node.network.attesting import Attesting
from node.network.errors import Denied, LinkBroken, NetworkError, Refused, Unproven
from node.network.frames import encode_control
from node.network.handshake import Established, NegotiationStream
from node.network.identity import ConnectionClosedError
from node.network.limits import NetworkLimits


class Proving:
    """One connection between hello and first payload.

    Args:
        established: the finished handshake; what else was read with the hello is in it.
        attesting: of this connection; from here on it writes to it.
        limits: sizes and deadlines.
    """

    def __init__(
        self, established: Established, attesting: Attesting, limits: NetworkLimits
    ) -> None:
        self._established = established
        self._attesting = attesting
        self._limits = limits
        # Our evidence and theirs, asks, verdicts, and the muxer's frames around them.
        self._wire = NegotiationStream(
            established.channel, established.yamux, 2 * limits.evidence_bytes_max
        )
        attesting.send = self._send
        self._denied: Denied | None = None  # by us

    async def run(self) -> None:
        """Returns when both sides have accepted each other.

        Raises:
            Refused: they have not; a side that was refused by us had time to read why.
        """
        peer_id = self._established.peer_id
        try:
            with trio.fail_after(self._limits.proof_timeout_s):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._attesting.serve)
                    await self._ask()
                    while not self._attesting.settled:
                        await self._attesting.wait_change()
                    nursery.cancel_scope.cancel()
            # The reading task may have been stopped with bytes in its hands.
            established = self._established
            established.early_payloads += established.frames.feed(bytes(self._wire.buffer))
        except trio.TooSlowError:
            if self._denied is not None:
                raise _refused(self._denied, peer_id) from self._denied
            raise Refused("proof_timeout", peer_id=peer_id) from None
        except LinkBroken as error:  # in what was left in its hands
            raise Refused(error.reason, peer_id=peer_id, penalty=error.penalty) from error
        except BaseExceptionGroup as group:
            refusal = _refusal(group, peer_id)
            if refusal is None:
                raise
            if self._denied is not None:
                await self._linger(self._denied)
                raise _refused(self._denied, peer_id) from self._denied
            if self._attesting.denied:
                raise Refused("denied_by_peer", peer_id=peer_id) from refusal.__cause__
            raise refusal from refusal.__cause__
        finally:
            self._attesting.tell_denial()

    async def _ask(self) -> None:
        """Asks and judges, and waits with the consequences until the other side can judge us."""
        try:
            await self._attesting.ask()
        except Denied as denied:
            self._denied = denied
            # It acts on what is attached when it knows who says so.
            while denied.attachment and not self._attesting.has_shown:
                await self._attesting.wait_change()
            raise
        if self._attesting.denied:
            raise LinkBroken("denied_by_peer")

    async def _send(self, payload: bytes) -> None:
        await self._wire.write(encode_control(payload))

    async def _read(self) -> None:
        attesting, frames = self._attesting, self._established.frames
        payloads = self._established.early_payloads
        while True:
            controls, frames.controls = frames.controls, []
            for control in controls:
                attesting.receive(control)
            # Whoever has both verdicts may go on at once, and we have them too then.
            if payloads and not (attesting.proven and attesting.accepted):
                raise Refused("payload_before_proof", penalty=True)
            payloads += frames.feed(await self._wire.read())

    async def _linger(self, denied: Denied) -> None:
        """Closing now could lose our verdict on its way: wait until it was read, and our evidence
        judged if something hangs on that. Whoever has done so closes."""
        limits = self._limits
        patience_s = limits.proof_timeout_s if denied.attachment else limits.denied_linger_s
        with trio.move_on_after(patience_s), suppress(Exception):
            while True:
                await self._wire.read()


def _refusal(group: BaseExceptionGroup[BaseException], peer_id: str) -> Refused | None:
    """The one reason for the end; None when it is not the peer's (cancelled, a defect)."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            found = _refusal(error, peer_id)
            if found is not None:
                return found
    for kind in (Denied, Refused, LinkBroken, Unproven, NetworkError, ConnectionClosedError):
        for error in group.exceptions:
            if isinstance(error, kind):
                return _refused(error, peer_id)
    return None


def _refused(error: BaseException, peer_id: str) -> Refused:
    refusal = Refused(
        _reason(error),
        peer_id=peer_id,
        detail=getattr(error, "detail", ""),
        penalty=getattr(error, "penalty", False),
    )
    refusal.__cause__ = error
    return refusal


def _reason(error: BaseException) -> str:
    if isinstance(error, Unproven):
        return "unproven"
    if isinstance(error, ConnectionClosedError):
        return "closed_by_peer"  # mostly a crossed dial of which it kept the other
    return str(getattr(error, "reason", "handshake_failed"))
