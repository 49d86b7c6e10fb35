"""What Intel states about its platforms, as the mock authority states it: TCB info, QE identity.

The statements are the same for every machine and never lie; a machine in a bad state differs in
what it is, as in reality: a lower SVN in its quote (``TCB_LEVELS``), another FMSPC whose statement
nobody renewed, a PCK certificate that the revocation list names. So a verifier needs no word from
the simulator to judge right, and faults of machines need no word between processes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from attest.collateral import Collateral, collateral_of

from .tdx_pki import CPU_SVN, PCE_ID, PCE_SVN, TdxPki

FMSPC_FRESH = bytes.fromhex("90c06f000000")
FMSPC_STALE = bytes.fromhex("80c06f000000")  # a platform whose collateral ran out long ago

LIFETIME = timedelta(days=30)
STALE_BY = timedelta(days=60)
EVALUATION_NUMBER = 18

QE_MRSIGNER = bytes.fromhex("44" * 32)
QE_PRODUCT_ID = 2
QE_SVN = 4
QE_ATTRIBUTES = bytes.fromhex("11000000000000000000000000000000")

TEE_TCB_SVN = bytes.fromhex("0601") + bytes(14)  # the TDX module; byte 2 is the microcode's
MICROCODE_INDEX = 2
_NO_SIGNER = "00" * 48
_MASK_ALL = "FF" * 8


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """One state of a platform: the least microcode SVN for it, its name and open advisories."""

    svn: int
    status: str
    advisories: tuple[str, ...]
    date: str


# From the newest down; a platform is at the first level whose SVN it reaches.
TCB_LEVELS = (
    TcbLevel(9, "UpToDate", (), "2025-05-14T00:00:00Z"),
    TcbLevel(8, "SWHardeningNeeded", ("INTEL-SA-00615",), "2025-05-14T00:00:00Z"),
    TcbLevel(7, "ConfigurationNeeded", ("INTEL-SA-00837",), "2025-05-14T00:00:00Z"),
    TcbLevel(
        6,
        "ConfigurationAndSWHardeningNeeded",
        ("INTEL-SA-00615", "INTEL-SA-00837"),
        "2025-05-14T00:00:00Z",
    ),
    TcbLevel(5, "OutOfDate", ("INTEL-SA-01036", "INTEL-SA-01099"), "2024-03-13T00:00:00Z"),
    TcbLevel(
        4,
        "OutOfDateConfigurationNeeded",
        ("INTEL-SA-00837", "INTEL-SA-01036", "INTEL-SA-01099"),
        "2024-03-13T00:00:00Z",
    ),
    TcbLevel(3, "Revoked", ("INTEL-SA-00106", "INTEL-SA-00115"), "2018-01-04T00:00:00Z"),
)
TCB_STATUSES = tuple(level.status for level in TCB_LEVELS)


def tee_tcb_svn(status: str) -> bytes:
    """The 16-byte TEE TCB SVN of a machine that is to have this status. Raises ValueError."""
    for level in TCB_LEVELS:
        if level.status == status:
            svn = bytearray(TEE_TCB_SVN)
            svn[MICROCODE_INDEX] = level.svn
            return bytes(svn)
    raise ValueError(f"no TCB status {status!r}; there are {', '.join(TCB_STATUSES)}")


def collateral(pki: TdxPki, fmspc: bytes, now_s: float) -> Collateral:
    """What the authority states about this platform family (6 bytes) at unix time ``now_s``."""
    # Yesterday's, as real caches serve it: clocks of verifiers may run a little behind.
    issued = datetime.fromtimestamp(int(now_s), UTC) - timedelta(days=1)
    tcb_issued = issued - STALE_BY if fmspc == FMSPC_STALE else issued
    tcb_info = _compact(_tcb_info(fmspc, tcb_issued))
    qe_identity = _compact(_qe_identity(issued))
    return collateral_of(
        pck_crl_issuer_chain=pki.pck_ca_chain_pem,
        root_ca_crl=pki.root_crl(issued),
        pck_crl=pki.pck_crl(issued),
        tcb_info_issuer_chain=pki.signer_chain_pem,
        tcb_info=tcb_info,
        tcb_info_signature=pki.sign_statement(tcb_info.encode()),
        qe_identity_issuer_chain=pki.signer_chain_pem,
        qe_identity=qe_identity,
        qe_identity_signature=pki.sign_statement(qe_identity.encode()),
    )


def _tcb_info(fmspc: bytes, issued: datetime) -> dict[str, Any]:
    module = {"mrsigner": _NO_SIGNER, "attributes": "00" * 8, "attributesMask": _MASK_ALL}
    return {
        "id": "TDX",
        "version": 3,
        **_validity(issued),
        "fmspc": fmspc.hex().upper(),
        "pceId": PCE_ID.hex(),
        "tcbType": 0,
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "tdxModule": module,
        "tdxModuleIdentities": [
            {
                "id": f"TDX_{TEE_TCB_SVN[1]:02X}",
                **module,
                "tcbLevels": [_level({"isvsvn": TEE_TCB_SVN[0]}, TCB_LEVELS[0])],
            }
        ],
        "tcbLevels": [
            _level(
                {
                    "sgxtcbcomponents": _components(CPU_SVN),
                    "pcesvn": PCE_SVN,
                    "tdxtcbcomponents": _components(tee_tcb_svn(level.status)),
                },
                level,
            )
            for level in TCB_LEVELS
        ],
    }


def _qe_identity(issued: datetime) -> dict[str, Any]:
    return {
        "id": "TD_QE",
        "version": 2,
        **_validity(issued),
        "tcbEvaluationDataNumber": EVALUATION_NUMBER,
        "miscselect": "00000000",
        "miscselectMask": "FFFFFFFF",
        "attributes": QE_ATTRIBUTES.hex().upper(),
        "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
        "mrsigner": QE_MRSIGNER.hex().upper(),
        "isvprodid": QE_PRODUCT_ID,
        "tcbLevels": [_level({"isvsvn": QE_SVN}, TCB_LEVELS[0])],
    }


def _level(tcb: dict[str, Any], level: TcbLevel) -> dict[str, Any]:
    entry: dict[str, Any] = {"tcb": tcb, "tcbDate": level.date, "tcbStatus": level.status}
    if level.advisories:
        entry["advisoryIDs"] = list(level.advisories)
    return entry


def _components(svns: bytes) -> list[dict[str, int]]:
    return [{"svn": svn} for svn in svns]


def _validity(issued: datetime) -> dict[str, str]:
    return {"issueDate": _timestamp(issued), "nextUpdate": _timestamp(issued + LIFETIME)}


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _compact(value: dict[str, Any]) -> str:
    # Signed as text: whoever passes it on must not reorder or reformat it.
    return json.dumps(value, separators=(",", ":"))
