"""Proves the pure parts of the contracts for all inputs of a size, with halmos.

``symbolic/`` holds the checks. They are compiled as the contracts are, and halmos runs the code
with symbols in place of arguments: no check may have a counterexample, nor a path left out. A check
that nothing can fail proves nothing, so each also runs against a copy of its sources with a flaw in
it (``FLAWS``), and must fail there. All is laid out in ``out/symbolic``; none of it is deployed.

Run ``python -m contracts.evm.halmos``. Installs halmos into ``.tools/halmos`` the first time.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from contracts.evm import build
from contracts.evm.environments import EnvironmentsError, command, with_forge

HERE = Path(__file__).resolve().parent
CHECKS = HERE / "symbolic"
PLACE = HERE / "out" / "symbolic"
HALMOS_TIMEOUT_S = 1800
# rounds of one loop on one path: going beyond is an error, never left out in silence
LOOPS_MAX = 32
FOUND, PROVED = 1, 0  # halmos' numbers for a counterexample and for none

_CHECK = re.compile(
    r"(?P<note>    /// @custom:halmos [^\n]*\n)?"
    r"    function (?P<name>check_\w+)\((?P<signature>[^{]*)\{\n(?P<body>.*?\n)    \}\n",
    re.DOTALL,
)


class HalmosError(Exception):
    """The checks could not be run, or a flaw cannot be planted."""


@dataclass(frozen=True, slots=True)
class Flaw:
    """A change of a source under which ``check`` must have a counterexample.

    In ``flawed`` FLAW stands for "this flaw is switched on"; FLAW_BIT is 1 or 0, for assembly.
    """

    check: str
    file: str
    sound: str
    flawed: str


K, D, S, B, C, M = (
    f"{name}.sol"
    for name in ("KeyClaims", "Domain", "Slots", "Boundary", "Certificates", "PublicMint")
)
FLAWS = (
    Flaw("check_hex_is_what_digit_by_digit_gives", K, "ones * 6)", "ones * (FLAW ? 5 : 6))"),
    Flaw("check_a_compressed_key_keeps_the_parity", K, "odd ? bytes1", "odd != FLAW ? bytes1"),
    Flaw(
        "check_claim_v0_is_purpose_colon_hex_of_the_key",
        K,
        'odd ? "03" : "02"',
        'odd || FLAW ? "03" : "02"',
    ),
    Flaw(
        "check_claim_v1_is_four_fields_behind_their_lengths",
        K,
        "uint32(33)",
        "uint32(FLAW ? 32 : 33)",
    ),
    Flaw(
        "check_no_two_seats_or_instances_share_a_purpose",
        K,
        "seat, instanceId)))",
        "seat, FLAW ? bytes20(0) : instanceId)))",
    ),
    Flaw(
        "check_a_kms_claim_speaks_of_one_app_and_one_key",
        K,
        "appId, prefixOf(odd), x",
        "appId, prefixOf(odd || FLAW), x",
    ),
    Flaw(
        "check_the_digest_is_that_of_eip712",
        D,
        "keccak256(free, 66)",
        "keccak256(free, sub(66, FLAW_BIT))",
    ),
    Flaw(
        "check_no_two_registries_share_a_domain",
        D,
        "block.chainid, registry",
        "block.chainid, FLAW ? address(0) : registry",
    ),
    Flaw(
        "check_the_first_word_holds_each_field_in_its_place",
        S,
        "word := sload(n.slot)",
        "word := shr(FLAW_BIT, sload(n.slot))",
    ),
    Flaw(
        "check_an_item_is_skipped_as_the_plain_reader_does",
        B,
        "0xcd) at += 2",
        "0xcd) at += FLAW ? 1 : 2",
    ),
    Flaw(
        "check_an_item_is_skipped_as_the_plain_reader_does",
        B,
        "if (at > data.length)",
        "if (!FLAW && at > data.length)",
    ),
    Flaw(
        "check_a_number_is_read_whole_or_not_at_all",
        B,
        "1 << (tag - 0xcc)",
        "FLAW ? tag - 0xcb : 1 << (tag - 0xcc)",
    ),
    Flaw(
        "check_the_record_says_what_was_written",
        B,
        "(uint64(bigEndian(data, at, size)),",
        "(uint64(bigEndian(data, at, size)) >> (FLAW ? 1 : 0),",
    ),
    Flaw(
        "check_a_header_is_taken_apart_where_it_was_put_together",
        B,
        "bytes32(header[80:112])",
        "FLAW ? bytes32(header[72:104]) : bytes32(header[80:112])",
    ),
    Flaw(
        "check_no_leader_goes_on_record_without_more_than_two_thirds",
        C,
        "if (3 * t.weight <= 2",
        "if (3 * t.weight + (FLAW ? 1 : 0) <= 2",
    ),
    Flaw(
        "check_no_leader_goes_on_record_without_more_than_two_thirds",
        C,
        "if (word >> 224 <= previous)",
        "if (FLAW ? word >> 224 < previous : word >> 224 <= previous)",
    ),
    Flaw(
        "check_two_quorums_of_an_epoch_share_more_than_a_third",
        C,
        "* uint256(s.weight)) revert NoQuorum",
        "* uint256(s.weight) - (FLAW ? s.weight / 2 : 0)) revert NoQuorum",
    ),
    Flaw(
        "check_leaders_on_record_go_forward_only",
        C,
        "&& index <= _leader.index",
        "&& !FLAW && index <= _leader.index",
    ),
    Flaw(
        "check_no_seat_is_suspended_without_accusers_or_below_a_quorum",
        C,
        "reason < REASON_STEP_DOWN",
        "reason < REASON_STEP_DOWN + (FLAW ? 1 : 0)",
    ),
    Flaw(
        "check_no_seat_is_suspended_without_accusers_or_below_a_quorum",
        C,
        "if (3 * left <= 2 * uint256(s.weight)",
        "if ((FLAW ? 4 : 3) * left <= 2 * uint256(s.weight)",
    ),
    Flaw(
        "check_the_three_pairs_contradict_and_no_other",
        C,
        "return a.index <= b.index",
        "return FLAW ? a.index < b.index : a.index <= b.index",
    ),
    Flaw(
        "check_a_sale_keeps_the_price_and_pays_back_the_rest",
        M,
        "if (msg.value > due) _pay",
        "if (msg.value > due && !FLAW) _pay",
    ),
    Flaw(
        "check_only_the_owner_takes_money_out_or_sets_the_terms",
        M,
        "_onlyOwner();\n        if (to ==",
        "if (!FLAW) _onlyOwner();\n        if (to ==",
    ),
)


def lay_out() -> dict[str, bool]:
    """Writes sources and checks to ``out/symbolic``, and beside them a flawed copy of both.

    In the copy every flaw stands behind a switch, the base fee of the block, so that each file is
    compiled once more and not once for each flaw. Gives for each check to run, as
    ``file:Contract.check``, whether it must hold. Raises HalmosError when a flaw's text is not
    found once, or a check has no flaw that it must find.
    """
    texts = {f"symbolic/{file.name}": file.read_text() for file in sorted(CHECKS.glob("*.sol"))}
    files = dict(texts)
    for name in texts:
        closure = build.source_closure(name)
        files |= {path: text for path, text in closure.items() if path.startswith("src/")}
    wanted = {
        f"{name}:{contract}.{check}": True
        for name, text in texts.items()
        for contract, check in _checks(text)
    }
    known = {name.rpartition(".")[2] for name in wanted}
    if known != {flaw.check for flaw in FLAWS}:
        odd = sorted(known ^ {flaw.check for flaw in FLAWS})
        raise HalmosError(f"each check needs a flaw, and each flaw a check: {', '.join(odd)}")
    flawed = dict(files)
    for number, flaw in enumerate(FLAWS, 1):
        source = f"src/{flaw.file}"
        if flawed[source].count(flaw.sound) != 1:
            raise HalmosError(f"{flaw.sound!r} is not once in {source}, for {flaw.check}")
        text = flaw.flawed.replace("FLAW_BIT", f"eq(basefee(), {number})")
        text = text.replace("FLAW", f"(block.basefee == {number})")
        flawed[source] = flawed[source].replace(flaw.sound, text)
    for name, text in texts.items():
        for contract, check in _checks(text):
            wanted |= {
                f"flawed/{name}:{contract}Flawed.{check}_{number}": False
                for number, flaw in enumerate(FLAWS, 1)
                if flaw.check == check
            }
        copies = _CHECK.sub(_switched, text)
        flawed[name] = re.sub(
            r"^contract (\w+) ", r"contract \1Flawed ", copies, flags=re.MULTILINE
        )
    # who asks for the base fee is not pure
    files |= {f"flawed/{name}": text.replace(" pure", " view") for name, text in flawed.items()}
    files["foundry.toml"] = (HERE / "foundry.toml").read_text()
    for name in ("src", "symbolic", "flawed"):
        shutil.rmtree(PLACE / name, ignore_errors=True)
    for path, text in files.items():
        (PLACE / path).parent.mkdir(parents=True, exist_ok=True)
        (PLACE / path).write_text(text)
    for name in ("node_modules", "tools"):
        if not (PLACE / name).exists():
            (PLACE / name).symlink_to(HERE / name)
    return wanted


def _checks(text: str) -> list[tuple[str, str]]:
    """Contract and name of each check in a source."""
    found = []
    for match in _CHECK.finditer(text):
        contracts = re.findall(r"^contract (\w+) ", text[: match.start()], re.MULTILINE)
        found.append((contracts[-1], match["name"]))
    return found


def _switched(match: re.Match[str]) -> str:
    """A check once for each of its flaws, which it switches on first."""
    return "\n".join(
        f"{match['note'] or ''}    function {match['name']}_{number}({match['signature']}{{\n"
        f"        vm.fee({number});\n{match['body']}    }}\n"
        for number, flaw in enumerate(FLAWS, 1)
        if flaw.check == match["name"]
    )


def run(wanted: dict[str, bool]) -> dict[str, int]:
    """Halmos' number for each check that it ran; a path that was left out counts as an error."""
    program, environment = command("halmos"), with_forge()
    report = PLACE / "report.json"
    report.unlink(missing_ok=True)
    contracts = "|".join(sorted(set(re.findall(r":(\w+)\.", " ".join(wanted)))))
    arguments = ["--match-contract", f"^({contracts})$", "--loop", str(LOOPS_MAX), "--early-exit"]
    # the solver of the lock file, and none that lies on the path or could be downloaded
    solver = [str(program.with_name("yices-smt2")), "--smt2-model-format", "--bvconst-in-decimal"]
    arguments += ["--solver-command", shlex.join(solver)]
    process = subprocess.run(
        [str(program), "--no-status", *arguments, "--json-output", str(report)],
        cwd=PLACE,
        env=environment | {"FOUNDRY_PROFILE": "symbolic"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=HALMOS_TIMEOUT_S,
        check=False,
    )
    (PLACE / "halmos.log").write_text(process.stdout)
    if not report.exists():
        raise HalmosError(f"halmos gave no report:\n{process.stdout.strip()[-2000:]}")
    numbers = {}
    for place, results in json.loads(report.read_text())["test_results"].items():
        for result in results:
            name = f"{place}.{result['name'].split('(')[0]}"
            numbers[name] = -1 if result["num_bounded_loops"] else result["exitcode"]
    return numbers


def main() -> int:
    """Exit status 1 when a check has a counterexample or is not finished, or a flaw is missed."""
    try:
        wanted = lay_out()
        numbers = run(wanted)
    except (HalmosError, EnvironmentsError, build.BuildError, subprocess.TimeoutExpired) as error:
        print(f"contracts.evm.halmos: {error}", file=sys.stderr)
        return 1
    wrong = []
    for name, holds in wanted.items():
        number = numbers.get(name)
        if number == (PROVED if holds else FOUND):
            continue
        found = {
            PROVED: "has no counterexample",
            FOUND: "has a counterexample",
            None: "did not run",
        }
        wrong.append(f"{name} {found.get(number, 'was not finished')}")
    for line in wrong:
        print(f"halmos: {line}", file=sys.stderr)
    sound = sum(wanted.values())
    print(f"halmos: {sound} checks, {len(FLAWS)} flaws to find, {len(wrong)} not as they must be")
    if wrong:
        print(
            f"What halmos said, with its counterexamples: {PLACE / 'halmos.log'}\n"
            "A check in symbolic/ tells of the sources. One in flawed/ could not tell the flaw of"
            " its number (FLAWS in contracts/evm/halmos.py) from the right code.",
            file=sys.stderr,
        )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
