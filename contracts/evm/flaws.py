"""Plants the flaws that the tests are there to find, and sees whether each is found.

Every attack on the earlier membership contract (E01-E24, O1-O9), X01, X19, X20 and every
invariant has its flaw: the check of ours that stands against it is taken out, and then the tests of
that number must fail. All flaws are compiled into one copy of the sources, each behind a switch
that is off by default, so the slow compiler runs once. The copy lives in a temporary folder;
nothing flawed is ever deployed.

Two attacks have none. E25, the public root of a simulator, is refused by the deployment command: no
contract can see it. O8, that no genuine chain of dstack verifies, is what every other test shows
the absence of: with that flaw no fixture could register a node.

Run ``python -m contracts.evm.flaws`` (a few minutes; with numbers it looks for these only). Needs
``npm ci`` in this folder.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
FORGE_TIMEOUT_S = 1800
SWITCH = "address(0xF1A3)"
# Runs end at the first failure, so many cost nothing where a flaw is found; whether a sequence
# breaks an invariant is the question here, and not how short it can be.
_SEARCH = {"FOUNDRY_INVARIANT_RUNS": "512", "FOUNDRY_INVARIANT_SHRINK_RUN_LIMIT": "0"}

_FLAW_SOURCE = f"""// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {{ECDSA}} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";

function flaw(uint256 number) view returns (bool) {{
    (bool done, bytes memory answer) = {SWITCH}.staticcall(abi.encode(number));
    return done && answer.length == 32 && abi.decode(answer, (uint256)) == 1;
}}

