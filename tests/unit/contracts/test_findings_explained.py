"""Findings of slither against their explanations; slither itself runs in `make test-contracts`."""

from __future__ import annotations

import pytest

from contracts.evm import slither
from contracts.evm.slither import Explanation, Finding, SlitherError

WHY = "because it must be so"


def found(detector: str, place: str) -> Finding:
    return Finding(detector, "High", place, f"{place} is dangerous")


def explained(detector: str, *places: str) -> Explanation:
    return Explanation(detector, places, WHY)


def test_a_finding_that_nothing_explains_is_told() -> None:
    new = found("reentrancy-eth", "PublicMint.withdraw")
    known = found("timestamp", "Registry.sweep")
    assert slither.judge([new, known], [explained("timestamp", "Registry.sweep")]) == ([new], [])


def test_an_explanation_is_good_for_its_own_detector_and_place_only() -> None:
    other_place = found("timestamp", "Registry.register")
    other_detector = found("reentrancy-eth", "Registry.sweep")
    unexplained, stale = slither.judge(
        [other_place, other_detector], [explained("timestamp", "Registry.sweep")]
    )
    assert unexplained == [other_place, other_detector]
    assert stale == ["timestamp in Registry.sweep"]


def test_a_place_explains_as_many_findings_as_it_is_listed() -> None:
    three = [found("unused-return", "Certificates._change")] * 3
    twice = explained("unused-return", "Certificates._change", "Certificates._change")
    assert slither.judge(three, [twice]) == ([three[0]], [])


def test_a_pattern_explains_any_number_and_is_stale_without_one() -> None:
    two = [found("unused-state", "Slots.a"), found("unused-state", "Slots.b")]
    assert slither.judge(two, [explained("unused-state", "Slots.*")]) == ([], [])
    assert slither.judge([], [explained("unused-state", "Slots.*")])[1] == [
        "unused-state in Slots.*"
    ]


def test_a_local_variable_is_named_with_its_function_and_contract() -> None:
    contract = {"type": "contract", "name": "Registry", "type_specific_fields": {}}
    function = {
        "type": "function",
        "name": "setMinter",
        "type_specific_fields": {"parent": contract},
    }
    variable = {
        "type": "variable",
        "name": "newMinter",
        "type_specific_fields": {"parent": function},
    }
    assert slither.place_of(variable) == "Registry.setMinter.newMinter"
    assert slither.place_of(contract) == "Registry"


@pytest.mark.parametrize(
    "text",
    [
        "[[explained]]\ndetector = 'a'\nwhere = ['B.c']",
        "[[explained]]\ndetector = 'a'\nwhere = []\nwhy = 'it must be so here'",
        "[[explained]]\ndetector = 'a'\nwhere = ['B.c']\nwhy = 'fine'",
    ],
    ids=["no reason", "no place", "a word for a reason"],
)
def test_an_entry_without_place_or_reason_is_refused(text: str) -> None:
    with pytest.raises(SlitherError):
        slither.read_explanations(text)


def test_every_committed_explanation_is_whole_and_none_excludes_a_whole_detector() -> None:
    explanations = slither.read_explanations(slither.EXPLAINED.read_text())
    assert explanations
    assert not [e for e in explanations if "*" in e.places]
