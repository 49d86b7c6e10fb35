"""Collateral over HTTPS, from Intel's service (PCS) or a cache of it (PCCS); API version 4.

    GET tdx/certification/v4/tcb?fmspc=…       TCB info, issuer chain in a header
    GET tdx/certification/v4/qe/identity       enclave identity, issuer chain in a header
    GET sgx/certification/v4/pckcrl?ca=…       revoked platform certificates
    GET sgx/certification/v4/rootcacrl         revoked CAs (PCCS only)

Intel's own service has the last at another host. What comes is signed by Intel, so a source needs
no trust; it can only withhold, or hand out what is old. httpx is used at its transport layer: no
redirects, no proxies of the environment, no decompression, and every answer bounded while it
streams in.
Reference: Intel SGX/TDX Provisioning Certification Service, ``api-documentation`` v4.
"""

from __future__ import annotations

import base64
import json
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from urllib.parse import unquote, urlsplit

import httpx
import trio

from .bounded_json import parse_json
from .collateral import CRL_BYTES_MAX, SIGNATURE_BYTES, Collateral, collateral_of
from .errors import AgentProtocolError, CollateralError, CollateralUnavailable
from .qvl import Platform
from .strict_json import hex_bytes

INTEL_PCS = "https://api.trustedservices.intel.com"
INTEL_ROOT_CRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
DEADLINE_S = 30.0
BODY_BYTES_MAX = 128 * 1024
CHAIN_CHARS_MAX = 16 * 1024

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_PEM_CRL = re.compile(r"-----BEGIN X509 CRL-----([A-Za-z0-9+/=\s]+)-----END X509 CRL-----\s*")


@dataclass(frozen=True, slots=True)
class _Answer:
    headers: Mapping[str, str]
    body: bytes


