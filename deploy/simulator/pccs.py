"""A provisioning certificate cache (PCCS) that knows the mock authority's statements only.

Paths, headers and encodings of Intel's PCS and the PCCS in front of it, API versions 3 and 4:
statements as signed JSON with the issuer's chain percent-encoded in a header, the PCK CRL as DER,
the root's CRL as hex. It needs no secret of the nodes and tells none.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from urllib.parse import parse_qs, quote

import h11

from attest.collateral import Collateral

from .http_server import PLAIN, Headers, Reply
from .tdx_collateral import FMSPC_FRESH, FMSPC_STALE, collateral
from .tdx_pki import TdxPki

QUERY_FIELDS_MAX = 16
RENEWED_AFTER_S = 3600
CRL = "application/pkix-crl"


class MockPccs:
    """Answers requests for collateral; ``is_down`` is asked at each of them."""

    def __init__(
        self,
        pki: TdxPki,
        is_down: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._pki = pki
        self._is_down = is_down
        self._clock = clock
        self._made_s = 0.0
        self._known: dict[str, Collateral] = {}

    def respond(self, request: h11.Request, body: bytes) -> Reply:
        """One answer; 404 for whatever a PCCS does not know."""
        path, _, query = request.target.decode("ascii").partition("?")
        try:
            fields = parse_qs(query, max_num_fields=QUERY_FIELDS_MAX)
        except ValueError:
            return Reply(400, b"", PLAIN)
        if request.method != b"GET":
            return Reply(404, b"", PLAIN)
        if self._is_down():
            return Reply(503, b"", PLAIN)
        technology, _, rest = path.removeprefix("/").partition("/certification/")
        version, _, name = rest.partition("/")
        if version not in ("v3", "v4"):
            return Reply(404, b"", PLAIN)
        wanted = {key: values[-1] for key, values in fields.items()}
        match technology, name:
            case "sgx", "rootcacrl":
                return Reply(200, self._fresh().root_ca_crl.hex().encode(), PLAIN)
            case "sgx", "pckcrl" if wanted.get("ca") == "platform":
                return self._pck_crl(wanted.get("encoding", "pem"))
            case "tdx", "tcb":
                return self._tcb_info(wanted.get("fmspc", ""), version)
            case "tdx", "qe/identity":
                found = self._fresh()
                return _statement(
                    "enclaveIdentity",
                    found.qe_identity,
                    found.qe_identity_signature,
                    (_chain("SGX-Enclave-Identity-Issuer-Chain", found.qe_identity_issuer_chain),),
                )
        return Reply(404, b"", PLAIN)

    def _fresh(self) -> Collateral:
        return self._collateral()[FMSPC_FRESH.hex().upper()]

    def _collateral(self) -> dict[str, Collateral]:
        now_s = self._clock()
        if now_s - self._made_s >= RENEWED_AFTER_S:
            self._known = {
                fmspc.hex().upper(): collateral(self._pki, fmspc, now_s)
                for fmspc in (FMSPC_FRESH, FMSPC_STALE)
            }
            self._made_s = now_s
        return self._known

    def _pck_crl(self, encoding: str) -> Reply:
        found = self._fresh()
        headers = (_chain("SGX-PCK-CRL-Issuer-Chain", found.pck_crl_issuer_chain),)
        if encoding == "der":
            return Reply(200, found.pck_crl, CRL, headers)
        # A PCCS answers hex where Intel's service answers PEM; nobody here asks for PEM.
        return Reply(200, found.pck_crl.hex().encode(), PLAIN, headers)

    def _tcb_info(self, fmspc: str, version: str) -> Reply:
        found = self._collateral().get(fmspc.upper())
        if found is None:
            return Reply(404, b"", PLAIN)
        name = "TCB-Info-Issuer-Chain" if version == "v4" else "SGX-TCB-Info-Issuer-Chain"
        return _statement(
            "tcbInfo",
            found.tcb_info,
            found.tcb_info_signature,
            (_chain(name, found.tcb_info_issuer_chain),),
        )


def _statement(name: str, text: str, signature: bytes, headers: Headers) -> Reply:
    # The text goes in as it was signed, not parsed and written again.
    body = f'{{"{name}":{text},"signature":{json.dumps(signature.hex())}}}'
    return Reply(200, body.encode(), headers=headers)


def _chain(name: str, pem: str) -> tuple[str, str]:
    return name, quote(pem, safe="")
