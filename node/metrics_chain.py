"""The part of the metrics that tells of the chain: endpoints, proofs, our transactions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from chain.health import Trouble
from chain.journal import TxState
from chain.storage import PROVEN


def chain_families(chain: Mapping[str, Any], prefix: str) -> Iterator[Metric]:
    """Families from the status's ``chain`` object; nothing where it has nothing to say."""
    endpoints = chain.get("endpoints") or []
    well = GaugeMetricFamily(
        prefix + "chain_endpoint_ok", "1 while nothing is wrong with it", labels=["endpoint"]
    )
    troubles = CounterMetricFamily(
        prefix + "chain_endpoint_troubles",
        "What an RPC endpoint did wrong",
        labels=["endpoint", "kind"],
    )
    for row in endpoints:
        name = str(row["endpoint"])
        well.add_metric([name], float(row["ok"]))
        for kind in Trouble:
            troubles.add_metric([name, kind.value], float(row["troubles"].get(kind.value, 0)))
    yield well
    yield troubles
    trust = chain.get("trust")
    if trust is not None:
        proven = float(all(how == PROVEN for how in trust.values()))
        yield GaugeMetricFamily(
            prefix + "chain_proven", "1 while the registry is proven to the block", value=proven
        )
    states = Counter(row["state"] for row in chain.get("transactions") or [])
    ours = GaugeMetricFamily(
        prefix + "chain_transactions", "Our newest transactions by state", labels=["state"]
    )
    for state in TxState:
        ours.add_metric([state.value], float(states[state.value]))
    yield ours
