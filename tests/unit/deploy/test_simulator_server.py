"""The simulator's HTTP answers like the real agent's, is bounded, and cleans up after itself."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import h11
import httpx
import pytest
import trio

from attest import GuestAgent, SecretKey, TrustedRoot, obtain_identity, parse_quote
from attest.event_log import parse_event_log, replay
from deploy.simulator import (
    FaultPlan,
    Faults,
    Node,
    Serving,
    SimulatorConfig,
    instance_id,
    new_kms_root,
    root_address,
    serve,
    write_kms_root,
)
from deploy.simulator.http_server import BODY_BYTES_MAX, CONNECTIONS_MAX, REQUEST_DEADLINE_S

ROOT = b"\x11" * 32
APP_ID = b"\xaa" * 20
SEED = b"\x07" * 20
REPOSITORY = Path(__file__).parents[3]


def config(*paths: str, **options: Any) -> SimulatorConfig:
    nodes = tuple(Node(path, bytes([index]) * 20) for index, path in enumerate(paths))
    return SimulatorConfig(SecretKey(ROOT), APP_ID, nodes, **options)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "agent.sock")


Call = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
async def call(path: str, nursery: trio.Nursery) -> Call:
    await nursery.start(serve, config(path))
    return caller(path)


def caller(path: str) -> Call:
    async def call(method: str, target: str, **options: Any) -> httpx.Response:
        transport = httpx.AsyncHTTPTransport(uds=path)
        async with httpx.AsyncClient(transport=transport, base_url="http://dstack") as client:
            return await client.request(method, target, **options)

    return call


async def test_post_and_get_answer_alike(call: Call) -> None:
    post = await call("POST", "/GetKey", json={"path": "a/b", "purpose": "p q", "unknown": [1]})
    get = await call("GET", "/GetKey?path=a%2Fb&purpose=p+q&unknown=1")
    by_query = await call("POST", "/GetKey?json", content=b'{"path": "a/b", "purpose": "p q"}')
    assert post.json() == get.json() == by_query.json()
    assert set(post.json()) == {"key", "signature_chain"}
    assert post.headers["X-App-Version"] == "0.6.0"


async def test_missing_fields_are_empty(call: Call) -> None:
    empty = await call("POST", "/GetKey", json={})
    assert empty.json() == (await call("GET", "/GetKey?path=&purpose=")).json()
    assert (await call("POST", "/Info?json")).status_code == 200


async def test_v0_is_also_served_under_its_own_name(call: Call) -> None:
    for method in ("Info", "Version"):
        assert (await call("GET", f"/v0/{method}")).json() == (
            await call("GET", f"/{method}")
        ).json()


async def test_v1_answers_its_own_shapes(call: Call) -> None:
    key = (await call("POST", "/v1/GetKey", json={"domain": "d", "algorithm": "secp256k1"})).json()
    assert SecretKey(bytes.fromhex(key["key"])).public_key().hex() == key["public_key"]
    assert key["key"] != (await call("GET", "/GetKey?path=d")).json()["key"]
    info = (await call("GET", "/v1/Info")).json()
    assert "tcb_info" not in info and "app_compose" in info
    assert (await call("GET", "/v1/Health")).status_code == 200
    missing = await call("POST", "/v1/GetKey", json={"domain": "d"})
    assert missing.status_code == 400 and "algorithm" in missing.json()["error"]


async def test_quotes_are_over_padded_report_data(call: Call) -> None:
    for method in ("/GetQuote", "/v0/GetQuote"):
        answer = (await call("POST", method, json={"report_data": "0xabcd"})).json()
        assert answer["report_data"] == "abcd" + "00" * 62
        assert bytes.fromhex(answer["quote"])[568:632].hex() == answer["report_data"]
        assert json.loads(answer["event_log"]) and json.loads(answer["vm_config"])
    assert set((await call("POST", "/Attest", json={"report_data": "ab"})).json()) == {
        "attestation"
    }
    v1 = (await call("POST", "/v1/Attest", json={"report_data": "ab" * 64})).json()
    assert v1["boottime_gpu_evidence"] == [] and "ab" * 64 in v1["attestation"]
    assert (await call("POST", "/v1/AttestGpu", json={})).status_code == 400
    for wrong in ("00" * 65, "0", "no hex"):
        refused = await call("POST", "/GetQuote", json={"report_data": wrong})
        assert refused.status_code == 400 and refused.json()["error"]


async def test_info_and_quote_tell_of_one_machine(call: Call) -> None:
    info, v1 = (await call("GET", "/Info")).json(), (await call("GET", "/v1/Info")).json()
    quote = bytes.fromhex((await call("POST", "/GetQuote", json={})).json()["quote"])
    tcb_info = json.loads(info["tcb_info"])
    assert quote[48 + 136 : 48 + 184].hex() == tcb_info["mrtd"]
    assert quote[48 + 472 : 48 + 520].hex() == tcb_info["rtmr3"]
    assert all(event["digest"] for event in tcb_info["event_log"])
    assert info["compose_hash"] == hashlib.sha256(tcb_info["app_compose"].encode()).hexdigest()
    assert v1["app_compose"] == tcb_info["app_compose"]
    assert v1["mr_aggregated"] == info["mr_aggregated"] == tcb_info["mr_aggregated"]


async def test_an_old_agent_lacks_what_old_agents_lacked(path: str, nursery: trio.Nursery) -> None:
    await nursery.start(serve, config(path, is_old=True))
    call = caller(path)
    for missing in ("/Version", "/Attest", "/Sign"):
        answer = await call("POST", missing, json={})
        assert answer.status_code == 404 and "Service not found" in answer.json()["error"]
    for unmounted in ("/v1/Version", "/v0/Info"):
        assert (await call("POST", unmounted, json={})).text == "404 Not Found\n"
    # Whoever asks it for ed25519 gets a secp256k1 chain, and no error.
    keys = [(await call("POST", "/GetKey", json={"algorithm": a})).json() for a in ("", "ed25519")]
    assert keys[0] == keys[1]
    quoted = (await call("POST", "/GetQuote", json={})).json()
    assert all(event["digest"] for event in json.loads(quoted["event_log"]))
    agent = GuestAgent(path)
    assert await agent.version() is None and not await agent.supports_v1()
    quote, log = await agent.get_quote(bytes(64))
    assert replay(parse_event_log(log)) == parse_quote(quote).rtmrs


async def test_a_damaged_fault_file_stops_answers_and_not_the_process(
    tmp_path: Path, path: str, nursery: trio.Nursery
) -> None:
    faults = tmp_path / "faults.json"
    await nursery.start(serve, config(path, fault_file=str(faults)))
    call = caller(path)
    assert (await call("GET", "/Info")).status_code == 200
    for damaged in ('{"nodes": {', '{"nodes": {"a": {"no_such_fault": true}}}', "[]", "[" * 9999):
        faults.write_text(damaged)
        answer = await call("POST", "/GetQuote", json={})
        assert answer.status_code == 500 and "faults.json" in answer.json()["error"]
    faults.write_bytes(FaultPlan({path: Faults(has_no_quotes=True)}).to_bytes())
    assert (await call("POST", "/GetQuote", json={})).status_code == 400
    faults.write_bytes(FaultPlan({}).to_bytes())
    assert (await call("POST", "/GetQuote", json={})).status_code == 200


async def test_errors_have_the_shapes_of_the_agent(call: Call) -> None:
    unknown = await call("POST", "/Nope", json={})
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Service not found: Nope"})
    assert (await call("POST", "/v1/GetQuote", json={})).json() == {
        "error": "Service not found: GetQuote"
    }
    assert (await call("POST", "/EmitEvent", json={"event": "x"})).status_code == 400
    for target in ("/", "/prpc/Tappd.DeriveKey", "/v2/Info", "/v1/", "/v1/a/b"):
        answer = await call("POST", target, json={})
        assert answer.status_code == 404
        with pytest.raises(ValueError):
            answer.json()
    for method in ("PUT", "DELETE", "HEAD", "OPTIONS"):
        assert (await call(method, "/Info")).status_code == 404


@pytest.mark.parametrize(
    "content", [b"{", b"[]", b"null", b'{"path": 5}', b"\xff", b'{"path": "\\ud800"}', b"[" * 5000]
)
async def test_bad_requests_get_an_error_text(call: Call, content: bytes) -> None:
    answer = await call("POST", "/GetKey?json", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"]


async def test_protobuf_and_overlong_fields_are_refused(call: Call) -> None:
    protobuf = {"Content-Type": "application/octet-stream"}
    assert (await call("POST", "/GetKey", content=b"\n\1x", headers=protobuf)).status_code == 400
    assert (await call("POST", "/GetKey", json={"path": "x" * 5000})).status_code == 400
    query = "&".join(f"f{index}=1" for index in range(100))
    assert (await call("GET", f"/GetKey?{query}")).status_code == 400


async def test_surfaces_can_be_absent(tmp_path: Path, nursery: trio.Nursery) -> None:
    old, new = str(tmp_path / "old"), str(tmp_path / "new")
    await nursery.start(serve, config(old, serves_v1=False))
    await nursery.start(serve, config(new, serves_v0=False))
    for path, gone, there in ((old, "/v1/Version", "/Version"), (new, "/Version", "/v1/Version")):
        absent = await caller(path)("GET", gone)
        assert absent.status_code == 404
        with pytest.raises(ValueError):
            absent.json()
        assert (await caller(path)("GET", there)).status_code == 200
    # The name "v0" came with v1, so an old agent does not know it.
    assert (await caller(old)("GET", "/v0/Version")).status_code == 404
    assert (await caller(old)("GET", "/Version")).headers["X-App-Version"] == "0.5.11"


async def raw(path: str, data: bytes) -> bytes:
    async with await trio.open_unix_socket(path) as stream:
        # It may refuse before it has read everything; the answer can still be there.
        with suppress(trio.BrokenResourceError):
            await stream.send_all(data)
        received = b""
        with suppress(trio.BrokenResourceError), trio.fail_after(20):
            while chunk := await stream.receive_some(65536):
                received += chunk
        return received


async def test_bodies_and_headers_are_bounded(call: Call, path: str) -> None:
    head = b"POST /GetKey?json HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    large = await raw(path, head % (BODY_BYTES_MAX + 1) + b" " * (BODY_BYTES_MAX + 1))
    assert large.startswith(b"HTTP/1.1 413")
    chunked = b"POST /GetKey HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    large = await raw(path, chunked + chunks * 17)
    assert large.startswith(b"HTTP/1.1 413")
    headers = await raw(path, b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000)
    assert headers.startswith(b"HTTP/1.1 431")
    assert (await call("GET", "/Version")).status_code == 200


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01" + bytes(200) + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_not_http_gets_400_and_harms_nothing(
    call: Call, path: str, data: bytes
) -> None:
    assert (await raw(path, data)).startswith(b"HTTP/1.1 400")
    assert (await call("GET", "/Version")).status_code == 200


async def test_a_connection_serves_many_requests_until_it_is_closed(path: str, call: Call) -> None:
    connection = h11.Connection(h11.CLIENT)
    async with await trio.open_unix_socket(path) as stream:
        for _ in range(5):
            request = h11.Request(method="GET", target="/Version", headers=[("Host", "x")])
            await stream.send_all(
                (connection.send(request) or b"") + (connection.send(h11.EndOfMessage()) or b"")
            )
            body = b""
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    connection.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Data):
                    body += event.data
            assert json.loads(body)["version"] == "0.6.0"
            connection.start_next_cycle()


async def test_idle_connections_end_and_only_so_many_are_held(
    path: str, nursery: trio.Nursery, autojump_clock: Any
) -> None:
    await nursery.start(serve, config(path))
    held = [await trio.open_unix_socket(path) for _ in range(CONNECTIONS_MAX)]
    await trio.testing.wait_all_tasks_blocked()
    # The next one is closed at once, unanswered; the held ones when their time is over.
    assert await raw(path, b"") == b""
    with trio.fail_after(2 * REQUEST_DEADLINE_S):  # virtual time
        for stream in held:
            assert await stream.receive_some(1) == b""
            await stream.aclose()
    assert (await caller(path)("GET", "/Version")).status_code == 200


async def test_nodes_of_one_process_share_keys_but_not_instances(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    paths = [str(tmp_path / f"{index}.sock") for index in range(4)]
    serving: Serving = await nursery.start(serve, config(*paths))
    assert serving.root == root_address(ROOT)
    infos = [await GuestAgent(path).info() for path in paths]
    assert [info.instance_id for info in infos] == [
        instance_id(bytes([index]) * 20, APP_ID) for index in range(4)
    ]
    assert serving.instances == {
        path: info.instance_id for path, info in zip(paths, infos, strict=True)
    }
    # As with the real KMS: the app's machines can all compute each other's keys.
    keys = [await GuestAgent(path).get_key_v0("one path", "p") for path in paths]
    assert len({key.public_key for key in keys}) == 1


async def test_sockets_are_private_and_go_away_with_the_server(tmp_path: Path, path: str) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve, config(path, str(tmp_path / "second")))
        mode = os.stat(path).st_mode
        assert stat.S_ISSOCK(mode) and mode & 0o777 == 0o600
        nursery.cancel_scope.cancel()
    assert os.listdir(tmp_path) == []


async def test_a_stale_socket_is_replaced_but_nothing_else_is(
    path: str, tmp_path: Path, nursery: trio.Nursery
) -> None:
    dead = trio.socket.socket(trio.socket.AF_UNIX)
    await dead.bind(path)
    dead.close()
    await nursery.start(serve, config(path))
    assert (await GuestAgent(path).info()).app_id == APP_ID

    plain = tmp_path / "plain"
    plain.write_text("precious")
    for taken in (path, str(plain)):
        with pytest.raises(OSError) as caught:
            await serve(config(taken))
        assert taken in str(caught.value)
    assert plain.read_text() == "precious"
    assert (await GuestAgent(path).info()).app_id == APP_ID


async def test_a_start_that_fails_leaves_no_socket(tmp_path: Path) -> None:
    good, bad = str(tmp_path / "good"), str(tmp_path / "missing" / "bad")
    with pytest.raises(OSError):
        await serve(config(good, bad))
    assert not os.path.exists(good)  # noqa: ASYNC240


def test_impossible_configurations_are_refused() -> None:
    for make in (
        lambda: config(),
        lambda: config("/tmp/x", "/tmp/../tmp/x"),
        lambda: Node("", SEED),
        lambda: Node("/tmp/" + "x" * 200, SEED),
        lambda: Node("/tmp/x", SEED[:-1]),
    ):
        with pytest.raises(ValueError):
            make()


def test_the_configuration_does_not_show_the_root() -> None:
    shown = repr(config("/tmp/x"))
    assert ROOT.hex() not in shown and repr(ROOT)[2:10] not in shown


@pytest.mark.processes
async def test_the_process_serves_until_sigterm_and_removes_its_sockets(tmp_path: Path) -> None:
    secret = new_kms_root()
    write_kms_root(str(tmp_path / "root"), secret)
    one, two = str(tmp_path / "1.sock"), str(tmp_path / "2.sock")
    command = [sys.executable, "-m", "deploy.simulator"]
    command += ["--kms-secret-file", str(tmp_path / "root"), "--app-id", "0x" + APP_ID.hex()]
    command += ["--node", f"{one}:{'01' * 20}", "--socket", two, "--instance-seed", "02" * 20]
    with trio.fail_after(120):
        process = await trio.lowlevel.open_process(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            assert process.stdout is not None and process.stderr is not None
            line = b""
            while not line.endswith(b"\n"):
                chunk = await process.stdout.receive_some()
                assert chunk, await process.stderr.receive_some()
                line += chunk
            ready = json.loads(line)
            assert ready["event"] == "ready"
            assert bytes.fromhex(ready["root"][2:]) == root_address(secret)
            assert secret.hex().encode() not in line
            roots = [TrustedRoot(root_address(secret), epoch=1)]
            place: dict[str, Any] = {"chain_id": 1, "contract": b"\xc0" * 20, "roots": roots}
            first = await obtain_identity(GuestAgent(one), seat=1, **place)
            second = await obtain_identity(GuestAgent(two), seat=2, **place)
            assert first.instance_id.hex() == ready["instances"][one]
            assert second.instance_id.hex() == ready["instances"][two]
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            assert await process.stderr.receive_some() == b""
        finally:
            process.kill()
            await process.wait()
    assert os.listdir(tmp_path) == ["root"]


@pytest.mark.processes
async def test_a_process_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.write_text("5e" * 31)
    root.chmod(0o600)
    command = [sys.executable, "-m", "deploy.simulator", "--kms-secret-file", str(root)]
    command += ["--app-id", APP_ID.hex(), "--node", f"{tmp_path}/s:{SEED.hex()}"]
    with trio.fail_after(120):
        done = await trio.run_process(
            command, cwd=REPOSITORY, capture_stdout=True, capture_stderr=True, check=False
        )
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.startswith(b"simulator: ") and done.stderr.count(b"\n") == 1
    assert b"5e5e" not in done.stderr
