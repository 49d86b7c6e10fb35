"""Epochs, as pure functions: which set comes next, when it is due, and what proves a change.

Theory of operation
-------------------
An epoch ends with a **boundary block**: it carries the record of the next epoch (`NextEpoch`) and
no commands, and nothing but blocks with the same record may follow it in its epoch (R11). The
first boundary block of the finalized chain is the genesis of the next epoch; what was built on it
only helped to finalize it and is dropped. As the finalized chain is one, so is its first boundary
block, whichever of these blocks a member saw finalized.

The registry decides who belongs, but one epoch changes only so much weight (R18): those who stay
must be a quorum of the old set, else a boundary could wait for members that left; and newcomers
must be too few to complain or to block alone. The rest follows in the epochs after.

A recovery (R21) cannot know how far the lost members got. So that no vote, number of a boot or
fencing token of theirs is ever mistaken for one of the recovered cluster, its epoch begins an
**era**: a range of numbers that those before it can never have reached.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from .certificates import verify_certificate
from .digests import linked_hash
from .limits import EPOCHS_PER_ERA, ERAS_MAX, MEMBERS_MAX
from .order import epoch_seed
from .signatures import Verifier
from .types import (
    ZERO_HASH,
    Boundary,
    ChainView,
    NextEpoch,
    Opening,
    Recovery,
    VoteKind,
)
from .validators import Validator, ValidatorSet

CHAIN_VIEWS_MAX = 64

Members = dict[int, Validator]  # by seat


@dataclass(frozen=True, slots=True)
class Origin:
    """The registry's block that an epoch's set was taken from; zero where no record names one."""

    chain_block: int = 0
    chain_hash: bytes = ZERO_HASH
    digest: bytes = ZERO_HASH


# --- what an opening says ---


def opened_set(opening: Opening) -> ValidatorSet:
    """The validator set of the epoch that a boundary or a recovery opens."""
    if isinstance(opening, Recovery):
        seed = epoch_seed(opening.seed, opening.epoch)
        return ValidatorSet(opening.epoch, opening.validators, seed)
    record = record_of(opening)
    return ValidatorSet(record.epoch, record.validators, epoch_seed(record.seed, record.epoch))


def origin_of(opening: Opening | None) -> Origin:
    """Where that set was taken from; of a recovery no record says it."""
    if not isinstance(opening, Boundary):
        return Origin()
    record = record_of(opening)
    return Origin(record.chain_block, record.chain_hash, record.digest)


def record_of(boundary: Boundary) -> NextEpoch:
    """The record of a boundary block."""
    assert boundary.block.next_epoch is not None
    return boundary.block.next_epoch


def opening_height(opening: Opening) -> int:
    """The height of the block that the opened epoch stands on."""
    if isinstance(opening, Recovery):
        return opening.height
    return opening.block.header.height


def opened_hash(opening: Opening) -> bytes:
    """The hash of that block; a boundary may name a later one that carries the record (R11)."""
    return opening.block_hash if isinstance(opening, Recovery) else opening.block.hash


def era_of(epoch: int) -> int:
    """Which of the ranges of numbers that recoveries begin an epoch is in; 0 before the first."""
    return epoch // EPOCHS_PER_ERA


def is_recovered(epoch: int) -> bool:
    """True for a number that a recovery may open (R21): E * 10^8 + F with F < E <= 64."""
    return epoch % EPOCHS_PER_ERA < era_of(epoch) <= ERAS_MAX


def left_era(recovery: Recovery) -> int:
    """The era of the block that it stands on: F of its number."""
    return recovery.epoch % EPOCHS_PER_ERA


def recovery_epoch(epoch: int, newest: int = 0) -> int:
    """The number of a recovery on a block of ``epoch``; ``newest`` is that of the last recovery."""
    era = era_of(max(epoch, newest)) + 1
    return era * EPOCHS_PER_ERA + era_of(epoch)


def ends_era(epoch: int) -> bool:
    """True for the last number of an era: no boundary leads into the next one (R21)."""
    return era_of(epoch) != era_of(epoch + 1)


def counted(recoveries: Iterable[Recovery]) -> list[Recovery]:
    """Those that begin an era (R21), oldest first: of each the first, on a block of an era that is.

    The registry asks for rising numbers only. Were a second one in an era to count, whose number
    names another history to go on from, there would be two of them with the same epochs.
    """
    found: dict[int, Recovery] = {}
    for recovery in sorted(recoveries, key=lambda r: r.epoch):
        if is_recovered(recovery.epoch) and left_era(recovery) in {0, *found}:
            found.setdefault(era_of(recovery.epoch), recovery)
    return list(found.values())


def way_to_newest(recoveries: Iterable[Recovery]) -> list[Recovery]:
    """The newest and those that lead to it, oldest first; it replaces all others (R21).

    Its number says which era it goes on from, the one that began that era in turn, and so on.
    """
    by_era = {era_of(r.epoch): r for r in counted(recoveries)}
    way: list[Recovery] = []
    at = by_era.get(max(by_era, default=0))
    while at is not None:
        way.append(at)
        at = by_era.get(left_era(at))
    return way[::-1]


def ends_epoch(
    boundary: Boundary, validators: ValidatorSet, cluster_id: bytes, verifier: Verifier
) -> bool:
    """True when the boundary block is final in the epoch of ``validators``.

    Whether an earlier boundary block is final below it, as in a proof of somebody who dropped
    none, does not matter: it carries the same record (R11), but the caller that knows the chain
    takes the first.
    """
    block, final = boundary.block, boundary.finalization
    if block.next_epoch is None or block.next_epoch.epoch != validators.epoch + 1:
        return False
    if ends_era(validators.epoch):
        return False
    if block.header.epoch != validators.epoch or final.kind is not VoteKind.FINALIZE:
        return False
    last = linked_hash(cluster_id, block.hash, block.header.height, boundary.links)
    return last == final.block and verify_certificate(final, validators, cluster_id, verifier)


# --- how far one epoch goes (R18) ---


def next_set(
    current: tuple[Validator, ...], target: tuple[Validator, ...]
) -> tuple[Validator, ...]:
    """The next step from one set towards another; ``current`` when nothing is left (or possible).

    Seats change whole, in canonical order: those that leave, those that change weight or key,
    those that join, each by seat. Taken is what keeps ``within_limits``; one change always is,
    or a small cluster could never change.
    """
    old = {v.seat: v for v in current}
    new = {v.seat: v for v in target}
    leaves = [seat for seat in sorted(old) if seat not in new]
    changes = [seat for seat in sorted(old) if seat in new and old[seat] != new[seat]]
    joins = [seat for seat in sorted(new) if seat not in old]
    step, alone = old, old
    for seat in (*leaves, *changes, *joins):
        tried = {k: v for k, v in step.items() if k != seat}
        if seat in new:
            tried[seat] = new[seat]
        if not _is_possible(tried):
            continue
        if within_limits(old, tried):
            step = tried
        elif alone is old and step is old:
            alone = tried
    taken = alone if step is old else step
    return tuple(taken[seat] for seat in sorted(taken))


def within_limits(old: Members, new: Members) -> bool:
    """True when those who stay as they are carry the old set, and newcomers cannot stop the new.

    In integers: three times the weight that leaves, shrinks or changes its key is less than the
    old total; three times the weight that joins, grows or changes its key less than the new one.
    """
    removed = added = 0
    for seat in {**old, **new}:
        before, after = old.get(seat), new.get(seat)
        weight_before = before.weight if before else 0
        weight_after = after.weight if after else 0
        if before and after and before.node_key == after.node_key:
            removed += max(0, weight_before - weight_after)
            added += max(0, weight_after - weight_before)
        else:
            removed += weight_before
            added += weight_after
    return 3 * removed < _weight(old) and 3 * added < _weight(new)


def _weight(members: Members) -> int:
    return sum(v.weight for v in members.values())


def _is_possible(members: Members) -> bool:
    keys = {v.node_key for v in members.values()}
    return 1 <= len(members) <= MEMBERS_MAX and len(keys) == len(members)


# --- what is due (R15) ---


def due(current: ValidatorSet, origin: Origin, view: ChainView) -> NextEpoch | None:
    """The record that leads from an epoch towards a view of the registry; None when none does.

    A view older than the one that the epoch comes from leads nowhere.
    """
    if view.block_number < origin.chain_block or ends_era(current.epoch):
        return None
    step = next_set(current.validators, view.validators)
    if step == current.validators:
        return None
    return NextEpoch(
        current.epoch + 1, view.block_number, view.block_hash, view.digest, view.seed, step
    )


def order_only(current: ValidatorSet, origin: Origin) -> NextEpoch:
    """The record of an epoch with the same members in a new order (R15)."""
    return NextEpoch(
        current.epoch + 1,
        origin.chain_block,
        origin.chain_hash,
        origin.digest,
        current.seed,
        current.validators,
    )


class ChainViews:
    """Our own finalized views of the registry, the newest ones."""

    def __init__(self) -> None:
        self._views: OrderedDict[int, ChainView] = OrderedDict()
        self._oldest = 0

    def add(self, view: ChainView) -> bool:
        """Takes a view; False when we have one of that block, or enough newer ones."""
        if view.block_number in self._views or view.block_number < self._oldest:
            return False
        self._views[view.block_number] = view
        while len(self._views) > CHAIN_VIEWS_MAX:
            del self._views[min(self._views)]
        return view.block_number in self._views

    def begin_at(self, block_number: int) -> None:
        """Takes no view from before that block any more, in which a recovery was opened.

        Else a leader could show the way back to those that were lost, one step after the other.
        """
        self._oldest = max(self._oldest, block_number)
        for number in [n for n in self._views if n < self._oldest]:
            del self._views[number]

    @property
    def newest(self) -> ChainView | None:
        """The view of the highest block."""
        return self._views[max(self._views)] if self._views else None

    def at(self, block_number: int) -> ChainView | None:
        """Our view at a block."""
        return self._views.get(block_number)
