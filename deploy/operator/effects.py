"""What a transaction would change for the cluster, in words, from the membership of now.

The weights are those of the registry. A running cluster follows it with its next epoch, so while
one is being changed its own set may be a step behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from chain import Member, Membership, MemberStatus
from deploy.calls import Call

NO_END_S = 2**40 - 1  # the contract's "no end" of a root


@dataclass(frozen=True, slots=True)
class Effect:
    """``lines`` say what changes; ``warnings`` what an operator should think about first."""

    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def effect_of(call: Call, now: Membership) -> Effect:
    """What the call would do to this membership, if the contract takes it."""
    describe = _DESCRIBE.get(call.function)
    return Effect((call.function,)) if describe is None else describe(now, *call.values)


def time_text(unix_s: int) -> str:
    """A moment in UTC."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


# --- weights ----------------------------------------------------------------------------------


def _voting(now: Membership) -> int:
    return sum(member.weight for member in now.active())


def _weights(before: int, after: int) -> str:
    if before == after:
        return f"voting weight stays {before}"
    return f"voting weight {before} -> {after}, quorum {_quorum(before)} -> {_quorum(after)}"


def _quorum(total: int) -> int:
    """The least weight that is more than two thirds."""
    return 2 * total // 3 + 1 if total else 0


def _blockers(weights: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Warns of seats without which nothing is decided."""
    rows = list(weights)
    total = sum(weight for _, weight in rows)
    heavy = [seat for seat, weight in rows if total - weight < _quorum(total)]
    if len(rows) < 4 or not heavy:
        return ()
    names = ", ".join(str(seat) for seat in heavy)
    return (f"without seat {names} there would be no quorum: it holds a third of {total} or more",)


def _removal(now: Membership, seats: list[Member]) -> Effect:
    """Nodes that lose their say at once."""
    total = _voting(now)
    lost = sum(member.weight for member in seats)
    if not seats:
        return Effect(("no node loses its say", _weights(total, total)))
    names = ", ".join(str(member.seat) for member in seats)
    lines = (f"loses its say at once: seat {names}, weight {lost}", _weights(total, total - lost))
    if total - lost >= _quorum(total):
        return Effect(lines)
    return Effect(
        lines,
        (
            f"BREAKS THE QUORUM of the running cluster: the others hold {total - lost} of {total},"
            " which is not more than two thirds. It goes on counting these nodes, with an alarm,"
            " until an epoch without them is open; if they are gone already, only a recovery"
            " leads on (docs/membership.md)",
        ),
    )


def _row(now: Membership, seat: int) -> Member | None:
    return now.member(seat)


def _missing(now: Membership, seat: int) -> Effect:
    return Effect((f"there is no seat {seat} in block {now.block_number}, the newest final one",))


# --- seats ------------------------------------------------------------------------------------


def _grant(now: Membership, wallet: bytes, weight: int) -> Effect:
    granted = sum(member.weight for member in now.members)
    warnings = _blockers([*((m.seat, m.weight) for m in now.members), (0, weight)])
    return Effect(
        (
            f"a new seat of weight {weight} for 0x{wallet.hex()};"
            f" granted weight {granted} -> {granted + weight}",
            "it votes when a node has registered on it and the next epoch is open",
        ),
        tuple(w.replace("seat 0 ", "this seat ") for w in warnings),
    )


def _weight(now: Membership, seat: int, weight: int) -> Effect:
    row = _row(now, seat)
    if row is None:
        return _missing(now, seat)
    lines = [f"seat {seat}: weight {row.weight} -> {weight}"]
    warnings: tuple[str, ...] = ()
    if row.status is MemberStatus.ACTIVE:
        total = _voting(now)
        after = total - row.weight + weight
        lines.append(_weights(total, after))
        if 3 * abs(weight - row.weight) >= (after if weight > row.weight else total):
            lines.append("a third or more of the weight: the cluster takes several epochs for it")
        warnings = _blockers((m.seat, weight if m.seat == seat else m.weight) for m in now.active())
    else:
        lines.append("no node sits on it: no vote changes")
    return Effect(tuple(lines), warnings)


def _deactivate(now: Membership, seat: int) -> Effect:
    row = _row(now, seat)
    if row is None:
        return _missing(now, seat)
    found = _removal(now, [row] if row.status is MemberStatus.ACTIVE else [])
    lines = (
        "its binding ends: bind again before it may return",
        "done by others than the seat's owner, nobody registers there for the length of a lease,"
        " unless lift-suspension ends that",
    )
    return Effect((*found.lines, *lines), found.warnings)


def _burn(now: Membership, seat: int) -> Effect:
    row = _row(now, seat)
    if row is None:
        return _missing(now, seat)
    found = _removal(now, [row] if row.status is MemberStatus.ACTIVE else [])
    line = f"seat {seat} of 0x{row.owner.hex()} is gone for good; its number is not used again"
    return Effect((line, *found.lines), found.warnings)


def _bind(now: Membership, seat: int, instance_id: bytes) -> Effect:
    row = _row(now, seat)
    if row is None:
        return _missing(now, seat)
    if not any(instance_id):
        return Effect((f"no instance may register on seat {seat} any more; its node stays",))
    lines = [f"instance 0x{instance_id.hex()} may register on seat {seat} (weight {row.weight})"]
    if row.status is MemberStatus.ACTIVE and row.instance_id != instance_id:
        lines.append(f"its node of now, instance 0x{row.instance_id.hex()}, loses its say then")
    return Effect(tuple(lines))


def _sweep(now: Membership, seats: list[int]) -> Effect:
    rows = [row for seat in seats if (row := _row(now, seat)) is not None]
    mute = [m for m in rows if m.status is MemberStatus.ACTIVE
            and not now.speaks(m.seat, m.node_key)]  # fmt: skip
    found = _removal(now, mute)
    line = "seats whose lease, root and app are live are passed over"
    return Effect((*found.lines, line), found.warnings)


# --- trust ------------------------------------------------------------------------------------


def _allow_app(now: Membership, app_id: bytes, allowed: bool) -> Effect:
    if allowed:
        return Effect((f"nodes of app 0x{app_id.hex()} may register",))
    return Effect(
        (f"nodes of app 0x{app_id.hex()} may not register, renew no lease, and can be swept",),
        (f"up to {_voting(now)} of {_voting(now)} voting weight may run this app",),
    )


def _certify(
    now: Membership, app_id: bytes, x: bytes, y: bytes, signature: bytes, epoch: int
) -> Effect:
    return Effect((f"the app key of 0x{app_id.hex()} is known under KMS root {epoch}",))


def _rotate(now: Membership, root: bytes, grace_until_s: int) -> Effect:
    old = [epoch for epoch, ends_s in now.roots if ends_s >= NO_END_S]
    hanging = [m for m in now.active() if m.root_epoch in old]
    weight = sum(m.weight for m in hanging)
    lines = [
        f"a new KMS root 0x{root.hex()}",
        "nodes trust the roots of their own configuration: give them this one first",
    ]
    if grace_until_s <= now.block_time_s:
        found = _removal(now, hanging)
        return Effect((*lines, "the root before ends at once", *found.lines), found.warnings)
    lines.append(
        f"the root before lives until {time_text(grace_until_s)}; until then seats of weight"
        f" {weight} must register under the new one"
    )
    return Effect(tuple(lines))


def _revoke(now: Membership, epoch: int) -> Effect:
    hanging = [m for m in now.active() if m.root_epoch == epoch]
    found = _removal(now, hanging)
    return Effect((f"KMS root {epoch} ends for good", *found.lines), found.warnings)


# --- the contract itself ----------------------------------------------------------------------


def _launch(now: Membership) -> Effect:
    rows = [(m.seat, m.weight) for m in now.active()]
    names = ", ".join(f"{seat} (weight {weight})" for seat, weight in rows) or "none"
    total = sum(weight for _, weight in rows)
    empty = [str(m.seat) for m in now.members if m.status is not MemberStatus.ACTIVE]
    warnings = list(_blockers(rows))
    if empty:
        warnings.append(f"seats without a node come in later only: {', '.join(empty)}")
    return Effect(
        (
            f"founds the cluster, once: seats {names}",
            f"voting weight {total}, quorum {_quorum(total)}",
        ),
        tuple(warnings),
    )


def _guardian(now: Membership, guardian: bytes) -> Effect:
    return Effect((f"0x{guardian.hex()} may pause, revoke roots, deactivate, veto a recovery",))


def _lease(now: Membership, lease_s: int) -> Effect:
    warnings: tuple[str, ...] = ()
    if lease_s < 24 * 3600:
        warnings = ("a node that cannot reach the chain for so long loses its say",)
    return Effect(
        (f"leases given from now on last {lease_s} s ({lease_s / 86400:.1f} days)",), warnings
    )


def _transfers(now: Membership, allowed: bool) -> Effect:
    if allowed:
        return Effect(("seat owners may transfer their seats; a transfer clears the node",))
    return Effect(("seats cannot be transferred any more",))


def _pause(now: Membership) -> Effect:
    ends = [m.lease_expires_s for m in now.active()]
    warnings: tuple[str, ...] = ()
    if ends:
        warnings = (
            f"no lease can be renewed: the first ends at {time_text(min(ends))},"
            f" the last at {time_text(max(ends))}",
        )
    return Effect(("no node can register or renew its lease until unpause",), warnings)


def _unpause(now: Membership) -> Effect:
    return Effect(("nodes can register and renew their leases again",))


def _offer(now: Membership, owner: bytes) -> Effect:
    return Effect(
        (
            f"0x{owner.hex()} may take the contract over by accepting it; nothing changes before",
            "another offer replaces this one",
        )
    )


def _accept(now: Membership) -> Effect:
    return Effect(("the sender becomes the contract's owner, the one before has no say",))


# --- a lost quorum ----------------------------------------------------------------------------


def _vote(now: Membership, seat: int, epoch: int, height: int, block_hash: bytes) -> Effect:
    row = _row(now, seat)
    if row is None:
        return _missing(now, seat)
    if epoch == 0:
        return Effect((f"seat {seat} withdraws its vote for a recovery",))
    granted = sum(member.weight for member in now.members)
    return Effect(
        (
            f"seat {seat}, weight {row.weight} of {granted}, votes: epoch {epoch} goes on at"
            f" height {height}, block 0x{block_hash.hex()}",
        ),
        ("what was final above that height is lost",),
    )


def _recover(
    now: Membership, epoch: int, height: int, block_hash: bytes, seats: list[int]
) -> Effect:
    granted = sum(member.weight for member in now.members)
    weight = sum(member.weight for member in now.members if member.seat in seats)
    pending = now.pending_recovery
    lines = [f"seats of weight {weight} of {granted} are named; more than half must have voted"]
    same = pending is not None and (pending.epoch, pending.height, pending.block_hash) == (
        epoch, height, block_hash,
    )  # fmt: skip
    if pending is not None and same:
        lines.append(
            f"opens the recovery that was announced, from {time_text(pending.ready_at_s)} on"
        )
        return Effect(tuple(lines), ("what was final above that height is lost",))
    return Effect((*lines, "announces the recovery; the delay for objections starts"))


def _veto(now: Membership) -> Effect:
    return Effect(("all votes for a recovery so far are void",))


# --- companions and rules ---------------------------------------------------------------------


def _companions(now: Membership, rules: bytes, certificates: bytes) -> Effect:
    def shown(address: bytes) -> str:
        return f"0x{address.hex()}" if any(address) else "none"

    warnings = () if any(rules) else ("without rules nothing boots and there is no policy",)
    return Effect((f"rules: {shown(rules)}", f"certificates: {shown(certificates)}"), warnings)


def _minter(now: Membership, minter: bytes, weight_max: int) -> Effect:
    if not any(minter):
        return Effect(("nobody but the owner may grant seats any more",))
    total = _voting(now)
    return Effect(
        (f"0x{minter.hex()} may grant seats of weight up to {weight_max}",),
        (f"each such seat may add {weight_max} to the voting weight of now, {total}",),
    )


def _lift(now: Membership, seat: int) -> Effect:
    if now.member(seat) is None:
        return _missing(now, seat)
    return Effect((f"a node may register on seat {seat} again, if one is bound to it",))


def _policy(now: Membership, text: str) -> Effect:
    return Effect(
        (f"a policy of {len(text.encode())} bytes is in force when the block is final",),
        ("members whose machines it refuses are cut off, unless that would break the quorum",),
    )


def _rule(words: str) -> Callable[[Membership, bytes], Effect]:
    def describe(now: Membership, value: bytes) -> Effect:
        return Effect((words.format(f"0x{value.hex()}"),))

    return describe


def _boot_rules(now: Membership, any_device: bool, up_to_date: bool, seat: bool) -> Effect:
    needs = [
        "a listed compose hash and OS image",
        *([] if any_device else ["a listed device"]),
        *(["the TCB status UpToDate"] if up_to_date else []),
        *(["an instance with a seat"] if seat else []),
    ]
    return Effect((f"a boot needs {', '.join(needs)}",))


_DESCRIBE: dict[str, Callable[..., Effect]] = {
    "grantSeat": _grant,
    "setWeight": _weight,
    "deactivate": _deactivate,
    "burnSeat": _burn,
    "bindInstance": _bind,
    "sweep": _sweep,
    "allowApp": _allow_app,
    "certifyAppKey": _certify,
    "rotateRoot": _rotate,
    "revokeRoot": _revoke,
    "launch": _launch,
    "setGuardian": _guardian,
    "setLease": _lease,
    "setTransfersAllowed": _transfers,
    "pause": _pause,
    "unpause": _unpause,
    "transferOwnership": _offer,
    "acceptOwnership": _accept,
    "voteRecovery": _vote,
    "recover": _recover,
    "vetoRecovery": _veto,
    "setCompanions": _companions,
    "setMinter": _minter,
    "liftSuspension": _lift,
    "setPolicy": _policy,
    "addComposeHash": _rule("compose hash {} may boot"),
    "removeComposeHash": _rule("compose hash {} may boot no longer; machines that run go on"),
    "addDevice": _rule("device {} may boot"),
    "removeDevice": _rule("device {} may boot no longer; machines that run go on"),
    "addOsImage": _rule("OS image {} may boot"),
    "removeOsImage": _rule("OS image {} may boot no longer; machines that run go on"),
    "setBootRules": _boot_rules,
    "setAppAuth": _rule("the owner of {} may change the lists of what boots"),
}


def describes(function: str) -> bool:
    """Whether there are words for that function's effect (a test asks for every call)."""
    return function in _DESCRIBE


def plain(value: Any) -> Any:
    """An argument of a call as JSON shows it."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
