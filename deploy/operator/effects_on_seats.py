"""What becomes of seats and their weight: grants, weights, nodes taken off, trust, recoveries.

Each function below the weights is one row of the table in ``effects``.
"""

from __future__ import annotations

from collections.abc import Iterable

from chain import Member, Membership, MemberStatus
from consensus.epochs import era_of, is_recovered, recovery_epoch
from consensus.limits import ERAS_MAX
from deploy.operator.wording import NO_END_S, Effect, time_text

EVIDENCE_WINDOW_DAYS = 14  # `evidenceWindow` of Registry.sol

# --- weights ----------------------------------------------------------------------------------


def voting(now: Membership) -> int:
    return sum(member.weight for member in now.active())


def weights(before: int, after: int) -> str:
    if before == after:
        return f"voting weight stays {before}"
    return f"voting weight {before} -> {after}, quorum {quorum(before)} -> {quorum(after)}"


def quorum(total: int) -> int:
    """The least weight that is more than two thirds."""
    return 2 * total // 3 + 1 if total else 0


def blockers(weights: Iterable[tuple[int, int]]) -> tuple[str, ...]:
    """Warns of seats without which nothing is decided."""
    rows = list(weights)
    total = sum(weight for _, weight in rows)
    heavy = [seat for seat, weight in rows if total - weight < quorum(total)]
    if len(rows) < 4 or not heavy:
        return ()
    names = ", ".join(str(seat) for seat in heavy)
    return (f"without seat {names} there would be no quorum: it holds a third of {total} or more",)


def removal(now: Membership, seats: list[Member]) -> Effect:
    """Nodes that lose their say at once."""
    total = voting(now)
    lost = sum(member.weight for member in seats)
    if not seats:
        return Effect(("no node loses its say", weights(total, total)))
    names = ", ".join(str(member.seat) for member in seats)
    lines = (f"loses its say at once: seat {names}, weight {lost}", weights(total, total - lost))
    if total - lost >= quorum(total):
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


def missing(now: Membership, seat: int) -> Effect:
    return Effect((f"there is no seat {seat} in block {now.block_number}, the newest final one",))


# --- seats ------------------------------------------------------------------------------------


def grant(now: Membership, wallet: bytes, weight: int) -> Effect:
    granted = sum(member.weight for member in now.members)
    warnings = blockers([*((m.seat, m.weight) for m in now.members), (0, weight)])
    return Effect(
        (
            f"a new seat of weight {weight} for 0x{wallet.hex()};"
            f" granted weight {granted} -> {granted + weight}",
            "it votes when a node has registered on it and the next epoch is open",
        ),
        tuple(w.replace("seat 0 ", "this seat ") for w in warnings),
    )


def weight(now: Membership, seat: int, weight: int) -> Effect:
    row = now.member(seat)
    if row is None:
        return missing(now, seat)
    lines = [f"seat {seat}: weight {row.weight} -> {weight}"]
    warnings: tuple[str, ...] = ()
    if row.status is MemberStatus.ACTIVE:
        total = voting(now)
        after = total - row.weight + weight
        lines.append(weights(total, after))
        if 3 * abs(weight - row.weight) >= (after if weight > row.weight else total):
            lines.append("a third or more of the weight: the cluster takes several epochs for it")
        warnings = blockers((m.seat, weight if m.seat == seat else m.weight) for m in now.active())
    else:
        lines.append("no node sits on it: no vote changes")
    return Effect(tuple(lines), warnings)


def deactivate(now: Membership, seat: int) -> Effect:
    row = now.member(seat)
    if row is None:
        return missing(now, seat)
    found = removal(now, [row] if row.status is MemberStatus.ACTIVE else [])
    lines = (
        "its binding ends: bind again before it may return",
        "done by others than the seat's owner, nobody registers there for the length of a lease,"
        " unless lift-suspension ends that",
        f"for {EVIDENCE_WINDOW_DAYS} days the seat still answers for what its node signed",
    )
    return Effect((*found.lines, *lines), found.warnings)


def burn(now: Membership, seat: int) -> Effect:
    row = now.member(seat)
    if row is None:
        return missing(now, seat)
    found = removal(now, [row] if row.status is MemberStatus.ACTIVE else [])
    line = f"seat {seat} of 0x{row.owner.hex()} is gone for good; its number is not used again"
    return Effect((line, *found.lines), found.warnings)


