"""The contracts beside the registry: where they are, by the registry's word, and what they say."""

from __future__ import annotations

from typing import Any

from chain import EvmRegistry
from chain.abi import ContractAbi
from chain.agreement import Reverted
from chain.headers import Header
from contracts import artifact
from deploy.calls import APP, MINT, PROXY, RULES
from deploy.contract import read_beside

WORDS_BYTES_MAX = 64 * 100  # the longest list of the rules, 64 entries, with room to spare


async def companions(registry: EvmRegistry) -> dict[str, bytes]:
    """Addresses of those that take transactions of their own, by the name of their artifact."""
    header = await registry.finalized()
    placed = await read_beside(registry.reader, registry.contract, header)
    found = {one.name: one.address for one in placed if one.name != "Annex"}
    # Any contract may be named for these: only those that are ours are spoken to.
    minter, _ = await registry.call("minter", at=header)
    if await runs(registry, bytes.fromhex(minter[2:]), MINT, header):
        found[MINT] = bytes.fromhex(minter[2:])
    if RULES in found:
        (app,) = await look(registry, RULES, found[RULES], "appAuth", header)
        if await runs(registry, bytes.fromhex(app[2:]), PROXY, header):
            found[APP] = bytes.fromhex(app[2:])
    return found


async def runs(registry: EvmRegistry, address: bytes, name: str, header: Header) -> bool:
    """Whether the code there is that of an artifact."""
    if not any(address):
        return False
    return artifact(name).matches_code(await registry.reader.code_at(address, header))


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
