"""Section 3 of docs/protocol.md, checked by an SMT solver for any number of members and views.

Each lemma is a claim about all votes that are ever signed. What a correct member owes is an axiom,
named by its rule; a lemma is proved when the solver finds no world in which the axioms hold and the
lemma does not. Lemma 4 is an induction over views: its step assumes the lemma for all earlier ones.
Without any one of the axioms that a lemma uses the solver must not find a proof: so each is needed.

``python model/proof.py`` (needs z3-solver: ``uv run --group model``).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

from z3 import (
    And,
    BoolRef,
    BoolSort,
    Const,
    Consts,
    DeclareSort,
    Exists,
    ForAll,
    Function,
    Implies,
    Ints,
    IntSort,
    Not,
    Or,
    Solver,
    unsat,
)

TIMEOUT_MS = 5_000

Node, Block, Quorum = DeclareSort("Node"), DeclareSort("Block"), DeclareSort("Quorum")
correct = Function("correct", Node, BoolSort())
member = Function("member", Node, Quorum, BoolSort())

term = Function("term", Block, IntSort())  # the view of a block
index = Function("index", Block, IntSort())
parent = Function("parent", Block, Block)
above = Function("above", Block, Block, BoolSort())  # above(b, a): a is b or an ancestor of b

notarize = Function("notarize", Node, Block, BoolSort())
finalize = Function("finalize", Node, Block, BoolSort())
nullify = Function("nullify", Node, IntSort(), IntSort(), BoolSort())
earlier = Function("earlier", Node, IntSort(), IntSort(), Block, BoolSort())
# earlier(n, t, u, b): n complained about (t, u) before it voted to finalize b

notarized = Function("notarized", Block, BoolSort())
final = Function("final", Block, BoolSort())
nullified = Function("nullified", IntSort(), IntSort(), BoolSort())
notarizers = Function("notarizers", Block, Quorum)
finalizers = Function("finalizers", Block, Quorum)
nullifiers = Function("nullifiers", IntSort(), IntSort(), Quorum)
boundary = Function("boundary", Block, BoolSort())  # it carries the record of the next epoch
cover = Function("cover", Block, IntSort(), IntSort())  # index of the nullification that it shows

n = Const("n", Node)
a, b, c = Consts("a b c", Block)
p, q = Consts("p q", Quorum)
s, t, u = Ints("s t u")


def before(x: object, y: object) -> BoolRef:
    """The view of block x is before that of block y."""
    return Or(term(x) < term(y), And(term(x) == term(y), index(x) < index(y)))


def same_view(x: object, y: object) -> BoolRef:
    return And(term(x) == term(y), index(x) == index(y))


AXIOMS: dict[str, BoolRef] = {
    # Section 1: two quorums share a correct member (the arithmetic is lemma 1).
    "quorums meet": ForAll([p, q], Exists(n, And(correct(n), member(n, p), member(n, q)))),
    # A certificate is the votes of a quorum.
    "notarization": ForAll(
        [b, n], Implies(And(notarized(b), member(n, notarizers(b))), notarize(n, b))
    ),
    "finalization": ForAll(
        [b, n], Implies(And(final(b), member(n, finalizers(b))), finalize(n, b))
    ),
    "nullification": ForAll(
        [t, u, n], Implies(And(nullified(t, u), member(n, nullifiers(t, u))), nullify(n, t, u))
    ),
    # R2: one notarize vote in a view. R3: only what is notarized is finalized.
    "R2 one vote": ForAll(
        [n, a, b],
        Implies(And(correct(n), notarize(n, a), notarize(n, b), same_view(a, b)), a == b),
    ),
    "R3 notarized": ForAll([n, b], Implies(And(correct(n), finalize(n, b)), notarized(b))),
    # R4: after a complaint no finalize vote for that view or a later one of the term.
    "R4 gate": ForAll(
        [n, t, u, b],
        Implies(
            And(correct(n), nullify(n, t, u), finalize(n, b), term(b) == t, index(b) >= u),
            Not(earlier(n, t, u, b)),
        ),
    ),
    # Votes only move forward: after the finalize vote of a view no complaint about it or before.
    "votes move forward": ForAll(
        [n, t, u, b],
        Implies(
            And(correct(n), nullify(n, t, u), finalize(n, b), term(b) == t, index(b) >= u),
            earlier(n, t, u, b),
        ),
    ),
    # R1, checked by whoever notarizes.
    "R1 notarized parent": ForAll(
        [n, b], Implies(And(correct(n), notarize(n, b)), notarized(parent(b)))
    ),
    "R1 view before": ForAll(
        [n, b],
        Implies(
            And(correct(n), notarize(n, b), index(b) > 0),
            And(term(parent(b)) == term(b), index(parent(b)) == index(b) - 1),
        ),
    ),
    "R1 earlier term": ForAll(
        [n, b],
        Implies(And(correct(n), notarize(n, b), index(b) == 0), term(parent(b)) < term(b)),
    ),
    "R1 cover": ForAll(
        [n, b, s],
        Implies(
            And(correct(n), notarize(n, b), index(b) == 0, term(parent(b)) <= s, s < term(b)),
            And(
                nullified(s, cover(b, s)),
                cover(b, s) >= 0,
                Implies(s == term(parent(b)), cover(b, s) <= index(parent(b)) + 1),
                Implies(s > term(parent(b)), cover(b, s) == 0),
            ),
        ),
    ),
    "ancestors": And(
        ForAll([b], above(b, b)),
        ForAll([a, b], Implies(above(parent(b), a), above(b, a))),
    ),
    "one chain below a block": ForAll(
        [a, b, c], Implies(And(above(c, a), above(c, b)), Or(above(a, b), above(b, a)))
    ),
    "ancestors of ancestors": ForAll(
        [a, b, c], Implies(And(above(c, b), above(b, a)), above(c, a))
    ),
    "views": ForAll([b], And(term(b) >= 0, index(b) >= 0)),
}

one_block = ForAll([a, b], Implies(And(notarized(a), notarized(b), same_view(a, b)), a == b))
not_both = ForAll(
    [b, t, u],
    Not(And(final(b), nullified(t, u), term(b) == t, u <= index(b))),
)
final_is_notarized = ForAll([b], Implies(final(b), notarized(b)))


def extends(x: object) -> BoolRef:
    """What is notarized in the view of x extends every final block before it."""
    return ForAll([a], Implies(And(final(a), notarized(x), before(a, x)), above(x, a)))


TARGET = Const("target", Block)
induction = ForAll([c], Implies(before(c, TARGET), extends(c)))
agreement = ForAll([a, b], Implies(And(final(a), final(b)), Or(above(a, b), above(b, a))))


def opens(x: object, y: object) -> BoolRef:
    """R11: x is the first boundary block in the chain of the final block y."""
    first = ForAll([c], Implies(And(above(x, c), boundary(c)), c == x))
    return And(final(y), above(y, x), boundary(x), first)


d = Const("d", Block)
one_genesis = ForAll([a, b, c, d], Implies(And(opens(a, c), opens(b, d)), a == b))


@dataclass(frozen=True)
class Lemma:
    """A claim, the axioms that it needs, and the lemmas that it may use."""

    name: str
    claim: BoolRef
    needs: tuple[str, ...]
    uses: tuple[BoolRef, ...] = ()


LEMMAS = (
    Lemma("3.2 one block per view", one_block, ("quorums meet", "notarization", "R2 one vote")),
    Lemma(
        "3.2 what is final is notarized",
        final_is_notarized,
        ("quorums meet", "finalization", "R3 notarized"),
    ),
    Lemma(
        "3.3 no view is final and nullified at or below it",
        not_both,
        ("quorums meet", "finalization", "nullification", "R4 gate", "votes move forward"),
    ),
    Lemma(
        "3.4 later blocks extend a final one (step of the induction)",
        extends(TARGET),
        (
            "quorums meet",
            "notarization",
            "R1 notarized parent",
            "R1 view before",
            "R1 earlier term",
            "R1 cover",
            "ancestors",
        ),
        (one_block, final_is_notarized, not_both, induction, AXIOMS["views"]),
    ),
    Lemma(
        "3.5 agreement",
        agreement,
        ("ancestors",),
        (one_block, final_is_notarized, ForAll([c], extends(c))),
    ),
    Lemma(
        "R11 the next epoch stands on one block",
        one_genesis,
        ("one chain below a block", "ancestors of ancestors"),
        (agreement,),
    ),
)


def arithmetic() -> BoolRef:
    """3.1: weights above 2W/3 that share only faulty members, of less than W/3: impossible."""
    total, first, second, shared, faulty = Ints("total first second shared faulty")
    return And(
        total > 0,
        3 * first > 2 * total,
        3 * second > 2 * total,
        first + second - shared <= total,
        shared <= faulty,
        3 * faulty < total,
    )


def proves(claim: BoolRef, assumed: list[BoolRef]) -> bool:
    solver = Solver()
    solver.set("timeout", TIMEOUT_MS)
    solver.add(*assumed, Not(claim))
    return bool(solver.check() == unsat)


def main() -> int:
    solver = Solver()
    solver.add(arithmetic())
    done = solver.check() == unsat
    failed = not done
    print(f"{'proved' if done else 'NOT PROVED'}  3.1 two quorums share a correct member")
    for lemma in LEMMAS:
        done = proves(lemma.claim, [*lemma.uses, *(AXIOMS[name] for name in lemma.needs)])
        failed |= not done
        print(f"{'proved' if done else 'NOT PROVED'}  {lemma.name}")
        for left_out in lemma.needs:
            rest = [AXIOMS[name] for name in lemma.needs if name != left_out]
            if proves(lemma.claim, [*lemma.uses, *rest]):
                failed = True
                print(f"NOT NEEDED  {left_out}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
