"""Why evidence is refused: a code for the peer, a row per check for the operator."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class RefusalCode(IntEnum):
    """The first check that failed. The numbers go over the wire and never change their meaning."""

    NO_POLICY = 1  # the verifier has no policy and takes nobody
    BAD_QUOTE = 2  # not a TDX quote that we read
    DEBUG = 3  # the host can read the machine, or could by its attributes
    TDX_MODULE = 4  # not Intel's module, or a service machine is bound
    COLLATERAL_MISSING = 5  # none, malformed, or of another platform family
    COLLATERAL_STALE = 6  # out of its dates, or older than the policy takes
    QUOTE_SIGNATURE = 7  # quote, certificate chain or collateral is not signed as it must be
    TCB_REVOKED = 8  # Intel revoked the platform's level or certificate
    TCB_STATUS = 9  # a level that the policy does not take, or no longer
    ADVISORY = 10  # an advisory applies that the policy does not accept
    PLATFORM = 11  # dynamic platform, cached keys or SMT where the policy forbids it
    DEVICE = 12  # not a listed device
    REPORT_DATA = 13  # made for another session, seat or incarnation
    EVENT_LOG = 14  # malformed, or does not lead to the quote's registers
    MEASUREMENT = 15  # firmware, kernel or VM shape is not listed
    OS_IMAGE = 16
    COMPOSE_HASH = 17
    APP_ID = 18
    INSTANCE_ID = 19
    KEY_PROVIDER = 20
    BAD_EVIDENCE = 21  # the container cannot be decoded
    QUOTE_AGE = 22  # not renewed in time


@dataclass(frozen=True, slots=True)
class Check:
    """One row of a verdict: what was expected and what came, in words or hex.

    ``code`` is the refusal that its failure leads to. A check that could not be made, because an
    earlier one left nothing to look at, did not pass. One that is not ``judged`` (nothing was
    demanded) passes whatever came.
    """

    name: str
    passed: bool
    expected: str
    came: str
    code: RefusalCode
    judged: bool = True