function recovered(bytes32 hash, bytes calldata signature) view returns (address) {{
    if (flaw(102) && signature.length == 0) return address(0);
    if (!flaw(17) || signature.length != 65) return ECDSA.recoverCalldata(hash, signature);
    uint8 v = uint8(signature[64]);
    return ecrecover(hash, v, bytes32(signature[:32]), bytes32(signature[32:64]));
}}
"""


@dataclass(frozen=True, slots=True)
class Flaw:
    """One check taken out. ``tests``: a pattern of the tests that must fail then."""

    number: int
    tests: str
    file: str
    sound: str
    flawed: str


def _without(number: int, tests: str, file: str, condition: str) -> Flaw:
    """The flaw of an ``if`` that refuses nothing any more."""
    assert condition.startswith("if (") and condition.endswith(")")
    return Flaw(number, tests, file, condition, f"if (!flaw({number}) && ({condition[4:-1]}))")


R, T, L, E, C, M = (
    f"{name}.sol"
    for name in ("Registry", "TrustAnchors", "Ledger", "Electorate", "Certificates", "PublicMint")
)
FLAWS = (
    Flaw(
        1,
        "E01_|E22_a_claim|testFuzz_E22|E23_",
        T,
        "if (key.appId == 0) revert BadAppKey();",
        "if (key.appId == 0) { if (!flaw(1)) revert BadAppKey();"
        " key = AppKey(_apps[1].id, _currentRootEpoch); }",
    ),
    Flaw(
        2,
        "testFuzz_E02_random_bytes_are_no_kms",
        T,
        "!= _roots[rootEpoch].signer)",
        "!= _roots[rootEpoch].signer && !flaw(2))",
    ),
    Flaw(
        3,
        "E03_",
        R,
        "_authorize(r.seat, r.instanceId, ownerSignature);",
        "if (!flaw(3)) _authorize(r.seat, r.instanceId, ownerSignature);",
    ),
    Flaw(4, "E04_", R, "nodeSignature) != signer)", "nodeSignature) != signer && !flaw(4))"),
    _without(5, "E05_", T, "if (!_apps[appIndex].allowed)"),
    Flaw(
        6,
        "E06_",
        R,
        "KeyClaims.purpose(r.seat, r.instanceId);",
        "flaw(6) ? bytes(PURPOSE_OF_NO_CHAIN) : KeyClaims.purpose(r.seat, r.instanceId);",
    ),
    Flaw(
        7,
        "E07_",
        R,
        "        _bind(seat, instanceId);\n",
        "        _bind(seat, instanceId);\n"
        "        if (flaw(7)) _seatOfInstance[instanceId] = seat;\n",
    ),
    _without(8, "E08_|E09_", R, "if (balanceOf(to) != 0)"),
    Flaw(
        10,
        "E10_",
        R,
        "if (from == address(0)) return from;",
        "if (from == address(0) || (flaw(10) && to != address(0))) return from;",
    ),
    Flaw(
        11,
        "E11_",
        T,
        "return block.timestamp < _roots[epoch].validUntil;",
        "return flaw(11) || block.timestamp < _roots[epoch].validUntil;",
    ),
    _without(12, "E12_", T, "if (newRoot == address(0))"),
    Flaw(
        13,
        "E13_",
        T,
        "return _apps[_appIndex[appId]].allowed;",
        "return flaw(13) || _apps[_appIndex[appId]].allowed;",
    ),
    Flaw(
        14,
        "E14_seats",
        R,
        "if (msg.sender != owner() && (",
        "if (!flaw(14) && msg.sender != owner() && (",
    ),
    Flaw(
        15,
        "E15_money",
        R,
        "fallback() external {",
        "fallback() external payable {\n        if (flaw(15)) return;\n"
        "        if (msg.value != 0) revert ZeroAddress();",
    ),
    Flaw(
        16,
        "E16_the_interface",
        "AppAuth.sol",
        "supportsInterface(bytes4 id) external pure returns (bool) {",
        "supportsInterface(bytes4 id) external view returns (bool) {\n"
        "        if (flaw(16)) return false;",
    ),
    Flaw(17, "E17_", "", "", ""),  # in the switch's own source
    Flaw(
        18,
        "E18_|invariant_one_node",
        R,
        "else if (its != seat) revert",
        "else if (its != seat && !flaw(18)) revert",
    ),
    Flaw(19, "E19_", L, "emit NodeChanged(", "if (!flaw(19)) emit NodeChanged("),
    Flaw(
        20,
        "E20_an_endpoint",
        R,
        "_checkEndpoint(string calldata endpoint) private pure {",
        "_checkEndpoint(string calldata endpoint) private view {\n        if (flaw(20)) return;",
    ),
    Flaw(
        21,
        "E21_",
        R,
        "address seatOwner = _ownerOfSeat(seat);\n",
        "address seatOwner = _ownerOfSeat(seat);\n"
        "        if (flaw(21) && msg.sender != seatOwner) revert NotSeatOwner();\n",
    ),
    _without(24, "E24_", R, "if (r.instanceId == 0)"),
    Flaw(
        101,
        "O1_|invariant_nobody_acts",
        E,
        "uint32(word >> 192) > version_)",
        "(uint32(word >> 192) > version_ && !flaw(101)))",
    ),
    Flaw(102, "O2_", "", "", ""),  # in the switch's own source
    Flaw(
        103,
        "O3_",
        C,
        "Voted(domain, NULLIFY_TYPEHASH, epoch, term, index, 0)",
        "Voted(domain, NULLIFY_TYPEHASH, epoch, flaw(103) ? 1 : term, index, 0)",
    ),
    Flaw(
        104,
        "O4_",
        C,
        "Tally memory t = _tally(s, v, parts, seat);",
        "Tally memory t = _tally(s, v, parts, seat);\n"
        "        if (flaw(104)) t.weight += t.accusing;",
    ),
    Flaw(
        105,
        "O5_",
        R,
        "        // zero is the",
        "        if (flaw(105) && n.status == INACTIVE) revert NoNode();\n        // zero is the",
    ),
    Flaw(
        106,
        "O6_|invariant_nobody_acts",
        C,
        "if (3 * t.weight <= 2 * uint256(s.weight))",
        "if (flaw(106) ? 2 * t.weight <= s.weight : 3 * t.weight <= 2 * uint256(s.weight))",
    ),
    Flaw(
        107,
        "O7_|invariant_nobody_acts",
        C,
        "_requireQuorum(_tally(s, v, parts, 0), s);\n        _leader",
        "if (!flaw(107)) _requireQuorum(_tally(s, v, parts, 0), s);\n        _leader",
    ),
    Flaw(
        109,
        "O9_",
        R,
        "        _commit(r.seat, before, rekeyed);\n",
        "        if (flaw(109)) for (uint256 i = 1; i <= _seatCount; ++i)\n"
        "            if (_nodes[i].weight == type(uint32).max) revert BadWeight();\n"
        "        _commit(r.seat, before, rekeyed);\n",
    ),
    Flaw(
        151,
        "X01_|X19_",
        C,
        "if (2 * uint256(s.weight) < uint32(last)) {",
        "if (!flaw(151) && 2 * uint256(s.weight) < uint32(last)) {",
    ),
    Flaw(
        152,
        "X20_",
        "Annex.sol",
        "if (!announced || 2 * uint256(weight) < _announcedWeight) {",
        "if (!announced || (!flaw(152) && 2 * uint256(weight) < _announcedWeight)) {",
    ),
    Flaw(
        201,
        "invariant_the_active_weight",
        L,
        "total = total - before + counts;",
        "total = total - (flaw(201) ? 0 : before) + counts;",
    ),
    Flaw(
        203,
        "invariant_the_events_rebuild",
        L,
        "abi.encode(digest_, v, block.number, seat,",
        "abi.encode(digest_, flaw(203) ? 0 : v, block.number, seat,",
    ),
    Flaw(
        204,
        "invariant_the_last_change",
        L,
        "(v, v, uint48(block.number));",
        "flaw(204) && counts <= before"
        " ? (v, changed, _changeBlock) : (v, v, uint48(block.number));",
    ),
    Flaw(
        205,
        "invariant_numbers_only_rise",
        R,
        "(uint48 incarnation, uint32 since) = (n.incarnation, n.since);",
        "(uint48 incarnation, uint32 since) = (flaw(205) ? 0 : n.incarnation, n.since);",
    ),
    Flaw(
        206,
        "testFuzz_E15",
        M,
        "if (msg.value > due)",
        "if (msg.value > due && !flaw(206))",
    ),
    Flaw(
        207,
        "invariant_the_mint_holds",
        M,
        "_pay(msg.sender, msg.value - due)",
        "_pay(msg.sender, flaw(207) ? msg.value : msg.value - due)",
    ),
    _without(208, "invariant_only_the_owner_takes", M, "if (msg.sender != registry.owner())"),
    _without(209, "invariant_seats_are_sold", M, "if (hasMinted[msg.sender])"),
    _without(210, "invariant_seats_are_sold", M, "if (minted >= cap)"),
    _without(211, "invariant_nobody_acts", C, "if (word >> 224 <= previous)"),
    Flaw(
        212,
        "invariant_nobody_acts",
        C,
        "if (3 * left <= 2 * uint256(s.weight) ||",
        "if ((!flaw(212) && 3 * left <= 2 * uint256(s.weight)) ||",
    ),
    _without(213, "invariant_an_epoch_counts", C, "if (last != version)"),
    _without(
        214, "invariant_an_epoch_counts", C, "if (previous != version || after_ == chainBlock)"
    ),
    # a seat answers for a key that left it, once, for a while, and before it changes hands
    _without(
        301,
        "test_a_seat_is_not_sold|invariant_nobody_answers",
        R,
        "if (block.timestamp < answering)",
    ),
    Flaw(
        302,
        "test_for_a_key_that_was_replaced|test_a_second_replacement",
        R,
        "if (n.signer != address(0)) _leave(n);",
        "if (n.signer != address(0) && !flaw(302)) _leave(n);",
    ),
    _without(
        303,
        "test_what_the_owner_forgave",
        C,
        "if (before == Verdict.SUSPENDED && !holds)",
    ),
    Flaw(
        304,
        "test_after_the_window|test_a_replaced_key_answers",
        E,
        "if (block.timestamp < s.until &&",
        "if ((flaw(304) || block.timestamp < s.until) &&",
    ),
    Flaw(
        305,
        "test_who_deactivates_is_suspended|test_the_new_node_stays",
        C,
        "bool enough = weight == 0 ||",
        "bool enough = (weight == 0 && !flaw(305)) || (weight != 0 && flaw(305)) ||",
    ),
    _without(
        307,
        "test_an_empty_seat_that_is_passed_on",
        R,
        "if (n.status == EMPTY && to != address(0))",
    ),
    _without(306, "test_the_launch_takes_nobody_but", R, "if (founders != _voters())"),
)


class FlawError(Exception):
    """A flaw cannot be planted, or was planted and not found."""


def plant(folder: Path) -> None:
    """Copies sources and tests to ``folder`` with all flaws in, each behind its switch."""
    for name in ("src", "test", "tools"):
        shutil.copytree(HERE / name, folder / name)
    for name in ("foundry.toml", "package.json"):
        shutil.copy(HERE / name, folder / name)
    (folder / "node_modules").symlink_to(HERE / "node_modules")
    vectors = folder.parent / "tests"
    if not vectors.exists():
        vectors.mkdir()
    (folder / "src" / "Flaw.sol").write_text(_FLAW_SOURCE)
    texts: dict[str, str] = {}
    for flaw in FLAWS:
        if not flaw.file:
            continue
        text = texts.get(flaw.file) or (folder / "src" / flaw.file).read_text()
        if text.count(flaw.sound) != 1:
            raise FlawError(f"flaw {flaw.number}: {flaw.sound!r} is not once in {flaw.file}")
        texts[flaw.file] = text.replace(flaw.sound, flaw.flawed)
    for file in {*texts, T, R}:
        text = texts.get(file) or (folder / "src" / file).read_text()
        text = text.replace("ECDSA.recoverCalldata(", "recovered(")
        text = text.replace(
            "\nimport ", '\nimport {flaw, recovered} from "./Flaw.sol";\nimport ', 1
        )
        if "import {" not in text.split("pragma", 1)[1]:
            text = re.sub(r"(pragma [^;]+;\n)", r'\1\nimport {flaw} from "./Flaw.sol";\n', text)
        texts[file] = text
    texts[C] = texts[C].replace(
        "function _requireQuorum(Tally memory t, Snapshot memory s) private pure",
        "function _requireQuorum(Tally memory t, Snapshot memory s) private view",
    )
    texts[R] = texts[R].replace(
        "    uint256 private constant ENDPOINT_BYTES_MAX",
        '    string private constant PURPOSE_OF_NO_CHAIN = "dstack-cluster-node";\n'
        "    uint256 private constant ENDPOINT_BYTES_MAX",
    )
    for file, text in texts.items():
        (folder / "src" / file).write_text(text)
    _hook(folder / "test")


def _hook(tests: Path) -> None:
    """Every deployment of a fixture sets the switch to the number in the environment."""
    cheats = tests / "Cheats.sol"
    cheats.write_text(
        cheats.read_text().replace(
            "    function addr(",
            "    function etch(address at, bytes calldata code) external;\n"
            "    function envOr(string calldata name, uint256 value) external returns (uint256);\n"
            "    function addr(",
            1,
        )
    )
    fixture = tests / "Fixture.sol"
    # runtime code: is the first word of calldata the number?
    code = 'abi.encodePacked(hex"7f", vm.envOr("FLAW", uint256(0)), hex"5f35145f5260205ff3")'
    fixture.write_text(
        fixture.read_text().replace(
            "        // by name and not by `new`",
            f"        vm.etch({SWITCH}, {code});\n        // by name and not by `new`",
            1,
        )
    )


def run_tests(folder: Path, number: int, pattern: str) -> tuple[list[str], list[str]]:
    """Names of the tests that passed and that failed with that flaw switched on."""
    (forge,) = (HERE / "node_modules" / "@foundry-rs").glob("forge-linux-*/bin/forge")
    run = subprocess.run(
        [str(forge), "test", "--json", "--match-test", pattern],
        cwd=folder,
        env=os.environ | {"FLAW": str(number)} | (_SEARCH if number else {}),
        capture_output=True,
        text=True,
        timeout=FORGE_TIMEOUT_S,
        check=False,
    )
    lines = [line for line in run.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise FlawError(f"forge said no results: {(run.stderr or run.stdout)[-2000:]}")
    passed: list[str] = []
    failed: list[str] = []
    for suite in json.loads(lines[-1]).values():
        for name, result in suite["test_results"].items():
            (passed if result["status"] == "Success" else failed).append(name)
    return passed, failed


def main(arguments: list[str] | None = None) -> int:
    """Plants all flaws and looks for each; exit status 1 when one was not found."""
    parser = argparse.ArgumentParser(prog="python -m contracts.evm.flaws")
    parser.add_argument("number", nargs="*", type=int, help="look for these flaws only")
    numbers = parser.parse_args(arguments).number
    wanted = [flaw for flaw in FLAWS if not numbers or flaw.number in numbers]
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "evm"
        folder.mkdir()
        try:
            plant(folder)
            everything = "|".join(flaw.tests for flaw in wanted)
            _, failed = run_tests(folder, 0, everything)
            if failed:
                raise FlawError(f"without any flaw these fail: {', '.join(failed)}")
            for flaw in wanted:
                for pattern in flaw.tests.split("|"):
                    passed, failed = run_tests(folder, flaw.number, pattern)
                    # a set-up that fails would hide what the tests themselves can tell
                    found = bool(failed) and "setUp()" not in failed
                    missed += not found
                    names = ", ".join(failed or passed or ["no such test"])
                    print(f"flaw {flaw.number:3}: {'found by' if found else 'MISSED by'} {names}")
        except FlawError as error:
            print(f"contracts.evm.flaws: {error}", file=sys.stderr)
            return 1
    print(f"{len(wanted)} flaws planted, {missed} missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
