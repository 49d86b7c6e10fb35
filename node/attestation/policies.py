"""The policy in force, which the registry names (``chain.policy``).

The newest is kept on disk, so that a restart does not wait for the chain, and so that its text is
known when no endpoint gives it any more; as with the membership, what the chain says then replaces
it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import trio

from attest import Policy, PolicyError, keccak256, parse_policy
from chain import PolicyText
from chain.files import load_json, replace_json

_FORMAT = 1
_FILE_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class PolicyInForce:
    """``version`` and ``digest`` (32 bytes) as the registry has them; ``policy`` is None when its
    text is not a policy that we can read: such a one takes nobody."""

    version: int
    digest: bytes
    policy: Policy | None
    trouble: str = ""


class PolicyBook:
    """Knows the newest policy.

    Args:
        memory: where the newest text is kept; its folder must exist.
        on_change: called when another policy is in force.
    """

    def __init__(self, memory: Path, on_change: Callable[[], None] = lambda: None) -> None:
        self.current: PolicyInForce | None = None
        self.on_change = on_change
        self._memory = memory
        self._is_missing = False
        self._lock = trio.Lock()
        self._log = structlog.get_logger("node.attestation")

    def remember(self) -> bytes:
        """Begin with what an earlier run saw last; its text, b"" if there is none. A damaged file
        is as good as none."""
        try:
            fields = load_json(self._memory, _FILE_BYTES_MAX)
            if fields is None or fields["format"] != _FORMAT:
                return b""
            text = bytes.fromhex(fields["text"])
            self._take(PolicyText(int(fields["version"]), keccak256(text), text))
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            self._log.warning("policy_memory_unusable", reason=type(error).__name__)
            return b""
        return text

    async def saw(self, policy: PolicyText | None) -> None:
        """What the registry names at its newest finalized block; to be told in order."""
        current = self.current
        if policy is None:
            if current is not None and not self._is_missing:
                self._log.error("policy_missing", version=current.version)
            self._is_missing = True
            return
        self._is_missing = False
        # No order of versions: other rules that the registry's owner puts in place count anew, and
        # members must not differ by who has seen the old ones.
        if current is not None and (policy.version, policy.digest) == (
            current.version,
            current.digest,
        ):
            return
        self._take(policy)
        await self._keep(policy)

    def _take(self, policy: PolicyText) -> None:
        parsed, trouble = None, ""
        try:
            parsed = parse_policy(policy.text)
        except PolicyError as error:
            trouble = f"policy {policy.version} cannot be read: {error}"
        self.current = PolicyInForce(policy.version, policy.digest, parsed, trouble)
        write = self._log.critical if trouble else self._log.info
        write("policy", version=policy.version, digest=policy.digest.hex(), trouble=trouble or None)
        self.on_change()

    async def _keep(self, policy: PolicyText) -> None:
        fields: dict[str, Any] = {
            "format": _FORMAT,
            "version": policy.version,
            "text": policy.text.hex(),
        }
        async with self._lock:
            if self.current is None or self.current.digest != policy.digest:
                return
            try:
                await trio.to_thread.run_sync(replace_json, self._memory, fields, _FILE_BYTES_MAX)
            except (OSError, ValueError) as error:
                self._log.error("policy_not_kept", reason=str(error))

    def alarms(self) -> list[str]:
        """What an operator must look at now."""
        if self.current is None:
            if not self._is_missing:  # nobody has looked yet
                return []
            return ["the registry names no attestation policy yet: no member can be accepted"]
        found = [self.current.trouble] if self.current.trouble else []
        if self._is_missing:
            found.append(
                "the registry names no attestation policy any more: "
                f"policy {self.current.version} stays in force"
            )
        return found
