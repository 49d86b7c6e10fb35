"""Every error that this room raises; texts never contain key material."""

from __future__ import annotations

from enum import Enum


class AttestError(Exception):
    """Base of all errors of ``attest``."""


class AgentError(AttestError):
    """The guest agent did not give what was asked; the subclass says how it failed."""


class AgentUnavailable(AgentError):
    """No socket was found, nobody listens on it, or the connection broke before an answer."""


class AgentTimeout(AgentError):
    """The agent did not finish its answer within the deadline of the call."""


class AgentProtocolError(AgentError):
    """The answer is not HTTP, not JSON, too large, or a field has the wrong type, shape or size."""


class AgentRefused(AgentError):
    """The agent answered with an error status.

    ``status`` is the HTTP status, ``agent_text`` the agent's own words: bounded, printable, and
    for key methods with long hex runs removed; empty when it gave none.
    """

    def __init__(self, message: str, *, status: int, agent_text: str) -> None:
        super().__init__(message)
        self.status = status
        self.agent_text = agent_text


class MethodMissing(AgentRefused):
    """The API is there, the method is not (an older agent): 404 with a JSON error."""


class ApiNotMounted(AgentRefused):
    """This agent does not serve that API version at all: 404 without JSON."""


class ChainFault(Enum):
    """The step at which a signature chain failed; the value is a stable, machine-readable name."""

    BAD_SCHEME = "bad_scheme"  # neither v0 nor v1
    BAD_PURPOSE = "bad_purpose"  # text too long or not encodable
    BAD_APP_ID = "bad_app_id"  # not 20 bytes
    BAD_PUBLIC_KEY = "bad_public_key"  # not a compressed point of the curve
    WRONG_PURPOSE = "wrong_purpose"  # claims another purpose than the pinned one
    WRONG_APP_ID = "wrong_app_id"  # claims another app than the pinned one
    WRONG_PUBLIC_KEY = "wrong_public_key"  # certifies another key than the pinned one
    APP_SIGNATURE_ENCODING = "app_signature_encoding"
    APP_SIGNATURE_UNRECOVERABLE = "app_signature_unrecoverable"
    KMS_SIGNATURE_ENCODING = "kms_signature_encoding"
    KMS_SIGNATURE_UNRECOVERABLE = "kms_signature_unrecoverable"
    TEST_ROOT = "test_root"  # root key is published with the dstack sources
    UNTRUSTED_ROOT = "untrusted_root"  # no trusted root signed this; any changed field leads here
    ROOT_NOT_YET_VALID = "root_not_yet_valid"
    ROOT_EXPIRED = "root_expired"


class SignatureChainError(AttestError):
    """A signature chain was refused; ``fault`` says at which step."""

    def __init__(self, fault: ChainFault, message: str) -> None:
        super().__init__(f"{fault.value}: {message}")
        self.fault = fault


class IdentityError(AttestError):
    """The agent's answers are well formed but give no usable node identity."""


class QuoteError(AttestError):
    """The bytes are not a TDX quote of a kind that we read."""


class EventLogError(AttestError):
    """An event log is malformed, contradicts itself, or lacks what it must name exactly once."""


class EvidenceError(AttestError):
    """A container of quote and event log cannot be decoded."""


class CollateralError(AttestError):
    """Collateral is malformed, too large, or has no dates that can be judged."""


class CollateralUnavailable(AttestError):
    """No source gave collateral; the message names each source and how it failed."""


class PolicyError(AttestError):
    """A policy document is refused; the message names the place in it."""
