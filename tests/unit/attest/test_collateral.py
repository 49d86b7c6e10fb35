"""Collateral: read strictly, dated honestly, fetched within bounds, kept and renewed."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote as percent

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from evidence_world import COLLATERAL, COLLATERAL_JSON, MOCK, NOW_S

from attest import CollateralError, CollateralUnavailable, parse_collateral
from attest.collateral import iso_date
from attest.collateral_store import (
    FAMILIES_MAX,
    CollateralStore,
    encode_bundle,
    parse_bundle,
)
from attest.pccs import BODY_BYTES_MAX, CollateralSource, revocation_list, signed_part
from attest.qvl import Platform

FAMILY = Platform(bytes(6), "platform")
YEARS_S = 10 * 366 * 86400


def changed(**fields: Any) -> bytes:
    return json.dumps({**MOCK["collateral"], **fields}).encode()


def test_collateral_tells_its_family_and_dates() -> None:
    assert COLLATERAL.fmspc == bytes(6)
    assert COLLATERAL.tcb_evaluation_number == 1
    assert iso_date(COLLATERAL.issued_s) == "2020-01-01T00:00:00Z"
    assert iso_date(COLLATERAL.latest_issued_s) == "2026-09-20T14:13:20Z"
    assert iso_date(COLLATERAL.valid_until_s) == "2026-10-21T14:13:20Z"
    assert parse_collateral(COLLATERAL.to_json()) == COLLATERAL


TCB_INFO = json.loads(MOCK["collateral"]["tcb_info"])


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b" " * 200_000,
        changed(more="x"),
        changed(tcb_info=None),
        changed(tcb_info="{"),
        changed(tcb_info="[]"),
        changed(tcb_info=json.dumps({**TCB_INFO, "fmspc": "00"})),
        changed(tcb_info=json.dumps({**TCB_INFO, "tcbEvaluationDataNumber": True})),
        changed(tcb_info=json.dumps({**TCB_INFO, "issueDate": "yesterday"})),
        changed(tcb_info=json.dumps({**TCB_INFO, "issueDate": "2026-01-01T00:00:00"})),
        changed(tcb_info=json.dumps({**TCB_INFO, "nextUpdate": 5})),
        changed(tcb_info_signature="00" * 63),
        changed(qe_identity_signature="zz" * 64),
        changed(pck_crl="00"),
        changed(root_ca_crl=""),
        changed(root_ca_crl="0"),
        changed(pck_crl_issuer_chain=""),
        changed(pck_crl_issuer_chain="\u00e4"),
        changed(pck_crl_issuer_chain="x" * 70_000),
    ],
)
def test_malformed_collateral_is_refused(raw: bytes) -> None:
    with pytest.raises(CollateralError):
        parse_collateral(raw)


def test_a_revocation_list_of_a_version_that_does_not_exist_is_refused() -> None:
    # Found by fuzzing: the decoder's error for this is no ValueError.
    version = bytes.fromhex("020101")
    der = COLLATERAL.root_ca_crl
    spoiled = der.replace(version, bytes.fromhex("020121"), 1)
    with pytest.raises(CollateralError, match="InvalidVersion"):
        parse_collateral(changed(root_ca_crl=spoiled.hex()))


def test_the_signed_text_is_cut_out_byte_for_byte() -> None:
    odd = '{"b": 1,\n "a" :[ 1.50 ]}'
    signature = "01" * 64
    for body in (
        f'{{"tcbInfo": {odd}, "signature": "{signature}"}}',
        f'{{"signature":"{signature}","tcbInfo":{odd}}}',
    ):
        assert signed_part(body.encode(), "tcbInfo") == (odd, b"\x01" * 64)
    for body in (b"", b"{}", b"[]", b'{"tcbInfo":{}}', b'{"other":{},"signature":"00"}', b"\xff"):
        with pytest.raises(CollateralError):
            signed_part(body, "tcbInfo")


def test_a_revocation_list_is_read_from_der_hex_or_pem() -> None:
    der = COLLATERAL.pck_crl
    armour = base64.encodebytes(der).decode()
    pem = f"-----BEGIN X509 CRL-----\n{armour}-----END X509 CRL-----\n"
    for body in (der, der.hex().encode(), pem.encode()):
        assert revocation_list(body) == der
    for body in (b"", b"zz", b"\xff", b"-----BEGIN X509 CRL-----\n!\n-----END X509 CRL-----"):
        with pytest.raises(CollateralError):
            revocation_list(body)


# --- a PCCS on loopback ---


def answers() -> dict[str, tuple[dict[str, str], bytes]]:
    """What a PCCS gives for the mock's family, by path and query."""
    parts = MOCK["collateral"]
    tcb = f'{{"tcbInfo":{parts["tcb_info"]},"signature":"{parts["tcb_info_signature"]}"}}'
    identity = (
        f'{{"enclaveIdentity":{parts["qe_identity"]},'
        f'"signature":"{parts["qe_identity_signature"]}"}}'
    )
    return {
        "/tdx/certification/v4/tcb?fmspc=000000000000": (
            {"TCB-Info-Issuer-Chain": percent(parts["tcb_info_issuer_chain"])},
            tcb.encode(),
        ),
        "/tdx/certification/v4/qe/identity": (
            {"SGX-Enclave-Identity-Issuer-Chain": percent(parts["qe_identity_issuer_chain"])},
            identity.encode(),
        ),
        "/sgx/certification/v4/pckcrl?ca=platform&encoding=der": (
            {"SGX-PCK-CRL-Issuer-Chain": percent(parts["pck_crl_issuer_chain"])},
            COLLATERAL.pck_crl,
        ),
        "/sgx/certification/v4/rootcacrl": ({}, parts["root_ca_crl"].encode()),
    }


