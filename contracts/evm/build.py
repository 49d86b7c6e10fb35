"""Compiles the contracts into ``artifacts/<name>.json``, the files that the daemon loads.

Run ``python -m contracts.evm.build`` after a change of the sources; ``--check`` tells whether
the committed artifacts are what the sources give. Needs Node and ``npm ci`` in this folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import posixpath
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ARTIFACTS = HERE / "artifacts"
PACKAGES = HERE / "node_modules"
COMPILE_TIMEOUT_S = 600
CODE_BYTES_MAX = 24_576  # EIP-170
CREATION_BYTES_MAX = 49_152  # EIP-3860

# Every contract that is ever deployed, by its source. What is compiled together is one group: the
# compiler's optimizer looks at all of its sources, so a change in one may move code in another. The
# registry makes the three beside it and holds their code, so they belong together.
TOGETHER = (
    {
        "Registry": "src/Registry.sol",
        "Annex": "src/Annex.sol",
        "Rules": "src/Rules.sol",
        "Certificates": "src/Certificates.sol",
    },
    {"AppAuth": "src/AppAuth.sol", "AppProxy": "src/AppProxy.sol"},
    {"PublicMint": "src/PublicMint.sol"},
)
# Whose functions also answer at the contract's address, so that its ABI includes theirs.
ANNEXES = {"Registry": "Annex"}

# Variables whose place is part of the interface, by the name in the artifact: what light clients
# prove against a block header.
PROVEN = {
    "Registry": {
        "version": "_version",
        "activeWeight": "_activeWeight",
        "grantedWeight": "_grantedWeight",
        "_seatCount": "_seatCount",
        "digest": "_digest",
        "_launch": "_launch",
        "_changeVersion": "_changeVersion",
        "_changeBlock": "_changeBlock",
        "_changeDigest": "_changeDigest",
        "_nodes": "_nodes",
        "rules": "_rules",
        "certificates": "_certificates",
        "_roots": "_roots",
        "_apps": "_apps",
        "_appCount": "_appCount",
        "_pending": "_pending",
        "_recoveries": "_recoveries",
    },
    "Rules": {
        "policyVersion": "_policyVersion",
        "policyBlock": "_policyBlock",
        "revision": "revision",
        "policyHash": "_policyHash",
    },
}

_IMPORT = re.compile(r'^\s*import\s[^;"]*"([^"]+)"\s*;', re.MULTILINE)


class BuildError(Exception):
    """The contract could not be compiled, or the result is not the committed one."""


def settings() -> dict[str, Any]:
    """Compiler settings, taken from ``foundry.toml`` so that forge and this file cannot differ."""
    profile = tomllib.loads((HERE / "foundry.toml").read_text())["profile"]["default"]
    return {
        "evmVersion": profile["evm_version"],
        "viaIR": profile["via_ir"],
        "optimizer": {"enabled": profile["optimizer"], "runs": profile["optimizer_runs"]},
        "metadata": {
            "bytecodeHash": profile["bytecode_hash"],
            "appendCBOR": profile["cbor_metadata"],
        },
    }


def source_closure(root: str) -> dict[str, str]:
    """All sources that ``root`` needs, by the name the compiler knows them under.

    Raises BuildError when one is missing.
    """
    sources: dict[str, str] = {}
    waiting = [root]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        path = (PACKAGES if name.startswith("@") else HERE) / name
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise BuildError(f"source {name} is missing: run `npm ci` in {HERE}") from error
        sources[name] = text
        for target in _IMPORT.findall(text):
            if target.startswith("."):
                target = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
            waiting.append(target)
    return dict(sorted(sources.items()))


def compile_sources(sources: dict[str, str], contracts: dict[str, str]) -> dict[str, Any]:
    """The compiler's standard JSON output for ``contracts`` (source by name).

    Raises BuildError with the compiler's words when it reports an error.
    """
    selection = {
        source: {
            name: [
                "abi",
                "evm.bytecode.object",
                "evm.deployedBytecode.object",
                "evm.deployedBytecode.immutableReferences",
                "storageLayout",
            ]
        }
        for name, source in contracts.items()
    }
    return _run(_request(sources, selection))


def syntax_trees(sources: dict[str, str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The compiler's standard JSON input and output with trees and ABIs, and no code.

    Raises BuildError with the compiler's words when it reports an error.
    """
    request = _request(sources, {"*": {"": ["ast"], "*": ["abi"]}})
    return request, _run(request)


def _request(sources: dict[str, str], selection: dict[str, Any]) -> dict[str, Any]:
    return {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in sources.items()},
        "settings": settings() | {"outputSelection": selection},
    }


def _run(request: dict[str, Any]) -> dict[str, Any]:
    try:
        run = subprocess.run(
            ["node", str(HERE / "tools" / "solc"), "--standard-json"],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            timeout=COMPILE_TIMEOUT_S,
            check=True,
        )
    except FileNotFoundError as error:
        raise BuildError("node is not installed (version 20 or newer is needed)") from error
    except subprocess.CalledProcessError as error:
        raise BuildError(f"the compiler failed: {error.stderr.strip()[-2000:]}") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"the compiler took more than {COMPILE_TIMEOUT_S} s") from error
    output: dict[str, Any] = json.loads(run.stdout)
    errors = [e["formattedMessage"] for e in output.get("errors", ()) if e["severity"] == "error"]
    if errors:
        raise BuildError("\n".join(errors))
    return output


def compiler_version() -> str:
    """Version of the npm package ``solc`` with its commit."""
    run = subprocess.run(
        ["node", str(HERE / "tools" / "solc"), "--version"],
        capture_output=True,
        text=True,
        timeout=COMPILE_TIMEOUT_S,
        check=True,
    )
    return run.stdout.split("Version: ")[1].strip().removesuffix(".Linux.g++")


