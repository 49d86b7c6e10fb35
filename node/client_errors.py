"""What the SDK raises: the errors of ``dstack_cluster``, and which of the API's each of them is."""

from __future__ import annotations

from node.client import Unreachable
from node.facade import NodeError
from node.facade import OutcomeUnknown as _NodeOutcomeUnknown


class ClusterError(Exception):
    """Anything that keeps the SDK from doing what was asked."""


class DaemonUnreachable(ClusterError):
    """No daemon answers at the API address, or it went away before it did.

    What was asked of it may have been done then: send it again with the same request id.
    """


class NotReady(ClusterError):
    """The daemon did not become ready in time; the text carries its reasons."""


class WrongCluster(ClusterError):
    """The daemon serves another contract than the application asked for."""


class SeatNotActive(ClusterError):
    """The chain does not show the daemon's seat as a live member."""


class WrongInstance(ClusterError):
    """The guest agent belongs to another instance than the daemon's."""


class RequestFailed(ClusterError):
    """The cluster refused or could not carry out a request; ``code`` is the API's error code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class OutcomeUnknown(RequestFailed):
    """A write was accepted but not seen committed: send it again with the same request id."""


def mapped(error: NodeError) -> ClusterError:
    """The SDK's error for one of the API."""
    if isinstance(error, Unreachable):
        return DaemonUnreachable(str(error))
    if isinstance(error, _NodeOutcomeUnknown):
        return OutcomeUnknown(error.code, str(error))
    return RequestFailed(error.code, str(error))