@dataclass
class Pccs:
    """A PCCS that can be told to answer wrongly."""

    answers: dict[str, tuple[dict[str, str], bytes]] = field(default_factory=answers)
    status: int = 200
    asked: list[str] = field(default_factory=list)
    silent: bool = False
    url: str = ""

    async def serve(self, stream: trio.SocketStream) -> None:
        received = bytearray()
        try:
            while True:
                chunk = await stream.receive_some(65536)
                if not chunk:
                    return
                received += chunk
                while (end := received.find(b"\r\n\r\n")) >= 0:
                    target = bytes(received[:end]).split()[1].decode()
                    del received[: end + 4]
                    self.asked.append(target)
                    if self.silent:
                        await trio.sleep_forever()
                    headers, body = self.answers.get(target, ({}, b"nothing here"))
                    head = f"HTTP/1.1 {self.status if target in self.answers else 404} x\r\n"
                    head += "".join(f"{name}: {value}\r\n" for name, value in headers.items())
                    head += f"Content-Length: {len(body)}\r\n\r\n"
                    await stream.send_all(head.encode() + body)
        except trio.BrokenResourceError:
            return


@pytest.fixture
async def pccs(nursery: trio.Nursery) -> Pccs:
    server = Pccs()
    listeners = await nursery.start(partial(trio.serve_tcp, server.serve, 0, host="127.0.0.1"))
    server.url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
    return server


async def test_collateral_is_fetched_whole(pccs: Pccs) -> None:
    assert await CollateralSource(pccs.url + "/").fetch(FAMILY) == COLLATERAL
    assert sorted(pccs.asked) == sorted(answers())


def without_header(pccs: Pccs) -> None:
    pccs.answers = {target: ({}, body) for target, (_, body) in pccs.answers.items()}


def too_long(pccs: Pccs) -> None:
    pccs.answers["/sgx/certification/v4/rootcacrl"] = ({}, b"0" * (BODY_BYTES_MAX + 1))


def compressed(pccs: Pccs) -> None:
    pccs.answers["/sgx/certification/v4/rootcacrl"] = ({"Content-Encoding": "gzip"}, b"x")


def of_another_family(pccs: Pccs) -> None:
    target = "/tdx/certification/v4/tcb?fmspc=000000000000"
    headers, body = pccs.answers[target]
    pccs.answers[target] = (headers, body.replace(b'"fmspc":"00', b'"fmspc":"01'))


def incomplete(pccs: Pccs) -> None:
    del pccs.answers["/tdx/certification/v4/qe/identity"]


def redirecting(pccs: Pccs) -> None:
    pccs.status = 302


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (without_header, "header"),
        (too_long, "more than"),
        (compressed, "compressed"),
        (of_another_family, "family"),
        (incomplete, "404"),
        (redirecting, "302"),
    ],
)
async def test_an_unusable_answer_is_named(
    pccs: Pccs, spoil: Callable[[Pccs], None], reason: str
) -> None:
    spoil(pccs)
    with pytest.raises(CollateralUnavailable, match=reason):
        await CollateralSource(pccs.url).fetch(FAMILY)


