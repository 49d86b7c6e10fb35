"""A small chain told by in-process JSON-RPC servers, each with its own way of being wrong."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import trio

from chain.keys import keccak256

CHAIN_ID = 7
CONTRACT = bytes(19) + b"\x01"
# Only a machine without processor time gets there: nothing in these tests waits for it.
PATIENCE_S = 30.0


@dataclass
class Fault(Exception):
    """A JSON-RPC error answer."""

    code: int
    message: str
    data: str | None = None


@dataclass
class FakeChain:
    """One view of a chain; ``fork`` gives other hashes, ``finalized`` another height."""

    chain_id: int = CHAIN_ID
    finalized: int = 10
    fork: str = ""
    code: bytes = b"\x60\x01"
    call_results: dict[str, Any] = field(default_factory=dict)
    methods: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, list[Any]]] = field(default_factory=list)

    def hash_of(self, number: int) -> bytes:
        return keccak256(f"{self.fork}{number}".encode())

    def header(self, number: int) -> dict[str, str]:
        return {
            "number": hex(number),
            "hash": "0x" + self.hash_of(number).hex(),
            "parentHash": "0x" + self.hash_of(number - 1).hex(),
            "timestamp": hex(1000 + number),
            "mixHash": "0x" + keccak256(b"mix%d" % number).hex(),
        }

    def answer(self, method: str, params: list[Any]) -> Any:
        self.asked.append((method, params))
        if method in self.methods:
            found = self.methods[method]
            found = found(params) if callable(found) else found
            if isinstance(found, Fault):
                raise found
            return found
        if method == "eth_chainId":
            return hex(self.chain_id)
        if method == "eth_getBlockByNumber":
            number = self.finalized if params[0] == "finalized" else int(params[0], 16)
            return self.header(number) if number <= self.finalized + 2 else None
        if method in ("eth_call", "eth_getCode"):
            at = params[-1]
            if at != "latest" and at["blockHash"] not in {
                "0x" + self.hash_of(n).hex() for n in range(min(self.finalized, 40) + 3)
            }:
                raise Fault(-32001, "block not found")
            if method == "eth_getCode":
                return "0x" + self.code.hex()
            found = self.call_results.get(params[0]["data"][:10], "0x")
            found = found(params) if callable(found) else found
            if isinstance(found, Fault):
                raise found
            return found
        raise Fault(-32601, "the method does not exist")


@dataclass
class Server:
    """An HTTP server for one ``FakeChain``; ``respond`` may be replaced to misbehave."""

    chain: FakeChain = field(default_factory=FakeChain)
    url: str = ""
    requests: int = 0
    connections: int = 0
    heads: list[bytes] = field(default_factory=list)
    respond: Callable[[trio.SocketStream, bytes], Awaitable[None]] | None = None

    async def serve(self, stream: trio.SocketStream) -> None:
        buffer = b""
        self.connections += 1
        with trio.move_on_after(30):
            try:
                while True:
                    while b"\r\n\r\n" not in buffer:
                        more = await stream.receive_some()
                        if not more:
                            return
                        buffer += more
                    head, buffer = buffer.split(b"\r\n\r\n", 1)
                    self.heads.append(head)
                    length = next(
                        int(line.split(b":")[1])
                        for line in head.split(b"\r\n")
                        if line.lower().startswith(b"content-length")
                    )
                    while len(buffer) < length:
                        buffer += await stream.receive_some()
                    body, buffer = buffer[:length], buffer[length:]
                    self.requests += 1
                    if self.respond is None:
                        await stream.send_all(http(json.dumps(self.rpc(body)).encode()))
                    else:
                        await self.respond(stream, body)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    def rpc(self, body: bytes) -> Any:
        request = json.loads(body)
        if isinstance(request, list):
            # In any order: the client must go by the ids.
            return [self.one(item) for item in reversed(request)]
        return self.one(request)

    def one(self, request: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = {"jsonrpc": "2.0", "id": request["id"]}
        try:
            answer["result"] = self.chain.answer(request["method"], request["params"])
        except Fault as fault:
            answer["error"] = {"code": fault.code, "message": fault.message}
            if fault.data is not None:
                answer["error"]["data"] = fault.data
        return answer

    def hang(self) -> None:
        async def respond(stream: trio.SocketStream, body: bytes) -> None:
            await trio.sleep_forever()

        self.respond = respond

    def flood(self) -> None:
        async def respond(stream: trio.SocketStream, body: bytes) -> None:
            await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                await stream.send_all(b"4000\r\n" + b" " * 0x4000 + b"\r\n")

        self.respond = respond

    def say(self, raw: bytes) -> None:
        async def respond(stream: trio.SocketStream, body: bytes) -> None:
            await stream.send_all(raw)

        self.respond = respond


def http(body: bytes, status: str = "200 OK", extra: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{extra}\r\n".encode() + body