class CollateralSource:
    """A PCS or PCCS. ``name`` (host and port) is all that is ever shown of its URL.

    Args:
        base_url: up to but without ``/sgx/certification``. https; http only to this machine.
        root_crl_url: where the root's revocation list is, if not at the PCCS's place.
        deadline_s: for all that makes up one answer together.

    Raises:
        ValueError: another kind of URL.
    """

    def __init__(
        self, base_url: str, *, root_crl_url: str | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self.name = _host(base_url)
        self._base = base_url.rstrip("/")
        if root_crl_url is None and self._base == INTEL_PCS:
            root_crl_url = INTEL_ROOT_CRL
        if root_crl_url is not None:
            _host(root_crl_url)
        self._root_crl = root_crl_url or f"{self._base}/sgx/certification/v4/rootcacrl"
        self._deadline_s = deadline_s

    def __repr__(self) -> str:
        return f"CollateralSource({self.name})"

    async def fetch(self, platform: Platform) -> Collateral:
        """Collateral for a platform family, as it is now at the source.

        Raises:
            CollateralUnavailable: no usable answer before the deadline.
        """
        try:
            with trio.fail_after(self._deadline_s):
                # Reading the authorities takes a tenth of a second: once, and not in our thread.
                tls = await trio.to_thread.run_sync(_tls)
                async with httpx.AsyncHTTPTransport(tls, trust_env=False, retries=0) as transport:
                    return await self._fetch(transport, platform)
        except trio.TooSlowError:
            reason = f"no whole answer within {self._deadline_s:g} s"
        except (CollateralError, _Unusable) as error:
            reason = str(error)
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            reason = f"{type(error).__name__}: {_words(error)}"
        raise CollateralUnavailable(f"{self.name}: {reason}")

    async def _fetch(self, transport: httpx.AsyncHTTPTransport, platform: Platform) -> Collateral:
        sgx, tdx = (f"{self._base}/{kind}/certification/v4" for kind in ("sgx", "tdx"))
        tcb = await _get(transport, f"{tdx}/tcb?fmspc={platform.fmspc.hex().upper()}")
        identity = await _get(transport, f"{tdx}/qe/identity")
        pck_crl = await _get(transport, f"{sgx}/pckcrl?ca={platform.ca}&encoding=der")
        root_crl = await _get(transport, self._root_crl)
        tcb_info, tcb_signature = signed_part(tcb.body, "tcbInfo")
        qe_identity, qe_signature = signed_part(identity.body, "enclaveIdentity")
        collateral = collateral_of(
            pck_crl_issuer_chain=_chain(pck_crl, "SGX-PCK-CRL-Issuer-Chain"),
            root_ca_crl=revocation_list(root_crl.body),
            pck_crl=revocation_list(pck_crl.body),
            tcb_info_issuer_chain=_chain(tcb, "TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"),
            tcb_info=tcb_info,
            tcb_info_signature=tcb_signature,
            qe_identity_issuer_chain=_chain(identity, "SGX-Enclave-Identity-Issuer-Chain"),
            qe_identity=qe_identity,
            qe_identity_signature=qe_signature,
        )
        if collateral.fmspc != platform.fmspc:
            raise CollateralError(
                f"asked for family {platform.fmspc.hex()}, got {collateral.fmspc.hex()}"
            )
        return collateral


def _words(error: BaseException) -> str:
    """What an error says; httpx leaves some of its own empty and keeps the cause behind them."""
    seen: BaseException | None = error
    while seen is not None and not str(seen):
        seen = seen.__cause__ or seen.__context__
    text = "no reason given" if seen is None else str(seen)
    return "".join(c if c.isprintable() else "?" for c in text)[:200]


@cache
def _tls() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


class _Unusable(Exception):
    """An answer that is not what was asked for."""


def signed_part(body: bytes, name: str) -> tuple[str, bytes]:
    """The JSON text that Intel signed inside ``{"<name>": {…}, "signature": "<hex>"}``, and the 64
    bytes of the signature. The text is cut out, not written anew: its bytes are what is signed.

    Raises:
        CollateralError: another shape.
    """
    try:
        value = parse_json(body)
        text = body.decode()
        start = re.match(
            r'\s*\{\s*(?:"signature"\s*:\s*"[0-9a-fA-F]*"\s*,\s*)?"' + name + r'"\s*:\s*', text
        )
        if not isinstance(value, dict) or start is None:
            raise ValueError
        _, end = json.JSONDecoder().raw_decode(text, start.end())
        return text[start.end() : end], hex_bytes(value.get("signature"), name, SIGNATURE_BYTES)
    except (ValueError, AgentProtocolError):
        raise CollateralError(f"expected {name} and its signature, got something else") from None


def revocation_list(body: bytes) -> bytes:
    """A revocation list in DER, from DER, hex of DER (PCCS) or PEM. Raises CollateralError."""
    if body[:1] == b"\x30":
        found = body
    else:
        try:
            text = body.decode("ascii").strip()
            pem = _PEM_CRL.fullmatch(text)
            if pem is not None:
                found = base64.b64decode("".join(pem.group(1).split()), validate=True)
            else:
                found = hex_bytes(text, "revocation list", len(text) // 2)
        except (ValueError, AgentProtocolError):
            raise CollateralError("expected a revocation list, got something else") from None
    if not 0 < len(found) <= CRL_BYTES_MAX:
        raise CollateralError(f"a revocation list has at most {CRL_BYTES_MAX} bytes")
    return found


def _chain(answer: _Answer, *names: str) -> str:
    """An issuer chain: PEM text, percent-encoded in a header."""
    for name in names:
        value = answer.headers.get(name.lower())
        if value is not None and len(value) <= CHAIN_CHARS_MAX:
            text = unquote(value)
            if "-----BEGIN CERTIFICATE-----" in text and text.isascii():
                return text
    raise CollateralError(f"header {names[0]}: expected a certificate chain")


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("a collateral URL does not parse") from None
    if not host or parts.username or parts.query or parts.fragment:
        raise ValueError("a collateral URL has a host and a path, nothing else")
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise ValueError("a collateral URL begins with https:// (http:// to this machine only)")
    return f"{host}:{port}" if port else host


async def _get(transport: httpx.AsyncHTTPTransport, url: str) -> _Answer:
    target = httpx.URL(url)
    request = httpx.Request(
        "GET",
        target,
        headers=[("Host", target.netloc.decode()), ("Accept-Encoding", "identity")],
        # The deadline of the whole is the caller's cancel scope.
        extensions={"timeout": {"connect": None, "read": None, "write": None, "pool": None}},
    )
    response = await transport.handle_async_request(request)
    try:
        if response.status_code != 200:
            raise _Unusable(f"{target.path} answered {response.status_code}")
        if "content-encoding" in response.headers:
            raise _Unusable(f"{target.path} answered compressed, which was not asked for")
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = bytearray()
        async for chunk in response.stream:
            body += chunk
            if len(body) > BODY_BYTES_MAX:
                raise _Unusable(f"{target.path} answered more than {BODY_BYTES_MAX} bytes")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return _Answer(headers, bytes(body))
    finally:
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await response.aclose()
