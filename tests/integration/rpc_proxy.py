"""RPC endpoints that misbehave: proxies inside the test, in front of a real chain."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import trio

from chain.headers import header_rlp
from chain.health import Trouble
from chain.keys import keccak256
from tests.unit.chain.faulty_chain import Server, http

LAG_BLOCKS = 12
NAMED = {
    "liar": Trouble.LYING,
    "forker": Trouble.FORKED,
    "laggard": Trouble.LAGGING,
    "hanger": Trouble.LATE,
    "flooder": Trouble.TOO_LONG,
}
FAULTS = tuple(NAMED)
READS = ("eth_call", "eth_getProof", "eth_getCode")
POLICY_TOPIC = "0x" + keccak256(b"PolicyChanged(uint64,bytes32,string)").hex()
REFUSED = {"code": 3, "message": "execution reverted", "data": "0x"}
NO_BLOCK = {"code": -32001, "message": "block not found"}


class Proxy:
    """One endpoint; ``fault`` may be changed at any time, ``asked`` counts calls by method.

    Besides ``FAULTS`` there are "" (honest), "no proofs", "slow proofs", "no policy events", and
    for colluders "false rows": they tell the truth about blocks and lie, alike, about what the
    contract answers. A "false friend" tells the truth about the chain, but of a transaction that
    would be refused that it works, and the other way round; and that its sender is poor.
    """

    def __init__(self, upstream: str, client: httpx.AsyncClient) -> None:
        self.server = Server()
        self.fault = ""
        self.asked: Counter[str] = Counter()
        self._upstream = upstream
        self._client = client
        self._real: dict[str, str] = {}  # of a forged hash
        self._known: set[str] = set()  # what a laggard has told of
        self._server_flood = Server()
        self._server_flood.flood()
        self.server.respond = self._respond

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def name(self) -> str:
        return self.url.removeprefix("http://")

    async def _respond(self, stream: trio.SocketStream, body: bytes) -> None:
        if self.fault == "hanger":
            await trio.sleep_forever()
        if self.fault == "flooder":
            assert self._server_flood.respond is not None
            await self._server_flood.respond(stream, body)
        request = json.loads(body)
        if isinstance(request, list):
            answer: Any = [await self._one(item) for item in request]
        else:
            answer = await self._one(request)
        await stream.send_all(http(json.dumps(answer).encode()))

    async def _one(self, request: dict[str, Any]) -> dict[str, Any]:
        method, params = request["method"], request["params"]
        self.asked[method] += 1
        answer = {"jsonrpc": "2.0", "id": request["id"]}
        if self.fault == "no proofs" and method == "eth_getProof":
            return answer | {"error": {"code": -32601, "message": "the method is not available"}}
        if self.fault == "slow proofs" and method == "eth_getProof":
            await trio.sleep(0.3)
        if self.fault == "laggard":
            params = await self._behind(method, params)
            if params is None:
                return answer | {"error": NO_BLOCK}
        if self.fault == "forker" and params and isinstance(params[-1], dict):
            told = params[-1].get("blockHash", "")
            params = [*params[:-1], params[-1] | {"blockHash": self._real.get(told, told)}]
        result, error = await self._ask(method, params)
        if self.fault == "false friend" and method == "eth_estimateGas":
            return answer | ({"error": REFUSED} if error is None else {"result": hex(30_000)})
        if error is not None:
            return answer | {"error": error}
        lie = _LIES.get(self.fault)
        return answer | {"result": result if lie is None else lie(self, method, result)}

    async def _ask(self, method: str, params: list[Any]) -> tuple[Any, Any]:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        answer = (await self._client.post(self._upstream, json=body)).json()
        return answer.get("result"), answer.get("error")

    async def _behind(self, method: str, params: list[Any]) -> list[Any] | None:
        """The parameters as one asks who is ``LAG_BLOCKS`` behind; None: block not known yet."""
        if method == "eth_getBlockByNumber":
            tip, _ = await self._ask(method, ["finalized", False])
            newest = int(tip["number"], 16) - LAG_BLOCKS
            number = newest if params[0] == "finalized" else int(params[0], 16)
            if number > newest:
                return None
            found, _ = await self._ask(method, [hex(number), False])
            self._known.add(found["hash"])
            return [hex(number), False]
        if method in READS and params[-1].get("blockHash") not in self._known:
            return None
        return params

    def _lie(self, method: str, result: Any) -> Any:
        if method == "eth_getProof":
            proof = result["storageProof"][0]["proof"]
            proof[-1] = proof[-1][:-2] + "66"
        elif method == "eth_getLogs":
            return result[:-1]
        elif method in ("eth_call", "eth_getCode"):
            return _flipped(result)
        return result

    def _fork(self, method: str, result: Any) -> Any:
        if method == "eth_getBlockByNumber" and result is not None:
            forged = result | {"extraData": "0x666f726b", "stateRoot": "0x" + "66" * 32}
            forged["hash"] = "0x" + keccak256(header_rlp(forged)).hex()
            self._real[forged["hash"]] = result["hash"]
            return forged
        return result

    def _no_policy(self, method: str, result: Any) -> Any:
        if method == "eth_getLogs":
            return [log for log in result if log["topics"][0] != POLICY_TOPIC]
        return result

    def _false_friend(self, method: str, result: Any) -> Any:
        numbers = {"eth_getBalance": "0x1", "eth_getTransactionCount": "0x99"}
        return numbers.get(method, result)

    def _false_rows(self, method: str, result: Any) -> Any:
        return _flipped(result) if method == "eth_call" and len(result) > 1000 else result


_LIES: dict[str, Callable[[Proxy, str, Any], Any]] = {
    "liar": Proxy._lie,
    "forker": Proxy._fork,
    "false rows": Proxy._false_rows,
    "false friend": Proxy._false_friend,
    "no policy events": Proxy._no_policy,
}


def _flipped(data: str) -> str:
    """Another answer that decodes: a page whose first row weighs more, or another last digit."""
    words = 3 + int(data[130:194], 16) if len(data) > 1000 else 0  # up to the first row of a page
    end = 2 + 64 * (words + 3) if words and len(data) > 64 * (words + 3) else len(data)
    return data[: end - 1] + format((int(data[end - 1], 16) + 1) % 16, "x") + data[end:]


@asynccontextmanager
async def proxies(upstream: str, count: int) -> AsyncIterator[list[Proxy]]:
    """Honest endpoints of one chain, to be made worse."""

    async def serve(proxy: Proxy, task_status: trio.TaskStatus[Any]) -> None:
        await trio.serve_tcp(proxy.server.serve, 0, host="127.0.0.1", task_status=task_status)

    async with httpx.AsyncClient(trust_env=False) as client, trio.open_nursery() as nursery:
        made = [Proxy(upstream, client) for _ in range(count)]
        for proxy in made:
            listeners = await nursery.start(serve, proxy)
            proxy.server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        yield made
        nursery.cancel_scope.cancel()
