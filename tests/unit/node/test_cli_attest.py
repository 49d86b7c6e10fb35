"""``dstack-cluster attest`` and ``verify-chain`` on files, as an auditor uses them."""

from __future__ import annotations

import json
import socketserver
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import h11
import pytest

from attest import Evidence, policy_digest
from deploy.simulator import TdxPki, collateral, instance_id, root_address
from deploy.simulator.accepting import policy_text
from deploy.simulator.attester import Attester
from deploy.simulator.faults import NO_FAULTS
from deploy.simulator.kms import get_key_v0, get_key_v1, issue_app_keys
from deploy.simulator.methods import DEFAULT_APP_COMPOSE
from deploy.simulator.pccs import MockPccs
from deploy.simulator.tdx_collateral import FMSPC_FRESH
from node.cli import main

KMS_ROOT, APP_ID, SEED = b"\x11" * 32, b"\xaa" * 20, b"\x07" * 20
REPORT_DATA = bytes(range(64))
PKI = TdxPki.of_kms_root(KMS_ROOT)
NOW_S = 1_790_000_000
ATTESTER = Attester(
    KMS_ROOT,
    seed=SEED,
    app_id=APP_ID,
    app_compose=DEFAULT_APP_COMPOSE,
    faults=lambda: NO_FAULTS,
)

Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """An auditor's folder: evidence, a policy that takes it, collateral, the mock's root."""
    given = ATTESTER.evidence(REPORT_DATA)
    raw, log = given.quote, given.event_log
    contents = {
        "evidence": Evidence(raw, log.encode()).encode(),
        "answer": json.dumps({"quote": raw.hex(), "event_log": log}).encode(),
        "quote": raw,
        "log": log.encode(),
        "policy.json": policy_text([ATTESTER.machine()]),
        "collateral": collateral(PKI, FMSPC_FRESH, NOW_S).to_json(),
        "root": PKI.root_der,
        "rubbish": b"rubbish",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return {name: str(tmp_path / name) for name in contents}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, Any]:
        status = main([*words, "--json"])
        out = capsys.readouterr().out
        return status, json.loads(out) if out else None

    return call


def verify_words(files: dict[str, str], name: str = "evidence") -> list[str]:
    return [
        "attest", "verify", files[name], "--policy", files["policy.json"],
        "--collateral", files["collateral"], "--insecure-root-ca", files["root"],
        "--at", str(NOW_S),
    ]  # fmt: skip


def test_good_evidence_is_accepted_from_every_file(files: dict[str, str], run: Run) -> None:
    for name in ("evidence", "answer"):
        status, verdict = run(*verify_words(files, name))
        assert (status, verdict["accepted"], verdict["refusal"]) == (0, True, None)
    status, verdict = run(*verify_words(files, "quote"), "--event-log", files["log"])
    assert (status, verdict["kind"]) == (0, "bare quote")
    assert verdict["facts"]["instance_id"] == instance_id(SEED, APP_ID).hex()
    assert all(check["passed"] for check in verdict["checks"])
    unjudged = {check["name"] for check in verdict["checks"] if not check["judged"]}
    assert unjudged == {"device", "report data", "app id", "instance id", "platform"}


def test_what_the_auditor_expects_is_judged(files: dict[str, str], run: Run) -> None:
    right = ["--report-data", REPORT_DATA.hex(), "--app-id", "0x" + APP_ID.hex()]
    assert run(*verify_words(files), *right)[0] == 0
    for option, size, refusal in (
        ("--report-data", 64, "report_data"),
        ("--app-id", 20, "app_id"),
        ("--instance-id", 20, "instance_id"),
    ):
        status, verdict = run(*verify_words(files), option, "00" * size)
        assert (status, verdict["refusal"]) == (1, refusal)


def test_nobody_is_accepted_without_policy_or_under_intels_root(
    files: dict[str, str], run: Run
) -> None:
    words = verify_words(files)
    status, verdict = run(
        *[word for word in words if word not in ("--policy", files["policy.json"])]
    )
    assert (status, verdict["refusal"], verdict["code"]) == (1, "no_policy", 1)
    root = ("--insecure-root-ca", files["root"])
    status, verdict = run(*[word for word in words if word not in root])
    assert (status, verdict["refusal"]) == (1, "quote_signature")


