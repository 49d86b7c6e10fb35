"""The deployment file as a source of ``[chain]``: it fills what the TOML leaves out.

Two places that name the same anchor must not differ: an operator who edits one of them would
believe that it leads. So a contradiction is an error, whichever side is right.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chain.deployment import Deployment, read_deployment
from chain.errors import ChainConfigError
from node.config_values import Reader, WrongValue

# The keys of [chain] that a deployment file gives.
DEPLOYMENT_KEYS = ("chain_id", "contract", "deploy_block", "code_hash", "kms_roots")

Found = dict[str, tuple[Any, str]]  # "section.key" -> (value as TOML has it, source)


class Contradiction(Exception):
    """The deployment file cannot be used with this configuration; the text says why."""


def fill_from_deployment(found: Found, path: Path, readers: Mapping[str, Reader]) -> None:
    """Adds to ``found`` what the deployment file gives.

    Args:
        path: of the file, already made absolute.
        readers: how each of ``DEPLOYMENT_KEYS`` is read.

    Raises:
        Contradiction: the file is missing or damaged, ``found`` says otherwise than it, or the
            deployment was made with a danger that ``[insecure]`` does not name.
    """
    try:
        deployment = read_deployment(path)
    except ChainConfigError as error:
        raise Contradiction(str(error)) from None
    for danger in deployment.insecure:
        if found.get(f"insecure.{danger}", (False, ""))[0] is not True:
            raise Contradiction(
                f"{path.name} was deployed with the danger {danger}:"
                f" expected insecure.{danger} = true"
            )
    for name, value in _values(deployment).items():
        full = f"chain.{name}"
        if full not in found:
            found[full] = (value, path.name)
            continue
        given, where = found[full]
        try:
            same = _comparable(readers[name](given)) == _comparable(readers[name](value))
        except WrongValue:
            continue  # refused with its own words when it is read
        if not same:
            raise Contradiction(f"{full} is {given!r:.100} in {where}, {value!r:.400} in the file")


def _values(deployment: Deployment) -> dict[str, Any]:
    return {
        "chain_id": deployment.chain_id,
        "contract": "0x" + deployment.contract.hex(),
        "deploy_block": deployment.deploy_block,
        "code_hash": "0x" + deployment.code_hash.hex(),
        "kms_roots": ["0x" + root.hex() for root in deployment.kms_roots],
    }


def _comparable(value: Any) -> Any:
    return frozenset(value) if isinstance(value, tuple) else value
