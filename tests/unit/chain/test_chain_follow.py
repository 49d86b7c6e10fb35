"""Views of who votes: the same on every node, whatever blocks it looked at."""

from __future__ import annotations

from typing import Any

import pytest
from faulty_chain import FakeChain
from test_chain_evm import ABI, answers, log, row, start, with_members, words

from chain.errors import BadChainData
from chain.follow import Follower
from chain.keys import keccak256
from chain.membership import SetView, Sighting, Voter
from chain.replay import NodeChange, next_digest


def key(seat: int) -> bytes:
    return keccak256(b"%d" % seat)


def change(block: int, seat: int, version: int, weight: int = 2, status: int = 1) -> NodeChange:
    """As ``row(seat)`` shows it."""
    return NodeChange(block, seat, version, key(seat), True, b"\x0b" * 20, weight, status)


# Seats 1 and 2 join in one block; a seat without a node is granted; 2 leaves; 3 joins.
HISTORY = [
    change(3, 1, 1),
    change(3, 2, 2),
    NodeChange(5, 9, 3, bytes(32), False, bytes(20), 7, 0),
    change(6, 2, 4, status=2),
    change(8, 3, 5),
    NodeChange(9, 9, 6, bytes(32), False, bytes(20), 8, 0),
]
SET_CHANGES = {3: (1, 2), 6: (1,), 8: (1, 3)}


class Told:
    """A registry that shows HISTORY as it was at a block."""

    def __init__(self, chain: FakeChain, registry: Any) -> None:
        self.chain, self.registry = chain, registry
        self.follower = Follower(registry)
        self.logs: Any = lambda changes: [log(c, registry) for c in changes]
        chain.methods["eth_getLogs"] = self._get_logs
        self.log_queries = 0

    def _get_logs(self, params: list[dict[str, Any]]) -> Any:
        self.log_queries += 1
        first, last = int(params[0]["fromBlock"], 16), int(params[0]["toBlock"], 16)
        return self.logs([c for c in HISTORY if first <= c.block_number <= last])

    def digest(self, version: int) -> bytes:
        rolling = bytes(32)
        for known in HISTORY[:version]:
            rolling = next_digest(rolling, known)
        return rolling

    async def at(self, block: int, **other: Any) -> Sighting | None:
        self.chain.finalized = block
        version = sum(c.block_number <= block for c in HISTORY)
        change_block = max(b for b in SET_CHANGES if b <= block)
        changed = max(c.version for c in HISTORY if c.block_number == change_block)
        rows = [row(seat) for seat in SET_CHANGES[change_block]]
        with_members(
            self.chain,
            rows,
            version,
            digest=self.digest(version),
            changed=(change_block, changed, self.digest(changed)),
            **other,
        )
        return await self.follower.look()

    def view(self, block: int, version: int) -> SetView:
        return SetView(
            block,
            self.chain.hash_of(block),
            keccak256(b"mix%d" % block),
            version,
            self.digest(version),
            tuple(Voter(seat, 2, b"\x03" + key(seat)) for seat in SET_CHANGES[block]),
        )


async def told(serve: Any, reader_of: Any) -> Told:
    servers, registry = await start(serve, reader_of)
    return Told(servers[0].chain, registry)


async def test_nodes_that_look_at_other_blocks_tell_the_same_views(serve, reader_of) -> None:
    sequences = []
    for blocks in ((3, 4, 5, 6, 7, 8, 9), (4, 7, 10), (3, 10), (5, 9)):
        node = await told(serve, reader_of)
        seen = [await node.at(block) for block in blocks]
        sequences.append([view for sighting in seen for view in sighting.views])
    expected = [node.view(3, 2), node.view(6, 4), node.view(8, 5)]
    assert all(sequence == expected for sequence in sequences)


async def test_a_node_that_starts_tells_the_newest_view_and_asks_for_no_events(
    serve, reader_of
) -> None:
    node = await told(serve, reader_of)
    seen = await node.at(9)
    assert seen.views == (node.view(8, 5),) and node.log_queries == 0
    assert await node.at(9) is None


async def test_what_changes_nobodys_say_is_no_view(serve, reader_of) -> None:
    node = await told(serve, reader_of)
    await node.at(4)
    granted = await node.at(5)
    assert granted.views == () and granted.changed and node.log_queries == 0


