"""Prometheus metrics, read from ``NodeFacade.status()`` at the moment of a scrape.

Nothing is counted here: the daemon's own numbers are the only truth, so the page cannot disagree
with ``/v1/status``. A number that the status does not carry is left out instead of shown as zero.
What the process takes (``process_*``) is added by the client library. ``docs/monitoring.md`` has
the table for operators; a test holds it against what is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector, CollectorRegistry

from node.facade import NodeFacade
from node.metrics_chain import chain_families

STATES = ("booting", "syncing", "observing", "abstaining", "active", "waiting", "halted")
PREFIX = "dstack_cluster_"

# name, path in the status, help
_GAUGES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("height", ("height",), "Finalized blocks applied"),
    ("revision", ("revision",), "Revision of the key-value store"),
    ("epoch", ("epoch",), "Epoch of the validator set"),
    ("term", ("term",), "Term of the leader in the epoch"),
    ("view_index", ("index",), "Index of the view in the term"),
    ("leader_seat", ("leader",), "Seat of the leader"),
    ("peers_connected", ("peers",), "Members connected, without this one"),
    ("weight", ("weight",), "Vote weight of this seat"),
    ("weight_connected", ("weight_connected",), "Weight of this and all connected members"),
    ("weight_voting", ("weight_total",), "Weight of the whole validator set"),
    ("weight_quorum", ("quorum_weight",), "Weight that a quorum needs"),
    ("lag_blocks", ("lag",), "Blocks behind the best certified height known"),
    ("incarnation", ("incarnation",), "Boot number of this seat"),
    ("mempool_commands", ("mempool",), "Commands that wait for a block"),
    ("patience_steps", ("patience",), "Half leader timers by which ours is longer"),
    ("evidence", ("evidence",), "Proofs against members that this node holds"),
    ("uptime_seconds", ("uptime_s",), "Age of the process"),
    ("chain_finalized_block", ("chain", "finalized_number"), "Newest finalized block seen"),
    ("chain_finalized_age_seconds", ("chain", "finalized_age_s"), "Age of that block"),
    ("chain_lease_left_seconds", ("chain", "lease_left_s"), "Until our registration ends"),
)
_COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("leader_changes", "leader_changes", "Terms that this node saw begin"),
    ("commits", "commits", "Commands applied"),
    ("refused_handshakes", "refused_handshakes", "Strangers cut at the handshake"),
)


class StatusCollector(Collector):
    """Turns the node's status into metric families at each scrape."""

    def __init__(self, facade: NodeFacade) -> None:
        self._facade = facade

    def collect(self) -> Iterator[Metric]:
        """All families of the page's table that the status has numbers for."""
        status = self._facade.status()
        for name, path, text in _GAUGES:
            value = _number(status, path)
            if value is not None:
                yield GaugeMetricFamily(PREFIX + name, text, value=value)
        leads = status.get("leader") is not None and status.get("leader") == status.get("seat")
        yield GaugeMetricFamily(PREFIX + "is_leader", "1 while this seat leads", value=float(leads))
        ready = not self._facade.ready()
        yield GaugeMetricFamily(
            PREFIX + "ready", "1 while linearizable requests are served", value=float(ready)
        )
        state = GaugeMetricFamily(PREFIX + "state", "1 for the present state", labels=["state"])
        for name in STATES:
            state.add_metric([name], float(status.get("state") == name))
        yield state
        membership = status.get("membership") or {}
        for name, found, text in (
            ("alarms", status.get("alarms"), "Things an operator must look at"),
            ("seats_revoked", membership.get("revoked"), "Members whose votes do not count"),
        ):
            value = float(len(found or ()))
            yield GaugeMetricFamily(PREFIX + name, text, value=value)
        pending = float(membership.get("pending") is not None)
        yield GaugeMetricFamily(
            PREFIX + "membership_pending", "1 while another set waits to vote", value=pending
        )
        insecure = GaugeMetricFamily(
            PREFIX + "insecure", "1 for each weaker mode switched on", labels=["mode"]
        )
        for mode in status.get("insecure") or ():
            insecure.add_metric([str(mode)], 1.0)
        yield insecure
        yield from _health(status)
        yield from _attestation(status.get("attestation") or {})
        ahead_ms = _number(status, ("clock_ahead_ms",))
        if ahead_ms is not None:
            text = "Our clock when a block was applied, less its time"
            yield GaugeMetricFamily(PREFIX + "clock_ahead_seconds", text, value=ahead_ms / 1000)
        for name, key, text in _COUNTERS:
            value = _number(status, (key,))
            if value is not None:
                yield CounterMetricFamily(PREFIX + name, text, value=value)
        chain = status.get("chain") or {}
        yield from chain_families(chain, PREFIX)
        info = {
            "version": str(status.get("version", "")),
            "seat": str(status.get("seat", "")),
            "chain_id": str(chain.get("chain_id", "")),
            "contract": str(chain.get("contract", "")),
        }
        yield InfoMetricFamily(PREFIX.rstrip("_"), "What runs here", value=info)


