"""What is fuzzed. A target eats any bytes and lets only a broken promise escape as an exception.

The promises: only the documented error type comes out; what was accepted encodes to something
that decodes to the same value; nothing depends on how a stream was cut; buffers stay bounded.
"""

from __future__ import annotations

import contextlib
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import unquote

import msgpack
import trio
from trio.testing import MockClock

from attest.agent import _attestation, _info, _key, _quote, _version
from attest.bounded_json import parse_json
from attest.chain import KeyProof, TrustedRoot, verify_chain
from attest.errors import AttestError, SignatureChainError
from attest.strict_json import parse_object
from chain import ContractAbi, decoding
from chain.errors import ChainError
from chain.headers import header_or_none
from chain.proofs import proven_account
from consensus import wire
from consensus.digests import body_hash
from consensus.wire import WireError
from contracts import artifact
from node.api.changes import ChangeStreams
from node.api.server import build_app
from node.config import ApiConfig, ConfigError, parse_config
from node.network.addresses import BadEndpoint, parse_endpoint
from node.network.errors import NetworkError
from node.network.frames import FrameReader, decode_hello, encode_frame
from node.network.yamux import Yamux
from tests.fuzz.attestation_targets import ATTESTATION_TARGETS
from tests.unit.node.memory_node import MemoryNode
from tests.wire_samples import CLUSTER, samples

SEED = 20


@dataclass(frozen=True, slots=True)
class Target:
    """``run`` raises when a promise is broken; ``seeds`` are inputs to start from."""

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def _same(one: object, other: object) -> None:
    assert one == other, f"{one!r} became {other!r}"


# --- consensus ---


def message(data: bytes) -> None:
    """Any message of the wire."""
    try:
        decoded = wire.decode(data, 1, CLUSTER)
    except WireError:
        return
    _same(wire.decode(wire.encode(decoded), 1, CLUSTER), decoded)


def _messages() -> Iterator[bytes]:
    for _, value in samples(Random(SEED), 4):
        yield wire.encode(value)


def block_body(data: bytes) -> None:
    """A block's body under a header that commits to it: past the hash that stops other inputs."""
    header, body = samples_block()
    packed = list(header)
    packed[packed.index(body_hash(body))] = body_hash(data)
    message(msgpack.packb((wire.VERSION, 6, (packed, data))))


def samples_block() -> tuple[tuple[Any, ...], bytes]:
    """Fields of a header, and the body that they commit to."""
    reply = next(v for name, v in samples(Random(SEED), 1) if name == "BlockReply")
    fields = msgpack.unpackb(wire.encode(reply), use_list=False)[2]
    return fields


def _bodies() -> Iterator[bytes]:
    for name, value in samples(Random(SEED), 16):
        if name == "BlockReply":
            yield value.block.body


def command(data: bytes) -> None:
    """A command: the encoding is canonical, so what is accepted re-encodes to the same bytes."""
    try:
        decoded = wire.decode_command(data)
    except WireError:
        return
    _same(wire.encode_command(decoded), data)


def _commands() -> Iterator[bytes]:
    for name, value in samples(Random(SEED), 16):
        if name == "Commands":
            yield from value.commands


def stored(data: bytes) -> None:
    """Rows of the store: the first byte chooses the kind."""
    decoders: tuple[tuple[Callable[[bytes], Any], Callable[[Any], bytes]], ...] = (
        (lambda raw: wire.decode_vote(raw, 1), wire.encode_vote),
        (wire.decode_certificate, wire.encode_certificate),
        (lambda raw: wire.decode_block(raw, CLUSTER), wire.encode_block),
        (wire.decode_boot_request, wire.encode_boot_request),
    )
    if not data:
        return
    decode, encode = decoders[data[0] % len(decoders)]
    try:
        decoded = decode(data[1:])
    except WireError:
        return
    _same(decode(encode(decoded)), decoded)


def _stored() -> Iterator[bytes]:
    for name, value in samples(Random(SEED), 4):
        match name:
            case "VoteMessage":
                yield b"\0" + wire.encode_vote(value.vote)
            case "Certificates" if value.certificates:
                yield b"\1" + wire.encode_certificate(value.certificates[0])
            case "BlockReply":
                yield b"\2" + wire.encode_block(value.block)
            case "BootRequest":
                yield b"\3" + wire.encode_boot_request(value)


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
    _same(found, expected)


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
    "message": Target(message, _messages),
    "block-body": Target(block_body, _bodies),
    "command": Target(command, _commands),
    "stored": Target(stored, _stored),
    "frames": Target(frames, _frames),
    "hello": Target(hello, _hellos),
    "yamux": Target(yamux, _yamux),
    "endpoint": Target(endpoint, _endpoints),
    "config": Target(config, _configs),
    "rpc": Target(rpc, _rpc),
    "abi": Target(abi, _abi),
    "agent": Target(agent, _agent),
    "attestation": Target(attestation, _attestations),
    **{name: Target(run, seeds) for name, (run, seeds) in ATTESTATION_TARGETS.items()},
}
