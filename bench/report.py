"""From measurements to a table, a JSON document and a Markdown page, all with the same figures."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .failover import Failovers
from .load import Measured

NOTES = (
    "Both sides: four nodes on loopback, equal weights, default settings and timers, durable "
    "(fsync before a vote or an append counts), data on the same filesystem, both running during "
    "the whole run; the one that is not measured idles.",
    "Closed loop, one client code for both, plain HTTP/1.1, kept connections, 256 random bytes "
    "per value. Writers are spread over the nodes in turn beginning with the leader, so a single "
    "writer talks to the leader on both sides.",
    "etcd is written through its JSON gateway, which costs it more CPU than its native gRPC (own "
    "lines above when etcd's benchmark tool was there, with that tool's own client). etcd stands "
    "crashes only; ours stands one Byzantine member of four. Ours dedupes by request id, etcd "
    "does not.",
    "CPU is user and system time of the four node processes together. The chain and the guest "
    "agent simulator of our testnet are not counted, but they run on the same cores.",
    "Failover: from SIGKILL of the leader to the first acknowledgement of a write begun after it, "
    "a new attempt every 10 ms at the survivors in turn, no other load.",
    "Figures: median over the rounds (minimum to maximum). Ratio: ours divided by etcd, of the "
    "medians; more is better for commits/s, less for all others.",
)


@dataclass(frozen=True, slots=True)
class Phase:
    """One measurement of one side."""

    measured: Measured
    leader_changes: int  # nobody was harmed, so each is needless
    revisions_unexplained: int  # rise of the revision beyond the acknowledged writes
    quiet_before: bool


@dataclass(slots=True)
class Side:
    """All that was measured of one cluster."""

    name: str
    version: str
    idle_cpu_share: float = 0.0  # of one core, all nodes together
    phases: dict[int, list[Phase]] = field(default_factory=dict)  # by writers
    failovers: Failovers = field(default_factory=Failovers)
    failover_error: str = ""
    soak: Phase | None = None  # a long time of full load

    def leader_changes(self) -> int:
        return sum(phase.leader_changes for row in self.phases.values() for phase in row)


FIGURES: tuple[tuple[str, str, Callable[[Measured], float]], ...] = (
    ("commits_per_s", "commits/s", lambda m: m.commits_per_s),
    ("p50_ms", "p50 ms", lambda m: m.percentile_ms(50)),
    ("p99_ms", "p99 ms", lambda m: m.percentile_ms(99)),
    ("cpu_ms_per_commit", "CPU ms/commit", lambda m: m.server_cpu_ms_per_commit),
)


@dataclass(frozen=True, slots=True)
class Report:
    """The outcome of a run; ``sides`` has ours first, and etcd unless it was skipped."""

    date: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    sides: Sequence[Side]
    native: dict[int, dict[str, float]] = field(default_factory=dict)  # etcd over gRPC, by writers

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """The table: writers, figure, ours, etcd, ratio."""
        rows = []
        for writers in self.sides[0].phases:
            for _, title, read in FIGURES:
                values = [[read(p.measured) for p in side.phases[writers]] for side in self.sides]
                rows.append((str(writers), title, *_compared(values)))
        trials = [side.failovers for side in self.sides]
        for title, values in (
            ("failover ms", [trial.times_ms for trial in trials]),
            ("restarted and level ms", [trial.caught_up_ms for trial in trials]),
            ("CPU ms until then", [trial.caught_up_cpu_ms for trial in trials]),
        ):
            if any(values):
                kills = "/".join(str(len(v)) for v in values)
                rows.append((f"{kills} kills", title, *_compared(values)))
        return rows

    def remarks(self) -> list[str]:
        """What a reader must know of this very run."""
        said = []
        for side in self.sides:
            phases = [phase for row in side.phases.values() for phase in row]
            refused = sum(sum(p.measured.refused.values()) for p in phases)
            strays = sum(p.revisions_unexplained for p in phases)
            share = max((p.measured.client_cpu_share for p in phases), default=0.0)
            said.append(
                f"{side.name} {side.version}: needless leader changes under load "
                f"{side.leader_changes()}, refused or broken attempts {refused}, revisions beyond "
                f"acknowledged writes {strays}, idle CPU {100 * side.idle_cpu_share:.1f}% of a "
                f"core, load generator at most {100 * share:.0f}% of a core"
            )
            if side.soak is not None:
                measured = side.soak.measured
                said.append(
                    f"{side.name}: {measured.seconds:.0f} s of {measured.writers} writers: "
                    f"{measured.commits_per_s:.0f} commits/s, p99 {measured.percentile_ms(99):.1f} "
                    f"ms, longest {measured.percentile_ms(100):.0f} ms, needless leader changes "
                    f"{side.soak.leader_changes}"
                )
            if any(rise != 1 for rise in side.failovers.terms):
                rises = ", ".join(map(str, side.failovers.terms))
                said.append(f"{side.name}: the term rose by {rises} in the kills")
            if side.failover_error:
                said.append(f"{side.name}: failover ended early: {side.failover_error}")
        for writers, figures in self.native.items():
            said.append(
                f"etcd over gRPC (its benchmark tool), {writers} clients: "
                f"{figures['commits_per_s']:.0f} commits/s, p50 {figures['p50_ms']:.2f} ms, "
                f"p99 {figures['p99_ms']:.2f} ms"
            )
        noisy = sum(
            not p.quiet_before for s in self.sides for row in s.phases.values() for p in row
        )
        if noisy:
            said.append(f"the machine was not quiet before {noisy} measurements")
        return said

    def as_text(self) -> str:
        """For the terminal."""
        header = ("writers", "figure", "ours", "etcd", "ratio")
        rows = [header, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
        lines = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        lines.insert(1, "-" * sum(widths, 8))
        return "\n".join([self._machine_line(), "", *lines, "", *self.remarks(), ""])

    def as_markdown(self) -> str:
        """For ``bench/reports``."""
        lines = [f"# Ours beside etcd, {self.date}", "", self._machine_line(), ""]
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        lines += [f"Settings: {settings}.", ""]
        lines += ["| writers | figure | ours | etcd | ours/etcd |", "|---:|---|---:|---:|---:|"]
        lines += ["| " + " | ".join(row) + " |" for row in self.rows()]
        lines += ["", "## This run", "", *(f"- {remark}" for remark in self.remarks())]
        lines += ["", "## How it was measured", "", *(f"- {note}" for note in NOTES), ""]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Everything, with every round."""
        return {
            "date": self.date,
            "machine": self.machine,
            "settings": self.settings,
            "sides": [_side_json(side) for side in self.sides],
            "etcd_grpc": {str(writers): figures for writers, figures in self.native.items()},
            "table": [
                dict(zip(("writers", "figure", "ours", "etcd", "ratio"), row, strict=True))
                for row in self.rows()
            ],
            "notes": list(NOTES),
        }

    def _machine_line(self) -> str:
        m = self.machine
        return (
            f"{m['cores']} cores of {m['cpu']}, {m['memory_gib']} GiB, {m['kernel']}, "
            f"{m['filesystem']}, fdatasync p50 {m['fdatasync_p50_ms']} ms "
            f"p99 {m['fdatasync_p99_ms']} ms, Python {m['python']}, load before "
            f"{m['load_average_before']}, commit {m['commit']}"
        )


