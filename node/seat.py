"""Keeps this node's seat in the registry: registers it, renews its lease, corrects its endpoint."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog
import trio

from attest import NodeIdentity
from chain import (
    CallReverted,
    ChainError,
    EvmRegistry,
    FinalityAlarm,
    InsufficientFunds,
    Member,
    Membership,
    MemberStatus,
    NodeRegistrar,
    PinMismatch,
    Sighting,
    TxOutcome,
    WrongChain,
)

Write = Callable[[], Awaitable[TxOutcome]]

RETRY_S_MIN = 2.0
RETRY_S_MAX = 15.0  # an owner who binds the instance waits this long at most; a try costs no gas
CHECK_S = 60.0  # how often a right row is looked at: leases run out by time alone

# What stands behind a refusal, and which command of whom ends it.
REFUSALS = {
    "AppNotAllowed": "the contract's owner has not allowed this app (contract allow-app)",
    "CoolingDown": "its node was put out, and nobody registers there until that time (in Unix "
    "seconds; contract lift-suspension)",
    "EnforcedPause": "the registry is paused (contract unpause)",
    "InstanceInUse": "this instance is registered on another seat",
    "KeyInUse": "this node's key sits on another seat, or sat there",
    "NotAuthorized": "the seat's owner has not bound this instance to it (contract bind)",
    "RootNotLive": "the KMS root that vouches for this app has ended (contract root)",
}


class SeatKeeper:
    """Follows the registry and keeps our row in it right.

    Args:
        registry, registrar: reading and writing.
        identity: the key that the row must show.
        seat, endpoint: what the row must say.
        on_sighting: called with what every new finalized block shows.
    """

    def __init__(
        self,
        registry: EvmRegistry,
        registrar: NodeRegistrar,
        identity: NodeIdentity,
        seat: int,
        endpoint: str,
        on_sighting: Callable[[Sighting], None],
    ) -> None:
        self.membership: Membership | None = None
        self.alarm = ""  # the chain must not be followed any further
        self.trouble = ""  # why the seat is not registered (yet)
        self.transactions = 0
        self._registry = registry
        self._registrar = registrar
        self._identity = identity
        self._seat = seat
        self._endpoint = endpoint
        self._on_sighting = on_sighting
        self._changed = trio.Event()
        self._registered = trio.Event()
        self._log = structlog.get_logger("node.seat")

    async def run(self) -> None:
        """Follows the registry until cancelled; an alarm of the chain stops that for good."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep)
            try:
                async for seen in self._registry.watch():
                    # Also when nothing changed: the lease runs by the time of the newest block.
                    self.membership = seen.membership
                    self._on_sighting(seen)
                    if seen.changed:
                        self._changed.set()
                        self._changed = trio.Event()
            except (FinalityAlarm, PinMismatch, WrongChain) as error:
                # Membership changes end here; the cluster goes on with the set it has.
                self.alarm = str(error)
                self._log.error("chain_alarm", reason=self.alarm)

    def lease_left_s(self) -> int | None:
        """How long this node keeps its say unless its lease is renewed, by the time of the newest
        final block; None while the registry does not show it on its seat."""
        row = self.membership.member(self._seat) if self.membership is not None else None
        if self.membership is None or row is None or not self._is_ours(row):
            return None
        return row.lease_expires_s - self.membership.block_time_s

    async def wait_registered(self) -> None:
        """Returns when the finalized registry shows this node on its seat."""
        await self._registered.wait()

    async def _keep(self) -> None:
        pause_s = RETRY_S_MIN
        while True:
            membership, changed = self.membership, self._changed
            if membership is None:
                await changed.wait()
                continue
            try:
                todo = await self._todo(membership)
                if todo is None:
                    self.trouble = ""
                    self._registered.set()
                    pause_s = CHECK_S
                else:
                    what, write = todo
                    self._log.info("registry_write", what=what)
                    outcome = await write()
                    self.transactions += 1
                    pause_s = RETRY_S_MIN
                    await self._wait_shown(outcome.block_number)
                    continue
            except InsufficientFunds as error:
                self._complain(f"cannot pay for the transaction: {error}")
                pause_s = min(2 * pause_s, RETRY_S_MAX)
            except ChainError as error:
                self._complain(_explained(error))
                pause_s = min(2 * pause_s, RETRY_S_MAX)
            with trio.move_on_after(pause_s):
                await changed.wait()

    async def _wait_shown(self, block: int) -> None:
        """Until the registry was seen at a block: not to be judged from the row of before."""
        while self.membership is None or self.membership.block_number < block:
            await self._changed.wait()

    def _complain(self, text: str) -> None:
        if text != self.trouble:
            self._log.error("registration_refused", reason=text)
        self.trouble = text

    async def _todo(self, membership: Membership) -> tuple[str, Write] | None:
        """What the row needs: a name and a call, or None when it is right."""
        row = membership.member(self._seat)
        if row is None:
            raise ChainError(f"seat {self._seat} does not exist in the registry")
        identity, endpoint = self._identity, self._endpoint
        if not self._is_ours(row):
            number = row.incarnation + 1

            async def register() -> TxOutcome:
                return await self._registrar.register(identity, self._seat, endpoint, number)

            return ("register", register)
        lease_s = int((await self._registry.call("leaseDuration"))[0])
        half_gone = row.lease_expires_s - membership.block_time_s < lease_s // 2
        if row.endpoint == endpoint and not half_gone:
            return None

        async def announce() -> TxOutcome:
            number = row.incarnation + 1
            return await self._registrar.announce(identity, self._seat, endpoint, number)

        return ("announce", announce)

    def _is_ours(self, row: Member) -> bool:
        return (
            row.status is MemberStatus.ACTIVE
            and row.node_key == self._identity.node_key
            and row.instance_id == self._identity.instance_id
            and row.scheme == self._identity.scheme
        )


def _explained(error: ChainError) -> str:
    meaning = REFUSALS.get(error.name) if isinstance(error, CallReverted) else None
    return f"{error}: {meaning}" if meaning else str(error)