async def test_a_silent_source_ends_by_the_deadline(
    pccs: Pccs, autojump_clock: trio.testing.MockClock
) -> None:
    pccs.silent = True
    with pytest.raises(CollateralUnavailable, match="within 30 s"):
        await CollateralSource(pccs.url).fetch(FAMILY)


async def test_an_absent_source_is_named_at_once() -> None:
    with pytest.raises(CollateralUnavailable, match="ConnectError"):
        await CollateralSource("http://127.0.0.1:1").fetch(FAMILY)


async def test_a_source_that_no_authority_vouches_for_is_not_believed(
    nursery: trio.Nursery, tmp_path: Path
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "server.pem"
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    reached = []

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with suppress(trio.BrokenResourceError):
            reached.append(await stream.receive_some(65536))

    serving = partial(trio.serve_ssl_over_tcp, serve, 0, context, host="127.0.0.1")
    listeners = await nursery.start(serving)
    port = listeners[0].transport_listener.socket.getsockname()[1]
    with pytest.raises(CollateralUnavailable, match="certificate verify failed"):
        await CollateralSource(f"https://localhost:{port}").fetch(FAMILY)
    assert not any(reached)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://a",
        "http://pccs.example",
        "https://",
        "https://user:secret@pccs.example",
        "https://pccs.example/?key=secret",
        "https://pccs.example:port",
    ],
)
def test_urls_that_are_not_safe_are_refused_without_telling_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        CollateralSource(url)
    assert "secret" not in str(caught.value)


# --- the store ---


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_the_store_asks_once_and_keeps_it_on_disk(pccs: Pccs, tmp_path: Path) -> None:
    async def get(store: CollateralStore) -> None:
        assert await store.get(FAMILY, now_s=NOW_S, age_s_max=YEARS_S) == COLLATERAL

    store = CollateralStore([CollateralSource(pccs.url)], folder=tmp_path)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(get, store)
    assert len(pccs.asked) == 4
    assert names_in(tmp_path) == ["collateral-000000000000-platform.json"]
    # After a restart, offline.
    await get(CollateralStore([], folder=tmp_path))


async def test_what_is_kept_but_too_old_is_not_given(pccs: Pccs) -> None:
    store = CollateralStore([], bundle=[(FAMILY, COLLATERAL)])
    assert store.peek(FAMILY) == COLLATERAL
    for now_s, age_s_max in ((NOW_S, 86400), (NOW_S + 40 * 86400, YEARS_S), (0, YEARS_S)):
        with pytest.raises(CollateralUnavailable, match="too old"):
            await store.get(FAMILY, now_s=now_s, age_s_max=age_s_max)
    with pytest.raises(CollateralUnavailable, match="no source"):
        await store.get(Platform(b"\1" * 6, "platform"), now_s=NOW_S, age_s_max=YEARS_S)


async def test_a_failing_source_is_told_passed_over_and_not_asked_with_every_peer(
    pccs: Pccs,
) -> None:
    told: list[str] = []
    absent = CollateralSource("http://127.0.0.1:1")
    both = CollateralStore([absent, CollateralSource(pccs.url)], on_failure=told.append)
    assert await both.get(FAMILY, now_s=NOW_S, age_s_max=YEARS_S) == COLLATERAL
    assert len(told) == 1

    pccs.status = 500
    store = CollateralStore([CollateralSource(pccs.url)], on_failure=told.append)
    asked = len(pccs.asked)
    for _ in range(5):
        with pytest.raises(CollateralUnavailable, match="500"):
            await store.get(FAMILY, now_s=NOW_S, age_s_max=YEARS_S)
    assert len(pccs.asked) == asked + 1
    pccs.status = 200
    assert await store.get(FAMILY, now_s=NOW_S + 60, age_s_max=YEARS_S) == COLLATERAL