def _compared(values: Sequence[Sequence[float]]) -> tuple[str, str, str]:
    """Ours, etcd and the ratio as text; what is missing is n/a."""
    ours = values[0]
    etcd = values[1] if len(values) > 1 else []
    ratio = "n/a"
    if ours and etcd and statistics.median(etcd) > 0:
        ratio = f"{statistics.median(ours) / statistics.median(etcd):.2f}"
    return _spread(ours), _spread(etcd), ratio


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "n/a"
    middle, low, high = statistics.median(values), min(values), max(values)
    digits = 0 if middle >= 100 else 2
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _side_json(side: Side) -> dict[str, Any]:
    return {
        "name": side.name,
        "version": side.version,
        "idle_cpu_share": side.idle_cpu_share,
        "needless_leader_changes": side.leader_changes(),
        "load": {
            str(writers): [_phase_json(phase) for phase in row]
            for writers, row in side.phases.items()
        },
        "soak": None if side.soak is None else _phase_json(side.soak),
        "failover": {
            "times_ms": side.failovers.times_ms,
            "attempts": side.failovers.attempts,
            "term_rises": side.failovers.terms,
            "caught_up_ms": side.failovers.caught_up_ms,
            "caught_up_cpu_ms": side.failovers.caught_up_cpu_ms,
            "error": side.failover_error,
        },
    }


def _phase_json(phase: Phase) -> dict[str, Any]:
    measured = phase.measured
    return {
        **{name: read(measured) for name, _, read in FIGURES},
        "seconds": measured.seconds,
        "commits": len(measured.latencies_s),
        "commits_with_warm_up": measured.commits_total,
        "max_ms": measured.percentile_ms(100),
        "client_cpu_share": measured.client_cpu_share,
        "refused": dict(measured.refused),
        "leader_changes": phase.leader_changes,
        "revisions_unexplained": phase.revisions_unexplained,
        "quiet_before": phase.quiet_before,
    }
