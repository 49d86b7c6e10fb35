"""What becomes of the contract, and of those beside it: roles, pauses, rules, certificates.

Each function is one row of the table in ``effects``.
"""

from __future__ import annotations

from collections.abc import Callable

from chain import Membership, MemberStatus, ShownLeader
from chain.fees import ether
from deploy.calls import FOR_GOOD_S
from deploy.operator.effects_on_seats import (
    EVIDENCE_WINDOW_DAYS,
    blockers,
    missing,
    quorum,
    removal,
    voting,
    weights,
)
from deploy.operator.wording import Effect, time_text

# --- the contract itself ----------------------------------------------------------------------


def launch(now: Membership, founders: bytes) -> Effect:
    rows = [(m.seat, m.weight) for m in now.active()]
    names = ", ".join(f"{seat} (weight {weight})" for seat, weight in rows) or "none"
    total = sum(weight for _, weight in rows)
    empty = [str(m.seat) for m in now.members if m.status is not MemberStatus.ACTIVE]
    warnings = list(blockers(rows))
    if empty:
        warnings.append(f"seats without a node come in later only: {', '.join(empty)}")
    if now.last_change is not None and now.last_change.digest != founders:
        warnings.append(f"these are not the founders 0x{founders.hex()}: plan anew, and look again")
    return Effect(
        (
            f"founds the cluster, once: seats {names}",
            f"voting weight {total}, quorum {quorum(total)}",
            f"these founders or none: --yes needs --founders 0x{founders.hex()}",
        ),
        tuple(warnings),
    )


def guardian(now: Membership, guardian: bytes) -> Effect:
    return Effect((f"0x{guardian.hex()} may pause, revoke roots, deactivate, veto a recovery",))


def lease(now: Membership, lease_s: int) -> Effect:
    warnings: tuple[str, ...] = ()
    if lease_s < 24 * 3600:
        warnings = ("a node that cannot reach the chain for so long loses its say",)
    return Effect(
        (f"leases given from now on last {lease_s} s ({lease_s / 3600:.1f} hours)",), warnings
    )


def transfers(now: Membership, allowed: bool) -> Effect:
    if allowed:
        return Effect(
            (
                f"seat owners may transfer a seat {EVIDENCE_WINDOW_DAYS} days after its last node"
                " lost its vote",
            )
        )
    return Effect(("seats cannot be transferred any more",))


def pause(now: Membership) -> Effect:
    ends = [m.lease_expires_s for m in now.active()]
    warnings: tuple[str, ...] = ()
    if ends:
        warnings = (
            f"no lease can be renewed: the first ends at {time_text(min(ends))},"
            f" the last at {time_text(max(ends))}",
        )
    return Effect(("no node can register or renew its lease until unpause",), warnings)


def unpause(now: Membership) -> Effect:
    return Effect(("nodes can register and renew their leases again",))


def offer(now: Membership, owner: bytes) -> Effect:
    return Effect(
        (
            f"0x{owner.hex()} may take the contract over by accepting it; nothing changes before",
            "another offer replaces this one",
        )
    )


def accept(now: Membership) -> Effect:
    return Effect(("the sender becomes the contract's owner, the one before has no say",))


# --- companions and rules ---------------------------------------------------------------------


def companions(now: Membership, rules: bytes, certificates: bytes) -> Effect:
    def shown(address: bytes) -> str:
        return f"0x{address.hex()}" if any(address) else "none"

    warnings = () if any(rules) else ("without rules nothing boots and there is no policy",)
    return Effect((f"rules: {shown(rules)}", f"certificates: {shown(certificates)}"), warnings)


def minter(now: Membership, minter: bytes, weight_max: int) -> Effect:
    if not any(minter):
        return Effect(("nobody but the owner may grant seats any more",))
    total = voting(now)
    return Effect(
        (f"0x{minter.hex()} may grant seats of weight up to {weight_max}",),
        (f"each such seat may add {weight_max} to the voting weight of now, {total}",),
    )


def lift(now: Membership, seat: int) -> Effect:
    if now.member(seat) is None:
        return missing(now, seat)
    return Effect((f"a node may register on seat {seat} again, if one is bound to it",))


