"""What concurrent clients see while leaders are killed and frozen is one history of one store."""

from __future__ import annotations

import math
import random
import secrets
from dataclasses import dataclass, field, replace

import trio

from node.facade import Busy, NodeError
from tests.integration.testnet import Testnet
from tests.linearizability.checker import ABSENT, Operation, State, check

CLIENTS = 6
TIMEOUT_S = 3.0


@dataclass
class Observers:
    """Clients that write down what they asked and what they were told, each at any node."""

    testnet: Testnet
    seed: int
    history: list[Operation] = field(default_factory=list)
    stopping: bool = False
    dead: int | None = None  # a seat whose process was killed: asking it would say nothing
    keys: tuple[bytes, ...] = field(
        default_factory=lambda: tuple(b"%s/%d" % (secrets.token_hex(4).encode(), n) for n in (1, 2))
    )

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(CLIENTS):
                nursery.start_soon(self._client, number)

    async def wait_more(self, answers: int) -> None:
        """Returns when so many more requests have been answered."""
        goal = self._answered() + answers
        with trio.fail_after(60):
            while self._answered() < goal:
                await trio.sleep(0.02)

    def _answered(self) -> int:
        return sum(o.answer is not None for o in self.history)

    async def _client(self, number: int) -> None:
        rng = random.Random(f"{self.seed} {number}")
        count = 0
        while not self.stopping:
            count += 1
            kind = rng.choice(("put", "put", "get", "get", "delete"))
            value = b"%d/%d" % (number, count)
            asked = Operation(str(number), kind, rng.choice(self.keys), trio.current_time(), value)
            try:
                seats = [seat for seat in self.testnet.seats if seat != self.dead]
                answer = await self._ask(rng.choice(seats), asked)
            except Busy:
                continue  # refused before it was taken
            except NodeError:
                self.history.append(replace(asked, returned=math.inf))
                await trio.sleep(0.02)
                continue
            self.history.append(replace(asked, answer=answer, returned=trio.current_time()))

    async def _ask(self, seat: int, asked: Operation) -> bool | State:
        async with self.testnet.client(seat, TIMEOUT_S) as client:
            match asked.kind:
                case "put":
                    return (await client.put(asked.key, asked.value)).existed
                case "delete":
                    return (await client.delete(asked.key)).existed
                case _:
                    entry = await client.get(asked.key)
                    return ABSENT if entry is None else (entry.value, entry.version)


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
                observers.dead = leader
                await observers.wait_more(60)
                await testnet.start(leader)
                observers.dead = None
        await observers.wait_more(60)
        observers.stopping = True
    assert not check(observers.history)