def _health(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Complaints about the leader, and what members answered to challenges."""
    complaints = GaugeMetricFamily(
        PREFIX + "complaints", "Members that complain about the present leader", labels=["reason"]
    )
    for reason, count in sorted(Counter((status.get("complaints") or {}).values()).items()):
        complaints.add_metric([str(reason)], float(count))
    yield complaints
    for name, key, unit, text in (
        ("probe_age_seconds", "age_ms", 1000, "Since a member's last answer to a challenge"),
        ("probe_rtt_seconds", "rtt_ms", 1000, "From that challenge to its answer"),
        ("probe_lag_blocks", "lag", 1, "Blocks behind this node, as it answered"),
    ):
        family = GaugeMetricFamily(PREFIX + name, text, labels=["seat"])
        for seat, row in (status.get("probes") or {}).items():
            if key in row:
                family.add_metric([seat], row[key] / unit)
        yield family


def _attestation(status: Mapping[str, Any]) -> Iterator[Metric]:
    """Who was taken and who not, by their evidence; nothing where nobody is asked for any."""
    if not status:
        return
    members: Mapping[str, Mapping[str, Any]] = status.get("members") or {}
    attested = {seat: row for seat, row in members.items() if row.get("attested")}
    for name, value, text in (
        ("policy_version", status.get("policy_version"), "Version of the policy in force"),
        ("held", len(status.get("held") or ()), "Members a new policy is not enforced against"),
        ("members", len(attested), "Members linked on evidence that was accepted"),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"{PREFIX}attestation_{name}", text, value=float(value))
    ages = GaugeMetricFamily(
        PREFIX + "attestation_quote_age_seconds", "Of a member's last quote", labels=["seat"]
    )
    for seat, row in attested.items():
        if row.get("quote_age_s") is not None:
            ages.add_metric([seat], float(row["quote_age_s"]))
    yield ages
    refused = CounterMetricFamily(
        PREFIX + "attestation_refused", "Evidence of members refused", labels=["reason"]
    )
    for reason, count in sorted((status.get("refused") or {}).items()):
        refused.add_metric([str(reason)], float(count))
    yield refused
    for name, key, unit, text in (
        ("accepted", "accepted", 1, "Evidence of members accepted"),
        ("quotes", "quotes", 1, "Quotes that this machine gave"),
        ("verified", "verified", 1, "Evidence verified"),
        ("verify_seconds", "verifying_ms", 1000, "Processor time of verification"),
    ):
        value = _number(status, (key,))
        if value is not None:
            yield CounterMetricFamily(f"{PREFIX}attestation_{name}", text, value=value / unit)


def metrics_registry(facade: NodeFacade) -> CollectorRegistry:
    """A registry of its own (not the process-wide one) with the node's collector."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Described(facade))
    ProcessCollector(registry=registry)
    return registry


class _Described(StatusCollector):
    """Registering must not call the node, which may not have booted yet."""

    def describe(self) -> list[Metric]:
        return []


def render(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The page and its content type: OpenMetrics when ``accept`` asks for it, else text."""
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


def _number(status: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    value: Any = status
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)
