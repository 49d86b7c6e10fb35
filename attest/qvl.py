"""dcap-qvl behind one narrow door: the cryptography of a quote, and nothing of policy.

It checks the chain from Intel's root (pinned inside it) to the platform's key, to the quoting
enclave, to the quote; collateral, revocation lists, dates; and which TCB level the platform is at.
What it returns are claims: whether a status is good enough is for ``verifying`` to say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import dcap_qvl

from .collateral import Collateral
from .errors import QuoteError

T = TypeVar("T")

_ERROR_CHARS_MAX = 300


@dataclass(frozen=True, slots=True)
class Platform:
    """What a quote's certificate says of the platform, unproven: names its collateral.

    ``fmspc`` 6 bytes, ``ca`` "platform" or "processor".
    """

    fmspc: bytes
    ca: str


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid quote and its collateral establish about the platform.

    ``status`` is the worse of the platform's and the quoting enclave's; each has the ``tcbDate``
    (unix seconds) of its level. ``ppid`` 16 bytes. The flags are None where the certificate has
    none (processor CA).
    """

    status: str
    advisories: tuple[str, ...]
    platform_status: str
    platform_date_s: int
    qe_status: str
    qe_date_s: int
    ppid: bytes
    fmspc: bytes
    dynamic_platform: bool | None
    cached_keys: bool | None
    smt: bool | None


def platform_of(raw_quote: bytes) -> Platform:
    """Family and CA that the certificate inside a quote names. Raises QuoteError."""

    def read() -> Platform:
        quote = dcap_qvl.parse_quote(raw_quote)
        ca = quote.ca()
        if ca not in ("platform", "processor"):
            raise ValueError(f"certificate of an unknown CA {ca[:40]!r}")
        return Platform(bytes.fromhex(quote.fmspc()), ca)

    return _calling(read)


def verify_quote(
    raw_quote: bytes, collateral: Collateral, now_s: int, root_ca_der: bytes | None
) -> Claims:
    """Verify a quote at a time under Intel's root, or the given one (tests, simulators).

    Raises:
        QuoteError: in dcap-qvl's words: any signature, date, revocation or mismatch.
    """
    if now_s < 0:
        raise QuoteError("time before 1970")

    def run() -> Claims:
        verifier = dcap_qvl.QuoteVerifier(root_ca_der)
        parts = dcap_qvl.QuoteCollateralV3(
            pck_crl_issuer_chain=collateral.pck_crl_issuer_chain,
            root_ca_crl=collateral.root_ca_crl,
            pck_crl=collateral.pck_crl,
            tcb_info_issuer_chain=collateral.tcb_info_issuer_chain,
            tcb_info=collateral.tcb_info,
            tcb_info_signature=collateral.tcb_info_signature,
            qe_identity_issuer_chain=collateral.qe_identity_issuer_chain,
            qe_identity=collateral.qe_identity,
            qe_identity_signature=collateral.qe_identity_signature,
        )
        # "claims_only": dates are still enforced, every judgement on them is left to our policy.
        policy = dcap_qvl.QuotePolicy.claims_only(now_s)
        try:
            claims = verifier.verify_with_policy(raw_quote, parts, now_s, policy)
        except ValueError:
            # That names the step that failed and not why (a revoked certificate, say). The plain
            # call makes the same checks, so it fails too, and tells the causes.
            if root_ca_der is None:
                dcap_qvl.verify(raw_quote, parts, now_s)
            else:
                dcap_qvl.verify_with_root_ca(raw_quote, parts, root_ca_der, now_s)
            raise
        return _claims(json.loads(claims.to_json()))

    return _calling(run)


def _claims(value: Mapping[str, Any]) -> Claims:
    platform, qe, pck = value["platform"], value["qe"], value["platform"]["pck"]
    return Claims(
        status=value["tcb"]["status"],
        advisories=tuple(value["tcb"]["advisory_ids"]),
        platform_status=platform["tcb_level"]["tcbStatus"],
        platform_date_s=platform["tcb_date_tag"],
        qe_status=qe["tcb_level"]["tcbStatus"],
        qe_date_s=int(datetime.fromisoformat(qe["tcb_level"]["tcbDate"]).timestamp()),
        ppid=bytes(pck["ppid"]),
        fmspc=bytes(pck["fmspc"]),
        dynamic_platform=_flag(pck["dynamic_platform"]),
        cached_keys=_flag(pck["cached_keys"]),
        smt=_flag(pck["smt_enabled"]),
    )


def _flag(text: str) -> bool | None:
    return {"True": True, "False": False, "Undefined": None}[text]


def _calling(function: Callable[[], T]) -> T:
    try:
        return function()
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise QuoteError(_plain(error)) from None
    except BaseException as error:
        # A panic in the library arrives as a BaseException that no handler expects.
        if type(error).__name__ != "PanicException":
            raise
        raise QuoteError("the quote library gave up on this input") from None


def _plain(error: Exception) -> str:
    words = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else "?" for c in words)[:_ERROR_CHARS_MAX]
