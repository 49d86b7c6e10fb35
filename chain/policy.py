"""The attestation policy in force: its hash from the contract of rules, its text from anybody.

The registry names the contract of rules, and that holds the policy's version, hash, and the block
of the event that carries the text. Only the hash needs proof: a text is right when it hashes to it,
whether an endpoint's log, a file or a peer gave it.
"""

from __future__ import annotations

from typing import Any

from chain import decoding
from chain.abi import ContractAbi
from chain.agreement import FinalizedReader, Reverted
from chain.decoding import hexed
from chain.errors import BadChainData, EndpointError, NoAgreement, RpcFault
from chain.headers import Header
from chain.keys import keccak256
from chain.membership import PolicyText
from chain.rpc import RpcEndpoint
from chain.storage import ContractStorage
from contracts import artifact

POLICY_BYTES_MAX = 16_384
_TEXTS_KEPT = 8
_ANSWER_BYTES_MAX = 96
_LOGS_MAX = 64  # of one version there is one; a block may hold several versions


class PolicyReader:
    """Reads the policy at agreed blocks.

    Args:
        reader: the endpoints.
        required: see ``ContractStorage``.
    """

    def __init__(self, reader: FinalizedReader, *, required: bool) -> None:
        compiled = artifact("Rules")
        self._reader = reader
        self._required = required
        self._abi = ContractAbi(compiled.abi)
        self._matches_code = compiled.matches_code
        self._at = {name: compiled.storage[name] for name in ("policyVersion", "policyBlock")}
        self._hash_slot = compiled.storage["policyHash"].slot
        self._rules: ContractStorage | None = None
        self._texts: dict[bytes, bytes] = {}

    @property
    def how(self) -> str | None:
        """How the newest policy was read, None while no rules are named."""
        return None if self._rules is None else self._rules.how

    def offer(self, text: bytes) -> None:
        """A text that may be a policy's, from wherever; it is used if the contract names its hash.

        Longer ones than 16 KiB are none.
        """
        if len(text) <= POLICY_BYTES_MAX:
            self._texts[keccak256(text)] = text
            while len(self._texts) > _TEXTS_KEPT:
                del self._texts[next(iter(self._texts))]

    async def read(self, rules: bytes, at: Header) -> PolicyText | None:
        """The policy of these rules (20-byte address) at a block, None while there is none.

        Raises:
            NoAgreement: nobody has the text.
            ChainError: see ``ContractStorage.words``.
        """
        if not any(rules):
            self._rules = None
            return None
        if self._rules is None or self._rules.address != rules:
            self._rules = ContractStorage(
                self._reader, rules, self._matches_code, required=self._required
            )
        version, block_number, digest = await self._named(self._rules, at)
        if version == 0:
            return None
        if block_number > at.number:
            raise BadChainData(f"policy version {version} lies in the future")
        if digest not in self._texts:
            self.offer(await self._text(rules, version, block_number, digest))
        return PolicyText(version, digest, self._texts[digest])

    async def _named(self, rules: ContractStorage, at: Header) -> tuple[int, int, bytes]:
        head = self._at["policyVersion"]
        found = await rules.words([head.slot, self._hash_slot], at)
        if found is not None:
            _, (word, digest) = found
            version, block_number = (
                word >> 8 * place.offset_bytes & (1 << 8 * place.size_bytes) - 1
                for place in self._at.values()
            )
            return version, block_number, digest.to_bytes(32, "big")
        view = self._abi.function("policy")
        (raw,) = await self._reader.call_many(
            rules.address, [view.encode()], at, answer_bytes_max=_ANSWER_BYTES_MAX
        )
        if isinstance(raw, Reverted):
            raise self._abi.reverted(raw.data)
        version, block_number, digest = view.decode(raw)
        return version, block_number, digest

    async def _text(self, rules: bytes, version: int, block_number: int, digest: bytes) -> bytes:
        failures: dict[str, str] = {}
        for endpoint in self._reader.best_first():
            try:
                text = await self._text_from(endpoint, rules, version, block_number)
                if keccak256(text) == digest:
                    return text
                raise BadChainData(f"its text of policy {version} is another one's")
            except BadChainData as error:
                self._reader.accuse(endpoint, str(error))
                failures[endpoint.name] = str(error)
            except (EndpointError, RpcFault) as error:
                failures[endpoint.name] = str(error)
        what = f"the text of policy {version}, 0x{digest.hex()} (a file may give it, too)"
        raise NoAgreement(what, 1, failures)

    async def _text_from(
        self, endpoint: RpcEndpoint, rules: bytes, version: int, block_number: int
    ) -> bytes:
        event = self._abi.event("PolicyChanged")
        query: dict[str, Any] = {
            "address": hexed(rules),
            "topics": [hexed(event.topic), hexed(version.to_bytes(32, "big"))],
            "fromBlock": hex(block_number),
            "toBlock": hex(block_number),
        }
        logs = decoding.logs(await endpoint.call("eth_getLogs", [query]), _LOGS_MAX)
        if len(logs) != 1:
            raise BadChainData(f"{len(logs)} events of policy {version} instead of one")
        text: bytes = event.decode(logs[0].topics, logs[0].data)["text"]
        return text[: POLICY_BYTES_MAX + 1]