async def test_renewal_asks_again_after_a_day_and_keeps_what_it_has(pccs: Pccs) -> None:
    store = CollateralStore([CollateralSource(pccs.url)], bundle=[(FAMILY, COLLATERAL)])
    await store.renew(NOW_S)
    assert len(pccs.asked) == 4
    await store.renew(NOW_S + 3600)
    assert len(pccs.asked) == 4
    pccs.status = 500
    await store.renew(NOW_S + 90_000)
    assert len(pccs.asked) == 5
    assert await store.get(FAMILY, now_s=NOW_S, age_s_max=YEARS_S) == COLLATERAL


async def test_a_damaged_file_is_told_and_fetched_anew(pccs: Pccs, tmp_path: Path) -> None:
    told: list[str] = []
    path = tmp_path / "collateral-000000000000-platform.json"
    path.write_bytes(COLLATERAL_JSON[:100])
    store = CollateralStore([CollateralSource(pccs.url)], folder=tmp_path, on_failure=told.append)
    assert await store.get(FAMILY, now_s=NOW_S, age_s_max=YEARS_S) == COLLATERAL
    assert len(told) == 1
    assert parse_collateral(path.read_bytes()) == COLLATERAL


async def test_families_that_a_liar_names_push_nobody_out_for_good(
    pccs: Pccs, tmp_path: Path
) -> None:
    store = CollateralStore([CollateralSource(pccs.url)], folder=tmp_path)
    for number in range(1, 2 * FAMILIES_MAX):
        liar = Platform(number.to_bytes(6, "big"), "processor")
        with pytest.raises(CollateralUnavailable, match="404"):
            await store.get(liar, now_s=NOW_S, age_s_max=YEARS_S)
    assert len(store._failed) == FAMILIES_MAX
    assert not store._locks
    assert await store.get(FAMILY, now_s=NOW_S, age_s_max=YEARS_S) == COLLATERAL
    # And those that exist: what is used stays, what is pushed out comes back from disk.
    for number in range(2 * FAMILIES_MAX):
        await store.remember(Platform(number.to_bytes(6, "big"), "processor"), COLLATERAL)
        if number == FAMILIES_MAX // 2:
            await store.get(FAMILY, now_s=NOW_S, age_s_max=YEARS_S)
    assert len(store._kept) == FAMILIES_MAX
    asked = len(pccs.asked)
    assert await store.get(FAMILY, now_s=NOW_S, age_s_max=YEARS_S) == COLLATERAL
    assert len(pccs.asked) == asked


async def test_collateral_that_several_members_bring_at_once_is_written_by_one_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing: list[bool] = []

    async def write(*_: object) -> None:
        assert not writing, "two write the same file"
        writing.append(True)
        await trio.testing.wait_all_tasks_blocked()
        writing.clear()

    monkeypatch.setattr("attest.collateral_store.trio.to_thread.run_sync", write)
    store = CollateralStore([], folder=tmp_path)
    async with trio.open_nursery() as nursery:
        for later in range(3):
            newer = replace(COLLATERAL, issued_s=COLLATERAL.issued_s + later)
            nursery.start_soon(store.remember, FAMILY, newer)


async def test_older_collateral_never_replaces_newer() -> None:
    store = CollateralStore([], bundle=[(FAMILY, COLLATERAL)])
    await store.remember(FAMILY, replace(COLLATERAL, issued_s=COLLATERAL.issued_s - 1))
    assert store.peek(FAMILY) == COLLATERAL
    newer = replace(COLLATERAL, issued_s=COLLATERAL.issued_s + 1)
    await store.remember(FAMILY, newer)
    assert store.peek(FAMILY) == newer


def test_a_bundle_gives_back_what_went_in() -> None:
    entries = [(FAMILY, COLLATERAL), (Platform(bytes(6), "processor"), COLLATERAL)]
    assert parse_bundle(encode_bundle(entries)) == entries
    whole = json.loads(encode_bundle(entries))
    for wrong in (
        {**whole, "version": 2},
        {**whole, "collateral": None},
        {**whole, "collateral": [1]},
        {**whole, "collateral": [{**whole["collateral"][0], "ca": "root"}]},
        {**whole, "collateral": [{**whole["collateral"][0], "fmspc": "010000000000"}]},
        {**whole, "collateral": [{**whole["collateral"][0], "value": {}}]},
        [],
    ):
        with pytest.raises(CollateralError):
            parse_bundle(json.dumps(wrong).encode())
    with pytest.raises(CollateralError):
        parse_bundle(b"{")
