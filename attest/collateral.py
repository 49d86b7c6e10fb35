"""Collateral: what Intel signed about a platform family, without which a quote proves nothing.

Nine parts (``QuoteCollateralV3`` of dcap-qvl, from the PCS v4 API): TCB info and quoting enclave
identity with signatures and issuer chains, and two revocation lists. Whoever hands collateral out
needs no trust: all of it is signed by Intel. What it can do is hand out old collateral, hence the
dates here and the age limits of the policy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cryptography import x509

from .bounded_json import parse_json
from .errors import AgentProtocolError, CollateralError
from .strict_json import hex_bytes

COLLATERAL_BYTES_MAX = 128 * 1024
CRL_BYTES_MAX = 48 * 1024
TEXT_CHARS_MAX = 64 * 1024
SIGNATURE_BYTES = 64
FMSPC_BYTES = 6

_TEXTS = (
    "pck_crl_issuer_chain",
    "tcb_info_issuer_chain",
    "tcb_info",
    "qe_identity_issuer_chain",
    "qe_identity",
)
_CRLS = ("root_ca_crl", "pck_crl")
_SIGNATURES = ("tcb_info_signature", "qe_identity_signature")
_OPTIONAL = ("pck_certificate_chain",)


@dataclass(frozen=True, slots=True)
class Collateral:
    """Collateral of one platform family; its signatures are not checked until a quote is.

    Chains are PEM texts, ``tcb_info`` and ``qe_identity`` the signed JSON texts, CRLs are DER,
    signatures 64 bytes r || s. ``fmspc`` (6 bytes) names the family. ``issued_s`` and
    ``valid_until_s`` (unix seconds) are the oldest issue date of the parts that Intel renews
    monthly (TCB info, identity, PCK revocation list) and the earliest end among all parts.
    """

    pck_crl_issuer_chain: str = field(repr=False)
    root_ca_crl: bytes = field(repr=False)
    pck_crl: bytes = field(repr=False)
    tcb_info_issuer_chain: str = field(repr=False)
    tcb_info: str = field(repr=False)
    tcb_info_signature: bytes = field(repr=False)
    qe_identity_issuer_chain: str = field(repr=False)
    qe_identity: str = field(repr=False)
    qe_identity_signature: bytes = field(repr=False)
    fmspc: bytes
    tcb_evaluation_number: int
    issued_s: int
    latest_issued_s: int
    valid_until_s: int

    def to_json(self) -> bytes:
        """The JSON text of dcap-qvl and of offline bundles; ``parse_collateral`` reads it."""
        document: dict[str, str] = {}
        for name in _TEXTS:
            document[name] = getattr(self, name)
        for name in (*_CRLS, *_SIGNATURES):
            document[name] = getattr(self, name).hex()
        return json.dumps(document, separators=(",", ":")).encode()

    def age_s(self, now_s: int) -> int:
        """Seconds since the oldest of the monthly parts was issued; negative before."""
        return now_s - self.issued_s

    def serves(self, now_s: int, age_s_max: int) -> bool:
        """Whether all parts are within their dates, and the monthly ones as young as asked."""
        in_date = self.latest_issued_s <= now_s <= self.valid_until_s
        return in_date and self.age_s(now_s) <= age_s_max


def parse_collateral(raw: bytes) -> Collateral:
    """Collateral from its JSON text of at most 128 KiB.

    Raises:
        CollateralError: malformed, a part missing or too large, or a date that cannot be read.
    """
    if len(raw) > COLLATERAL_BYTES_MAX:
        raise CollateralError(f"collateral has at most {COLLATERAL_BYTES_MAX} bytes")
    try:
        value = parse_json(raw)
    except ValueError:
        raise CollateralError("expected a JSON object, got something else") from None
    if not isinstance(value, dict):
        raise CollateralError("expected a JSON object, got another JSON value")
    unknown = set(value) - {*_TEXTS, *_CRLS, *_SIGNATURES, *_OPTIONAL}
    if unknown:
        raise CollateralError(f"unknown field {sorted(unknown)[0][:40]!r}")
    return collateral_of(
        pck_crl_issuer_chain=_text(value, "pck_crl_issuer_chain"),
        root_ca_crl=_hex(value, "root_ca_crl"),
        pck_crl=_hex(value, "pck_crl"),
        tcb_info_issuer_chain=_text(value, "tcb_info_issuer_chain"),
        tcb_info=_text(value, "tcb_info"),
        tcb_info_signature=_hex(value, "tcb_info_signature", SIGNATURE_BYTES),
        qe_identity_issuer_chain=_text(value, "qe_identity_issuer_chain"),
        qe_identity=_text(value, "qe_identity"),
        qe_identity_signature=_hex(value, "qe_identity_signature", SIGNATURE_BYTES),
    )


def collateral_of(
    *,
    pck_crl_issuer_chain: str,
    root_ca_crl: bytes,
    pck_crl: bytes,
    tcb_info_issuer_chain: str,
    tcb_info: str,
    tcb_info_signature: bytes,
    qe_identity_issuer_chain: str,
    qe_identity: str,
    qe_identity_signature: bytes,
) -> Collateral:
    """Collateral from its nine parts, with family and dates read out of them.

    Raises CollateralError.
    """
    tcb = _document(tcb_info, "tcb_info")
    identity = _document(qe_identity, "qe_identity")
    tcb_issued, tcb_until = _dates(tcb, "tcb_info")
    identity_issued, identity_until = _dates(identity, "qe_identity")
    pck_issued, pck_until = _crl_dates(pck_crl, "pck_crl")
    root_issued, root_until = _crl_dates(root_ca_crl, "root_ca_crl")
    number = tcb.get("tcbEvaluationDataNumber")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 1 << 32:
        raise CollateralError("tcb_info: tcbEvaluationDataNumber is a number below 2**32")
    try:
        fmspc = hex_bytes(tcb.get("fmspc"), "tcb_info fmspc", FMSPC_BYTES)
    except AgentProtocolError as error:
        raise CollateralError(str(error)) from None
    return Collateral(
        pck_crl_issuer_chain=pck_crl_issuer_chain,
        root_ca_crl=root_ca_crl,
        pck_crl=pck_crl,
        tcb_info_issuer_chain=tcb_info_issuer_chain,
        tcb_info=tcb_info,
        tcb_info_signature=tcb_info_signature,
        qe_identity_issuer_chain=qe_identity_issuer_chain,
        qe_identity=qe_identity,
        qe_identity_signature=qe_identity_signature,
        fmspc=fmspc,
        tcb_evaluation_number=number,
        # The root's list is renewed once a year: its age says nothing about the others.
        issued_s=min(tcb_issued, identity_issued, pck_issued),
        latest_issued_s=max(tcb_issued, identity_issued, pck_issued, root_issued),
        valid_until_s=min(tcb_until, identity_until, pck_until, root_until),
    )


def _text(value: Mapping[str, Any], name: str) -> str:
    text = value.get(name)
    if not isinstance(text, str) or not 0 < len(text) <= TEXT_CHARS_MAX or not text.isascii():
        raise CollateralError(f"{name}: expected ASCII text of at most {TEXT_CHARS_MAX} characters")
    return text


def _hex(value: Mapping[str, Any], name: str, size: int | None = None) -> bytes:
    text = value.get(name)
    try:
        if size is None and isinstance(text, str) and 0 < len(text) <= 2 * CRL_BYTES_MAX:
            return hex_bytes(text, name, len(text) // 2)
        return hex_bytes(text, name, CRL_BYTES_MAX if size is None else size)
    except AgentProtocolError as error:
        raise CollateralError(str(error)) from None


def _document(text: str, name: str) -> Mapping[str, Any]:
    try:
        value = parse_json(text.encode())
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CollateralError(f"{name}: expected a JSON object")
    return value


def _dates(document: Mapping[str, Any], name: str) -> tuple[int, int]:
    return _date(document.get("issueDate"), name), _date(document.get("nextUpdate"), name)


def _date(text: object, name: str) -> int:
    try:
        if not isinstance(text, str) or len(text) > 40:
            raise ValueError
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise ValueError
        return int(moment.timestamp())
    except (ValueError, OverflowError):
        raise CollateralError(f"{name}: expected a date with time zone") from None


def _crl_dates(der: bytes, name: str) -> tuple[int, int]:
    try:
        crl = x509.load_der_x509_crl(der)
        issued, until = crl.last_update_utc, crl.next_update_utc
    except Exception as error:
        # The decoder's own errors have no common base; InvalidVersion is not even a ValueError.
        kind = type(error).__name__
        raise CollateralError(f"{name}: not a revocation list in DER ({kind})") from None
    if until is None:
        raise CollateralError(f"{name}: has no next update")
    return int(issued.timestamp()), int(until.timestamp())


def iso_date(seconds: int) -> str:
    """Unix seconds as people read them."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):
        return f"second {seconds}"
