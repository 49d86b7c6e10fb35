"""What status shows: agreement by weight, foreign answers, and 100 columns."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from deploy.testnet import survey, table
from deploy.testnet.layout import NodeRecord
from deploy.testnet.survey import SeatView


def seat(number: int, weight: int = 1, **values: Any) -> SeatView:
    said: dict[str, Any] = {
        "pid": 1000 + number, "state": "active", "height": 50, "epoch": 0, "term": 3,
        "view": "3.17", "leader": 2, "peers": 3, "incarnation": 1, "state_hash": "ab" * 32,
        "lag": 0, "revision": 9,
    }  # fmt: skip
    return SeatView(seat=number, weight=weight, **(said | values))


def dead(number: int, weight: int = 1) -> SeatView:
    return SeatView(number, None, "dead", weight)


@pytest.mark.parametrize(
    ("total", "needed"), [(1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (6, 5), (7, 5), (9, 7), (16, 11)]
)
def test_a_quorum_is_more_than_two_thirds(total: int, needed: int) -> None:
    assert survey.quorum(total) == needed
    assert 3 * needed > 2 * total
    assert 3 * (needed - 1) <= 2 * total


def test_a_leader_counts_when_more_than_two_thirds_of_the_weight_report_it() -> None:
    seen = survey.summarise((seat(1), seat(2), seat(3), dead(4)))
    assert (seen.leader, seen.term, seen.height) == (2, 3, 50)
    assert seen.why() == []


def test_two_thirds_exactly_are_not_enough() -> None:
    seen = survey.summarise((seat(1), seat(2), seat(3, leader=None)))
    assert seen.leader is None


def test_weights_and_not_heads_decide() -> None:
    heavy = seat(1, weight=10)
    light = tuple(dead(number) for number in range(2, 8))
    alone = survey.summarise((heavy, *light))
    assert alone.leader is None
    assert any("only 10 of 16 weight answers, a quorum needs 11" in line for line in alone.why())
    without = survey.summarise((dead(1, 10), *(seat(number) for number in range(2, 8))))
    assert without.leader is None
    assert any("only 6 of 16" in line for line in without.why())


def test_the_weight_is_that_of_the_set_that_votes() -> None:
    """Seat 4 left, and seat 5 was granted and has no say yet: three of three are enough."""
    voting = tuple(seat(number, set_weight=3, epoch=2) for number in (1, 2, 3))
    left = seat(4, weight=0, set_weight=3, epoch=2, state="observing")
    late = seat(5, weight=0, set_weight=4, epoch=1, state="observing", leader=4)
    seen = survey.summarise((*voting, left, late))
    assert (seen.leader, seen.weight_total, seen.weight_answering) == (2, 3, 3)
    assert survey.summarise((*voting[:2], left, late, dead(3))).leader is None
    text = table.as_text(seen)
    assert "weight 3 of 3" in text and "observing" in text


def test_a_boot_in_a_later_epoch_is_told_in_two_short_numbers() -> None:
    text = table.as_text(survey.summarise((seat(1, incarnation=3_000_000_002),)))
    assert "  3.2 " in text


def test_alarms_are_told_once_with_all_seats_that_see_them() -> None:
    rows = (seat(1, alarms=("a recovery",)), seat(2, alarms=("a recovery", "halted")), seat(3))
    text = table.as_text(survey.summarise(rows))
    assert "ALARM (seat 1, 2): a recovery" in text and "ALARM (seat 2): halted" in text
    long = "this node's own evidence is not good enough: " + 64 * "a" + " " + 64 * "b"
    text = table.as_text(survey.summarise((seat(1, alarms=(long,)),)))
    assert f"ALARM (seat 1): {long}\n" in text


def test_the_same_leader_in_different_terms_is_no_agreement() -> None:
    assert survey.summarise((seat(1), seat(2), seat(3, term=4), seat(4, term=4))).leader is None


def test_the_reasons_of_the_nodes_are_shown() -> None:
    waiting = seat(1, state="waiting", leader=None, reason="needs weight 3, connected 2")
    seen = survey.summarise((waiting, replace(waiting, seat=2), dead(3), dead(4)))
    assert "seats 1, 2: needs weight 3, connected 2" in seen.why()
    assert "seats 3, 4: dead" in seen.why()


def test_the_json_has_the_keys_that_scripts_rely_on() -> None:
    values = json.loads(json.dumps(survey.summarise((seat(1), dead(2))).as_json()))
    assert {"leader", "term", "height", "nodes"} <= set(values)
    wanted = {
        "seat", "pid", "state", "weight", "height", "epoch", "term", "view", "leader", "peers",
        "incarnation", "state_hash",
    }  # fmt: skip
    for row in values["nodes"]:
        assert wanted <= set(row)
    assert values["nodes"][1]["pid"] is None


@pytest.mark.parametrize("nonsense", [None, "7", -1, 1.5, True, [], {}, 1 << 63])
def test_numbers_of_a_wrong_kind_count_as_not_said(nonsense: object) -> None:
    answer = {"state": "active", "height": nonsense, "term": nonsense, "leader": nonsense}
    view = survey.read_answer(NodeRecord(1, 5, ""), 10, answer)
    assert (view.height, view.term, view.leader, view.weight) == (None, None, None, 5)


def test_text_from_a_node_cannot_reach_the_terminal_raw() -> None:
    answer = {"state": "\x1b[2Jactive", "reason": "\x1b]0;x\x07" + "y" * 1000}
    view = survey.read_answer(NodeRecord(1, 1, ""), 10, answer)
    assert view.state.isprintable()
    assert view.reason.isprintable()
    assert len(view.reason) <= survey.TEXT_CHARS_MAX


def widest() -> survey.Survey:
    values: dict[str, Any] = {
        "pid": 4_194_304, "height": 99_999_999, "epoch": 9_999, "term": 99_999,
        "view": "99999.999999", "leader": 40, "peers": 39, "incarnation": 9_999,
        "lag": 9_999_999, "state": "booting",
    }  # fmt: skip
    rows = tuple(seat(number, weight=1_000_000, **values) for number in range(39, 41))
    return survey.summarise(rows)


def test_the_table_fits_100_columns_with_the_largest_numbers() -> None:
    text = table.as_text(widest())
    assert max(map(len, text.splitlines())) <= 100
    for number in ("4194304", "99999999", "99999.999999", "1000000", "9999999", "abababab"):
        assert number in text, f"{number} was cut"
    assert "…" not in text


def test_the_table_names_the_leader_and_marks_its_row() -> None:
    lines = table.as_text(survey.summarise((seat(1), seat(2), seat(3), dead(4)))).splitlines()
    assert lines[0].startswith("leader: seat 2  term 3")
    assert [line.split()[0] for line in lines[2:6]] == ["1", "*2", "3", "4"]
    assert lines[5].split()[1:3] == ["-", "dead"]


def test_the_table_says_why_the_cluster_waits_and_what_is_insecure() -> None:
    flags = ("simulator", "no_attestation")
    text = table.as_text(survey.summarise((seat(1, insecure=flags), dead(2))))
    assert "no leader" in text
    assert "waits: only 1 of 2 weight answers, a quorum needs 2" in text
    assert "no_attestation, simulator" in text


def test_the_fingerprint_ignores_growing_heights_and_sees_deaths() -> None:
    before = survey.summarise((seat(1), seat(2), seat(3)))
    later = survey.summarise((seat(1, height=51), seat(2, height=51), seat(3, height=51)))
    broken = survey.summarise((seat(1), seat(2), dead(3)))
    assert table.fingerprint(before) == table.fingerprint(later)
    assert table.fingerprint(before) != table.fingerprint(broken)


def test_who_is_refused_is_named_with_those_who_refuse_it() -> None:
    said = {
        "state": "active",
        "attestation": {
            "members": {
                "4": {"refused": {"reason": "attestation_compose_hash\x1b[2J", "detail": "..."}},
                "2": {"refused": None},
                "x": {"refused": {"reason": "?"}},
                "3": "nonsense",
            }
        },
    }
    record = NodeRecord(1, 1, "")
    row = survey.read_answer(record, 1, said)
    assert row.refuses == ((4, "attestation_compose_hash[2J"),)
    assert survey.read_answer(record, 1, {"attestation": []}).refuses == ()
    refusals = ((4, "attestation_debug"),)
    seen = survey.summarise((seat(1, refuses=refusals), seat(2, refuses=refusals), seat(3)))
    assert "seat 4 is refused by 1, 2: attestation_debug" in table.as_text(seen)
    assert seen.as_json()["nodes"][0]["refuses"] == {"4": "attestation_debug"}
