"""Is a proposal valid (R2)? Pure judgement, no effects.

The proposal's certificates were already checked, and the parent's taken into the ledger; what is
asked here is whether they show what R1 demands and whether the block fits its parent.
"""

from __future__ import annotations

from enum import Enum

from . import limits
from .ledger import Ledger, covered_from, is_parent_proof
from .machine import Machine
from .types import GENESIS, Block, Certificate, Proposal, View, VoteKind

# The state hash in a header is this many blocks behind the leader's, so that voters, whose last
# finalization may still be on its way, can check it without waiting.
STATE_LAG = 2


class Verdict(Enum):
    """Valid, or not to be judged before something that is on its way arrives."""

    VALID = "valid"
    WAIT = "wait"


def parent_view(proposal: Proposal) -> View:
    """The view that a proposal extends."""
    return GENESIS if proposal.parent is None else proposal.parent.view


def unfinalized(view: View, final: View) -> int:
    """How many views of its own term below ``view`` are not final yet.

    What earlier terms left behind does not count: a new leader must always be able to extend it,
    else a term that notarized much and finalized nothing would stop the cluster for ever.
    """
    return view.index - (final.index + 1 if final.term == view.term else 0)


def shows_terms_before(block: Block) -> bool:
    """True when its nullifications may be those of R1: at a term's start, of the terms before it.

    A genuine certificate of another kind covers nothing. Asked before signatures are checked, too,
    which costs much more.
    """
    view, shown = block.header.view, block.nullifications
    terms = range(view.term - len(shown), view.term)
    return not (shown and view.index) and all(
        (c.kind, c.epoch, c.view.term) == (VoteKind.NULLIFY, block.header.epoch, term)
        for c, term in zip(shown, terms, strict=True)
    )


def _covers(
    nullifications: tuple[Certificate, ...], parent: View, term: int, ledger: Ledger
) -> Verdict | None:
    """Do they cover the views between ``parent`` and ``(term, 0)`` (R1)? None when they do not.

    A block carries the nullifications of the last terms only; older ones must be known to the
    voter itself, and are on their way to it otherwise (R7).
    """
    terms = range(max(parent.term, 1), term)
    carried = terms[-limits.NULLIFICATIONS_PER_BLOCK_MAX :]
    if [c.view.term for c in nullifications] != list(carried):
        return None
    if any(c.view.index > covered_from(parent, c.view.term) for c in nullifications):
        return None
    known = ledger.covering(parent, carried[0] if carried else term)
    return Verdict.WAIT if known is None else Verdict.VALID


def state_height(above: int, machine: Machine, every: int) -> int:
    """The state that a header commits to when its parent commits to that of height ``above``.

    The newest that voters can check at once, but never past a checkpoint (a multiple of
    ``every``): so the state hash of each is in a certified header, and proves a snapshot. One
    that we forgot is passed over: nobody as far as we are could check it any more, and a liar
    that kept ``above`` old for long must not stop the chain.
    """
    newest = max(above, machine.height - STATE_LAG)
    checkpoint = next_checkpoint(above, every)
    return checkpoint if newest > checkpoint and machine.hash_at(checkpoint) else newest


def next_checkpoint(height: int, every: int) -> int:
    """The first checkpoint above a height."""
    return (height // every + 1) * every


def judge(
    proposal: Proposal, leader: int, ledger: Ledger, machine: Machine, now_ms: int, every: int
) -> Verdict | str:
    """``VALID``, ``WAIT``, or what is wrong with a proposal of ``leader`` for the current view.

    ``now_ms`` is the voter's clock; ``every`` is the distance of checkpoints in heights.
    """
    block, proof = proposal.block, proposal.parent
    header = block.header
    view, parent = header.view, parent_view(proposal)
    # R1: what it stands on.
    if header.proposer != leader:
        return f"it names seat {header.proposer} as its proposer"
    if proof is not None and not is_parent_proof(proof):
        return "the parent's certificate is a nullification"
    if view.index > 0:
        if parent != View(view.term, view.index - 1):
            return f"its parent is in {parent}, not in the view before"
        if block.nullifications:
            return "nullifications inside a term"
    else:
        covered = None
        if parent.term < view.term and shows_terms_before(block):
            covered = _covers(block.nullifications, parent, view.term, ledger)
        if covered is None:
            return f"the views between {parent} and {view} are not covered by nullifications"
        if covered is Verdict.WAIT:
            return Verdict.WAIT
    if parent < ledger.tip.view:
        return f"its parent in {parent} is below the final {ledger.tip.view}"
    if ledger.notarized_block(parent) != header.parent:
        return f"its parent is not the block that is notarized in {parent}"

    # R2: whether it fits that.
    below = ledger.block_or_tip(header.parent)
    if below is None:
        return Verdict.WAIT
    height, time_ms, known = below.height, below.time_ms, below.state_height
    if header.height != height + 1:
        return f"height {header.height} on a parent of height {height}"
    if not max(time_ms, now_ms - limits.CLOCK_BEHIND_MS_MAX) <= header.time_ms:
        return f"time {header.time_ms}, the parent's is {time_ms} and ours {now_ms}"
    if header.time_ms > max(time_ms, now_ms + limits.CLOCK_AHEAD_MS_MAX):
        return Verdict.WAIT  # the parent's own time is always good: clocks put back stop nobody
    if not known <= header.state_height < header.height:
        return f"state height {header.state_height}, the parent's is {known}"
    if unfinalized(view, ledger.tip.view) > limits.UNFINALIZED_BLOCKS_MAX:
        return Verdict.WAIT
    if header.state_height > machine.height:
        return Verdict.WAIT
    checkpoint = next_checkpoint(known, every)
    if header.state_height > checkpoint and machine.hash_at(checkpoint) is not None:
        return f"state height {header.state_height} passes over the checkpoint {checkpoint}"
    # None when it is too old to be known: a hash that nobody checks must not be agreed on.
    if machine.hash_at(header.state_height) != header.state_hash:
        return f"a state hash at height {header.state_height} that is not ours"
    return Verdict.VALID
