from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from memory_node import MemoryNode
from prometheus_client.parser import text_string_to_metric_families

from node.metrics import STATES, metrics_registry, render

ROOT = Path(__file__).parents[3]


def page_of(node: MemoryNode, accept: str = "") -> str:
    return render(metrics_registry(node), accept)[0].decode()


def samples(node: MemoryNode) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page_of(node))
        for sample in family.samples
    }


def test_the_page_tells_the_same_numbers_as_the_status(node: MemoryNode) -> None:
    found = samples(node)
    for name, value in {
        "height": 12,
        "term": 4,
        "view_index": 2,
        "is_leader": 1,
        "weight_quorum": 7,
        "chain_finalized_block": 77,
        "leader_changes_total": 3,
        "ready": 1,
    }.items():
        assert found[(f"dstack_cluster_{name}", ())] == value
    assert found[("dstack_cluster_state", (("state", "active"),))] == 1
    assert found[("dstack_cluster_state", (("state", "halted"),))] == 0
    assert found[("dstack_cluster_insecure", (("mode", "simulator"),))] == 1


def test_complaints_and_answers_to_challenges_have_labels(node: MemoryNode) -> None:
    base = node.status()
    probes = {"2": {"missed": 0, "age_ms": 300, "rtt_ms": 2, "lag": 1}, "3": {"missed": 4}}
    complaints = {"2": "slow", "3": "slow"}
    node.status = lambda: {**base, "probes": probes, "complaints": complaints}  # type: ignore[method-assign]
    found = samples(node)
    assert found[("dstack_cluster_complaints", (("reason", "slow"),))] == 2
    assert found[("dstack_cluster_probe_age_seconds", (("seat", "2"),))] == 0.3
    assert ("dstack_cluster_probe_age_seconds", (("seat", "3"),)) not in found


ATTESTATION = {
    "policy_version": 3,
    "held": [4],
    "accepted": 7,
    "refused": {"attestation_debug": 2},
    "verified": 11,
    "verifying_ms": 22.5,
    "quotes": 5,
    "members": {
        "2": {"attested": True, "quote_age_s": 40},
        "3": {"attested": False, "quote_age_s": 900},
    },
}


def test_what_members_proved_is_counted(node: MemoryNode) -> None:
    base = node.status()
    assert not any(name.startswith("dstack_cluster_attestation") for name, _ in samples(node))
    node.status = lambda: {**base, "attestation": ATTESTATION}  # type: ignore[method-assign]
    told = samples(node)
    prefix = "dstack_cluster_attestation_"
    refused = (prefix + "refused_total", (("reason", "attestation_debug"),))
    assert told[refused] == 2
    assert told[(prefix + "quote_age_seconds", (("seat", "2"),))] == 40
    assert (prefix + "quote_age_seconds", (("seat", "3"),)) not in told
    for name, value in {
        "policy_version": 3,
        "held": 1,
        "members": 1,
        "accepted_total": 7,
        "quotes_total": 5,
        "verified_total": 11,
        "verify_seconds_total": 0.0225,
    }.items():
        assert told[(prefix + name, ())] == value


def test_endpoints_are_named_with_what_they_did_wrong(node: MemoryNode) -> None:
    found = samples(node)
    rpc = ("endpoint", "rpc.example:443")
    assert found[("dstack_cluster_chain_endpoint_ok", (rpc,))] == 0
    troubles = "dstack_cluster_chain_endpoint_troubles_total"
    assert found[(troubles, (rpc, ("kind", "lying")))] == 2
    assert found[(troubles, (rpc, ("kind", "late")))] == 0
    assert found[("dstack_cluster_chain_proven", ())] == 0
    assert found[("dstack_cluster_chain_transactions", (("state", "pending"),))] == 1
    assert found[("dstack_cluster_chain_transactions", (("state", "failed"),))] == 0


def test_a_number_the_node_does_not_know_is_absent_and_not_zero(node: MemoryNode) -> None:
    base = node.status()

    def status() -> dict[str, Any]:
        return {**base, "leader": None, "chain": None, "lag": None, "height": "many"}

    node.status = status  # type: ignore[method-assign]
    names = {name for name, _ in samples(node)}
    assert "dstack_cluster_term" in names
    for gone in ("leader_seat", "chain_finalized_block", "lag_blocks", "height", "commits_total"):
        assert f"dstack_cluster_{gone}" not in names


def test_hostile_label_text_stays_inside_its_label(node: MemoryNode) -> None:
    base = node.status()
    node.status = lambda: {**base, "version": 'a"} 1\nforged 2'}  # type: ignore[method-assign]
    assert not any(line.startswith("forged") for line in page_of(node).splitlines())


def test_openmetrics_is_spoken_when_asked_for(node: MemoryNode) -> None:
    accept = "application/openmetrics-text; version=1.0.0"
    page, content_type = render(metrics_registry(node), accept)
    assert content_type.startswith("application/openmetrics-text")
    assert page.endswith(b"# EOF\n")


def test_the_documented_table_and_the_page_name_the_same_metrics(node: MemoryNode) -> None:
    base = node.status()
    more = {
        "commits": 1,
        "refused_handshakes": 2,
        "mempool": 3,
        "patience": 1,
        "evidence": 2,
        "clock_ahead_ms": -40,
        "complaints": {"2": "slow"},
        "probes": {"2": {"missed": 0, "age_ms": 300, "rtt_ms": 2, "lag": 1}},
        "attestation": ATTESTATION,
    }
    node.status = lambda: {**base, **more}  # type: ignore[method-assign]
    more["chain"] = base["chain"] | {"lease_left_s": 600_000}
    page = (ROOT / "docs" / "monitoring.md").read_text()
    rows = [line for line in page.splitlines() if re.match(r"\| `(dstack_cluster|process)_", line)]
    documented = {
        (name, frozenset(re.findall(r"(\w+)=", labels)))
        for row in rows
        for name, labels in re.findall(r"`(\w+?)(?:\{([^}]*)\})?`", row.split("|")[1])
    }
    served = {(name, frozenset(label for label, _ in labels)) for name, labels in samples(node)}
    assert served == documented
    types = {name: row.split("|")[2].strip() for row in rows for name in re.findall(r"`(\w+)", row)}
    for family in text_string_to_metric_families(page_of(node)):
        assert family.documentation
        if family.name.startswith("dstack_cluster_"):
            name = family.samples[0].name
            expected = "info" if name.endswith("_info") else types[name]
            assert family.type == expected.replace("info", "gauge"), name
            # what promtool asks for, so that OpenMetrics scrapers keep the names
            assert (family.type == "counter") == name.endswith("_total"), name


def test_the_page_for_operators_explains_every_state() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    table = page.partition("| state | the node |")[2].partition("## Logs")[0]
    assert tuple(sorted(re.findall(r"^\| `(\w+)`", table, re.M))) == tuple(sorted(STATES))


def test_the_alert_rules_ask_for_metrics_and_labels_that_there_are() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    rules = (ROOT / "deploy" / "alerts.yml").read_text()
    expressions = re.findall(r"expr: (.*)", rules)
    assert len(expressions) == len(re.findall(r"alert: (\w+)", rules)) > 10
    for expression in expressions:
        for name, label in re.findall(r"((?:dstack_cluster|process)_\w+)(?:\{(\w+)=)?", expression):
            rows = [line for line in page.splitlines() if re.search(rf"`{name}[`{{]", line)]
            assert rows, name
            assert not label or label == "job" or f"{label}=" in rows[0], expression
