"""What is fuzzed. A target eats any bytes and lets only a broken promise escape as an exception.

The promises: only the documented error type comes out; what was accepted encodes to something
that decodes to the same value; nothing depends on how a stream was cut; buffers stay bounded.
"""

from __future__ import annotations

import contextlib
import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h11
import msgpack
import trio
from trio.testing import MockClock

from attest.agent import _attestation, _info, _key, _quote, _version
from attest.bounded_json import parse_json
from attest.chain import KeyProof, TrustedRoot, verify_chain
from attest.errors import AttestError, SignatureChainError
from attest.strict_json import parse_object
from chain import (
    ContractAbi,
    ShownDeposal,
    ShownEpoch,
    ShownLeader,
    decoding,
    read_evidence,
    read_shown,
    rlp,
    shown_json,
)
from chain.errors import ChainError
from chain.headers import header_or_none
from chain.proofs import proven_account
from contracts import artifact
from node.api.bounds import HEADER_BYTES_MAX
from node.api.changes import ChangeStreams
from node.api.express import parse_head
from node.api.server import build_app
from node.config import ApiConfig, ConfigError, parse_config
from node.network.addresses import BadEndpoint, parse_endpoint
from node.network.errors import NetworkError
from node.network.frames import FrameReader, decode_hello, encode_frame
from node.network.proof_frames import Ask, Cannot, Show, Verdict, decode_proof
from node.network.yamux import Yamux
from tests.fuzz.attestation_targets import ATTESTATION_TARGETS
from tests.fuzz.consensus_targets import CONSENSUS_TARGETS, same
from tests.unit.node.memory_node import MemoryNode

SEED = 20