async def test_events_that_are_withheld_cost_only_the_views_between(serve, reader_of) -> None:
    node = await told(serve, reader_of)
    await node.at(4)
    node.logs = lambda changes: []
    seen = await node.at(9)
    assert seen.views == (node.view(8, 5),)
    assert node.registry.status()["endpoints"][0]["troubles"]["lying"] == 1


async def test_a_last_change_in_the_future_is_refused(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    for changed in ((11, 3, bytes(32)), (9, 4, bytes(32))):
        with_members(servers[0].chain, [row(1)], version=3, changed=changed)
        with pytest.raises(BadChainData, match="in the future"):
            await Follower(registry).look()


async def test_before_anybody_votes_there_is_no_view(serve, reader_of) -> None:
    servers, registry = await start(serve, reader_of)
    with_members(servers[0].chain, [row(1, status=0)], changed=(0, 0, bytes(32)))
    seen = await Follower(registry).look()
    assert seen.views == () and seen.membership.last_change is None


async def test_a_seat_speaks_while_its_lease_and_its_root_last(serve, reader_of) -> None:
    node = await told(serve, reader_of)
    at_block = 1003  # the time of block 3; leases in these rows end at 999
    seen = await node.at(3)
    assert not seen.membership.speaks(1, b"\x03" + key(1))
    servers, registry = await start(serve, reader_of)
    chain = servers[0].chain
    chain.finalized = 3
    rows = [(*row(1)[:7], at_block + 1, *row(1)[8:]), (*row(2)[:3], 2, *row(2)[4:])]
    for ends_s, speaks in ((2**40 - 1, True), (at_block + 1, True), (at_block, False), (0, False)):
        with_members(chain, rows, root_ends_s=ends_s, changed=(3, 2, bytes(32)))
        registry.newest = None
        found = await registry.snapshot()
        assert found.speaks(1, b"\x03" + key(1)) is speaks
        assert not found.speaks(1, b"\x03" + key(2)), "another key"
        assert not found.speaks(2, b"\x03" + key(2)), "inactive"
        assert not found.speaks(7, b"\x03" + key(7)), "no such seat"


async def test_a_root_that_ends_is_a_change_though_no_version_moves(serve, reader_of) -> None:
    node = await told(serve, reader_of)
    await node.at(9)
    assert not (await node.at(10)).changed
    ended = await node.at(11, root_ends_s=0)
    assert ended.changed and ended.views == ()


def recovery(chain: FakeChain, node: Told, *opened: tuple[int, int, int]) -> None:
    """Recoveries by (epoch, registry's block, registry's version)."""

    def answer(params: list[Any]) -> str:
        index = int(params[0]["data"][10:], 16)
        epoch, block, version = opened[index]
        types = ["uint64", "uint64", "uint64", "uint64", "bytes32", "bytes32"]
        fields = [epoch, 77, block, version, b"h" * 32, node.digest(version)]
        return words([f"({','.join(types)})"], [tuple(fields)])

    answers(chain, recovery=answer)


async def test_recoveries_are_told_once_with_the_set_of_their_moment(serve, reader_of) -> None:
    node = await told(serve, reader_of)
    recovery(node.chain, node, (4, 7, 4), (6, 9, 6))
    waiting = await node.at(6, pending=(0, 4, 77, 5000, b"h" * 32, 0))
    assert waiting.recoveries == ()
    assert waiting.membership.pending_recovery.ready_at_s == 5000
    first = await node.at(7, pending=(1, 0, 0, 0, bytes(32), 1))
    (vote,) = first.recoveries
    assert (vote.epoch, vote.height, vote.block_hash) == (4, 77, b"h" * 32)
    assert [v.seat for v in vote.view.voters] == [1] and vote.view.block_number == 7
    assert first.membership.pending_recovery is None
    second = await node.at(10, pending=(2, 0, 0, 0, bytes(32), 2))
    assert [(v.epoch, v.view.block_number) for v in second.recoveries] == [(6, 9)]

    # A node that comes later hears of both, the first with the set that was there then.
    late = Told(node.chain, node.registry)
    node.registry.newest = None
    both = await late.at(11, pending=(2, 0, 0, 0, bytes(32), 2))
    assert [[v.seat for v in r.view.voters] for r in both.recoveries] == [[1], [1, 3]]
    assert both.recoveries[0] == vote


def test_the_abi_has_what_is_read() -> None:
    for name in ("lastChange", "pendingRecovery", "recovery", "root"):
        ABI.function(name)
