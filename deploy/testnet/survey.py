"""What all nodes say at one moment, put side by side.

Every node is asked at the same time and has one second, so dead and paused nodes never make the
whole answer hang. What a node answers is treated as foreign input: typed, bounded, or dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import httpx
import trio

from . import processes
from .layout import NodeRecord, Testnet

NODE_DEADLINE_S = 1.0
BODY_BYTES_MAX = 256 * 1024
TEXT_CHARS_MAX = 300
MEMBERS_MAX = 100


@dataclass(frozen=True, slots=True)
class SeatView:
    """One seat as ``testnet status`` shows it; None where the node said nothing (usable).

    ``state`` is the daemon's own word (booting, syncing, active, waiting, halted), or what the
    process tells without it: ``dead``, ``paused``, ``silent`` (it runs but does not answer).
    """

    seat: int
    pid: int | None
    state: str
    weight: int
    height: int | None = None
    epoch: int | None = None
    term: int | None = None
    view: str | None = None
    leader: int | None = None
    peers: int | None = None
    set_weight: int | None = None  # of all members, as the node counts them
    incarnation: int | None = None
    state_hash: str | None = None
    lag: int | None = None
    revision: int | None = None
    reason: str = ""
    insecure: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    refuses: tuple[tuple[int, str], ...] = ()  # whose proofs of their machine it refused, and why

    @property
    def answers(self) -> bool:
        return self.state not in ("dead", "paused", "silent")


@dataclass(frozen=True, slots=True)
class Survey:
    """All seats, and what members of more than 2/3 of the weight agree on."""

    nodes: tuple[SeatView, ...]
    leader: int | None
    term: int | None
    height: int | None

    @property
    def weight_total(self) -> int:
        """Of the set that votes, as the nodes of the newest epoch count it."""
        newest = max((node.epoch or 0 for node in self.nodes), default=0)
        for node in self.nodes:
            if node.set_weight is not None and (node.epoch or 0) == newest:
                return node.set_weight
        return sum(node.weight for node in self.nodes)

    @property
    def weight_answering(self) -> int:
        return sum(node.weight for node in self.nodes if node.answers)

    def why(self) -> list[str]:
        """Why there is no leader, in one line per cause; empty when there is one."""
        if self.leader is not None:
            return []
        lines = []
        if not is_quorum(self.weight_answering, self.weight_total):
            lines.append(
                f"only {self.weight_answering} of {self.weight_total} weight answers, "
                f"a quorum needs {quorum(self.weight_total)}"
            )
        reasons: dict[str, list[int]] = {}
        for node in self.nodes:
            if not node.answers:
                reasons.setdefault(node.state, []).append(node.seat)
            elif node.reason:
                reasons.setdefault(node.reason, []).append(node.seat)
        for reason, seats in reasons.items():
            noun = "seat" if len(seats) == 1 else "seats"
            lines.append(f"{noun} {', '.join(map(str, seats))}: {reason}")
        return lines or ["members do not yet agree on a leader"]

    def as_json(self) -> dict[str, Any]:
        """The shape that ``testnet status --json`` prints."""
        return {
            "leader": self.leader,
            "term": self.term,
            "height": self.height,
            "why": self.why(),
            "nodes": [_row(node) for node in self.nodes],
        }


def quorum(weight_total: int) -> int:
    """The smallest weight that is more than two thirds of the total."""
    return weight_total * 2 // 3 + 1


def is_quorum(weight: int, weight_total: int) -> bool:
    """Whether ``weight`` is more than two thirds of the total."""
    return weight >= quorum(weight_total)


async def take(testnet: Testnet) -> Survey:
    """Ask all nodes at once; returns within about NODE_DEADLINE_S whatever they do."""
    found: dict[int, SeatView] = {}

    async def ask(client: httpx.AsyncClient, node: NodeRecord) -> None:
        found[node.seat] = await _ask(client, testnet, node)

    async with (
        # Plain HTTP on loopback: to read the public authorities would be 30 ms for nothing.
        httpx.AsyncClient(timeout=NODE_DEADLINE_S, trust_env=False, verify=False) as client,
        trio.open_nursery() as nursery,
    ):
        for node in testnet.nodes:
            nursery.start_soon(ask, client, node)
    return summarise(tuple(found[node.seat] for node in testnet.nodes))


def summarise(nodes: tuple[SeatView, ...]) -> Survey:
    """Find the (epoch, term, leader) that members of more than 2/3 of the weight report."""
    total = Survey(nodes, None, None, None).weight_total
    claims: dict[tuple[int, int, int], int] = {}
    for node in nodes:
        if node.answers and None not in (node.epoch, node.term, node.leader):
            claim = (node.epoch or 0, node.term or 0, node.leader or 0)
            claims[claim] = claims.get(claim, 0) + node.weight
    agreed = next((claim for claim, weight in claims.items() if is_quorum(weight, total)), None)
    heights = [node.height for node in nodes if node.height is not None]
    terms = [node.term for node in nodes if node.term is not None]
    return Survey(
        nodes=nodes,
        leader=agreed[2] if agreed else None,
        term=agreed[1] if agreed else max(terms, default=None),
        height=max(heights, default=None),
    )


async def fetch_status(client: httpx.AsyncClient, url: str) -> dict[str, Any] | None:
    """``/v1/status`` of one node, None when it does not answer in time with a JSON object."""
    with trio.move_on_after(NODE_DEADLINE_S):
        try:
            async with client.stream("GET", f"{url}/v1/status") as response:
                if response.status_code != 200:
                    return None
                body = bytearray()
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > BODY_BYTES_MAX:
                        return None
        except httpx.HTTPError:
            return None
        try:
            answer = httpx.Response(200, content=bytes(body)).json()
        except ValueError:
            return None
        return answer if isinstance(answer, dict) else None
    return None


async def _ask(client: httpx.AsyncClient, testnet: Testnet, node: NodeRecord) -> SeatView:
    record = node.process
    if record is None or not processes.is_alive(record):
        return SeatView(node.seat, None, "dead", node.weight)
    if processes.is_paused(record):
        return SeatView(node.seat, record.pid, "paused", node.weight)
    answer = await fetch_status(client, testnet.api_url(node.seat))
    if answer is None or answer.get("seat") not in (None, node.seat):
        # It may have died or been paused while we waited for its answer.
        state = "silent"
        if not processes.is_alive(record):
            state = "dead"
        elif processes.is_paused(record):
            state = "paused"
        return SeatView(node.seat, record.pid if state != "dead" else None, state, node.weight)
    return read_answer(node, record.pid, answer)


def read_answer(node: NodeRecord, pid: int, answer: dict[str, Any]) -> SeatView:
    """A node's status answer as a SeatView; values of a wrong type count as not said."""

    def number(key: str) -> int | None:
        value = answer.get(key)
        return value if type(value) is int and 0 <= value < 1 << 63 else None

    def text(key: str) -> str:
        value = answer.get(key)
        return _printable(value) if isinstance(value, str) else ""

    peers = answer.get("peers")
    weight = number("weight")
    return SeatView(
        seat=node.seat,
        pid=pid,
        state=text("state") or "silent",
        weight=node.weight if weight is None else weight,
        height=number("height"),
        epoch=number("epoch"),
        term=number("term"),
        view=text("view") or None,
        leader=number("leader"),
        peers=len(peers) if isinstance(peers, list) else number("peers"),
        set_weight=number("weight_total"),
        incarnation=number("incarnation"),
        state_hash=text("state_hash") or None,
        lag=number("lag"),
        revision=number("revision"),
        reason=text("reason"),
        insecure=tuple(text[:40] for text in _texts(answer.get("insecure"))),
        alarms=_texts(answer.get("alarms")),
        refuses=_refusals(answer.get("attestation")),
    )


def _refusals(attestation: Any) -> tuple[tuple[int, str], ...]:
    """Seats that the node refuses now, with its word for the reason."""
    members = attestation.get("members") if isinstance(attestation, dict) else None
    found = []
    for seat, row in list(members.items())[:MEMBERS_MAX] if isinstance(members, dict) else ():
        refused = row.get("refused") if isinstance(row, dict) else None
        if isinstance(refused, dict) and seat.isascii() and seat.isdigit() and len(seat) < 9:
            found.append((int(seat), _printable(str(refused.get("reason")))))
    return tuple(sorted(found))


def _texts(value: Any) -> tuple[str, ...]:
    """The first ten texts of a list."""
    return tuple(_printable(str(text)) for text in value[:10]) if isinstance(value, list) else ()


def _printable(text: str) -> str:
    """Without control characters, which could otherwise rewrite the reader's terminal."""
    return "".join(c for c in text if c.isprintable())[:TEXT_CHARS_MAX]


def _row(node: SeatView) -> dict[str, Any]:
    row = {field.name: getattr(node, field.name) for field in fields(node)}
    row["insecure"], row["alarms"] = list(node.insecure), list(node.alarms)
    row["refuses"] = {str(seat): reason for seat, reason in node.refuses}
    return row