def build() -> dict[str, str]:
    """The texts of the artifacts by name, the same for the same sources wherever it runs."""
    closures: dict[str, dict[str, str]] = {}
    compiled: dict[str, Any] = {}
    for contracts in TOGETHER:
        own = {name: source_closure(source) for name, source in contracts.items()}
        every = {name: text for closure in own.values() for name, text in closure.items()}
        output = compile_sources(dict(sorted(every.items())), contracts)["contracts"]
        compiled |= {name: output[source][name] for name, source in contracts.items()}
        closures |= own
    for name, annex in ANNEXES.items():
        _check_shared_storage(compiled[name], compiled[annex], annex)
    version = compiler_version()
    return {name: _artifact(name, compiled, closures[name], version) for name in compiled}


def _artifact(name: str, compiled: dict[str, Any], sources: dict[str, str], version: str) -> str:
    contract = compiled[name]
    evm = contract["evm"]
    bytecode, deployed = evm["bytecode"]["object"], evm["deployedBytecode"]["object"]
    if len(deployed) // 2 > CODE_BYTES_MAX or len(bytecode) // 2 > CREATION_BYTES_MAX:
        raise BuildError(
            f"{name} has {len(deployed) // 2} bytes ({CODE_BYTES_MAX} are allowed)"
            f" and {len(bytecode) // 2} to make it ({CREATION_BYTES_MAX} are allowed)"
        )
    abi = contract["abi"]
    if name in ANNEXES:
        abi = _merged(abi, compiled[ANNEXES[name]]["abi"])
    layout = {row["label"]: row for row in contract["storageLayout"]["storage"]}
    types = contract["storageLayout"]["types"]
    openzeppelin = json.loads((PACKAGES / "@openzeppelin/contracts/package.json").read_text())
    artifact = {
        "contract": name,
        "compiler": version,
        "settings": settings(),
        "libraries": {"@openzeppelin/contracts": openzeppelin["version"]},
        "sources_sha256": {
            source: hashlib.sha256(text.encode()).hexdigest()
            for source, text in sources.items()
            if not source.startswith("@")
        },
        "storage": {
            label: {
                "slot": int(layout[variable]["slot"]),
                "offset_bytes": layout[variable]["offset"],
                "type": types[layout[variable]["type"]]["label"],
                "size_bytes": int(types[layout[variable]["type"]]["numberOfBytes"]),
            }
            for label, variable in PROVEN.get(name, {}).items()
        },
        "bytecode_sha256": hashlib.sha256(bytes.fromhex(bytecode)).hexdigest(),
        # with zeros in place of the immutables, whose positions follow
        "deployed_bytecode_sha256": hashlib.sha256(bytes.fromhex(deployed)).hexdigest(),
        "immutable_references": sorted(
            [reference["start"], reference["length"]]
            for references in evm["deployedBytecode"].get("immutableReferences", {}).values()
            for reference in references
        ),
        "abi": abi,
        "bytecode": "0x" + bytecode,
        "deployed_bytecode": "0x" + deployed,
    }
    return json.dumps(artifact, indent=1, ensure_ascii=True) + "\n"


def _merged(abi: list[Any], annex: list[Any]) -> list[Any]:
    """The ABI of a contract that hands calls on; BuildError when a function would be hidden."""
    functions = {entry["name"] for entry in abi if entry["type"] == "function"}
    merged = list(abi)
    for entry in annex:
        if entry["type"] == "function" and entry["name"] in functions:
            raise BuildError(f"{entry['name']} of the annex is hidden by the contract's own")
        if entry["type"] != "constructor" and entry not in merged:
            merged.append(entry)
    return merged


def _check_shared_storage(contract: Any, annex: Any, name: str) -> None:
    """The annex runs on the contract's storage: it must see each of its variables in place."""

    def rows(compiled: Any) -> list[tuple[str, str, int, str]]:
        types = compiled["storageLayout"]["types"]
        return [
            (row["label"], row["slot"], row["offset"], types[row["type"]]["label"])
            for row in compiled["storageLayout"]["storage"]
        ]

    if (own := rows(annex)) != rows(contract)[: len(own)]:
        raise BuildError(f"{name} does not have the storage of the contract that it belongs to")


def main(arguments: list[str] | None = None) -> int:
    """Writes the artifacts, or compares with ``--check``; exit status 1 when they differ."""
    parser = argparse.ArgumentParser(prog="python -m contracts.evm.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    check = parser.parse_args(arguments).check
    try:
        texts = build()
        stale = [name for name, text in texts.items() if _committed(name) != text]
        strange = {file.stem for file in ARTIFACTS.glob("*.json")} - set(texts)
        if check and (stale or strange):
            raise BuildError(
                f"{', '.join([*stale, *sorted(strange)])}: not what the sources give; run"
                " `python -m contracts.evm.build` and commit the result"
            )
    except BuildError as error:
        print(f"contracts.evm.build: {error}", file=sys.stderr)
        return 1
    ARTIFACTS.mkdir(exist_ok=True)
    for name, text in texts.items():
        if name in stale:
            (ARTIFACTS / f"{name}.json").write_text(text)
        code = json.loads(text)["deployed_bytecode"]
        print(f"{name}: {len(code) // 2 - 1} bytes, {'written' if name in stale else 'up to date'}")
    return 0


def _committed(name: str) -> str | None:
    file = ARTIFACTS / f"{name}.json"
    return file.read_text() if file.exists() else None


if __name__ == "__main__":
    sys.exit(main())
