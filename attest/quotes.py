"""TDX quotes, versions 4 and 5, from bytes to fields. Nothing here is proven: see ``verifying``.

    v4: header 48 | TD10 body 584                          | auth length u32 | auth data
    v5: header 48 | body type u16, size u32 | TD10 or TD15 | auth length u32 | auth data

All numbers are little-endian. Format: Intel TDX DCAP Quoting Library API, appendix A (quote
format), and ``TDX Module ABI`` for the bits of the TD attributes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import QuoteError

QUOTE_BYTES_MAX = 16 * 1024
REPORT_DATA_BYTES = 64
MEASUREMENT_BYTES = 48

TEE_TYPE_TDX = 0x81
KEY_TYPE_ECDSA_P256 = 2
INTEL_QE_VENDOR = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
BODY_TD10 = 2
BODY_TD15 = 3

_HEADER_BYTES = 48
_TD10_BYTES = 584
_TD15_BYTES = 648
_BODY_BYTES = {BODY_TD10: _TD10_BYTES, BODY_TD15: _TD15_BYTES}
_CERTIFICATION_QE_REPORT = 6
_CERTIFICATION_PCK_CHAIN = 5
_QE_REPORT_BYTES = 384
_QE_AUTH_BYTES_MAX = 1024

# TD attributes. The first byte gives the host a way in (bit 0: debug; 4 to 6: profiling). Below,
# migration (29) and the agent that provisions devices (62) hand secrets on; the rest is reserved or
# not known to be harmless. So the harmless ones are listed, and no other may be set.
_SEPT_VE_DISABLE = 1 << 28
_HARMLESS = sum(1 << bit for bit in (27, 30, 31, 63))  # LASS, PKS, KL, PERFMON
_HOST_MAY_LOOK = 0xFF


@dataclass(frozen=True, slots=True)
class TdxQuote:
    """The fields of a quote, as they stand in it.

    ``version`` 4 or 5, ``body_type`` 2 (TD10) or 3 (TD15). ``mr_*`` and ``rtmrs`` are 48 bytes,
    ``report_data`` 64, ``tee_tcb_svn`` 16, the attributes and ``xfam`` 8. ``tee_tcb_svn2`` and
    ``mr_service_td`` exist in TD15 only, else None. ``signed`` are the bytes that the quoting
    enclave signed, ``pck_chain`` the PEM text of the platform's certificate chain.
    """

    version: int
    body_type: int
    qe_svn: int
    pce_svn: int
    qe_vendor_id: bytes
    user_data: bytes
    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    tee_tcb_svn2: bytes | None
    mr_service_td: bytes | None
    signed: bytes = field(repr=False)
    pck_chain: bytes = field(repr=False)

    @property
    def is_debug(self) -> bool:
        """Whether an attribute lets the host look into the machine."""
        return bool(self._attributes & _HOST_MAY_LOOK)

    @property
    def is_closed(self) -> bool:
        """Whether no attribute opens the machine: none but harmless ones, and SEPT_VE_DISABLE.

        Without the last one the host can take pages away and inject exceptions instead.
        """
        return self._attributes & ~_HARMLESS == _SEPT_VE_DISABLE

    @property
    def _attributes(self) -> int:
        return int.from_bytes(self.td_attributes, "little")


def parse_quote(raw: bytes) -> TdxQuote:
    """The fields of a quote of at most 16 KiB.

    Trailing zero bytes are allowed: the kernel hands quotes out in a padded buffer. Anything else
    behind the quote is refused, so that no two texts differ only in what nobody signed.

    Raises:
        QuoteError: not a version 4 or 5 TDX quote with an ECDSA P-256 key and a PCK chain inside.
    """
    if len(raw) > QUOTE_BYTES_MAX:
        raise QuoteError(f"a quote has at most {QUOTE_BYTES_MAX} bytes, got {len(raw)}")
    reader = _Reader(raw)
    version = reader.number(2, "version")
    if version not in (4, 5):
        raise QuoteError(f"version: expected 4 or 5, got {version}")
    key_type = reader.number(2, "attestation key type")
    if key_type != KEY_TYPE_ECDSA_P256:
        raise QuoteError(f"attestation key type: expected 2 (ECDSA P-256), got {key_type}")
    tee_type = reader.number(4, "TEE type")
    if tee_type != TEE_TYPE_TDX:
        raise QuoteError(f"TEE type: expected 0x81 (TDX), got {tee_type:#x}")
    qe_svn = reader.number(2, "QE SVN")
    pce_svn = reader.number(2, "PCE SVN")
    vendor = reader.take(16, "QE vendor id")
    if vendor != INTEL_QE_VENDOR:
        raise QuoteError(f"QE vendor id: expected Intel's, got {vendor.hex()}")
    user_data = reader.take(20, "user data")
    assert reader.at == _HEADER_BYTES
    body_type = BODY_TD10
    if version == 5:
        body_type = reader.number(2, "body type")
        size = reader.number(4, "body size")
        if _BODY_BYTES.get(body_type) != size:
            raise QuoteError(
                f"body: expected type 2 of 584 or type 3 of 648 bytes, got {body_type} of {size}"
            )
    mr = MEASUREMENT_BYTES
    tee_tcb_svn = reader.take(16, "TEE TCB SVN")
    mr_seam = reader.take(mr, "MRSEAM")
    mr_signer_seam = reader.take(mr, "MRSIGNERSEAM")
    seam_attributes = reader.take(8, "SEAM attributes")
    td_attributes = reader.take(8, "TD attributes")
    xfam = reader.take(8, "XFAM")
    mr_td, mr_config_id, mr_owner, mr_owner_config, *rtmrs = (
        reader.take(mr, "measurements") for _ in range(8)
    )
    report_data = reader.take(REPORT_DATA_BYTES, "report data")
    extended = body_type == BODY_TD15
    tee_tcb_svn2 = reader.take(16, "TEE TCB SVN 2") if extended else None
    mr_service_td = reader.take(mr, "MRSERVICETD") if extended else None
    signed = raw[: reader.at]
    pck_chain = _authentication(reader)
    return TdxQuote(
        version=version,
        body_type=body_type,
        qe_svn=qe_svn,
        pce_svn=pce_svn,
        qe_vendor_id=vendor,
        user_data=user_data,
        tee_tcb_svn=tee_tcb_svn,
        mr_seam=mr_seam,
        mr_signer_seam=mr_signer_seam,
        seam_attributes=seam_attributes,
        td_attributes=td_attributes,
        xfam=xfam,
        mr_td=mr_td,
        mr_config_id=mr_config_id,
        mr_owner=mr_owner,
        mr_owner_config=mr_owner_config,
        rtmrs=(rtmrs[0], rtmrs[1], rtmrs[2], rtmrs[3]),
        report_data=report_data,
        tee_tcb_svn2=tee_tcb_svn2,
        mr_service_td=mr_service_td,
        signed=signed,
        pck_chain=pck_chain,
    )


def _authentication(reader: _Reader) -> bytes:
    """Checks the structure behind the body; returns the PEM text of the PCK chain."""
    auth = _Reader(reader.take(reader.number(4, "auth length"), "auth data"))
    reader.end(allow_zeros=True)
    auth.take(64, "signature")
    auth.take(64, "attestation key")
    _expect(auth.number(2, "certification type"), _CERTIFICATION_QE_REPORT, "certification type")
    outer = _Reader(auth.take(auth.number(4, "certification length"), "certification data"))
    auth.end()
    outer.take(_QE_REPORT_BYTES, "QE report")
    outer.take(64, "QE report signature")
    qe_auth_bytes = outer.number(2, "QE auth length")
    if qe_auth_bytes > _QE_AUTH_BYTES_MAX:
        raise QuoteError(f"QE auth data: at most {_QE_AUTH_BYTES_MAX} bytes, got {qe_auth_bytes}")
    outer.take(qe_auth_bytes, "QE auth data")
    _expect(
        outer.number(2, "inner certification type"),
        _CERTIFICATION_PCK_CHAIN,
        "inner certification type",
    )
    chain = outer.take(outer.number(4, "PCK chain length"), "PCK chain")
    outer.end()
    return chain


def _expect(came: int, expected: int, what: str) -> None:
    if came != expected:
        raise QuoteError(f"{what}: expected {expected}, got {came}")


class _Reader:
    """Takes bounded pieces from the front; running out is a QuoteError that names the piece."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.at = 0

    def take(self, size: int, what: str) -> bytes:
        piece = self._raw[self.at : self.at + size]
        if len(piece) != size:
            raise QuoteError(f"{what}: expected {size} bytes, got {len(piece)}")
        self.at += size
        return piece

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "little")

    def end(self, *, allow_zeros: bool = False) -> None:
        rest = self._raw[self.at :]
        if rest and not (allow_zeros and not any(rest)):
            raise QuoteError(f"expected the end, got {len(rest)} more bytes")
