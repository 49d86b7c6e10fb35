"""A cluster of real processes for tests: anvil, agents, daemons; the launcher's own code drives it.

It keeps nothing open between calls, so one cluster can serve several trio runs. Every process is
stopped by ``down`` (fixtures call it), whatever the test did to it.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import trio

from chain.keys import address_of, keccak256, recover
from chain.rpc import RpcEndpoint
from deploy import calls
from deploy.calls import Call
from deploy.testnet import (
    agents,
    changes,
    cli,
    faults,
    launch,
    layout,
    policies,
    processes,
    requests,
    survey,
)
from deploy.testnet.layout import TestnetError
from deploy.testnet.survey import SeatView, Survey
from node.client import ApiClient
from node.facade import Entry, Write

POLL_S = 0.05
DEADLINE_S = 60.0
UP_DEADLINE_S = 120.0
# Below the range from which the kernel takes ports for outgoing connections.
SPARE = 2  # nodes that may be added
PORTS = range(12_000, 32_000, 100)


class Testnet:
    """One running testnet in ``directory``; every method that waits raises at its deadline."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    async def up(
        cls,
        directory: Path,
        nodes: int = 4,
        weights: tuple[int, ...] | None = None,
        deadline_s: float = UP_DEADLINE_S,
        settings: tuple[str, ...] = (),
    ) -> Self:
        """Start a cluster on free ports and return when it has a leader."""
        testnet = cls(directory)
        await launch.bring_up(
            directory, weights or (1,) * nodes, free_base_port(nodes + SPARE), print, deadline_s,
            settings,
        )  # fmt: skip
        return testnet

    async def down(self) -> None:
        """Stop every process and remove the files; nothing happens when that is done already."""
        if layout.exists(self.directory):
            await launch.stop_everything(self.state, grace_s=5.0)
            layout.remove(self.state)

    # --- looking ------------------------------------------------------------------------------

    @property
    def state(self) -> layout.Testnet:
        """What the launcher recorded: ports, processes, contract."""
        return layout.load(self.directory)

    @property
    def seats(self) -> tuple[int, ...]:
        return tuple(node.seat for node in self.state.nodes)

    async def survey(self) -> Survey:
        """What all nodes say now."""
        return await survey.take(self.state)

    async def status(self) -> dict[str, Any]:
        """The object that ``testnet status --json`` prints."""
        return (await self.survey()).as_json()

    async def leader(self) -> int | None:
        """The leader's seat as members of more than 2/3 of the weight report it."""
        return (await self.survey()).leader

    def api_url(self, seat: int) -> str:
        return self.state.api_url(seat)

    def client(self, seat: int, timeout_s: float = 15.0) -> ApiClient:
        """A client of one node, to be used as an async context manager."""
        return ApiClient(self.api_url(seat), timeout_s=timeout_s)

    def log(self, seat: int) -> str:
        """The whole log of one daemon."""
        return self.state.node_log(seat).read_text(errors="replace")

    def alive(self, seat: int) -> bool:
        """Whether that daemon's process runs (or is paused)."""
        return processes.is_alive(self.state.node(seat).process)

    # --- waiting ------------------------------------------------------------------------------

    async def wait_for(
        self, condition: Callable[[Survey], bool], what: str, deadline_s: float = DEADLINE_S
    ) -> Survey:
        """Survey until ``condition`` holds; AssertionError with the last survey otherwise."""
        seen: Survey | None = None
        with trio.move_on_after(deadline_s):
            while True:
                seen = await self.survey()
                if condition(seen):
                    return seen
                await trio.sleep(POLL_S)
        raise AssertionError(f"not within {deadline_s:.0f} s: {what}; last seen: {seen}")

    async def wait_leader(
        self, other_than: int | None = None, deadline_s: float = DEADLINE_S
    ) -> Survey:
        """Wait for a leader (another one than ``other_than``) that the weight agrees on."""
        return await self.wait_for(
            lambda seen: seen.leader is not None and seen.leader != other_than,
            f"a leader other than {other_than}",
            deadline_s,
        )

    async def wait_same_state(
        self, seats: tuple[int, ...] | None = None, deadline_s: float = DEADLINE_S
    ) -> str:
        """Wait until these seats (default: all) report one revision with one state hash; that hash.

        Stop writing first: under writes the nodes are rarely at the same point.
        """
        wanted = self.seats if seats is None else seats

        def same(seen: Survey) -> bool:
            rows = [row for row in seen.nodes if row.seat in wanted]
            return all(row.answers for row in rows) and len({_state(row) for row in rows}) == 1

        seen = await self.wait_for(same, f"seats {wanted} at the same state", deadline_s)
        found = next(row.state_hash for row in seen.nodes if row.seat in wanted)
        assert found is not None, "nodes report no state hash"
        return found

    # --- harming and healing ------------------------------------------------------------------

    async def kill(self, seat: int, signal_name: str = "KILL") -> None:
        """End a daemon; returns when it is gone."""
        await cli.kill(self.state, seat, signal_name)

    async def kill_all(self) -> None:
        """End all daemons at the same moment."""
        async with trio.open_nursery() as nursery:
            for seat in self.seats:
                nursery.start_soon(self.kill, seat)

    async def pause(self, seat: int) -> None:
        """Stop a daemon with SIGSTOP; returns when it is stopped."""
        await cli.pause(self.state, seat)

    async def resume(self, seat: int) -> None:
        """Let a paused daemon go on."""
        await cli.resume(self.state, seat)

    async def start(self, seat: int, deadline_s: float = DEADLINE_S) -> None:
        """Start a dead daemon on its old data; returns when its API answers."""
        await cli.start(self.directory, seat, deadline_s)

    # --- simulated machines -------------------------------------------------------------------

    async def fault(self, seat: int, kind: str, value: str | None = None) -> None:
        """Give the seat's machine a fault; ``none`` makes it sound again."""
        await faults.give(self.directory, seat, kind, value)

    async def policy(self, *composes: str) -> None:
        """Put the policy in force that takes these app composes (default: the original)."""
        text = policies.text(self.state, composes=composes or (policies.ORIGINAL,))
        await policies.put_in_force(self.directory, text, DEADLINE_S)

    async def wait_refused(self, seat: int, reason: str, by: tuple[int, ...]) -> Survey:
        """Wait until all of these refuse the seat's proofs for this reason, and have no link."""

        def refused(seen: Survey) -> bool:
            rows = {row.seat: row for row in seen.nodes}
            return all(
                (seat, f"attestation_{reason}") in rows[other].refuses
                and (rows[other].peers or 0) <= len(self.seats) - 2
                for other in by
            )

        return await self.wait_for(refused, f"seat {seat} refused by {by} for {reason}")

    async def wait_all_linked(self) -> Survey:
        """Wait until every node runs, votes, and has links to all others."""
        links = len(self.seats) - 1
        return await self.wait_for(
            lambda seen: all(row.state == "active" and row.peers == links for row in seen.nodes),
            "everybody linked with everybody",
        )

    # --- who belongs --------------------------------------------------------------------------

    async def add(self, weight: int = 1) -> int:
        """Grant a seat and start a node on it; the seat."""
        return await changes.add(self.directory, weight, DEADLINE_S)

    async def leave(self, seat: int) -> None:
        """Deactivate a seat."""
        await changes.leave(self.directory, seat, DEADLINE_S)

    async def rejoin(self, seat: int) -> None:
        """Let a deactivated seat's machine register again."""
        await changes.rejoin(self.directory, seat, DEADLINE_S)

    async def set_weight(self, seat: int, weight: int) -> None:
        """Change a seat's weight."""
        await changes.set_weight(self.directory, seat, weight, DEADLINE_S)

    async def replace_machine(self, seat: int) -> None:
        """Another machine, without the old one's disk, instance and key, on a dead seat."""
        await changes.replace_machine(self.directory, seat, DEADLINE_S)

    async def as_owner(self, *several: Call) -> None:
        """Send transactions of the contract's owner."""
        async with changes.changing(self.directory, DEADLINE_S) as (_, desk):
            await desk.as_owner(*several)

    async def second_root(self) -> None:
        """Root epoch 2, of the same KMS key, behind every registration from now on."""
        state = self.state
        async with changes.changing(self.directory, DEADLINE_S) as (_, desk):
            node = await agents.identity(state, desk.contract, self.seats[0])
            claim = keccak256(b"dstack-kms-issued:" + node.app_id + node.app_key)
            root = address_of(recover(claim, node.kms_signature))
            await desk.as_owner(calls.rotate_root(root, 2**39))
            certify = (node.app_id, node.app_key_xy(), node.kms_signature)
            await desk.as_owner(calls.certify_app_key(*certify, 2))

    async def forget_finalized(self, blocks: int) -> None:
        """Reorganises away the newest blocks of the chain, finalized ones among them."""
        rpc = RpcEndpoint(self.state.rpc_url)
        await rpc.call("anvil_reorg", [blocks, []])
        await rpc.aclose()

    async def recover(self) -> tuple[int, int]:
        """Break the glass, with the nodes that run; the new epoch and the height it stands on."""
        return await changes.recover(self.directory, DEADLINE_S)

    async def wait_epoch(
        self, epoch: int, weights: dict[int, int], total: int | None = None
    ) -> Survey:
        """Wait until all these seats vote in this epoch or a later one, with these weights.

        All nodes that run have the same set then, of this total weight, observers too.
        """
        total = sum(weights.values()) if total is None else total

        def there(seen: Survey) -> bool:
            rows = {row.seat: row for row in seen.nodes if row.answers}
            return (
                seen.leader is not None
                and all(
                    seat in rows and rows[seat].state == "active" and rows[seat].weight == weight
                    for seat, weight in weights.items()
                )
                and all(
                    row.set_weight == total and (row.epoch or 0) >= epoch for row in rows.values()
                )
            )

        return await self.wait_for(there, f"epoch {epoch} with the weights {weights}")

    # --- keys ---------------------------------------------------------------------------------

    async def put(
        self,
        key: str | bytes,
        value: bytes,
        *,
        request_id: str | bytes | None = None,
        seat: int | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Write:
        """Write; tries again with the same request id, on other nodes too if ``seat`` is None."""
        return await requests.put(
            self.state,
            _bytes(key),
            value,
            request_id=_bytes(request_id or secrets.token_hex(16)),
            seat=seat,
            deadline_s=deadline_s,
        )

    async def get(
        self,
        key: str | bytes,
        *,
        stale: bool = False,
        seat: int | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> Entry | None:
        """Read: linearizable, or what the node has when ``stale``."""
        return await requests.get(
            self.state, _bytes(key), linearizable=not stale, seat=seat, deadline_s=deadline_s
        )


def free_base_port(nodes: int) -> int:
    """A base port whose whole block is free now; random, so that parallel runs rarely meet."""
    for _ in range(200):
        base = random.choice(PORTS)
        wanted = [base, base + 1]
        wanted += [base + offset + n for offset in (10, 50) for n in range(1, nodes + 1)]
        try:
            layout.check_ports(dict.fromkeys(wanted, "a test"))
        except TestnetError:
            continue
        return base
    raise RuntimeError("no free block of ports")


def _state(row: SeatView) -> tuple[int | None, str | None]:
    return (row.revision, row.state_hash)


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text
