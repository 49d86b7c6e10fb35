"""What concurrent clients see while leaders are killed and frozen is one history of one store."""

from __future__ import annotations

import trio

from tests.integration.testnet import Testnet
from tests.linearizability.checker import check
from tests.nemesis.clients import Observers


async def test_histories_are_linearizable_while_leaders_die_and_freeze(
    shared_testnet: Testnet,
) -> None:
    testnet = shared_testnet
    observers = Observers(testnet, seed=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(observers.run)
        for turn in range(4):
            await observers.wait_more(60)
            leader = (await testnet.wait_leader()).leader
            assert leader is not None
            if turn % 2:
                await testnet.pause(leader)
                await testnet.wait_leader(other_than=leader)
                await observers.wait_more(60)
                await testnet.resume(leader)  # it still believes that it leads
            else:
                await testnet.kill(leader)
                observers.dead.add(leader)
                await observers.wait_more(60)
                await testnet.start(leader)
                observers.dead.clear()
        await observers.wait_more(60)
        observers.stopping = True
    assert not check(observers.history)
