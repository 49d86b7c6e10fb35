"""Weight decides: with 10,1,1,1,1,1,1 the heavy seat alone is no quorum, nor are the others."""

from __future__ import annotations

import pytest

from node.facade import NodeError
from tests.integration.conftest import MakeTestnet


async def test_neither_the_heavy_seat_nor_the_light_ones_decide_alone(
    make_testnet: MakeTestnet,
) -> None:
    testnet = await make_testnet(7, (10, 1, 1, 1, 1, 1, 1))
    await testnet.put("before", b"1")
    light = testnet.seats[1:]

    for seat in light[1:]:
        await testnet.kill(seat)
    await testnet.kill(light[0])
    alone = await testnet.wait_for(
        lambda seen: seen.nodes[0].state == "waiting", "the heavy seat waits"
    )
    assert alone.leader is None
    assert "weight 10 of 16" in alone.nodes[0].reason and "quorum is 11" in alone.nodes[0].reason
    async with testnet.client(1) as client:
        with pytest.raises(NodeError, match="quorum is 11"):
            await client.put(b"alone", b"no", request_id=b"alone")
        assert (await client.get(b"before", stale=True)).value == b"1"

    for seat in light:
        await testnet.start(seat)
    await testnet.wait_leader()
    await testnet.put("together", b"2")

    await testnet.kill(1)
    rest = await testnet.wait_for(
        lambda seen: all("weight 6 of 16" in node.reason for node in seen.nodes[1:]),
        "the light seats, all connected, say what is missing",
    )
    assert rest.leader is None
    assert all(node.state == "waiting" for node in rest.nodes[1:])

    await testnet.start(1)
    await testnet.wait_leader()
    assert await testnet.get("alone") is None
    assert (await testnet.get("together", seat=1)).value == b"2"