@dataclass(frozen=True, slots=True)
class Target:
    """``run`` raises when a promise is broken; ``seeds`` are inputs to start from."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


# --- network ---


def frames(data: bytes) -> None:
    """A stream of frames gives the same payloads however it is cut, within its bound."""
    whole, cut = FrameReader(512), FrameReader(512)
    try:
        expected = whole.feed(data)
    except NetworkError:
        expected = None
    found: list[bytes] = []
    try:
        for at in range(0, len(data), 7):
            found += cut.feed(data[at : at + 7])
            assert cut.buffered_bytes <= 512 + 4 + 7
    except NetworkError:
        assert expected is None
        return
    same(found, expected)


def _frames() -> Iterator[bytes]:
    yield encode_frame(b"one") + encode_frame(b"") + encode_frame(b"three" * 20)


def hello(data: bytes) -> None:
    """The first frame."""
    try:
        decode_hello(data)
    except NetworkError:
        return


def _hellos() -> Iterator[bytes]:
    yield msgpack.packb([1, bytes(32), 7, bytes(16)])


def proof(data: bytes) -> None:
    """What the ends of a link prove to each other."""
    try:
        decoded = decode_proof(data, 256)
    except NetworkError:
        return
    same(decode_proof(decoded.encode(), 256), decoded)


def _proofs() -> Iterator[bytes]:
    yield Ask(1, bytes(32)).encode()
    yield Show(2**32 - 1, bytes(32), 2**64 - 1, b"evidence").encode()
    yield Cannot(3, 255).encode()
    yield Verdict(4, 0, b"attachment").encode()


def yamux(data: bytes) -> None:
    """The multiplexer on either side; the first byte chooses it and the cut."""
    if not data:
        return
    mux = Yamux(initiator=bool(data[0] & 1), window_bytes=256 * 1024)
    if data[0] & 1:
        mux.open()
    size = 1 + (data[0] >> 1)
    out = 0
    try:
        for at in range(1, len(data), size):
            out += len(mux.receive(data[at : at + size]))
            assert len(mux.control) < 1 << 20
            assert mux.sendable() >= 0
    except NetworkError:
        return
    assert out <= len(data)


def _yamux() -> Iterator[bytes]:
    mux = Yamux(initiator=True, window_bytes=256 * 1024)
    mux.open()
    mux.ping(3)
    opening = mux.take_control() + mux.wrap(b"payload")
    yield b"\x00" + opening
    yield b"\xfe" + opening


def endpoint(data: bytes) -> None:
    """A multiaddr from the registry."""
    text = data.decode("latin-1")
    try:
        parse_endpoint(text)
    except BadEndpoint:
        return


def _endpoints() -> Iterator[bytes]:
    yield from (b"/ip4/127.0.0.1/tcp/9000", b"/ip6/::1/tcp/1", b"/dns4/a.example/tcp/443")


# --- files and other services ---


def config(data: bytes) -> None:
    """The configuration file."""
    try:
        document = tomllib.loads(data.decode())
    except (ValueError, RecursionError):
        return
    try:
        parse_config(document, source="fuzz", base_dir=Path("/nowhere"))
    except ConfigError:
        return


def _configs() -> Iterator[bytes]:
    yield b'[node]\nseat = 1\nlisten = "/ip4/0.0.0.0/tcp/9000"\nendpoint = "/ip4/1.2.3.4/tcp/9"\n'
    yield b'[chain]\nrpc = ["http://127.0.0.1:8545"]\nrpc_quorum = 1\nchain_id = 31337\n'
    yield b'[timing]\nleader_timeout_ms = 2000\n[api]\nlisten = "127.0.0.1:9700"\n[log]\n'


def api(data: bytes) -> None:
    """One HTTP request: method and target in the first line, header lines, blank line, body."""
    head, _, body = data.partition(b"\n\n")
    first, *lines = head.split(b"\n")
    method, _, target = first.partition(b" ")
    path, _, query = target.partition(b"?")
    if not path.startswith(b"/"):
        return
    headers = [(name.lower(), value) for name, _, value in (line.partition(b":") for line in lines)]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method.decode("latin-1"),
        "scheme": "http",
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 9700),
        "root_path": "",
    }
    statuses: list[int] = []

    async def one() -> None:
        streams = ChangeStreams()
        app = build_app(MemoryNode(), ApiConfig(), streams)
        pending = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if pending:
                return pending.pop()
            await trio.sleep_forever()
            raise AssertionError

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        with trio.move_on_after(60):  # streams of changes never end
            await app(scope, receive, send)  # type: ignore[arg-type]

    trio.run(one, clock=MockClock(autojump_threshold=0))
    assert len(statuses) == 1, statuses
    assert statuses[0] < 500, statuses


def _requests() -> Iterator[bytes]:
    yield b"PUT /v1/kv/key%2f1\ncontent-length:5\nidempotency-key:a\n\nvalue"
    yield b"GET /v1/kv/key?stale=1\n\n"
    yield b"DELETE /v1/kv/key\n\n"
    yield b'POST /v1/register\ncontent-type:application/json\n\n{"connection_url":"http://a"}'
    for path in b"status members peers?self=1 leader health ready openapi".split():
        yield b"GET /v1/" + path + b"\n\n"
    yield b"GET /v1/peers?watch=1\naccept:text/event-stream\n\n"


def express(data: bytes) -> None:
    """What the express lane takes for a plain request is the same one to the general server."""
    plain = parse_head(data)
    if plain is None:
        return
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=HEADER_BYTES_MAX)
    server.receive_data(data[: plain.end])
    head = server.next_event()
    assert isinstance(head, h11.Request), head
    same((head.method, head.target, head.http_version), (b"PUT", plain.path, b"1.1"))
    for name, value in plain.known.items():
        same([v for n, v in head.headers if n == name], [value])
    if len(data) >= plain.end:
        body = b""
        while isinstance(event := server.next_event(), h11.Data):
            body += event.data
        assert isinstance(event, h11.EndOfMessage), event
        same(body, data[plain.body_at : plain.end])


def _plain_requests() -> Iterator[bytes]:
    head = b"PUT /v1/kv/a%2fb HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    yield head + b"\r\nvalue"
    yield head + b"Idempotency-Key:\ta b \r\nAuthorization: Bearer t\r\n\r\nvalueGET / HTTP/1.1\r\n"


def rlp_item(data: bytes) -> None:
    """Recursive length prefix: one form for each value."""
    try:
        item = rlp.decode(data)
    except ChainError:
        return
    same(rlp.encode(item), data)


def _rlp_items() -> Iterator[bytes]:
    yield rlp.encode([b"", b"a", b"b" * 60, [[], [b"c"]], 1 << 64])


def shown(data: bytes) -> None:
    """A node's certificates and evidence, as an operator's command reads them from any file."""
    try:
        value = parse_json(data)
    except ValueError:
        return
    for row in value if isinstance(value, list) else [value]:
        try:
            certificate = read_shown(row)
        except ValueError:
            continue
        same(read_shown(shown_json(certificate)), certificate)
    try:
        votes = read_evidence(value, 2)
    except ValueError:
        return
    for vote in votes:
        assert all(len(field) == 32 for field in vote.fields() if isinstance(field, bytes))


def _shown() -> Iterator[bytes]:
    header, parts, signature = bytes(152), bytes(69), b"\2" * 64 + b"\x1c"
    values = (
        ShownEpoch(header, b"body", header, parts, 5),
        ShownLeader(header, parts),
        ShownDeposal(1, 2, 3, parts, header, signature),
    )
    yield from (json.dumps(shown_json(value)).encode() for value in values)
    yield json.dumps(list(map(shown_json, values))).encode()
    vote = {"kind": "finalize", "view": "1.2", "block": "11" * 32, "reason": 0}
    nullify = {"kind": "nullify", "view": "1.2", "block": None, "reason": 3}
    votes = [one | {"signature": signature.hex()} for one in (vote, nullify)]
    yield json.dumps([{"seat": 2, "epoch": 1, "votes": votes}]).encode()
    yield json.dumps([{"seat": 2, "epoch": 1, "votes": [vote | {"kind": []}, vote]}]).encode()


_ABI = ContractAbi(artifact("Registry").abi)


def rpc(data: bytes) -> None:
    """What a chain endpoint answers, after its JSON-RPC envelope."""
    try:
        value = parse_json(data)
    except ValueError:
        return
    for decode in (
        header_or_none,
        lambda v: proven_account(v, state_root=bytes(32), address=bytes(20), slots=[0]),
        decoding.receipt_or_none,
        lambda v: decoding.logs(v, 16),
        decoding.data,
        decoding.quantity,
    ):
        try:
            decode(value)
        except ChainError:
            continue


def _rpc() -> Iterator[bytes]:
    word = '"0x' + "11" * 32 + '"'
    yield (
        f'{{"number":"0x1","hash":{word},"parentHash":{word},"timestamp":"0x2","mixHash":{word}}}'
    ).encode()
    yield (
        f'{{"transactionHash":{word},"blockNumber":"0x1","blockHash":{word},"status":"0x1",'
        '"gasUsed":"0x5208","effectiveGasPrice":"0x1"}'
    ).encode()
    yield (
        f'[{{"address":"0x{"22" * 20}","topics":[{word}],"data":"0x00","blockNumber":"0x1",'
        '"logIndex":"0x0"}]'
    ).encode()


def abi(data: bytes) -> None:
    """Return data, event data and revert data of the registry."""
    _ABI.reverted(data)
    for name in ("page", "version"):
        with contextlib.suppress(ChainError):
            _ABI.function(name).decode(data)


def _abi() -> Iterator[bytes]:
    yield bytes(32) + (64).to_bytes(32, "big") + bytes(64)
    yield bytes.fromhex("08c379a0") + (32).to_bytes(32, "big") + (3).to_bytes(32, "big") + b"bad"


def agent(data: bytes) -> None:
    """What the guest agent answers."""
    for read in (_version, _info, _key, _quote, _attestation):
        try:
            read(parse_object(data))
        except AttestError:
            continue


def _agent() -> Iterator[bytes]:
    yield b'{"version":"0.5.11","rev":"abc"}'
    yield b'{"quote":"0400","event_log":"[]"}'
    yield b'{"attestation":"00000004"}'
    yield ('{"app_id":"' + "ab" * 20 + '","instance_id":"","tcb_info":"{}"}').encode()
    yield (
        '{"key":"' + "11" * 32 + '","signature_chain":["' + "22" * 65 + '","' + "33" * 65 + '"]}'
    ).encode()


_PURPOSE = "dstack-cluster-node-v1/" + "00" * 32
_ROOT = TrustedRoot(bytes(19) + b"\1", 1)


def attestation(data: bytes) -> None:
    """A signature chain of an unknown root is never accepted, whatever its bytes."""
    if len(data) < 164:
        return
    proof = KeyProof(
        data[0] & 3, _PURPOSE, data[1:34], bytes(20), data[34:99], data[99:164]
    )
    try:
        verify_chain(proof, purpose=_PURPOSE, app_id=bytes(20), roots=[_ROOT], now_s=1)
    except SignatureChainError:
        return
    raise AssertionError("a chain was accepted that nobody trusted signed")


def _attestations() -> Iterator[bytes]:
    key = bytes.fromhex("0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798")
    yield b"\0" + key + (bytes(31) + b"\1") * 2 + b"\0" + (bytes(31) + b"\1") * 2 + b"\1"


TARGETS: dict[str, Target] = {
    "api": Target(api, _requests),
    "frames": Target(frames, _frames),
    "hello": Target(hello, _hellos),
    "proof": Target(proof, _proofs),
    "yamux": Target(yamux, _yamux),
    "endpoint": Target(endpoint, _endpoints),
    "config": Target(config, _configs),
    "express": Target(express, _plain_requests),
    "rlp": Target(rlp_item, _rlp_items),
    "rpc": Target(rpc, _rpc),
    "shown": Target(shown, _shown),
    "abi": Target(abi, _abi),
    "agent": Target(agent, _agent),
    "attestation": Target(attestation, _attestations),
    **{name: Target(*pair) for name, pair in (CONSENSUS_TARGETS | ATTESTATION_TARGETS).items()},
}
