"""The registry's events, from any endpoint that has them, proven by the digest they lead to.

Also what they have proven so far, so that only new ones are asked for: every seat with its weight,
state, key and instance at the newest block that was looked at, and at the launch or recovery that
was asked for last. So the whole past is walked through once, and a piece of it is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import structlog
import trio

from chain.abi import ContractAbi
from chain.agreement import FinalizedReader
from chain.errors import BadChainData, EndpointError, NoAgreement, RpcFault
from chain.events import Reading
from chain.membership import Change, Member, Membership
from chain.replay import F, Seats, SeatState
from chain.rows import check_rows
from chain.rpc import RpcEndpoint

PATIENCE_S = 10.0  # before another endpoint is asked beside those that are not done
LOOK_S = 60.0  # what is not proven by then goes on with the next look

_log = structlog.get_logger("chain.history")


class NotRead(NoAgreement):
    """No endpoint gave the events yet, and none gave others."""


@dataclass(frozen=True, slots=True)
class _Proven:
    """A state of the registry, and the seats that its events led to."""

    at: Change
    seats: Mapping[int, SeatState]


Readings = dict[str, Reading[Seats]]  # by endpoint


class SeatHistory:
    """Who sat where, as the events of one registry tell it.

    Args:
        reader: the endpoints; its watermark names the contract.
        abi: the contract's interface.
        deploy_block: where to start looking; 0 when it is not known.
    """

    def __init__(self, reader: FinalizedReader, abi: ContractAbi, deploy_block: int) -> None:
        self.deploy_block = deploy_block
        self._reader = reader
        self._event = abi.event("NodeChanged")
        self._contract = reader.watermark.mark.contract
        self._nothing = _Proven(Change(deploy_block, 0, bytes(32)), {})
        self._known = self._nothing  # at the newest block that was looked at
        self._past = self._nothing  # the launch or recovery that was asked for last
        self._remembered = False  # what is known comes from an earlier run's memory
        # Readings that are not at their end: from where, and for the past also to where. One call
        # at a time goes on with them.
        self._reading_to_now, self._reading_to_past = trio.Lock(), trio.Lock()
        self._to_now: tuple[_Proven, Readings] = (self._nothing, {})
        self._to_past: tuple[_Proven, Change, Readings] = (self._nothing, self._nothing.at, {})
        self.patience_s = PATIENCE_S
        self.look_s = LOOK_S

    def remember(self, membership: Membership) -> None:
        """Starts from what an earlier run proved, instead of from the deployment.

        If that turns out to be untrue, everything is proven anew.
        """
        m = membership
        self._known = _Proven(
            Change(m.block_number, m.version, m.digest),
            {
                row.seat: SeatState(row.weight, row.status, row.node_key, row.instance_id)
                for row in m.members
            },
        )
        self._remembered = True

    async def check(self, members: Sequence[Member], at: Change) -> None:
        """Holds rows of the registry against the events that lead to its state.

        Args:
            at: a finalized block with version and digest there, which must be proven.

        Raises:
            BadChainData: the rows are not what the events prove.
            NoAgreement: no endpoint has the events; NotRead: or not yet, ask again.
        """
        async with self._reading_to_now:
            try:
                await self._prove(members, at)
            except (BadChainData, NoAgreement) as error:
                if not self._remembered or isinstance(error, NotRead):
                    raise
                _log.warning("chain.proving_anew", reason=str(error))
                self._known, self._remembered = self._nothing, False
                self._to_now = (self._nothing, {})
                await self._prove(members, at)

    async def _prove(self, members: Sequence[Member], at: Change) -> None:
        since, readings = self._to_now
        if not readings:
            since = max(self._known, self._past, key=lambda proven: proven.at.version)
            self._to_now = (since, readings)
        found = await self._from(since, at, readings)
        check_rows(members, found.seats)
        self._known, self._remembered = found, False

    async def seats_at(self, change: Change) -> Mapping[int, SeatState]:
        """The seats at a state of the registry that stays on record, a launch or a recovery.

        Raises:
            NoAgreement: no endpoint has the events that lead there; NotRead: or not yet.
        """
        async with self._reading_to_past:
            known = (self._past,) if self._remembered else (self._past, self._known)
            before = [proven for proven in known if proven.at.version <= change.version]
            since = max(before, key=lambda proven: proven.at.version, default=self._nothing)
            kept, to, readings = self._to_past
            if not readings or to != change:
                kept, readings = since, {}
                self._to_past = (kept, change, readings)
            self._past = found = await self._from(kept, change, readings)
            return found.seats

    async def _from(self, since: _Proven, up_to: Change, readings: Readings) -> _Proven:
        if (since.at.version, since.at.digest) == (up_to.version, up_to.digest):
            return _Proven(up_to, since.seats)
        # If what is remembered is untrue, it is not the endpoints that lie.
        accuse = not (self._remembered and since is self._known)
        found = await self.folded(
            lambda: Seats(since.seats), since.at, up_to, accuse=accuse, readings=readings
        )
        readings.clear()
        return _Proven(up_to, found.now)

    async def folded(
        self,
        fold: Callable[[], F],
        since: Change,
        up_to: Change,
        *,
        accuse: bool = True,
        readings: dict[str, Reading[F]] | None = None,
    ) -> F:
        """What becomes of all node changes between two known states, proven by the digest.

        Any endpoint's events will do: those that do not give the digest are thrown away and the
        endpoint is named. None is waited for alone: a liar's may come block by block, for ever.

        Args:
            fold: makes an empty one; each endpoint's events are folded apart.
            accuse: an endpoint whose events do not lead to the digest is named for it.
            readings: of an earlier call that did not get to their end, from the same state on.

        Raises:
            NoAgreement: no endpoint has them.
            NotRead: none gave all of them in time, and none gave others; the readings go on.
        """
        if up_to.version < since.version:
            raise BadChainData(f"version {up_to.version} of the registry, {since.version} was seen")
        readings = {} if readings is None else readings
        failures: dict[str, str] = {}
        refuted: set[str] = set()
        found: list[F] = []
        busy: set[str] = set()

        def reading_of(endpoint: RpcEndpoint) -> Reading[F]:
            kept = readings.get(endpoint.name)
            if kept is None or not kept.aim(up_to):
                kept = Reading(endpoint, self._contract, self._event, since, up_to, fold())
                readings[endpoint.name] = kept
            return kept

        async def ask(endpoint: RpcEndpoint, failed: trio.Event) -> None:
            while True:
                reading = reading_of(endpoint)
                busy.add(endpoint.name)
                try:
                    found.append(await reading.finish())
                    nursery.cancel_scope.cancel()
                except BadChainData as error:
                    if accuse:
                        self._reader.accuse(endpoint, f"events: {error}")
                    failures[endpoint.name] = str(error)
                    refuted.add(endpoint.name)
                    del readings[endpoint.name]
                except (EndpointError, RpcFault) as error:
                    failures[endpoint.name] = str(error)
                    if reading.has_moved():
                        # Asked for too much at a time: with a rest it goes on where it stood.
                        failed.set()
                        await trio.sleep(self.patience_s)
                        continue
                busy.discard(endpoint.name)
                failed.set()
                if not busy and len(failures) == len(self._reader.endpoints):
                    nursery.cancel_scope.cancel()
                # Somebody else is at it still: who was out of order may be well by then.
                await trio.sleep(self.patience_s)

        with trio.move_on_after(self.look_s):
            async with trio.open_nursery() as nursery:
                for endpoint in self._reader.best_first():
                    failed = trio.Event()
                    nursery.start_soon(ask, endpoint, failed)
                    with trio.move_on_after(self.patience_s):
                        await failed.wait()
        if found:
            return found[0]
        for name in busy:
            failures[name] = f"gave them up to block {readings[name].next_block - 1} so far"
        error = NoAgreement if refuted else NotRead
        raise error(f"events up to version {up_to.version}", 1, failures)
