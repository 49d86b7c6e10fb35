"""The Solidity of this folder, compiled as our own contracts are; kept in pytest's cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from chain.abi import ContractAbi, encode
from contracts.evm import build

SOURCES = Path(__file__).parent / "solidity"
COMPILER = build.HERE / "package-lock.json"


class Compiled:
    """The flawed contracts, which all take the registry's arguments, and the hostile wallet.

    Args:
        cache: a folder; what is in it already for these sources is not compiled again.
    """

    def __init__(self, cache: Path) -> None:
        sources = {file.name: file.read_text() for file in sorted(SOURCES.glob("*.sol"))}
        key = json.dumps([sources, build.settings(), COMPILER.read_text()], sort_keys=True)
        kept = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        if not kept.exists():
            names = {Path(source).stem: source for source in sources}
            output = build.compile_sources(sources, names)["contracts"]
            found = {
                name: {"abi": one["abi"], "code": one["evm"]["bytecode"]["object"]}
                for contracts in output.values()
                for name, one in contracts.items()
            }
            kept.write_text(json.dumps(found))
        self._compiled = json.loads(kept.read_text())

    def abi(self, name: str) -> ContractAbi:
        return ContractAbi(self._compiled[name]["abi"])

    def creation_code(self, name: str, *values: object) -> bytes:
        """The data of the transaction that deploys one, with its constructor's arguments."""
        types = self.abi(name).constructor_types
        return bytes.fromhex(self._compiled[name]["code"]) + encode(types, list(values))
