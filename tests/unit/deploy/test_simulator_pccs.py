"""The mock PCCS gives collateral in the forms of the real one, and what it gives verifies."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import unquote

import dcap_qvl
import h11
import httpx
import pytest
import trio

from attest import CollateralUnavailable, SecretKey
from attest.pccs import CollateralSource
from attest.qvl import Platform, platform_of, verify_quote
from deploy.simulator import FaultPlan, Node, SimulatorConfig, serve
from deploy.simulator.attester import Attester
from deploy.simulator.methods import DEFAULT_APP_COMPOSE
from deploy.simulator.pccs import RENEWED_AFTER_S, MockPccs
from deploy.simulator.tdx_collateral import FMSPC_FRESH, FMSPC_STALE
from deploy.simulator.tdx_pki import TdxPki

ROOT = b"\x11" * 32
APP_ID = b"\xaa" * 20
NOW_S = 1_790_000_000
PKI = TdxPki.of_kms_root(ROOT)


evidence = Attester(
    ROOT, seed=b"\x07" * 20, app_id=APP_ID, app_compose=DEFAULT_APP_COMPOSE
).evidence


def ask(pccs: MockPccs, target: str, method: str = "GET") -> Any:
    return pccs.respond(h11.Request(method=method, target=target, headers=[("Host", "x")]), b"")


def chain_of(reply: Any) -> str:
    (header,) = reply.headers
    return unquote(header[1])


@pytest.mark.parametrize(("version", "tcb_header"), [("v3", "SGX-TCB-Info"), ("v4", "TCB-Info")])
def test_a_bundle_of_its_answers_verifies_a_quote(version: str, tcb_header: str) -> None:
    pccs = MockPccs(PKI, clock=lambda: NOW_S)
    tcb = ask(pccs, f"/tdx/certification/{version}/tcb?fmspc={FMSPC_FRESH.hex()}")
    assert tcb.headers[0][0] == f"{tcb_header}-Issuer-Chain"
    identity = ask(pccs, f"/tdx/certification/{version}/qe/identity?update=standard")
    crl = ask(pccs, f"/sgx/certification/{version}/pckcrl?ca=platform&encoding=der")
    root_crl = ask(pccs, f"/sgx/certification/{version}/rootcacrl")
    # The signed text is what stands between the key and the signature, byte for byte.
    tcb_text = tcb.body.decode().removeprefix('{"tcbInfo":').rpartition(',"signature"')[0]
    qe_text = (
        identity.body.decode().removeprefix('{"enclaveIdentity":').rpartition(',"signature"')[0]
    )
    bundle = {
        "pck_crl_issuer_chain": chain_of(crl),
        "root_ca_crl": root_crl.body.decode(),
        "pck_crl": crl.body.hex(),
        "tcb_info_issuer_chain": chain_of(tcb),
        "tcb_info": tcb_text,
        "tcb_info_signature": json.loads(tcb.body)["signature"],
        "qe_identity_issuer_chain": chain_of(identity),
        "qe_identity": qe_text,
        "qe_identity_signature": json.loads(identity.body)["signature"],
    }
    collateral = dcap_qvl.QuoteCollateralV3.from_json(json.dumps(bundle))
    verified = dcap_qvl.verify_with_root_ca(
        evidence(bytes(64)).quote, collateral, PKI.root_der, NOW_S
    )
    assert verified.status == "UpToDate"


def test_statements_are_renewed_but_for_the_platform_that_nobody_renews() -> None:
    now = [float(NOW_S)]
    pccs = MockPccs(PKI, clock=lambda: now[0])

    def issued(fmspc: bytes) -> str:
        reply = ask(pccs, f"/tdx/certification/v4/tcb?fmspc={fmspc.hex()}")
        date: str = json.loads(reply.body)["tcbInfo"]["issueDate"]
        return date

    first, stale = issued(FMSPC_FRESH), issued(FMSPC_STALE)
    assert stale < first
    now[0] += RENEWED_AFTER_S - 1
    assert issued(FMSPC_FRESH) == first
    now[0] += 1
    assert issued(FMSPC_FRESH) > first


@pytest.mark.parametrize(
    "target",
    [
        "/",
        "/tdx/certification/v4/tcb",
        "/tdx/certification/v4/tcb?fmspc=000000000000",
        "/tdx/certification/v5/qe/identity",
        "/sgx/certification/v4/pckcrl?ca=processor&encoding=der",
        "/sgx/certification/v4/tcb?fmspc=90c06f000000",
    ],
)
def test_what_it_does_not_know_is_not_found(target: str) -> None:
    assert ask(MockPccs(PKI), target).status == 404
    assert ask(MockPccs(PKI), "/sgx/certification/v4/rootcacrl", method="POST").status == 404
    assert ask(MockPccs(PKI), "/x?" + "a=1&" * 99).status == 400


async def test_it_is_served_on_loopback_and_can_be_down(
    tmp_path: Any, nursery: trio.Nursery
) -> None:
    faults = tmp_path / "faults.json"
    config = SimulatorConfig(
        SecretKey(ROOT),
        APP_ID,
        (Node(str(tmp_path / "a.sock"), b"\x01" * 20),),
        fault_file=str(faults),
        pccs_port=0,
    )
    serving = await nursery.start(serve, config)
    assert serving.tdx_root == PKI.root_der
    platform = Platform(FMSPC_FRESH, "platform")
    source = CollateralSource(serving.pccs_url)
    found = await source.fetch(platform)
    quote = evidence(bytes(64)).quote
    assert platform_of(quote) == platform
    assert verify_quote(quote, found, int(time.time()), PKI.root_der).status == "UpToDate"
    async with httpx.AsyncClient(base_url=serving.pccs_url, trust_env=False) as client:
        path = "/sgx/certification/v4/rootcacrl"
        assert bytes.fromhex((await client.get(path)).text)
        faults.write_bytes(FaultPlan({}, pccs_is_down=True).to_bytes())
        assert (await client.get(path)).status_code == 503
        with pytest.raises(CollateralUnavailable, match="503"):
            await source.fetch(platform)
        faults.unlink()
        assert (await client.get(path)).status_code == 200
