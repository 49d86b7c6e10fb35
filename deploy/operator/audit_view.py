"""How an audit is shown: as JSON for scripts, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chain import Membership, MemberStatus
from contracts import artifact
from deploy.calls import FOR_GOOD_S
from deploy.operator.audit import Audit
from deploy.operator.wording import plain, time_text


def seat_row(now: Membership, seat: int) -> dict[str, Any]:
    """One seat, JSON-ready."""
    m = now.member(seat)
    assert m is not None
    active = m.status is MemberStatus.ACTIVE
    return {
        "seat": m.seat,
        "weight": m.weight,
        "status": m.status.name.lower(),
        "speaks": now.speaks(m.seat, m.node_key),
        "owner": plain(m.owner),
        "instance": plain(m.instance_id),
        "node_key": m.node_key.hex(),
        "incarnation": m.incarnation,
        "root_epoch": m.root_epoch,
        "scheme": m.scheme,
        "endpoint": m.endpoint,
        "lease_expires_s": m.lease_expires_s,
        "lease_left_s": max(0, m.lease_expires_s - now.block_time_s) if active else 0,
    }


def as_json(seen: Audit) -> dict[str, Any]:
    """All of it, for scripts."""
    now, d = seen.membership, seen.deployment
    block_number, version, digest, weight = seen.launched
    pending, change = now.pending_recovery, now.last_change
    return {
        "chain_id": d.chain_id,
        "contract": plain(d.contract),
        "code_hash": plain(d.code_hash),
        "code_is_this_release": True,  # or there would be an error
        "compiler": artifact("Registry").compiler,
        "insecure": list(d.insecure),
        "agreed_by": seen.quorum,
        "block": {"number": now.block_number, "hash": plain(now.block_hash),
                  "time_s": now.block_time_s},
        "owner": plain(seen.owner),
        "pending_owner": plain(seen.pending_owner) if any(seen.pending_owner) else None,
        "guardian": plain(seen.guardian),
        "paused": seen.paused,
        "lease_s": seen.lease_s,
        "transfers_allowed": seen.transfers_allowed,
        "max_seats": seen.max_seats,
        "seats_ever": seen.seats_ever,
        "recovery_delay_s": seen.recovery_delay_s,
        "roots": [
            {"epoch": r.epoch, "root": plain(r.signer), "ends_s": r.ends_s,
             "live": now.block_time_s < r.ends_s}
            for r in seen.roots
        ],
        "apps": [{"app": plain(app), "allowed": allowed} for app, allowed in seen.apps],
        "beside": [
            {"name": one.placed.name, "address": plain(one.placed.address),
             "code_hash": plain(one.placed.code_hash),
             "code_is_this_release": one.code_is_this_release, "as_deployed": one.as_deployed}
            for one in seen.beside
        ],
        "minter": {"address": plain(seen.minter[0]), "weight_max": seen.minter[1]}
        if any(seen.minter[0]) else None,
        "boot": None if seen.boot is None else {
            "compose_hashes": plain(seen.boot.compose_hashes),
            "devices": plain(seen.boot.devices),
            "os_images": plain(seen.boot.os_images),
            "require_device": not seen.boot.any_device,
            "require_up_to_date": seen.boot.up_to_date,
            "require_seat": seen.boot.seat,
            "app_contract": plain(seen.boot.app_contract)
            if any(seen.boot.app_contract) else None,
        },
        "app": None if seen.app is None else {
            "owner": plain(seen.app.owner),
            "pending_owner": plain(seen.app.pending_owner) if any(seen.app.pending_owner) else None,
            "registry": plain(seen.app.registry),
            "is_locked": seen.app.is_locked,
        },
        "policy": None if seen.policy is None else {
            "version": seen.policy.version, "hash": plain(seen.policy.digest),
        },
        "certificates": None if seen.certified is None else {
            "deposal_suspends": seen.certified.deposal_suspends,
            "deposal_s": seen.certified.deposal_s,
            "conflict_suspends": seen.certified.conflict_suspends,
            "conflict_s": seen.certified.conflict_s,
            "seats_min": seen.certified.seats_min,
            "leader": None if seen.certified.leader == 0 else {
                "epoch": seen.certified.epoch, "term": seen.certified.term,
                "seat": seen.certified.leader,
            },
        },
        "version": now.version,
        "digest": plain(now.digest),
        "launched": None if block_number == 0 else {
            "block": block_number, "version": version, "digest": plain(digest), "weight": weight,
        },
        "last_change": None if change is None else {
            "block": change.block_number, "version": change.version,
            "digest": plain(change.digest),
        },
        "recoveries": now.recoveries,
        "recovery_pending": None if pending is None else {
            "epoch": pending.epoch, "height": pending.height,
            "block_hash": plain(pending.block_hash), "ready_at_s": pending.ready_at_s,
        },
        "weight_active": sum(m.weight for m in now.active()),
        "weight_granted": sum(m.weight for m in now.members),
        "seats": [seat_row(now, m.seat) for m in now.members],
    }  # fmt: skip


def as_lines(seen: Audit) -> list[str]:
    """All of it, for people."""
    now, d = seen.membership, seen.deployment
    block_number, version, digest, weight = seen.launched
    lines = [
        _line("registry", f"0x{d.contract.hex()} on chain {d.chain_id}, agreed by {seen.quorum}"),
        _line("code", f"0x{d.code_hash.hex()}: this release's registry"),
        _line("block", f"{now.block_number} (final), {time_text(now.block_time_s)}"),
        _line("owner", f"0x{seen.owner.hex()}"),
    ]
    if any(seen.pending_owner):
        lines.append(_line("", f"offered to 0x{seen.pending_owner.hex()}, not accepted"))
    lines += [
        _line("guardian", f"0x{seen.guardian.hex()}"),
        _line("state", f"{'PAUSED' if seen.paused else 'not paused'}; transfers"
              f" {'allowed' if seen.transfers_allowed else 'not allowed'};"
              f" lease {seen.lease_s} s; recovery delay {seen.recovery_delay_s} s"),
    ]  # fmt: skip
    if d.insecure:
        lines.append(_line("INSECURE", ", ".join(d.insecure)))
    for index, root in enumerate(seen.roots):
        text = f"{root.epoch}  0x{root.signer.hex()}  {root.state(now.block_time_s)}"
        lines.append(_line("" if index else "kms roots", text))
    for index, (app, allowed) in enumerate(seen.apps or ((bytes(20), False),)):
        text = f"0x{app.hex()}{'' if allowed else '  not allowed any more'}"
        lines.append(_line("" if index else "apps", text if seen.apps else "none"))
    lines += _beside(seen)
    launched = "not yet" if block_number == 0 else (
        f"in block {block_number}, version {version}, weight {weight}, digest 0x{digest.hex()}"
    )  # fmt: skip
    lines.append(_line("launched", launched))
    change = now.last_change
    lines += [
        _line("version", f"{now.version}, digest 0x{now.digest.hex()}"),
        _line("changed", "never" if change is None else
              f"who votes, last in block {change.block_number}, version {change.version},"
              f" digest 0x{change.digest.hex()}"),
    ]  # fmt: skip
    pending = now.pending_recovery
    if pending is not None:
        text = (
            f"ANNOUNCED: epoch {pending.epoch} at height {pending.height},"
            f" block 0x{pending.block_hash.hex()}, opens from {time_text(pending.ready_at_s)}"
        )
        lines.append(_line("recovery", text))
    if now.recoveries:
        lines.append(_line("recoveries", str(now.recoveries)))
    return [*lines, *_seat_table(now, seen)]


def _beside(seen: Audit) -> list[str]:
    """The contracts beside the registry."""
    lines = [
        _line(one.placed.name.lower(), f"0x{one.placed.address.hex()}: {one.state()}")
        for one in seen.beside
    ]
    minter, weight_max = seen.minter
    if any(minter):
        lines.append(_line("minter", f"0x{minter.hex()}, seats of weight up to {weight_max}"))
    boot, policy = seen.boot, seen.policy
    if boot is not None:
        needs = [
            *([] if boot.any_device else ["a listed device"]),
            *(["TCB status UpToDate"] if boot.up_to_date else []),
            *(["a seat"] if boot.seat else []),
        ]
        lines.append(
            _line("boot", f"{len(boot.compose_hashes)} compose hashes, {len(boot.os_images)} OS"
                  f" images, {len(boot.devices)} devices; needs {', '.join(needs) or 'no more'}")
        )  # fmt: skip
        for value in boot.compose_hashes:
            lines.append(_line("", f"compose hash 0x{value.hex()}"))
        if any(boot.app_contract):
            lines.append(_line("", f"app contract 0x{boot.app_contract.hex()}"))
            lines.append(_line("", _app(seen)))
    text = "none" if policy is None else (
        f"version {policy.version}, hash 0x{policy.digest.hex()}"
    )  # fmt: skip
    lines.append(_line("policy", text))
    shown = seen.certified
    if shown is not None:
        deposed = _follows(shown.deposal_suspends, shown.deposal_s)
        liar = _follows(shown.conflict_suspends, shown.conflict_s)
        text = f"a deposed leader is {deposed}, a liar {liar}, if {shown.seats_min} seats are left"
        lines.append(_line("penalties", text))
        led = f"seat {shown.leader} in term {shown.term} of epoch {shown.epoch}"
        lines.append(_line("leader", led if shown.leader else "none was shown to the chain"))
    return lines


def _follows(suspends: bool, for_s: int) -> str:
    if not suspends:
        return "marked"
    return "suspended " + ("for good" if for_s == FOR_GOOD_S else f"for {for_s} s")


def _seat_table(now: Membership, seen: Audit) -> Sequence[str]:
    active = sum(m.weight for m in now.active())
    granted = sum(m.weight for m in now.members)
    lines = [
        _line("seats", f"{len(now.members)} of at most {seen.max_seats}; weight {active} active,"
              f" {granted} granted"),
        f"{'seat':>6} {'weight':>8} {'status':<9} {'root':>4} {'lease':>7}  owner, endpoint",
    ]  # fmt: skip
    for m in now.members:
        row = seat_row(now, m.seat)
        mute = "" if row["speaks"] or m.status is not MemberStatus.ACTIVE else " (may not speak)"
        lines.append(
            f"{m.seat:>6} {m.weight:>8} {row['status']:<9} {m.root_epoch:>4}"
            f" {row['lease_left_s'] // 3600:>6}h  {row['owner']} {m.endpoint}{mute}"
        )
    return lines


def _line(name: str, text: str) -> str:
    return f"{name:<13}{text}"


def _app(seen: Audit) -> str:
    if seen.app is None:
        return "which is not this release's"
    app = seen.app
    under = (
        "this registry" if app.registry == seen.deployment.contract
        else f"ANOTHER REGISTRY, 0x{app.registry.hex()}"
    )  # fmt: skip
    offered = f", offered to 0x{app.pending_owner.hex()}" if any(app.pending_owner) else ""
    code = "locked" if app.is_locked else "not locked"
    return f"of 0x{app.owner.hex()}{offered}, under {under}, its code {code}"
