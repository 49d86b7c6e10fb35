"""Compiles the registry contract into ``artifacts/Registry.json``, the file that the daemon loads.

Run ``python -m contracts.evm.build`` after a change of the sources; ``--check`` tells whether
the committed artifact is what the sources give. Needs Node and ``npm ci`` in this folder.
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
ARTIFACT = HERE / "artifacts" / "Registry.json"
CONTRACT = ("src/Registry.sol", "Registry")
PACKAGES = HERE / "node_modules"
COMPILE_TIMEOUT_S = 300
CODE_BYTES_MAX = 24_576  # EIP-170

# Slots whose place is part of the interface: what light clients prove against a block header.
PROVEN = (
    "version",
    "activeWeight",
    "grantedWeight",
    "_seatCount",
    "digest",
    "_launch",
    "_lastChange",
    "_nodes",
    "_roots",
    "_pending",
    "_recoveries",
)

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


def compile_sources(sources: dict[str, str]) -> dict[str, Any]:
    """The compiler's standard JSON output.

    Raises BuildError with the compiler's words when it reports an error.
    """
    request = {
        "language": "Solidity",
        "sources": {name: {"content": text} for name, text in sources.items()},
        "settings": settings()
        | {
            "outputSelection": {
                CONTRACT[0]: {
                    CONTRACT[1]: [
                        "abi",
                        "evm.bytecode.object",
                        "evm.deployedBytecode.object",
                        "evm.deployedBytecode.immutableReferences",
                        "storageLayout",
                    ]
                }
            }
        },
    }
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


def build() -> str:
    """The text of the artifact, the same for the same sources wherever it runs."""
    sources = source_closure(CONTRACT[0])
    contract = compile_sources(sources)["contracts"][CONTRACT[0]][CONTRACT[1]]
    evm = contract["evm"]
    bytecode, deployed = evm["bytecode"]["object"], evm["deployedBytecode"]["object"]
    code_bytes = len(deployed) // 2
    if code_bytes > CODE_BYTES_MAX:
        raise BuildError(f"the contract has {code_bytes} bytes, {CODE_BYTES_MAX} are allowed")
    layout = {row["label"]: row for row in contract["storageLayout"]["storage"]}
    types = contract["storageLayout"]["types"]
    openzeppelin = json.loads((PACKAGES / "@openzeppelin/contracts/package.json").read_text())
    artifact = {
        "contract": CONTRACT[1],
        "compiler": compiler_version(),
        "settings": settings(),
        "libraries": {"@openzeppelin/contracts": openzeppelin["version"]},
        "sources_sha256": {
            name: hashlib.sha256(text.encode()).hexdigest()
            for name, text in sources.items()
            if not name.startswith("@")
        },
        "storage": {
            label: {
                "slot": int(layout[label]["slot"]),
                "offset_bytes": layout[label]["offset"],
                "type": types[layout[label]["type"]]["label"],
                "size_bytes": int(types[layout[label]["type"]]["numberOfBytes"]),
            }
            for label in PROVEN
        },
        "bytecode_sha256": hashlib.sha256(bytes.fromhex(bytecode)).hexdigest(),
        # with zeros in place of the immutables, whose positions follow
        "deployed_bytecode_sha256": hashlib.sha256(bytes.fromhex(deployed)).hexdigest(),
        "immutable_references": sorted(
            [reference["start"], reference["length"]]
            for references in evm["deployedBytecode"]["immutableReferences"].values()
            for reference in references
        ),
        "abi": contract["abi"],
        "bytecode": "0x" + bytecode,
        "deployed_bytecode": "0x" + deployed,
    }
    return json.dumps(artifact, indent=1, ensure_ascii=True) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """Writes the artifact, or compares it with ``--check``; exit status 1 when they differ."""
    parser = argparse.ArgumentParser(prog="python -m contracts.evm.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    check = parser.parse_args(arguments).check
    try:
        text = build()
        have = ARTIFACT.read_text() if ARTIFACT.exists() else None
        if check and have != text:
            raise BuildError(
                f"{ARTIFACT.relative_to(HERE.parent.parent)} is not what the sources give: "
                "run `python -m contracts.evm.build` and commit the result"
            )
    except BuildError as error:
        print(f"contracts.evm.build: {error}", file=sys.stderr)
        return 1
    if not check:
        ARTIFACT.parent.mkdir(exist_ok=True)
        ARTIFACT.write_text(text)
    print(f"{ARTIFACT.name}: {'up to date' if have == text else 'written'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
