"""The deployment file: which registry a cluster lives by, as one measured anchor.

The operator's ``contract deploy`` writes it; ``run`` takes it as ``[chain] deployment``. It says
which chain, which contract since which block with which code, what was deployed beside it, under
which KMS roots, and which dangers were switched on by name. Whoever can change it decides who the
members are, so it belongs into what is measured, beside the configuration.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from chain.errors import ChainConfigError
from chain.files import load_json, replace_json

FORMAT = 2
FILE_BYTES_MAX = 16 * 1024
KMS_ROOTS_MAX = 16
OTHERS_MAX = 16
INSECURE_MAX = 8
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_HEX = re.compile(r"0x(?:[0-9a-f]{2})+")


@dataclass(frozen=True, slots=True)
class Placed:
    """A contract beside the registry: its artifact's name, 20-byte address, 32-byte code hash."""

    name: str
    address: bytes
    code_hash: bytes


@dataclass(frozen=True, slots=True)
class Deployment:
    """Where a registry is.

    ``contract`` (20 bytes) was deployed in block ``deploy_block`` and has code of ``code_hash`` (32
    bytes). ``kms_roots`` are the 20-byte addresses that app keys descend from, ``insecure`` names
    what the deployment allows for tests ("simulator": a root whose key is public).
    """

    chain_id: int
    contract: bytes
    deploy_block: int
    code_hash: bytes
    kms_roots: tuple[bytes, ...]
    insecure: tuple[str, ...] = ()
    others: tuple[Placed, ...] = ()

    def other(self, name: str) -> Placed | None:
        """The contract of that name beside the registry, None when none was deployed."""
        return next((placed for placed in self.others if placed.name == name), None)


async def write_deployment(path: Path, deployment: Deployment) -> None:
    """Writes a deployment file, atomically and durably. Raises OSError, ValueError: too long."""
    fields = {
        "format": FORMAT,
        "chain_id": deployment.chain_id,
        "contract": _hexed(deployment.contract),
        "deploy_block": deployment.deploy_block,
        "code_hash": _hexed(deployment.code_hash),
        "kms_roots": [_hexed(root) for root in deployment.kms_roots],
        "insecure": list(deployment.insecure),
        "others": [
            {"name": p.name, "address": _hexed(p.address), "code_hash": _hexed(p.code_hash)}
            for p in deployment.others
        ],
    }
    await trio.to_thread.run_sync(partial(replace_json, path, fields, FILE_BYTES_MAX))


def read_deployment(path: Path) -> Deployment:
    """Reads a deployment file.

    Raises:
        ChainConfigError: missing, damaged, of another format.
    """
    try:
        fields = load_json(path, FILE_BYTES_MAX)
    except (OSError, ValueError) as error:
        raise ChainConfigError(f"the deployment file {path} is not readable ({error})") from None
    if fields is None:
        raise ChainConfigError(f"no deployment file {path}")
    try:
        return _parse(fields)
    except (KeyError, TypeError, ValueError) as error:
        raise ChainConfigError(f"the deployment file {path} is damaged ({error!r})") from None


def _parse(fields: Any) -> Deployment:
    if not isinstance(fields, dict):
        raise ValueError("not an object")
    if fields["format"] != FORMAT:
        raise ValueError(f"format {fields['format']!r:.20}, expected {FORMAT}")
    known = {"format", "chain_id", "contract", "deploy_block", "code_hash", "kms_roots",
             "insecure", "others"}  # fmt: skip
    if unknown := sorted(set(fields) - known):
        raise ValueError(f"unknown field {unknown[0]!r:.40}")
    return Deployment(
        chain_id=_integer(fields["chain_id"], 1, 2**63 - 1),
        contract=_address(fields["contract"]),
        deploy_block=_integer(fields["deploy_block"], 0, 2**48 - 1),
        code_hash=_bytes(fields["code_hash"], 32),
        kms_roots=tuple(_address(r) for r in _list(fields["kms_roots"], 1, KMS_ROOTS_MAX)),
        insecure=tuple(_name(n) for n in _list(fields["insecure"], 0, INSECURE_MAX)),
        others=tuple(
            Placed(_name(o["name"]), _address(o["address"]), _bytes(o["code_hash"], 32))
            for o in _list(fields["others"], 0, OTHERS_MAX)
        ),
    )


def _hexed(raw: bytes) -> str:
    return "0x" + raw.hex()


def _integer(value: Any, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"expected a whole number from {low} to {high}")
    return value


def _bytes(value: Any, size: int) -> bytes:
    if not isinstance(value, str) or len(value) != 2 + 2 * size or not _HEX.fullmatch(value):
        raise ValueError(f"expected {size} bytes as 0x and lower-case hex")
    return bytes.fromhex(value[2:])


def _address(value: Any) -> bytes:
    raw = _bytes(value, 20)
    if not any(raw):
        raise ValueError("an address is not zero")
    return raw


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("expected a name of letters, digits and _")
    return value


def _list(value: Any, low: int, high: int) -> list[Any]:
    if not isinstance(value, list) or not low <= len(value) <= high:
        raise ValueError(f"expected a list of {low} to {high}")
    if any(item in value[:index] for index, item in enumerate(value)):
        raise ValueError("expected a list without repetition")
    return value
