"""Who runs: the guest agent's keys, the signature chains that prove them, and TDX quotes.

Keys, chains and quotes come in from a guest agent or a peer, unproven; verified values go out, or
typed errors and verdicts that name the failed step. Imports no other room. I/O is done by four
modules only: ``unix_http`` (the agent's socket), ``pccs`` (collateral over HTTPS), ``durable`` and
``collateral_store`` (files). Verification is pure: evidence, policy, collateral and the time are
arguments.
Read: ``errors``, ``keys``, ``chain`` (what is proven and what not), ``bounded_json``,
``strict_json``, ``unix_http``, ``agent``, ``identity``; for quotes ``quotes``, ``event_log``,
``evidence``, ``ratls``, ``shown``, ``binding``, ``collateral``, ``durable``, ``collateral_store``,
``pccs``, ``policy``, ``policy_draft``; then the verdict: ``refusals``, ``rows``, ``qvl``,
``platform_checks``, ``machine_checks``, ``verifying``. ``verifying`` and ``pccs`` load what most
commands never need, a native library and a TLS client: they are imported by name, not from here.
"""

from .agent import AgentInfo, AgentKey, AgentVersion, GuestAgent
from .binding import report_data
from .chain import (
    PUBLIC_TEST_ROOTS,
    SCHEME_V0,
    SCHEME_V1,
    KeyProof,
    TrustedRoot,
    VerifiedChain,
    node_purpose,
    verify_chain,
)
from .collateral import Collateral, parse_collateral
from .errors import (
    AgentError,
    AgentProtocolError,
    AgentRefused,
    AgentTimeout,
    AgentUnavailable,
    ApiNotMounted,
    AttestError,
    ChainFault,
    CollateralError,
    CollateralUnavailable,
    EventLogError,
    EvidenceError,
    IdentityError,
    MethodMissing,
    PolicyError,
    QuoteError,
    SignatureChainError,
)
from .event_log import EventLog, RuntimeFacts, parse_event_log, replay, runtime_facts
from .evidence import Evidence, decode_attestation
from .identity import NodeIdentity, obtain_identity
from .keys import (
    SecretKey,
    address_of_key,
    checksum_address,
    compressed_to_xy,
    from_evm_signature,
    keccak256,
    to_evm_signature,
)
from .policy import Policy, parse_policy, policy_digest
from .quotes import TdxQuote, parse_quote
from .refusals import Check, RefusalCode

__all__ = [
    "PUBLIC_TEST_ROOTS",
    "SCHEME_V0",
    "SCHEME_V1",
    "AgentError",
    "AgentInfo",
    "AgentKey",
    "AgentProtocolError",
    "AgentRefused",
    "AgentTimeout",
    "AgentUnavailable",
    "AgentVersion",
    "ApiNotMounted",
    "AttestError",
    "ChainFault",
    "Check",
    "Collateral",
    "CollateralError",
    "CollateralUnavailable",
    "EventLog",
    "EventLogError",
    "Evidence",
    "EvidenceError",
    "GuestAgent",
    "IdentityError",
    "KeyProof",
    "MethodMissing",
    "NodeIdentity",
    "Policy",
    "PolicyError",
    "QuoteError",
    "RefusalCode",
    "RuntimeFacts",
    "SecretKey",
    "SignatureChainError",
    "TdxQuote",
    "TrustedRoot",
    "VerifiedChain",
    "address_of_key",
    "checksum_address",
    "compressed_to_xy",
    "decode_attestation",
    "from_evm_signature",
    "keccak256",
    "node_purpose",
    "obtain_identity",
    "parse_collateral",
    "parse_event_log",
    "parse_policy",
    "parse_quote",
    "policy_digest",
    "replay",
    "report_data",
    "runtime_facts",
    "to_evm_signature",
    "verify_chain",
]
