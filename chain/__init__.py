"""Who belongs: the registry on a chain, read so that no single RPC endpoint is believed.

Enters: chain clients and their state files; the contract's interface comes from ``contracts``.
Read membership (the values), rpc (one endpoint), health and agreement (k of n at finalized blocks),
headers, proofs and storage (what a block's hash vouches for), watermark, replay, events and history
(events proven by the digest), words, rows and apps (what the contract holds), policy (what members
are checked against), evm (the registry), follow (views of who votes), memory, then fees, sender
with journal and transactions, registration, shown and certificates (what the cluster shows); abi,
eip712, rlp, keys and decoding are their alphabet. ``deployment`` is the file that names a registry.
All errors are ``ChainError``.
"""

from chain.abi import ContractAbi
from chain.agreement import FinalizedReader, open_reader
from chain.certificates import Certificates, certificates_abi, change_of
from chain.deployment import Deployment, Placed, read_deployment, write_deployment
from chain.errors import (
    CallReverted,
    ChainConfigError,
    ChainError,
    FinalityAlarm,
    InsufficientFunds,
    NoAgreement,
    NotDeployed,
    NotKept,
    NotProven,
    PinMismatch,
    RollbackRefused,
    RootUnknown,
    SignerError,
    TransactionError,
    TransactionFailed,
    TransactionReplaced,
    WrongChain,
)
from chain.evm import EvmRegistry
from chain.fees import Estimate, FeePolicy
from chain.keys import LocalKey
from chain.membership import (
    Change,
    Member,
    Membership,
    MemberStatus,
    PendingRecovery,
    PolicyText,
    RecoveryVote,
    Registry,
    SetView,
    Sighting,
    Voter,
)
from chain.memory import RegistryMemory
from chain.registration import NodeRegistrar, purpose_text
from chain.sender import Order, TransactionSender, TxOutcome, TxState
from chain.shown import (
    Shown,
    ShownDeposal,
    ShownEpoch,
    ShownLeader,
    SignedVote,
    read_evidence,
    read_shown,
    shown_json,
)

__all__ = [
    "CallReverted",
    "Certificates",
    "ChainConfigError",
    "ChainError",
    "Change",
    "ContractAbi",
    "Deployment",
    "Estimate",
    "EvmRegistry",
    "FeePolicy",
    "FinalityAlarm",
    "FinalizedReader",
    "InsufficientFunds",
    "LocalKey",
    "Member",
    "MemberStatus",
    "Membership",
    "NoAgreement",
    "NodeRegistrar",
    "NotDeployed",
    "NotKept",
    "NotProven",
    "Order",
    "PendingRecovery",
    "PinMismatch",
    "Placed",
    "PolicyText",
    "RecoveryVote",
    "Registry",
    "RegistryMemory",
    "RollbackRefused",
    "RootUnknown",
    "SetView",
    "Shown",
    "ShownDeposal",
    "ShownEpoch",
    "ShownLeader",
    "Sighting",
    "SignedVote",
    "SignerError",
    "TransactionError",
    "TransactionFailed",
    "TransactionReplaced",
    "TransactionSender",
    "TxOutcome",
    "TxState",
    "Voter",
    "WrongChain",
    "certificates_abi",
    "change_of",
    "open_reader",
    "purpose_text",
    "read_deployment",
    "read_evidence",
    "read_shown",
    "shown_json",
    "write_deployment",
]