def bind(now: Membership, seat: int, instance_id: bytes) -> Effect:
    row = now.member(seat)
    if row is None:
        return missing(now, seat)
    if not any(instance_id):
        return Effect((f"no instance may register on seat {seat} any more; its node stays",))
    lines = [f"instance 0x{instance_id.hex()} may register on seat {seat} (weight {row.weight})"]
    if row.status is MemberStatus.ACTIVE and row.instance_id != instance_id:
        lines.append(f"its node of now, instance 0x{row.instance_id.hex()}, loses its say then")
    return Effect(tuple(lines))


def sweep(now: Membership, seats: list[int]) -> Effect:
    found = removal(now, [m for m in now.mute() if m.seat in seats])
    line = "seats whose lease, root and app are live are passed over"
    return Effect((*found.lines, line), found.warnings)


# --- trust ------------------------------------------------------------------------------------


def allow_app(now: Membership, app_id: bytes, allowed: bool) -> Effect:
    if allowed:
        return Effect((f"nodes of app 0x{app_id.hex()} may register",))
    return Effect(
        (f"nodes of app 0x{app_id.hex()} lose their say at once, are swept, and may not register",),
        (f"up to {voting(now)} of {voting(now)} voting weight may run this app",),
    )


def certify(
    now: Membership, app_id: bytes, x: bytes, y: bytes, signature: bytes, epoch: int
) -> Effect:
    return Effect((f"the app key of 0x{app_id.hex()} is known under KMS root {epoch}",))


def rotate(now: Membership, root: bytes, grace_until_s: int) -> Effect:
    old = [epoch for epoch, ends_s in now.roots if ends_s >= NO_END_S]
    hanging = [m for m in now.active() if m.root_epoch in old]
    weight = sum(m.weight for m in hanging)
    lines = [
        f"a new KMS root 0x{root.hex()}",
        "nodes trust the roots of their own configuration: give them this one first",
    ]
    if grace_until_s <= now.block_time_s:
        found = removal(now, hanging)
        return Effect((*lines, "the root before ends at once", *found.lines), found.warnings)
    lines.append(
        f"the root before lives until {time_text(grace_until_s)}; until then seats of weight"
        f" {weight} must register under the new one"
    )
    return Effect(tuple(lines))


def revoke(now: Membership, epoch: int) -> Effect:
    hanging = [m for m in now.active() if m.root_epoch == epoch]
    found = removal(now, hanging)
    return Effect((f"KMS root {epoch} ends for good", *found.lines), found.warnings)


# --- a lost quorum ----------------------------------------------------------------------------


def vote(now: Membership, seat: int, epoch: int, height: int, block_hash: bytes) -> Effect:
    row = now.member(seat)
    if row is None:
        return missing(now, seat)
    if epoch == 0:
        return Effect((f"seat {seat} withdraws its vote for a recovery",))
    granted = sum(member.weight for member in now.members)
    return Effect(
        (
            f"seat {seat}, weight {row.weight} of {granted}, votes: epoch {epoch} goes on at"
            f" height {height}, block 0x{block_hash.hex()}",
        ),
        _about_recovery(epoch),
    )


def _about_recovery(epoch: int) -> tuple[str, ...]:
    said = ["what was final above that height is lost"]
    if not is_recovered(epoch):
        said.append(
            f"no node will open epoch {epoch}: `status` of the node that has the block says how to"
            " call it (membership.recovery_epoch); the first recovery of a cluster is"
            f" {recovery_epoch(0)}"
        )
    if era_of(epoch) >= ERAS_MAX:
        said.append(
            f"the registry takes rising numbers only: once {epoch} is opened, no recovery of this"
            " cluster is possible any more"
        )
    return tuple(said)


def recover(
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
            f"opens the recovery that was announced, from {time_text(pending.ready_at_s)} on;"
            " announces it anew if less than half of the weight of then is ACTIVE"
        )
        return Effect(tuple(lines), _about_recovery(epoch))
    lines.append("announces the recovery; the delay for objections starts")
    return Effect(tuple(lines), _about_recovery(epoch)[1:])


def veto(now: Membership) -> Effect:
    return Effect(("all votes for a recovery so far are void",))
