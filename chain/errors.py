"""Everything that can go wrong between this node and a chain, as one small hierarchy.

No message here ever carries a URL's user, password, path or query (API keys live there), a signing
key or a raw body: endpoints are named by host and port alone.
"""

from __future__ import annotations


class ChainError(Exception):
    """Base of all errors of this room."""


class ChainConfigError(ChainError):
    """The configuration cannot be used: a bad URL, a quorum that proves nothing, a bad address."""


class EndpointError(ChainError):
    """One endpoint did not give a usable answer: refused, late, too long, not JSON, wrong id.

    Args:
        endpoint: host and port.
        reason: one line, without anything the endpoint could have put into it.
    """

    def __init__(self, endpoint: str, reason: str) -> None:
        super().__init__(f"{endpoint}: {reason}")
        self.endpoint = endpoint
        self.reason = reason


class EndpointTimeout(EndpointError):
    """One endpoint did not answer within its deadline."""


class EndpointTooLong(EndpointError):
    """One endpoint's answer is longer than the limit; asking for less may help."""


class RpcFault(ChainError):
    """A JSON-RPC error answer.

    Args:
        endpoint: host and port.
        code: the JSON-RPC error code.
        message: the endpoint's text, printable and cut to 200 characters.
        data: the revert data, when the answer carried it.
    """

    def __init__(self, endpoint: str, code: int, message: str, data: bytes | None) -> None:
        super().__init__(f"{endpoint}: error {code}: {message}")
        self.endpoint = endpoint
        self.code = code
        self.message = message
        self.data = data


class NoAgreement(ChainError):
    """Fewer than k endpoints gave the same answer; waiting and asking again is right.

    Args:
        what: the question.
        votes: per endpoint what came of it.
    """

    def __init__(self, what: str, needed: int, votes: dict[str, str]) -> None:
        detail = "; ".join(f"{name}: {text}" for name, text in sorted(votes.items()))
        super().__init__(f"{what}: no {needed} endpoints agree ({detail})")
        self.votes = votes


class NotProven(ChainError):
    """No endpoint proves what was asked; agreement of k of them is what is left."""


class WrongChain(ChainError):
    """The endpoints serve another chain than the configured one."""


class FinalityAlarm(ChainError):
    """A block that was final has changed. Membership stops until an operator has looked."""


class RollbackRefused(ChainError):
    """The chain view is older than one already acted on (see ``Watermark``)."""


class PinMismatch(ChainError):
    """Chain id, contract or its code differ from what was pinned."""


class BadChainData(ChainError):
    """Agreed data does not decode to what the contract can return."""


class NotKept(ChainError):
    """What must be remembered before it is acted on cannot be written to disk: nothing was done."""


class NotDeployed(ChainError):
    """No contract code at the registry's address at the block that was read."""


class CallReverted(ChainError):
    """The contract refused a call.

    Args:
        name: the custom error's name ("BadDeadline"), "Error", "Panic" or "unknown".
        text: the error with its arguments, readable.
        data: the raw revert data.
    """

    def __init__(self, name: str, text: str, data: bytes) -> None:
        super().__init__(f"the contract refuses: {text}")
        self.name = name
        self.text = text
        self.data = data


class RootUnknown(ChainError):
    """The KMS root that vouches for this node's app key is none of the registry's."""


class TransactionError(ChainError):
    """A transaction did not do what it was sent for."""


class TransactionFailed(TransactionError):
    """The transaction was mined and reverted; gas is spent.

    Args:
        reason: the decoded custom error, or what is known.
    """

    def __init__(self, reason: str, tx_hash: bytes) -> None:
        super().__init__(f"transaction 0x{tx_hash.hex()} failed: {reason}")
        self.reason = reason
        self.tx_hash = tx_hash


class TransactionReplaced(TransactionError):
    """Another transaction of the same key took the nonce: the key is used elsewhere too."""


class InsufficientFunds(TransactionError):
    """The paying address cannot afford the transaction."""


class FeeTooHigh(TransactionError):
    """The chain asks for more than the configured fee ceiling; nothing was sent."""


class SignerError(TransactionError):
    """Whoever holds the key did not sign, or signed something else; nothing was sent."""


class JournalError(TransactionError):
    """The sender's journal cannot be read or written, or belongs to another key or chain."""
