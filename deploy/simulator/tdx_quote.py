"""TDX quotes of simulated machines: the layout of versions 4 and 5, signed like real ones.

Layout: Intel's "TDX DCAP Quoting Library API", appendix A. A quote is a header and a report of the
TD, signed by the attestation key of the quoting enclave, whose own report is signed by the
machine's PCK key, whose chain is inside.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from .tdx_collateral import QE_ATTRIBUTES, QE_MRSIGNER, QE_PRODUCT_ID, QE_SVN
from .tdx_pki import CPU_SVN, Platform, TdxPki, raw_public_key, sign_raw

VERSIONS = (4, 5)
MEASUREMENT_BYTES = 48
REPORT_DATA_BYTES = 64
QE_VENDOR_ID = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
TEE_TYPE_TDX = 0x81
KEY_TYPE_P256 = 2
BODY_TYPE_TD10 = 2
CERTIFICATION_PCK_CHAIN = 5
CERTIFICATION_QE_REPORT = 6

ATTRIBUTE_DEBUG = 1 << 0
ATTRIBUTE_SEPT_VE_DISABLE = 1 << 28
XFAM = 0x06_02E7

_ZERO = bytes(MEASUREMENT_BYTES)


@dataclass(frozen=True, slots=True)
class TdReport:
    """What the TDX module reports of a TD, version 1.0: the 584 bytes that a quote signs.

    Measurements are 48 bytes, ``tee_tcb_svn`` 16, ``report_data`` 64.
    """

    tee_tcb_svn: bytes
    mr_td: bytes
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    report_data: bytes
    mr_config_id: bytes = _ZERO
    mr_seam: bytes = bytes.fromhex("5e" * MEASUREMENT_BYTES)
    td_attributes: int = ATTRIBUTE_SEPT_VE_DISABLE

    def to_bytes(self) -> bytes:
        """The report in the order and widths of the specification."""
        measured = (self.mr_seam, self.mr_td, self.mr_config_id, *self.rtmrs)
        assert all(len(value) == MEASUREMENT_BYTES for value in measured)
        assert len(self.tee_tcb_svn) == 16 and len(self.report_data) == REPORT_DATA_BYTES
        return b"".join(
            (
                self.tee_tcb_svn,
                self.mr_seam,
                _ZERO,  # signer of the SEAM module: Intel's own modules have none
                bytes(8),  # SEAM attributes
                self.td_attributes.to_bytes(8, "little"),
                XFAM.to_bytes(8, "little"),
                self.mr_td,
                self.mr_config_id,
                _ZERO,  # owner
                _ZERO,  # owner's configuration
                *self.rtmrs,
                self.report_data,
            )
        )


class QuotingEnclave:
    """The quoting enclave of one machine; its own report is made and certified once."""

    def __init__(self, pki: TdxPki, platform: Platform) -> None:
        self._key = pki.attestation_key(platform)
        pck = pki.pck(platform)
        public_key = raw_public_key(self._key)
        auth_data = bytes(range(32))
        report = _enclave_report(hashlib.sha256(public_key + auth_data).digest())
        certification = b"".join(
            (
                report,
                sign_raw(pck.key, report),
                len(auth_data).to_bytes(2, "little"),
                auth_data,
                _certification(CERTIFICATION_PCK_CHAIN, pck.chain_pem),
            )
        )
        self._after_signature = public_key + _certification(CERTIFICATION_QE_REPORT, certification)

    def quote(self, report: TdReport, version: int = 4) -> bytes:
        """The quote of this report, in version 4 or 5."""
        if version not in VERSIONS:
            raise ValueError(f"quotes have version 4 or 5, not {version}")
        body = report.to_bytes()
        descriptor = b""
        if version == 5:
            descriptor = BODY_TYPE_TD10.to_bytes(2, "little") + len(body).to_bytes(4, "little")
        signed = _header(version) + descriptor + body
        authenticated = sign_raw(self._key, signed) + self._after_signature
        return signed + len(authenticated).to_bytes(4, "little") + authenticated


def _header(version: int) -> bytes:
    return b"".join(
        (
            version.to_bytes(2, "little"),
            KEY_TYPE_P256.to_bytes(2, "little"),
            TEE_TYPE_TDX.to_bytes(4, "little"),
            bytes(4),  # SVNs of QE and PCE, reserved since version 4
            QE_VENDOR_ID,
            bytes(20),  # user data
        )
    )


def _enclave_report(data_hash: bytes) -> bytes:
    report = b"".join(
        (
            CPU_SVN,
            bytes(4),  # MISCSELECT
            bytes(28),
            QE_ATTRIBUTES,
            hashlib.sha256(b"mock quoting enclave").digest(),  # MRENCLAVE
            bytes(32),
            QE_MRSIGNER,
            bytes(96),
            QE_PRODUCT_ID.to_bytes(2, "little"),
            QE_SVN.to_bytes(2, "little"),
            bytes(60),
            data_hash,
            bytes(32),
        )
    )
    assert len(report) == 384
    return report


def _certification(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2, "little") + len(content).to_bytes(4, "little") + content
