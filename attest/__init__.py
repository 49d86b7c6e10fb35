"""Who runs: the guest agent's keys and the signature chains that prove them.

Keys and chains come in from a guest agent or a peer, unproven; verified values go out, or typed
errors that name the failed step. Imports no other room; does no I/O but the agent's socket.
Read: ``errors``, ``keys``, ``chain`` (what is proven and what not), ``bounded_json``,
``strict_json``, ``unix_http``, ``agent``, ``identity``.
"""

from .agent import AgentInfo, AgentKey, AgentVersion, GuestAgent
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
from .errors import (
    AgentError,
    AgentProtocolError,
    AgentRefused,
    AgentTimeout,
    AgentUnavailable,
    ApiNotMounted,
    AttestError,
    ChainFault,
    IdentityError,
    MethodMissing,
    SignatureChainError,
)
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
    "GuestAgent",
    "IdentityError",
    "KeyProof",
    "MethodMissing",
    "NodeIdentity",
    "SecretKey",
    "SignatureChainError",
    "TrustedRoot",
    "VerifiedChain",
    "address_of_key",
    "checksum_address",
    "compressed_to_xy",
    "from_evm_signature",
    "keccak256",
    "node_purpose",
    "obtain_identity",
    "to_evm_signature",
    "verify_chain",
]
