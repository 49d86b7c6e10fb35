"""Contracts: what runs on the chains, and the compiled artifacts that the daemon loads.

Enters: Solidity sources with their tests (``evm/``) and this loader; no chain client.
Read ``evm/README.md``, then ``evm/src/IRegistry.sol``, then the other sources in the order that
``evm/src/Registry.sol`` names.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["Artifact", "ArtifactError", "StorageSlot", "artifact"]


class ArtifactError(Exception):
    """A compiled contract is missing from the installation or is damaged."""


@dataclass(frozen=True, slots=True)
class StorageSlot:
    """Where a state variable lies: slot number, offset from the low end and size in bytes."""

    slot: int
    offset_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Artifact:
    """A compiled contract.

    ``bytecode`` is the creation code without constructor arguments. ``deployed_bytecode`` has zeros
    where ``immutables`` (start, length) are filled in by the constructor: use ``matches_code``.
    """

    name: str
    abi: tuple[dict[str, Any], ...]
    bytecode: bytes
    deployed_bytecode: bytes
    immutables: tuple[tuple[int, int], ...]
    storage: dict[str, StorageSlot]
    compiler: str

    def matches_code(self, code: bytes) -> bool:
        """Whether ``code``, read from a chain, is this contract whatever its constructor got."""
        if len(code) != len(self.deployed_bytecode):
            return False
        masked = bytearray(code)
        for start, length in self.immutables:
            masked[start : start + length] = bytes(length)
        return bytes(masked) == self.deployed_bytecode


@cache
def artifact(name: str) -> Artifact:
    """Load the committed artifact of contract ``name``, for instance ``Registry``.

    Raises ArtifactError when there is none of that name, or it does not match its own hashes.
    """
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9]{0,63}", name):
        raise ArtifactError(f"not a contract name: {name!r}")
    file = resources.files(__name__).joinpath("evm").joinpath("artifacts").joinpath(f"{name}.json")
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        found = Artifact(
            name=raw["contract"],
            abi=tuple(raw["abi"]),
            bytecode=bytes.fromhex(raw["bytecode"].removeprefix("0x")),
            deployed_bytecode=bytes.fromhex(raw["deployed_bytecode"].removeprefix("0x")),
            immutables=tuple((start, length) for start, length in raw["immutable_references"]),
            storage={
                label: StorageSlot(row["slot"], row["offset_bytes"], row["size_bytes"])
                for label, row in raw["storage"].items()
            },
            compiler=raw["compiler"],
        )
        hashes = (raw["bytecode_sha256"], raw["deployed_bytecode_sha256"])
    except FileNotFoundError as error:
        raise ArtifactError(f"no compiled contract {name!r} in this installation") from error
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"the compiled contract {name!r} is damaged: {error!r}") from error
    codes = (found.bytecode, found.deployed_bytecode)
    if hashes != tuple(hashlib.sha256(code).hexdigest() for code in codes):
        raise ArtifactError(f"the compiled contract {name!r} does not match its own hashes")
    return found
