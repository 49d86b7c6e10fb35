"""The contracts beside the registry: where they are, by the registry's word, and what they say."""

from __future__ import annotations

from typing import Any

from chain import EvmRegistry
from chain.abi import ContractAbi
from chain.agreement import Reverted
from chain.headers import Header
from contracts import artifact
from deploy.calls import RULES

WORDS_BYTES_MAX = 64 * 100  # the longest list of the rules, 64 entries, with room to spare

# The registry's view that names the contract.
_NAMED_BY = {RULES: "rules"}


async def companions(registry: EvmRegistry, at: Header | None = None) -> dict[str, bytes]:
    """Their 20-byte addresses by the name of their artifact; those that there are."""
    header = await registry.finalized() if at is None else at
    found = {}
    for contract, view in _NAMED_BY.items():
        text, *_ = await registry.call(view, at=header)
        address = bytes.fromhex(text[2:])
        if any(address):
            found[contract] = address
    return found


async def look(
    registry: EvmRegistry, contract: str, address: bytes, name: str, header: Header
) -> tuple[Any, ...]:
    """A view without arguments of a contract beside the registry."""
    abi = ContractAbi(artifact(contract).abi)
    function = abi.function(name)
    (raw,) = await registry.reader.call_many(
        address, [function.encode()], header, answer_bytes_max=WORDS_BYTES_MAX
    )
    if isinstance(raw, Reverted):
        raise abi.reverted(raw.data)
    return function.decode(raw)