def policy(now: Membership, text: str) -> Effect:
    return Effect(
        (f"a policy of {len(text.encode())} bytes is in force when the block is final",),
        ("members whose machines it refuses are cut off, unless that would break the quorum",),
    )


def rule(words: str) -> Callable[[Membership, bytes], Effect]:
    def describe(now: Membership, value: bytes) -> Effect:
        return Effect((words.format(f"0x{value.hex()}"),))

    return describe


def boot_rules(now: Membership, any_device: bool, up_to_date: bool, seat: bool) -> Effect:
    needs = [
        "a listed compose hash and OS image",
        *([] if any_device else ["a listed device"]),
        *(["the TCB status UpToDate"] if up_to_date else []),
        *(["an instance with a seat"] if seat else []),
    ]
    return Effect((f"a boot needs {', '.join(needs)}",))


# --- certificates -----------------------------------------------------------------------------


def certificates_policy(now: Membership, policy: tuple[int, ...]) -> Effect:
    deposal, conflict, deposal_s, conflict_s, seats_min = policy

    def shown(suspends: int, for_s: int) -> str:
        if not suspends:
            return "is marked"
        return "is suspended " + ("for good" if for_s == FOR_GOOD_S else f"for {for_s} s")

    warnings: tuple[str, ...] = ()
    if deposal:
        warnings = ("a network that fails deposes honest leaders, too",)
    return Effect(
        (
            f"a deposed leader {shown(deposal, deposal_s)}",
            f"a seat that signed a contradiction {shown(conflict, conflict_s)}",
            f"nobody is suspended if fewer than {seats_min} active seats would be left",
        ),
        warnings,
    )


def penalty(
    now: Membership, what: str, seat: int, suspends: bool, for_s: int, seats_min: int
) -> Effect:
    """What the policy has follow for a seat of which ``what`` was shown."""
    row = now.member(seat)
    if row is None:
        return missing(now, seat)
    total, active = voting(now), now.active()
    left = total - (row.weight if row in active else 0)
    line = f"seat {seat}, weight {row.weight}, {what}"
    if not suspends:
        return Effect((f"{line}: it is marked, and keeps its node", weights(total, total)))
    if 3 * left <= 2 * total or len(active) <= seats_min:
        line += f": too little would be left to suspend it (weight {left}, {len(active) - 1} seats)"
        return Effect((line, weights(total, total)))
    until = "until the owner lifts it" if for_s == FOR_GOOD_S else f"for {for_s} s"
    found = removal(now, [row] if row in active else [])
    return Effect((f"{line}: it is suspended {until}", *found.lines), found.warnings)


def epoch(
    now: Membership, boundary: bytes, body: bytes, headers: bytes, parts: bytes, version: int,
    following: int,
) -> Effect:  # fmt: skip
    number = int.from_bytes(headers[:8], "big")
    members = f"the registry's members of version {version}" if version else "the members of before"
    return Effect((f"epoch {number} is bound to {members}: what they sign in it counts",
                   weights(voting(now), voting(now))))  # fmt: skip


def leader(now: Membership, header: bytes, parts: bytes) -> Effect:
    shown = ShownLeader(header, parts)
    epoch, term = shown.token
    return Effect((f"seat {shown.seat} is on record as leader of term {epoch}.{term}",
                   weights(voting(now), voting(now))))  # fmt: skip


def founding(now: Membership) -> Effect:
    return Effect(("the epoch of the launch, or of the last recovery, can be certified",))


# --- public mint, app contract ----------------------------------------------------------------


def sale(now: Membership, price_wei: int, cap: int, weight: int, is_open: bool) -> Effect:
    if not is_open:
        return Effect(("nobody can buy a seat",))
    total, sold = voting(now), cap * weight
    warnings: tuple[str, ...] = ()
    if 3 * sold >= total + sold:
        warnings = (
            f"whoever buys all {cap} seats holds {sold} of {total + sold}: a third or more, enough"
            " to stop the cluster",
        )
    return Effect(
        (f"anybody can buy a seat of weight {weight} for {ether(price_wei)} ETH, {cap} in all",),
        warnings,
    )


def withdraw(now: Membership, to: bytes) -> Effect:
    return Effect((f"all that the public mint holds goes to 0x{to.hex()}",))


def disable_upgrades(now: Membership) -> Effect:
    return Effect(("the app contract's code stays for ever; there is no way back",))
