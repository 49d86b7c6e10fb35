"""The table of a testnet: one row per seat, made for a terminal of 100 columns."""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from consensus.boot import NUMBERS_PER_EPOCH

from .survey import SeatView, Survey

WIDTH_CHARS = 100
STATE_STYLES = {
    "active": "green",
    "dead": "bold red",
    "halted": "bold red",
    "paused": "yellow",
    "silent": "yellow",
    "waiting": "yellow",
}
COLUMNS = (
    "seat", "pid", "state", "weight", "height", "epoch", "term", "view",
    "leader", "peers", "inc", "lag", "hash",
)  # fmt: skip


def render(survey: Survey, title: str = "") -> RenderableType:
    """The head line, the rows, and beneath them why the cluster waits and what is insecure."""
    table = Table(
        box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", width=WIDTH_CHARS
    )
    for name in COLUMNS:
        left = name in ("state", "hash")
        table.add_column(name, justify="left" if left else "right", no_wrap=True)
    for node in survey.nodes:
        table.add_row(*_cells(node, survey), style="dim" if not node.answers else None)
    parts: list[RenderableType] = [_headline(survey, title), table]
    for line in survey.why():
        parts.append(Text(f"waits: {line}", style="yellow"))
    for node in survey.nodes:
        if survey.leader is not None and node.answers and node.state != "active" and node.reason:
            parts.append(Text(f"seat {node.seat}: {node.reason}", style="yellow"))
    alarms: dict[str, list[int]] = {}
    for node in survey.nodes:
        for alarm in node.alarms:
            alarms.setdefault(alarm, []).append(node.seat)
    for alarm, seats in alarms.items():
        who = ", ".join(map(str, seats))
        parts.append(Text(f"ALARM (seat {who}): {alarm}", style="bold red"))
    refusals: dict[tuple[int, str], list[int]] = {}
    for node in survey.nodes:
        for refusal in node.refuses:
            refusals.setdefault(refusal, []).append(node.seat)
    for (seat, reason), seats in sorted(refusals.items()):
        who = ", ".join(map(str, seats))
        parts.append(Text(f"seat {seat} is refused by {who}: {reason}", style="yellow"))
    flags = sorted({flag for node in survey.nodes for flag in node.insecure})
    if flags:
        parts.append(Text(f"insecure modes on (test only): {', '.join(flags)}", style="red"))
    return Group(*parts)


def as_text(survey: Survey, title: str = "", width_chars: int = WIDTH_CHARS) -> str:
    """The same without colours and with whole lines, for files and pipes."""
    console = Console(width=width_chars, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(render(survey, title), soft_wrap=True)
    return "\n".join(line.rstrip() for line in capture.get().splitlines()) + "\n"


def fingerprint(survey: Survey) -> tuple[object, ...]:
    """Changes when something changes that a reader of a log wants to see."""
    rows = tuple(
        (n.seat, n.pid, n.state, n.weight, n.leader, n.term, n.epoch, n.refuses)
        for n in survey.nodes
    )
    return (survey.leader, survey.term, rows)


def _headline(survey: Survey, title: str) -> Text:
    line = Text(f"{title}  " if title else "")
    if survey.leader is None:
        line.append("no leader", style="bold yellow")
    else:
        line.append(f"leader: seat {survey.leader}", style="bold green")
        line.append(f"  term {survey.term}")
    line.append(f"  height {_text(survey.height)}")
    line.append(f"  weight {survey.weight_answering} of {survey.weight_total}")
    return line


def _cells(node: SeatView, survey: Survey) -> list[Text]:
    leads = node.seat == survey.leader
    return [
        Text(f"*{node.seat}" if leads else str(node.seat), style="bold green" if leads else ""),
        Text(_text(node.pid)),
        Text(node.state[:9], style=STATE_STYLES.get(node.state, "")),
        Text(str(node.weight)),
        Text(_text(node.height)),
        Text(_text(node.epoch)),
        Text(_text(node.term)),
        Text(_text(node.view)[:12]),
        Text(_text(node.leader)),
        Text(_text(node.peers)),
        Text(_incarnation(node.incarnation)),
        Text(_text(node.lag)),
        Text((node.state_hash or "-").removeprefix("0x")[:8]),
    ]


def _incarnation(number: int | None) -> str:
    """``epoch.number`` for a boot in a later epoch than the first, whose numbers are long."""
    if number is None or number < NUMBERS_PER_EPOCH:
        return _text(number)
    return f"{number // NUMBERS_PER_EPOCH}.{number % NUMBERS_PER_EPOCH}"


def _text(value: object) -> str:
    return "-" if value is None else str(value)
