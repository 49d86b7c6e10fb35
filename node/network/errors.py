"""The errors of this room. ``reason`` is a short fixed word: it is counted, logged and told."""

from __future__ import annotations


class NetworkError(Exception):
    """Anything this room raises."""


class PayloadTooLarge(NetworkError):
    """The caller tried to send more than one frame may hold."""


class BadEndpoint(NetworkError):
    """An address text that this mesh cannot dial or listen on."""


class Refused(NetworkError):
    """A connection that must not become a link.

    Args:
        reason: fixed word, for example ``not_a_member``.
        peer_id: base58 text of the authenticated peer, empty when nobody was authenticated yet.
        detail: what was expected and what came; never secrets, bounded in length.
        penalty: whether the peer must wait before it is let in again.
    """

    def __init__(
        self, reason: str, *, peer_id: str = "", detail: str = "", penalty: bool = False
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.peer_id = peer_id
        self.detail = detail
        self.penalty = penalty


class LinkBroken(NetworkError):
    """An established link must end; ``penalty`` as in ``Refused``."""

    def __init__(self, reason: str, *, penalty: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.penalty = penalty


class Denied(NetworkError):
    """A peer's evidence does not satisfy (``attesting``).

    Args:
        reason: fixed word, counted and shown.
        detail: for the operator; never sent to the peer.
        code: what the peer is told, 1 to 255.
        attachment: what it must learn with it, at most ``ATTACHMENT_BYTES_MAX`` bytes.
        penalty: whether the peer must wait before it may try again.
    """

    def __init__(
        self,
        reason: str,
        *,
        code: int,
        detail: str = "",
        attachment: bytes = b"",
        penalty: bool = True,
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.code = code
        self.detail = detail
        self.attachment = attachment
        self.penalty = penalty


class Unproven(NetworkError):
    """There is no evidence to be judged; ``code`` as in ``Denied``, 0 when the peer gave none."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