def test_a_later_time_makes_the_collateral_stale(files: dict[str, str], run: Run) -> None:
    status, verdict = run(*verify_words(files), "--at", "2099-01-01T00:00:00+00:00")
    assert (status, verdict["refusal"]) == (1, "collateral_stale")


def test_the_verdict_is_readable(files: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(verify_words(files)) == 0
    out = capsys.readouterr().out
    assert out.endswith("accepted\n")
    assert "ok    signatures" in out
    assert "any   report data" in out
    assert main([*verify_words(files), "--app-id", "00" * 20]) == 1
    out = capsys.readouterr().out
    assert f"FAIL  app id\n      expected  {'00' * 20}\n      came      {APP_ID.hex()}\n" in out
    assert out.endswith("refused: app_id (18)\n")


def test_show_tells_what_evidence_says_and_that_nothing_is_proven(
    files: dict[str, str], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    status, found = run("attest", "show", files["answer"])
    assert status == 0
    assert found["proven"].startswith("nothing")
    assert found["app_id"] == APP_ID.hex()
    assert found["replay"] == {f"rtmr{index}": True for index in range(4)}
    status, found = run("attest", "show", files["quote"])
    assert (status, "app_id" in found) == (0, False)
    assert main(["attest", "show", files["answer"]]) == 0
    assert REPORT_DATA.hex() in capsys.readouterr().out


def test_a_drafted_policy_takes_the_machine_it_was_drafted_from(
    files: dict[str, str], run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attest", "policy", "draft", files["evidence"], files["answer"]]) == 0
    text = capsys.readouterr().out.encode()
    drafted = tmp_path / "drafted"
    # A draft allows no platform flags; the simulated certificates have them, as servers do.
    drafted.write_bytes(text.replace(b"false", b"true"))
    status, found = run("attest", "policy", "show", str(drafted))
    assert status == 0
    assert found["digest"] == "0x" + policy_digest(drafted.read_bytes()).hex()
    assert run(*verify_words(files), "--policy", str(drafted))[0] == 0
    drafted.write_bytes(text)
    assert run(*verify_words(files), "--policy", str(drafted))[1]["refusal"] == "platform"


@contextmanager
def answering(server: socketserver.BaseServer) -> Iterator[None]:
    """A server at work in a thread beside the command."""
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def pccs_url() -> Iterator[str]:
    """The simulator's PCCS, in a thread beside the command."""
    pccs = MockPccs(PKI, clock=lambda: NOW_S)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            request = h11.Request(method="GET", target=self.path, headers=[("Host", "pccs")])
            reply = pccs.respond(request, b"")
            self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with answering(server):
        yield f"http://127.0.0.1:{server.server_port}"


def test_evidence_of_this_machine_comes_from_its_agent(
    files: dict[str, str], run: Run, tmp_path: Path
) -> None:
    class Agent(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            size = 0
            while (line := self.rfile.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    size = int(line.split(b":")[1])
            asked = bytes.fromhex(json.loads(self.rfile.read(size))["report_data"])
            given = ATTESTER.evidence(asked)
            body = json.dumps({"quote": given.quote.hex(), "event_log": given.event_log}).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
            self.wfile.write(head.encode() + body)

    path, out = str(tmp_path / "agent.sock"), str(tmp_path / "own")
    ask = ["attest", "quote", "--socket", path, "--out", out]
    with answering(socketserver.UnixStreamServer(path, Agent)):
        status, fresh = run(*ask)
        assert status == 0
        assert run(*ask)[1] != fresh
        assert run(*ask, "--report-data", REPORT_DATA.hex())[0] == 0
    files["own"] = out
    status, _ = run(*verify_words(files, "own"), "--report-data", REPORT_DATA.hex())
    assert status == 0
    assert run(*ask)[0] == 1


def test_collateral_is_fetched_once_and_serves_offline(
    files: dict[str, str], run: Run, tmp_path: Path, pccs_url: str
) -> None:
    words = verify_words(files)
    at = words.index("--collateral")
    online = [*words[:at], "--pccs", pccs_url, *words[at + 2 :]]
    assert run(*online)[0] == 0
    out = str(tmp_path / "bundle")
    fetched = ("attest", "fetch-collateral", "--pccs", pccs_url, "--out", out)
    for named in (files["quote"], "--fmspc=" + FMSPC_FRESH.hex()):
        status, found = run(*fetched, named)
        assert (status, found["fmspc"]) == (0, FMSPC_FRESH.hex())
        assert run(*words, "--collateral", out)[0] == 0
    assert run(*fetched)[0] == 1
    # A bundle without the machine's family is as good as none.
    empty = tmp_path / "empty"
    empty.write_text('{"version": 1, "collateral": []}')
    status, verdict = run(*words, "--collateral", str(empty))
    assert (status, verdict["refusal"]) == (1, "collateral_missing")


@pytest.mark.parametrize(
    "words",
    [
        ["attest", "verify", "rubbish"],
        ["attest", "verify", "nowhere"],
        ["attest", "show", "rubbish"],
        ["attest", "verify", "evidence", "--policy", "rubbish"],
        ["attest", "verify", "evidence", "--collateral", "rubbish"],
        ["attest", "verify", "evidence", "--insecure-root-ca", "rubbish"],
        ["attest", "verify", "evidence", "--at", "noon"],
        ["attest", "verify", "evidence", "--at", "2026-01-01T00:00:00"],
        ["attest", "verify", "evidence", "--report-data", "00"],
        ["attest", "verify", "evidence", "--pccs", "http://pccs.example"],
        ["attest", "verify", "evidence", "--pccs", "http://127.0.0.1:1"],
        ["attest", "fetch-collateral", "--out", "rubbish"],
        ["attest", "fetch-collateral", "evidence", "--out", "rubbish"],
        ["attest", "policy", "show", "rubbish"],
        ["attest", "policy", "draft", "quote"],
        ["verify-chain", "rubbish", "--root", "0x" + "11" * 20],
    ],
)
def test_what_cannot_be_read_is_one_line_on_stderr(
    files: dict[str, str], capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main([files.get(word, word) for word in words]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1


# --- verify-chain ---


def chain_file(folder: Path, api: int = 0, **changed: Any) -> str:
    """The answer to GetKey with what it was asked for, but without the secret."""
    app = issue_app_keys(KMS_ROOT, APP_ID)
    key = (
        get_key_v0(app, "a/path", "a purpose", "")
        if api == 0
        else get_key_v1(app, "a purpose", "secp256k1")
    )
    document = {
        "purpose" if api == 0 else "domain": "a purpose",
        "public_key": key.public_key.hex(),
        "app_id": APP_ID.hex(),
        "signature_chain": [signature.hex() for signature in key.signature_chain],
        **changed,
    }
    path = folder / f"chain-{len(list(folder.iterdir()))}"
    path.write_text(json.dumps(document))
    return str(path)


ROOT = "0x" + root_address(KMS_ROOT).hex()


@pytest.mark.parametrize("scheme", [0, 1])
def test_a_chain_is_verified_up_to_a_named_root(tmp_path: Path, run: Run, scheme: int) -> None:
    path = chain_file(tmp_path, scheme)
    status, found = run("verify-chain", path, "--root", ROOT)
    assert (status, found["valid"], found["scheme"]) == (0, True, f"v{scheme}")
    assert found["root"].lower() == ROOT
    assert found["taken_from_file"] == ["app_id", "purpose", "public_key"]
    status, found = run(
        "verify-chain", path, "--root", ROOT, "--app-id", APP_ID.hex(), "--purpose", "a purpose"
    )
    assert (status, found["taken_from_file"]) == (0, ["public_key"])


def test_a_chain_that_proves_something_else_is_refused_by_name(tmp_path: Path, run: Run) -> None:
    path = chain_file(tmp_path)
    for words, fault in (
        (["--root", "0x" + "22" * 20], "untrusted_root"),
        (["--root", ROOT, "--purpose", "another"], "wrong_purpose"),
        (["--root", ROOT, "--app-id", "bb" * 20], "wrong_app_id"),
        (["--root", ROOT, "--public-key", "02" * 33], "wrong_public_key"),
    ):
        status, found = run("verify-chain", path, *words)
        assert (status, found["valid"], found["fault"]) == (1, False, fault)
    other = chain_file(tmp_path, app_id="bb" * 20)
    assert run("verify-chain", other, "--root", ROOT)[1]["fault"] == "untrusted_root"
    assert run("verify-chain", chain_file(tmp_path, 1, scheme="v0"), "--root", ROOT)[0] == 1


def test_a_file_with_the_secret_in_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = chain_file(tmp_path, key="ab" * 32)
    assert main(["verify-chain", path, "--root", ROOT]) == 1
    captured = capsys.readouterr()
    assert "secret" in captured.err
    assert "ab" * 32 not in captured.err + captured.out
